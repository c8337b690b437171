"""The graph services as the unmodified caveclient and cloud-volume see them, before and after edits."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from cloudvolume import CloudVolume

from cortexclient.sandbox import Sandbox
from tests.sandbox.toy import client_of


@pytest.fixture(scope="module")
def still(block_folder: Path) -> Iterator[Sandbox]:
    """Sandbox that no test edits."""
    with Sandbox(data=block_folder) as sandbox:
        yield sandbox


def volume_of(sandbox: Sandbox, **options: Any) -> Any:
    return CloudVolume(
        f"graphene://{sandbox.url}/segmentation/table/{sandbox.world.names.pcg_table}",
        use_https=True,
        secrets={"token": sandbox.token},
        progress=False,
        fill_missing=True,
        **options,
    )


def test_cloud_volume_reads_voxels_and_meshes(still: Sandbox) -> None:
    graph = still.world.graph
    root = int(graph.alive()[0])
    volume = volume_of(still, agglomerate=True)
    whole = volume[:, :, :][..., 0]
    expected = graph.roots(graph.volume.cutout(np.zeros(3, int), np.array([96, 48, 24])).reshape(-1))
    assert (whole.reshape(-1) == expected).all()
    mesh = volume.mesh.get(root)
    mesh = mesh[root] if isinstance(mesh, dict) else mesh
    assert len(mesh.vertices) == 4 * 8
    assert mesh.vertices.min(axis=0) == pytest.approx([0, 0, 0], abs=1)
    assert mesh.vertices.max(axis=0) == pytest.approx([768, 96, 480], abs=1)
    assert set(volume.get_leaves(root, volume.bounds, 0)) == set(graph.supervoxels(root))
    points = volume_of(still).scattered_points([(1, 1, 1), (25, 1, 1)])
    assert {int(value.item()) for value in points.values()} <= set(graph.supervoxels(root).tolist())


def test_manifests(still: Sandbox) -> None:
    graph = still.world.graph
    root = int(graph.alive()[0])
    url = f"{still.url}/meshing/api/v1/table/blocks/manifest/{root}:0"
    plain = requests.get(url, params={"verify": 1}, timeout=10).json()
    assert set(plain) == {"fragments"}
    owners = [int(name.split(":")[0]) for name in plain["fragments"]]
    assert set(owners) == set(graph.l2_ids(root).tolist())
    with_ids = requests.get(url, params={"return_seg_ids": 1, "prepend_seg_ids": 1}, timeout=10).json()
    assert with_ids["fragments"] == [
        f"~{owner}:{name}" for owner, name in zip(with_ids["seg_ids"], plain["fragments"], strict=True)
    ]
    near = requests.get(url, params={"bounds": "0-24_0-24_0-24"}, json={"start_layer": 2}, timeout=10).json()
    assert len(near["fragments"]) == 1
    again = f"{still.url}/meshing/api/v1/table/blocks/remeshing"
    assert requests.post(again, json={"new_lvl2_ids": [1]}, timeout=10).status_code == 202


def test_fragments_in_shards_are_passed_through(block_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(block_folder, folder)
    table = pd.read_parquet(folder / "meshes.parquet")
    table["fragment"] = [f"~2/a.shard:{row}:100" for row in range(len(table))]
    table.to_parquet(folder / "meshes.parquet")
    with Sandbox(data=folder) as sandbox:
        root = int(sandbox.world.graph.alive()[0])
        url = f"{sandbox.url}/meshing/api/v1/table/blocks/manifest/{root}:0"
        found = requests.get(url, params={"return_seg_ids": 1, "prepend_seg_ids": 1}, timeout=10).json()
        assert sorted(found["seg_ids"]) == sorted(sandbox.world.graph.l2_ids(root).tolist())
        for owner, name in zip(found["seg_ids"], found["fragments"], strict=True):
            assert name.startswith(f"~{owner}:~2/a.shard:")


def test_packed_bodies(still: Sandbox) -> None:
    graph = still.world.graph
    root = int(graph.alive()[0])
    packed = requests.post(
        f"{still.url}/segmentation/api/v1/table/blocks/roots_binary",
        data=gzip.compress(graph.supervoxels(root).astype("<u8").tobytes()),
        headers={"Content-Encoding": "gzip"},
        timeout=10,
    )
    assert (np.frombuffer(packed.content, "<u8") == root).all()


def test_edits_by_client_are_seen_everywhere(block_folder: Path) -> None:
    with Sandbox(data=block_folder) as sandbox:
        client = client_of(sandbox)
        graph, pcg = sandbox.world.graph, client.chunkedgraph
        before = datetime.now(UTC)
        points = np.array([[100, 48, 240], [100, 144, 240]])
        ends = graph.volume.supervoxel_at(points / [8, 8, 40])
        old = graph.roots(ends).tolist()

        (merged,) = pcg.do_merge(ends, points, resolution=(1, 1, 1))["new_root_ids"]
        assert pcg.is_latest_roots([*old, merged]).tolist() == [False, False, True]
        assert pcg.get_latest_roots(old[0]) == [merged]
        assert set(pcg.get_past_ids([merged], timestamp_past=before)["past_id_map"][merged]) == set(old)
        assert set(pcg.get_delta_roots(before - timedelta(seconds=1))[1]) == {merged}
        log = pcg.get_change_log(merged)
        assert (log["n_mergers"], log["n_splits"], set(log["past_ids"])) == (1, 0, set(old))
        # all edges that the segmentation knows between the two near the points are put to use
        assert len(graph.made_here) == 4
        data = client.l2cache.get_l2data(sorted(graph.made_here))
        assert {entry["size_nm3"] for entry in data.values()} == {2 * 24 * 12 * 12 * 2560}
        mesh = volume_of(sandbox).mesh.get(merged)
        mesh = mesh[merged] if isinstance(mesh, dict) else mesh
        assert mesh.vertices.min(axis=0) == pytest.approx([0, 0, 0], abs=30)
        assert mesh.vertices.max(axis=0) == pytest.approx([768, 192, 480], abs=30)
        manifest = requests.get(
            f"{sandbox.url}/meshing/api/v1/table/blocks/manifest/{merged}:0?return_seg_ids=1", timeout=10
        ).json()
        assert sorted(manifest["seg_ids"]) == sorted(graph.l2_ids(merged).tolist())

        sides = [points[:1], points[1:], merged, ends[:1], ends[1:]]
        source, sink, allowed = pcg.preview_split(*sides)
        assert allowed
        assert (set(source), set(sink)) == tuple(set(graph.supervoxels(root).tolist()) for root in old)
        operation, pieces = pcg.execute_split(*sides)
        assert set(graph.roots(ends).tolist()) == set(pieces)
        assert [set(graph.supervoxels(int(piece))) for piece in graph.roots(ends)] == [set(source), set(sink)]
        assert pcg.get_change_log(int(pieces[0]))["n_splits"] == 1
        table = pcg.get_tabular_change_log(int(pieces[0]), filtered=False)[int(pieces[0])]
        assert table["is_merge"].tolist() == [True, False]
        assert table["user_name"].tolist() == ["Ann", "Ann"]
        assert pcg.get_operation_details([operation])[str(operation)]["sink_ids"] == [ends[1]]

        again = requests.post(
            f"{sandbox.url}/segmentation/api/v1/table/blocks/undo",
            json={"operation_id": operation},
            timeout=10,
        ).json()
        assert (graph.roots(ends) == again["new_root_ids"]).all()
        (merged,) = again["new_root_ids"]
        table = pcg.get_tabular_change_log(merged, filtered=False)[merged]
        assert table["is_merge"].tolist() == [True, False, True]
        with pytest.raises(requests.HTTPError, match="different objects"):
            pcg.do_merge(ends, points, resolution=(1, 1, 1))
