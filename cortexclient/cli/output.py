"""What commands print and write: tables that fit a terminal, CSV for the next program, YAML, files by their ending."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import re
import sys
import textwrap
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import typer

from cortexclient.errors import printable
from cortexclient.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from rich.console import Console
    from rich.table import Table


__all__ = [
    "as_yaml",
    "console",
    "error_console",
    "escaped",
    "fitted",
    "for_the_shell",
    "note",
    "one_line",
    "plain",
    "print_table",
    "records",
    "say",
    "say_json",
    "show_frame",
    "speak_utf8",
    "wrapped",
    "write_frame",
]

SHOWN_ROWS = 20
_ROWS_AT_ONCE = 10_000
ENDINGS = (".csv", ".csv.gz", ".parquet", ".feather", ".json")


def speak_utf8() -> None:
    """Let no locale stop the output: pipes and files get UTF-8, a terminal its own encoding with ``?`` for the rest."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell (`>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - for the process
        if not isinstance(stream, io.TextIOWrapper):
            continue  # replaced, by a test or a notebook
        if stream.isatty():
            stream.reconfigure(errors="replace")
        else:
            stream.reconfigure(encoding="utf-8")


def say(text: str, *, nl: bool = True) -> None:
    """Print plain text to standard output, without the control characters that a server may have put into it."""
    typer.echo(printable(text), nl=nl)


def say_json(value: object) -> None:
    """Print JSON for programs, in ASCII: exact, whatever the locale, and nothing for a terminal to obey."""
    typer.echo(json.dumps(value, indent=1, default=str))


def show_frame(
    frame: pd.DataFrame, out: Path | None = None, *, index: bool = False, rows: int | None = SHOWN_ROWS
) -> None:
    """Write a table to a file, or print it.

    A terminal gets at most ``rows`` rows (None: all), and a pipe all of it as CSV.
    """
    frame = frame.reset_index(drop=not index)
    if out is not None:
        write_frame(frame, out)
        note(f"{len(frame):,} rows -> {out}")
        return
    if not sys.stdout.isatty():
        frame.to_csv(_PrintableStream(), index=False)  # type: ignore[call-overload]  # which asks for more than pandas
        return
    table, hidden = fitted(frame if rows is None else frame.head(rows), console().width)
    console().print(table)
    notes = []
    if rows is not None and len(frame) > rows:
        notes.append(f"{rows} of {len(frame):,} rows")
    if hidden:
        notes.append(f"no room for {', '.join(hidden)}")
    if notes:
        note(f"{'; '.join(notes)}. --out FILE writes everything ({', '.join(ENDINGS)})")


class _PrintableStream:
    """Standard output for pandas, which writes its CSV in pieces."""

    def write(self, text: str) -> int:
        return sys.stdout.write(printable(text))


def write_frame(frame: pd.DataFrame, out: Path) -> None:
    """Write a table in the format that the file's ending names; after a failure an old file is unchanged."""
    name = out.name.lower()
    with replacing(out) as part:
        if name.endswith((".csv", ".csv.gz")):
            frame.to_csv(part, index=False, compression="gzip" if name.endswith(".gz") else None)
        elif name.endswith(".parquet"):
            frame.to_parquet(part, index=False)
        elif name.endswith(".feather"):
            frame.reset_index(drop=True).to_feather(part)
        else:
            _write_json(frame, part)


def _write_json(frame: pd.DataFrame, part: Path) -> None:
    """Write the rows as one list, some at a time: as Python objects they take many times the room of the frame."""
    frame = _exact(frame)
    with part.open("w", encoding="utf-8") as file:
        for start in range(0, len(frame), _ROWS_AT_ONCE):
            rows = json.dumps(records(frame.iloc[start : start + _ROWS_AT_ONCE]))
            file.write(("[" if start == 0 else ", ") + rows[1:-1])
        file.write("]" if len(frame) else "[]")


