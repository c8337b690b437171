"""What deployed services do that the first recording does not show, asked by the clients that met it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import requests

from cortexclient.sandbox import Sandbox
from tests.sandbox.toy import client_of

TOKEN = "e" * 32


def test_nobody_owns_the_tables_of_the_data(sandbox_factory: Callable[..., Sandbox]) -> None:
    sandbox = sandbox_factory(auth=True, tokens={"d" * 32: ("view",), TOKEN: ("view", "edit")})
    cave = client_of(sandbox, TOKEN)
    point = {"pt": {"position": [1, 2, 3]}, "tag": "mine"}
    nuclei = cave.info.get_datastack_info()["soma_table"]
    with pytest.raises(requests.HTTPError, match="only be written to by owner"):
        cave.annotation.post_annotation(nuclei, [{"pt": point["pt"]}])
    cave.annotation.create_table("my_notes", "bound_tag", "mine", voxel_resolution=[4, 4, 40])
    assert cave.annotation.post_annotation("my_notes", [point]) == [1]


def test_infos_of_precomputed_sources(sandbox: Sandbox) -> None:
    base = f"{sandbox.url}/skeletoncache/api/v1/{sandbox.datastack}/precomputed"
    info = requests.get(f"{base}/info").json()
    assert (info["skeletons"], info["type"]) == ("skeleton", "segmentation")
    with pytest.raises(requests.HTTPError, match="400 Bad Request") as caught:
        client_of(sandbox).materialize.neuroglancer_annotation_info("nucleus_detection")
    assert caught.value.response.status_code == 500


def test_an_aligned_volume_has_a_name_for_people(sandbox: Sandbox) -> None:
    volume = client_of(sandbox).info.get_aligned_volume_info()
    assert volume["display_name"] == "Synthetic cortex"


def test_the_synapse_table_is_older_than_the_newest_version(sandbox: Sandbox) -> None:
    client = client_of(sandbox)
    synapses = client.annotation.get_table_metadata(client.materialize.synapse_table)
    newest = max(row["time_stamp"] for row in client.materialize.get_versions_metadata())
    assert synapses["last_modified"] < newest.strftime("%Y-%m-%dT%H:%M:%S.%f")
    # what is written later has a table of its own, which is empty in every version
    late = client.materialize.live_live_query("late_synapses", "now", log_warning=False)
    assert len(late) > 0
    assert client.materialize.get_annotation_count("late_synapses") == 0


def test_pcg_skel_makes_a_meshwork_with_synapses(sandbox: Sandbox) -> None:
    import pcg_skel

    client: Any = client_of(sandbox)
    counts = sandbox.truth.synapses.groupby("pre_cell_id").size().drop([0, -1], errors="ignore")
    root = int(sandbox.truth.cells.set_index("cell_id").loc[counts.idxmax(), "root_id"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pcg_skel.coord_space_meshwork(
            root, client=client, synapses="all", synapse_table=client.materialize.synapse_table
        )
    expected = sandbox.truth.synapses_of(root, "pre", client.materialize.get_timestamp())
    assert sorted(found.anno.pre_syn.df["id"]) == sorted(np.asarray(expected).tolist())


def test_a_plain_mapping_of_names_is_enough(sandbox_factory: Callable[..., Sandbox]) -> None:
    sandbox = sandbox_factory(
        {"datastack": "lab", "tables": {"synapses": "contacts", "cell_info": "cards"}, "versions": {3: 57}}
    )
    client = client_of(sandbox)
    assert (sandbox.datastack, client.materialize.version) == ("lab", 57)
    assert {"contacts", "nucleus_detection"} <= set(client.materialize.get_tables())
    assert client.materialize.synapse_table == "contacts"
    assert "cards" in client.materialize.get_views()
    assert len(sandbox.load().tables.contacts(id=[1]).query()) == 0
    with pytest.raises(ValueError, match="have no table; there are aligned_volume"):
        sandbox_factory({"table": {}})


def test_fafbseg_finds_what_it_asks_of_flywire(sandbox_factory: Callable[..., Sandbox]) -> None:
    """The requests of fafbseg 3.2.3's ``get_synapses``, filtered and not."""
    sandbox = sandbox_factory("flywire_public")
    materialize = client_of(sandbox).materialize
    root = int(sandbox.truth.cells["root_id"].iloc[2])
    points = ["pre_pt_position", "post_pt_position"]
    columns = ["pre_pt_root_id", "post_pt_root_id", "cleft_score", *points, "id"]
    rows = materialize.query_table(
        "synapses_nt_v1",
        filter_in_dict={"post_pt_root_id": [root]},
        select_columns=columns,
        split_positions=True,
    )
    view = materialize.query_view(
        "valid_synapses_nt_np_v6", filter_in_dict={"post_pt_root_id": [root]}, select_columns=columns
    )
    assert len(rows) == len(view) > 50
    assert rows["cleft_score"].dropna().between(0, 160).all()
    assert materialize.get_table_metadata("synapses_nt_v1")["voxel_resolution"] == [1.0, 1.0, 1.0]
    assert not {"size", "ctr_pt_position"} & set(materialize.query_table("synapses_nt_v1", limit=1).columns)
