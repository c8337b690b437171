"""What became of roots over time, and the log of edits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.arrays import Ids
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph, operation_time
from cortexclient.sandbox.stores.graph.state import NEVER, moment, to_micros

if TYPE_CHECKING:
    import pandas as pd


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

    Raise KeyError for a root that an edit made or ended: the service keeps the number of the edit with it, and no
    record.
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
    """Return the roots that edits within a window ended and those that they created; a root can be both.

    An old root is there once for each root that was made of it.
    """
    edits = operations_between(graph, past, future, inclusive=True)
    old = [int(root) for entry in edits for _ in entry["new_roots"] for root in entry["old_roots"]]
    new = [int(root) for entry in edits for root in entry["new_roots"]]
    return np.array(old, dtype=np.int64), np.array(new, dtype=np.int64)


def tabular_change_log(
    graph: ChunkedGraph, root: int, *, filtered: bool, past: datetime | None = None
) -> pd.DataFrame:
    """Edits that led to a root since a time, one row each, as the service's frame.

    ``filtered`` keeps only edits that still matter: a merge whose supervoxels are both in the root and were apart at
    first, a split that keeps some of its supervoxels out of it.
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
    marks = [*(entry.get("sink_supervoxels") or ()), *(entry.get("source_supervoxels") or ())]
    # an edit that undoes or repeats another names nothing but its edges
    edges = entry["added_edges" if merge else "removed_edges"]
    touched = np.array(marks or edges, dtype=np.int64).reshape(-1)
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


@dataclass
class Lineage:
    """Graph of roots, from past to future."""

    # root id -> ``timestamp`` (seconds since 1970) and, once it was edited, the ``operation_id`` of that edit
    nodes: dict[int, dict[str, Any]] = field(default_factory=dict)
    # root id -> roots it was made from, and roots made from it
    former: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    later: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def _reach(self, start: int, steps: dict[int, list[int]]) -> list[int]:
        seen: dict[int, None] = {}
        stack = [start]
        while stack:
            for other in steps.get(stack.pop(), ()):
                if other not in seen:
                    seen[other] = None
                    stack.append(other)
        return list(seen)

    def ancestors(self, root: int) -> list[int]:
        """All roots that a root came from."""
        return self._reach(root, self.former)

    def descendants(self, root: int) -> list[int]:
        """All roots that came from a root."""
        return self._reach(root, self.later)

    def operation(self, root: int) -> int:
        """Edit that a root was changed by, 0 for none within this graph."""
        return int(self.nodes.get(root, {}).get("operation_id", 0))

    def node_link(self) -> dict[str, Any]:
        """Body as networkx writes graphs; numbers are numpy's, so that they can be answered as text."""
        names = [*self.nodes, *(root for root in (*self.later, *self.former) if root not in self.nodes)]
        nodes = []
        for root in dict.fromkeys(names):
            node = {"id": np.int64(root), **self.nodes.get(root, {})}
            if "operation_id" in node:
                node["operation_id"] = np.int64(node["operation_id"])
            nodes.append(node)
        links = [
            {"source": np.int64(source), "target": np.int64(target)}
            for source, targets in self.later.items()
            for target in targets
        ]
        return {"directed": True, "multigraph": False, "graph": {}, "nodes": nodes, "links": links}


class EditLog:
    """Edits by number, and which edit made and ended each root."""

    def __init__(self, graph: ChunkedGraph) -> None:
        self.entries = {int(entry["operation_id"]): entry for entry in graph.operations}
        self.made: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        for number, entry in self.entries.items():
            self.made |= dict.fromkeys((int(root) for root in entry["new_roots"]), number)
            self.ended |= dict.fromkeys((int(root) for root in entry["old_roots"]), number)

    def former(self, root: int) -> list[int]:
        """Roots that the edit which made a root put an end to."""
        number = self.made.get(root)
        return [] if number is None else [int(old) for old in self.entries[number]["old_roots"]]

    def later(self, root: int) -> list[int]:
        """Roots that the edit which ended a root has made."""
        number = self.ended.get(root)
        return [] if number is None else [int(new) for new in self.entries[number]["new_roots"]]


def timestamps(graph: ChunkedGraph, ids: Ids) -> list[float]:
    """When nodes were made, in seconds since 1970.

    Raise KeyError for an id without children, if another one has any; if none has, the answer is empty, as the
    service's.
    """
    state = graph.state
    rows = state.find(ids)
    known = (rows >= 0) & (graph.layout.layers(ids) > 1)
    if not known.any():
        return []
    if not known.all():
        raise KeyError(int(ids[~known][0]))
    return [micros / 1e6 for micros in state.created[rows].tolist()]


def latest_timestamps(graph: ChunkedGraph, ids: Ids, at: datetime) -> list[float]:
    """Last time at which each root was part of the graph: `at` itself, or when it was superseded before.

    Raise IndexError for a root made after `at`, with the service's own text.
    """
    latest = graph.is_latest(ids, at)
    state = graph.state
    rows = state.find(ids)
    when = to_micros(at) // _MILLISECOND * _MILLISECOND
    ended = np.where(rows >= 0, state.superseded[rows], NEVER)
    # the service keeps a queue of the times it found and takes one for each old root, whoever it belongs to
    queue = (ended[~latest & (ended < when)] / 1e6).tolist()
    answer = []
    for still in latest:
        if not still and not queue:
            raise IndexError("pop from an empty deque")
        answer.append(at.timestamp() if still else queue.pop(0))
    return answer


