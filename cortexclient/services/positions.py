"""Positions read from arrays, Series, and frames with columns of arrays or split columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["positions", "stack_points", "stated_resolution"]

# columns that hold "the" position of a row, in the order in which they are looked for
_USUAL_COLUMNS = ("pt_position", "ctr_pt_position")


def stated_resolution(points: Any) -> Any:
    """Return the voxel size that a frame states in ``attrs["dataframe_resolution"]``; ``"nm"`` where it states none."""
    stated = getattr(points, "attrs", {}).get("dataframe_resolution")
    if stated is None or isinstance(stated, str):
        return "nm"
    size = np.asarray(stated, dtype=float)
    return "nm" if size.shape != (3,) or (size == 1).all() else size


def positions(points: Any, column: str | None, *, prefer: str | None = None) -> NDArray[np.float64]:
    """Read positions from an array, a Series or a frame; NaN where a coordinate is missing.

    Parameters
    ----------
    column : str or None
        Column of a frame; None for the one that the frame states (``attrs["position_column"]``), else `prefer`, else
        one of the usual names.
    prefer : str or None
        Column that is taken if the frame has it and states no other.

    Returns
    -------
    ndarray of float64, shape (N, 3), or (3,) for a single point

    Raises
    ------
    ValueError
        If there is no such column, several could be meant, or the points do not have three coordinates.
    """
    if hasattr(points, "columns"):
        return _frame_positions(points, column, prefer)
    if column is not None:
        raise ValueError("column= names a column of a DataFrame; these points are no DataFrame")
    if hasattr(points, "to_list"):
        return stack_points(points)
    found = _as_floats(points)
    if found.size == 0:
        return found.reshape(0, 3)
    if found.ndim == 0 or found.shape[-1] != 3:
        raise ValueError(f"points must have three coordinates each, not shape {found.shape}")
    return found


def _frame_positions(df: pd.DataFrame, column: str | None, prefer: str | None) -> NDArray[np.float64]:
    names = [str(name) for name in df.columns]
    if column is None:
        candidates = _position_columns(names)
        wanted = (df.attrs.get("position_column"), prefer, *_USUAL_COLUMNS)
        usual = [name for name in wanted if name in candidates]
        if not usual and len(candidates) != 1:
            raise ValueError(
                f"which position? name one with column=; there are {candidates or 'none'} among {names}"
            )
        column = usual[0] if usual else candidates[0]
    if column in names:
        return stack_points(df[column])
    # caveclient writes pt_position_x, and pt_position_x_ref where two tables were joined
    base, _, suffix = column.rpartition("_")
    for parts in ([f"{column}_{axis}" for axis in "xyz"], [f"{base}_{axis}_{suffix}" for axis in "xyz"]):
        if all(part in names for part in parts):
            return df[parts].to_numpy(dtype=np.float64, na_value=np.nan)
    raise ValueError(f"no position column {column!r}; there are {_position_columns(names) or 'none'}")


def _position_columns(names: list[str]) -> list[str]:
    split = [
        name[:-2]
        for name in names
        if name.endswith("_x") and {f"{name[:-2]}_y", f"{name[:-2]}_z"} <= set(names)
    ]
    whole = [name for name in names if re.search(r"(^|_)position$", name)]
    return split + [name for name in whole if name not in split]


def stack_points(rows: Iterable[Any]) -> NDArray[np.float64]:
    """Stack points of three numbers each; NaN in every axis where a point is missing, and in an axis that is missing.

    Returns
    -------
    ndarray of float64, shape (N, 3)
    """
    found = [row if np.ndim(row) == 1 and len(row) == 3 else (np.nan, np.nan, np.nan) for row in rows]
    return _as_floats(found).reshape(-1, 3)


def _as_floats(values: Any) -> NDArray[np.float64]:
    """Convert to float64; pandas' NA becomes NaN like None."""
    try:
        return np.asarray(values, dtype=np.float64)
    except TypeError:  # NA does not convert by itself
        import pandas as pd

        mixed = np.asarray(values, dtype=object)
        return np.where(pd.isna(mixed), np.nan, mixed).astype(np.float64)
