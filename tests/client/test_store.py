"""A store answers what the server answers at a version: the same frames, without asking it; and goes on without it."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

import cortexclient
from cortexclient.cli import main
from cortexclient.errors import ExportError, InvalidQueryError, OutputError, StoreError, UnknownTableError
from cortexclient.sandbox import Sandbox
from cortexclient.services.exports import TableExportClient
from cortexclient.services.store import StoreService
from cortexclient.session import Query, run_query
from cortexclient.store import local
from cortexclient.store.local import LocalStore
from cortexclient.store.places import open_place
from cortexclient.store.tables import MANIFEST, StoredTable
from cortexclient.store.writer import TableWriter, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cortexclient.client import DatasetClient

REAL = Path(__file__).parents[1] / "data" / "real_toy_exports"


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox]:
    with Sandbox(size="tiny") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def place(server: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tables and views of version 3, and some of version 2."""
    folder = tmp_path_factory.mktemp("store")
    client = server.load(version=3)
    client.store.pull([*client.tables, *client.views], path=folder, progress=False)
    client.store.pull(["nucleus_detection", "synapses_sandbox"], version=2, path=folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def both(server: Sandbox, place: Path) -> tuple[DatasetClient, DatasetClient]:
    return server.load(version=3), server.load(version=3, source="store", store=place)


def roots_of(client: DatasetClient) -> list[int]:
    found = client.tables.nucleus_detection().query()["pt_root_id"]
    return sorted(int(root) for root in found if root > 0)[:4]


BOX = [[100_000, 100_000, 100_000], [900_000, 700_000, 1_000_000]]
QUERIES: dict[str, Callable[[DatasetClient], Any]] = {
    "a table": lambda c: c.tables.nucleus_detection().query(),
    "by id": lambda c: c.tables.nucleus_detection(id=c.tables.nucleus_detection().query()["id"][2:5]).query(),
    "no such id": lambda c: c.tables.nucleus_detection(id=[5]).query(),
    "an empty list": lambda c: c.tables.nucleus_detection(id=[]).query(),
    "by root": lambda c: c.tables.nucleus_detection(pt_root_id=roots_of(c)).query(),
    "in voxels": lambda c: c.tables.nucleus_detection().query(desired_resolution=None, split_positions=True),
    "some columns": lambda c: c.tables.nucleus_detection().query(select_columns=["volume", "pt_position"]),
    "after an offset": lambda c: c.tables.nucleus_detection().query(offset=3, limit=4),
    "as Arrow": lambda c: c.query("synapses_sandbox", limit=None, return_as="arrow"),
    "greater and less": lambda c: c.query(
        "synapses_sandbox", filter_greater_dict={"size": 500}, filter_less_equal_dict={"size": 900}
    ),
    "not in": lambda c: c.query("nucleus_detection", filter_out_dict={"pt_root_id": roots_of(c)}),
    "a box": lambda c: c.query("nucleus_detection", filter_spatial_dict={"pt_position": BOX}),
    "a box of synapses": lambda c: c.query("synapses_sandbox", filter_spatial_dict={"ctr_pt_position": BOX}),
    "a regular expression": lambda c: c.query("cell_types", filter_regex_dict={"cell_type": "^L"}),
    "whole numbers for a fraction": lambda c: c.query(
        "nucleus_detection", filter_in_dict={"volume": [2**62, 3]}
    ),
    "an equal text": lambda c: c.tables.cell_types(cell_type="BC").query(),
    "a reference table": lambda c: c.tables.cell_types().query(),
    "a reference table alone": lambda c: c.query("cell_types", merge_reference=False),
    "references to synapses": lambda c: c.query("synapse_targets", limit=None),
    "synapses by id": lambda c: c.query(
        "synapses_sandbox", filter_in_dict={"id": c.query("synapses_sandbox", limit=None)["id"][:9]}
    ),
    "references to synapses of a root": lambda c: c.query(
        "synapse_targets", filter_in_dict={"pre_pt_root_id": roots_of(c)}
    ),
    "a view": lambda c: c.views.connections_with_nuclei().query(),
    "a view without ids": lambda c: c.views.synapse_degrees().query(),
    "one column of a view": lambda c: c.query("synapse_degrees", select_columns=["n_input"]),
    "a view by root": lambda c: c.views.connections_with_nuclei(pre_pt_root_id=roots_of(c)).query(),
    "a count": lambda c: pd.DataFrame({"n": [c.tables.synapses_sandbox(pre_pt_root_id=roots_of(c)).count()]}),
    "synapses": lambda c: c.query_synapses(roots_of(c), pre=True, post=True, progress=False),
    "synapses in voxels": lambda c: c.query_synapses(roots_of(c), post=True, resolution=None, progress=False),
    "synapses and what is said of them": lambda c: c.query_synapses(
        roots_of(c), pre=True, reference_tables=["synapse_targets", "synapse_tags"], progress=False
    ),
    "connectivity": lambda c: c.connectivity(roots_of(c)),
    "strong synapses from these to those": lambda c: c.query_synapses(
        pre_ids=roots_of(c)[:2], post_ids=roots_of(c), min_size=100, min_synapses=2, progress=False
    ),
    "counts by type": lambda c: c.connectivity(roots_of(c), min_size=100, by="cell_types"),
    "partners": lambda c: c.partners([*roots_of(c), 0]),
    "changes between versions": lambda c: c.diff("nucleus_detection", 2, 3),
    "cells to roots": lambda c: c.cell_id_to_root_id(c.tables.nucleus_detection().query()["id"].head(5)),
    "roots to cells": lambda c: c.root_id_to_cell_id(roots_of(c)),
}


def table_requests(server: Sandbox, before: int) -> list[str]:
    return [record.path for record in server.requests[before:] if "/materialize/" in record.path]


@pytest.mark.parametrize("name", QUERIES)
def test_the_store_answers_what_the_server_answers(
    name: str, both: tuple[DatasetClient, DatasetClient], server: Sandbox, place: Path
) -> None:
    online, stored = both
    expected = QUERIES[name](online)
    before = len(server.requests)
    found = QUERIES[name](stored)
    assert table_requests(server, before) == []
    if not isinstance(expected, pd.DataFrame):
        assert found.equals(expected)
        return
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    if "source" in expected.attrs:
        assert (expected.attrs["source"], found.attrs["source"]) == ("server", str(place))
        ignored = {"source", "requests"}
        assert {key: value for key, value in found.attrs.items() if key not in ignored} == {
            key: value for key, value in expected.attrs.items() if key not in ignored
        }


def test_a_bulk_job_reads_the_store(
    both: tuple[DatasetClient, DatasetClient], server: Sandbox, tmp_path: Path
) -> None:
    online, stored = both
    roots = roots_of(online)
    expected = online.bulk(roots, progress=False).synapses(out=tmp_path / "online").frame()
    before = len(server.requests)
    found = stored.bulk(roots, progress=False).synapses(out=tmp_path / "stored").frame()
    assert [path for path in table_requests(server, before) if path.endswith("/query")] == []
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(
    "name", ["synapses by id", "references to synapses", "greater and less", "a box of synapses"]
)
def test_large_tables_are_read_by_the_keys_of_the_rows_that_fit(
    name: str, both: tuple[DatasetClient, DatasetClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    original = StoredTable.find
    monkeypatch.setattr(local, "_SMALL", 0)
    monkeypatch.setattr(local, "_SPARSE", 1)
    monkeypatch.setattr(
        StoredTable, "find", lambda self, key, *a: reads.append(key) or original(self, key, *a)
    )
    online, stored = both
    pd.testing.assert_frame_equal(QUERIES[name](stored), QUERIES[name](online), check_exact=True)
    assert "pre_pt_root_id" in reads


@pytest.mark.parametrize("name", ["synapses by id", "references to synapses", "by id", "an empty list"])
def test_rows_of_a_long_list_are_found_in_all_files(
    name: str, both: tuple[DatasetClient, DatasetClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list[str] = []
    original = StoredTable.filtered
    monkeypatch.setattr(local, "_LONG", 0)
    monkeypatch.setattr(
        StoredTable, "filtered", lambda *a: lists.extend(a[4][:1] if len(a) > 4 else []) or original(*a)
    )
    online, stored = both
    pd.testing.assert_frame_equal(QUERIES[name](stored), QUERIES[name](online), check_exact=True)
    assert lists == (["id"] if "synapses" in name else [])  # the other is found by its key
    with pytest.raises(InvalidQueryError, match="does not fit"):
        stored.query("nucleus_detection", filter_in_dict={"volume": ["large"]})


@pytest.mark.parametrize(
    "query",
    [
        lambda c: c.query("nucleus_detection", filter_equal_dict={"volume": "large"}),
        lambda c: c.query("nucleus_detection", filter_in_dict={"nope": [1]}),
        lambda c: c.query("cell_types", filter_greater_dict={"cell_type": 3}),
        lambda c: c.query("cell_types", filter_in_dict={"cell_type": [3]}),
        lambda c: c.query("nucleus_detection", filter_in_dict={"valid": [2]}),
        lambda c: c.query("nucleus_detection", filter_less_dict={"pt_position_x": 200_000}),
    ],
)
def test_filters_that_fit_no_column_are_refused(
    query: Any, both: tuple[DatasetClient, DatasetClient]
) -> None:
    for client in both:
        with pytest.raises(InvalidQueryError):
            query(client)


def test_times_of_a_view_are_utc_by_every_road(server: Sandbox, tmp_path: Path) -> None:
    folder = shutil.copytree(server.folder.path, tmp_path / "data", ignore=shutil.ignore_patterns("seg"))
    cells = folder / "tables" / "cell_info.v3.parquet"
    rows = parquet.read_table(cells)
    times = pd.to_datetime(range(len(rows)), unit="D", origin="2025-01-01")
    parquet.write_table(rows.append_column("changed", pa.array(times).cast("timestamp[us]")), cells)
    views = folder / "tables" / "views.json"
    body = json.loads(views.read_text())
    body["cell_info"]["schema by version"]["3"]["changed"] = {"type": "datetime"}
    views.write_text(json.dumps(body))
    with Sandbox(data=folder) as changed:
        online = changed.load(version=3)
        online.store.pull("cell_info", source="server", path=tmp_path / "store", progress=False)
        stored = changed.load(version=3, source="store", store=tmp_path / "store")
        for client in (online, stored):
            assert client.query("cell_info")["changed"].tolist() == list(times.tz_localize("UTC"))
            assert str(client.query("cell_info", filter_equal_dict={"id": 1})["changed"].dtype) == (
                "datetime64[ns, UTC]"
            )
        for since in (times[-2].tz_localize("UTC"), times[-2].isoformat()):
            assert len(stored.query("cell_info", filter_greater_equal_dict={"changed": since})) == 2
        written = [times[-2].date().isoformat(), times[-1].isoformat()]
        assert len(stored.query("cell_info", filter_in_dict={"changed": written})) == 2


def test_what_is_not_there(server: Sandbox, place: Path) -> None:
    stored = server.load(version=2, source="store", store=place)
    with pytest.raises(StoreError, match=r"cell_types.*version 2 is not in the store.*cortexclient pull"):
        stored.tables.cell_types().query()
    with pytest.raises(UnknownTableError):
        stored.query("no_such_table")
    auto = server.load(version=2, source="auto", store=place)
    assert auto.tables.cell_types().query().attrs["source"] == "server"
    assert auto.tables.nucleus_detection().query().attrs["source"] == str(place)
    assert (
        auto.tables.nucleus_detection().query(timestamp=auto.session.versions()[2].timestamp).attrs["source"]
    )
    assert server.load(source="store", store=place).version == 3
    with pytest.raises(ValueError, match="source must be one of"):
        server.load(source="cloud")
    with pytest.raises(ValueError, match="asks no store"):
        server.load(source="server", store=place)
    again = pickle.loads(pickle.dumps(stored))
    assert again.tables.nucleus_detection().query().attrs["source"] == str(place)


def test_an_analysis_goes_on_without_the_server_and_when_the_version_is_gone(tmp_path: Path) -> None:
    def analysis(client: DatasetClient) -> list[pd.DataFrame]:
        return [
            client.tables.nucleus_detection().query(),
            client.query_synapses(roots_of(client), pre=True, post=True, progress=False),
            client.cell_id_to_root_id(client.tables.nucleus_detection().query()["id"].head(5)),
        ]

    with Sandbox(size="tiny") as server:
        client = server.load(version=3)
        expected = analysis(client)
        names = ["nucleus_detection", "nucleus_lookup", "nucleus_alternative_points", "synapses_sandbox"]
        client.store.pull(names, path=tmp_path, progress=False)
        address = f"sandbox://127.0.0.1:{server.port}"
    stored = cortexclient.load(
        "sandbox", server_address=address, source="store", store=tmp_path, offline=True
    )
    for one, other in zip(expected, analysis(stored), strict=True):
        pd.testing.assert_frame_equal(one, other)
    with pytest.raises(cortexclient.errors.OfflineError):
        stored.get_l2_ids(roots_of(stored)[0])


def test_what_is_stored_or_cached_is_answered_while_the_server_is_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Sandbox(size="tiny") as server:
        client = server.load(version=3)
        client.store.pull(["nucleus_detection", "synapses_sandbox"], path=tmp_path / "store", progress=False)
        online = [client.query("nucleus_detection"), client.query("cell_types")]
        root = roots_of(client)[0]
        synapses = client.query_synapses(root, pre=True, post=True, progress=False)
        options: dict[str, Any] = {"cache": tmp_path / "cache", "retries": 0}
        server.load(version=3, **options).query("cell_types")
        server.inject("503", count=1000)
        for version in (3, None):
            auto = server.load(version=version, source="auto", store=tmp_path / "store", **options)
            caplog.clear()
            for name, expected in zip(("nucleus_detection", "cell_types"), online, strict=True):
                pd.testing.assert_frame_equal(auto.query(name), expected)
            assert auto.query("nucleus_detection").attrs["source"] == str(tmp_path / "store")
            pd.testing.assert_frame_equal(
                auto.query_synapses(root, pre=True, post=True, progress=False), synapses
            )
            assert "the info service" in caplog.text
            assert "is down; what is in the store or the cache is used instead" in caplog.text
            with pytest.raises(cortexclient.errors.ServiceUnavailableError):
                auto.query("proofreading_status_and_strategy")
        # by default a server that is down is not hidden
        with pytest.raises(cortexclient.errors.ServiceUnavailableError):
            server.load(version=3, **options).query("cell_types")


@pytest.fixture
def toy(toy_session: Any) -> Callable[..., StoreService]:
    def make(form: str | None, version: int = 2) -> StoreService:
        exports = TableExportClient(str(REAL / (form or "none")), datastack="toy")
        return StoreService(toy_session(version=version), lambda: exports)

    return make


TOY = ["celltype_toy", "nucleus_celltype_view", "nucleus_toy", "pending_toy", "synapses_toy", "tags_toy"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "deltalake", "deltalake_large", None])
def test_exports_of_every_format_give_the_rows_of_a_query(
    form: str | None, toy: Callable[..., StoreService], toy_session: Any, tmp_path: Path
) -> None:
    for version in (1, 2):
        assert toy(form, version).pull(TOY, path=tmp_path, progress=False) == TOY
        local = LocalStore(tmp_path, "toy", only=True)
        online, stored = toy_session(version=version), toy_session(version=version, tables=local)
        for name in TOY:
            for query in (
                Query(name),
                Query(name, merge_reference=False, resolution=None, split_positions=True),
            ):
                expected, found = run_query(online, query), run_query(stored, query)
                pd.testing.assert_frame_equal(found, expected, check_exact=True)
        roots = run_query(online, Query("synapses_toy"))["pre_pt_root_id"].unique()[:3].tolist()
        for column in ("pre_pt_root_id", "post_pt_root_id"):
            query = Query("synapses_toy", filters={"in": {"synapses_toy": {column: roots}}})
            pd.testing.assert_frame_equal(run_query(stored, query), run_query(online, query))
        table = local.table(version, "synapses_toy")
        assert table is not None
        assert table.manifest.source == (f"synapses_toy[v{version}]" if form else online.server_address)


def test_an_export_that_is_not_the_version_is_refused(
    toy: Callable[..., StoreService], tmp_path: Path
) -> None:
    other = tmp_path / "exports" / "v2"
    other.mkdir(parents=True)
    for name in ("nucleus_toy.csv.gz", "nucleus_toy_header.csv"):
        shutil.copy(REAL / "csv/toy/v2" / name, other / name)
    shutil.copy(REAL / "csv/toy/v1/synapses_toy.csv.gz", other / "synapses_toy.csv.gz")
    shutil.copy(REAL / "csv/toy/v1/synapses_toy_header.csv", other / "synapses_toy_header.csv")
    service = StoreService(toy("csv")._session, lambda: TableExportClient(str(tmp_path / "exports")))
    with pytest.raises(ExportError, match=r"synapses_toy.*the server counts 303"):
        service.pull(["nucleus_toy", "synapses_toy"], path=tmp_path / "store", progress=False)
    with pytest.raises(ExportError, match="no table"):
        service.pull("tags_toy", source="exports", path=tmp_path / "store", progress=False)
    assert LocalStore(tmp_path / "store", "toy").table(2, "nucleus_toy") is not None
    assert LocalStore(tmp_path / "store", "toy").table(2, "synapses_toy") is None


def test_a_large_table_comes_from_the_server_in_ranges(
    toy: Callable[..., StoreService], toy_server: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cortexclient.services import store

    monkeypatch.setattr(store, "_ROWS_AT_ONCE", 50)
    before = len(toy_server.requests)
    toy(None).pull("synapses_toy", source="server", path=tmp_path, progress=False)
    assert len([record for record in toy_server.requests[before:] if record.path.endswith("/query")]) > 5
    table = LocalStore(tmp_path, "toy").table(2, "synapses_toy")
    assert table is not None
    ids = table.filtered(None, ["id"], ["id"]).column("id").to_numpy()
    assert len(ids) == len(np.unique(ids)) == 303


def test_a_disk_that_is_too_small_is_told_before(
    toy: Callable[..., StoreService], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StoreError, match=r"needs about .* MB .* has 0.0 MB left"):
        toy("csv").pull("synapses_toy", path=tmp_path, progress=False)


def test_pulling_again_reads_nothing(server: Sandbox, place: Path) -> None:
    before = len(server.requests)
    assert server.load(version=3).store.pull("synapses_sandbox", path=place, progress=False) == [
        "synapses_sandbox"
    ]
    assert not [record for record in server.requests[before:] if record.path.endswith("/query")]


@pytest.mark.parametrize("name", ["_metadata.zip", "_table.json"])
def test_what_is_damaged_is_pulled_again(name: str, server: Sandbox, tmp_path: Path) -> None:
    address = f"sandbox://127.0.0.1:{server.port}"

    def stored() -> DatasetClient:
        return cortexclient.load(
            "sandbox", server_address=address, source="store", store=tmp_path, offline=True
        )

    server.load(version=3).store.pull(["nucleus_detection", "cell_types"], path=tmp_path, progress=False)
    for path in tmp_path.rglob(name):
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(cortexclient.errors.CortexError, match="is damaged"):
        stored().query("cell_types")
    names = ["cell_types", "nucleus_detection"] if name == "_table.json" else []
    again = server.load(version=3, store=tmp_path, source="auto")
    assert again.store.verify() == {f"v3/{table}": [name] for table in names}
    again.store.pull(names or "cell_types", progress=False)
    for table in ("nucleus_detection", "cell_types"):
        pd.testing.assert_frame_equal(stored().query(table), server.load(version=3).query(table))


def test_other_libraries_read_the_same_files(both: tuple[DatasetClient, DatasetClient]) -> None:
    online, stored = both
    expected = online.query("synapses_sandbox", desired_resolution=None, split_positions=True)
    total = int(expected["size"].sum())
    store = stored.store
    table = store.scan("synapses_sandbox").to_table()
    assert sorted(table.column_names) == sorted(expected.columns)
    assert table.column("id").to_pylist() != sorted(table.column("id").to_pylist())
    assert int(store.scan("synapses_sandbox", return_as="duckdb").sum("size").fetchall()[0][0]) == total
    assert int(store.scan("synapses_sandbox", return_as="polars").collect()["size"].sum()) == total
    by_post = store.scan("synapses_sandbox", key="post_pt_root_id").to_table()["post_pt_root_id"].to_numpy()
    assert (np.diff(by_post) >= 0).all()
    with pytest.raises(StoreError, match="stored by"):
        store.scan("synapses_sandbox", key="size")
    with pytest.raises(StoreError, match="not in the store"):
        store.scan("synapses_sandbox", version=1)


def test_a_table_that_cannot_be_read_now_is_not_taken_for_a_missing_one(
    server: Sandbox, place: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(place, tmp_path / "store"))
    [manifest] = copied.glob("*/v3/nucleus_detection/_table.json")
    content = manifest.read_bytes()
    manifest.unlink()
    manifest.mkdir()
    stored = server.load(version=3, source="store", store=copied)
    either = server.load(version=3, source="auto", store=copied)
    with pytest.raises(StoreError, match="cannot be read"):
        stored.query("nucleus_detection")
    assert either.query("nucleus_detection").attrs["source"] == "server"
    manifest.rmdir()
    manifest.write_bytes(content)
    for client in (stored, either):
        assert client.query("nucleus_detection").attrs["source"] == str(copied)


@pytest.mark.parametrize("library", ["dataset", "duckdb", "polars", "dask"])
def test_other_libraries_look_up_by_key(library: Any, both: tuple[DatasetClient, DatasetClient]) -> None:
    if library == "dask":
        pytest.importorskip("dask.dataframe")
    online, stored = both
    roots = roots_of(online)
    wanted = {"filter_in_dict": {"pre_pt_root_id": roots}, "select_columns": ["id"]}
    expected = online.query("synapses_sandbox", **wanted)["id"].tolist()
    handle = stored.store.scan("synapses_sandbox", key="pre_pt_root_id", ids=roots, return_as=library)
    if library == "duckdb":
        ids = [row[0] for row in handle.project("id").fetchall()]
    else:
        read = {"dataset": "to_table", "polars": "collect", "dask": "compute"}[library]
        ids = list(map(int, np.asarray(getattr(handle, read)()["id"])))
    assert sorted(ids) == expected
    if library == "dask":
        assert len(stored.store.scan("synapses_sandbox", return_as="dask")) == 2585
        none = stored.store.scan("synapses_sandbox", key="pre_pt_root_id", ids=[1], return_as="dask")
        assert len(none) == 0
    with pytest.raises(ValueError, match="ids need key="):
        stored.store.scan("synapses_sandbox", ids=roots)
    with pytest.raises(ValueError, match="return_as must be"):
        stored.store.scan("synapses_sandbox", return_as="excel")  # type: ignore[arg-type]


class _Ranges(SimpleHTTPRequestHandler):
    """A web server that knows ranges, and records what it sends: name of the file, number of bytes.

    With a barrier, it sends ranges of parts when so many are asked for at a time.
    """

    sent: ClassVar[list[tuple[str, int]]] = []
    barrier: ClassVar[threading.Barrier | None] = None

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, asked = path.read_bytes(), self.headers.get("Range", "")
        if asked:
            if self.barrier is not None and path.name.startswith("part-"):
                try:
                    self.barrier.wait(60)
                except threading.BrokenBarrierError:
                    self.send_error(400)
                    return
            start, _, end = asked.removeprefix("bytes=").partition("-")
            content = content[int(start) : int(end) + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.sent.append((path.name, len(content)))
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    request_queue_size = 64


@contextlib.contextmanager
def web_of(folder: Path) -> Iterator[str]:
    web = _Server(("127.0.0.1", 0), partial(_Ranges, directory=str(folder)))
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    _Ranges.sent.clear()
    try:
        yield f"http://127.0.0.1:{web.server_port}"
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def test_a_store_on_a_web_server_is_read_by_ranges(server: Sandbox, place: Path) -> None:
    with web_of(place) as address:
        stored = server.load(version=3, source="store", store=address)
        root = roots_of(server.load(version=3))[0]
        expected = server.load(version=3).query_synapses(root, pre=True, progress=False)
        _Ranges.sent.clear()
        pd.testing.assert_frame_equal(stored.query_synapses(root, pre=True, progress=False), expected)
        files = [
            "_metadata.zip",
            "_table.json",
            "_groups.parquet",
            *["part-00000.parquet"] * len(_Ranges.sent[3:]),
        ]
        assert len(files) < 6
        assert [name for name, _ in _Ranges.sent] == files
        with pytest.raises(StoreError, match="is not in the store"):
            server.load(version=1, source="store", store=address).query("cell_types")
        with pytest.raises(StoreError, match="not on this machine"):
            stored.store.pull("cell_types")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A table of 200 roots in one file of several megabytes, and its rows."""
    folder, random = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    table = pa.table(
        {"id": np.arange(400_000), "pt_root_id": random.choice(CELLS, 400_000)}
        | {f"pt_position_{axis}": random.integers(0, 2**40, 400_000) for axis in "xyz"}
    )
    work = Work("d", 1, "cells", "table", table.column_names, ["pt_root_id"], "here")
    TableWriter(folder, work).write(lambda: iter([table]))
    return folder, table


CELLS = 864691128455135232 + np.arange(200) * 1000


def test_a_look_up_elsewhere_takes_a_request_for_each_run_of_row_groups(
    cells: tuple[Path, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = cells
    size = sum(path.stat().st_size for path in folder.rglob("part-*.parquet"))
    with web_of(folder) as address:
        elsewhere = StoredTable(open_place(address), "cells", (folder / MANIFEST).read_bytes())

        def look_up(*numbers: int, columns: list[str] = table.column_names) -> list[tuple[str, int]]:
            _Ranges.sent.clear()
            ids = CELLS[list(numbers)]
            rows = table.filter(pc.field("pt_root_id").isin(ids)).sort_by("id").select(columns)
            assert elsewhere.find("pt_root_id", ids, columns).sort_by("id").equals(rows)
            return list(_Ranges.sent)

        # what is requested concurrently: if one range waited for another, nothing would be sent
        monkeypatch.setattr(_Ranges, "barrier", threading.Barrier(2))
        first = look_up(20)
        assert [name for name, _ in first] == ["_groups.parquet", "part-00000.parquet", "part-00000.parquet"]
        assert sum(count for _, count in first) < size / 50
        monkeypatch.setattr(_Ranges, "barrier", None)
        for numbers in [(20,), (21,), (0, 100, 199)]:
            sent = look_up(*numbers)
            assert len(sent) <= len(numbers)
            assert {name for name, _ in sent} == {"part-00000.parquet"}
            assert sum(count for _, count in sent) < size * len(numbers) / 80
        assert len(look_up(20, 21, 22)) == 1  # neighbours lie together
        for numbers, columns in (
            (range(0, 200, 25), table.column_names),
            (range(0, 200, 20), ["id", "pt_position_z"]),
        ):
            monkeypatch.setattr(_Ranges, "barrier", threading.Barrier(len(numbers)))
            sent = look_up(*numbers, columns=columns)
            assert [name for name, _ in sent] == ["part-00000.parquet"] * len(numbers)


def test_the_command_line(
    server: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("CORTEXCLIENT_STORE", str(tmp_path))
    address = ["--server", f"sandbox://127.0.0.1:{server.port}"]
    assert main(["pull", "sandbox@3", "nucleus_detection", "cell_types", *address]) == 0
    assert "nucleus_detection, cell_types of version 3" in capsys.readouterr().out
    assert main(["store", "list", "sandbox", *address]) == 0
    assert "cell_types,8," in capsys.readouterr().out
    part = next(tmp_path.rglob("nucleus_detection/id/part-00000.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    assert main(["store", "verify", "sandbox", *address]) == 1
    assert "v3/nucleus_detection: damaged" in capsys.readouterr().out
    assert main(["store", "verify", "sandbox", *address]) == 0
    assert main(["store", "remove", "sandbox@3", "cell_types", *address]) == 0
    assert main(["store", "remove", "sandbox@3", "cell_types", *address]) == 1
    assert not list(tmp_path.rglob("_table.json"))


@pytest.mark.parametrize("name", ["..", ".", "", "../v2", "a/b", "..\\x", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(
    toy: Callable[..., StoreService], tmp_path: Path, name: str
) -> None:
    """A name may come from a server (its synapse table); a store touches nothing but its own folders."""
    with pytest.raises(StoreError, match="no name of a table"):
        toy(None).pull(name, path=tmp_path, progress=False)
    with pytest.raises(StoreError, match="no name of a table"):
        toy(None).remove(name)


def test_a_store_that_cannot_be_written(toy: Callable[..., StoreService], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        toy(None).pull("tags_toy", source="server", path=tmp_path / "file" / "store", progress=False)
