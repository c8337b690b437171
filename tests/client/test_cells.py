"""Cells to roots and back, against the recorded datastack's files: every root that ever was, at every moment."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from cortexclient import errors
from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.stores.graph import edits as graph_edits
from cortexclient.services import roots as lineages
from cortexclient.services.cells import CellsService
from cortexclient.services.cells.lookup import Matches, intervals_to_points
from cortexclient.services.roots import RootsService, fetch_lineage


def cells_of_root(files, root: int, at: pd.Timestamp) -> list[int]:
    nuclei = files.live("nucleus_toy", max(at, files.versions[1]))
    owners = nuclei["pt_supervoxel_id"].map(lambda sv: files.root_of(int(sv), at))
    return sorted(nuclei["id"][owners == root].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("server", ["toy", "capped"])
def test_every_root_that_ever_was(request, files, server):
    service = CellsService(request.getfixturevalue(server))
    roots = files.roots["node_id"].tolist()
    frame = service.root_id_to_cell_id(roots, status=True)
    assert frame.index.tolist() == roots
    for root, created, ended in zip(roots, files.roots["created"], files.roots["superseded"], strict=True):
        last = (
            pd.Timestamp.now(tz="UTC") if pd.isna(ended) else max(created, ended - timedelta(milliseconds=1))
        )
        expected = cells_of_root(files, root, last)
        assert frame.loc[root, "candidates"] == expected
        assert frame.loc[root, "status"] == {0: "not found", 1: "found"}.get(len(expected), "ambiguous")
        assert frame.loc[root, "cell_id"] == (expected[0] if len(expected) == 1 else -1)
    assert frame["cell_id"].dtype == np.int64


def test_a_lookup_view_may_lack_supervoxels_at_versions_that_need_none(
    toy_folder, toy_session, files, session_at, tmp_path
):
    folder = tmp_path / "toy"
    shutil.copytree(toy_folder, folder)
    rows = folder / "tables" / "nucleus_celltype_view.v1.parquet"
    pq.write_table(pq.read_table(rows).drop_columns("pt_supervoxel_id"), rows)
    views = json.loads((folder / "tables" / "views.json").read_text())
    del views["nucleus_celltype_view"]["schema by version"]["1"]["pt_supervoxel_id"]
    (folder / "tables" / "views.json").write_text(json.dumps(views))
    spec = {"cell_ids": {"lookup_view": "nucleus_celltype_view"}}
    roots = files.roots["node_id"].tolist()
    expected = CellsService(toy_session(spec=spec)).root_id_to_cell_id(roots, status=True)
    with Sandbox(data=folder) as sandbox:
        found = CellsService(session_at(sandbox, spec=spec)).root_id_to_cell_id(roots, status=True)
    pd.testing.assert_frame_equal(found, expected)


def test_cells_at_a_time_whose_version_has_expired(sandbox_factory):
    sandbox = sandbox_factory()
    cells = sandbox.truth.cells["cell_id"].tolist()
    at = sandbox.load().version_timestamp(2) + timedelta(hours=1)
    roots = sandbox.load().cell_id_to_root_id(cells, timestamp=at)
    back = sandbox.load().root_id_to_cell_id(roots["root_id"], timestamp=at)
    sandbox.expire(2)  # rows are read in another version from now on, roots still at the time asked
    assert sandbox.load().cell_id_to_root_id(cells, timestamp=at).equals(roots)
    assert sandbox.load().root_id_to_cell_id(roots["root_id"], timestamp=at).equals(back)


@pytest.mark.parametrize("version", [1, 2])
def test_roots_of_cells_at_a_version(toy, files, version):
    nuclei = files.frozen("nucleus_toy", version).set_index("id")["pt_root_id"]
    asked = [40, 3, 1, 3, 999, 7, 2]
    frame = CellsService(toy.at(version=version)).cell_id_to_root_id(asked)
    assert frame.index.tolist() == asked
    assert list(frame.columns) == ["root_id"]
    assert frame["root_id"].dtype == np.int64
    expected = [int(nuclei.get(cell, 0)) or -1 for cell in asked]
    assert frame["root_id"].tolist() == expected
    assert CellsService(toy).cell_id_to_root_id(asked, version=version)["root_id"].tolist() == expected
    assert (
        CellsService(toy).cell_id_to_root_id(asked, materialization_version=version)["root_id"].tolist()
        == expected
    )


@pytest.mark.parametrize(
    "when", ["2026-11-21T00:52:50", "2026-11-21T00:52:58", "2026-11-21T00:53:02.9", "2026-11-21T02:00:00"]
)
def test_roots_of_cells_at_any_time(toy, files, when):
    at = pd.Timestamp(when, tz="UTC")
    nuclei = files.frozen("nucleus_toy", 2).set_index("id")["pt_supervoxel_id"]
    asked = [40, 3, 1, 3, 999, 7, 2]
    expected = [files.root_of(int(nuclei.get(cell, 0)), at) or -1 for cell in asked]
    assert CellsService(toy.at(timestamp=when)).cell_id_to_root_id(asked)["root_id"].tolist() == expected
    assert CellsService(toy).cell_id_to_root_id(asked, timestamp=when)["root_id"].tolist() == expected


@pytest.mark.parametrize("cached", [False, True])
def test_roots_at_a_named_moment(toy, toy_session, files, tmp_path, cached):
    # the moment is another than the client's, which ends the lifetimes that a cache may hold
    service = CellsService(toy_session(cache=tmp_path, version=1) if cached else toy)
    v1 = files.versions[1]
    roots = files.roots["node_id"].tolist()
    frame = service.root_id_to_cell_id(roots, version=1, status=True)
    between = service.root_id_to_cell_id(roots, timestamp="2026-11-21T00:53:02.9", status=True)
    future = service.root_id_to_cell_id(roots, timestamp="2099-01-01T00:00:00", status=True)
    now = pd.Timestamp.now(tz="UTC")
    for root in roots:
        assert future.loc[root, "candidates"] == (
            cells_of_root(files, root, now) if root in files.current_roots(now) else []
        )
        assert frame.loc[root, "candidates"] == (
            cells_of_root(files, root, v1) if root in files.current_roots(v1) else []
        )
        then = pd.Timestamp("2026-11-21T00:53:02.9", tz="UTC")
        assert between.loc[root, "candidates"] == (
            cells_of_root(files, root, then) if root in files.current_roots(then) else []
        )


def test_prefetched_lineage_gives_what_lineage_fetched_later_gives(toy, files, monkeypatch):
    roots = [*files.roots["node_id"].tolist(), 5, 72057662757404673]
    first = CellsService(toy).root_id_to_cell_id(
        roots, status=True
    )  # an id that is no root makes the prefetch fail
    known = CellsService(toy).root_id_to_cell_id(roots[:-2], status=True)
    monkeypatch.setattr(lineages, "FEW_ROOTS", 0)
    later = CellsService(toy).root_id_to_cell_id(roots, status=True)
    pd.testing.assert_frame_equal(first, later)
    pd.testing.assert_frame_equal(known, later.iloc[:-2])


@pytest.fixture
def broken_lineage(toy_session, monkeypatch):
    """Make a service for which the chunkedgraph answers 504 whenever some roots are among those asked."""

    def make(slow):
        session = toy_session()
        send, failed = session.http.send, []

        def spoiled(service, method, url, **options):
            if "lineage_graph" in url and set(options["body"]["root_ids"]) & set(slow):
                failed.append(options["body"]["root_ids"])
                raise errors.ServiceUnavailableError("gateway time-out", service=service, status=504, url=url)
            return send(service, method, url, **options)

        monkeypatch.setattr(session.http, "send", spoiled)
        return CellsService(session), failed

    return make


def test_a_root_without_lineage_fails_alone(toy, files, broken_lineage, caplog):
    roots = files.roots["node_id"].tolist()
    right = CellsService(toy).root_id_to_cell_id(roots, status=True)
    at_versions = {root for at in files.versions.values() for root in files.current_roots(at)}
    between = [root for root in roots if root not in at_versions]
    assert len(between) > 3
    for slow in (between[:1], between[1:3]):
        service, failed = broken_lineage(slow)
        frame = service.root_id_to_cell_id(roots, status=True)
        assert frame.index[frame["status"] == "failed"].tolist() == slow == frame.attrs["failed_root_ids"]
        assert (frame.loc[slow, "cell_id"] == -1).all()
        pd.testing.assert_frame_equal(frame.drop(slow), right.drop(slow))
        assert len(failed) <= 2 + 2 * len(slow) * len(between).bit_length()
        assert all(str(root) in caplog.text for root in slow)
        with pytest.raises(errors.ServiceUnavailableError):
            service.root_id_to_cell_id(roots, strict=True)


def test_no_lineage_at_all(toy, files, broken_lineage, monkeypatch):
    roots = files.roots["node_id"].tolist()
    right = CellsService(toy).root_id_to_cell_id(roots, status=True)
    service, failed = broken_lineage(roots)
    monkeypatch.setattr(lineages, "MOST_FAILURES", 2)
    frame = service.root_id_to_cell_id(roots, status=True)
    old = frame["status"] == "failed"
    pd.testing.assert_frame_equal(frame[~old], right[~old])
    assert len(failed) <= 1 + 3  # the prefetched one, all, two halves
    with pytest.raises(errors.ServiceUnavailableError, match="time-out"):  # nothing else would say so
        service.root_id_to_cell_id(frame.index[old])
    alone = service.root_id_to_cell_id(frame.index[old][:1], status=True)
    assert alone["status"].tolist() == ["failed"]
    known = right.index[~old]
    assert service.root_id_to_cell_id(known)["cell_id"].tolist() == right.loc[known, "cell_id"].tolist()


def test_a_lineage_that_cannot_be_read(toy_session, files, monkeypatch):
    session = toy_session()
    response = requests.Response()
    response.status_code, response.url = 200, f"{session.local_server}/segmentation/x"
    response._content = b'{"links": [{"source": 1.5, "target": 2}], "nodes": []}'
    monkeypatch.setattr(session.http, "send", lambda *_, **__: response)
    with pytest.raises(errors.ProtocolError, match="cannot be used"):
        fetch_lineage(session, np.array([7]), since=files.versions[1], until=files.versions[2])


def test_roots_of_all_ages_take_three_round_trips(toy_folder, files, session_at):
    with Sandbox(data=toy_folder, latency=0.2) as sandbox:
        session = session_at(sandbox)
        session.versions()
        before = len(sandbox.requests)
        roots = files.roots["node_id"].tolist()
        assert CellsService(session).root_id_to_cell_id(roots, status=True)["candidates"].any()
        entries = list(sandbox.requests)[before:]
    steps = [
        {"root_timestamps", "lineage_graph_multiple", "version"},
        {"query"},
        {"roots_binary"},
    ]
    named = [(entry.path.rsplit("/", 1)[1], entry) for entry in entries]
    found = [[entry for name, entry in named if name in step] for step in steps]
    assert all(found)
    assert {name for name, _ in named} <= set.union(*steps)
    # of one step, each began before any had ended
    for step in found:
        assert max(entry.time for entry in step) < min(
            entry.time + timedelta(seconds=entry.seconds) for entry in step
        )


def test_roots_that_came_and_went_since_the_newest_version(toy_folder, files, session_at):
    start = pd.Timestamp.now(tz="UTC").floor("ms")
    with Sandbox(data=toy_folder) as sandbox:
        session = session_at(sandbox)
        nuclei = files.frozen("nucleus_toy", 2)
        nuclei = nuclei[nuclei["pt_root_id"].isin(files.current_roots())]
        whole = int(nuclei["pt_root_id"].iloc[0])
        halves = sandbox.split(whole, at=start - timedelta(seconds=30)).new_roots
        assert len(halves) == 2
        sandbox.merge(*map(int, halves), at=start - timedelta(seconds=20))
        between = start - timedelta(seconds=25)
        owners = session.cave.chunkedgraph.get_roots(
            nuclei["pt_supervoxel_id"].astype("int64"), timestamp=between
        )
        expected = [sorted(nuclei["id"][owners == half].tolist()) for half in halves.tolist()]
        assert any(expected)
        frame = CellsService(session).root_id_to_cell_id(halves, status=True)
        assert frame["candidates"].tolist() == expected


def test_a_root_that_lived_for_less_than_a_millisecond(toy_folder, files, session_at, monkeypatch):
    monkeypatch.setattr(graph_edits, "_MILLISECOND", 100)  # finer times than the service's own
    start = pd.Timestamp.now(tz="UTC").floor("s") - timedelta(seconds=30)
    with Sandbox(data=toy_folder) as sandbox:
        session = session_at(sandbox)
        nuclei = files.frozen("nucleus_toy", 2)
        nuclei = nuclei[nuclei["pt_root_id"].isin(files.current_roots())]
        halves = sandbox.split(int(nuclei["pt_root_id"].iloc[0]), at=start).new_roots.tolist()
        sandbox.merge(*halves, at=start + timedelta(microseconds=400))
        assert session.cave.chunkedgraph.get_root_timestamps(halves).tolist() == [start, start]
        assert RootsService(session).latest_valid_timestamp(halves).tolist() == [start, start]
        owners = session.cave.chunkedgraph.get_roots(
            nuclei["pt_supervoxel_id"].astype("int64"), timestamp=start
        )
        expected = [sorted(nuclei["id"][owners == half].tolist()) for half in halves]
        assert any(expected)
        frame = CellsService(session).root_id_to_cell_id(halves, status=True)
        assert frame["candidates"].tolist() == expected


def test_a_floating_client_reads_the_newest_version_unless_it_is_asked_live(toy_folder, files, session_at):
    nuclei = files.frozen("nucleus_toy", 2)
    row = nuclei[nuclei["pt_root_id"].isin(files.current_roots())].iloc[0]
    cell, old = int(row["id"]), int(row["pt_root_id"])
    with Sandbox(data=toy_folder) as sandbox:
        service = CellsService(session_at(sandbox))
        sandbox.split(old, at=pd.Timestamp.now(tz="UTC") - timedelta(seconds=5))
        current = int(service._session.cave.chunkedgraph.get_roots([int(row["pt_supervoxel_id"])])[0])
        assert current != old
        assert service.cell_id_to_root_id(cell)["root_id"].tolist() == [old]
        assert service.cell_id_to_root_id(cell, live=True)["root_id"].tolist() == [current]
        pinned = CellsService(service._session.at(version=2))
        assert pinned.cell_id_to_root_id(cell, live=True)["root_id"].tolist() == [old]
        theirs = pinned._session.cave
        assert service.cell_id_to_root_id(cell, theirs, live=True)["root_id"].tolist() == [old]
        for none in ([], [-1]):
            frame = pinned.cell_id_to_root_id(none)
            assert frame.attrs["materialization_version"] == 2
            assert frame.attrs == pinned.cell_id_to_root_id(cell).attrs
            frame = service.root_id_to_cell_id(none, version=1)
            assert frame.attrs["materialization_version"] == 1
        with pytest.raises(ValueError, match="leave out version="):
            service.cell_id_to_root_id(cell, version=2, live=True)


def test_a_pinned_client_knows_the_cells_of_its_moment(toy_folder, files, session_at):
    nuclei = files.frozen("nucleus_toy", 2)
    row = nuclei[nuclei["pt_root_id"].isin(files.current_roots())].iloc[0]
    root = int(row["pt_root_id"])
    cell = {"pt": {"position": [int(row[f"pt_position_{axis}"]) for axis in "xyz"]}, "tag": "a cell"}
    with Sandbox(data=toy_folder) as sandbox:
        session = session_at(sandbox, spec={"cell_ids": {"main_table": "cells"}})
        cave = session.cave
        cave.annotation.create_table("cells", "bound_tag", "cells of a test", [4, 4, 40])
        for version in (3, 4):
            cave.annotation.post_annotation("cells", [cell])
            cave.materialize.ingest_annotation_table("cells")
            assert sandbox.materialize() == version
        times = {record.version: record.timestamp for record in session.versions(refresh=True).values()}
        found = [
            CellsService(at).root_id_to_cell_id([root], status=True).loc[root, "candidates"]
            for at in (
                session,
                session.at(version=4),
                session.at(version=3),
                session.at(timestamp=times[3]),
                # at no version's own time, the nearest one is read
                session.at(timestamp=times[3] - timedelta(milliseconds=1)),
            )
        ]
    assert found == [[1, 2], [1, 2], [1], [1], [1]]


def test_nothing_and_nonsense(toy):
    service = CellsService(toy)
    for asked in ([], np.zeros(0, dtype=np.int64)):
        frame = service.root_id_to_cell_id(asked)
        assert len(frame) == 0
        assert frame["cell_id"].dtype == np.int64
        assert frame.index.dtype == np.int64
        assert service.cell_id_to_root_id(asked)["root_id"].dtype == np.int64
    frame = service.root_id_to_cell_id([5, 0, -1, 72057662757404673], status=True)
    assert frame["cell_id"].tolist() == [-1] * 4
    assert frame["status"].tolist()[0] == "unknown root"
    assert service.root_id_to_cell_id([5], filter_empty=True).empty
    assert service.cell_id_to_root_id([5, 999], filter_empty=True).index.tolist() == [5]
    with pytest.raises(TypeError, match="float"):
        service.root_id_to_cell_id([8.6e17])


def test_ambiguous_on_request_raises(toy, files):
    service = CellsService(toy)
    roots = files.roots["node_id"].tolist()
    with pytest.raises(errors.AmbiguousCellError, match="several"):
        service.root_id_to_cell_id(roots, strict=True)


def test_a_dataset_without_cell_ids(toy_session):
    session = toy_session(spec={"cell_ids": None})
    with pytest.raises(errors.NotConfiguredError, match="cell_ids"):
        CellsService(session).root_id_to_cell_id([1])


def test_one_cell_in_two_tables_is_one():
    matches = Matches(np.array([10, 11, 12, 10]))
    main = pd.DataFrame({"root": [10, 11], "cell": [100, 101], "rank": 2, "table": "main"})
    matches.add(main, given="root", found="cell")
    matches.add(main.assign(cell=[100, 102], rank=1, table="alternative"), given="root", found="cell")
    values, states, tables, candidates = matches.results()
    assert values.tolist() == [100, -1, -1, 100]
    assert states.tolist() == ["found", "ambiguous", "not found", "found"]
    assert tables.tolist() == ["alternative", "main", None, "alternative"]
    assert candidates == [[100], [101, 102], [], [100]]
    assert matches.results(first_of_many=True)[0].tolist() == [100, 101, -1, 100]
    matches.keep_best()
    assert matches.results()[0].tolist() == [100, 102, -1, 100]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-5, 30)), max_size=60))
def test_few_times_hit_every_interval(pairs):
    first = np.array([low for low, _ in pairs], dtype=np.int64)
    last = np.array([low + length for low, length in pairs], dtype=np.int64)
    times, which = intervals_to_points(first, last)
    assert len(which) == len(first)
    for low, high, index in zip(first, np.maximum(first, last), which, strict=True):
        assert low <= times[index] <= high
    # no choice is smaller: the chosen times belong to intervals that do not touch each other
    assert len(times) == len(set(times.tolist()))
