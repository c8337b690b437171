"""The chunkedgraph service: lineage, change logs, and edits."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.routes.calls import ApiError, Call, harmless, jsonify, route, text
from cortexclient.sandbox.stores.graph import edits, history
from cortexclient.sandbox.stores.graph.edits import Edit
from cortexclient.sandbox.stores.graph.graph import operation_time
from cortexclient.sandbox.stores.graph.space import Geometry

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd
    from numpy.typing import NDArray
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph.state import Ids
    from cortexclient.sandbox.world import World

_TABLE = "/segmentation/api/v1/table/{table}"


def history_routes(world: World) -> list[BaseRoute]:
    """Routes about the history of roots."""
    service = _History(world)
    paths: list[tuple[str, Any, tuple[str, ...]]] = [
        (f"{_TABLE}/is_latest_roots", service.is_latest, ("POST",)),
        (f"{_TABLE}/root_timestamps", service.root_timestamps, ("POST",)),
        (f"{_TABLE}/lineage_graph_multiple", service.lineage_many, ("POST",)),
        (f"{_TABLE}/root/{{root}}/lineage_graph", service.lineage_one, ("GET",)),
        (f"{_TABLE}/past_id_mapping", service.past_ids, ("GET",)),
        (f"{_TABLE}/valid_nodes", service.valid_nodes, ("GET",)),
        (f"{_TABLE}/delta_roots", service.delta_roots, ("GET",)),
        (f"{_TABLE}/oldest_timestamp", lambda call: oldest_time(world, call), ("GET",)),
        (f"{_TABLE}/root/{{root}}/last_edit", service.last_edit, ("GET",)),
        (f"{_TABLE}/root/{{root}}/change_log", service.change_log, ("GET",)),
        (f"{_TABLE}/root/{{root}}/merge_log", service.merge_log, ("GET",)),
        (f"{_TABLE}/root/{{root}}/tabular_change_log", service.tabular_one, ("GET",)),
        (f"{_TABLE}/tabular_change_log_many", service.tabular_many, ("GET",)),
        (f"{_TABLE}/tabular_change_log_recent", service.tabular_recent, ("GET",)),
        (f"{_TABLE}/change_log", service.change_log_all, ("GET",)),
        (f"{_TABLE}/operation_details", service.operation_details, ("GET",)),
        (f"{_TABLE}/user_operations", service.user_operations, ("GET",)),
    ]
    return [route(world, path, handler, methods) for path, handler, methods in paths]


class _History:
    """Handlers; each answers one route."""

    def __init__(self, world: World) -> None:
        self.world = world

    # -- validity --------------------------------------------------------------------------------------------------

    def is_latest(self, call: Call) -> Response:
        ids = call.ids()
        return jsonify({"is_latest": self.world.graph.is_latest(ids, call.at())}, call)

    def root_timestamps(self, call: Call) -> Response:
        ids = call.ids(raw=call.flag("is_binary"))
        at = call.at()
        if call.flag("latest"):
            return jsonify({"timestamp": history.latest_timestamps(self.world.graph, ids, at)}, call)
        return jsonify({"timestamp": history.timestamps(self.world.graph, ids)}, call)

    def valid_nodes(self, call: Call) -> Response:
        ids = call.ids(raw=call.flag("is_binary"))
        end = call.moment("end_timestamp", None, optional=True)
        start = call.moment("start_timestamp", None, optional=True)
        return jsonify({"valid_roots": history.valid_nodes(self.world.graph, ids, start, end)}, call)

    # -- lineage ---------------------------------------------------------------------------------------------------

    def lineage_many(self, call: Call) -> Response:
        past, future = call.at("timestamp_past", 0), call.at("timestamp_future")
        roots = call.ids("root_ids")
        return jsonify(history.lineage(self.world.graph, roots.tolist(), past, future).node_link(), call)

    def _future(self, call: Call) -> datetime | None:
        """End of the lineage of a history; the service reads the parameter and then does not use it."""
        future = call.at("timestamp_future")
        return None if self.world.options.strict else future

    def lineage_one(self, call: Call) -> Response:
        past, future = call.at("timestamp_past", 0), self._future(call)
        root = call.node("root")
        history.check_roots(self.world.graph, [root])
        return jsonify(history.lineage(self.world.graph, [root], past, future).node_link(), call)

    def past_ids(self, call: Call) -> Response:
        roots = call.ids("root_ids")
        past, future = call.at("timestamp_past", 0), self._future(call)
        return jsonify(history.past_and_future_ids(self.world.graph, roots, past, future), call)

    def delta_roots(self, call: Call) -> Response:
        past = call.moment("timestamp_past", None)
        assert past is not None
        old, new = history.delta_roots(self.world.graph, past, call.at("timestamp_future"))
        return jsonify({"old_roots": old, "new_roots": new}, call)

    # -- logs ------------------------------------------------------------------------------------------------------

    def last_edit(self, call: Call) -> Response:
        root = call.node("root")
        history.check_roots(self.world.graph, [root])
        history.lineage(self.world.graph, [root])
        if self.world.options.strict:
            # the service formats seconds as if they were a time
            raise AttributeError("'float' object has no attribute 'isoformat'")
        made = self.world.graph.created([root])[0].astype("datetime64[us]").item()
        return jsonify({"iso": f"{made.isoformat(call.arg('delimiter') or ' ')}+00:00"}, call)

    def change_log(self, call: Call) -> Response:
        past = call.at("timestamp", 0)
        root = call.node("root")
        return jsonify(
            history.change_log(self.world.graph, root, filtered=call.flag("filtered"), past=past), call
        )

    def merge_log(self, call: Call) -> Response:
        return jsonify(history.merge_log(self.world.graph, call.node("root")), call)

    def _tabular(self, roots: list[int], *, filtered: bool) -> dict[int, pd.DataFrame]:
        graph = self.world.graph
        history.check_roots(graph, roots)
        frames = {
            root: history.tabular_change_log(graph, root, filtered=filtered, past=graph.oldest())
            for root in roots
        }
        if any(len(frame) for frame in frames.values()):
            self._name_users(frames)
        return frames

    def _name_users(self, frames: dict[int, pd.DataFrame]) -> None:
        """Add names of users, which the service asks the auth service for."""
        users = self.world.folder.json("chunkedgraph", "users.json")
        if users is None and self.world.options.strict:
            # what a chunkedgraph service without a token of its own answers
            raise TypeError('can only concatenate str (not "NoneType") to str')
        known: dict[str, dict[str, str]] = users or {}
        for frame in frames.values():
            for column, key in (("user_name", "name"), ("user_affiliation", "pi")):
                frame[column] = [known.get(str(user), {}).get(key, "unknown") for user in frame["user_id"]]

    def tabular_one(self, call: Call) -> Response:
        root = call.node("root")
        frame = self._tabular([root], filtered=call.flag("filtered", default=True))[root]
        return text(frame.to_html() if call.flag("disp") else harmless(frame.to_json()))

    def tabular_many(self, call: Call) -> Response:
        filtered = call.flag("filtered", default=True)
        frames = self._tabular(call.ids("root_ids").tolist(), filtered=filtered)
        return jsonify({str(root): frame for root, frame in frames.items()})

    def tabular_recent(self, call: Call) -> Response:
        import pandas as pd

        end = None if call.arg("timestamp_end") is None else call.at("timestamp_end")
        entries = history.operations_between(self.world.graph, call.at("timestamp", 0), end)
        frame = pd.DataFrame(
            {
                "operation_id": [int(entry["operation_id"]) for entry in entries],
                "timestamp": [operation_time(entry) for entry in entries],
                "user_id": [str(entry["user"]) for entry in entries],
                "is_merge": [entry.get("added_edges") is not None for entry in entries],
            }
        )
        return text(frame.to_html() if call.flag("disp") else harmless(frame.to_json()))

    def change_log_all(self, _: Call) -> Response:
        # the service counts to the newest edit without it
        rows = [
            [str(entry["user"]), entry["kind"], _numpy_text(entry["new_roots"]), str(operation_time(entry))]
            for entry in self.world.graph.operations[:-1]
        ]
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["user_id", "action", "root_ids", "timestamp"])
        writer.writerows(rows)
        answer = text(out.getvalue())
        answer.headers["Content-Type"] = "text/csv"
        answer.headers["Content-Disposition"] = f"attachment; filename={self.world.names.pcg_table}.csv"
        return answer

    def operation_details(self, call: Call) -> Response:
        numbers = json.loads(call.arg("operation_ids", "[]") or "")
        return jsonify(history.operation_details(self.world.graph, numbers), call)

    def user_operations(self, call: Call) -> Response:
        import pandas as pd

        start = call.at("start_time", 0)
        if call.arg("end_time") is None:
            # the service's own default does not pass its check
            raise ApiError(400, "Timestamp parameter end_time is not a valid unix timestamp")
        undone = call.flag("include_undone")
        own = history.operations_of(
            self.world.graph, call.arg("user_id"), start, call.at("end_time"), undone=undone
        )
        columns = {
            "operation_id": [int(entry["operation_id"]) for entry in own],
            "timestamp": [operation_time(entry) for entry in own],
        }
        frame = pd.DataFrame(columns)
        return text(frame.to_html() if call.flag("disp") else harmless(frame.to_json()))


def oldest_time(world: World, call: Call) -> Response:
    """When the graph begins."""
    oldest = world.graph.oldest()
    if oldest is None:
        raise AttributeError("'NoneType' object has no attribute 'isoformat'")
    return jsonify({"iso": oldest.isoformat(call.arg("delimiter", " ") or "")}, call)


def _numpy_text(roots: list[int]) -> str:
    """Ids as numpy prints an array."""
    return "[" + " ".join(str(root) for root in roots) + "]"


# merges over more chunks than this are taken for a slip
_MAX_CHUNKS = 3


def edit_routes(world: World) -> list[BaseRoute]:
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

    Raise IndexError for supervoxels and unknown ids, with the text of the service's own failure.
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
    nodes : list of [id, x, y, z]
        Ids may be text.
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
        edit = edits.merge(graph, int(ends[0]), int(ends[1]), points_vx=points, user=call.user)
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
        points = (near, far)
        edit = edits.split(self.world.graph, sources, sinks, points_vx=points, local=True, user=call.user)
        return self._answer(call, edit)

    def preview(self, call: Call) -> Response:
        sources, sinks, near, far = self._sides(call)
        points = np.concatenate([near, far])
        parts, illegal = edits.split_preview(self.world.graph, sources, sinks, points)
        return jsonify({"supervoxel_connected_components": parts, "illegal_split": illegal}, call)

    def undo(self, call: Call) -> Response:
        return self._answer(call, edits.undo(self.world.graph, _operation(call), user=call.user))

    def redo(self, call: Call) -> Response:
        return self._answer(call, edits.redo(self.world.graph, _operation(call), user=call.user))


def _operation(call: Call) -> int:
    return int(call.json()["operation_id"])
