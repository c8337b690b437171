"""Real cells, converted into data folders, served, and read back by unmodified clients.

What is expected comes from the recordings themselves, read here with pandas and numpy alone.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.convert import convert_cell
from cortexclient.testing import clear_client_caches
from tests.sandbox.toy import client_of

pytestmark = pytest.mark.slow  # millions of vertices

ROOT = 864691135336055529
SERVICE_ROOT = 864691135101289504


class Recording:
    """Members of the recorded file, by name."""

    def __init__(self, path: Path) -> None:
        self.archive = tarfile.open(path)  # noqa: SIM115 - closed with the fixture

    def frame(self, name: str) -> pd.DataFrame:
        return pd.read_feather(io.BytesIO(self.archive.extractfile(name).read()))

    def array(self, name: str) -> np.ndarray:
        return np.load(io.BytesIO(self.archive.extractfile(name).read()))["data"]


@pytest.fixture(scope="module")
def recording(shared_data: Path) -> Iterator[Recording]:
    found = Recording(shared_data / "minnie65_cell" / "test_cell_with_mesh.osy")
    yield found
    found.archive.close()


@pytest.fixture(scope="module")
def graph(shared_data: Path) -> Iterator[Recording]:
    found = Recording(shared_data / "minnie65_cell" / f"{ROOT}.osy")
    yield found
    found.archive.close()


@pytest.fixture(scope="module")
def cell(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = convert_cell(
        shared_data / "minnie65_cell" / "test_cell_with_mesh.osy",
        tmp_path_factory.mktemp("cell"),
        info=shared_data / "minnie65_pcg" / "info.json",
        graph=shared_data / "minnie65_cell" / f"{ROOT}.osy",
    )
    clear_client_caches()
    with Sandbox(data=folder.path) as sandbox:
        yield sandbox
    clear_client_caches()


@pytest.fixture(scope="module")
def cave(cell: Sandbox) -> Any:
    return client_of(cell)


@pytest.mark.parametrize(("side", "count"), [("pre", 902), ("post", 2648)])
@pytest.mark.parametrize("live", [False, True], ids=["frozen", "live"])
def test_synapses(cave: Any, recording: Recording, side: str, count: int, live: bool) -> None:
    expected = recording.frame(f"annotations/{side}_syn/nodes.feather").sort_index()
    equal = {"synapses_pni_2": {f"{side}_pt_root_id": ROOT}}
    if live:
        rows = cave.materialize.live_live_query(
            "synapses_pni_2",
            cave.materialize.get_timestamp(1),
            filter_equal_dict=equal,
            desired_resolution=[1, 1, 1],
            log_warning=False,
        )
    else:
        rows = cave.materialize.query_table(
            "synapses_pni_2", filter_equal_dict=equal["synapses_pni_2"], desired_resolution=[1, 1, 1]
        )
    rows = rows.sort_values("id")
    assert len(rows) == len(expected) == count
    assert rows["id"].tolist() == expected.index.tolist()
    for name in ("pre_pt_supervoxel_id", "post_pt_supervoxel_id", f"{side}_pt_root_id"):
        assert rows[name].astype("int64").tolist() == expected[name].tolist()
    for point in ("pre_pt", "post_pt", "ctr_pt"):
        names = [f"{point}_position_{axis}" for axis in "xyz"]
        assert np.array_equal(np.stack(rows[f"{point}_position"].to_list()), expected[names].to_numpy())
    assert np.array_equal(rows["size"].to_numpy(np.float64), expected["size"].to_numpy(np.float64))


@pytest.mark.parametrize("side", ["pre", "post"])
def test_level_2_ids_of_synapses(cave: Any, recording: Recording, side: str) -> None:
    expected = recording.frame(f"annotations/{side}_syn/nodes.feather")
    supervoxels = expected[f"{side}_pt_supervoxel_id"].to_numpy(np.uint64)
    found = cave.chunkedgraph.get_roots(supervoxels, stop_layer=2)
    assert found.astype(np.uint64).tolist() == expected[f"{side}_pt_l2_id"].tolist()
    assert set(cave.chunkedgraph.get_roots(supervoxels).tolist()) == {ROOT}


def test_level_2_graph(cave: Any, recording: Recording, graph: Recording) -> None:
    nodes = recording.frame("layers/graph/nodes.feather")
    ids = cave.chunkedgraph.get_leaves(ROOT, stop_layer=2)
    assert len(ids) == 10_998
    assert set(ids.tolist()) == set(nodes.index.tolist())
    expected = graph.array("layers/graph/edges.npz")
    edges = np.asarray(cave.chunkedgraph.level2_chunk_graph(ROOT))
    assert len(edges) == 12_445
    assert {tuple(sorted(edge)) for edge in edges.tolist()} == {
        tuple(sorted(edge)) for edge in expected.tolist()
    }
    assert bool(cave.chunkedgraph.is_latest_roots([ROOT])[0])


def test_level_2_attributes(cave: Any, recording: Recording) -> None:
    nodes = recording.frame("layers/graph/nodes.feather")
    found = cave.l2cache.get_l2data(nodes.index.tolist())
    assert set(found) == {str(number) for number in nodes.index}
    for number, row in nodes.iterrows():
        got = found[str(number)]
        assert got["rep_coord_nm"] == [row["rep_coord_nm_x"], row["rep_coord_nm_y"], row["rep_coord_nm_z"]]
        assert (got["size_nm3"], got["area_nm2"], got["max_dt_nm"]) == (
            row["size_nm3"],
            row["area_nm2"],
            row["max_dt_nm"],
        )
        assert ("pca_val" in got) == (row["pca_val"] is not None)


def test_skeleton(cave: Any, recording: Recording) -> None:
    from meshparty import skeleton as meshparty_skeleton

    nodes = recording.frame("layers/skeleton/nodes.feather")
    found = cave.skeleton.get_skeleton(ROOT, output_format="dict")
    assert len(found["vertices"]) == 5592
    assert np.array_equal(found["vertices"], nodes[["x", "y", "z"]].to_numpy())
    assert np.array_equal(found["edges"], recording.array("layers/skeleton/edges.npz"))
    assert np.array_equal(found["radius"], nodes["radius"].to_numpy())
    assert np.array_equal(found["compartment"], nodes["compartment"].to_numpy())
    tree = meshparty_skeleton.Skeleton(found["vertices"], found["edges"], root=found["root"])
    assert tree.path_length() / 1000 == pytest.approx(11_043.21, abs=0.005)


def test_computed_skeleton_is_the_recorded_one(cell: Sandbox, recording: Recording) -> None:
    """The sandbox's own skeletonization of the level-2 graph gives what the real service gave, vertex for vertex."""
    nodes = recording.frame("layers/skeleton/nodes.feather")
    recorded = cell.world.skeletons.get(ROOT)
    soma = [recorded["meta"][f"soma_pt_{axis}"] for axis in "xyz"]
    from cortexclient.sandbox.stores.skeleton_build import skeletonize

    l2 = recording.frame("layers/graph/nodes.feather")
    made = skeletonize(
        root=ROOT,
        l2_ids=l2.index.to_numpy(np.int64),
        points=l2[[f"rep_coord_nm_{axis}" for axis in "xyz"]].to_numpy(),
        volumes=l2["size_nm3"].to_numpy(np.float64),
        edges=np.asarray(cell.world.graph.l2_edges(ROOT)),
        soma=soma,
        datastack=cell.datastack,
        timestamp=0.0,
    )
    assert np.array_equal(made["vertices"], nodes[["x", "y", "z"]].to_numpy())
    assert made["mesh_to_skel_map"] == recorded["mesh_to_skel_map"]


