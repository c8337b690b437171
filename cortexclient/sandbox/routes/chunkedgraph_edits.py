"""The chunkedgraph service: merges, splits and their previews."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.routes.calls import ApiError, Call, jsonify, route
from cortexclient.sandbox.stores import graph_edits
from cortexclient.sandbox.stores.graph_edits import Edit, EditError
from cortexclient.sandbox.stores.graph_space import Geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.stores.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph_state import Ids
    from cortexclient.sandbox.world import World

__all__ = ["lookup_supervoxels", "node_time", "routes"]

_TABLE = "/segmentation/api/v1/table/{table}"
# merges over more chunks than this are taken for a slip
_MAX_CHUNKS = 3


def routes(world: World) -> list[BaseRoute]:
    """Routes that change the graph."""
    service = _Edits(world)
    paths: list[tuple[str, Any]] = [
        ("merge", service.merge),
        ("split", service.split),
        ("undo", service.undo),
        ("redo", service.redo),
        ("graph/split_preview", service.preview),
    ]
    return [route(world, f"{_TABLE}/{path}", handler, ("POST",)) for path, handler in paths]


def node_time(graph: ChunkedGraph, node: int) -> int:
    """When a node was made, in microseconds since 1970.

    Raises
    ------
    IndexError
        For supervoxels and unknown ids, with the text of the service's own failure.
    """
    made = graph.created([node])
    if graph.layout.layers(node) < 2 or np.isnat(made[0]):
        raise IndexError("list index out of range")
    return int(made.astype(np.int64)[0])


def _points(graph: ChunkedGraph, nodes: list[Any]) -> NDArray[np.int64]:
    """Points of an edit, given in nm after the id, as voxels (n, 3)."""
    resolution = Geometry(graph).resolution
    return np.array([np.array(node[1:]) / resolution for node in nodes], dtype=np.int64).reshape(-1, 3)


def lookup_supervoxels(graph: ChunkedGraph, nodes: list[Any]) -> Ids:
    """Supervoxels that edits mean: a node and a point (nm) near it.

    Parameters
    ----------
    graph : ChunkedGraph
    nodes : list of [id, x, y, z]
        Ids may be text.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    points = _points(graph, nodes)
    found = []
    for node, point in zip(nodes, points, strict=True):
        own = int(node[0])
        made = 0 if graph.layout.layers(own) == 1 else node_time(graph, own)
        try:
            found.append(int(graph.volume.nearest_of(own, point[None], made)[0]))
        except LookupError as error:
            if isinstance(error, IndexError):
                raise
            raise ApiError(400, str(error)) from error
    return np.array(found, dtype=np.int64)


class _Edits:
    """Handlers; each answers one route."""

    def __init__(self, world: World) -> None:
        self.world = world

    def _answer(self, call: Call, edit: Edit) -> Response:
        return jsonify({"operation_id": np.int64(edit.operation_id), "new_root_ids": edit.new_roots}, call)

    def merge(self, call: Call) -> Response:
        graph = self.world.graph
        nodes = call.json()
        assert len(nodes) == 2
        ends = lookup_supervoxels(graph, nodes)
        apart = np.abs(np.diff(graph.layout.chunks(ends), axis=0))
        if (apart > int(call.arg("chebyshev_distance") or _MAX_CHUNKS)).any():
            raise ApiError(
                400, "Chebyshev distance between merge points exceeded allowed maximum (3 chunks)."
            )
        points = _points(graph, nodes)
        try:
            edit = graph_edits.merge(graph, int(ends[0]), int(ends[1]), points_vx=points, user=call.user)
        except EditError as error:
            raise ApiError(400, str(error)) from error
        return self._answer(call, edit)

    def _sides(self, call: Call) -> tuple[Ids, Ids, NDArray[np.int64], NDArray[np.int64]]:
        graph = self.world.graph
        marks = call.json()
        nodes = [*marks["sources"], *marks["sinks"]]
        found, points = lookup_supervoxels(graph, nodes), _points(graph, nodes)
        first = len(marks["sources"])
        return found[:first], found[first:], points[:first], points[first:]

    def split(self, call: Call) -> Response:
        sources, sinks, near, far = self._sides(call)
        try:
            edit = graph_edits.split(
                self.world.graph, sources, sinks, points_vx=(near, far), local=True, user=call.user
            )
        except EditError as error:
            raise ApiError(400, str(error)) from error
        return self._answer(call, edit)

    def preview(self, call: Call) -> Response:
        sources, sinks, near, far = self._sides(call)
        try:
            parts, illegal = graph_edits.split_preview(
                self.world.graph, sources, sinks, np.concatenate([near, far])
            )
        except EditError as error:
            raise ApiError(400, str(error)) from error
        return jsonify({"supervoxel_connected_components": parts, "illegal_split": illegal}, call)

    def undo(self, call: Call) -> Response:
        return self._again(call, redo=False)

    def redo(self, call: Call) -> Response:
        return self._again(call, redo=True)

    def _again(self, call: Call, *, redo: bool) -> Response:
        step = graph_edits.redo if redo else graph_edits.undo
        try:
            edit = step(self.world.graph, int(call.json()["operation_id"]), user=call.user)
        except EditError as error:
            raise ApiError(400, str(error)) from error
        return self._answer(call, edit)
