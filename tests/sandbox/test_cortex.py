"""The synthetic cortex keeps its own rules: one root per supervoxel, ids that decode, points where they should be."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import DracoPy
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cortexclient.registry import get_spec
from cortexclient.sandbox.build import build_cortex
from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
from cortexclient.sandbox.stores.graph.state import IdLayout
from cortexclient.sandbox.stores.skeletons import SkeletonFiles
from cortexclient.sandbox.truth import Truth
from tests.sandbox.test_graph_edits import check_whole

GRID = 21


@pytest.fixture(scope="module")
def cortex() -> DataFolder:
    return build_cortex(get_spec("sandbox"), size="tiny")


@pytest.fixture(scope="module")
def truth(cortex: DataFolder) -> Truth:
    return Truth(cortex)


def read(cortex: DataFolder, *parts: str) -> pd.DataFrame:
    return pd.read_parquet(cortex.file(*parts))


def graph(cortex: DataFolder, name: str) -> pd.DataFrame:
    return read(cortex, "chunkedgraph", f"{name}.parquet")


def scheme(cortex: DataFolder) -> IdLayout:
    return IdLayout.from_info(cortex.json("chunkedgraph", "info.json"))


@pytest.fixture(scope="module")
def chunkedgraph(cortex: DataFolder) -> ChunkedGraph:
    return ChunkedGraph(cortex)


def at_nm(chunkedgraph: ChunkedGraph, points: np.ndarray) -> np.ndarray:
    """Supervoxels at points; what cloud-volume reads there is the same (see test_cortex_served)."""
    return chunkedgraph.volume.supervoxel_at(points / chunkedgraph.volume.geometry.resolution)


def test_the_graph_is_whole(chunkedgraph: ChunkedGraph, truth: Truth) -> None:
    check_whole(chunkedgraph, truth.supervoxels["supervoxel_id"].to_numpy())


def test_ids_decode(cortex: DataFolder) -> None:
    nodes, links = graph(cortex, "nodes"), graph(cortex, "parents")
    ids = nodes["node_id"].to_numpy()
    layout = scheme(cortex)
    assert nodes["node_id"].is_unique
    assert (ids > 0).all()
    np.testing.assert_array_equal(layout.layers(ids), nodes["layer"])
    np.testing.assert_array_equal(layout.chunks(ids), nodes[["chunk_x", "chunk_y", "chunk_z"]])
    np.testing.assert_array_equal(layout.segments(ids), nodes["segment_id"])
    np.testing.assert_array_equal(nodes["is_root"], layout.layers(ids) == layout.n_layers)
    child, parent = links["node_id"].to_numpy(), links["parent_id"].to_numpy()
    np.testing.assert_array_equal(layout.layers(parent), layout.layers(child) + 1)
    up = np.where(layout.layers(child)[:, None] == 1, layout.chunks(child), layout.chunks(child) // 2)
    np.testing.assert_array_equal(layout.chunks(parent), up)


def test_history_merges_and_splits_around_the_versions(cortex: DataFolder, truth: Truth) -> None:
    edits = cortex.json("chunkedgraph", "operations.json")
    kinds = [item["kind"] for item in edits]
    assert kinds.count("merge") >= 3
    assert kinds.count("split") >= 3
    for item in edits:
        expected = (2, 1) if item["kind"] == "merge" else (1, 2)
        assert (len(item["old_roots"]), len(item["new_roots"])) == expected
    lineage = graph(cortex, "lineage")
    wanted = {
        (old, new, item["operation_id"])
        for item in edits
        for old in item["old_roots"]
        for new in item["new_roots"]
    }
    assert (
        set(zip(lineage["parent_root"], lineage["child_root"], lineage["operation_id"], strict=True))
        == wanted
    )
    versions = {row["version"]: row for row in cortex.versions}
    assert [versions[v]["valid"] for v in (1, 2, 3)] == [False, True, True]
    last = datetime.fromisoformat(versions[3]["time_stamp"]).replace(tzinfo=UTC)
    assert sum(datetime.fromisoformat(item["time"]) > last for item in edits) >= 2
    assert (truth.root_of_cell(truth.cells["cell_id"], last) != truth.cells["root_id"]).any()
    # some neuron was in two pieces, and some object holds two neurons, at first and still
    first = truth.roots_at(datetime(2025, 1, 1, 1, tzinfo=UTC))
    assert (first[first["cell_id"] > 0].groupby("cell_id")["root_id"].nunique() > 1).any()
    assert truth.cells["root_id"].duplicated().any()


def test_edits_replace_level2_ids_in_one_chunk_only(cortex: DataFolder) -> None:
    rows = graph(cortex, "supervoxels")
    changed = rows[rows["valid_from"] > rows["valid_from"].min()]
    assert len(changed)
    for _, group in changed.groupby("valid_from"):
        assert len(group[["chunk_x", "chunk_y", "chunk_z"]].drop_duplicates()) == 1


@pytest.mark.parametrize("side", ["pre", "post"])
def test_synapse_points_lie_in_their_supervoxels(
    cortex: DataFolder, chunkedgraph: ChunkedGraph, side: str
) -> None:
    rows = read(cortex, "tables", "synapses.v3.parquet").iloc[:400]
    resolution = np.array(
        [cortex.tables["annotation_tables"][0][f"voxel_resolution_{axis}"] for axis in "xyz"]
    )
    points = rows[[f"{side}_pt_position_{axis}" for axis in "xyz"]].to_numpy() * resolution
    np.testing.assert_array_equal(at_nm(chunkedgraph, points), rows[f"{side}_pt_supervoxel_id"])


def test_synapses_join_axons_to_dendrites_and_somata(truth: Truth) -> None:
    synapses = truth.synapses
    both = synapses[(synapses["pre_supervoxel_id"] > 0) & (synapses["post_supervoxel_id"] > 0)]
    assert len(synapses) > 1000
    assert (both["pre_compartment"] == 2).all()
    assert both["post_compartment"].isin([1, 3]).all()
    assert (both["post_compartment"] == 1).any()
    apart = np.linalg.norm(
        both[["pre_x_nm", "pre_y_nm", "pre_z_nm"]].to_numpy()
        - both[["post_x_nm", "post_y_nm", "post_z_nm"]].to_numpy(),
        axis=1,
    )
    assert apart.max() <= 240
    neurons = both[both["pre_cell_id"] > 0]
    assert (neurons["pre_cell_id"] == neurons["post_cell_id"]).any()
    assert ((synapses["pre_supervoxel_id"] == 0) ^ (synapses["post_supervoxel_id"] == 0)).sum() >= 2


def test_nuclei_off_the_segmentation_have_alternative_points(
    cortex: DataFolder, truth: Truth, chunkedgraph: ChunkedGraph
) -> None:
    nuclei = read(cortex, "tables", "nucleus_detection.v3.parquet").set_index("id")
    other = read(cortex, "tables", "nucleus_alternative_points.v3.parquet")
    off = truth.cells[~truth.cells["point_on_segmentation"]]
    assert len(off) >= 2
    assert (nuclei.loc[off["cell_id"], "pt_root_id"] == 0).all()
    assert set(other["target_id"]) == set(off["cell_id"])
    assert not set(other["id"]) & set(other["target_id"])
    strays = nuclei.drop(index=truth.cells["cell_id"])
    assert len(strays) >= 1
    assert (strays["pt_root_id"] == 0).all()
    somata = truth.cells[["soma_x_nm", "soma_y_nm", "soma_z_nm"]].to_numpy()
    np.testing.assert_array_equal(at_nm(chunkedgraph, somata), truth.cells["soma_supervoxel_id"])


def test_reference_tables_point_elsewhere(cortex: DataFolder, truth: Truth) -> None:
    types = read(cortex, "tables", "cell_types.v3.parquet")
    assert not (types["id"] == types["target_id"]).any()
    assert set(types["target_id"]) <= set(truth.cells["cell_id"])
    assert (~types["valid"]).sum() == 1
    valid = types[types["valid"]].set_index("target_id")["cell_type"]
    expected = truth.cells.set_index("cell_id")["cell_type"]
    assert (valid == expected.reindex(valid.index)).all()
    tags = read(cortex, "tables", "synapse_tags.v3.parquet")
    synapses = read(cortex, "tables", "synapses.v3.parquet")
    assert 0.5 < len(tags) / len(synapses) < 0.9
    assert not set(tags["id"]) & set(tags["target_id"])


def test_level2_points_lie_in_their_own_supervoxels(cortex: DataFolder, chunkedgraph: ChunkedGraph) -> None:
    cache = read(cortex, "l2cache.parquet")
    members = graph(cortex, "supervoxels")
    cached = cache[cache["in_cache"]].iloc[::17]
    at = at_nm(chunkedgraph, np.stack(cached["rep_coord_nm"].to_list()))
    owned = set(zip(members["supervoxel_id"], members["l2_id"], strict=True))
    assert all(pair in owned for pair in zip(at.tolist(), cached["l2_id"].tolist(), strict=True))
    assert not cache["in_cache"].all()
    voxels = members.drop_duplicates(["supervoxel_id", "l2_id"]).groupby("l2_id")["voxels"].sum()
    np.testing.assert_array_equal(cached["size_nm3"], voxels.reindex(cached["l2_id"]) * 192 * 192 * 240)
    axes = np.stack([np.stack(rows) for rows in cached["pca"]]).astype(float)
    np.testing.assert_allclose(
        np.einsum("nij,nkj->nik", axes, axes), np.broadcast_to(np.eye(3), axes.shape), atol=5e-3
    )


def decode(cortex: DataFolder, name: str) -> tuple[np.ndarray, np.ndarray]:
    content = cortex.content(name)
    assert content is not None
    mesh = DracoPy.decode(content[0])
    return np.asarray(mesh.points, dtype=np.float64), np.asarray(mesh.faces).reshape(-1, 3)


def test_fragments_decode_and_stay_in_their_chunk(cortex: DataFolder) -> None:
    info = cortex.json("chunkedgraph", "info.json")
    offset, nm = np.array(info["scales"][0]["voxel_offset"]), np.array(info["scales"][0]["resolution"])
    size = np.array(info["graph"]["chunk_size"])
    names = sorted(set(pq.read_table(cortex.file("meshes.parquet"))["fragment"].to_pylist()))
    assert len(names) > 1000
    for name in names[::23]:
        node, _, box = name.split(":")
        chunk = scheme(cortex).chunks(np.array([int(node)]))[0]
        low = np.array([int(part.split("-")[0]) for part in box.split("_")])
        np.testing.assert_array_equal(low, chunk * size)
        vertices, faces = decode(cortex, f"seg/{info['mesh']}/{name}")
        assert faces.max() == len(vertices) - 1
        assert (vertices % GRID == 0).all()
        assert (vertices >= (offset + chunk * size) * nm - GRID).all()
        assert (vertices <= (offset + (chunk + 1) * size) * nm + GRID).all()


def test_neighbouring_fragments_share_their_border(cortex: DataFolder, truth: Truth) -> None:
    info = cortex.json("chunkedgraph", "info.json")
    step = np.array(info["graph"]["chunk_size"]) * np.array(info["scales"][0]["resolution"])
    start = np.array(info["scales"][0]["voxel_offset"]) * np.array(info["scales"][0]["resolution"])
    root = int(truth.cells["root_id"].iloc[0])
    vertices, faces, owner = truth.mesh(root)
    away = np.abs((vertices - start + step / 2) % step - step / 2).min(axis=1)
    border = away <= GRID / 2
    assert border.sum() > 1000
    _, inverse, count = np.unique(vertices[border], axis=0, return_inverse=True, return_counts=True)
    # nearly every vertex on a plane has its twin in the fragment on the other side
    assert (count[inverse] >= 2).mean() > 0.9
    assert len(np.unique(owner)) > 100
    # triangles of a soma look outward
    cell = truth.cells.iloc[0]
    centre = cell[["soma_x_nm", "soma_y_nm", "soma_z_nm"]].to_numpy(dtype=float)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    middle = (a + b + c) / 3 - centre
    near = np.linalg.norm(middle, axis=1) < 1000 * cell["soma_radius_um"]
    assert near.sum() > 100
    assert ((np.cross(b - a, c - a) * middle).sum(axis=1)[near] > 0).mean() > 0.9


def test_skeletons_hold_all_level2_ids_and_every_compartment(
    cortex: DataFolder, chunkedgraph: ChunkedGraph, truth: Truth
) -> None:
    for root in truth.cells["root_id"].tolist():
        document = SkeletonFiles(cortex).document(root)
        assert document is not None
        skeleton = document["flatdict"]
        assert skeleton["lvl2_ids"] == sorted(chunkedgraph.l2_ids(root).tolist())
        assert len(skeleton["mesh_to_skel_map"]) == len(skeleton["lvl2_ids"])
        assert skeleton["meta"]["root_id"] == root
        assert set(skeleton["compartment"]) == {1, 2, 3}
        assert skeleton["compartment"][skeleton["root"]] == 1


def test_exports_have_no_header_row(cortex: DataFolder) -> None:
    folder = cortex.file("exports", "v3")
    data = gzip.decompress((folder / "synapses_merged.csv.gz").read_bytes()).decode().splitlines()
    columns = [line.split(",") for line in (folder / "synapses_merged_header.csv").read_text().splitlines()]
    table = read(cortex, "tables", "synapses.v3.parquet")
    assert len(data) == len(table)
    assert [name for name, _ in columns] == [name for name in table.columns if name != "storage_order"]
    assert dict(columns)["pre_pt_root_id"] == "bigint"
    assert data[0].split(",")[0] == str(table["id"].iloc[0])
    assert (folder / "connections_with_nuclei.csv.gz").exists()
    assert not (cortex.file("exports", "v3") / "cell_types.csv.gz").exists()


PAIRS = {
    **{
        f"chunkedgraph/{name}": f"chunkedgraph/{name}"
        for name in ("nodes", "parents", "supervoxels", "edges", "lineage")
    },
    **{f"chunkedgraph/{name}": f"chunkedgraph/{name}" for name in ("l2_edges", "l2_cross_edges")},
    "l2cache": "l2cache",
    **{f"tables/synapses_toy.{v}": f"tables/synapses.{v}" for v in ("v1", "v2", "live")},
    **{f"tables/nucleus_toy.{v}": f"tables/nucleus_detection.{v}" for v in ("v1", "v2", "live")},
    **{f"tables/celltype_toy.{v}": f"tables/cell_types.{v}" for v in ("v1", "v2", "live")},
}


@pytest.mark.parametrize(("recorded", "ours"), PAIRS.items())
def test_files_have_the_columns_of_the_recorded_datastack(
    cortex: DataFolder, recordings: Path, recorded: str, ours: str
) -> None:
    wanted = pq.read_schema(recordings / "real_toy_datastack" / f"{recorded}.parquet")
    found = pq.read_schema(cortex.file(f"{ours}.parquet"))
    assert [(field.name, field.type) for field in found] == [(field.name, field.type) for field in wanted]


def test_schemas_are_those_of_the_schema_service(cortex: DataFolder, recordings: Path) -> None:
    recorded = json.loads((recordings / "real_toy_datastack" / "tables" / "schemas.json").read_text())
    found = cortex.json("tables", "schemas.json")["used"]
    for name in ("synapse", "nucleus_detection", "cell_type_reference"):
        assert found[name] == recorded["used"][name]
