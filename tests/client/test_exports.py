from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cortexclient
from cortexclient.errors import ExportError, OfflineError
from cortexclient.services.exports import CloudFileViewExport, TableExportClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cortexclient.client import DatasetClient

HEADER = """id,bigint
created,timestamp without time zone
valid,boolean
target_id,bigint
tag,character varying
score,double precision
pt_position_x,integer
pt_root_id,bigint
"""
ROWS = [
    "1,2020-11-04 12:50:56.767624,t,7,NA,0.5,100,864691135000000001",
    "2,2020-11-04 12:50:56,f,,None,,200,864691135000000003",
    '3,2021-01-01 00:00:00.5,t,9,"two\nlines, quoted",1.5,300,',
    '4,2021-01-01 00:00:00.5,t,9,"",nan,300,0',
]


def write(folder: Path, stem: str, rows: list[str], header: str | None = HEADER) -> Path:
    path = folder / f"{stem}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(row + "\n" for row in rows).encode()))
    if header is not None:
        (folder / f"{stem}_header.csv").write_text(header)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "v1/nucleus_merged", ROWS[:1])
    write(tmp_path, "v2/nucleus_merged", ROWS)
    write(tmp_path, "v2/synapse_view", ["5,1"], "id,bigint\nn,integer\n")
    write(tmp_path, "v2/empty", [])
    (tmp_path / "v2" / "notes.txt").write_text("not an export")
    write(tmp_path, "v/orphan", ROWS)  # no version number: was int('')
    write(tmp_path, "old/v2/orphan", ROWS)
    return tmp_path


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://{}/"])
def test_local_folder_is_listed(folder: Path, form: str) -> None:
    client = TableExportClient(form.format(folder))
    assert client.available_tables == ["empty", "nucleus", "synapse_view"]
    assert client.available_versions("nucleus") == [1, 2]
    assert client.available_versions("nucleus_merged") == [1, 2]
    assert client.available_versions("nothing") == []
    file = client.available_files[1]
    assert isinstance(file, CloudFileViewExport)
    assert file.datapath == "v1/nucleus_merged.csv.gz"
    assert file.headerpath == "v1/nucleus_merged_header.csv"
    assert repr(file) == "nucleus[v1]"


def test_every_row_in_the_types_of_the_header(folder: Path) -> None:
    df = TableExportClient(str(folder)).get_table("nucleus", 2)
    assert list(df.columns) == [line.split(",")[0] for line in HEADER.splitlines()]
    assert df["id"].tolist() == [1, 2, 3, 4]  # the first row is a row
    assert df["id"].dtype == np.int64
    assert df["pt_root_id"].dtype == pd.Int64Dtype()  # one null does not turn ids into floats
    assert df["pt_root_id"][0] == 864691135000000001
    assert df["target_id"].isna().tolist() == [False, True, False, False]
    assert df["tag"].tolist() == ["NA", "None", "two\nlines, quoted", ""]
    assert df["valid"].tolist() == [True, False, True, True]
    assert df["valid"].dtype == bool
    assert df["tag"].dtype == "string"
    assert df["created"].dt.tz is not None
    assert df["created"][0] == pd.Timestamp("2020-11-04T12:50:56.767624Z")
    assert df["score"][0] == 0.5
    assert df["score"].isna().sum() == 2
    assert df["pt_position_x"].dtype == "Int64"  # one number, as there is no point without _y and _z


def test_one_row_table_keeps_its_row(folder: Path) -> None:
    df = TableExportClient(str(folder)).get_table("nucleus_merged", 1)
    assert df["pt_root_id"].tolist() == [864691135000000001]
    assert df["pt_root_id"].dtype == np.int64


def test_empty_table_keeps_its_columns(folder: Path) -> None:
    df = TableExportClient(str(folder)).get_table("empty", 2)
    assert len(df) == 0
    assert df["id"].dtype == np.int64
    assert df["valid"].dtype == bool
    assert str(df["created"].dtype) == "datetime64[ns, UTC]"


