"""What commands print and write: tables for people on a terminal, CSV for the next program, files by their ending."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from rich.console import Console

__all__ = ["console", "error_console", "show_frame", "write_frame"]

SHOWN_ROWS = 20
ENDINGS = (".csv", ".csv.gz", ".parquet", ".feather", ".json")


def console() -> Console:
    """Where results go."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def error_console() -> Console:
    """Where progress and errors go, so that results can be piped."""
    from rich.console import Console

    # the terminal wraps long lines by itself; a command that was cut in two could not be copied
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def show_frame(frame: pd.DataFrame, out: Path | None, *, index: bool = False) -> None:
    """Write a table to a file, or print it: the first rows on a terminal, all of it as CSV into a pipe.

    Parameters
    ----------
    frame : pandas.DataFrame
        The table.
    out : pathlib.Path or None
        File to write; None prints.
    index : bool
        Whether the index is a column too.
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
    console().print(_table(frame.head(SHOWN_ROWS)))
    if len(frame) > SHOWN_ROWS:
        error_console().print(
            f"{SHOWN_ROWS} of {len(frame):,} rows; --out FILE writes all of them ({', '.join(ENDINGS)})"
        )


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


def _table(frame: pd.DataFrame) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in frame.columns:
        numeric = frame[column].dtype.kind in "iuf"
        table.add_column(str(column), justify="right" if numeric else "left", overflow="fold")
    # column by column: row-wise iteration over mixed columns would turn ids into floats
    cells = [[_cell(value) for value in frame[column].array] for column in frame.columns]
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    return table


def _cell(value: Any) -> str:
    import numpy as np
    from rich.markup import escape

    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return escape(str(value))
