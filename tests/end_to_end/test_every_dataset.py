"""Every built-in spec, and one that a test writes, goes through the whole job on a sandbox under its own names."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cortexclient.errors import NotConfiguredError
from cortexclient.sandbox import Sandbox

BUILT_IN = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "datasets").glob("*.yaml"))

LAB_SPEC = """\
schema_version: 1
name: lab_private
title: A lab's own datastack
server_address: https://cave.example.org
datastack: lab_v3
viewer_site: https://spelunker.cave-explorer.org
voxel_resolution: [8, 8, 33]
synapse_table: synapses_of_the_lab
cell_ids:
  lookup_view: somata_lookup
  main_table: somata_v2
transform:
  steps:
    - rotation: {axis: z, degrees: 5}
    - translation: [0, -300000, 0]
    - scaling: 0.001
skeleton_version: 4
versions:
  - {version: 12, status: expired}
  - {version: 40, status: available}
  - {version: 41, status: available}
  - {version: 57, status: available}
default_version: 41
tables:
  cell_types: {name: types_by_hand, kind: table}
"""


@pytest.fixture(scope="module", params=[*BUILT_IN, "a new file"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sandbox, Any]]:
    """A sandbox that serves one dataset under its own names, and that dataset's client."""
    source: Any = request.param
    if source == "a new file":
        source = tmp_path_factory.mktemp("specs") / "lab_private.yaml"
        source.write_text(LAB_SPEC, encoding="utf-8")
    with Sandbox(source, size="tiny") as sandbox:
        yield sandbox, sandbox.load()


@pytest.fixture
def sandbox(world: tuple[Sandbox, Any]) -> Sandbox:
    return world[0]


@pytest.fixture
def client(world: tuple[Sandbox, Any]) -> Any:
    return world[1]


@pytest.fixture
def cell(client: Any, sandbox: Sandbox) -> tuple[int, int]:
    """Cell id and root id of a neuron with synapses."""
    counts = sandbox.truth.synapses.groupby("pre_cell_id").size()
    cell_id = int(counts[counts.index > 0].idxmax())
    assert cell_id in set(sandbox.truth.cells["cell_id"])
    if client.spec.cell_ids is None:
        return cell_id, int(sandbox.truth.root_of_cell([cell_id], client.version_timestamp())[0])
    root = int(client.cell_id_to_root_id([cell_id])["root_id"].iloc[0])
    assert root > 0
    return cell_id, root


def test_served_under_its_own_names(client: Any) -> None:
    spec = client.spec
    names = set(client.tables) | set(client.views)
    version = (
        client.version if spec.versions else None
    )  # a spec that lists none says nothing of the sandbox's numbers
    declared = {spec.synapse_table, *(spec.table_for(role, version).name for role in spec.tables)}
    if spec.cell_ids:
        declared |= {spec.cell_ids.lookup_view, spec.cell_ids.main_table, *spec.cell_ids.alternative_tables}
    assert declared - {None} <= names
    assert client.datastack_name == spec.datastack


def test_cells_and_roots_go_both_ways(client: Any, sandbox: Sandbox) -> None:
    if client.spec.cell_ids is None:
        with pytest.raises(NotConfiguredError, match="cell_ids"):
            client.cell_id_to_root_id([1])
        return
    cells = sandbox.truth.cells
    if not client.spec.cell_ids.alternative_tables:
        cells = cells[cells["point_on_segmentation"]]  # nothing else leads from these roots to their cells
    cell_ids = cells["cell_id"].to_numpy()
    asked = [*cell_ids[:5], 999_999_999, cell_ids[0]]
    roots = client.cell_id_to_root_id(asked)
    assert list(roots.index) == asked
    assert list(roots.columns) == ["root_id"]
    assert roots["root_id"].dtype == np.int64
    assert roots["root_id"].iloc[5] == -1
    assert roots["root_id"].iloc[0] == roots["root_id"].iloc[6] > 0
    back = client.root_id_to_cell_id(roots["root_id"].iloc[:5])
    assert list(back["cell_id"]) == list(cell_ids[:5])
    assert back["cell_id"].dtype == np.int64


def test_synapses_agree_with_the_truth(client: Any, sandbox: Sandbox, cell: tuple[int, int]) -> None:
    _, root = cell
    pre = client.query_synapses(root, pre=True, omit_self_synapse=False, progress=False)
    both = client.query_synapses(root, pre=True, post=True, omit_self_synapse=False, progress=False)
    outgoing, incoming = (
        sandbox.truth.synapses_of(root, side, client.version_timestamp()) for side in ("pre", "post")
    )
    assert sorted(pre["id"]) == sorted(outgoing)
    assert sorted(both["id"]) == sorted({*outgoing, *incoming})
    assert pre["pre_pt_root_id"].dtype in (np.dtype("int64"), pd.Int64Dtype())
    empty = client.query_synapses([], pre=True, progress=False)
    assert list(empty.columns) == list(pre.columns)
    assert list(empty.dtypes) == list(pre.dtypes)


