"""From responses of the services to frames with stable types.

The types on the wire are not stable: a text column without rows is Arrow ``null``, an integer column of a view that is
all null comes as text, tables have float32 where their views have float64, live responses order columns differently.
Here every column gets the one type that it always has, by whichever road it comes:

====================  =====================  ==========================================================
column                Arrow, Polars          pandas
====================  =====================  ==========================================================
ids                   int64                  int64 (``Int64`` if one is missing)
positions, scaled     float64                float64; NaN in every axis where the point is missing
positions in voxels   int64                  int64; float64 with NaN if a point is missing
other whole numbers   int64                  ``Int64``
other numbers         float64                float64
truth values          bool                   ``boolean``; ``valid`` is bool
text                  string                 ``string``
times                 timestamp[ns, UTC]     datetime64[ns, UTC]
====================  =====================  ==========================================================
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cortexclient.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

__all__ = [
    "combine",
    "free_memory",
    "is_id_column",
    "join_positions",
    "join_positions_of",
    "scale_positions",
    "to_pandas",
    "triples",
    "typed",
]

_IDS = {"id", "target_id", "superceded_id", "superseded_id", "id_ref"}
_CERTAIN_ID = re.compile(r"^(id|target_id|super[cs]eded_id)(_ref)?$|_(root|supervoxel)_id(_ref)?$")
"""Columns that hold ids in every table; other names that end in ``_id`` may be text of somebody's schema."""

_POSITION = re.compile(r"(^|_)position(_ref)?_[xyz]$")

# columns that a server fills in every row; any other whole number or truth value may be missing in some row, and so
# has a nullable type in every frame, whether or not a row without it happens to be there
_NEVER_NULL = re.compile(r"^(id|target_id|valid)(_ref)?$|_(root_id|supervoxel_id)(_ref)?$")

_MANY = 100_000


def is_id_column(name: str) -> bool:
    """Return whether a column of that name holds ids."""
    return name in _IDS or name.endswith(("_id", "_id_ref"))


# -- one response ------------------------------------------------------------------------------------------------------


def typed(table: Any) -> Any:
    """Give every column of a response its lasting type, exactly.

    Parameters
    ----------
    table : pyarrow.Table
        A response, validated.

    Returns
    -------
    pyarrow.Table
        Columns of int64, float64, bool, string, timestamp[ns], dates, lists of these, or null where nothing is known.

    Raises
    ------
    ValueError
        If a column comes twice, has a type that cannot be converted, holds ids as floats, or numbers that do not fit.
    """
    import pyarrow as pa

    names = table.column_names
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"column {twice[0]!r} comes twice")
    columns = []
    for name in names:
        try:
            columns.append(_typed_column(name, table.column(name)))
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"column {name!r} cannot be converted ({str(error)[:100]})") from None
    return pa.table(dict(zip(names, columns, strict=True))) if names else table


def _typed_column(name: str, column: Any) -> Any:
    import pyarrow as pa

    is_type, kind = pa.types, column.type
    if is_type.is_dictionary(kind):
        return _typed_column(name, column.cast(kind.value_type))
    if is_type.is_large_string(kind) or kind == pa.string_view():
        return _typed_column(name, column.cast(pa.string()))
    if _CERTAIN_ID.search(name) or _POSITION.search(name):
        return _whole_numbers(name, column)
    if is_id_column(name) and is_type.is_floating(kind) and column.null_count < len(column):
        raise ValueError(f"column {name!r} holds {kind}, in which ids lose digits")
    if is_type.is_timestamp(kind):
        return column.cast(pa.timestamp("ns", tz=kind.tz))
    if is_type.is_integer(kind):
        return column.cast(pa.int64())
    if is_type.is_floating(kind) or is_type.is_decimal(kind):
        return column.cast(pa.float64())
    plain = kind.value_type if is_type.is_list(kind) else kind
    known = (is_type.is_null, is_type.is_string, is_type.is_boolean, is_type.is_date)
    if any(is_known(plain) for is_known in known) or (plain is not kind and is_type.is_primitive(plain)):
        return column
    raise ValueError(f"column {name!r} holds {kind}, which no CAVE service sends")


def _whole_numbers(name: str, column: Any) -> Any:
    """Return ids or coordinates as int64. Ids may be text or decimals, never floats; coordinates may be floats."""
    import pyarrow as pa

    is_type, kind = pa.types, column.type
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), pa.int64())])
    if is_type.is_integer(kind) or is_type.is_decimal(kind):
        return column.cast(pa.int64())
    if _CERTAIN_ID.search(name):
        if is_type.is_string(kind):
            return column.cast(pa.int64())
        raise ValueError(
            f"column {name!r} holds {kind}"
            + (", in which ids lose digits" if is_type.is_floating(kind) else "")
        )
    if is_type.is_floating(kind):
        return column.cast(pa.float64())
    raise ValueError(f"column {name!r} holds {kind} instead of coordinates")