def test_chosen_columns(folder: Path) -> None:
    client = TableExportClient(str(folder))
    df = client.get_table("nucleus", 2, columns=["pt_root_id", "id"])
    assert list(df.columns) == ["pt_root_id", "id"]
    assert list(client.get_table("empty", 2, columns=["tag"]).columns) == ["tag"]
    with pytest.raises(ValueError, match="no columns \\['nope'\\]"):
        client.get_table("nucleus", 2, columns=["id", "nope"])
    with pytest.raises(ValueError, match="columns is empty"):
        client.get_table("nucleus", 2, columns=[])


def test_version_left_out(folder: Path) -> None:
    assert len(TableExportClient(str(folder)).get_table("nucleus")) == 4
    assert len(TableExportClient(str(folder), default_version=lambda: 1).get_table("nucleus")) == 1
    with pytest.raises(ExportError, match=r"not exported at version 3; there are versions \[1, 2\]"):
        TableExportClient(str(folder), default_version=lambda: 3).get_table("nucleus")
    with pytest.raises(TypeError, match="version must be a materialization number"):
        TableExportClient(str(folder)).get_table("nucleus", 1.5)  # type: ignore[arg-type]


def test_clients_take_the_exports_of_their_own_version(folder: Path, sandbox_client: DatasetClient) -> None:
    sandbox_client.set_export_cloudpath(folder)
    for version in (1, 2):
        client = sandbox_client.at(version=version)
        expected = TableExportClient(str(folder)).get_table("nucleus", version)
        pd.testing.assert_frame_equal(client.exports.get_table("nucleus"), expected)
    with pytest.raises(ExportError, match="version 3; there are versions"):
        sandbox_client.at(version=3).exports.get_table("nucleus")


def test_version_of_a_file_is_checked(folder: Path) -> None:
    file = TableExportClient(str(folder)).available_files[1]
    assert len(file.get_dataframe(1)) == 1
    with pytest.raises(ValueError, match="holds version 1"):
        file.get_dataframe(2)


def test_unknown_table_names_what_there_is(folder: Path) -> None:
    with pytest.raises(ExportError, match=r"empty.*nucleus.*synapse_view"):
        TableExportClient(str(folder)).get_table("nope", 2)


def test_data_frame_of_what_there_is(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    df = TableExportClient(str(folder)).available_data_df()
    assert df[["name", "version"]].to_numpy().tolist() == [
        ["empty", 2],
        ["nucleus", 1],
        ["nucleus", 2],
        ["synapse_view", 2],
    ]
    assert (df["bytes"] == [(folder / path).stat().st_size for path in df["path"]]).all()
    none = TableExportClient(str(tmp_path_factory.mktemp("none"))).available_data_df()
    assert none.dtypes.to_dict() == df.dtypes.to_dict()


def test_same_table_in_two_folders_is_not_chosen_silently(folder: Path) -> None:
    write(folder, "v2/other/synapse_view", ["6,2"], "id,bigint\nn,integer\n")
    client = TableExportClient(str(folder))
    with pytest.raises(ExportError, match="other/synapse_view"):
        client.get_table("synapse_view", 2)


def test_plain_and_merged_are_told_apart(folder: Path) -> None:
    write(folder, "v2/nucleus", ROWS[:2])
    client = TableExportClient(str(folder))
    assert len(client.get_table("nucleus", 2)) == 2
    assert len(client.get_table("nucleus_merged", 2)) == 4
    # the exact name is meant, wherever in the listing it stands
    write(folder, "v3/a/nucleus_merged", ROWS[:1])
    write(folder, "v3/b/nucleus", ROWS[:3])
    client.reset_available_files()
    assert len(client.get_table("nucleus", 3)) == 3


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "no file .*t_header.csv"),
        ("", "is empty"),
        ("id,bigint\nn,integer\nx,integer\n", "does not fit its header"),
        ("id,bigint\nid,integer\n", "repeated names"),
        ("id,bigint,not null\nn,integer,null\n", "lines of 3 fields"),
    ],
)
def test_bad_header_files(tmp_path: Path, header: str | None, message: str) -> None:
    write(tmp_path, "v1/t", ["1,2"], header)
    with pytest.raises(ExportError, match=message):
        TableExportClient(str(tmp_path)).get_table("t", 1)


