"""Every name, parameter and example that users were promised, on the sandbox.

The reference that this client grew from promised the names and parameters below: code written for it keeps running.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cortexclient import (
    CloudFileViewExport,
    DatasetClient,
    MeshClient,
    TableExportClient,
)
from cortexclient.sandbox import Sandbox
from cortexclient.testing import clear_client_caches

PROMISED = {
    DatasetClient: """
        fix_mat_timestamp(version=None)
        get_l2_ids(root_id, bounds=None)
        get_l2data(l2_ids, attributes=None, as_dataframe=True, split_columns=True)
        get_skeleton(root_id, synapses=True, restore_graph=False, restore_properties=True,
            synapse_reference_tables=None, skeleton_version=None, transform=None)
        latest_valid_timestamp(root_ids)
        neuroglancer_url(target_url=None, clipboard=False, shorten=False, root_ids=None)
        now()
        query_synapses(root_ids, pre=False, post=False, reference_tables=None, synapse_table=None,
            omit_self_synapse=True, resolution=[1, 1, 1], split_positions=True, live=False,
            timestamp=None, suffixes=None, batch_size=10, ref_batch_size=5000, progress=True)
        set_export_cloudpath(cloudpath)
        unfix_mat_timestamp()
        version_timestamp(version=None)
    """,
    MeshClient: """
        compute_vertex_to_l2_mapping(root_id, vertices=None, faces=None, lvl2_ids=None,
            lvl2_pts=None, max_distance=500, ratio_better=0.5, hop_limit=None,
            cloudvolume_fallback=False, n_jobs=-1, return_assigner=False, mesh_kwargs=None)
        get_mesh(root_id, *, progress=False, **kwargs)
        get_meshes(root_ids, *, progress=True, **kwargs)
    """,
    TableExportClient: """
        available_data_df()
        available_versions(table_name)
        get_table(table_name, version)
        reset_available_files()
    """,
    CloudFileViewExport: """
        get_dataframe(version, verbose=True)
    """,
}
PROPERTIES = {
    DatasetClient: [
        "cave",
        "dataset_transform",
        "datastack_name",
        "mesh",
        "server_address",
        "space",
        "version",
    ],
    MeshClient: ["mesh_l2_mappings"],
    TableExportClient: ["available_files", "available_tables"],
    CloudFileViewExport: ["datapath", "headerpath"],
}
# default values that differ, and why
OWN_DEFAULTS = {
    "query_synapses": {
        "batch_size",
        "resolution",
    },  # as many as one answer holds; a tuple, which calls cannot change
    "get_dataframe": {"verbose"},  # nothing is shown unless it is asked for
}


def listed() -> list[tuple[type, str, str]]:
    """Class, name and arguments of each promised method."""
    return [
        (cls, name, " ".join(arguments.split()))
        for cls, text in PROMISED.items()
        for name, arguments in re.findall(r"(\w+)\(([^()]*)\)", text)
    ]


@pytest.mark.parametrize(
    ("cls", "name", "arguments"), listed(), ids=lambda value: getattr(value, "__name__", value)
)
def test_parameters_by_name_order_and_default(cls: type, name: str, arguments: str) -> None:
    theirs = ast.parse(f"def f({arguments}): pass").body[0]
    assert isinstance(theirs, ast.FunctionDef)
    ours = inspect.signature(getattr(cls, name)).parameters
    wanted = [argument.arg for argument in theirs.args.args]
    positional = [
        key for key, value in ours.items() if value.kind is value.POSITIONAL_OR_KEYWORD and key != "self"
    ]
    assert positional[: len(wanted)] == wanted  # a call by position means the same
    assert {argument.arg for argument in theirs.args.kwonlyargs} <= set(ours)
    defaults = dict(
        zip(wanted[::-1], [ast.literal_eval(value) for value in theirs.args.defaults][::-1], strict=False)
    )
    for argument, value in zip(theirs.args.kwonlyargs, theirs.args.kw_defaults, strict=True):
        assert value is not None
        defaults[argument.arg] = ast.literal_eval(value)
    for key, value in defaults.items():
        assert (ours[key].default == value) == (key not in OWN_DEFAULTS.get(name, ())), key
    for key in wanted:
        if key not in defaults:
            assert ours[key].default in (inspect.Parameter.empty, None), (
                key
            )  # may be left out in ours, never more


@pytest.mark.parametrize(
    ("cls", "name"), [(cls, name) for cls, group in PROPERTIES.items() for name in group]
)
def test_properties_are_properties(cls: type, name: str) -> None:
    kind = inspect.getattr_static(cls, name)
    assert isinstance(kind, property)
    assert kind.__doc__
    if name == "version":
        assert kind.fset is not None


# -- each name is called, on a sandbox that has the names of the examples' dataset ---------------------------------


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    clear_client_caches()
    with Sandbox("minnie_public", size="tiny") as running:
        yield running
    clear_client_caches()


@pytest.fixture
def client(sandbox: Sandbox) -> Any:
    return sandbox.load()


@pytest.fixture(scope="module")
def cells(sandbox: Sandbox) -> pd.DataFrame:
    """Cells alone in roots that are those of the newest version and of now; the first has most outgoing synapses."""
    found = sandbox.truth.cells
    found = found[found["point_on_segmentation"]]
    roots = sandbox.world.graph.roots(found["soma_supervoxel_id"].to_numpy())
    _, place, count = np.unique(roots, return_inverse=True, return_counts=True)
    newest = datetime.fromisoformat(sandbox.world.tables.versions()[-1]["time_stamp"]).replace(tzinfo=UTC)
    frozen = sandbox.world.graph.roots(found["soma_supervoxel_id"].to_numpy(), newest)
    alone = (count[place] == 1) & (roots == frozen)  # there are merge errors, too: such a root has no cell id
    found, roots = found[alone], roots[alone]
    counts = sandbox.truth.synapses.groupby("pre_cell_id").size()
    order = found["cell_id"].map(counts).fillna(0).to_numpy().argsort()[::-1]
    return found.assign(root_id=roots).iloc[order].reset_index(drop=True)


def test_who_and_where(client: Any, sandbox: Sandbox) -> None:
    from caveclient.frameworkclient import CAVEclientFull

    assert isinstance(client.cave, CAVEclientFull)
    assert client.datastack_name == "minnie65_public"
    assert client.server_address == sandbox.url
    assert client.space is client.dataset_transform
    assert isinstance(client.mesh, MeshClient)
    assert isinstance(client.exports, TableExportClient)
    assert sandbox.url in client.image_source()
    assert sandbox.url in client.segmentation_source()
    assert abs(client.now() - datetime.now(UTC)) < timedelta(seconds=5)


def test_the_examples_in_their_own_words(client: Any, cells: pd.DataFrame) -> None:
    proof = client.tables.proofreading_status_and_strategy().query()
    assert len(proof) > 0
    proof_df = client.tables.proofreading_status_and_strategy(status_axon=True).query(
        desired_resolution=[1, 1, 1], split_positions=True
    )
    assert proof_df["status_axon"].all()
    assert len(proof_df) == (proof["status_axon"] == True).sum()  # noqa: E712 - strings and truths both occur there
    depth = client.space.transform_nm.apply_dataframe("pt_position", proof_df, projection="y")
    assert len(depth) == len(proof_df)
    root_ids = cells["root_id"].head(3)
    cell_id_df = client.root_id_to_cell_id(root_ids)
    assert list(cell_id_df.index) == list(root_ids)
    assert list(cell_id_df["cell_id"]) == list(cells["cell_id"].head(3))
    root_id_df = client.cell_id_to_root_id(list(cells["cell_id"].head(3)))
    assert list(root_id_df["root_id"]) == list(root_ids)
    nrn = client.get_skeleton(int(root_ids.iloc[0]), synapses=True)
    assert len(nrn.anno.pre_syn.df) > 0
    assert len(nrn.anno.post_syn.df) > 0
    for transform in ("rigid", "streamline"):
        assert (
            client.get_skeleton(int(root_ids.iloc[0]), transform=transform).skeleton.vertices[:, 1].max()
            < 2000
        )
    assert "proofreading_status_and_strategy" in repr(
        client.tables
    ) or "proofreading_status_and_strategy" in dir(client.tables)
