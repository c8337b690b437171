"""A table on a terminal: points in one column, ids never broken, and no more columns than there is room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = ["fitted"]

GAP = 2  # of which one is the line between columns
TEXT_WIDTH = 24
"""Text wider than this is broken into lines rather than taking the room of another column."""


def fitted(frame: pd.DataFrame, width: int) -> tuple[Table, list[str]]:
    """Make a table of a frame that is not wider than the terminal.

    Columns keep their order. Where not all fit, bounding boxes, supervoxel ids and bookkeeping give way first.

    Parameters
    ----------
    frame : pandas.DataFrame
        The rows to show.
    width : int
        Characters of a line.

    Returns
    -------
    rich.table.Table
        What fits, at least one column.
    list of str
        Names of the columns left out.
    """
    from rich import box
    from rich.table import Table

    columns = _columns(frame)
    room = {name: _room(name, cells, right=right) for name, (cells, right) in columns.items()}
    shown = _choose(list(columns), room, width)
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="bold"
    )
    for name in shown:
        right = columns[name][1]
        table.add_column(
            name, justify="right" if right else "left", no_wrap=right, overflow="fold", min_width=room[name]
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
    """Characters that a column needs: numbers their full length, text no more than it can be broken into."""
    longest = max(map(len, cells), default=0)
    return max(len(name), longest if right else min(longest, TEXT_WIDTH))


def _choose(names: list[str], room: dict[str, int], width: int) -> list[str]:
    """Choose the columns that fit, the telling ones first, and give them in the order in which they stand."""
    left = width - 1  # rich before 14.3 pads the last column as well
    chosen: set[str] = set()
    for name in sorted(names, key=_weight):
        if room[name] <= left or not chosen:
            chosen.add(name)
            left -= room[name] + GAP
    return [name for name in names if name in chosen]


def _weight(name: str) -> int:
    """How readily a column gives way: 0 stays longest."""
    if name.startswith("bb_"):
        return 2
    return int(name.startswith("valid") or "supervoxel" in name or name in {"created", "superceded_id"})


def _cell(value: Any) -> str:
    import numpy as np
    from rich.markup import escape

    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.6g}" if abs(number) < 1e6 else f"{number:.0f}"
    return escape(" ".join(str(value).split()))
