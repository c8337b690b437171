"""What unmodified clients read from a served cortex is what its generator knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from cortexclient.sandbox import Sandbox
from tests.sandbox.toy import client_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BETWEEN_EDITS = datetime(2025, 5, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def client(tiny: Sandbox) -> Any:
    return client_of(tiny)


def test_cloudvolume_gets_the_mesh_whose_level2_ids_are_known(tiny: Sandbox, client: Any) -> None:
    volume = client.info.segmentation_cloudvolume(progress=False)
    root = int(tiny.truth.cells["root_id"].iloc[0])
    mesh = volume.mesh.get(root)[root]
    vertices, faces, l2_ids = tiny.truth.mesh(root)
    np.testing.assert_array_equal(mesh.vertices, vertices)
    np.testing.assert_array_equal(mesh.faces, faces)
    assert set(l2_ids) <= set(client.chunkedgraph.get_leaves(root, stop_layer=2).tolist())


@pytest.mark.parametrize("size", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_roots_are_those_of_the_truth_at_any_time(sandbox_factory: Any, size: str) -> None:
    sandbox = sandbox_factory(size=size)
    graph, truth = client_of(sandbox).chunkedgraph, sandbox.truth
    supervoxels = truth.supervoxels["supervoxel_id"].to_numpy()
    edits = [datetime.fromisoformat(edit["time"]) for edit in sandbox.world.graph.operations]
    for when in (NOW, *edits, *(edit + timedelta(seconds=1) for edit in edits)):
        found = graph.get_roots(supervoxels, timestamp=when).astype(np.int64)
        np.testing.assert_array_equal(found, truth.root_of_supervoxel(supervoxels, when))
        root = int(found[0])  # also of a root that is no more
        assert sorted(graph.get_leaves(root)) == sorted(supervoxels[found == root])


@pytest.mark.filterwarnings("ignore:.*numexpr.*:RuntimeWarning")
@pytest.mark.parametrize("when", [BETWEEN_EDITS, NOW])
def test_live_synapses_are_those_of_the_truth(tiny: Sandbox, client: Any, when: datetime) -> None:
    table = tiny.world.names.public("synapses")
    for root in np.unique(tiny.truth.root_of_cell(tiny.truth.cells["cell_id"].iloc[:4], when)):
        for side in ("pre", "post"):
            wanted = {table: {f"{side}_pt_root_id": int(root)}}
            rows = client.materialize.live_live_query(
                table, timestamp=when, filter_equal_dict=wanted, log_warning=False, metadata=False
            )
            np.testing.assert_array_equal(np.sort(rows["id"]), tiny.truth.synapses_of(int(root), side, when))


def test_counts_are_those_of_the_rows(tiny: Sandbox, client: Any) -> None:
    for table in client.materialize.get_tables():
        rows = client.materialize.query_table(table, merge_reference=False)
        assert client.materialize.get_annotation_count(table) == len(rows)


def test_image_and_segmentation_show_the_same_cell(tiny: Sandbox, client: Any) -> None:
    image = client.info.image_cloudvolume(progress=False)
    bounds = image.bounds
    grey = np.asarray(image[bounds])[..., 0]
    assert grey.std() > 10
    segmentation = client.info.segmentation_cloudvolume(progress=False)
    cell = tiny.truth.cells.iloc[0]
    soma = cell[["soma_x_nm", "soma_y_nm", "soma_z_nm"]].to_numpy(dtype=float)
    assert ((np.array(bounds.minpt) * image.resolution) < soma).all()
    assert (soma < (np.array(bounds.maxpt) * image.resolution)).all()
    voxel = np.floor(soma / segmentation.resolution).astype(int)
    block = np.asarray(segmentation[tuple(slice(v - 40, v + 40) for v in voxel.tolist())])[..., 0]
    assert block[40, 40, 40] == cell["soma_supervoxel_id"]
    np.testing.assert_array_equal(block, tiny.world.graph.volume.cutout(voxel - 40, voxel + 40))
