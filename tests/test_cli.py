"""The command line without a server: help, versions, errors as one message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import typer

import cortexclient
from cortexclient.cli import build_app, main, run
from cortexclient.cli.options import filters_from, ids_from
from cortexclient.cli.output import write_frame
from cortexclient.errors import NotConfiguredError

if TYPE_CHECKING:
    from collections.abc import Iterator
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
        ["cell-id-to-root-id", "sandbox", "12_5"],
        ["skeleton", "sandbox", "1", "--out", "neuron.txt"],
        ["query", "sandbox", "t", "--where", "nonsense"],
        ["query", "sandbox", "t", "--where", "id=1", "--where", "id=2"],
        # before anything is fetched for them
        ["query", "sandbox", "t", "--out", "frame.xlsx"],
        ["plot", "sandbox", "1", "--out", "neuron.swc"],
        ["demo", "--out", "picture"],
        ["demo", "--out", "no_such_folder/picture.png"],
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
    words = ["id=864691135336055529,2", "kind=a", "score=0.5", "valid=true", "tag=10_2,nan,inf,1.2.3,."]
    assert filters_from([*words, "size=.5,-1e3,+2,5."]) == {
        "id": [864691135336055529, 2],
        "tag": ["10_2", "nan", "inf", "1.2.3", "."],
        "size": [0.5, -1000.0, 2, 5.0],
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


@pytest.mark.parametrize("rows", [0, 10_000, 20_001])
def test_json_of_any_length_is_one_list(rows: int, tmp_path: Path) -> None:
    write_frame(pd.DataFrame({"id": range(rows)}), tmp_path / "frame.json")
    assert json.loads((tmp_path / "frame.json").read_text()) == [{"id": row} for row in range(rows)]


def test_a_picture_without_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert main(["plot", "no_such_dataset", "1"]) == 1  # other advice comes first
    assert "no_such_dataset" in capsys.readouterr().err


def commands(app: typer.Typer, *prefix: str) -> Iterator[tuple[str, ...]]:
    """Every command of the command line, as the words that name it."""
    for command in app.registered_commands:
        yield (*prefix, str(command.name))
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, *prefix, str(group.name))


COMMANDS = sorted(commands(build_app()))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_ends_with_an_example_that_can_be_copied(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*words, "-h"]) == 0
    shown = capsys.readouterr().out.rstrip().splitlines()
    assert shown[-1].lstrip().startswith("Example: ")
    assert " ".join(("cortexclient", *words)) in shown[-1]
    assert max(map(len, shown)) <= 80
    assert "<bool>" not in "".join(shown)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cortexclient tables minnie_pu", ["minnie_public"]),
        ("cortexclient tables my_l", ["my_lab.yaml"]),
        ("cortexclient demo --dataset minnie_pu", ["minnie_public"]),
        (
            "cortexclient query sandbox nuc",
            ["nucleus_alternative_points", "nucleus_detection", "nucleus_lookup"],
        ),
        ("cortexclient query minnie_public x --version 13", ["1300"]),
        ("cortexclient query no_such_dataset nuc", []),
    ],
)
def test_the_shell_completes_names_without_a_server(line: str, offered: list[str], tmp_path: Path) -> None:
    (tmp_path / "my_lab.yaml").touch()
    done = subprocess.run(
        [sys.executable, "-m", "cortexclient"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "_CORTEXCLIENT_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        },
    )
    assert done.stdout.split() == offered


def test_a_reader_that_has_enough_is_no_failure() -> None:
    code = (
        "import sys, pandas as pd, typer\n"
        "from cortexclient.cli import run\n"
        "from cortexclient.cli.output import show_frame\n"
        "app = typer.Typer()\n"
        "app.command()(lambda: show_frame(pd.DataFrame({'id': range(300_000)})))\n"
        "sys.exit(run(app, [], debug=False))"
    )
    command = f'set -o pipefail; "{sys.executable}" -c "$CODE" | head -2'
    done = subprocess.run(
        [str(shutil.which("bash")), "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CODE": code},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "id\n0\n", "")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("gone; load(..., version_fallback=True) asks", "gone; --timestamp TIME asks"),
        ("the nearest is client.at(version=3)", "the nearest is --version 3"),
        (
            "run `cortexclient login`, or pass auth_token= to load()",
            "run `cortexclient login x.yaml`, pass --token",
        ),
        ("older: latest_roots() gives all", "older: `cortexclient latest-roots` gives all"),
    ],
)
def test_advice_is_for_the_command_line(message: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def fail(server: str, dataset: str) -> None:
        raise NotConfiguredError(f"{dataset} at {server}: {message}")

    app.command("other")(lambda: None)
    assert run(app, ["fail", "https://cave.my.lab", "x.yaml"], debug=False) == 1
    assert shown in capsys.readouterr().err


def test_a_closed_output_is_no_bug() -> None:
    command = f'"{sys.executable}" -m cortexclient list >&-'
    done = subprocess.run(
        [str(shutil.which("bash")), "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_beside_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_lab.yaml").touch()
    for command in ("tables", "doctor", "login"):
        assert main([command, "my_lab"]) == 1
        assert "give its name with the ending: my_lab.yaml" in " ".join(capsys.readouterr().err.split())
