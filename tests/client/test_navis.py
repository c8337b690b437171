"""Neurons in navis: the same nodes, places and synapses as the cortex, and navis's own functions run on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cortexclient.errors import MissingExtraError, StaleRootError
from cortexclient.sandbox import Sandbox

if TYPE_CHECKING:
    from cortexclient.client import DatasetClient


@pytest.fixture(scope="module")
def client(tiny: Sandbox) -> DatasetClient:
    return tiny.load(version=3)


@pytest.fixture(scope="module")
def roots(client: DatasetClient) -> list[int]:
    cells = client.tables.nucleus_detection().query()["pt_root_id"]
    counts = client.query_synapses(cells[cells > 0].tolist(), pre=True, progress=False)["pre_pt_root_id"]
    return [int(root) for root in counts.value_counts().index[:4]]


@pytest.mark.parametrize("navis_is_there", [True, False])
def test_without_navis_the_error_names_the_command(
    client: DatasetClient, roots: list[int], monkeypatch: pytest.MonkeyPatch, navis_is_there: bool
) -> None:
    if not navis_is_there:
        monkeypatch.setitem(sys.modules, "navis", None)
        for use in (
            lambda: client.get_skeleton(roots[0], output="navis"),
            lambda: client.get_skeletons(roots, output="navis"),
            lambda: client.mesh.get_mesh(roots[0], output="navis"),
        ):
            with pytest.raises(MissingExtraError, match=r'pip install "cortexclient\[navis\]"'):
                use()
    # nothing else needs it
    assert len(client.get_skeleton(roots[0], output="dict")["vertices"])


@pytest.mark.parametrize("transform", [None, "rigid", "streamline"])
def test_a_tree_neuron_is_the_neuron(
    tiny: Sandbox, client: DatasetClient, roots: list[int], transform: Any
) -> None:
    pytest.importorskip("navis", reason="the extra `navis` is not installed")
    root = roots[0]
    data = client.get_skeleton(root, output="dict", transform=transform)
    neuron = client.get_skeleton(root, output="navis", transform=transform)
    nodes, scale = neuron.nodes, 1 if transform is None else 1000
    assert (neuron.id, neuron.name, str(neuron.units)) == (
        root,
        str(root),
        "1 micrometer" if transform else "1 nanometer",
    )
    np.testing.assert_array_equal(nodes[["x", "y", "z"]], data["vertices"])
    np.testing.assert_allclose(nodes["radius"], data["radius"] / scale)
    names = np.array(["undefined", "soma", "axon", "dendrite"])
    assert nodes["compartment"].tolist() == names[data["compartment"]].tolist()
    links = {frozenset(pair) for pair in data["edges"].tolist()}
    assert {frozenset(pair) for pair in neuron.edges.tolist()} == links
    assert neuron.root.tolist() == [data["root"]]
    assert neuron.soma == data["root"]
    root_of = tiny.truth.roots_at(client.timestamp).set_index("piece")["root_id"]
    connectors = neuron.connectors.set_index("connector_id")
    for side, partner in (("pre", "post"), ("post", "pre")):
        found = connectors[connectors["type"] == side]
        truth = tiny.truth.synapses.set_index("id")
        truth = truth.loc[tiny.truth.synapses_of(root, side, client.timestamp)]
        truth = truth.assign(partner_id=root_of.reindex(truth[f"{partner}_piece"], fill_value=0).to_numpy())
        truth = truth[truth["partner_id"] != root]
        assert found.index.tolist() == truth.index.tolist()
        assert found["partner_id"].tolist() == truth["partner_id"].tolist()
        assert found["size"].tolist() == truth["size"].tolist()
        meshwork = client.get_skeleton(root, transform=transform).anno[f"{side}_syn"].df.set_index("id")
        places = np.stack(meshwork.loc[found.index, "ctr_pt_position"].to_list())
        np.testing.assert_allclose(found[["x", "y", "z"]].to_numpy(dtype=float), places)
        # on the node of the level-2 id that the synapse lies on
        at = dict(zip(data["lvl2_ids"].tolist(), data["mesh_to_skel_map"].tolist(), strict=True))
        assert found["node_id"].tolist() == [
            at[piece] for piece in meshwork.loc[found.index, f"{side}_pt_level2_id"]
        ]


@pytest.mark.slow
def test_a_published_workflow_runs_on_a_neuron_list(client: DatasetClient, roots: list[int]) -> None:
    navis = pytest.importorskip("navis", reason="the extra `navis` is not installed")
    batches = client.get_skeletons(roots, output="navis", fallback="compute", progress=False)
    neurons = batches.to_navis()
    assert isinstance(neurons, navis.NeuronList)
    assert neurons.id.tolist() == roots
    # length, twigs, synapses of each compartment, as navis's own tutorials do it
    lengths = [client.get_skeleton(root, fallback="compute").skeleton.path_length() for root in roots]
    np.testing.assert_allclose(neurons.cable_length, lengths, rtol=1e-5)
    pruned = navis.prune_twigs(neurons, "10 microns")
    assert all(
        one.n_leafs <= other.n_leafs and one.cable_length <= other.cable_length
        for one, other in zip(pruned, neurons, strict=True)
    )
    assert any(one.n_nodes < other.n_nodes for one, other in zip(pruned, neurons, strict=True))
    neuron = neurons[0]
    axon = navis.subset_neuron(neuron, neuron.nodes["compartment"] == "axon")
    on_axon = set(neuron.nodes.loc[neuron.nodes["compartment"] == "axon", "node_id"])
    assert len(axon.connectors) == neuron.connectors["node_id"].isin(on_axon).sum() > 0
    assert len(neuron.presynapses) + len(neuron.postsynapses) == len(neuron.connectors)
    resampled = neuron.resample("2 microns")
    assert str(resampled.units) == "1 nanometer"
    assert abs(resampled.cable_length / neuron.cable_length - 1) < 0.1
    assert navis.strahler_index(neuron.copy()).nodes["strahler_index"].max() > 1


def test_neurons_changed_by_navis_are_saved_as_they_are(
    client: DatasetClient, roots: list[int], tmp_path: Any
) -> None:
    navis = pytest.importorskip("navis", reason="the extra `navis` is not installed")
    neuron = navis.prune_twigs(client.get_skeleton(roots[0], output="navis"), "10 microns")
    for name, each in (("nm", neuron), ("um", neuron.convert_units("um")), ("voxels", neuron / 8)):
        client.save_swc(each, tmp_path / f"{name}.swc")
        rows = np.loadtxt(tmp_path / f"{name}.swc", ndmin=2)
        order = np.lexsort(rows[:, 2:5].T)
        nodes = neuron.nodes[["x", "y", "z", "radius"]].to_numpy(dtype=float) / 1000
        np.testing.assert_allclose(
            rows[order][:, 2:6], nodes[np.lexsort(nodes[:, :3].T)], atol=2e-3, err_msg=name
        )
    neuron.units = ["4 nm", "4 nm", "40 nm"]
    with pytest.raises(ValueError, match="a unit for each axis"):
        client.save_swc(neuron, tmp_path / "axes.swc")


def test_a_vertex_that_navis_put_in_has_no_compartment(
    client: DatasetClient, roots: list[int], tmp_path: Any
) -> None:
    navis = pytest.importorskip("navis", reason="the extra `navis` is not installed")
    neuron = client.get_skeleton(roots[0], output="navis")
    longer = navis.insert_nodes(neuron, [tuple(neuron.edges[0].tolist())])
    client.save_swc(longer, tmp_path / "longer.swc")
    kinds = np.loadtxt(tmp_path / "longer.swc")[:, 1]
    assert sorted(kinds) == sorted([0, *neuron.nodes["label"]])


def test_neurons_without_synapses_failures_and_wrong_outputs(client: DatasetClient, roots: list[int]) -> None:
    pytest.importorskip("navis", reason="the extra `navis` is not installed")
    bare = client.get_skeleton(roots[0], output="navis", synapses=False)
    assert not bare.has_connectors
    batches = client.get_skeletons([roots[0], 17], output="navis", progress=False)
    assert batches.to_navis().id.tolist() == [roots[0]]
    assert isinstance(batches.failures[17], StaleRootError)
    with pytest.raises(TypeError, match="output='navis'"):
        client.get_skeletons(roots[:1], output="dict", progress=False).to_navis()


@pytest.mark.slow
def test_meshes_as_mesh_neurons(client: DatasetClient, roots: list[int]) -> None:
    navis = pytest.importorskip("navis", reason="the extra `navis` is not installed")
    plain = client.mesh.get_meshes(roots[:1], progress=False)
    made = client.mesh.get_meshes(roots[:1], output="navis", progress=False)
    assert list(made) == roots[:1]
    for root, neuron in made.items():
        assert isinstance(neuron, navis.MeshNeuron)
        assert (neuron.id, str(neuron.units)) == (root, "1 nanometer")
        np.testing.assert_array_equal(neuron.vertices, plain[root].vertices)
        np.testing.assert_array_equal(neuron.faces, plain[root].faces)
    assert client.mesh.get_mesh(roots[0], output="navis").id == roots[0]
