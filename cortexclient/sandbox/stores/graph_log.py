"""Logs of edits: the service's records of them, and frames of those that led to a root."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.stores.graph import operation_time
from cortexclient.sandbox.stores.graph_history import EditLog, check_roots, lineage
from cortexclient.sandbox.stores.graph_state import NEVER, moment, to_micros

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    import pandas as pd

    from cortexclient.sandbox.stores.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph_history import Lineage
    from cortexclient.sandbox.stores.graph_state import Ids

__all__ = [
    "change_log",
    "delta_roots",
    "merge_log",
    "operation_details",
    "operation_record",
    "operations_between",
    "operations_of",
    "tabular_change_log",
]

_MILLISECOND = 1000


def operation_record(entry: dict[str, Any]) -> dict[str, Any]:
    """One edit in the words of the service's own log."""
    record: dict[str, Any] = {
        "operation_exception": entry.get("exception") or "",
        "operation_status": int(entry.get("status_code") or 0),
        "operation_ts": str(operation_time(entry)),
        "roots": [int(root) for root in entry["new_roots"]],
        "timestamp": str(operation_time(entry)),
        "user": str(entry["user"]),
    }
    optional = {
        "added_edges": "added_edges",
        "removed_edges": "removed_edges",
        "source_coords": "source_coords_voxel",
        "sink_coords": "sink_coords_voxel",
        "source_ids": "source_supervoxels",
        "sink_ids": "sink_supervoxels",
        "bb_offset": "bounding_box_offset_voxel",
        "undo_operation_id": "undo_operation_id",
        "redo_operation_id": "redo_operation_id",
    }
    record |= {name: entry[key] for name, key in optional.items() if entry.get(key) is not None}
    return record


