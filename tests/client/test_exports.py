from __future__ import annotations

import gzip
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from cortexclient.errors import ExportError
from cortexclient.services.exports import CloudFileViewExport, TableExportClient

if TYPE_CHECKING:
    from pathlib import Path

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
    assert df["created"].dt.tz is not None
    assert df["created"][0] == pd.Timestamp("2020-11-04T12:50:56.767624Z")
    assert df["score"][0] == 0.5
    assert df["score"].isna().sum() == 2
    assert df["pt_position_x"].dtype == np.int64


def test_one_row_table_keeps_its_row(folder: Path) -> None:
    df = TableExportClient(str(folder)).get_table("nucleus_merged", 1)
    assert df["pt_root_id"].tolist() == [864691135000000001]
    assert df["pt_root_id"].dtype == np.int64


def test_empty_table_keeps_its_columns(folder: Path) -> None:
    df = TableExportClient(str(folder)).get_table("empty", 2)
    assert len(df) == 0
    assert df["id"].dtype == np.int64
    assert df["valid"].dtype == bool
    assert str(df["created"].dtype) == "datetime64[us, UTC]"


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
    with pytest.raises(TypeError, match="version holds the float"):
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
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the check sum
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"v1/t\.csv\.gz is cut or damaged"):
        TableExportClient(str(tmp_path)).get_table("t", 1)


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


def test_parquet_cache(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    plain = TableExportClient(str(folder)).get_table("nucleus", 2)
    client = TableExportClient(str(folder), cache=cache)
    pd.testing.assert_frame_equal(client.get_table("nucleus", 2), plain)
    (folder / "v2" / "nucleus_merged.csv.gz").rename(folder / "v2" / "moved.csv.gz")
    pd.testing.assert_frame_equal(client.get_table("nucleus", 2), plain)
    some = ["tag", "pt_root_id"]
    pd.testing.assert_frame_equal(client.get_table("nucleus", 2, columns=some), plain[some])
    # an export that was made anew is read anew
    write(folder, "v2/nucleus_merged", ROWS[:3])
    client.reset_available_files()
    assert len(client.get_table("nucleus_merged", 2)) == 3


def test_web_folder(folder: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        client = TableExportClient(f"http://127.0.0.1:{server.server_port}")
        file = CloudFileViewExport("nucleus", 2, "v2/nucleus_merged", None, client._storage, client.cloudpath)
        assert len(file.get_dataframe()) == 4
        missing = CloudFileViewExport("no", 2, "v2/no", None, client._storage, client.cloudpath)
        with pytest.raises(ExportError, match="no file"):
            missing.get_dataframe()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


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