def lineage(
    graph: ChunkedGraph, roots: Iterable[int], past: datetime | None = None, future: datetime | None = None
) -> Lineage:
    """Lineage of roots.

    The walk goes on past a node that was itself made within the limits, so the answer shows one step beyond them.

    Raise KeyError for an id that never existed, and for a supervoxel (the service takes the time of a node from its
    children).
    """
    log = EditLog(graph)
    result = Lineage()
    first = 0 if past is None else to_micros(past)
    last = NEVER if future is None else to_micros(future)
    behind = ahead = list(dict.fromkeys(int(root) for root in roots))
    while behind or ahead:
        created = dict(zip(behind + ahead, _created(graph, behind + ahead), strict=False))
        older = {root: log.former(root) if created[root] >= first else [] for root in behind}
        behind = _step(log, result, older, created, result.former, result.later)
        newer = {root: log.later(root) if created[root] <= last else [] for root in ahead}
        ahead = _step(log, result, newer, created, result.later, result.former)
    return result


def _created(graph: ChunkedGraph, ids: list[int]) -> list[int]:
    state = graph.state
    rows = state.find(np.array(ids, dtype=np.int64))
    missing = (rows < 0) | (graph.layout.layers(ids) < 2)
    if missing.any():
        raise KeyError(ids[int(np.flatnonzero(missing)[0])])
    return [int(micros) for micros in state.created[rows]]


def _step(
    log: EditLog,
    result: Lineage,
    found: dict[int, list[int]],
    created: dict[int, int],
    onwards: dict[int, list[int]],
    backwards: dict[int, list[int]],
) -> list[int]:
    """Note roots with the ones `found` beyond each; return those that are new."""
    following: list[int] = []
    for root, others in found.items():
        result.nodes[root] = {"timestamp": created[root] / 1e6}
        if root in log.ended:
            result.nodes[root]["operation_id"] = log.ended[root]
        following += [other for other in others if other not in result.nodes]
        for other in others:
            if other not in onwards[root]:
                onwards[root].append(other)
                backwards[other].append(root)
    return list(dict.fromkeys(following))


def past_and_future_ids(
    graph: ChunkedGraph, roots: Ids, past: datetime, future: datetime | None = None
) -> dict[str, Any]:
    """Which roots at `past` the given ones came from, and which of those have one clear successor.

    A past root has a successor only if all of its pieces ended up in one root and each step merged it with another.
    """
    check_roots(graph, roots)
    tree = lineage(graph, roots.tolist(), past, future)
    back: dict[str, Ids] = {}
    for root in roots.tolist():
        oldest = [old for old in tree.ancestors(root) if not tree.former.get(old)]
        back[str(root)] = np.array(oldest or [root], dtype=np.int64)
    ahead = {}
    for old in np.unique(np.concatenate(list(back.values()))).tolist():
        successor = _successor(tree, old)
        if successor is not None:
            ahead[str(old)] = np.int64(successor)
    return {"past_id_map": back, "future_id_map": ahead}


def _successor(tree: Lineage, root: int) -> int | None:
    after = [*tree.descendants(root), root]
    ends = [node for node in after if not tree.later.get(node)]
    if len(ends) > 1 or any(len(tree.later.get(node, ())) == 2 for node in after):
        return None
    steps = [node for node in after if len(tree.later.get(node, ())) == 1]
    if any(len(tree.former[tree.later[node][0]]) == 1 for node in steps):
        return None
    return ends[0]


def check_roots(graph: ChunkedGraph, roots: Iterable[int]) -> None:
    """Refuse ids that are not of the roots' layer, with the service's text.

    Raise AssertionError for the first id of another layer.
    """
    ids = np.array([int(root) for root in roots], dtype=np.int64)
    low = ids[graph.layout.layers(ids) != graph.n_layers]
    assert not len(low), f"{low[0]} is no root"


def valid_nodes(graph: ChunkedGraph, ids: Ids, start: datetime | None, end: datetime | None) -> Ids:
    """Ids of which anything was written in a window, sorted; numbers of edits are keys of the same store."""
    low = 0 if start is None else to_micros(start) // _MILLISECOND * _MILLISECOND
    high = NEVER if end is None else to_micros(end) // _MILLISECOND * _MILLISECOND
    state = graph.state
    ids = np.unique(ids)
    layers = graph.layout.layers(ids)
    rows = state.find(ids)
    made, ended = state.created[rows], state.superseded[rows]
    written = (rows >= 0) & (layers > 1) & (made >= low) & (made < high)
    written |= (rows >= 0) & (layers == graph.n_layers) & (ended >= low) & (ended < high)
    linked = np.isin(state.link_node, ids) & (state.link_from >= low) & (state.link_from < high)
    written |= np.isin(ids, state.link_node[linked])
    numbers = [
        int(entry["operation_id"])
        for entry in graph.operations
        if any(low <= to_micros(operation_time(entry, key)) < high for key in ("time", "finished"))
    ]
    valid: Ids = ids[written | np.isin(ids, np.array(numbers, dtype=np.int64))]
    return valid