def test_header_in_one_line_and_odd_names(tmp_path: Path) -> None:
    write(tmp_path, "v1/one", ["1,a,3"], "id,NA,null\n")
    write(tmp_path, "v1/na", ["1,2"], "id,bigint\nNA,bigint\n")
    client = TableExportClient(str(tmp_path))
    assert list(client.get_table("one", 1).columns) == ["id", "NA", "null"]
    assert list(client.get_table("na", 1).columns) == ["id", "NA"]


def test_ragged_and_damaged_files(tmp_path: Path) -> None:
    write(tmp_path, "v1/ragged", ["1,2", "3"], "id,bigint\nn,bigint\n")
    path = write(tmp_path, "v1/cut", ["1,2"] * 5000, "id,bigint\nn,bigint\n")
    path.write_bytes(path.read_bytes()[:-30])
    client = TableExportClient(str(tmp_path))
    for table in ("ragged", "cut"):
        with pytest.raises(ExportError, match=table):
            client.get_table(table, 1)


@pytest.mark.parametrize("cut", [2500, 5000])
def test_files_of_several_gzip_members_are_read_whole(tmp_path: Path, cut: int) -> None:
    # parts of equal length are the trap: the last one's length, which the file ends with, fits the first one, too
    rows = [f"{1_000_000 + number},{number % 7}\n" for number in range(5000)]
    path = write(tmp_path, "v1/parts", [], "id,bigint\nn,bigint\n")
    parts = ["".join(rows[:cut]), "".join(rows[cut:])]
    path.write_bytes(b"".join(gzip.compress(part.encode()) for part in parts if part))
    df = TableExportClient(str(tmp_path)).get_table("parts", 1)
    assert df["id"].tolist() == [1_000_000 + number for number in range(5000)]


def test_damage_inside_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, "v1/t", ["1,2", "3,4"] * 5000, "id,bigint\nn,bigint\n")
    sound = path.read_bytes()
    for place in (-6, *range(11, len(sound) - 8, 3)):  # of the checksum, and of the rows
        content = bytearray(sound)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(ExportError, match=r"v1/t\.csv\.gz (is cut or damaged|does not fit)"):
            list(TableExportClient(str(tmp_path)).find("t", 1).source().batches())


def test_points_become_three_columns(tmp_path: Path) -> None:
    def ewkb(x: float, y: float, z: float, srid: bool = False) -> str:
        kind = 0xA0000001 if srid else 0x80000001
        head = np.array([kind] + [0] * srid, dtype="<u4").tobytes()
        return (b"\x01" + head + np.array([x, y, z], dtype="<f8").tobytes()).hex().upper()

    header = "id,bigint\npt_position,USER-DEFINED\nother,geometry(PointZ)\n"
    rows = [f"1,{ewkb(1, 2, 3)},POINT Z (4 5 6.5)", f"2,{ewkb(7, 8, 9, srid=True)},"]
    write(tmp_path, "v1/t", rows, header)
    df = TableExportClient(str(tmp_path)).get_table("t", 1)
    assert df[["pt_position_x", "pt_position_y", "pt_position_z"]].to_numpy().tolist() == [
        [1, 2, 3],
        [7, 8, 9],
    ]
    assert df["pt_position_x"].dtype == np.int64
    assert df["other_x"].dtype == np.float64
    assert df["other_z"].tolist()[0] == 6.5
    assert np.isnan(df["other_z"][1])