def operations_between(
    graph: ChunkedGraph, start: datetime | None, end: datetime | None, *, inclusive: bool = False
) -> list[dict[str, Any]]:
    """Edits whose log was last written in a window of time (whole milliseconds)."""
    low = 0 if start is None else to_micros(start) // _MILLISECOND
    high = NEVER if end is None else to_micros(end) // _MILLISECOND + inclusive
    written = [to_micros(operation_time(entry, "finished")) // _MILLISECOND for entry in graph.operations]
    return [entry for entry, at in zip(graph.operations, written, strict=True) if low <= at < high]


def operation_details(graph: ChunkedGraph, numbers: Iterable[int]) -> dict[str, Any]:
    """Records of some edits by number.

    Raises
    ------
    KeyError
        For a root that an edit made or ended: the service keeps the number of the edit with it, and no record.
    """
    log = EditLog(graph)
    wanted = {int(number) for number in numbers}
    strange = sorted(wanted & (log.made.keys() | log.ended.keys()))
    if strange:
        raise KeyError(strange[0])
    return {str(number): operation_record(entry) for number, entry in log.entries.items() if number in wanted}


def operations_of(
    graph: ChunkedGraph, user: str | None, start: datetime, end: datetime, *, undone: bool
) -> list[dict[str, Any]]:
    """Edits of one user; without `undone` those that still hold, and no undoing or redoing itself."""
    entries = operations_between(graph, start, end)
    taken_back: set[int] = set()
    for entry in entries:
        if "undo_operation_id" in entry:
            taken_back.add(int(entry["undo_operation_id"]))
        taken_back.discard(int(entry.get("redo_operation_id", -1)))
    own = [entry for entry in entries if str(entry["user"]) == user]
    if undone:
        return own
    steps = ("undo_operation_id", "redo_operation_id")
    return [
        entry
        for entry in own
        if not any(step in entry for step in steps) and int(entry["operation_id"]) not in taken_back
    ]


def delta_roots(graph: ChunkedGraph, past: datetime, future: datetime) -> tuple[Ids, Ids]:
    """Roots that edits within a window made an end of, and those they made; what came and went is in both.

    An old root is there once for each root that was made of it.
    """
    edits = operations_between(graph, past, future, inclusive=True)
    old = [int(root) for entry in edits for _ in entry["new_roots"] for root in entry["old_roots"]]
    new = [int(root) for entry in edits for root in entry["new_roots"]]
    return np.array(old, dtype=np.int64), np.array(new, dtype=np.int64)


def tabular_change_log(
    graph: ChunkedGraph, root: int, *, filtered: bool, past: datetime | None = None
) -> pd.DataFrame:
    """Edits that led to a root, one row each, as the service's frame.

    Parameters
    ----------
    root : int
    filtered : bool
        Keep only edits that still matter: a merge whose supervoxels are both in the root and were apart at first,
        a split that keeps some of its supervoxels out of it.
    past : datetime, optional
        Follow the lineage no further back than this.
    """
    import pandas as pd

    check_roots(graph, [root])
    log = EditLog(graph)
    tree = lineage(graph, [root], past)
    ancestors = sorted(tree.ancestors(root))
    numbers = sorted({tree.operation(old) for old in ancestors} - {0})
    made = moment(int(graph.created([root]).astype(np.int64)[0]))
    rows = [_change(graph, tree, log.entries[number], root, made) for number in numbers]
    columns = ["operation_id", "timestamp", "user_id", "before_root_ids", "after_root_ids", "is_merge"]
    columns += ["in_neuron", "is_relevant"]
    frame = pd.DataFrame(rows, columns=columns)
    if filtered:
        keep = frame["in_neuron"].astype(bool) & frame["is_relevant"].astype(bool)
        frame = frame[keep].drop(columns=["in_neuron", "is_relevant"])
    return frame


def _change(
    graph: ChunkedGraph, tree: Lineage, entry: dict[str, Any], root: int, made: datetime
) -> list[Any]:
    merge = entry.get("added_edges") is not None
    if entry.get("sink_supervoxels") and entry.get("source_supervoxels"):
        touched = np.array([*entry["sink_supervoxels"], *entry["source_supervoxels"]], dtype=np.int64)
    else:
        touched = np.array(entry["added_edges"] or entry["removed_edges"], dtype=np.int64).reshape(-1)
    now = graph.roots(touched, made)
    before = sorted(old for old in tree.nodes if tree.operation(old) == int(entry["operation_id"]))
    after = list(tree.later.get(before[0], ()))
    if merge:
        at_first = graph.roots(touched, graph.oldest())
        inside, relevant = bool((now == root).all()), len(np.unique(at_first)) != 1
    else:
        inside, relevant = bool((now == root).any()), len(np.unique(now)) != 1
    when = operation_time(entry)
    return [int(entry["operation_id"]), when, str(entry["user"]), before, after, merge, inside, relevant]


def change_log(
    graph: ChunkedGraph, root: int, *, filtered: bool, past: datetime | None = None
) -> dict[str, Any]:
    """Count the edits that led to a root, by user."""
    frame = tabular_change_log(graph, root, filtered=filtered, past=past)
    users: dict[str, Counter[str]] = defaultdict(Counter)
    for user, merge in zip(frame["user_id"], frame["is_merge"], strict=True):
        users[user]["n_mergers" if merge else "n_splits"] += 1
    merges = int(frame["is_merge"].sum())
    # numbers of splits are numpy's in the service, so they become text where ids do
    before = [old for olds in frame["before_root_ids"] for old in olds]
    return {
        "n_mergers": merges,
        "n_splits": np.int64(len(frame) - merges),
        "user_info": {
            user: {"n_mergers": counts["n_mergers"], "n_splits": np.int64(counts["n_splits"])}
            for user, counts in users.items()
        },
        "operations_ids": np.array(frame["operation_id"], dtype=np.int64),
        "past_ids": np.array(before, dtype=np.int64),
    }


def merge_log(graph: ChunkedGraph, root: int) -> dict[str, Any]:
    """Edges added by the merges that led to a root, and where they were made (voxels)."""
    check_roots(graph, [root])
    log = EditLog(graph)
    tree = lineage(graph, [root], graph.oldest())
    numbers = sorted({tree.operation(old) for old in tree.ancestors(root)} - {0})
    merges = [log.entries[number] for number in numbers if log.entries[number].get("added_edges") is not None]
    return {
        "merge_edges": [np.array(entry["added_edges"], dtype=np.int64) for entry in merges],
        "merge_edge_coords": [
            np.array([entry["source_coords_voxel"], entry["sink_coords_voxel"]]) for entry in merges
        ],
    }
