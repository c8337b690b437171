"""From Arrow tables to a frame whose types do not depend on which rows happened to come.

The services' own types wander: a text column without rows is Arrow ``null``, an integer column of a view that is all
null comes as text, live answers put columns in another order. Here every column gets the one type it always has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

__all__ = [
    "ID_NAMES",
    "combine",
    "give_back",
    "is_id_column",
    "join_positions",
    "join_positions_of",
    "scale_positions",
    "to_pandas",
    "triples",
]

ID_NAMES = ("id", "target_id", "superceded_id", "superseded_id")

# columns that a server fills in every row that it gives; every other whole number or truth value may be missing in
# some row, and so has a nullable type in every answer, whether or not a row without it happens to be there
_ALWAYS_THERE = re.compile(
    r"^(id|target_id|valid)(_ref)?$|_(root_id|supervoxel_id|position_[xyz])(_ref)?$|_position_ref_[xyz]$"
)


_MANY = 100_000


def is_id_column(name: str) -> bool:
    """Whether a column of that name holds ids."""
    return name in ID_NAMES or name.endswith(("_id", "_id_ref")) or name == "id_ref"


def combine(tables: Sequence[Any], kinds: Callable[[], Mapping[str, str]] | None = None) -> Any:
    """Put parts of one answer together and give each column its own type.

    Parameters
    ----------
    tables : sequence of pyarrow.Table
        At least one; columns in any order.
    kinds : callable, optional
        Gives column name -> ``"integer" | "float" | "boolean" | "string"`` from the schema. Called only if a column
        of the answer does not show its type.

    Returns
    -------
    pyarrow.Table
    """
    import pyarrow as pa

    names = _in_place(list(dict.fromkeys(name for table in tables for name in table.column_names)))
    columns = []
    for name in names:
        # a part of a live answer may lack a column that others have (`valid`)
        having = [name in table.column_names for table in tables]
        chunks: list[Any] = []
        for table, has in zip(tables, having, strict=True):
            chunks.extend(table.column(name).chunks if has else [pa.nulls(table.num_rows)])
        types = [table.schema.field(name).type for table, has in zip(tables, having, strict=True) if has]
        columns.append(_one_type(name, chunks, types, kinds))
    return pa.table(dict(zip(names, columns, strict=True)))


def _in_place(names: list[str]) -> list[str]:
    """Order columns as frozen answers have them: ``valid`` after ``id``, the ids of a point after its position."""
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


def _one_type(
    name: str, chunks: list[Any], types: list[Any], kinds: Callable[[], Mapping[str, str]] | None
) -> Any:
    import pyarrow as pa

    known = [kind for kind in types if not pa.types.is_null(kind)]
    all_null_text = (
        bool(known)
        and all(map(pa.types.is_string, known))
        and all(chunk.null_count == len(chunk) for chunk in chunks)
    )
    if is_id_column(name) and (not known or all_null_text):
        target = pa.int64()
    elif not known or all_null_text:
        said = kinds().get(name) if kinds is not None else None
        target = {
            "integer": pa.int64(),
            "float": pa.float64(),
            "number": pa.float64(),
            "boolean": pa.bool_(),
        }.get(said or "string", known[0] if known else pa.string())
    else:
        distinct = [kind for kind in known if not pa.types.is_string(kind)] or known
        target = distinct[0]
        for kind in distinct[1:]:
            target = _wider(target, kind)
    return pa.chunked_array([_cast(chunk, target) for chunk in chunks], type=target)


def _wider(first: Any, second: Any) -> Any:
    import pyarrow as pa

    if first == second:
        return first
    return (
        pa.unify_schemas(
            [pa.schema([("x", first)]), pa.schema([("x", second)])], promote_options="permissive"
        )
        .field("x")
        .type
    )


def _cast(chunk: Any, target: Any) -> Any:
    import pyarrow as pa

    if chunk.type == target:
        return chunk
    if pa.types.is_null(chunk.type) or chunk.null_count == len(chunk):
        return pa.nulls(len(chunk), type=target)
    return chunk.cast(target)


def to_pandas(columns: dict[str, Any]) -> pd.DataFrame:
    """Give Arrow columns as a frame: plain NumPy types, nullable ones only where there are nulls, text as ``string``.

    Parameters
    ----------
    columns : dict
        Name -> column (`pyarrow.ChunkedArray`). It is emptied: each column is let go when it has been converted, so
        that a large answer is not there twice.

    Returns
    -------
    pandas.DataFrame
        ``id``, ``target_id``, root and supervoxel ids are int64, positions int32, ``valid`` bool (their nullable
        sisters only if a null comes, which servers avoid); other whole numbers and truth values are nullable always,
        text is ``string``. No integer ever passes through a float. Every value can be written to.
    """
    import pandas as pd

    made = {}
    for name in list(columns):
        made[name] = _series(name, columns.pop(name))
        give_back(len(made[name]))
    return pd.DataFrame(made, copy=False)


def give_back(rows: int) -> None:
    """Give memory that is free back to the system, where so many rows make a difference.

    Arrow keeps what it has freed, and so does glibc, in which the answers lay as they came over the network.
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


