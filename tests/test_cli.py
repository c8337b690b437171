"""The command line without a server: help, versions, errors as one message."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import typer

import cortexclient
from cortexclient.cli import main
from cortexclient.cli.options import filters_from, ids_from
from cortexclient.cli.output import write_frame
from cortexclient.cli.running import run
from cortexclient.errors import NotConfiguredError

if TYPE_CHECKING:
    from pathlib import Path


def broken(error: BaseException) -> typer.Typer:
    """A command line with one command, which fails."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    return app


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("demo", "query", "synapses", "skeleton", "link"):
        assert command in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == cortexclient.__version__


def test_python_m_is_the_same_program() -> None:
    command = [sys.executable, "-m", "cortexclient"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == cortexclient.__version__
    assert subprocess.run([*command, "no-such-command"], capture_output=True, check=False).returncode == 2


def test_our_errors_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(broken(NotConfiguredError("add `exports` [to] the file")), [], debug=False) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: add `exports` [to] the file\n"


def test_debug_keeps_the_traceback() -> None:
    with pytest.raises(NotConfiguredError):
        run(broken(NotConfiguredError("x")), [], debug=True)


def test_bugs_are_not_dressed_up_as_advice() -> None:
    with pytest.raises(ValueError, match="a bug"):
        run(broken(ValueError("a bug")), [], debug=False)


def test_interrupt_is_130() -> None:
    assert run(broken(KeyboardInterrupt()), [], debug=False) == 130


def test_unknown_dataset_says_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "minnie_pubic"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "minnie_public" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["cell-id-to-root-id", "sandbox", "12.5"],
        ["skeleton", "sandbox", "1", "--out", "neuron.txt"],
        ["query", "sandbox", "t", "--where", "nonsense"],
    ],
)
def test_misunderstood_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err


def test_ids_keep_every_digit_and_come_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    assert ids_from(["864691135336055529", "1"]) == [864691135336055529, 1]
    monkeypatch.setattr(sys, "stdin", io.StringIO("864691135336055529\n2,3\n"))
    assert ids_from(["-"]) == [864691135336055529, 2, 3]


def test_filters_are_typed() -> None:
    assert filters_from(["id=864691135336055529,2", "kind=a", "score=0.5", "valid=true"]) == {
        "id": [864691135336055529, 2],
        "kind": "a",
        "score": 0.5,
        "valid": True,
    }


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet", ".feather", ".json"])
def test_files_hold_ids_exactly(ending: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"root_id": [864691135336055529, -1], "depth": [1.5, None]}, index=[5, 6])
    path = tmp_path / f"frame{ending}"
    write_frame(frame, path)
    read = {
        ".csv": pd.read_csv,
        ".csv.gz": pd.read_csv,
        ".parquet": pd.read_parquet,
        ".feather": pd.read_feather,
        ".json": lambda file: pd.read_json(file, dtype={"root_id": str}),
    }[ending](path)
    assert [int(value) for value in read["root_id"]] == [864691135336055529, -1]
    assert list(read.columns) == ["root_id", "depth"]


def test_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="xlsx"):
        write_frame(pd.DataFrame({"a": [1]}), tmp_path / "frame.xlsx")


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cortexclient.cli import main\nmain(['--help'])\n"
        "heavy = {'pandas', 'caveclient', 'cloudvolume', 'nglui', 'matplotlib', 'duckdb'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
