"""Merges and splits: new level-2 ids where the edit was made, new nodes above them, new roots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cortexclient.sandbox.arrays import Bools, Ids, Ints
from cortexclient.sandbox.stores.graph.build import (
    Edges,
    Plan,
    components,
    edge_layers,
    next_state,
    rebuild,
    subgraph,
)
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph, operation_time
from cortexclient.sandbox.stores.graph.space import Geometry, both_ends, leaves
from cortexclient.sandbox.stores.graph.state import moment, to_micros

# capacities are 32-bit integers; an affinity of 1 becomes this
_UNIT = 10_000


_MILLISECOND = 1000
# the service looks this far around the points of an edit, in voxels
_REACH = np.array([240, 240, 24], dtype=np.int64)


class EditError(ValueError):
    """An edit that the graph does not allow, such as a merge of what is one object already."""


@dataclass(frozen=True)
class Edit:
    """What an edit did."""

    operation_id: int
    kind: str  # ``merge`` or ``split``
    time: datetime  # when it takes effect, UTC
    old_roots: Ids
    new_roots: Ids
    new_l2_ids: Ids


def merge(
    graph: ChunkedGraph,
    source: int,
    sink: int,
    *,
    points_vx: ArrayLike | None = None,
    user: str = "0",
    at: datetime | None = None,
) -> Edit:
    """Join two objects at two supervoxels; of a root (or other node) the supervoxel closest to the other one is taken.

    With the points (voxels) at which the edit was made, the edges that the segmentation knows between the two objects
    nearby are all put to use, as the service does. The time of an edit is later than that of any edit before, by
    default now. Raise EditError if both are of one object, or are one supervoxel.
    """
    with graph.lock:
        ends = _supervoxel_pair(graph, source, sink)
        if ends[0] == ends[1]:
            raise EditError("Requested merge contains at least 1 self-loop.")
        old_roots = graph.roots(ends)
        if old_roots[0] == old_roots[1] or not old_roots.all():
            raise EditError("Supervoxels must belong to different objects.")
        given = points_vx is not None
        points = np.asarray(points_vx if given else _centres(graph, ends), dtype=np.int64).reshape(2, 3)
        used = _unused_between(graph, ends, points) if given else np.empty((0, 2), dtype=np.int64)
        made_up = not len(used)
        used = ends[None] if made_up else used
        entry = {
            "kind": "merge",
            "source_coords_voxel": points[:1].tolist(),
            "sink_coords_voxel": points[1:].tolist(),
            "added_edges": [ends.tolist()],
            "activated_edges": used.tolist(),
        }
        return _apply(graph, entry, old_roots, used, join=True, made_up=made_up, user=user, at=at)


def split(
    graph: ChunkedGraph,
    sources: ArrayLike,
    sinks: ArrayLike | None = None,
    *,
    points_vx: tuple[ArrayLike, ArrayLike] | None = None,
    local: bool = False,
    user: str = "0",
    at: datetime | None = None,
) -> Edit:
    """Cut an object in two, so that some supervoxels come apart; a root alone is cut between its two ends.

    ``points_vx`` (voxels) say where they were marked, and ``local`` cuts only edges near them, as the service does;
    the object may then stay in one piece. Raise EditError if they are not all of one object, or nothing connects them
    nearby.
    """
    with graph.lock:
        sides = both_ends(graph, int(np.asarray(sources).item())) if sinks is None else (sources, sinks)
        ends = [np.atleast_1d(np.asarray(side, dtype=np.int64)) for side in sides]
        root = _one_root(graph, np.concatenate(ends))
        points = [_centres(graph, side) for side in ends]
        if points_vx is not None:
            points = [np.asarray(side, dtype=np.int64).reshape(-1, 3) for side in points_vx]
        bounds = _bounds(np.concatenate(points)) if local else None
        edges = _active_edges(graph, root, bounds)
        removed = cut(edges, ends[0], ends[1])
        if not len(removed):
            raise EditError("Mincut could not find any edges to remove.")
        entry = {
            "kind": "split",
            "source_coords_voxel": points[0].tolist(),
            "sink_coords_voxel": points[1].tolist(),
            "source_supervoxels": ends[0].tolist(),
            "sink_supervoxels": ends[1].tolist(),
            "removed_edges": removed.tolist(),
            "bounding_box_offset_voxel": _REACH.tolist(),
        }
        return _apply(graph, entry, np.array([root]), removed, join=False, user=user, at=at)


def split_preview(graph: ChunkedGraph, sources: Ids, sinks: Ids, points_vx: Ints) -> tuple[list[Ids], bool]:
    """Show what a split would separate nearby: components (sources first, then sinks), and if it is illegal."""
    root = _one_root(graph, np.concatenate([sources, sinks]))
    edges = _active_edges(graph, root, _bounds(points_vx))
    removed = cut(edges, sources, sinks)
    gone = _among(edges.pairs, removed)
    parts = components(edges.pairs[~gone], np.unique(edges.pairs))
    marks = [np.isin(part, sources).sum() - np.isin(part, sinks).sum() for part in parts]
    order = [int(np.argmax(marks)), int(np.argmin(marks))]
    order += [row for row in range(len(parts)) if row not in order]
    apart = all(not (np.isin(part, sources).any() and np.isin(part, sinks).any()) for part in parts)
    whole = [sum(bool(np.isin(part, side).any()) for part in parts) == 1 for side in (sources, sinks)]
    return [parts[row] for row in order], not (apart and all(whole))


def undo(graph: ChunkedGraph, operation_id: int, *, user: str = "0", at: datetime | None = None) -> Edit:
    """Take an edit back; as in the service, to undo an undoing is to redo what it undid.

    Raise EditError if there is no such edit, or the graph changed so that it cannot be taken back.
    """
    with graph.lock:
        entry = _entry(graph, operation_id)
        if "undo_operation_id" in entry:
            return redo(graph, int(entry["undo_operation_id"]), user=user, at=at)
        if "redo_operation_id" in entry:
            return undo(graph, int(entry["redo_operation_id"]), user=user, at=at)
        return _reverse(graph, entry, {"undo_operation_id": operation_id}, user=user, at=at)


def _reverse(
    graph: ChunkedGraph, entry: dict[str, Any], again: dict[str, int], *, user: str, at: datetime | None
) -> Edit:
    """Do the opposite of an edit; `again` says in the log of which edit that is the undoing or redoing."""
    if entry["kind"] == "merge":
        edges = np.array(entry.get("activated_edges") or entry["added_edges"], dtype=np.int64)
        root = _one_root(graph, np.unique(edges))
        undone = {"kind": "split", "removed_edges": edges.tolist(), **again}
        return _apply(graph, undone, np.array([root]), edges, join=False, user=user, at=at)
    edges = np.unique(np.sort(np.array(entry["removed_edges"], dtype=np.int64), axis=1), axis=0)
    redone = {"kind": "merge", "added_edges": edges.tolist(), "activated_edges": edges.tolist(), **again}
    roots = np.unique(graph.roots(edges.reshape(-1)))
    return _apply(graph, redone, roots, edges, join=True, user=user, at=at)


def redo(graph: ChunkedGraph, operation_id: int, *, user: str = "0", at: datetime | None = None) -> Edit:
    """Make an edit again that was taken back.

    Raise EditError if there is no such edit, or it still holds.
    """
    with graph.lock:
        entry = _entry(graph, operation_id)
        if "undo_operation_id" in entry:
            return undo(graph, int(entry["undo_operation_id"]), user=user, at=at)
        if "redo_operation_id" in entry:
            return redo(graph, int(entry["redo_operation_id"]), user=user, at=at)
        last = entry
        for one in graph.operations:
            if operation_id in (one.get("undo_operation_id"), one.get("redo_operation_id")):
                last = one
        if "undo_operation_id" not in last:
            raise EditError(f"operation {operation_id} was not undone")
        return _reverse(graph, last, {"redo_operation_id": operation_id}, user=user, at=at)


def _entry(graph: ChunkedGraph, operation_id: int) -> dict[str, Any]:
    for entry in graph.operations:
        if int(entry["operation_id"]) == operation_id:
            return entry
    raise EditError(f"there is no operation {operation_id}")


def _apply(
    graph: ChunkedGraph,
    entry: dict[str, Any],
    old_roots: Ids,
    edges: Ids,
    *,
    join: bool,
    user: str,
    at: datetime | None,
    made_up: bool = False,
) -> Edit:
    """Work the edit out and take it over (the caller holds the lock)."""
    micros = _time(graph, at)
    plan = Plan(graph, micros)
    if join:
        plan.join(edges)
    else:
        plan.separate(edges, lambda l2_ids: _inner_edges(graph, l2_ids))
    rebuild(plan, old_roots)
    time = moment(micros)
    number = 1 + max((int(one["operation_id"]) for one in graph.operations), default=0)
    record = {
        "operation_id": number,
        **entry,
        "time": time.isoformat(),
        "finished": time.isoformat(),
        "status_code": 0,
        "user": user,
        "old_roots": old_roots.tolist(),
        "new_roots": plan.new_roots.tolist(),
    }
    graph.replace(next_state(plan), plan.edges(edges if made_up else edges[:0]), record, plan.new_l2_ids)
    return Edit(number, entry["kind"], time, old_roots, plan.new_roots, plan.new_l2_ids)


def _time(graph: ChunkedGraph, at: datetime | None) -> int:
    last = max((to_micros(operation_time(one)) for one in graph.operations), default=0)
    micros = to_micros(at or datetime.now(UTC)) // _MILLISECOND * _MILLISECOND
    if micros > last:
        return micros
    if at is not None:
        raise EditError(f"an edit at {at} would come before the one at {moment(last)}")
    return last + _MILLISECOND


def _one_root(graph: ChunkedGraph, supervoxels: Ids) -> int:
    if (graph.layout.layers(supervoxels) != 1).any():
        raise EditError("IDs must be supervoxels.")
    roots = np.unique(graph.roots(supervoxels))
    if len(roots) != 1 or roots[0] == 0:
        raise EditError("Supervoxels must belong to the same object.")
    return int(roots[0])


def _supervoxel_pair(graph: ChunkedGraph, source: int, sink: int) -> Ids:
    sides = [graph.supervoxels(int(node)) for node in (source, sink)]
    if not all(len(side) and graph.exists(side).all() for side in sides):
        raise EditError("Supervoxels must belong to different objects.")
    if all(len(side) == 1 for side in sides):
        return np.concatenate(sides)
    # chunks say closely enough which pieces are next to each other
    near, far = (graph.layout.chunks(side) for side in sides)
    from scipy.spatial import cKDTree

    distance, row = cKDTree(far).query(near, k=1)
    best = int(np.argmin(distance))
    return np.array([sides[0][best], sides[1][int(row[best])]], dtype=np.int64)


def _centres(graph: ChunkedGraph, supervoxels: Ids) -> Ints:
    """Rough places of supervoxels: the centres of their chunks, in voxels."""
    geometry = Geometry(graph)
    return (geometry.chunk_centres(graph.layout.chunks(supervoxels)) / geometry.resolution).astype(np.int64)


def _bounds(points: Ints) -> Ints:
    return np.stack([points.min(axis=0) - _REACH, points.max(axis=0) + _REACH])


def _inner_edges(graph: ChunkedGraph, l2_ids: Sequence[int]) -> Edges:
    state = graph.state
    supervoxels, owner = state.children_of(np.array(l2_ids, dtype=np.int64))
    near = graph.edges.around(supervoxels, graph.layout)
    parents = state.parents_of(near.pairs.reshape(-1)).reshape(-1, 2)
    inside = (parents[:, 0] == parents[:, 1]) & np.isin(parents[:, 0], l2_ids)
    edges = near[inside & (edge_layers(graph, near.pairs) == 1)]
    missing = _loose_ends(edges.pairs, supervoxels, owner)
    weak = np.full(len(missing), np.finfo(np.float32).tiny, dtype=np.float32)
    return Edges(
        np.concatenate([edges.pairs, missing]),
        np.concatenate([edges.affinities, weak]),
        np.concatenate([edges.areas, weak]),
    )


def _loose_ends(pairs: Ids, supervoxels: Ids, owner: Ids) -> Ids:
    """Edges that hold together the supervoxels of a level-2 id which the known edges leave apart."""
    parts = components(pairs, supervoxels)
    label = np.zeros(len(supervoxels), dtype=np.int64)
    order = np.argsort(supervoxels)
    for number, part in enumerate(parts):
        label[order[np.searchsorted(supervoxels[order], part)]] = number
    _, first = np.unique(np.stack([owner, label], axis=1), axis=0, return_index=True)
    same = owner[first][1:] == owner[first][:-1]
    return np.stack([supervoxels[first][:-1][same], supervoxels[first][1:][same]], axis=1)


def _active_edges(graph: ChunkedGraph, root: int, bounds: Ints | None) -> Edges:
    """Edges in use of an object, within bounds or everywhere; each once."""
    l2_ids = leaves(graph, root, 2, bounds)
    if not len(l2_ids):
        raise EditError("No local edges found.")
    inner = _inner_edges(graph, l2_ids.tolist())
    supervoxels = graph.state.children_of(l2_ids)[0]
    cross = graph.edges.leaving(np.unique(l2_ids))
    cross = cross[np.isin(cross, supervoxels).all(axis=1)]
    known = graph.edges.edges
    pairs = np.concatenate([np.sort(inner.pairs, axis=1), np.sort(cross, axis=1)])
    strength = np.concatenate([inner.affinities, _affinities(known, cross)])
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    return Edges(pairs, strength[first], np.ones(len(pairs), dtype=np.int64))


def _affinities(known: Edges, pairs: Ids) -> NDArray[np.float32]:
    """Affinities of edges, 1 for those that the segmentation does not know."""
    if not len(pairs):
        return np.empty(0, dtype=np.float32)
    near = np.isin(known.pairs, pairs).all(axis=1)
    table = np.concatenate([np.sort(known.pairs[near], axis=1), np.sort(pairs, axis=1)])
    values = np.concatenate([known.affinities[near], np.ones(len(pairs), dtype=np.float32)])
    _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    rows = first[inverse.reshape(-1)[len(table) - len(pairs) :]]
    return np.asarray(values[rows], dtype=np.float32)


def _among(pairs: Ids, others: Ids) -> Bools:
    """Whether each edge is among others, whichever way round."""
    if not len(pairs) or not len(others):
        return np.zeros(len(pairs), dtype=bool)
    both = np.concatenate([np.sort(others, axis=1), np.sort(pairs, axis=1)])
    _, inverse = np.unique(both, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    return np.isin(inverse[len(others) :], inverse[: len(others)])


def _unused_between(graph: ChunkedGraph, ends: Ids, points: Ints) -> Ids:
    """Edges of the segmentation between two objects near some points, int64 (n, 2)."""
    bounds = _bounds(points)
    roots = graph.roots(ends).tolist()
    try:
        near = [subgraph(graph, root, bounds, internal=False).pairs for root in roots]
    except IndexError:
        return np.empty((0, 2), dtype=np.int64)
    pairs = np.unique(np.sort(np.concatenate(near), axis=1), axis=0)
    inside = np.concatenate([graph.descendants([root], 1)[0] for root in roots])
    pairs = pairs[np.isin(pairs, inside).all(axis=1)]
    sides = graph.roots(pairs.reshape(-1)).reshape(-1, 2)
    between: Ids = pairs[sides[:, 0] != sides[:, 1]]
    return between


def cut(edges: Edges, sources: Ids, sinks: Ids) -> Ids:
    """Weakest edges that separate sources from sinks, int64 (n, 2); none if they are apart already.

    Raise EditError if a source is a sink too, or a mark is on no edge.
    """
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    if np.isin(sources, sinks).any():
        raise EditError("One or more supervoxel exists as both, sink and source.")
    nodes = np.unique(edges.pairs)
    if not np.isin(np.concatenate([sources, sinks]), nodes).all():
        raise EditError(
            "Sinks and sources are not connected through the local graph. "
            "Please try a different set of vertices to perform the mincut."
        )
    ends = np.searchsorted(nodes, edges.pairs)
    weight = np.maximum(np.round(np.minimum(edges.affinities, 1.0) * _UNIT), 1).astype(np.int32)
    start, stop = len(nodes), len(nodes) + 1
    marks = [np.searchsorted(nodes, side) for side in (sources, sinks)]
    # one more node ahead of all sources and one behind all sinks, on edges that are never worth cutting
    rows = np.concatenate([ends[:, 0], ends[:, 1], np.full(len(marks[0]), start), marks[1]])
    columns = np.concatenate([ends[:, 1], ends[:, 0], marks[0], np.full(len(marks[1]), stop)])
    endless = np.full(len(marks[0]) + len(marks[1]), np.iinfo(np.int32).max // 4, dtype=np.int32)
    capacity = csr_array(
        coo_array((np.concatenate([weight, weight, endless]), (rows, columns)), shape=(stop + 1,) * 2)
    )
    flow = maximum_flow(capacity, start, stop).flow
    rest = csr_array(capacity - flow)
    rest.eliminate_zeros()
    reached = np.zeros(stop + 1, dtype=bool)
    reached[breadth_first_order(rest, start, return_predecessors=False)] = True
    crossing = reached[ends[:, 0]] != reached[ends[:, 1]]
    weakest: Ids = edges.pairs[crossing]
    return weakest
