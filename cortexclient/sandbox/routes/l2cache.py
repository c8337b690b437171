"""The level-2 cache service."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.responses import Response
from starlette.routing import BaseRoute

from cortexclient.sandbox.arrays import Ids
from cortexclient.sandbox.routes.calls import Call, anything_else, index_routes, jsonify, route
from cortexclient.sandbox.stores.l2cache import ATTRIBUTES
from cortexclient.sandbox.world import World

# every column that the service's storage library knows by type, not only those of the cache: it answers them all
_COLUMNS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def _registered() -> dict[str, str]:
    types = {name: kind for kind, names in _COLUMNS.items() for name in names} | ATTRIBUTES
    return {name: f"<class '{'' if kind == 'str' else 'numpy.'}{kind}'>" for name, kind in types.items()}


def routes(world: World) -> list[BaseRoute]:
    """Routes of the level-2 cache."""
    prefix = "/l2cache/api/v1"
    registered = _registered()

    def table_mapping(_: Call) -> Response:
        if not world.l2cache.available:
            return jsonify({}, media_type="text/html")
        table = world.names.pcg_table
        entry = {"cv_path": world.segmentation_source, "l2cache_id": f"l2cache_{table}_v1"}
        return jsonify({table: entry}, media_type="text/html")

    def attribute_metadata(_: Call) -> Response:
        return jsonify(registered, media_type="text/html")

    def attributes(call: Call) -> Response:
        l2_ids = call.ids("l2_ids")
        names = call.arg("attribute_names")
        wanted = None if names is None else [name.strip() for name in names.split(",")]
        for name in wanted or ():
            if name not in registered:
                raise KeyError(name)
        table = call["name"]
        known = world.l2cache.available and table == world.names.pcg_table
        assert known, f"Dataset {table} does not have an L2 Cache."
        _check_layer(world, l2_ids)
        found = world.l2cache.get(l2_ids, wanted)
        return jsonify({str(i): values for i, values in found.items()}, call, media_type="text/html")

    return [
        *index_routes(world, "/l2cache", "PCGL2Cache v1.3.1"),
        *index_routes(world, prefix, "PCGL2Cache v1.3.1"),
        route(world, f"{prefix}/table_mapping", table_mapping),
        route(world, f"{prefix}/attribute_metadata", attribute_metadata),
        route(world, f"{prefix}/table/{{name}}/attributes", attributes, ("POST",)),
        anything_else("l2cache"),
    ]


def _check_layer(world: World, ids: Ids) -> None:
    """Fail as the service does where it works out chunks: it takes all ids to be of the lowest one's layer."""
    if len(ids) and world.graph.available:
        layer = int(world.graph.layout.layers(ids.min()))
        if not 1 <= layer <= world.graph.n_layers:
            raise KeyError(str(layer))
