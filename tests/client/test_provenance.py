"""Every frame says where it is from, and says so without a request."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from cortexclient.errors import NotConfiguredError
from cortexclient.sandbox import Sandbox


@pytest.fixture(scope="module")
def client(tiny: Sandbox) -> Any:
    return tiny.load(version=tiny.load().version)


@pytest.fixture(scope="module")
def root(client: Any, tiny: Sandbox) -> int:
    synapses = tiny.truth.synapses
    cell = int(synapses["pre_cell_id"][synapses["pre_cell_id"] > 0].mode().iloc[0])
    return int(client.cell_id_to_root_id([cell])["root_id"].iloc[0])


def frames(client: Any, root: int) -> dict[str, pd.DataFrame]:
    cells = client.root_id_to_cell_id([root], version=client.version)
    return {
        "table": client.tables[client.spec.cell_ids.main_table]().query(),
        "view": client.views[client.spec.cell_ids.lookup_view]().query(),
        "synapses": client.query_synapses(root, pre=True, progress=False),
        "connectivity": client.connectivity([root]),
        "cells": cells,
        "roots": client.cell_id_to_root_id(cells["cell_id"]),
        "no rows": client.root_id_to_cell_id([root], version=client.version, filter_empty=True).iloc[:0],
        "level 2": client.get_l2data(client.get_l2_ids(root)[:2]),
        "latest": client.latest_roots([root]),
    }


def test_every_frame_says_where_it_is_from(client: Any, tiny: Sandbox, root: int) -> None:
    for name, frame in frames(client, root).items():
        attrs = frame.attrs
        assert attrs["dataset"] == client.spec.name, name
        assert attrs["datastack_name"] == tiny.datastack, name
        assert attrs["server_address"] == tiny.url, name
        assert attrs["spec_hash"] == client.spec.fingerprint, name
        assert attrs["transform"] == (client.spec.transform.dataset or "declared"), name
        assert attrs["timestamp"] == client.timestamp.isoformat(), name
        if name != "latest":  # answered by the graph, which knows times and no versions
            assert attrs["materialization_version"] == client.version, name
        assert tiny.token not in repr(attrs), name


def test_every_frame_says_whether_the_client_is_pinned_or_floats(
    tiny: Sandbox, client: Any, root: int
) -> None:
    for each, moment in ((tiny.load(), "floating"), (client, "pinned"), (tiny.load(version=3), "pinned")):
        said = {name: frame.attrs["moment"] for name, frame in frames(each, root).items()}
        said |= {
            "versions": each.versions().attrs["moment"],
            "edits": each.edit_history([root]).attrs["moment"],
        }
        said |= {"partners": each.partners([root]).attrs["moment"]}
        assert set(said.values()) == {moment}, said


def test_a_changed_spec_has_another_hash_and_a_pinned_transform_is_named(tiny: Sandbox) -> None:
    pinned = tiny.load(overrides={"transform": {"dataset": "v1dd", "version": "1.4", "steps": None}})
    table = pinned.spec.cell_ids.main_table
    attrs = pinned.tables[table]().query(limit=1).attrs
    assert (attrs["transform"], attrs["transform_version"]) == ("v1dd", "1.4")
    plain = tiny.load().tables[table]().query(limit=1).attrs
    assert attrs["spec_hash"] != plain["spec_hash"]
    open_ended = tiny.load(overrides={"transform": {"dataset": "v1dd", "steps": None}})
    assert open_ended.tables[table]().query(limit=1).attrs["transform_version"].startswith("newest of")


def test_a_service_that_the_spec_rules_out_is_not_asked(tiny: Sandbox, root: int) -> None:
    without = tiny.load(overrides={"capabilities": {"l2cache": False}})
    ids = without.get_l2_ids(root)[:2]
    before = len(tiny.requests)
    with pytest.raises(NotConfiguredError, match=r"capabilities\.l2cache: false"):
        without.get_l2data(ids)
    assert len(tiny.requests) == before


def test_rows_of_different_times_have_no_common_one(tiny: Sandbox, root: int) -> None:
    attrs = tiny.load().root_id_to_cell_id([root, root]).attrs
    assert attrs["dataset"] == "sandbox"
    assert attrs["timestamp"] is attrs["materialization_version"] is None


def test_frames_of_one_question_can_be_joined(client: Any, root: int) -> None:
    one, two = (client.query_synapses(root, pre=True, progress=False) for _ in range(2))
    assert len(pd.concat([one, two])) == 2 * len(one)