# -- several responses -------------------------------------------------------------------------------------------------


def combine(tables: Sequence[Any], kinds: Callable[[], Mapping[str, str]] | None = None) -> Any:
    """Concatenate the parts of one answer; every column keeps its type where a part has no rows.

    Parameters
    ----------
    tables : sequence of pyarrow.Table
        At least one, as `typed` returns them; columns in any order.
    kinds : callable, optional
        Returns column name -> ``"integer" | "float" | "number" | "boolean" | "string"`` from the schema. Called only if
        a column does not show its type.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    ProtocolError
        If parts have types that exclude each other.
    """
    import pyarrow as pa

    names = _in_place(list(dict.fromkeys(name for table in tables for name in table.column_names)))
    columns = []
    for name in names:
        # a part of a live answer may lack a column that others have (`valid`)
        parts = [
            table.column(name) if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])
            for table in tables
        ]
        target = _common_type(name, parts, kinds)
        chunks = [_cast(chunk, target, name) for part in parts for chunk in part.chunks]
        columns.append(pa.chunked_array(chunks, type=target))
    return pa.table(dict(zip(names, columns, strict=True)))


def _in_place(names: list[str]) -> list[str]:
    """Order columns as frozen responses have them: ``valid`` after ``id``, the ids of a point after its position."""
    moved = [name for name in names if name == "valid" and "id" in names]
    for name in names:
        if name.endswith("_position_z"):
            point = name.removesuffix("_position_z")
            moved += [
                f"{point}_{kind}" for kind in ("supervoxel_id", "root_id") if f"{point}_{kind}" in names
            ]
    ordered: list[str] = []
    for name in (name for name in names if name not in moved):
        ordered.append(name)
        if name == "id":
            ordered += [other for other in moved if other == "valid"]
        if name.endswith("_position_z"):
            point = name.removesuffix("_position_z")
            ordered += [other for other in moved if other in (f"{point}_supervoxel_id", f"{point}_root_id")]
    return ordered


def _common_type(name: str, parts: list[Any], kinds: Callable[[], Mapping[str, str]] | None) -> Any:
    import pyarrow as pa

    # an all-null column of text may be one of numbers; a column of another type is what it says
    known = [part.type for part in parts if not pa.types.is_null(part.type)]
    certain = [
        part.type
        for part in parts
        if not pa.types.is_null(part.type)
        and not (pa.types.is_string(part.type) and part.null_count == len(part))
    ]
    if is_id_column(name) and (not certain or any(map(pa.types.is_string, certain))):
        # an id of somebody's own schema may be text; ids that are numbers there are numbers here
        said = kinds().get(name) if kinds is not None and certain else "integer"
        return pa.int64() if said == "integer" else pa.string()
    if not certain:
        said = (kinds().get(name) if kinds is not None else None) or "string"
        types = {"integer": pa.int64(), "float": pa.float64(), "number": pa.float64(), "boolean": pa.bool_()}
        return types.get(said, known[0] if known else pa.string())
    distinct = set(certain)
    if len(distinct) == 1:
        return certain[0]
    if distinct == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise ProtocolError(
        f"the materialize service sent column {name!r} in parts of one answer as "
        f"{' and as '.join(sorted(map(str, distinct)))}; try again",
        service="materialize",
    )


def _cast(chunk: Any, target: Any, name: str) -> Any:
    import pyarrow as pa

    if chunk.type == target:
        return chunk
    if pa.types.is_null(chunk.type) or chunk.null_count == len(chunk):
        return pa.nulls(len(chunk), type=target)
    try:
        return chunk.cast(target)
    except pa.ArrowException as error:
        raise ProtocolError(
            f"the materialize service sent column {name!r} as {chunk.type}, and it is no {target} ({str(error)[:100]})",
            service="materialize",
        ) from None


# -- positions ---------------------------------------------------------------------------------------------------------


def triples(names: Sequence[str]) -> dict[str, list[str]]:
    """Find the points among column names: ``{"pt_position": ["pt_position_x", "pt_position_y", "pt_position_z"]}``."""
    present = set(names)
    return {
        name[:-2]: [f"{name[:-2]}_{axis}" for axis in "xyz"]
        for name in names
        if name.endswith("_x") and {f"{name[:-2]}_y", f"{name[:-2]}_z"} <= present
    }


