"""The chunkedgraph service: lineage, change logs, and edits."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from starlette.responses import Response
from starlette.routing import BaseRoute

from cortexclient.sandbox.arrays import Ids, Ints
from cortexclient.sandbox.routes.calls import ApiError, Call, harmless, jsonify, route, text
from cortexclient.sandbox.stores.graph import edits, history
from cortexclient.sandbox.stores.graph.edits import Edit
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph, operation_time
from cortexclient.sandbox.stores.graph.space import Geometry
from cortexclient.sandbox.world import World

_TABLE = "/segmentation/api/v1/table/{table}"


def history_routes(world: World) -> list[BaseRoute]:
    """Routes about the history of roots."""
    paths: list[tuple[str, Any, tuple[str, ...]]] = [
        (f"{_TABLE}/is_latest_roots", _is_latest, ("POST",)),
        (f"{_TABLE}/root_timestamps", _root_timestamps, ("POST",)),
        (f"{_TABLE}/lineage_graph_multiple", _lineage_many, ("POST",)),
        (f"{_TABLE}/root/{{root}}/lineage_graph", _lineage_one, ("GET",)),
        (f"{_TABLE}/past_id_mapping", _past_ids, ("GET",)),
        (f"{_TABLE}/valid_nodes", _valid_nodes, ("GET",)),
        (f"{_TABLE}/delta_roots", _delta_roots, ("GET",)),
        (f"{_TABLE}/oldest_timestamp", oldest_time, ("GET",)),
        (f"{_TABLE}/root/{{root}}/last_edit", _last_edit, ("GET",)),
        (f"{_TABLE}/root/{{root}}/change_log", _change_log, ("GET",)),
        (f"{_TABLE}/root/{{root}}/merge_log", _merge_log, ("GET",)),
        (f"{_TABLE}/root/{{root}}/tabular_change_log", _tabular_one, ("GET",)),
        (f"{_TABLE}/tabular_change_log_many", _tabular_many, ("GET",)),
        (f"{_TABLE}/tabular_change_log_recent", _tabular_recent, ("GET",)),
        (f"{_TABLE}/change_log", _change_log_all, ("GET",)),
        (f"{_TABLE}/operation_details", _operation_details, ("GET",)),
        (f"{_TABLE}/user_operations", _user_operations, ("GET",)),
    ]
    return [route(world, path, handler, methods) for path, handler, methods in paths]


def _is_latest(call: Call) -> Response:
    ids = call.ids()
    return jsonify({"is_latest": call.graph.is_latest(ids, call.at())}, call)


def _root_timestamps(call: Call) -> Response:
    ids = call.ids(raw=call.flag("is_binary"))
    at = call.at()
    if call.flag("latest"):
        return jsonify({"timestamp": history.latest_timestamps(call.graph, ids, at)}, call)
    return jsonify({"timestamp": history.timestamps(call.graph, ids)}, call)


def _valid_nodes(call: Call) -> Response:
    ids = call.ids(raw=call.flag("is_binary"))
    end = call.moment("end_timestamp", None, optional=True)
    start = call.moment("start_timestamp", None, optional=True)
    return jsonify({"valid_roots": history.valid_nodes(call.graph, ids, start, end)}, call)


def _lineage_many(call: Call) -> Response:
    past, future = call.at("timestamp_past", 0), call.at("timestamp_future")
    roots = call.ids("root_ids")
    return jsonify(history.lineage(call.graph, roots.tolist(), past, future).node_link(), call)


def _future(call: Call) -> datetime | None:
    """End of the lineage of a history; the service reads the parameter and then does not use it."""
    future = call.at("timestamp_future")
    return None if call.world.options.strict else future


def _lineage_one(call: Call) -> Response:
    past, future = call.at("timestamp_past", 0), _future(call)
    root = call.node("root")
    history.check_roots(call.graph, [root])
    return jsonify(history.lineage(call.graph, [root], past, future).node_link(), call)


def _past_ids(call: Call) -> Response:
    roots = call.ids("root_ids")
    past, future = call.at("timestamp_past", 0), _future(call)
    return jsonify(history.past_and_future_ids(call.graph, roots, past, future), call)


def _delta_roots(call: Call) -> Response:
    past = call.moment("timestamp_past", None)
    assert past is not None
    old, new = history.delta_roots(call.graph, past, call.at("timestamp_future"))
    return jsonify({"old_roots": old, "new_roots": new}, call)


def _last_edit(call: Call) -> Response:
    root = call.node("root")
    history.check_roots(call.graph, [root])
    history.lineage(call.graph, [root])
    if call.world.options.strict:
        # the service formats seconds as if they were a time
        raise AttributeError("'float' object has no attribute 'isoformat'")
    made = call.graph.created([root])[0].astype("datetime64[us]").item()
    return jsonify({"iso": f"{made.isoformat(call.arg('delimiter') or ' ')}+00:00"}, call)


def _change_log(call: Call) -> Response:
    past = call.at("timestamp", 0)
    root = call.node("root")
    return jsonify(history.change_log(call.graph, root, filtered=call.flag("filtered"), past=past), call)


def _merge_log(call: Call) -> Response:
    return jsonify(history.merge_log(call.graph, call.node("root")), call)


def _tabular(call: Call, roots: list[int], *, filtered: bool) -> dict[int, pd.DataFrame]:
    graph = call.graph
    history.check_roots(graph, roots)
    frames = {
        root: history.tabular_change_log(graph, root, filtered=filtered, past=graph.oldest())
        for root in roots
    }
    if any(len(frame) for frame in frames.values()):
        _name_users(call, frames)
    return frames


def _name_users(call: Call, frames: dict[int, pd.DataFrame]) -> None:
    """Add names of users, which the service asks the auth service for."""
    users = call.world.folder.json("chunkedgraph", "users.json")
    if users is None and call.world.options.strict:
        # what a chunkedgraph service without a token of its own answers
        raise TypeError('can only concatenate str (not "NoneType") to str')
    known: dict[str, dict[str, str]] = users or {}
    for frame in frames.values():
        for column, key in (("user_name", "name"), ("user_affiliation", "pi")):
            frame[column] = [known.get(str(user), {}).get(key, "unknown") for user in frame["user_id"]]


def _tabular_one(call: Call) -> Response:
    root = call.node("root")
    frame = _tabular(call, [root], filtered=call.flag("filtered", default=True))[root]
    return _shown(call, frame)


def _tabular_many(call: Call) -> Response:
    filtered = call.flag("filtered", default=True)
    frames = _tabular(call, call.ids("root_ids").tolist(), filtered=filtered)
    return jsonify({str(root): frame for root, frame in frames.items()})


def _operations(entries: list[dict[str, Any]]) -> pd.DataFrame:
    columns = {
        "operation_id": [int(entry["operation_id"]) for entry in entries],
        "timestamp": [operation_time(entry) for entry in entries],
        "user_id": [str(entry["user"]) for entry in entries],
        "is_merge": [entry.get("added_edges") is not None for entry in entries],
    }
    return pd.DataFrame(columns)


def _shown(call: Call, frame: pd.DataFrame) -> Response:
    return text(frame.to_html() if call.flag("disp") else harmless(frame.to_json()))


def _tabular_recent(call: Call) -> Response:
    end = None if call.arg("timestamp_end") is None else call.at("timestamp_end")
    return _shown(call, _operations(history.operations_between(call.graph, call.at("timestamp", 0), end)))


def _change_log_all(call: Call) -> Response:
    # the service counts to the newest edit without it
    rows = [
        [str(entry["user"]), entry["kind"], _numpy_text(entry["new_roots"]), str(operation_time(entry))]
        for entry in call.graph.operations[:-1]
    ]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["user_id", "action", "root_ids", "timestamp"])
    writer.writerows(rows)
    answer = text(out.getvalue())
    answer.headers["Content-Type"] = "text/csv"
    answer.headers["Content-Disposition"] = f"attachment; filename={call.world.names.pcg_table}.csv"
    return answer


def _operation_details(call: Call) -> Response:
    numbers = json.loads(call.arg("operation_ids", "[]") or "")
    return jsonify(history.operation_details(call.graph, numbers), call)


def _user_operations(call: Call) -> Response:
    start = call.at("start_time", 0)
    if call.arg("end_time") is None:
        # the service's own default does not pass its check
        raise ApiError(400, "Timestamp parameter end_time is not a valid unix timestamp")
    undone = call.flag("include_undone")
    own = history.operations_of(call.graph, call.arg("user_id"), start, call.at("end_time"), undone=undone)
    return _shown(call, _operations(own)[["operation_id", "timestamp"]])


def oldest_time(call: Call) -> Response:
    """When the graph begins."""
    oldest = call.graph.oldest()
    if oldest is None:
        raise AttributeError("'NoneType' object has no attribute 'isoformat'")
    return jsonify({"iso": oldest.isoformat(call.arg("delimiter", " ") or "")}, call)


def _numpy_text(roots: list[int]) -> str:
    return "[" + " ".join(str(root) for root in roots) + "]"


# merges over more chunks than this are taken for a slip
_MAX_CHUNKS = 3


def edit_routes(world: World) -> list[BaseRoute]:
    """Routes that change the graph."""
    paths: list[tuple[str, Any]] = [
        ("merge", _merge),
        ("split", _split),
        ("undo", lambda call: _answer(call, edits.undo(call.graph, _operation(call), user=call.user))),
        ("redo", lambda call: _answer(call, edits.redo(call.graph, _operation(call), user=call.user))),
        ("graph/split_preview", _preview),
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


def _points(graph: ChunkedGraph, nodes: list[Any]) -> Ints:
    """Points of an edit, given in nm after the id, as voxels (n, 3)."""
    resolution = Geometry(graph).resolution
    return np.array([np.array(node[1:]) / resolution for node in nodes], dtype=np.int64).reshape(-1, 3)


def lookup_supervoxels(graph: ChunkedGraph, nodes: list[Any]) -> Ids:
    """Supervoxels that edits mean: each is given by a node, whose id may be text, and a point (nm) near it."""
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


def _answer(call: Call, edit: Edit) -> Response:
    return jsonify({"operation_id": np.int64(edit.operation_id), "new_root_ids": edit.new_roots}, call)


def _merge(call: Call) -> Response:
    graph = call.graph
    nodes = call.json()
    assert len(nodes) == 2
    ends = lookup_supervoxels(graph, nodes)
    apart = np.abs(np.diff(graph.layout.chunks(ends), axis=0))
    if (apart > int(call.arg("chebyshev_distance") or _MAX_CHUNKS)).any():
        raise ApiError(400, "Chebyshev distance between merge points exceeded allowed maximum (3 chunks).")
    points = _points(graph, nodes)
    edit = edits.merge(graph, int(ends[0]), int(ends[1]), points_vx=points, user=call.user)
    return _answer(call, edit)


def _sides(call: Call) -> tuple[Ids, Ids, Ints, Ints]:
    graph = call.graph
    marks = call.json()
    nodes = [*marks["sources"], *marks["sinks"]]
    found, points = lookup_supervoxels(graph, nodes), _points(graph, nodes)
    first = len(marks["sources"])
    return found[:first], found[first:], points[:first], points[first:]


def _split(call: Call) -> Response:
    sources, sinks, near, far = _sides(call)
    points = (near, far)
    edit = edits.split(call.graph, sources, sinks, points_vx=points, local=True, user=call.user)
    return _answer(call, edit)


def _preview(call: Call) -> Response:
    sources, sinks, near, far = _sides(call)
    points = np.concatenate([near, far])
    parts, illegal = edits.split_preview(call.graph, sources, sinks, points)
    return jsonify({"supervoxel_connected_components": parts, "illegal_split": illegal}, call)


def _operation(call: Call) -> int:
    return int(call.json()["operation_id"])