def test_failed_listing_is_tried_again(tmp_path: Path) -> None:
    target = tmp_path / "later"
    client = TableExportClient(str(target))
    with pytest.raises(ExportError, match="no folder"):
        _ = client.available_tables
    write(target, "v1/t", ["1,2"], "id,bigint\nn,bigint\n")
    assert client.available_tables == ["t"]


def test_listing_is_kept_until_reset(folder: Path) -> None:
    client = TableExportClient(str(folder))
    assert "new" not in client.available_tables
    write(folder, "v3/new", ["1,2"], "id,bigint\nn,bigint\n")
    assert "new" not in client.available_tables
    assert any(file.name == "new" for file in client.reset_available_files())


@pytest.fixture
def cached(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DatasetClient]:
    place = tmp_path_factory.mktemp("cache")
    return lambda **options: cortexclient.load("sandbox", version=2, cache=place, **options)


def test_a_cache_of_the_client_holds_exports(folder: Path, cached: Callable[..., DatasetClient]) -> None:
    plain = TableExportClient(str(folder)).get_table("nucleus", 2)
    for _ in range(2):
        client = cached()
        client.set_export_cloudpath(folder)
        pd.testing.assert_frame_equal(client.exports.get_table("nucleus"), plain)
    path = folder / "v2" / "nucleus_merged.csv.gz"
    when, size = path.stat().st_mtime_ns, path.stat().st_size
    path.write_bytes(b"\0" * size)
    os.utime(path, ns=(when, when))
    some = ["tag", "pt_root_id"]
    pd.testing.assert_frame_equal(client.exports.get_table("nucleus", columns=some), plain[some])
    store = client.session.connection.cache.store
    assert any(file.path.suffix == ".parquet" for file in store.listing())
    assert store.verify() == []
    path.write_bytes(b"\0" * size)  # an export that was written anew is read anew, be it as long
    with pytest.raises(ExportError, match=r"cut or damaged|does not fit"):
        client.exports.get_table("nucleus")
    write(folder, "v2/nucleus_merged", ROWS[:3])
    client.exports.reset_available_files()
    assert len(client.exports.get_table("nucleus_merged", 2)) == 3


@pytest.mark.parametrize("place", [0.1, 0.5, -5])
def test_a_damaged_table_of_the_cache_heals(
    folder: Path, cached: Callable[..., DatasetClient], place: float
) -> None:
    client = cached()
    client.set_export_cloudpath(folder)
    plain = client.exports.get_table("nucleus")
    store = client.session.connection.cache.store
    (path,) = [file.path for file in store.listing() if file.path.suffix]
    content = bytearray(path.read_bytes())
    content[place if isinstance(place, int) else int(place * len(content))] ^= 0x55
    path.write_bytes(content)
    pd.testing.assert_frame_equal(client.exports.get_table("nucleus"), plain)
    assert store.verify() == []
    path.write_bytes(content)
    assert store.verify() == [path]


def test_offline_exports_come_from_the_cache(folder: Path, cached: Callable[..., DatasetClient]) -> None:
    with web(folder) as address:
        client = cached()
        client.set_export_cloudpath(address)
        (file,) = [f for f in TableExportClient(str(folder)).available_files if repr(f) == "nucleus[v2]"]
        files = TableExportClient(address, cache=client.session.connection.cache)
        files._available_files = files._exports_in({file.datapath: file.size})  # a web folder has no listing
        client.session.connection.cache.note(f"exports at {address}", {file.datapath: file.size})
        plain = files.get_table("nucleus", 2)
    offline = cached(offline=True)
    offline.set_export_cloudpath(address)
    pd.testing.assert_frame_equal(offline.exports.get_table("nucleus"), plain)
    with pytest.raises(OfflineError, match="exports at"):
        TableExportClient("gs://elsewhere", cache=offline.session.connection.cache).available_tables  # noqa: B018


