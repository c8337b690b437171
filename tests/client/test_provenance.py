"""Every frame says where it is from, and says so without a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from cortexclient.errors import NotConfiguredError
from cortexclient.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(size="tiny") as served:
        yield served


@pytest.fixture(scope="module")
def client(sandbox: Sandbox) -> Any:
    return sandbox.load(version=sandbox.load().version)


@pytest.fixture(scope="module")
def root(client: Any, sandbox: Sandbox) -> int:
    synapses = sandbox.truth.synapses
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


def test_every_frame_says_where_it_is_from(client: Any, sandbox: Sandbox, root: int) -> None:
    for name, frame in frames(client, root).items():
        attrs = frame.attrs
        assert attrs["dataset"] == client.spec.name, name
        assert attrs["datastack_name"] == sandbox.datastack, name
        assert attrs["server_address"] == sandbox.url, name
        assert attrs["spec_hash"] == client.spec.fingerprint, name
        assert attrs["transform"] == (client.spec.transform.dataset or "declared"), name
        assert attrs["timestamp"] == client.timestamp.isoformat(), name
        if name != "latest":  # answered by the graph, which knows times and no versions
            assert attrs["materialization_version"] == client.version, name
        assert sandbox.token not in repr(attrs), name


def test_a_changed_spec_has_another_hash_and_a_pinned_transform_is_named(sandbox: Sandbox) -> None:
    pinned = sandbox.load(overrides={"transform": {"dataset": "v1dd", "version": "1.4", "steps": None}})
    table = pinned.spec.cell_ids.main_table
    attrs = pinned.tables[table]().query(limit=1).attrs
    assert (attrs["transform"], attrs["transform_version"]) == ("v1dd", "1.4")
    plain = sandbox.load().tables[table]().query(limit=1).attrs
    assert attrs["spec_hash"] != plain["spec_hash"]
    open_ended = sandbox.load(overrides={"transform": {"dataset": "v1dd", "steps": None}})
    assert open_ended.tables[table]().query(limit=1).attrs["transform_version"].startswith("newest of")


def test_a_service_that_the_spec_rules_out_is_not_asked(sandbox: Sandbox, root: int) -> None:
    without = sandbox.load(overrides={"capabilities": {"l2cache": False}})
    ids = without.get_l2_ids(root)[:2]
    before = len(sandbox.requests)
    with pytest.raises(NotConfiguredError, match=r"capabilities\.l2cache: false"):
        without.get_l2data(ids)
    assert len(sandbox.requests) == before


def test_rows_of_different_times_have_no_common_one(sandbox: Sandbox, root: int) -> None:
    attrs = sandbox.load().root_id_to_cell_id([root, root]).attrs
    assert attrs["dataset"] == "sandbox"
    assert attrs["timestamp"] is attrs["materialization_version"] is None


def test_frames_of_one_question_can_be_joined(client: Any, root: int) -> None:
    one, two = (client.query_synapses(root, pre=True, progress=False) for _ in range(2))
    assert len(pd.concat([one, two])) == 2 * len(one)
