"""Files that a user asks for: complete or not there, an old one kept until the new one is; no control characters."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cortexclient import errors, files
from cortexclient.cli.output import error_console, say, show_frame, write_frame

FRAME = pd.DataFrame(
    {
        "root_id": np.array([864691135336055529, 0], dtype=np.int64),
        "count": np.array([3, 2**53], dtype=np.int64),
        "maybe": pd.array([None, 864691135336055529], dtype="Int64"),
        "size": [1.5, 2.0],
        "text": ["\x1b]0;pwned\x07x", "y"],
    }
)


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"precious")
    path.chmod(0o640)

    def fail():
        with files.replacing(path) as part:
            assert part.suffixes[-2:] == [".csv", ".gz"]
            part.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"precious"
    with pytest.raises(errors.OutputError, match=r"a\.csv\.gz'?: No space left"), files.replacing(path):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == [path]
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_followed_and_pipes_written_directly(tmp_path):
    target, link, pipe = tmp_path / "there", tmp_path / "link.txt", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-c", f"print(open({str(pipe)!r}).read(), end='')"], stdout=subprocess.PIPE
    ) as reader:
        files.write_text(pipe, "through")
        assert reader.communicate()[0] == b"through"


@pytest.mark.parametrize("name", ["no/such/folder.csv", "", "n" * 300, "a\0b"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    with pytest.raises(errors.OutputError, match="cannot write") as caught:
        files.write_text(f"{tmp_path}/{name}", "x")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_no_table(python, tmp_path):
    paths = [tmp_path / f"t.{ending}" for ending in ("csv", "csv.gz", "parquet", "feather", "json")]
    for path in paths:
        path.write_bytes(b"precious")
    code = """
import pathlib, resource, signal, sys, numpy as np, pandas as pd
from cortexclient.cli.output import write_frame
from cortexclient.errors import OutputError
frame = pd.DataFrame({"a": np.random.default_rng(0).integers(0, 2**40, 50_000)})
frame.to_parquet(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# as a full disk, without the right to mount one
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for path in sys.argv[2:]:
    try:
        write_frame(frame, pathlib.Path(path))
    except OutputError as error:
        print(error)
"""
    said = python(code, tmp_path / "warm", *paths).splitlines()
    assert [line.startswith("cannot write") for line in said] == [True] * len(paths), said
    assert {path.read_bytes() for path in paths} == {b"precious"}
    assert set(tmp_path.iterdir()) == {*paths, tmp_path / "warm"}


def test_json_holds_numbers_and_exact_ids(tmp_path):
    write_frame(FRAME, tmp_path / "a.json")
    first, second = json.loads((tmp_path / "a.json").read_text())
    assert first["root_id"] == "864691135336055529"
    assert second["root_id"] == "0"  # one column, one type
    assert (first["count"], first["size"], first["maybe"]) == (3, 1.5, None)
    assert second["maybe"] == "864691135336055529"


def test_json_holds_floats_and_times_to_the_last_digit(tmp_path):
    frame = pd.DataFrame(
        {
            "size": [0.1 + 0.2, 1e-20, 211.7310028076172],
            "created": pd.to_datetime(
                ["2025-01-13T10:10:01.286229Z", None, "2025-01-13T10:10:01Z"], format="ISO8601"
            ),
            "bound": [[1, 2**60], None, []],
        }
    )
    write_frame(frame, tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [row["size"] for row in rows] == frame["size"].tolist()
    times = ["2025-01-13T10:10:01.286229Z", None, "2025-01-13T10:10:01Z"]
    assert [row["created"] for row in rows] == times
    assert [row["bound"] for row in rows] == [[1, str(2**60)], None, []]


def test_no_text_of_a_server_steers_the_terminal(capsys):
    say("a\x1b[31mb\x9b")
    error_console().print("c\x1b]0;pwned\x07d")
    show_frame(FRAME)
    shown = "".join(capsys.readouterr())
    assert "pwned" in shown
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    assert str(errors.ServiceError("boom\x1b]0;x\x07\r\nnext\u202e")) == "boom\ufffd]0;x\ufffd\nnext\ufffd"


def test_every_command_prints_through_one_function():
    package = Path(errors.__file__).parent / "cli"
    loose = [
        path.name
        for path in package.rglob("*.py")
        if path.name not in {"output.py", "screen.py"}
        and ("typer.echo(" in path.read_text() or "Console(" in path.read_text())
    ]
    assert loose == []