def test_skeleton_with_synapses_in_every_space(client: Any, cell: tuple[int, int]) -> None:
    _, root = cell
    plain = client.get_skeleton(root)
    assert len(plain.anno.pre_syn) > 0
    assert client.skeletons_exist(root_ids=[root]) == {root: True}
    assert client.skeletons_exist(root_ids=root) is True
    assert {"pre_syn", "post_syn"} <= set(plain.anno.table_names)
    if client.spec.transform is None:
        with pytest.raises(NotConfiguredError, match="transform"):
            client.get_skeleton(root, transform="rigid")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rigid = client.get_skeleton(root, transform="rigid")
    expected = client.space.transform_nm.apply(plain.skeleton.vertices)
    np.testing.assert_allclose(rigid.skeleton.vertices, expected, atol=1e-3)
    with pytest.raises(ValueError, match="rigd"):
        client.get_skeleton(root, transform="rigd")


@pytest.mark.slow
def test_mesh_and_the_level_2_id_of_each_vertex(client: Any, sandbox: Sandbox, cell: tuple[int, int]) -> None:
    _, root = cell
    mesh = client.mesh.get_meshes([root], progress=False)[root]
    labels = client.mesh.compute_vertex_to_l2_mapping(root, vertices=mesh.vertices, faces=mesh.faces)
    assert labels.shape == (len(mesh.vertices),)
    assert labels.dtype == np.int64
    assert set(np.unique(labels)) - {0} <= set(client.get_l2_ids(root))
    assert (labels != 0).mean() > 0.99
    owners = pd.DataFrame(mesh.vertices, columns=list("xyz")).merge(
        _owners(sandbox, root), on=list("xyz"), how="left"
    )["l2"]
    interior = owners.notna().to_numpy()
    assert interior.mean() > 0.8
    expected = owners[interior].to_numpy(dtype=np.int64)
    assert (labels[interior] == expected).mean() >= 0.995
    assert set(expected) <= set(labels)  # no meshed level-2 id is left without a vertex


def _owners(sandbox: Sandbox, root: int) -> pd.DataFrame:
    """Vertices that belong to exactly one level-2 id, and that id."""
    vertices, _, owners = sandbox.truth.mesh(root)
    frame = pd.DataFrame(vertices.astype(np.float32), columns=list("xyz")).assign(l2=owners)
    frame = frame.drop_duplicates()
    return frame.drop_duplicates(list("xyz"), keep=False).astype({"l2": "Int64"})


def test_versions_are_the_specs_own(client: Any) -> None:
    declared = {entry.version for entry in client.spec.versions if entry.status != "expired"}
    if declared and client.spec.default_version == "latest":
        assert client.version == max(declared)
    if isinstance(client.spec.default_version, int):
        assert client.version == client.spec.default_version


def test_one_moment(client: Any) -> None:
    live = sorted(version for version, record in client.session.versions().items() if record.valid)
    older = client.at(version=live[0])
    assert older.version == live[0]
    assert client.version == live[-1]
    assert older.timestamp == client.version_timestamp(live[0])
    copy = client.at()
    copy.version = live[0]
    assert copy.timestamp == older.timestamp
    copy.unfix_mat_timestamp()
    assert copy.version == live[-1]
    copy.fix_mat_timestamp()
    assert copy.timestamp == client.version_timestamp(live[-1])
    with pytest.raises(ValueError, match=r"version.*timestamp"):
        client.at(version=live[0], timestamp=datetime.now(UTC))


def test_links_stay_on_this_machine(client: Any, sandbox: Sandbox, cell: tuple[int, int]) -> None:
    _, root = cell
    url = client.neuroglancer_url(root_ids=[root])
    assert url.startswith(sandbox.url)
    assert str(root) in url
    assert repr(client).startswith(type(client).__name__)
    assert sandbox.url in client._repr_html_()


def test_exports_are_whole(client: Any) -> None:
    available = client.exports.available_data_df()
    assert len(available) > 0
    name = client.exports.available_tables[0]
    version = client.exports.available_versions(name)[-1]
    assert len(client.exports.get_table(name, version)) > 0


def test_clients_can_be_pickled(client: Any, sandbox: Sandbox) -> None:
    data = pickle.dumps(client)
    assert sandbox.token.encode() not in data
    again = pickle.loads(data)
    assert type(again) is type(client)
    assert again.spec == client.spec
