"""The chunkedgraph service: roots, leaves, bounds and graphs of nodes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.routes.calls import (
    ApiError,
    Call,
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

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.routes.calls import Handler
    from cortexclient.sandbox.stores.graph.state import Ids
    from cortexclient.sandbox.world import World

_OLD_TABLE = "/segmentation/1.0/{table}"


def legacy_routes(world: World, info: Handler, root_of: Callable[[Call, int], np.uint64]) -> list[BaseRoute]:
    """Routes of version 0.

    Parameters
    ----------
    info : callable
        Answers what the graph is.
    root_of : callable
        Gives the root of a node, as for version 1.
    """
    service = _Legacy(world, root_of)
    paths: list[tuple[str, Handler]] = [
        ("graph/root", service.root_of_body),
        ("graph/{node}/root", service.root),
        ("segment/{node}/children", service.children),
        ("segment/{node}/leaves", service.leaves),
        ("segment/{node}/leaves_from_leave", service.leaves_from_leaf),
        ("segment/{node}/contact_sites", contact_sites),
        ("segment/{root}/change_log", service.change_log),
        ("segment/{root}/merge_log", lambda call: jsonify(history.merge_log(world.graph, call.node("root")))),
        ("graph/oldest_timestamp", lambda call: oldest_time(world, call)),
    ]
    either = [route(world, f"{_OLD_TABLE}/{path}", handler, ("GET", "POST")) for path, handler in paths]
    return [route(world, f"{_OLD_TABLE}/info", info), *either]


class _Legacy:
    """Handlers; each answers one route."""

    def __init__(self, world: World, root_of: Callable[[Call, int], np.uint64]) -> None:
        self.world = world
        self.root_of = root_of

    def root(self, call: Call) -> Response:
        return binary(self.root_of(call, call.node()))

    def root_of_body(self, call: Call) -> Response:
        return binary(self.root_of(call, int(call.json()[0])))

    def children(self, call: Call) -> Response:
        return binary(self.world.graph.children(call.node()))

    def leaves(self, call: Call) -> Response:
        stop_layer = call.number("stop_layer", 1)
        return binary(space.leaves(self.world.graph, call.node(), stop_layer, call.bounds()))

    def leaves_from_leaf(self, call: Call) -> Response:
        call.bounds()
        # the service puts a number and a dictionary together
        raise ValueError("zero-dimensional arrays cannot be concatenated")

    def change_log(self, call: Call) -> Response:
        past = call.at("timestamp", 0)
        return jsonify(history.change_log(self.world.graph, call.node("root"), filtered=False, past=past))


PCG_VERSION = "2.21.1"
_API_VERSIONS = [0, 1]
_TABLE = "/segmentation/api/v1/table/{table}"


def routes(world: World) -> list[BaseRoute]:
    """Routes of the chunkedgraph service."""
    service = _Nodes(world)
    paths: list[tuple[str, Any, tuple[str, ...]]] = [
        ("/segmentation/api/versions", service.api_versions, ("GET",)),
        ("/segmentation/api/version", service.version, ("GET",)),
        ("/segmentation/table/{table}/info", service.info, ("GET",)),
        (f"{_TABLE}/roots_binary", service.roots_binary, ("POST",)),
        (f"{_TABLE}/roots", service.roots, ("POST",)),
        (f"{_TABLE}/roots_from_coords", service.roots_from_coords, ("POST",)),
        (f"{_TABLE}/node/leaves_many", service.leaves_many, ("POST",)),
        (f"{_TABLE}/leaves_many", service.leaves_many, ("POST",)),
        (f"{_TABLE}/minimal_covering_nodes", service.covering_nodes, ("POST",)),
        (f"{_TABLE}/node/{{node}}/root", service.root, ("GET",)),
        (f"{_TABLE}/node/{{node}}/leaves", service.leaves, ("GET",)),
        (f"{_TABLE}/node/{{node}}/children", service.children, ("GET",)),
        (f"{_TABLE}/node/{{node}}/lvl2_graph", service.l2_graph, ("GET",)),
        (f"{_TABLE}/node/{{node}}/subgraph", service.subgraph, ("GET",)),
        (f"{_TABLE}/node/{{node}}/contact_sites", contact_sites, ("GET",)),
        (f"{_TABLE}/node/contact_sites_pair/{{node}}/{{other}}", service.contact_sites_pair, ("GET",)),
        (f"{_TABLE}/l2_chunk_children_binary/{{chunk}}", service.chunk_children_binary, ("GET",)),
        (f"{_TABLE}/l2_chunk_children/{{chunk}}", service.chunk_children, ("GET",)),
        (f"{_TABLE}/graph/find_path", service.find_path, ("POST",)),
        (f"{_TABLE}/supervoxel_lookup", service.supervoxel_lookup, ("POST",)),
    ]
    own = [route(world, path, handler, methods) for path, handler, methods in paths]
    prefixes = ("/segmentation", "/segmentation/api/v1", "/segmentation/1.0")
    pages = [page for prefix in prefixes for page in index_routes(world, prefix, service.index)]
    more = [*history_routes(world), *edit_routes(world)]
    legacy = legacy_routes(world, service.info, service.root_of)
    return [*own, *pages, *more, *legacy, anything_else("segmentation")]


class _Nodes:
    """Handlers; each answers one route."""

    def __init__(self, world: World) -> None:
        self.world = world

    # -- the service itself ----------------------------------------------------------------------------------------

    def index(self, _: Call) -> Response:
        return text(f"PyChunkedGraph Segmentation v{PCG_VERSION}")

    def api_versions(self, _: Call) -> Response:
        return jsonify(_API_VERSIONS)

    def version(self, _: Call) -> Response:
        return jsonify(PCG_VERSION)

    def info(self, _: Call) -> Response:
        info = self.world.graph.info
        served = {
            "app": {"supported_api_versions": _API_VERSIONS},
            "sharded_mesh": True,
            "verify_mesh": False,
        }
        return jsonify({**served, **info, "data_dir": self.world.data_dir})

    # -- upwards ---------------------------------------------------------------------------------------------------

    def _climb(self, call: Call, ids: Ids) -> Ids:
        graph = self.world.graph
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

    def roots_binary(self, call: Call) -> Response:
        return binary(self._climb(call, call.ids(raw=True)))

    def roots(self, call: Call) -> Response:
        found = self._climb(call, call.ids())
        return (
            binary(found)
            if call.arg("as_binary") == "root_ids"
            else jsonify({"root_ids": unsigned(found)}, call)
        )

    def root(self, call: Call) -> Response:
        return jsonify({"root_id": self.root_of(call, call.node())}, call)

    def root_of(self, call: Call, node: int) -> np.uint64:
        """Root of one node, or the ancestor at the layer that is asked for."""
        graph = self.world.graph
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

    def roots_from_coords(self, _: Call) -> Response:
        # the route is there, but what it calls is not
        module = "pychunkedgraph.app.segmentation.common"
        raise AttributeError(f"module '{module}' has no attribute 'handle_roots_from_coord'")

    # -- downwards -------------------------------------------------------------------------------------------------

    def leaves(self, call: Call) -> Response:
        stop_layer = call.number("stop_layer", 1)
        found = space.leaves(self.world.graph, call.node(), stop_layer, call.bounds())
        return jsonify({"leaf_ids": found}, call)

    def leaves_many(self, call: Call) -> Response:
        bounds = call.bounds()
        nodes = call.ids()
        if len(np.unique(nodes)) < len(nodes):
            # the service puts the pieces of a node together once each time that it is named
            raise ValueError("zero-dimensional arrays cannot be concatenated")
        stop_layer = call.number("stop_layer", 1)
        found = space.nodes_within(self.world.graph, nodes, stop_layer, bounds)
        return jsonify({str(node): ids for node, ids in zip(nodes.tolist(), found, strict=True)}, call)

    def children(self, call: Call) -> Response:
        return jsonify({"children_ids": self.world.graph.children(call.node())}, call)

    def covering_nodes(self, call: Call) -> Response:
        ids = call.ids(raw=call.flag("is_binary"))
        found = space.covering_nodes(self.world.graph, ids, to_micros(call.at()))
        return binary(found) if call.flag("as_array") else jsonify(found, call)

    def _chunk(self, call: Call) -> dict[int, Ids]:
        graph = self.world.graph
        at = to_micros(call.at()) // 1000 * 1000
        chunk = int(call["chunk"])
        layer = int(graph.layout.layers(chunk))
        if layer != 2:
            text_ = "This function only accepts level 2 chunks, the chunk requested is a level"
            raise ValueError(f"{text_} {layer} chunk")
        return space.children_in_chunk(graph, chunk, at)

    def chunk_children_binary(self, call: Call) -> Response:
        found = self._chunk(call)
        if call.flag("as_array"):
            return binary(_pairs(found))
        packed = {np.uint64(node): ids.astype(np.uint64) for node, ids in found.items()}
        return text(pickle.dumps(packed))

    def chunk_children(self, call: Call) -> Response:
        found = self._chunk(call)
        if not call.flag("as_array"):
            # the service puts pickled bytes into JSON, which cannot be
            raise TypeError("Object of type bytes is not JSON serializable")
        return jsonify({"l2_chunk_children": _pairs(found)}, call)

    # -- graphs ----------------------------------------------------------------------------------------------------

    def l2_graph(self, call: Call) -> Response:
        edges = space.l2_graph(self.world.graph, call.node(), call.bounds())
        used = "True" if call.arg("bounds") is not None else "False"
        return jsonify({"edge_graph": edges}, call, headers={"Used-Bounds": used})

    def subgraph(self, call: Call) -> Response:
        internal = call.flag("only_internal_edges", default=True)
        edges = build.subgraph(self.world.graph, call.node(), call.bounds(), internal=internal)
        body = {"nodes": edges.pairs, "affinities": edges.affinities, "areas": edges.areas}
        return jsonify(body, call)

    def contact_sites_pair(self, _: Call) -> Response:
        raise NameError("name 'contact_sites' is not defined")

    def find_path(self, call: Call) -> Response:
        graph = self.world.graph
        nodes = call.json()
        assert len(nodes) == 2
        ends = lookup_supervoxels(graph, nodes)
        made = node_time(graph, int(nodes[0][0]))
        path = space.find_path(graph, int(ends[0]), int(ends[1]), made)
        failed: list[Any] = []
        if call.flag("precision_mode", default=True):
            centroids, failed = self._precise(path)
        else:
            centroids = space.json_path(graph, path)
        return jsonify({"centroids_list": centroids, "failed_l2_ids": failed, "l2_path": path}, call)

    def _precise(self, path: Ids) -> tuple[list[Any], list[Any]]:
        """Points on the path as the meshes have them; the level-2 cache knows them as well."""
        if "mesh" not in self.world.graph.info:
            raise KeyError("mesh")
        known = self.world.l2cache.get(path, ["rep_coord_nm"])
        centroids = [known[node]["rep_coord_nm"] for node in path.tolist() if known[node]]
        return centroids, [np.int64(node) for node in path.tolist() if not known[node]]

    def supervoxel_lookup(self, call: Call) -> Response:
        found = lookup_supervoxels(self.world.graph, call.json())
        return jsonify(found, call)


def _pairs(found: dict[int, Ids]) -> Ids:
    """Level-2 ids and supervoxels in turn, int64 (2n,)."""
    parents = np.repeat(np.array(list(found), dtype=np.int64), [len(ids) for ids in found.values()])
    supervoxels = np.concatenate([*found.values(), np.empty(0, dtype=np.int64)])
    return np.stack([parents, supervoxels], axis=1).reshape(-1)


def contact_sites(_: Call) -> Response:
    """Fail as the service does, which calls itself with an argument that it no longer takes."""
    name = "ChunkedGraph.get_subgraph_edges()"
    raise TypeError(f"{name} got an unexpected keyword argument 'connected_edges'")
