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
    from caveclient import CAVEclient

    cave = CAVEclient(
        sandbox.datastack, server_address=sandbox.url, auth_token=TOKEN, write_server_cache=False
    )
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
