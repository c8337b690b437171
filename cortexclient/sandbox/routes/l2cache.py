"""The level-2 cache service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.sandbox.routes.calls import Call, anything_else, index_routes, jsonify, route, text
from cortexclient.sandbox.stores.l2cache import ATTRIBUTES

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.stores.graph.state import Ids
    from cortexclient.sandbox.world import World

_UINT64 = "added_edges areas children fake_edges former_parents indefinite_lock lock n_layers new_parents operation_id"
_UINT64 += (
    " parents redo_operation_id removed_edges roots sink_ids source_ids undo_operation_id compacted_areas"
)
_UINT64 += " compacted_split_edges former_ids l2_chunk_lock_scope new_ids split_edges"
_INT64 = "bb_offset counter sink_coords source_coords"
_FLOAT32 = "affinities compacted_affinities"
_TEXT = "operation_exception operation_status operation_ts stale_ts user version"
_EDGE_LAYERS = 20


def _registered() -> dict[str, str]:
    """Every column that the service's storage library knows, not only those of the cache: it answers them all."""
    names = dict.fromkeys(_UINT64.split(), "uint64") | dict.fromkeys(_INT64.split(), "int64")
    names |= dict.fromkeys(_FLOAT32.split(), "float32") | ATTRIBUTES
    for layer in range(_EDGE_LAYERS):
        names |= {f"atomic_cross_edges_{layer}": "uint64", f"cross_edges_{layer}": "uint64"}
    types = {name: f"<class 'numpy.{dtype}'>" for name, dtype in names.items()}
    return types | dict.fromkeys(_TEXT.split(), "<class 'str'>")


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

    def index(_: Call) -> Response:
        return text("PCGL2Cache v1.3.1")

    return [
        *index_routes(world, "/l2cache", index),
        *index_routes(world, prefix, index),
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
