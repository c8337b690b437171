"""What commands print and write: tables for people on a terminal, CSV for the next program, files by their ending."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from rich.console import Console

__all__ = ["console", "error_console", "show_frame", "speak_utf8", "write_frame"]

SHOWN_ROWS = 20
ENDINGS = (".csv", ".csv.gz", ".parquet", ".feather", ".json")


def speak_utf8() -> None:
    """Let no locale stop the output: pipes and files get UTF-8, a terminal its own encoding with ``?`` for the rest."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue  # replaced, by a test or a notebook
        if stream.isatty():
            stream.reconfigure(errors="replace")
        else:
            stream.reconfigure(encoding="utf-8")


def console() -> Console:
    """Where results go."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def error_console() -> Console:
    """Where progress and errors go, so that results can be piped."""
    from rich.console import Console

    # the terminal wraps long lines by itself; a command that was cut in two could not be copied
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def show_frame(
    frame: pd.DataFrame, out: Path | None = None, *, index: bool = False, rows: int | None = SHOWN_ROWS
) -> None:
    """Write a table to a file, or print it: what fits on a terminal, all of it as CSV into a pipe.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table.
    out : pathlib.Path or None
        File to write; None prints.
    index : bool
        Whether the index is a column too.
    rows : int or None
        Most rows on a terminal; None shows all.
    """
    if out is not None:
        write_frame(frame, out, index=index)
        error_console().print(f"{len(frame):,} rows -> {out}")
        return
    if index:
        frame = frame.reset_index()
    if not sys.stdout.isatty():
        frame.to_csv(sys.stdout, index=False)
        return
    from cortexclient.cli.screen import fitted

    table, hidden = fitted(frame if rows is None else frame.head(rows), console().width)
    console().print(table)
    notes = []
    if rows is not None and len(frame) > rows:
        notes.append(f"{rows} of {len(frame):,} rows")
    if hidden:
        notes.append(f"no room for {', '.join(hidden)}")
    if notes:
        error_console().print(f"{'; '.join(notes)}. --out FILE writes everything ({', '.join(ENDINGS)})")


def write_frame(frame: pd.DataFrame, out: Path, *, index: bool = False) -> None:
    """Write a table in the format that the file's ending names.

    Raises
    ------
    typer.BadParameter
        If the ending is not known.
    """
    name = out.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        frame.to_csv(out, index=index)
        return
    whole = frame.reset_index() if index else frame.reset_index(drop=True)
    if name.endswith(".parquet"):
        whole.to_parquet(out, index=False)
    elif name.endswith(".feather"):
        whole.to_feather(out)
    elif name.endswith(".json"):
        # ids as strings: JSON's numbers are floats to most readers
        ids = {column: str for column in whole.columns if whole[column].dtype.kind in "iu"}
        whole.astype(ids).to_json(out, orient="records", date_format="iso", lines=False)
    else:
        raise typer.BadParameter(
            f"do not know how to write {out.name}; end it in one of {', '.join(ENDINGS)}"
        )