def _series(name: str, column: Any) -> Any:
    import pandas as pd
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pd.array(column, dtype=pd.StringDtype("pyarrow"))
    nullable = column.null_count > 0 or not _ALWAYS_THERE.search(name)
    if nullable and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        dtypes = {
            pa.int64(): pd.Int64Dtype(),
            pa.int32(): pd.Int32Dtype(),
            pa.int16(): pd.Int16Dtype(),
            pa.int8(): pd.Int8Dtype(),
            pa.uint64(): pd.UInt64Dtype(),
            pa.uint32(): pd.UInt32Dtype(),
            pa.bool_(): pd.BooleanDtype(),
        }
        dtype: Any = dtypes.get(kind, pd.Int64Dtype())
        made = dtype.__from_arrow__(column)
        return made if made._data.flags.writeable else made.copy()
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("ns", tz=kind.tz)).to_pandas()
    if not pa.types.is_primitive(kind):
        return column.to_pandas()
    values = column.to_numpy()
    # of a single piece Arrow gives a view, which nobody may write to
    return values if values.flags.writeable else values.copy()


def triples(names: Sequence[str]) -> dict[str, list[str]]:
    """Find the points among column names: ``{"pt_position": ["pt_position_x", "pt_position_y", "pt_position_z"]}``."""
    present = set(names)
    return {
        name[:-2]: [f"{name[:-2]}_{axis}" for axis in "xyz"]
        for name in names
        if name.endswith("_x") and {f"{name[:-2]}_y", f"{name[:-2]}_z"} <= present
    }


def scale_positions(frame: pd.DataFrame, factor: Sequence[float]) -> pd.DataFrame:
    """Multiply every split position, in place; whole factors keep integers whole."""
    for columns in triples(list(frame.columns)).values():
        for column, number in zip(columns, factor, strict=True):
            whole = float(number).is_integer()
            frame[column] = frame[column] * (int(number) if whole else float(number))
    return frame


def join_positions_of(table: Any) -> Any:
    """Put split positions of an Arrow table together: one column of lists of three for each point, after the others."""
    import numpy as np
    import pyarrow as pa

    for name, columns in triples(table.column_names).items():
        parts = [table.column(column).combine_chunks() for column in columns]
        kind = parts[0].type
        for part in parts[1:]:
            kind = _wider(kind, part.type)
        rows = table.num_rows
        by_row = np.arange(3 * rows).reshape(3, rows).T.ravel()
        values = pa.concat_arrays([part.cast(kind) for part in parts]).take(pa.array(by_row))
        ends = pa.array(np.arange(0, 3 * rows + 1, 3, dtype=np.int32))
        table = table.drop_columns(columns).append_column(name, pa.ListArray.from_arrays(ends, values))
    return table


def join_positions(frame: pd.DataFrame) -> pd.DataFrame:
    """Put split positions together: one column of arrays of three for each point, after the other columns."""
    import numpy as np
    import pandas as pd

    found = triples(list(frame.columns))
    if not found:
        return frame
    joined = {}
    for name, columns in found.items():
        # row by row in memory, as each row becomes an array of its own (orjson, say, takes no other)
        values = np.ascontiguousarray(frame[columns].to_numpy())
        column = pd.Series([None] * len(frame), index=frame.index, dtype=object)
        # assigned cell by cell: pandas would take a list of arrays of three for a table
        column[:] = list(values)
        joined[name] = column
    rest = frame.drop(columns=[column for columns in found.values() for column in columns])
    for name, column in joined.items():
        rest[name] = column
    return rest
