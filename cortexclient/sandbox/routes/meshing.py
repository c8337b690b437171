"""The meshing service: which mesh fragments an object is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.responses import Response
from starlette.routing import BaseRoute

from cortexclient.sandbox.routes.calls import Call, anything_else, binary, index_routes, jsonify, route
from cortexclient.sandbox.routes.chunkedgraph import PCG_VERSION
from cortexclient.sandbox.world import World

_PREFIX, _OLD_PREFIX = "/meshing/api/v1", "/meshing/1.0"
_INDEX = f"PyChunkedGraph Meshing v{PCG_VERSION}"
_TRUE = ("True", "true", "1")


def routes(world: World) -> list[BaseRoute]:
    """Routes of the meshing service."""

    def manifest(call: Call) -> Response:
        return _manifest(world, call)

    def valid_fragments(call: Call) -> Response:
        _need_meshes(world)
        nodes, _ = world.graph.meshes.fragments(call.node(), start_layer=world.graph.n_layers)
        return binary(nodes)

    def remesh(call: Call) -> Response:
        # fragments of new ids come from those of the ids they replace, so there is nothing to be queued
        _ = call.json()["new_lvl2_ids"]
        return Response(status_code=202, media_type="text/html")

    return [
        *index_routes(world, _PREFIX, _INDEX),
        route(world, f"{_PREFIX}/table/{{table}}/manifest/{{node}}:0", manifest),
        route(world, f"{_PREFIX}/table/{{table}}/node/{{node}}/validfragments", valid_fragments),
        route(world, f"{_PREFIX}/table/{{table}}/remeshing", remesh, ("POST",)),
        *index_routes(world, _OLD_PREFIX, _INDEX),
        route(world, f"{_OLD_PREFIX}/{{table}}/manifest/{{node}}:0", manifest),
        route(world, f"{_OLD_PREFIX}/{{table}}/{{node}}/validfragments", valid_fragments, ("GET", "POST")),
        anything_else("meshing"),
    ]


def _need_meshes(world: World) -> None:
    if "mesh" not in world.graph.info:
        raise KeyError("mesh")


def _manifest(world: World, call: Call) -> Response:
    graph = world.graph
    given: dict[str, Any] = call.json() if call.body else {}
    node, bounds = call.node(), call.bounds()
    _need_meshes(world)
    meta = graph.info.get("mesh_metadata", {})
    asked_layer = call.number("start_layer", int(meta.get("max_meshed_layer", 2)))
    start_layer = int(given.get("start_layer", asked_layer))
    nodes, fragments = world.graph.meshes.fragments(node, start_layer=start_layer, bounds=bounds)
    if call.arg("prepend_seg_ids") in _TRUE:
        fragments = [f"~{owner}:{name}" for owner, name in zip(nodes.tolist(), fragments, strict=True)]
    body: dict[str, Any] = {"fragments": fragments}
    if call.arg("return_seg_ids") in _TRUE or _asked(given, "return_seg_ids"):
        body["seg_ids"] = nodes
    if _asked(given, "return_seg_id_layers"):
        body["seg_id_layers"] = graph.layout.layers(nodes).astype(np.int32)
    if _asked(given, "return_seg_chunk_coordinates"):
        body["seg_chunk_coordinates"] = graph.layout.chunks(nodes)
    return jsonify(body)


def _asked(given: dict[str, Any], name: str) -> bool:
    """Boolean of a body, as the service reads it: true or text; it fails on false and on anything else."""
    value = given.get(name, "false")
    if value is True:
        return True
    if not value or value.lower() not in ("true", "1", "false", "0"):
        raise ValueError(f"Can't convert {value or 'null'} to boolean")
    return bool(value.lower() in ("true", "1"))
