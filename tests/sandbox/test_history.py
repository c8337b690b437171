"""Edits, new versions and expiring ones, while a sandbox runs: every service tells the same story."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import requests

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.routes.viewer import example_roots
from tests.sandbox.toy import client_of


@pytest.fixture
def edited(sandbox_factory: Callable[..., Sandbox]) -> Sandbox:
    """A sandbox of its own: what is done to it must not reach other tests."""
    return sandbox_factory()


@pytest.fixture
def cave(edited: Sandbox) -> Any:
    return client_of(edited)


def synapses(cave: Any, side: str, root: int) -> set[int]:
    table = cave.materialize.synapse_table
    rows = cave.materialize.live_live_query(
        table, "now", filter_equal_dict={table: {f"{side}_pt_root_id": root}}, log_warning=False
    )
    return set(rows["id"].tolist())


def test_merge_and_undo(edited: Sandbox, cave: Any) -> None:
    one, two = example_roots(edited.world, 2)
    before = {side: synapses(cave, side, one) | synapses(cave, side, two) for side in ("pre", "post")}
    leaves = set(cave.chunkedgraph.get_leaves(one).tolist()) | set(cave.chunkedgraph.get_leaves(two).tolist())

    edit = edited.merge(one, two)
    (new,) = edit.new_roots.tolist()

    assert cave.chunkedgraph.is_latest_roots([one, two, new]).tolist() == [False, False, True]
    assert set(cave.chunkedgraph.get_leaves(new).tolist()) == leaves
    assert set(cave.chunkedgraph.get_latest_roots(one).tolist()) == {new}
    assert {side: synapses(cave, side, new) for side in ("pre", "post")} == before
    l2_ids = cave.chunkedgraph.get_leaves(new, stop_layer=2)
    assert set(edit.new_l2_ids.tolist()) <= set(l2_ids.tolist())
    attributes = cave.l2cache.get_l2data(l2_ids.tolist(), attributes=["rep_coord_nm", "size_nm3"])
    assert all("rep_coord_nm" in row for row in attributes.values())
    skeleton = cave.skeleton.get_skeleton(new, output_format="dict")
    assert sorted(skeleton["lvl2_ids"].tolist()) == sorted(l2_ids.tolist())
    assert np.isfinite(skeleton["vertices"]).all()

    back = edited.undo(edit.operation_id)
    assert len(back.new_roots) == 2
    assert not cave.chunkedgraph.is_latest_roots([new])[0]
    parts = [set(cave.chunkedgraph.get_leaves(root).tolist()) for root in back.new_roots]
    assert parts[0] | parts[1] == leaves
    assert not parts[0] & parts[1]


def test_the_point_of_a_new_level_2_id_lies_in_it(edited: Sandbox, cave: Any) -> None:
    graph = edited.world.graph
    for supervoxel in edited.truth.cells["soma_supervoxel_id"].tolist():
        pieces = edited.split(int(graph.roots([supervoxel])[0])).new_l2_ids
        found = cave.l2cache.get_l2data(pieces.tolist(), attributes=["rep_coord_nm"])
        points = {int(piece): row["rep_coord_nm"] for piece, row in found.items() if row}
        at = np.array([*points.values()]) / graph.volume.geometry.resolution
        there = cave.chunkedgraph.get_roots(graph.volume.supervoxel_at(at), stop_layer=2)
        assert there.tolist() == [*points]


def test_another_dataset_of_the_same_sandbox(edited: Sandbox) -> None:
    own, other = edited.load(), edited.load("v1dd")
    assert other.datastack_name == "v1dd"
    assert own.server_address != other.server_address
    assert edited.load("v1dd").server_address == other.server_address
    # each under the numbers of its own spec
    assert own.version == 3
    assert other.version == max(entry.version for entry in other.spec.versions if entry.status != "expired")
    # one log and one plan of faults for all of them
    assert edited.requests.count("/info/api/v2/datastack/full/v1dd") == 1
    edited.inject("404", route="/datastack/v1dd/")
    assert (
        requests.get(f"{other.server_address}/materialize/api/v3/datastack/v1dd/versions").status_code == 404
    )
    edited.close()
    with pytest.raises(requests.ConnectionError):
        requests.get(other.server_address)


def test_another_dataset_of_the_same_cortex_has_the_same_history(edited: Sandbox) -> None:
    own, other = edited.load(), edited.load("minnie_public")
    edit = edited.merge(*example_roots(edited.world, 2))
    (new,) = edit.new_roots.tolist()
    assert other.is_latest_roots([*edit.old_roots, new]).tolist() == [False, False, True]
    version = edited.materialize()
    edited.expire(min(own.session.versions()))
    late = edited.load("minnie_prod")  # its server starts after all that
    for client in (other, late):
        known = edited._siblings[client.spec.name].world.tables.versions(expired=True)
        assert [(row["time_stamp"], row["valid"]) for row in known] == [
            (row["time_stamp"], row["valid"]) for row in edited.world.tables.versions(expired=True)
        ]
        newest = max(row["version"] for row in known)
        rows = client.at(version=newest).query_synapses(new, pre=True, progress=False)
        assert len(rows) > 0
        same = own.at(version=version).query_synapses(new, pre=True, progress=False)
        assert sorted(rows["id"]) == sorted(same["id"])