def test_mesh(cave: Any, recording: Recording) -> None:
    vertices = recording.frame("layers/mesh/nodes.feather")[["x", "y", "z"]].to_numpy()
    mesh = cave.info.segmentation_cloudvolume().mesh.get(ROOT)[ROOT]
    assert mesh.vertices.dtype == np.float32
    assert np.array_equal(mesh.vertices, vertices)
    assert len(mesh.vertices) == 2_635_136
    bits = np.ascontiguousarray(mesh.vertices).view(np.dtype((np.void, 12))).ravel()
    assert len(bits) - len(np.unique(bits)) == 16_749
    assert np.array_equal(mesh.faces, recording.array("layers/mesh/faces.npz"))


def test_skeleton_service_recording(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "minnie65_skeleton_service"
    folder = convert_cell(source, tmp_path, info=shared_data / "minnie65_pcg" / "info.json")
    skeleton = json.loads(gzip.decompress((source / "skel.json.gz").read_bytes()))
    clear_client_caches()
    with Sandbox(data=folder.path) as sandbox:
        client = client_of(sandbox)
        found = client.skeleton.get_skeleton(SERVICE_ROOT, output_format="dict")
        for key in ("vertices", "edges", "radius", "compartment", "lvl2_ids", "mesh_to_skel_map"):
            assert np.array_equal(found[key], skeleton[key]), key
        for side, count in (("pre", 6514), ("post", 12_424)):
            expected = pd.read_feather(source / f"{side}_l2.feather").sort_values("id")
            rows = client.materialize.query_table(
                "synapses_pni_2", filter_equal_dict={f"{side}_pt_root_id": SERVICE_ROOT}
            ).sort_values("id")
            assert rows["id"].tolist() == expected["id"].tolist()
            assert len(rows) == count
            for name in (
                "pre_pt_root_id",
                "post_pt_root_id",
                "pre_pt_supervoxel_id",
                "post_pt_supervoxel_id",
            ):
                assert rows[name].astype("int64").tolist() == expected[name].tolist()
            l2 = client.chunkedgraph.get_roots(
                expected[f"{side}_pt_supervoxel_id"].to_numpy(np.uint64), stop_layer=2
            )
            assert l2.tolist() == expected[f"{side}_pt_l2_id"].tolist()
        assert len(client.chunkedgraph.level2_chunk_graph(SERVICE_ROOT)) == 30_352
    clear_client_caches()
