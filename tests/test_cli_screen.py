"""Tables on a terminal: nothing wider than it, no id broken in two, and what is left out is named."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from cortexclient.cli.output import fitted, wrapped

if TYPE_CHECKING:
    from pathlib import Path

ROOT = 864691135336055529
FRAME = pd.DataFrame(
    {
        "id": [264824, 1],
        "valid": [True, True],
        "pt_position_x": [799584.0, 1.5],
        "pt_position_y": [453216.0, 2.0],
        "pt_position_z": [98020.0, 3.0],
        "pt_supervoxel_id": [88891049011371731, 0],
        "pt_root_id": [ROOT, -1],
        "bb_start_position_x": [np.nan, np.nan],
        "cell_type": ["a type [with] brackets", "b"],
    }
)


def rendered(frame: pd.DataFrame, width: int) -> tuple[list[str], list[str]]:
    table, hidden = fitted(frame, width)
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue().splitlines(), hidden


def test_a_column_may_have_any_name() -> None:
    lines, _ = rendered(pd.DataFrame({"[/]": [1], "[red]a": [2]}), 80)
    assert lines[0].split() == ["[/]", "[red]a"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_never_wider_than_the_terminal_and_no_id_is_broken(width: int) -> None:
    lines, hidden = rendered(FRAME, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for column, words in {
        "pt_root_id": str(ROOT),
        "pt_supervoxel_id": "88891049011371731",
        "id": "264824",
    }.items():
        assert (words in text) == (column not in hidden)
    shown = set(lines[0].split())
    assert shown.isdisjoint(hidden)
    assert shown | set(hidden) == {
        "id",
        "valid",
        "pt_position",
        "pt_supervoxel_id",
        "pt_root_id",
        "bb_start_position_x",
        "cell_type",
    }


def test_the_telling_columns_stay_and_points_are_one_column() -> None:
    lines, hidden = rendered(FRAME, 80)
    assert {"bb_start_position_x", "pt_supervoxel_id"} <= set(hidden)
    assert "pt_root_id" in lines[0]
    assert "799584, 453216, 98020" in lines[2]
    assert "a type [with] brackets" in lines[2]


SYNAPSES = pd.DataFrame(
    {
        "id": [20000038, 20000043],
        "valid": [True, True],
        **{f"pre_pt_position_{axis}": [780000.0, 1.0] for axis in "xyz"},
        "pre_pt_root_id": [ROOT, ROOT],
        **{f"post_pt_position_{axis}": [780000.0, 1.0] for axis in "xyz"},
        "post_pt_root_id": [ROOT + 2, ROOT + 4],
        **{f"ctr_pt_position_{axis}": [780000.0, 1.0] for axis in "xyz"},
        "size": [385.0, 228.0],
    }
)
TYPES = pd.DataFrame(
    {
        "id": [300207, 300809],
        **{f"bb_start_position_{axis}": [780000.0, 1.0] for axis in "xyz"},
        "volume": [123.575, 159.41],
        **{f"pt_position_{axis}": [780000.0, 1.0] for axis in "xyz"},
        "pt_supervoxel_id": [88891049011371731, 88891049011371732],
        "pt_root_id": [ROOT, ROOT + 2],
        "id_ref": [25, 22],
        "valid_ref": [True, True],
        "target_id": [300207, 300809],
        "classification_system": ["inhibitory_neuron", "excitatory_neuron"],
        "cell_type": ["BC", "23P"],
    }
)


@pytest.mark.parametrize(
    ("frame", "columns"),
    [
        (SYNAPSES, {"id", "post_pt_root_id", "ctr_pt_position", "size"}),
        (TYPES, {"id", "volume", "pt_root_id", "classification_system", "cell_type"}),
    ],
)
def test_eighty_columns_show_what_one_came_for(frame: pd.DataFrame, columns: set[str]) -> None:
    lines, _ = rendered(frame, 80)
    assert columns <= set(lines[0].split())


def test_wide_terminals_show_everything() -> None:
    assert rendered(FRAME, 200)[1] == []


@pytest.mark.parametrize("width", range(30, 130, 3))
def test_a_column_that_is_shown_is_shown_whole(width: int) -> None:
    lines, hidden = rendered(FRAME.drop(columns="cell_type"), width)
    for name, value in {
        "pt_position": "799584, 453216, 98020",
        "pt_root_id": str(ROOT),
        "valid": "True",
    }.items():
        if name not in hidden:
            assert name in lines[0].split()
            assert value in lines[2]


def test_long_text_is_broken_into_lines() -> None:
    frame = pd.DataFrame({"name": ["a"], "description": ["word " * 40]})
    lines, hidden = rendered(frame, 60)
    assert hidden == []
    assert " ".join(" ".join(lines[2:]).split()) == " ".join(["a", *["word"] * 40])


@pytest.mark.parametrize("width", [34, 40, 60, 80])
def test_no_word_is_broken(width: int) -> None:
    frame = pd.DataFrame({"n": ["a"], "name": ["proofreading_status_and_strategy of some"]})
    lines, _ = rendered(frame[["name"]], width)
    words = set(" ".join(lines[2:]).split())
    assert words == {"proofreading_status_and_strategy", "of", "some"}
    text = "one two `cortexclient latest-roots lab ID` three https://an.address.org/as/long/as/no/line/is/x\n  four"
    wrapped_lines = wrapped(text, width).splitlines()
    assert " ".join(wrapped_lines).split() == text.split()
    assert any("`cortexclient latest-roots lab ID`" in line for line in wrapped_lines)
    assert all(len(line) <= width or " " not in line.strip() or "`" in line for line in wrapped_lines)


def on_a_terminal(code: str, columns: int, folder: Path, **environment: str) -> str:
    """Run Python code on a pseudo terminal of some width; gives what it shows."""
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (40, columns))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=side,
        stdout=side,
        stderr=side,
        cwd=folder,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(side)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait(timeout=60) == 0, shown.decode(errors="replace")
    return shown.decode("ascii" if "PYTHONIOENCODING" in environment else "utf-8")


FITTING = """
import pandas as pd
from cortexclient.cli.output import show_frame, speak_utf8
from cortexclient.cli.output import console
speak_utf8()
show_frame(pd.DataFrame({f"column_{n:02d}": range(30) for n in range(20)}))
console().print("200 \\u00b5m")
"""


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    shown = on_a_terminal(FITTING, 80, tmp_path, NO_COLOR="1")
    assert "20 of 30 rows; no room for column_07" in " ".join(shown.split())
    assert "--out FILE" in shown
    assert "µm" in shown


def test_a_terminal_without_the_letter_gets_another_instead_of_a_crash(tmp_path: Path) -> None:
    assert "200 ?m" in on_a_terminal(FITTING, 80, tmp_path, PYTHONIOENCODING="ascii")


def test_a_pipe_gets_utf8_whatever_the_locale(python: Any, tmp_path: Path) -> None:
    code = (
        "import pandas as pd\nfrom cortexclient.cli.output import show_frame, speak_utf8\nspeak_utf8()\n"
        "show_frame(pd.DataFrame({'note': ['200 \\u00b5m']}))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert python(code, cwd=tmp_path, env=environment, encoding="utf-8").splitlines() == ["note", "200 µm"]
