"""The graph store by itself: ids, time, sizes, and folders with parts missing."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.stores.graph import edits as graph_edits
from cortexclient.sandbox.stores.graph import history as graph_history
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
from cortexclient.sandbox.stores.graph.space import Volume
from cortexclient.sandbox.stores.graph.state import NEVER, IdLayout, to_micros
from cortexclient.sandbox.stores.l2cache import L2Cache


@pytest.fixture
def blocks(block_folder: Path) -> ChunkedGraph:
    return ChunkedGraph(DataFolder.open(block_folder))


def copy_of(block_folder: Path, place: Path, *without: str) -> ChunkedGraph:
    shutil.copytree(block_folder, place)
    for name in without:
        (place / name).unlink()
    return ChunkedGraph(DataFolder.open(place))


def test_ids_of_a_real_dataset(shared_data: Path) -> None:
    folder = shared_data / "minnie65_pcg"
    infos = [path for path in sorted(folder.glob("*.json")) if "spatial_bit_masks" in path.read_text()]
    info = json.loads(infos[0].read_text())
    layout = IdLayout.from_info(info if "graph" in info else next(v for v in info.values() if "graph" in v))
    assert layout.layers([864691135000000137])[0] == layout.n_layers


def test_unknown_ids(blocks: ChunkedGraph) -> None:
    known = blocks.supervoxels(int(blocks.alive()[0]))[:1]
    unknown = np.array([72057594037929999])
    assert blocks.roots(unknown).tolist() == [0]
    # the service's own way: alone they come back as they are, next to others as 0
    assert blocks.climb(unknown, NEVER, 4).tolist() == unknown.tolist()
    assert blocks.climb(np.concatenate([unknown, known]), NEVER, 4)[0] == 0
    assert np.isnat(blocks.created(unknown)).all()
    assert np.isnat(blocks.superseded(unknown)).all()
    assert blocks.exists(np.concatenate([unknown, known])).tolist() == [False, True]
    assert len(blocks.children(72057594037929999)) == 0
    assert len(blocks.l2_edges(5)) == 0


def test_a_root_is_latest_from_the_millisecond_after(blocks: ChunkedGraph) -> None:
    edit = graph_edits.merge(blocks, *blocks.alive()[:2].tolist(), at=datetime(2022, 1, 1, tzinfo=UTC))
    roots = [*edit.old_roots, *edit.new_roots]
    assert blocks.is_latest(roots, edit.time).tolist() == [True, True, False]
    assert blocks.is_latest(roots, edit.time + timedelta(microseconds=999)).tolist() == [True, True, False]
    assert blocks.is_latest(roots, edit.time + timedelta(milliseconds=1)).tolist() == [False, False, True]
    late = edit.time + timedelta(days=1)
    times = graph_history.latest_timestamps(blocks, np.array(roots), late)
    assert times == [edit.time.timestamp()] * 2 + [late.timestamp()]
    with pytest.raises(IndexError, match="empty deque"):
        graph_history.latest_timestamps(blocks, edit.new_roots, edit.time - timedelta(days=1))
    assert blocks.oldest() == edit.time - timedelta(milliseconds=500)


def test_supervoxels_at_points_from_either_form_of_the_volume(block_folder: Path, tmp_path: Path) -> None:
    graph = ChunkedGraph(DataFolder.open(block_folder))
    other = copy_of(block_folder, tmp_path / "chunks", "chunkedgraph/watershed.npz")
    points = np.random.default_rng(1).uniform([-5, -5, -5], [101, 53, 29], size=(300, 3))
    found = graph.volume.supervoxel_at(points)
    assert (found == other.volume.supervoxel_at(points)).all()
    inside = ((points >= 0) & (points < [96, 48, 24])).all(axis=1)
    assert ((found != 0) == inside).all()
    chunks = graph.layout.chunks(found[inside])
    assert (chunks == np.floor(points[inside] / 24)).all()
    bare = copy_of(block_folder, tmp_path / "bare", "chunkedgraph/watershed.npz")
    shutil.rmtree(tmp_path / "bare" / "precomputed")
    assert not Volume(bare).available
    assert not bare.volume.supervoxel_at(points).any()


def test_a_point_near_an_object_finds_its_supervoxel(blocks: ChunkedGraph) -> None:
    root = int(blocks.roots(blocks.volume.supervoxel_at([[40, 20, 10]]))[0])
    made = to_micros(datetime(2020, 1, 1, tzinfo=UTC))
    near = np.array([[40, 26, 10]])  # in the next chunk, 3 voxels away
    assert blocks.roots(blocks.volume.supervoxel_at(near))[0] != root
    assert blocks.roots(blocks.volume.nearest_of(root, near, made)).tolist() == [root]
    far = int(blocks.roots(blocks.volume.supervoxel_at([[40, 44, 22]]))[0])
    with pytest.raises(LookupError, match="outside of inclusive range"):
        blocks.volume.nearest_of(far, np.array([[40, 11, 3]]), made)
    with pytest.raises(IndexError, match="cannot be outside of inclusive range 0 to 96"):
        blocks.volume.nearest_of(root, np.array([[2, 20, 10]]), made)


def test_folders_without_edges_or_supervoxel_rows_can_be_edited(block_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "less"
    copy_of(block_folder, place, "chunkedgraph/edges.parquet", "chunkedgraph/l2_cross_edges.parquet")
    for name, column in (("nodes", "layer"), ("parents", None)):
        path = place / "chunkedgraph" / f"{name}.parquet"
        table = pd.read_parquet(path)
        if column:
            supervoxels = table[table["layer"] == 1]
            table[table["layer"] > 1].to_parquet(path)
        else:
            low = table[table["node_id"].isin(supervoxels["node_id"])]
            table[~table["node_id"].isin(supervoxels["node_id"])].to_parquet(path)
            rows = low.rename(columns={"node_id": "supervoxel_id", "parent_id": "l2_id"})
            rows.to_parquet(place / "chunkedgraph" / "supervoxels.parquet")
    graph, whole = ChunkedGraph(DataFolder.open(place)), ChunkedGraph(DataFolder.open(block_folder))
    assert (graph.state.nodes == whole.state.nodes).all()
    assert (graph.alive() == whole.alive()).all()
    assert (graph.supervoxels(int(graph.alive()[0])) == whole.supervoxels(int(graph.alive()[0]))).all()
    edit = graph_edits.merge(graph, *graph.alive()[:2].tolist())
    ends = graph.supervoxels(int(edit.new_roots[0]))[[0, -1]]
    graph_edits.split(graph, *ends.tolist())
    assert len(set(graph.roots(ends).tolist())) == 2


def test_a_cache_misses_what_it_does_not_hold(block_folder: Path, tmp_path: Path) -> None:
    graph = ChunkedGraph(DataFolder.open(block_folder))
    cache = L2Cache(graph)
    l2_id = int(graph.l2_ids(int(graph.alive()[0]))[0])
    assert cache.get([l2_id, l2_id, 7], ["max_dt_nm"]) == {7: {}, l2_id: {"max_dt_nm": 32}}
    empty = L2Cache(copy_of(block_folder, tmp_path / "none", "l2cache.parquet"))
    assert empty.get([l2_id]) == {l2_id: {}}
    assert not empty.available


def test_new_level_2_ids_get_attributes(block_folder: Path) -> None:
    graph = ChunkedGraph(DataFolder.open(block_folder))
    cache = L2Cache(graph)
    first, second = (graph.supervoxels(int(root))[0] for root in graph.alive()[:2])
    (joined,) = graph_edits.merge(graph, int(first), int(second)).new_l2_ids.tolist()
    one, other = (int(graph.state.all_parents_of([end])[0]) for end in (first, second))
    parts = cache.get([one, other])
    whole = cache.get([joined])[joined]
    assert whole["size_nm3"] == parts[one]["size_nm3"] + parts[other]["size_nm3"]
    assert whole["rep_coord_nm"] in (parts[one]["rep_coord_nm"], parts[other]["rep_coord_nm"])
    pieces = graph_edits.split(graph, int(first), int(second)).new_l2_ids.tolist()
    apart = cache.get(pieces)
    assert sorted(entry["rep_coord_nm"] for entry in apart.values()) == sorted(
        parts[part]["rep_coord_nm"] for part in (one, other)
    )
