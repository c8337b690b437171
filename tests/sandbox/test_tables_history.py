"""Live tables agree with supervoxels and with what was written, over random histories of edits and annotations."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.naming import own_names
from cortexclient.sandbox.stores.graph import edits as graph_edits
from cortexclient.sandbox.stores.tables.live import live_rows
from cortexclient.sandbox.stores.tables.model import QueryError
from cortexclient.sandbox.world import Options, World

START = datetime(2024, 5, 1, tzinfo=UTC)
STEP = timedelta(seconds=10)
SIZE = (96, 48, 24)

ACTIONS = st.one_of(
    st.tuples(st.just("merge"), st.integers(0, 99), st.integers(0, 99)),
    st.tuples(st.just("split"), st.integers(0, 99), st.integers(0, 99)),
    st.tuples(st.just("write"), st.integers(1, 4), st.integers(0, 2**16)),
    st.tuples(st.just("replace"), st.integers(0, 99), st.integers(0, 2**16)),
    st.tuples(st.just("delete"), st.integers(0, 99), st.just(0)),
    st.tuples(st.just("freeze"), st.just(0), st.just(0)),
    st.tuples(st.just("expire"), st.integers(0, 99), st.just(0)),
)


class History:
    """A world whose clock is turned by hand, and what a plain list of rows says about it."""

    def __init__(self, folder: Path) -> None:
        data = DataFolder.open(folder)
        self.world = World(data, own_names(data), Options())
        self.clock = START
        self.world.now = lambda: self.clock  # type: ignore[method-assign]
        self.store = self.world.tables
        self.rows: dict[int, tuple[datetime, datetime | None]] = {}
        self.store.writer.create(
            "tags",
            "bound_tag",
            {
                "description": "points",
                "voxel_resolution_x": 8,
                "voxel_resolution_y": 8,
                "voxel_resolution_z": 40,
            },
            "0",
        )
        self.write(3, 1)
        self.store.materialize()

    def write(self, count: int, seed: int) -> None:
        points = np.random.default_rng(seed).integers(0, SIZE, (count, 3)).tolist()
        ids = self.store.writer.insert("tags", [{"pt": {"position": p}, "tag": "x"} for p in points])
        self.store.look_up("tags")
        self.rows.update(dict.fromkeys(ids, (self.clock, None)))

    def alive(self) -> list[int]:
        return [identity for identity, (_, gone) in self.rows.items() if gone is None]

    def act(self, kind: str, one: int, other: int) -> None:
        self.clock += STEP
        graph, rows = self.world.graph, self.alive()
        roots = graph.alive().tolist()
        if kind == "merge" and len(roots) > 1:
            first, second = roots[one % len(roots)], roots[other % len(roots)]
            if first != second:
                graph_edits.merge(graph, first, second, at=self.clock)
        elif kind == "split":
            parts = graph.supervoxels(roots[one % len(roots)])
            if len(parts) > 1:
                graph_edits.split(
                    graph, int(parts[0]), int(parts[1 + other % (len(parts) - 1)]), at=self.clock
                )
        elif kind == "write":
            self.write(one, other)
        elif kind == "replace" and rows:
            old = rows[one % len(rows)]
            point = np.random.default_rng(other).integers(0, SIZE).tolist()
            _, new = self.store.writer.update("tags", {"id": old, "pt": {"position": point}, "tag": "y"})
            self.store.look_up("tags")
            self.rows[old] = (self.rows[old][0], self.clock)
            self.rows[new] = (self.clock, None)
        elif kind == "delete" and rows:
            old = rows[one % len(rows)]
            self.store.writer.delete("tags", [old])
            self.rows[old] = (self.rows[old][0], self.clock)
        elif kind == "freeze":
            self.store.materialize()
        elif kind == "expire" and len(self.store.versions()) > 1:
            versions = [row["version"] for row in self.store.versions()]
            self.store.expire(versions[one % len(versions)])

    def check(self, at: datetime) -> None:
        expected = {
            identity
            for identity, (made, gone) in self.rows.items()
            if made <= at and (gone is None or gone > at)
        }
        body = {"table": "tags", "timestamp": at}
        if not expected:
            # an answer without rows is an error of the service where neither database has any to offer
            with contextlib.suppress(QueryError):
                assert len(live_rows(self.store, body, {"direct_sql_pandas": True}).frame) == 0
            return
        frame = live_rows(self.store, body, {"direct_sql_pandas": True}).frame
        assert set(frame["id"].tolist()) == expected
        supervoxels = frame["pt_supervoxel_id"].to_numpy(dtype=np.int64)
        roots = frame["pt_root_id"].to_numpy(dtype=np.int64)
        assert (roots == self.world.graph.roots(supervoxels, at)).all()
        for root in np.unique(roots[roots != 0]).tolist():
            filtered = {**body, "filter_equal_dict": {"tags": {"pt_root_id": root}}}
            of_root = live_rows(self.store, filtered, {"direct_sql_pandas": True}).frame
            assert set(of_root["id"].tolist()) == set(frame["id"][frame["pt_root_id"] == root].tolist())


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, min_size=1, max_size=8))
def test_live_tables_agree_with_supervoxels_at_all_times(
    block_folder: Path, actions: list[tuple[str, int, int]]
) -> None:
    history = History(block_folder)
    for action in actions:
        history.act(*action)
    for step in range(len(actions) + 1):
        history.check(START + STEP * step + STEP / 2)
    for row in history.store.versions():
        frozen = history.store.frame("tags", row["version"])
        at = datetime.fromisoformat(row["time_stamp"]).replace(tzinfo=UTC)
        supervoxels = frozen["pt_supervoxel_id"].to_numpy()
        assert (frozen["pt_root_id"].to_numpy() == history.world.graph.roots(supervoxels, at)).all()