@contextlib.contextmanager
def web(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_web_folder(folder: Path) -> None:
    with web(folder) as address:
        client = TableExportClient(address)
        assert (
            len(CloudFileViewExport("nucleus", 2, "v2/nucleus_merged", _client=client).get_dataframe()) == 4
        )
        with pytest.raises(ExportError, match="no file"):
            CloudFileViewExport("no", 2, "v2/no", _client=client).get_dataframe()


@pytest.mark.parametrize("path", ["", "ftp://somewhere/x"])
def test_paths_that_cannot_be_read(path: str) -> None:
    with pytest.raises(ExportError):
        TableExportClient(path)


def test_nothing_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TableExportClient(str(folder)).get_table("nucleus", 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_mirrors_stand_in_for_a_folder_that_is_gone(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gone = tmp_path_factory.mktemp("gone")
    there = TableExportClient(str(folder))
    client = TableExportClient(str(gone / "first"), mirrors=[str(gone / "second"), str(folder)])
    assert client.available_tables == there.available_tables
    name = there.available_tables[0]
    version = there.available_versions(name)[0]
    assert client.get_table(name, version).equals(there.get_table(name, version))
    nowhere = TableExportClient(str(gone / "first"), mirrors=[str(gone / "second")])
    with pytest.raises(ExportError, match=r"first.*second"):
        nowhere.available_files  # noqa: B018 - the property asks


# -- what CAVE's own exporter writes

REAL = Path(__file__).parents[1] / "data" / "real_toy_exports"
TRUTH = Path(__file__).parents[1] / "data" / "real_toy_datastack" / "tables"
TABLES = ["celltype_toy", "nucleus_celltype_view", "nucleus_toy", "pending_toy", "synapses_toy", "tags_toy"]


@pytest.mark.parametrize("form", ["csv", "deltalake", "deltalake_large"])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("version", [1, 2])
def test_exports_of_the_real_exporter(form: str, name: str, version: int) -> None:
    found = TableExportClient(str(REAL / form), datastack="toy").get_table(name, version).sort_values("id")
    truth = pq.read_table(TRUTH / f"{name}.v{version}.parquet").drop_columns(
        ["storage_order"] * (name != TABLES[1])
    )
    left_out = {"created", "deleted", "superceded_id"} if form != "csv" else set()
    expected = truth.sort_by("id").to_pydict()
    assert set(found.columns) == set(expected) - left_out
    for column in found.columns:
        ours = [None if pd.isna(value) else value for value in found[column].tolist()]
        assert ours == [
            v if not hasattr(v, "tzinfo") else pd.Timestamp(v).tz_convert("UTC") for v in expected[column]
        ]
    kinds = {column: str(kind) for column, kind in found.dtypes.items()}
    assert {kinds[c] for c in kinds if c.endswith(("root_id", "supervoxel_id", "_x", "_y", "_z"))} <= {
        "int64",
        "Int64",
    }
    # points stand before their ids, whatever copy they come from
    order = [c for c in found.columns if c.startswith("pt_")]
    assert [c[:11] for c in order[:3]] == ["pt_position"] * (3 if order else 0)


def test_every_copy_of_a_table_answers_alike() -> None:
    (export,) = [
        file
        for file in TableExportClient(str(REAL / "deltalake_large"), datastack="toy").available_files
        if repr(file) == "synapses_toy[v2]"
    ]
    copies = export.source()
    assert {"id", "pre_pt_root_id", "flat", "pre_hash"} <= set(copies.folders)
    assert copies.copy_for(["post_pt_root_id"]) == "post_pt_root_id"
    assert copies.copy_for(["size"]) == "flat"
    tables = [
        pa.concat_tables(copies.batches(filtered=[copy])).sort_by("id") for copy in sorted(copies.folders)
    ]
    assert all(table.equals(tables[0]) for table in tables[1:])
    assert copies.count() == len(tables[0])


def test_an_unfinished_export_is_refused() -> None:
    with pytest.raises(ExportError, match=r"synapses_toy/id is not finished or has failed"):
        TableExportClient(str(REAL / "edge/deltalake_failed_export"), datastack="toy").get_table(
            "synapses_toy", 1
        )


def test_copies_that_differ_are_refused(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    for copy, rows in (("flat", 3), ("id", 2)):
        write_deltalake(tmp_path / "v1" / "t" / copy, pa.table({"id": range(rows)}))
    with pytest.raises(ExportError, match="different numbers of rows"):
        TableExportClient(str(tmp_path)).get_table("t", 1)


def test_the_log_decides_and_not_the_folder(tmp_path: Path) -> None:
    """A vacuum that failed leaves old files beside the new ones."""
    shutil.copytree(REAL / "edge/deltalake_vacuum_failed/two", tmp_path / "v1/odd/two")
    assert TableExportClient(str(tmp_path)).get_table("odd", 1)["id"].tolist() == [2, 3, 1]


def test_types_of_delta_tables(tmp_path: Path) -> None:
    shutil.copytree(REAL / "edge/deltalake_types/odd_id", tmp_path / "v1/odd/id")
    found = TableExportClient(str(tmp_path)).get_table("odd", 1).set_index("id")
    assert found.loc[3, "n"] == "100000000000000000000.5"  # a number of the database that no float holds
    assert found["ts"].tolist()[-1] in {pd.NaT, pd.Timestamp("2020-01-02", tz="UTC")}
    assert found.loc[3, ["pt_position_x", "pt_position_y", "pt_position_z"]].tolist() == [-5, 2, 4_000_000]
    assert found.loc[1, "pt_root_id"] == 360287970189639683
    assert str(found["pt_root_id"].dtype) == "Int64"


ORDER = ["id", "valid", "classification_system", "cell_type", *(f"pt_position_{a}" for a in "xyz")]


def test_a_header_in_another_order_is_corrected_or_refused(tmp_path: Path) -> None:
    shutil.copytree(REAL / "edge/csv_header_order", tmp_path / "v1")
    order = [*ORDER, "pt_supervoxel_id", "pt_root_id"]
    found = TableExportClient(str(tmp_path), order_of=lambda *_: order).get_table("ct", 1)
    assert found["cell_type"].tolist() == ["4P", "NA", "5P-IT"]
    assert found["classification_system"].tolist()[:2] == ["aibs_coarse", ""]
    assert found["pt_root_id"][0] == 360287970189639683
    assert list(found.columns) == order
    for client in (
        TableExportClient(str(tmp_path)),
        TableExportClient(str(tmp_path), order_of=lambda *_: order),
    ):
        with pytest.raises(ExportError, match="does not fit its header"):
            client.get_table("odd", 1)


def test_a_header_that_would_fit_by_chance_is_corrected(tmp_path: Path) -> None:
    write(tmp_path, "v1/t", ["1,t,7", "2,f,8"], "n,bigint\nvalid,boolean\nid,bigint\n")
    found = TableExportClient(str(tmp_path), order_of=lambda *_: ["id", "valid", "n"]).get_table("t", 1)
    assert found["id"].tolist() == [1, 2]


def test_empty_and_doubled_exports_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "v1/none", [], "id,bigint\n")
    path.write_bytes(b"")
    write(tmp_path, "v1/twice", ["1,t", "2,t", "1,t"], "id,bigint\nvalid,boolean\n")
    client = TableExportClient(str(tmp_path))
    with pytest.raises(ExportError, match="is empty: not even a table without rows is 0 bytes"):
        client.get_table("none", 1)
    with pytest.raises(ExportError, match="some ids twice"):
        client.get_table("twice", 1)


def test_nulls_and_line_ends_at_the_borders_of_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cortexclient.store import dumps

    rows = [f'{n},"a\n""{n}"' if n % 3 else f"{n}," for n in range(500)]
    write(tmp_path, "v1/t", rows, "id,bigint\ntext,text\n")
    write(tmp_path, "v1/one", ["1", "", "3"], "n,bigint\n")
    write(tmp_path, "v1/marks", ["first", *["\ufeff"] * 99], "text,text\n")
    for size in (7, 64, 1 << 20):
        monkeypatch.setattr(dumps, "_BLOCK", max(size, 8))
        monkeypatch.setattr(dumps, "_SAMPLE", size)
        found = TableExportClient(str(tmp_path)).get_table("t", 1)
        assert found["id"].tolist() == list(range(500))
        assert [None if pd.isna(t) else t for t in found["text"]] == [
            f'a\n"{n}' if n % 3 else None for n in range(500)
        ]
        assert TableExportClient(str(tmp_path)).get_table("one", 1)["n"].isna().tolist() == [
            False,
            True,
            False,
        ]
        if size > 8:  # or Arrow sees a part of the mark
            marks = TableExportClient(str(tmp_path)).get_table("marks", 1)["text"]
            assert marks.tolist() == ["first", *["\ufeff"] * 99]


def test_folders_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [1, 2, 3],
            "pt_root_id": pa.array([5, None, 7], pa.int64()),
            "n": pa.array([1, 2, 3], pa.int32()),
        }
    )
    (tmp_path / "v1/many").mkdir(parents=True)
    pq.write_table(table, tmp_path / "v1/single.parquet")
    for number, part in enumerate((table[:2], table[2:], table[:0])):
        pq.write_table(part, tmp_path / f"v1/many/part-{number}.parquet")
    client = TableExportClient(str(tmp_path), format="parquet")
    assert client.available_tables == ["many", "single"]
    expected = client.get_table("single", 1)
    assert [str(kind) for kind in expected.dtypes] == ["int64", "Int64", "Int64"]
    pd.testing.assert_frame_equal(client.get_table("many", 1), expected)
    assert client.get_table("many", 1, columns=["n"])["n"].tolist() == [1, 2, 3]
    (tmp_path / "v1/many/part-1.parquet").write_bytes((tmp_path / "v1/single.parquet").read_bytes()[:-9])
    with pytest.raises(ExportError, match=r"part-1\.parquet"):
        client.get_table("many", 1)


def test_the_format_of_the_spec_is_used(folder: Path) -> None:
    pq.write_table(pa.table({"id": [9]}), folder / "v2/nucleus.parquet")
    pq.write_table(pa.table({"id": [9]}), folder / "v2/extra.parquet")
    assert "extra" in TableExportClient(str(folder)).available_tables
    assert TableExportClient(str(folder), format="parquet").available_tables == ["extra", "nucleus"]
    assert len(TableExportClient(str(folder), format="csv-gz").get_table("nucleus", 2)) == 4
    with pytest.raises(ExportError, match="formats csv-gz, parquet, delta"):
        TableExportClient(str(folder), format="hdf5")
    spec = cortexclient.get_spec("sandbox").with_overrides(
        {"exports": {"path": f"file://{folder}", "format": "parquet"}}
    )
    client = cortexclient.load(spec, server_address="https://cave.example.org", auth_token="0" * 32)
    assert client.exports.available_tables == ["extra", "nucleus"]


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ("{datastack}/v{version}/{table}/{copy}", "toy/v5/syn/flat"),
        ("lakes/v{version}/{table}_v{version}_deltalake", "lakes/v5/syn_v5_deltalake"),
        ("{version}/{table}/partition_by_{copy}", "5/syn/partition_by_id"),
    ],
)
def test_layouts(layout: str, path: str, tmp_path: Path) -> None:
    shutil.copytree(REAL / "deltalake_large/toy/v2/synapses_toy/flat", tmp_path / path)
    client = TableExportClient(str(tmp_path), layout=layout, datastack="toy", format="delta")
    assert [repr(file) for file in client.available_files] == ["syn[v5]"]
    assert len(client.get_table("syn", 5)) == 303
    with pytest.raises(ExportError, match="layout"):
        TableExportClient(str(tmp_path), layout="{table}/{odd}").available_files  # noqa: B018
