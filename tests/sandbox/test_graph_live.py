"""Live tables agree with supervoxels after any history of edits, asked by the unmodified caveclient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.stores.graph.edits import EditError
from tests.sandbox.toy import client_of

# between the last write to the recorded tables and now: asked before any edit of this test
THEN = datetime(2026, 11, 21, 0, 53, 22, 862000, tzinfo=UTC)
SIDES = ("pre_pt", "post_pt")


@pytest.fixture(scope="module")
def toy(recordings: Path) -> Iterator[Sandbox]:
    with Sandbox(data=recordings / "real_toy_datastack") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def cave(toy: Sandbox) -> Any:
    return client_of(toy)


def synapses(cave: Any, when: datetime, side: str, root: int) -> dict[int, int]:
    """Ids of a root's synapses on one side, and the roots on the other side."""
    other = SIDES[1 - SIDES.index(side)]
    rows = cave.materialize.live_live_query(
        "synapses_toy", when, filter_equal_dict={"synapses_toy": {f"{side}_root_id": root}}, log_warning=False
    )
    return dict(zip(rows["id"].tolist(), rows[f"{other}_root_id"].tolist(), strict=True))


def expected(toy: Sandbox, when: datetime, side: str, root: int) -> dict[int, int]:
    """The same worked out from the stored rows and the supervoxels' roots."""
    rows = toy.world.tables.live_rows("synapses_toy").to_pandas()
    rows = rows[rows["has_segmentation_row"] & rows["deleted"].isna()]
    roots = {name: toy.world.graph.roots(rows[f"{name}_supervoxel_id"].to_numpy(), when) for name in SIDES}
    mine = roots[side] == root
    other = roots[SIDES[1 - SIDES.index(side)]]
    return dict(zip(rows["id"][mine].tolist(), other[mine].tolist(), strict=True))


STEP = st.tuples(st.booleans(), st.integers(0, 1000), st.integers(0, 1000))


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(steps=st.lists(STEP, min_size=1, max_size=3))
def test_live_tables_follow_any_history(toy: Sandbox, cave: Any, steps: list[tuple[bool, int, int]]) -> None:
    graph = toy.world.graph
    old_root = int(graph.alive(THEN)[0])
    before = synapses(cave, THEN, "pre_pt", old_root)
    for join, a, b in steps:
        alive = graph.alive().tolist()
        one, two = alive[a % len(alive)], alive[b % len(alive)]
        try:
            edit = toy.merge(one, two) if join else toy.split(one)
        except EditError:
            continue
        now = edit.time + timedelta(milliseconds=5)
        for root in edit.new_roots.tolist():
            for side in SIDES:
                assert synapses(cave, now, side, root) == expected(toy, now, side, root)
        moment = edit.time - timedelta(milliseconds=1)
        if np.isin(edit.old_roots, graph.alive(moment)).all() and moment > THEN:
            root = int(edit.old_roots[0])
            assert synapses(cave, moment, "post_pt", root) == expected(toy, moment, "post_pt", root)
    assert synapses(cave, THEN, "pre_pt", old_root) == before


@settings(max_examples=4, deadline=None)
@given(steps=st.lists(STEP, min_size=2, max_size=4), expired=st.integers(0, 10))
def test_versions_made_between_edits_hold_their_own_time(
    toy: Sandbox, cave: Any, steps: list[tuple[bool, int, int]], expired: int
) -> None:
    """A frozen version answers the roots of its time, whatever is edited later, until it expires."""
    graph = toy.world.graph
    made: dict[int, datetime] = {}
    for join, a, b in steps:
        alive = graph.alive().tolist()
        with contextlib.suppress(EditError):
            toy.merge(alive[a % len(alive)], alive[b % len(alive)]) if join else toy.split(
                alive[a % len(alive)]
            )
        version = toy.materialize()
        made[version] = cave.materialize.get_timestamp(version)
    for version, when in made.items():
        rows = cave.materialize.query_table(
            "synapses_toy", materialization_version=version, split_positions=True
        )
        for side in SIDES:
            supervoxels = rows[f"{side}_supervoxel_id"].to_numpy(np.int64)
            assert (rows[f"{side}_root_id"].to_numpy(np.int64) == graph.roots(supervoxels, when)).all()
        root = int(rows["pre_pt_root_id"].iloc[0])
        assert synapses(cave, when + timedelta(milliseconds=1), "pre_pt", root) == expected(
            toy, when + timedelta(milliseconds=1), "pre_pt", root
        )
    gone = sorted(made)[expired % len(made)]
    toy.expire(gone)
    assert set(made) - set(cave.materialize.get_versions()) == {gone}
    assert gone in cave.materialize.get_versions(expired=True)