EXACT_IN_JSON = 2**53
"""Most readers of JSON take numbers for floats, which hold integers up to here."""


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as JSON can hold them exactly; columns of larger ids are texts."""
    exact = _exact(frame)
    columns = [[plain(value) for value in exact.iloc[:, number].tolist()] for number in range(exact.shape[1])]
    names = [str(name) for name in exact.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it exactly: larger ids as texts, times in ISO form, what is missing as None."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return str(value) if abs(value) > EXACT_IN_JSON else value

    import numpy as np
    import pandas as pd

    if isinstance(value, np.ndarray | list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.floating):
        return plain(float(value))
    if isinstance(value, np.integer | np.bool_):
        return plain(value.item())
    if pd.isna(value):
        return None
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def _exact(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn the columns of integers that a float cannot hold into text."""
    wide = [
        name
        for name in frame.columns
        if frame[name].dtype.kind in "iu" and bool((frame[name].abs() > EXACT_IN_JSON).any())
    ]
    return frame.astype(dict.fromkeys(wide, "string"))


# -- on a terminal ---------------------------------------------------------------------------------------------


GAP = 2  # of which one is the line between columns
TEXT_WIDTH = 24
"""Text wider than this is broken into lines, between words, rather than taking the room of another column."""


@functools.cache
def _console_class() -> type[Console]:
    from rich.console import Console

    class PrintableConsole(Console):
        """Shows no control characters, wherever a text comes from: messages and the cells of tables pass here."""

        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(printable(text), **options)

    return PrintableConsole


def console() -> Console:
    """Return the console for results."""
    return _console_class()(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def error_console() -> Console:
    """Return the console for progress and errors, so that results can be piped."""
    # the terminal wraps long lines by itself; a command that was cut in two could not be copied
    return _console_class()(file=sys.stderr, highlight=False, soft_wrap=True)


def escaped(text: object) -> str:
    """Return a text in which brackets are no markup."""
    from rich.markup import escape

    return escape(str(text))


def wrapped(text: str, width: int) -> str:
    """Break text into lines between words; a command between backticks stays on one line."""
    held = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\xa0"), text)
    fill = functools.partial(textwrap.fill, width=width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(fill, held.splitlines())).replace("\xa0", " ")


def note(text: str, *, label: str = "", style: str = "") -> None:
    """Print a message to standard error, wrapped where that is a terminal."""
    from rich.text import Text

    console = error_console()
    message = printable(label + text)
    if sys.stderr.isatty():
        message = wrapped(message, console.width)
    shown = Text(message)
    shown.stylize(style, 0, len(label))
    console.print(shown, soft_wrap=True)


_SHELL_WORDS = (
    (r"load\(\.\.\., version_fallback=True\)", "--timestamp TIME"),
    (r"\(load\(\.\.\., version=N\), client\.at\(version=N\)\)", "(--version N)"),
    (r"client\.at\(version=(\d+)\)", r"--version \1"),
    (r"or pass auth_token= to load\(\)", "pass --token or set CORTEXCLIENT_TOKEN"),
    (r"\(load\(\.\.\., timeout=seconds\)\)", "(CORTEXCLIENT_READ_TIMEOUT=SECONDS)"),
    (r"lower max_workers", "set CORTEXCLIENT_MAX_WORKERS to less"),
    (r"(?<![\w`])versions\(\)", "`cortexclient versions`"),
    (r"(?<![\w`])(?:suggest_)?latest_roots\(\d*\)", "`cortexclient latest-roots`"),
    (r"(?<![\w`])live=True", "--live"),
    (r" \(latest_valid_timestamp\(\)\)", ""),
)
"""Advice for Python, and what it is on the command line."""


def for_the_shell(message: str, dataset: str) -> str:
    """Write the advice of an error message in words of the command line."""
    for python, shell in _SHELL_WORDS:
        message = re.sub(python, shell, message)
    return message.replace("`cortexclient login`", f"`cortexclient login {dataset}`")


def fitted(frame: pd.DataFrame, width: int) -> tuple[Table, list[str]]:
    """Make a table of a frame that fits a terminal; return it, and the names of the columns that are left out.

    Columns keep their order, and one at least is there. Where not all fit, the least informative ones are left out
    first: bounding boxes, supervoxel ids, ids of reference tables, columns that hold one value, and all positions but
    one.
    """
    from rich import box
    from rich.table import Table

    columns = _columns(frame)
    room = {name: _room(name, cells, right=right) for name, (cells, right) in columns.items()}
    shown = _choose({name: cells for name, (cells, _) in columns.items()}, room, width)
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold"
    )
    for name in shown:
        right = columns[name][1]
        table.add_column(
            escaped(name),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
            min_width=room[name],
        )
    # column by column: row-wise iteration over mixed columns would turn ids into floats
    for row in zip(*(columns[name][0] for name in shown), strict=True):
        table.add_row(*row)
    return table, [name for name in columns if name not in shown]


