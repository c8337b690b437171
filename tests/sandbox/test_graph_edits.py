"""Edits keep the graph whole: property tests over random histories, and a replay of edits that real services made."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.stores.graph import edits as graph_edits
from cortexclient.sandbox.stores.graph import history as graph_history
from cortexclient.sandbox.stores.graph.edits import components
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph

START = datetime(2021, 1, 1, tzinfo=UTC)


def opened(folder: Path) -> ChunkedGraph:
    return ChunkedGraph(DataFolder.open(folder))


def all_supervoxels(graph: ChunkedGraph) -> np.ndarray:
    nodes = graph.state.nodes
    return nodes[graph.layout.layers(nodes) == 1]


def pairs(edges: np.ndarray) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in np.sort(edges.reshape(-1, 2), axis=1)}


def check_whole(graph: ChunkedGraph, supervoxels: np.ndarray) -> None:
    """Check that every supervoxel has one root, and that the tree, the level-2 graphs and the ids agree."""
    roots = graph.roots(supervoxels)
    alive = graph.alive()
    assert set(roots.tolist()) == set(alive.tolist())
    assert graph.is_latest(alive).all()
    found, owner = graph.descendants(alive, 1)
    assert sorted(found.tolist()) == sorted(supervoxels.tolist())
    assert (alive[owner] == graph.roots(found)).all()
    for root in alive.tolist():
        l2_ids = graph.l2_ids(root)
        edges = graph.l2_edges(root)
        assert np.isin(edges, l2_ids).all()
        assert len(components(edges, l2_ids)) == 1
        assert (graph.roots(l2_ids) == root).all()
    nodes = graph.state.nodes
    parents = graph.state.parents_of(nodes)
    lower, upper = nodes[parents != 0], parents[parents != 0]
    for node, parent in zip(lower.tolist(), upper.tolist(), strict=True):
        low, high = int(graph.layout.layers(node)), int(graph.layout.layers(parent))
        assert low < high
        inside = graph.layout.at_layer(graph.layout.chunks(np.array([node]))[0], low, high)
        assert (inside == graph.layout.chunks(np.array([parent]))[0]).all()


STEP = st.tuples(st.sampled_from(["merge", "split", "undo"]), st.integers(0, 10_000), st.integers(0, 10_000))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEP, min_size=1, max_size=9))
def test_any_history_keeps_the_graph_whole(block_folder: Path, steps: list[tuple[str, int, int]]) -> None:
    graph = opened(block_folder)
    supervoxels = all_supervoxels(graph)
    before = {START: graph.roots(supervoxels, START)}
    for number, (kind, a, b) in enumerate(steps, start=1):
        when = START + timedelta(hours=number)
        generation = graph.generation
        ends = [int(supervoxels[a % len(supervoxels)]), int(supervoxels[b % len(supervoxels)])]
        if kind == "split" and b % 10:
            # mostly within one object, or few splits would be allowed
            mates = graph.supervoxels(int(graph.roots([ends[0]])[0]))
            ends[1] = int(mates[b % len(mates)])
        past = before[max(before)]
        try:
            if kind == "merge":
                edit = graph_edits.merge(graph, *ends, at=when)
            elif kind == "split":
                edit = graph_edits.split(graph, *ends, at=when)
                assert graph.roots(ends)[0] != graph.roots(ends)[1]
            else:
                operation = a % (len(graph.operations) + 1) or 1
                edit = graph_edits.undo(graph, operation, at=when)
        except graph_edits.EditError:
            assert graph.generation == generation
            assert (graph.roots(supervoxels) == past).all()
            continue
        assert graph.generation == generation + 1
        check_whole(graph, supervoxels)
        before[when] = graph.roots(supervoxels)
        check_lineage(graph, supervoxels, edit, past, before[when])
    for when, roots in before.items():
        assert (graph.roots(supervoxels, when) == roots).all()
        assert set(graph.alive(when).tolist()) == set(roots.tolist())
        assert graph.is_latest(np.unique(roots), when + timedelta(milliseconds=1)).all()


def check_lineage(
    graph: ChunkedGraph, supervoxels: np.ndarray, edit: graph_edits.Edit, past: np.ndarray, now: np.ndarray
) -> None:
    """Check that exactly the edited objects changed, and that every account of it is the same."""
    changed = past != now
    assert set(past[changed].tolist()) == set(edit.old_roots.tolist())
    assert set(now[changed].tolist()) == set(edit.new_roots.tolist())
    assert not graph.is_latest(edit.old_roots).any()
    assert (graph.superseded(edit.old_roots) == graph.created(edit.new_roots)[0]).all()
    earlier = edit.time - timedelta(milliseconds=1)
    pieces = graph.descendants(edit.new_roots, 1)[0]
    assert set(graph.roots(pieces, earlier).tolist()) == set(edit.old_roots.tolist())
    tree = graph_history.lineage(graph, edit.new_roots.tolist())
    for root in edit.new_roots.tolist():
        assert set(edit.old_roots.tolist()) <= set(tree.ancestors(root))
    old, new = graph_history.delta_roots(graph, edit.time, edit.time)
    assert (set(old.tolist()), set(new.tolist())) == (
        set(edit.old_roots.tolist()),
        set(edit.new_roots.tolist()),
    )
    assert (graph.layout.layers(edit.new_l2_ids) == 2).all()
    assert (graph.created(edit.new_l2_ids).astype(np.int64) == int(edit.time.timestamp() * 1e6)).all()
    assert np.isin(graph.roots(edit.new_l2_ids), edit.new_roots).all()


def test_a_merge_makes_new_ids_only_where_it_was_made(block_folder: Path) -> None:
    graph = opened(block_folder)
    first, second = graph.alive()[:2].tolist()
    kept = {int(node) for root in (first, second) for node in graph.l2_ids(root)}
    ends = graph.supervoxels(first)[0], graph.supervoxels(second)[0]
    edit = graph_edits.merge(graph, *map(int, ends), at=START)
    assert len(edit.new_l2_ids) == 1
    assert len(kept & {int(node) for node in graph.l2_ids(int(edit.new_roots[0]))}) == 6
    assert (graph.children(int(edit.new_l2_ids[0])) == np.sort(ends)).all()
    assert len(graph.l2_edges(int(edit.new_roots[0]))) == 6


def test_roots_can_be_merged_without_naming_supervoxels(block_folder: Path) -> None:
    graph = opened(block_folder)
    first, last = graph.alive()[[0, -1]].tolist()
    edit = graph_edits.merge(graph, first, last)
    # the two run in different chunks, so both get a new level-2 id and an edge between them
    assert len(edit.new_l2_ids) == 2
    assert pairs(edit.new_l2_ids) <= pairs(graph.l2_edges(int(edit.new_roots[0])))


def test_a_root_alone_is_cut_in_the_middle(block_folder: Path) -> None:
    graph = opened(block_folder)
    root = int(graph.alive()[0])
    edit = graph_edits.split(graph, root)
    assert [len(graph.l2_ids(piece)) for piece in edit.new_roots.tolist()] in ([2, 2], [1, 3], [3, 1])
    tip = next(piece for piece in edit.new_roots.tolist() if len(graph.l2_ids(piece)) < 3)
    while len(graph.supervoxels(tip)) > 1:
        tip = int(graph_edits.split(graph, tip).new_roots[0])
    with pytest.raises(graph_edits.EditError):
        graph_edits.split(graph, tip)
    check_whole(graph, all_supervoxels(graph))


def test_what_cannot_be_edited_says_so(block_folder: Path) -> None:
    graph = opened(block_folder)
    one, other = graph.supervoxels(int(graph.alive()[0]))[:2].tolist()
    far = int(graph.supervoxels(int(graph.alive()[1]))[0])
    for attempt, text in (
        (lambda: graph_edits.merge(graph, one, other), "different objects"),
        (lambda: graph_edits.merge(graph, one, one), "self-loop"),
        (lambda: graph_edits.merge(graph, one, 5), "different objects"),
        (lambda: graph_edits.split(graph, one, far), "same object"),
        (lambda: graph_edits.split(graph, one, one), "both, sink and source"),
        (lambda: graph_edits.split(graph, int(graph.alive()[0]), other), "must be supervoxels"),
        (lambda: graph_edits.undo(graph, 7), "no operation 7"),
        (lambda: graph_edits.redo(graph, 7), "no operation 7"),
    ):
        with pytest.raises(graph_edits.EditError, match=text):
            attempt()
    assert graph.generation == 0


def test_edits_come_in_order_of_time(block_folder: Path) -> None:
    graph = opened(block_folder)
    roots = graph.alive().tolist()
    graph_edits.merge(graph, roots[0], roots[1], at=START)
    with pytest.raises(graph_edits.EditError, match="before"):
        graph_edits.merge(graph, roots[2], roots[3], at=START)


def test_undo_and_redo(block_folder: Path) -> None:
    graph = opened(block_folder)
    supervoxels = all_supervoxels(graph)

    def partition() -> set[frozenset[int]]:
        roots = graph.roots(supervoxels)
        return {frozenset(supervoxels[roots == root].tolist()) for root in np.unique(roots)}

    apart = partition()
    edit = graph_edits.merge(graph, *graph.alive()[:2].tolist())
    joined = partition()
    undone = graph_edits.undo(graph, edit.operation_id)
    assert partition() == apart
    redone = graph_edits.redo(graph, edit.operation_id)
    assert partition() == joined
    # to undo or redo one of these is to undo or redo the first edit, as their log says
    undo, redo = {"undo_operation_id": edit.operation_id}, {"redo_operation_id": edit.operation_id}
    for step, operation, pieces, said in (
        (graph_edits.undo, redone, apart, undo),
        (graph_edits.undo, undone, joined, redo),
        (graph_edits.redo, undone, apart, undo),
        (graph_edits.redo, redone, joined, redo),
    ):
        step(graph, operation.operation_id)
        assert partition() == pieces
        assert graph.operations[-1].items() >= said.items()
    with pytest.raises(graph_edits.EditError, match="not undone"):
        graph_edits.redo(graph, 3)


def test_threads_can_edit_and_read_at_once(block_folder: Path) -> None:
    graph = opened(block_folder)
    supervoxels = all_supervoxels(graph)
    wrong: list[object] = []

    def read() -> None:
        for _ in range(60):
            roots = graph.roots(supervoxels)
            if (graph.layout.layers(roots) != graph.n_layers).any():
                wrong.append(roots)

    roots = graph.alive().tolist()
    writers = [
        threading.Thread(target=graph_edits.merge, args=(graph, roots[2 * pair], roots[2 * pair + 1]))
        for pair in range(4)
    ]
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in (*readers, *writers):
        thread.join()
    assert not wrong
    assert graph.generation == 4
    assert len({entry["time"] for entry in graph.operations}) == 4
    check_whole(graph, supervoxels)


def test_real_edits_made_again_make_the_same_ids(recordings: Path, tmp_path: Path) -> None:
    """Repeat the four real edits on the real graph as it was before them: all ids but the roots' are the same."""
    recorded = recordings / "real_toy_datastack"
    graph = opened(before_edits(recorded, tmp_path))
    real = opened(recorded)
    for entry in json.loads((recorded / "chunkedgraph" / "operations.json").read_text()):
        points = entry["source_coords_voxel"], entry["sink_coords_voxel"]
        when = datetime.fromisoformat(entry["time"])
        if entry["kind"] == "merge":
            (ends,) = entry["added_edges"]
            edit = graph_edits.merge(graph, *ends, points_vx=[points[0][0], points[1][0]], at=when)
        else:
            sides = entry["source_supervoxels"], entry["sink_supervoxels"]
            edit = graph_edits.split(graph, *sides, points_vx=points, local=True, at=when)
            assert pairs(np.array(entry["removed_edges"])) == pairs(
                np.array(graph.operations[-1]["removed_edges"])
            )
        (mine,), (theirs,) = edit.new_roots.tolist(), entry["new_roots"]
        for layer in (1, 2, 3, 4):
            ids = graph.descendants([mine], layer)[0]
            assert set(ids.tolist()) == set(real.descendants([theirs], layer)[0].tolist())
        assert pairs(graph.l2_edges(mine)) == pairs(real.l2_edges(theirs))


def before_edits(recorded: Path, place: Path) -> Path:
    """Copy a recorded graph as it was before anyone edited it."""
    source, folder = recorded / "chunkedgraph", place / "before" / "chunkedgraph"
    folder.mkdir(parents=True)
    shutil.copy(recorded / "datastack_info.json", folder.parent)
    for name in ("info.json", "edges.parquet"):
        shutil.copy(source / name, folder)
    start = pd.Timestamp("2026-01-01", tz="UTC")
    nodes = pd.read_parquet(source / "nodes.parquet")
    nodes = nodes[nodes["created"] < start]
    nodes.assign(superseded=nodes["superseded"].mask(nodes["superseded"].notna())).to_parquet(
        folder / "nodes.parquet"
    )
    for name in ("parents", "l2_cross_edges"):
        table = pd.read_parquet(source / f"{name}.parquet")
        table[table["valid_from"] < start].to_parquet(folder / f"{name}.parquet")
    graphs = pd.read_parquet(source / "l2_edges.parquet")
    graphs[graphs["root_id"].isin(nodes["node_id"])].to_parquet(folder / "l2_edges.parquet")
    return folder.parent
