"""What a user may pass to a query: checked before anything is sent, so that nothing is ignored or misread."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from cortexclient.errors import InvalidQueryError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["as_choice", "as_columns", "as_frame_kind", "as_number", "as_resolution"]

_ONE_AXIS = re.compile(r"(.+_position|position)_[xyz]$")


def as_number(value: Any, name: str, *, least: int = 0) -> int | None:
    """Give a number of rows as a plain int; None stays None.

    Raises
    ------
    TypeError
        If it is no whole number.
    ValueError
        If it is too small.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    number: int = value.__index__()
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return int(number)


def as_resolution(value: Any) -> tuple[float, float, float] | None:
    """Give a resolution (nm of one unit, on each axis) as three floats; None stays None.

    Raises
    ------
    ValueError
        If it is not three numbers above 0.
    """
    if value is None:
        return None
    try:
        x, y, z = (float(size) for size in value)
    except (TypeError, ValueError):
        x = y = z = math.nan
    if not all(0 < size < math.inf for size in (x, y, z)):
        raise ValueError(
            f"a resolution is three sizes in nm above 0, such as [4, 4, 40] ([1, 1, 1] gives positions in nm), "
            f"not {value!r}"
        )
    return x, y, z


def as_columns(value: Any) -> list[str] | dict[str, list[str]] | None:
    """Return the columns to select as a list; None stays None, a single name is a list of one.

    A dict of columns by table stays one.

    Raises
    ------
    InvalidQueryError
        If none are named, or one axis of a point.
    """
    if value is None:
        return None
    if hasattr(value, "keys"):
        by_table = {str(table): as_columns(value[table]) for table in value}
        if not by_table:
            return as_columns([])
        return {table: names for table, names in by_table.items() if isinstance(names, list)}
    names = [value] if isinstance(value, str) else [str(name) for name in value]
    if not names:
        raise InvalidQueryError(
            "no columns are selected; name some, or leave select_columns out to have all",
            service="materialize",
        )
    for name in names:
        axis = _ONE_AXIS.match(name)
        if axis is not None:
            raise InvalidQueryError(
                f"{name!r} is one axis of a point, which cannot be had alone; select {axis[1]!r} (with "
                "split_positions=True it comes as three columns)",
                service="materialize",
            )
    return names


def as_choice(value: str, name: str, choices: Sequence[str]) -> str:
    """Give a value that must be one of a few.

    Raises
    ------
    ValueError
        If it is another one.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def as_frame_kind(value: str) -> str:
    """Give the kind of frame that an answer is to come as.

    Raises
    ------
    ValueError
        If it is none of those that there are.
    MissingExtraError
        If it needs a package that is not installed.
    """
    import importlib.util

    kind = as_choice(value, "return_as", ("pandas", "arrow", "polars"))
    if kind == "polars" and importlib.util.find_spec("polars") is None:
        raise MissingExtraError.of("return_as='polars' needs", "polars", "polars")
    return kind
