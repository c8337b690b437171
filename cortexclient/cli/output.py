"""What commands print and write: tables for people on a terminal, CSV for the next program, files by their ending."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import typer

from cortexclient.cli.screen import console, fitted, note
from cortexclient.errors import printable
from cortexclient.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
__all__ = ["say", "show_frame", "speak_utf8", "write_frame"]

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


def say(text: str, *, nl: bool = True) -> None:
    """Print plain text to standard output, without the control characters that a server may have put into it."""
    typer.echo(printable(text), nl=nl)


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
        note(f"{len(frame):,} rows -> {out}")
        return
    if index:
        frame = frame.reset_index()
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


def write_frame(frame: pd.DataFrame, out: Path, *, index: bool = False) -> None:
    """Write a table in the format that the file's ending names.

    Raises
    ------
    typer.BadParameter
        If the ending is not known.
    OutputError
        If the file cannot be written; an old one is unchanged.
    """
    name = out.name.lower()
    if not name.endswith(ENDINGS):
        raise typer.BadParameter(
            f"do not know how to write {out.name}; end it in one of {', '.join(ENDINGS)}"
        )
    complete = frame.reset_index() if index else frame.reset_index(drop=True)
    with replacing(out) as part:
        if name.endswith((".csv", ".csv.gz")):
            complete.to_csv(part, index=False, compression="gzip" if name.endswith(".gz") else None)
        elif name.endswith(".parquet"):
            complete.to_parquet(part, index=False)
        elif name.endswith(".feather"):
            complete.to_feather(part)
        else:
            _exact(complete).to_json(part, orient="records", date_format="iso", lines=False)


_EXACT_IN_JSON = 2**53
"""Most readers of JSON take numbers for floats, which hold whole numbers up to here."""


def _exact(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn the columns of whole numbers that a float cannot hold into text."""
    wide = [
        name
        for name in frame.columns
        if frame[name].dtype.kind in "iu" and bool((frame[name].abs() > _EXACT_IN_JSON).any())
    ]
    return frame.astype(dict.fromkeys(wide, "string"))
