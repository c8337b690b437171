"""What earlier clients of these datasets got wrong and no other file tests."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cortexclient import label_vertices
from cortexclient.sandbox import Sandbox


@pytest.fixture(scope="module")
def roots(tiny: Sandbox) -> list[int]:
    return [int(root) for root in tiny.world.graph.alive()[:4]]


@pytest.mark.slow
def test_streams_and_logging_stay_whole_when_threads_work_at_once(tiny: Sandbox, roots: list[int]) -> None:
    import logging

    client = tiny.load()
    before = sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)
    seen: list[Any] = []
    barrier = threading.Barrier(4)

    def work(root: int) -> None:
        barrier.wait(timeout=30)
        client.get_skeleton(root)
        client.mesh.get_mesh(root)
        seen.append((sys.stdout, sys.stderr))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, roots))
    assert seen == [before[:2]] * 4
    assert (sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)) == before
    assert not sys.stdout.closed


def test_only_exports_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One listing tells all sizes; nothing is asked about files one by one."""
    from cortexclient import TableExportClient
    from cortexclient.store import places

    (tmp_path / "v1").mkdir()
    for number in range(50):
        (tmp_path / "v1" / f"other{number}.bin").write_bytes(b"x")
    (tmp_path / "v1" / "t.csv.gz").write_bytes(b"12345")
    listings: list[object] = []
    kind = type(places.open_place(str(tmp_path)))
    original = kind.listing
    monkeypatch.setattr(kind, "listing", lambda self: listings.append(self) or original(self))
    exports = TableExportClient(str(tmp_path))
    assert exports.available_data_df()["bytes"].tolist() == [5]
    assert exports.available_tables == ["t"]
    assert len(listings) == 1


def test_labels_need_memory_by_vertex_not_by_vertex_and_chunk() -> None:
    """A strip through 800 chunks with one level-2 id each: masks of each chunk would need 800 bytes a vertex."""
    chunks, each = 800, 100
    info = {
        "chunks_start_at_voxel_offset": False,
        "graph": {
            "chunk_size": [10, 10, 10],
            "n_layers": 4,
            "n_bits_for_layer_id": 8,
            "cv_mip": 0,
            "spatial_bit_masks": {"1": 10, "2": 10, "3": 9, "4": 8},
        },
        "mesh_metadata": {},
        "scales": [{"resolution": [100, 100, 100], "voxel_offset": [0, 0, 0], "size": [9000, 10, 10]}],
    }
    x = (np.arange(chunks * each) + 0.5) * (1000 / each)
    vertices = np.stack([x, np.where(np.arange(len(x)) % 2, 400.0, 600.0), np.full(len(x), 500.0)], axis=1)
    start = np.arange(len(x) - 2)
    faces = np.stack([start, start + 1, start + 2], axis=1)
    l2_ids = np.array([(2 << 56) | (chunk << 46) | 1 for chunk in range(chunks)])
    points = np.stack(
        [np.arange(chunks) * 1000.0 + 500, np.full(chunks, 500.0), np.full(chunks, 500.0)], axis=1
    )
    label_vertices(vertices[:500], faces[:400], l2_ids[:5], points[:5], info=info)  # packages are loaded
    tracemalloc.start()
    labels = label_vertices(vertices, faces, l2_ids, points, info=info)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400 * len(vertices)
    assert (labels == np.repeat(l2_ids, each)).mean() > 0.99


def test_the_number_of_jobs_changes_nothing(tiny: Sandbox, roots: list[int]) -> None:
    client = tiny.load()
    one, many = (client.mesh.compute_vertex_to_l2_mapping(roots[0], n_jobs=jobs) for jobs in (1, 16))
    np.testing.assert_array_equal(one, many)


def test_meshes_leave_the_users_volume_alone(tiny: Sandbox, roots: list[int]) -> None:
    client = tiny.load()
    volume = client.mesh.cv
    assert client.mesh.cv is volume is client.segmentation_cloudvolume()
    before = volume.image.lru.size, volume.progress
    client.mesh.compute_vertex_to_l2_mapping(roots[0], cloudvolume_fallback=True)
    assert (volume.image.lru.size, volume.progress) == before
