"""The chunkedgraph service as it was before version 1: the same questions, mostly answered with raw numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cortexclient.sandbox.routes.calls import Call, binary, jsonify, route
from cortexclient.sandbox.stores import graph_log, graph_space

if TYPE_CHECKING:
    import numpy as np
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.routes.calls import Handler
    from cortexclient.sandbox.world import World

__all__ = ["routes"]

_TABLE = "/segmentation/1.0/{table}"


def routes(world: World, info: Handler, root_of: Callable[[Call, int], np.uint64]) -> list[BaseRoute]:
    """Routes of version 0.

    Parameters
    ----------
    world : World
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
        ("segment/{node}/contact_sites", service.contact_sites),
        ("segment/{root}/change_log", service.change_log),
        ("segment/{root}/merge_log", service.merge_log),
        ("graph/oldest_timestamp", service.oldest),
    ]
    either = [route(world, f"{_TABLE}/{path}", handler, ("GET", "POST")) for path, handler in paths]
    return [route(world, f"{_TABLE}/info", info), *either]


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
        return binary(graph_space.leaves(self.world.graph, call.node(), stop_layer, call.bounds()))

    def leaves_from_leaf(self, call: Call) -> Response:
        call.bounds()
        # the service puts a number and a dictionary together
        raise ValueError("zero-dimensional arrays cannot be concatenated")

    def contact_sites(self, _: Call) -> Response:
        name = "ChunkedGraph.get_subgraph_edges()"
        raise TypeError(f"{name} got an unexpected keyword argument 'connected_edges'")

    def change_log(self, call: Call) -> Response:
        past = call.at("timestamp", 0)
        return jsonify(graph_log.change_log(self.world.graph, call.node("root"), filtered=False, past=past))

    def merge_log(self, call: Call) -> Response:
        return jsonify(graph_log.merge_log(self.world.graph, call.node("root")))

    def oldest(self, call: Call) -> Response:
        oldest = self.world.graph.oldest()
        if oldest is None:
            raise AttributeError("'NoneType' object has no attribute 'isoformat'")
        return jsonify({"iso": oldest.isoformat(call.arg("delimiter", " ") or "")})
