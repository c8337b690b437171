"""The chunkedgraph service: roots, leaves, bounds and graphs of nodes."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from starlette.responses import Response
from starlette.routing import BaseRoute

from cortexclient.sandbox.arrays import Ids
from cortexclient.sandbox.routes.calls import (
    ApiError,
    Call,
    Handler,
    anything_else,
    binary,
    index_routes,
    jsonify,
    route,
    service_time,
    text,
    unsigned,
)
from cortexclient.sandbox.routes.chunkedgraph_history import (
    edit_routes,
    history_routes,
    lookup_supervoxels,
    node_time,
    oldest_time,
)
from cortexclient.sandbox.stores.graph import build, history, space
from cortexclient.sandbox.stores.graph.state import to_micros
from cortexclient.sandbox.world import World

_OLD_TABLE = "/segmentation/1.0/{table}"


def legacy_routes(world: World) -> list[BaseRoute]:
    """Routes of version 0."""
    paths: list[tuple[str, Handler]] = [
        ("graph/root", lambda call: binary(_root_of(call, int(call.json()[0])))),
        ("graph/{node}/root", lambda call: binary(_root_of(call, call.node()))),
        ("segment/{node}/children", lambda call: binary(call.graph.children(call.node()))),
        ("segment/{node}/leaves", _old_leaves),
        ("segment/{node}/leaves_from_leave", _old_leaves_from_leaf),
        ("segment/{node}/contact_sites", _contact_sites),
        ("segment/{root}/change_log", _old_change_log),
        ("segment/{root}/merge_log", lambda call: jsonify(history.merge_log(call.graph, call.node("root")))),
        ("graph/oldest_timestamp", oldest_time),
    ]
    either = [route(world, f"{_OLD_TABLE}/{path}", handler, ("GET", "POST")) for path, handler in paths]
    return [route(world, f"{_OLD_TABLE}/info", _info), *either]


def _old_leaves(call: Call) -> Response:
    stop_layer = call.number("stop_layer", 1)
    return binary(space.leaves(call.graph, call.node(), stop_layer, call.bounds()))


def _old_leaves_from_leaf(call: Call) -> Response:
    call.bounds()
    # the service puts a number and a dictionary together
    raise ValueError("zero-dimensional arrays cannot be concatenated")


def _old_change_log(call: Call) -> Response:
    past = call.at("timestamp", 0)
    return jsonify(history.change_log(call.graph, call.node("root"), filtered=False, past=past))


PCG_VERSION = "2.21.1"
_API_VERSIONS = [0, 1]
_TABLE = "/segmentation/api/v1/table/{table}"


def routes(world: World) -> list[BaseRoute]:
    """Routes of the chunkedgraph service."""
    paths: list[tuple[str, Any, tuple[str, ...]]] = [
        ("/segmentation/api/versions", lambda _: jsonify(_API_VERSIONS), ("GET",)),
        ("/segmentation/api/version", lambda _: jsonify(PCG_VERSION), ("GET",)),
        ("/segmentation/table/{table}/info", _info, ("GET",)),
        (f"{_TABLE}/roots_binary", lambda call: binary(_climb(call, call.ids(raw=True))), ("POST",)),
        (f"{_TABLE}/roots", _roots, ("POST",)),
        (f"{_TABLE}/roots_from_coords", _roots_from_coords, ("POST",)),
        (f"{_TABLE}/node/leaves_many", _leaves_many, ("POST",)),
        (f"{_TABLE}/leaves_many", _leaves_many, ("POST",)),
        (f"{_TABLE}/minimal_covering_nodes", _covering_nodes, ("POST",)),
        (f"{_TABLE}/node/{{node}}/root", _root, ("GET",)),
        (f"{_TABLE}/node/{{node}}/leaves", _leaves, ("GET",)),
        (f"{_TABLE}/node/{{node}}/children", _children, ("GET",)),
        (f"{_TABLE}/node/{{node}}/lvl2_graph", _l2_graph, ("GET",)),
        (f"{_TABLE}/node/{{node}}/subgraph", _subgraph, ("GET",)),
        (f"{_TABLE}/node/{{node}}/contact_sites", _contact_sites, ("GET",)),
        (f"{_TABLE}/node/contact_sites_pair/{{node}}/{{other}}", _contact_sites_pair, ("GET",)),
        (f"{_TABLE}/l2_chunk_children_binary/{{chunk}}", _chunk_children_binary, ("GET",)),
        (f"{_TABLE}/l2_chunk_children/{{chunk}}", _chunk_children, ("GET",)),
        (f"{_TABLE}/graph/find_path", _find_path, ("POST",)),
        (f"{_TABLE}/supervoxel_lookup", _supervoxel_lookup, ("POST",)),
    ]
    own = [route(world, path, handler, methods) for path, handler, methods in paths]
    prefixes = ("/segmentation", "/segmentation/api/v1", "/segmentation/1.0")
    index = f"PyChunkedGraph Segmentation v{PCG_VERSION}"
    pages = [page for prefix in prefixes for page in index_routes(world, prefix, index)]
    more = [*history_routes(world), *edit_routes(world)]
    legacy = legacy_routes(world)
    return [*own, *pages, *more, *legacy, anything_else("segmentation")]


def _info(call: Call) -> Response:
    info = call.graph.info
    served = {
        "app": {"supported_api_versions": _API_VERSIONS},
        "sharded_mesh": True,
        "verify_mesh": False,
    }
    return jsonify({**served, **info, "data_dir": call.world.data_dir})


def _climb(call: Call, ids: Ids) -> Ids:
    graph = call.graph
    at = to_micros(call.at())
    stop_layer = call.number("stop_layer", graph.n_layers)
    roots_meant = stop_layer == graph.n_layers
    stop_layer = stop_layer or graph.n_layers
    assert stop_layer <= graph.n_layers
    # any text at all says yes to these two
    found = graph.climb(ids, at // 1000 * 1000, stop_layer, complete=call.arg("fail_to_zero") == "")
    if call.arg("assert_roots") and roots_meant:
        assert not (graph.layout.layers(found) < graph.n_layers).any(), "roots not found for some IDs"
    return found


def _roots(call: Call) -> Response:
    found = _climb(call, call.ids())
    return (
        binary(found) if call.arg("as_binary") == "root_ids" else jsonify({"root_ids": unsigned(found)}, call)
    )


def _root(call: Call) -> Response:
    return jsonify({"root_id": _root_of(call, call.node())}, call)


def _root_of(call: Call, node: int) -> np.uint64:
    """Root of one node, or the ancestor at the layer that is asked for."""
    graph = call.graph
    at = to_micros(call.at()) // 1000 * 1000
    try:
        stop_layer = call.number("stop_layer", 0) or graph.n_layers
    except ValueError as error:
        raise ApiError(400, f"stop_layer is not an integer {error}") from error
    one = np.array([node], dtype=np.int64)
    # an id without a sign may be above all layers
    found = one if node < 0 else graph.climb(one, at, stop_layer)
    if 0 <= graph.layout.layers(found)[0] < stop_layer:
        raise LookupError(f"Cannot find root id {node}, {stop_layer}, {service_time(at)}")
    return np.uint64(unsigned(found)[0])


def _roots_from_coords(_: Call) -> Response:
    # the route is there, but what it calls is not
    module = "pychunkedgraph.app.segmentation.common"
    raise AttributeError(f"module '{module}' has no attribute 'handle_roots_from_coord'")


def _leaves(call: Call) -> Response:
    stop_layer = call.number("stop_layer", 1)
    found = space.leaves(call.graph, call.node(), stop_layer, call.bounds())
    return jsonify({"leaf_ids": found}, call)


def _leaves_many(call: Call) -> Response:
    bounds = call.bounds()
    nodes = call.ids()
    if len(np.unique(nodes)) < len(nodes):
        # the service puts the pieces of a node together once each time that it is named
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    stop_layer = call.number("stop_layer", 1)
    found = space.nodes_within(call.graph, nodes, stop_layer, bounds)
    return jsonify({str(node): ids for node, ids in zip(nodes.tolist(), found, strict=True)}, call)


def _children(call: Call) -> Response:
    return jsonify({"children_ids": call.graph.children(call.node())}, call)


def _covering_nodes(call: Call) -> Response:
    ids = call.ids(raw=call.flag("is_binary"))
    found = space.covering_nodes(call.graph, ids, to_micros(call.at()))
    return binary(found) if call.flag("as_array") else jsonify(found, call)


def _chunk(call: Call) -> dict[int, Ids]:
    graph = call.graph
    at = to_micros(call.at()) // 1000 * 1000
    chunk = int(call["chunk"])
    layer = int(graph.layout.layers(chunk))
    if layer != 2:
        text_ = "This function only accepts level 2 chunks, the chunk requested is a level"
        raise ValueError(f"{text_} {layer} chunk")
    return space.children_in_chunk(graph, chunk, at)


def _chunk_children_binary(call: Call) -> Response:
    found = _chunk(call)
    if call.flag("as_array"):
        return binary(_pairs(found))
    packed = {np.uint64(node): ids.astype(np.uint64) for node, ids in found.items()}
    return text(pickle.dumps(packed))


def _chunk_children(call: Call) -> Response:
    found = _chunk(call)
    if not call.flag("as_array"):
        # the service puts pickled bytes into JSON, which cannot be
        raise TypeError("Object of type bytes is not JSON serializable")
    return jsonify({"l2_chunk_children": _pairs(found)}, call)


def _l2_graph(call: Call) -> Response:
    edges = space.l2_graph(call.graph, call.node(), call.bounds())
    used = "True" if call.arg("bounds") is not None else "False"
    return jsonify({"edge_graph": edges}, call, headers={"Used-Bounds": used})


def _subgraph(call: Call) -> Response:
    internal = call.flag("only_internal_edges", default=True)
    edges = build.subgraph(call.graph, call.node(), call.bounds(), internal=internal)
    body = {"nodes": edges.pairs, "affinities": edges.affinities, "areas": edges.areas}
    return jsonify(body, call)


def _contact_sites_pair(_: Call) -> Response:
    raise NameError("name 'contact_sites' is not defined")


def _find_path(call: Call) -> Response:
    graph = call.graph
    nodes = call.json()
    assert len(nodes) == 2
    ends = lookup_supervoxels(graph, nodes)
    made = node_time(graph, int(nodes[0][0]))
    path = space.find_path(graph, int(ends[0]), int(ends[1]), made)
    failed: list[Any] = []
    if call.flag("precision_mode", default=True):
        centroids, failed = _precise(call, path)
    else:
        centroids = space.json_path(graph, path)
    return jsonify({"centroids_list": centroids, "failed_l2_ids": failed, "l2_path": path}, call)


def _precise(call: Call, path: Ids) -> tuple[list[Any], list[Any]]:
    """Points on the path as the meshes have them; the level-2 cache knows them as well."""
    if "mesh" not in call.graph.info:
        raise KeyError("mesh")
    known = call.world.l2cache.get(path, ["rep_coord_nm"])
    centroids = [known[node]["rep_coord_nm"] for node in path.tolist() if known[node]]
    return centroids, [np.int64(node) for node in path.tolist() if not known[node]]


def _supervoxel_lookup(call: Call) -> Response:
    return jsonify(lookup_supervoxels(call.graph, call.json()), call)


def _pairs(found: dict[int, Ids]) -> Ids:
    """Level-2 ids and supervoxels in turn, int64 (2n,)."""
    parents = np.repeat(np.array(list(found), dtype=np.int64), [len(ids) for ids in found.values()])
    supervoxels = np.concatenate([*found.values(), np.empty(0, dtype=np.int64)])
    return np.stack([parents, supervoxels], axis=1).reshape(-1)


def _contact_sites(_: Call) -> Response:
    """Fail as the service does, which calls itself with an argument that it no longer takes."""
    name = "ChunkedGraph.get_subgraph_edges()"
    raise TypeError(f"{name} got an unexpected keyword argument 'connected_edges'")