def scale_positions(table: Any, units: Mapping[str, Sequence[float]], wanted: Sequence[float] | None) -> Any:
    """Convert all split positions from the units in which they are stored.

    Parameters
    ----------
    table : pyarrow.Table
        Positions as three columns each.
    units : mapping
        Point -> size in nm of one stored unit, on each axis.
    wanted : sequence of float or None
        Size in nm of one unit of the result; None keeps the stored units.

    Returns
    -------
    pyarrow.Table
        Scaled positions are float64, NaN in every axis where the point is missing. Stored units are int64, null where
        it is missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for point, columns in triples(table.column_names).items():
        for axis, name in enumerate(columns):
            column, unit = table.column(name), units[point]
            if pa.types.is_null(column.type):
                column = column.cast(pa.int64())
            if wanted is None:
                made = _whole(column)
            elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                made = column.cast(pa.float64())
                if unit[axis] != wanted[axis]:
                    made = pc.divide(pc.multiply(made, float(unit[axis])), float(wanted[axis]))
                made = pc.fill_null(made, float("nan"))
            else:
                continue
            table = table.set_column(table.column_names.index(name), name, made)
    return table


def _whole(column: Any) -> Any:
    """Return voxels as int64 where they are whole numbers; views may hold places between voxels."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return column
    there = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        return there.cast(pa.int64())
    except pa.ArrowInvalid:
        return column


def join_positions_of(table: Any) -> Any:
    """Join split positions of an Arrow table: one column of lists of three for each point, after the others."""
    import numpy as np
    import pyarrow as pa

    for name, columns in triples(table.column_names).items():
        parts = [table.column(column).combine_chunks() for column in columns]
        kind = pa.float64() if any(pa.types.is_floating(part.type) for part in parts) else pa.int64()
        rows = table.num_rows
        by_row = np.arange(3 * rows).reshape(3, rows).T.ravel()
        values = pa.concat_arrays([part.cast(kind) for part in parts]).take(pa.array(by_row))
        ends = pa.array(np.arange(0, 3 * rows + 1, 3, dtype=np.int32))
        table = table.drop_columns(columns).append_column(name, pa.ListArray.from_arrays(ends, values))
    return table


def join_positions(frame: pd.DataFrame) -> pd.DataFrame:
    """Join split positions: one column of arrays of three for each point, after the other columns.

    Returns
    -------
    pandas.DataFrame
        Each cell is a float64 array, or int64 where the columns are; NaN in every axis where the point is missing.
    """
    import numpy as np
    import pandas as pd

    found = triples(list(frame.columns))
    if not found:
        return frame
    joined = {}
    for name, columns in found.items():
        whole = all(
            isinstance(frame[column].dtype, np.dtype) and frame[column].dtype.kind == "i"
            for column in columns
        )
        # row by row in memory, as each row becomes an array of its own (orjson, say, takes no other)
        values = np.ascontiguousarray(
            frame[columns].to_numpy() if whole else frame[columns].to_numpy(dtype=np.float64, na_value=np.nan)
        )
        column = pd.Series([None] * len(frame), index=frame.index, dtype=object)
        # assigned cell by cell: pandas would take a list of arrays of three for a table
        column[:] = list(values)
        joined[name] = column
    rest = frame.drop(columns=[column for columns in found.values() for column in columns])
    for name, column in joined.items():
        rest[name] = column
    return rest


# -- frames ------------------------------------------------------------------------------------------------------------


def to_pandas(columns: dict[str, Any]) -> pd.DataFrame:
    """Convert Arrow columns to a pandas frame, each with the type that the table at the top of this module names.

    Parameters
    ----------
    columns : dict
        Name -> column (`pyarrow.ChunkedArray`). It is emptied: each column is freed when it has been converted, so that
        a large answer is not held twice.

    Returns
    -------
    pandas.DataFrame
        No integer ever passes through a float. Every value can be written to.
    """
    import pandas as pd

    points = {column for found in triples(list(columns)).values() for column in found}
    made = {}
    for name in list(columns):
        made[name] = _series(name, columns.pop(name), position=name in points)
        free_memory(len(made[name]))
    return pd.DataFrame(made, copy=False)


def free_memory(rows: int) -> None:
    """Give free memory back to the system, where so many rows make a difference.

    Arrow keeps what it has freed, and so does glibc, in which the responses lay.
    """
    import ctypes
    import sys

    import pyarrow as pa

    if rows <= _MANY:
        return
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        # other C libraries have no such function
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _series(name: str, column: Any, *, position: bool) -> Any:
    import pandas as pd
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string(kind):
        return pd.array(column, dtype=pd.StringDtype("pyarrow"))
    whole, missing = pa.types.is_integer(kind), column.null_count > 0
    if position and whole and missing:
        return column.cast(pa.float64()).to_numpy()
    if (whole or pa.types.is_boolean(kind)) and not position and (missing or not _NEVER_NULL.search(name)):
        dtype: Any = pd.Int64Dtype() if whole else pd.BooleanDtype()
        made = dtype.__from_arrow__(column)
        return made if made._data.flags.writeable else made.copy()
    if not pa.types.is_primitive(kind) or pa.types.is_temporal(kind):
        return column.to_pandas()
    values = column.to_numpy()
    # of a single piece Arrow gives a view, which nobody may write to
    return values if values.flags.writeable else values.copy()