def _columns(frame: pd.DataFrame) -> dict[str, tuple[list[str], bool]]:
    """Cells of each column as text, and whether they stand on the right; ``NAME_x, _y, _z`` become one column."""
    names = [str(name) for name in frame.columns]
    found: dict[str, tuple[list[str], bool]] = {}
    position = 0
    while position < len(names):
        name = names[position]
        stem = name.removesuffix("_x")
        if stem != name and names[position : position + 3] == [f"{stem}_{axis}" for axis in "xyz"]:
            parts = [[_cell(value) for value in frame.iloc[:, position + axis].array] for axis in range(3)]
            found[stem] = ([", ".join(point) for point in zip(*parts, strict=True)], True)
            position += 3
            continue
        column = frame.iloc[:, position]
        found[name] = ([_cell(value) for value in column.array], column.dtype.kind in "iuf")
        position += 1
    return found


def _room(name: str, cells: list[str], *, right: bool) -> int:
    """Return the characters that a column needs: numbers and words their full length, text that can be wrapped less."""
    longest = max(map(len, cells), default=0)
    if not right:
        words = max((len(word) for cell in cells for word in cell.split()), default=0)
        longest = max(words, min(longest, TEXT_WIDTH))
    return max(len(name), longest)


def _choose(columns: dict[str, list[str]], room: dict[str, int], width: int) -> list[str]:
    """Choose the columns that fit, the most informative first; return them in their order."""
    left = width - 1  # rich before 14.3 pads the last column as well
    chosen: set[str] = set()
    point = _main_point(list(columns))
    weights = {
        name: 0 if number == 0 else _weight(name, cells, point=point)
        for number, (name, cells) in enumerate(columns.items())
    }
    for name in sorted(columns, key=lambda name: (weights[name], room[name])):
        if room[name] <= left or not chosen:
            chosen.add(name)
            left -= room[name] + GAP
    return [name for name in columns if name in chosen]


def _main_point(names: list[str]) -> str | None:
    """Name the position that represents a row."""
    points = [name for name in names if name.endswith("position")]
    known = [name for name in ("ctr_pt_position", "pt_position") if name in points]
    return (known or points or [None])[0]


def _weight(name: str, cells: list[str], *, point: str | None) -> int:
    """Return how early a column is left out: 0 stays longest."""
    if name.startswith("bb_"):
        return 4
    if name.startswith("valid") or "supervoxel" in name or name in {"created", "superceded_id"}:
        return 4
    if name.endswith("_ref") or name == "target_id":
        return 3
    if len(cells) > 1 and len(set(cells)) == 1:
        return 2
    if name.endswith("position"):
        return 1 if name == point else 3
    return 0


def _cell(value: Any) -> str:
    import numpy as np

    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.6g}" if abs(number) < 1e6 else f"{number:.0f}"
    return escaped(" ".join(str(value).split()))


# -- tables of markup, and YAML --------------------------------------------------------------------------------


_WIDE = 1_000_000


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of markup, folded to the terminal; into a pipe every row stays one line, for grep and the like."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    out = console()
    if not sys.stdout.isatty():
        out.width = _WIDE
    out.print(table)


def one_line(text: object, length: int = 2000) -> str:
    """Return a text from a server as one line without control characters."""
    shown = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(shown.split())[:length].strip()


@cache
def _dumper() -> Any:
    import yaml

    from cortexclient.spec.yaml_reader import resolve_scalar

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines as they are, and shares nothing by anchors."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - every value is written out
            return True

    def text(dumper: Any, value: str) -> Any:
        style = None if resolve_scalar(value) == value else "'"
        if "\n" in value and value.strip() and value.strip() == value.removesuffix("\n"):
            style = "|"  # a text of several lines; odd ones are better in quotes
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def as_yaml(values: Mapping[str, Any], width: int = 110) -> str:
    """Write a map as YAML that means the same to every reader: texts that could be something else are quoted."""
    import yaml

    lines = [
        yaml.dump(
            {key: value},
            Dumper=_dumper(),
            sort_keys=False,
            allow_unicode=True,
            width=width,
            # the innermost maps and lists go on one line; a plain value must not drag its key into braces
            default_flow_style=None if isinstance(value, dict | list) else False,
        )
        for key, value in values.items()
    ]
    return "".join(lines).rstrip("\n")
