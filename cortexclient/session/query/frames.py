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

import json
import re
from typing import TYPE_CHECKING, Any

from cortexclient.errors import InvalidQueryError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from cortexclient.session.query.query import Query
    from cortexclient.session.query.wire import Reply

__all__ = [
    "combine",
    "finish",
    "free_memory",
    "is_id_column",
    "join_positions",
    "present",
    "present_frame",
    "require_once_each",
    "to_pandas",
    "triples",
    "with_valid",
]

_IDS = {"id", "target_id", "superceded_id", "superseded_id", "id_ref"}
# columns that a server fills in every row; any other whole number or truth value may be missing in some row, and so
# has a nullable type in every frame, whether or not a row without it happens to be there
_NEVER_NULL = re.compile(r"^(id|target_id|valid)(_ref)?$|_(root_id|supervoxel_id)(_ref)?$")

_MANY = 100_000


def is_id_column(name: str) -> bool:
    """Return whether a column of that name holds ids."""
    return name in _IDS or name.endswith(("_id", "_id_ref"))


# -- several responses -------------------------------------------------------------------------------------------------


def combine(
    tables: Sequence[Any], kinds: Callable[[], Mapping[str, str]] | None = None, *, url: str = ""
) -> Any:
    """Concatenate the parts of one result (`pyarrow.Table`); every column keeps its type where a part has no rows.

    ``kinds`` returns column -> kind from the schema (`column_kinds`), and is called only if a column does not show its
    type. Parts whose types exclude each other raise `ProtocolError` about ``url``.
    """
    import pyarrow as pa

    columns = {}
    for name in _in_place(list(dict.fromkeys(name for table in tables for name in table.column_names))):
        # a part of a live result may lack a column that others have (`valid`)
        parts = [
            table.column(name) if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])
            for table in tables
        ]
        if not all(part.type == parts[0].type and _shows_its_type(name, part) for part in parts):
            parts = _of_one_type(name, parts, kinds, url)
        columns[name] = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
    return pa.table(columns)


def _in_place(names: list[str]) -> list[str]:
    """Order columns as frozen responses have them: ``valid`` after ``id``, the ids of a point after its position."""
    followers = {"id": ["valid"]}
    for name in names:
        if name.endswith("_position_z"):
            point = name.removesuffix("_position_z")
            followers[name] = [f"{point}_supervoxel_id", f"{point}_root_id"]
    moved = {follower for name in names for follower in followers.get(name, ())}
    ordered = [each for name in names if name not in moved for each in (name, *followers.get(name, ()))]
    return [name for name in ordered if name in names]


def _shows_its_type(name: str, column: Any) -> bool:
    """Return whether a column is of its lasting type: not if it is all null, or may be an id that is sent as text."""
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return not is_id_column(name) and column.null_count < len(column)
    return not pa.types.is_null(column.type)


def _of_one_type(
    name: str, parts: list[Any], kinds: Callable[[], Mapping[str, str]] | None, url: str
) -> list[Any]:
    """Convert the parts of a column to the type that those with values share."""
    import pyarrow as pa

    target = _common_type(name, parts, kinds, url)
    return [
        pa.chunked_array([_cast(chunk, target, name, url) for chunk in part.chunks], target) for part in parts
    ]


def _common_type(name: str, parts: list[Any], kinds: Callable[[], Mapping[str, str]] | None, url: str) -> Any:
    import pyarrow as pa

    # an all-null column of text may be one of numbers; a column of another type is what it says
    known = [part.type for part in parts if not pa.types.is_null(part.type)]
    certain = {
        part.type
        for part in parts
        if not pa.types.is_null(part.type)
        and not (pa.types.is_string(part.type) and part.null_count == len(part))
    }
    if not certain:
        return pa.int64() if is_id_column(name) else _type_of_nulls(name, known, kinds)
    if is_id_column(name) and any(map(pa.types.is_string, certain)):
        # an id of somebody's own schema may be text; ids that are numbers there are numbers here
        said = kinds().get(name) if kinds is not None else "integer"
        return pa.int64() if said == "integer" else pa.string()
    if len(certain) == 1:
        return certain.pop()
    if certain == {pa.int64(), pa.float64()}:
        return pa.float64()
    types = " and as ".join(sorted(map(str, certain)))
    raise _wrong(f"column {name!r} in parts of one result as {types}", url)


def _wrong(what: str, url: str) -> ProtocolError:
    message = f"the materialize service sent {what}; try again"
    return ProtocolError(message, service="materialize", status=200, url=url)


def _type_of_nulls(name: str, known: list[Any], kinds: Callable[[], Mapping[str, str]] | None) -> Any:
    """Return the type of a column that has no value anywhere: what the schema says, else what the wire says."""
    import pyarrow as pa

    said = (kinds().get(name) if kinds is not None else None) or "string"
    types = {"integer": pa.int64(), "float": pa.float64(), "number": pa.float64(), "boolean": pa.bool_()}
    types |= dict.fromkeys(("datetime", "date-time"), pa.timestamp("ns", tz="UTC"))
    return types.get(said, known[0] if known else pa.string())


def _cast(chunk: Any, target: Any, name: str, url: str) -> Any:
    import pyarrow as pa

    if chunk.type == target:
        return chunk
    if pa.types.is_null(chunk.type) or chunk.null_count == len(chunk):
        return pa.nulls(len(chunk), type=target)
    try:
        return chunk.cast(target)
    except pa.ArrowException as error:
        what = f"column {name!r} as {chunk.type}, and it is no {target} ({str(error)[:100]})"
        raise _wrong(what, url) from None


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
    """Convert all split positions from the units in which they are stored: point -> size in nm on each axis.

    Scaled positions, in units of ``wanted`` nm, are float64, NaN in every axis where the point is missing. With None
    the stored units stay: int64, null where it is missing.
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

    Each cell is a float64 array, or int64 where the columns are; NaN in every axis where the point is missing.
    """
    import numpy as np
    import pandas as pd

    points = triples(list(frame.columns))
    if not points:
        return frame
    rest = frame.drop(columns=[column for columns in points.values() for column in columns])
    for name, columns in points.items():
        parts = [frame[column] for column in columns]
        whole = all(str(part.dtype).startswith("int") for part in parts)
        options: dict[str, Any] = {} if whole else {"dtype": np.float64, "na_value": np.nan}
        # row by row in memory, as each row becomes an array of its own (orjson, say, takes no other)
        values = np.stack([part.to_numpy(**options) for part in parts], axis=1)
        rest[name] = pd.Series(list(values), index=frame.index, dtype=object)
    return rest


# -- frames ------------------------------------------------------------------------------------------------------------


def to_pandas(columns: dict[str, Any]) -> pd.DataFrame:
    """Convert Arrow columns to a pandas frame, each with the type that the table at the top of this module names.

    ``columns`` is emptied: each column is freed when it has been converted, so that a large result is not held twice.
    No integer ever passes through a float, and every value can be written to.
    """
    import pandas as pd

    points = {column for found in triples(list(columns)).values() for column in found}
    made = {}
    for name in list(columns):
        made[name] = _series(name, columns.pop(name), position=name in points)
        free_memory(len(made[name]))
    return pd.DataFrame(made, copy=False)


def free_memory(rows: int) -> None:
    """Return free memory to the system, where so many rows make a difference."""
    if rows > _MANY:
        _release_memory()


def _release_memory() -> None:
    """Return what Arrow keeps after it was freed, and glibc, in which the responses lay."""
    import ctypes
    import sys

    import pyarrow as pa

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


# -- from replies to frames ------------------------------------------------------------------------------------------


def require_once_each(query: Query, reply: Reply) -> None:
    """Raise `ProtocolError` if rows came twice: ids of a table are unique."""
    import pyarrow.compute as pc

    if query.kind != "table" or query.key_name not in reply.table.column_names:
        return
    rows = reply.table.num_rows
    distinct = pc.count_distinct(reply.table.column(query.key_name), mode="all").as_py()
    if distinct < rows:
        what = f"{rows} rows of {query.name!r} with {distinct} ids, so some are there twice"
        raise _wrong(what, reply.url)


def finish(query: Query, reply: Reply, *, in_order: bool = True) -> None:
    """Apply to a complete reply, in place, what the services ignore; give it its units, its order and its columns."""
    units = _units(query, reply)
    if query.filters.get("out"):
        reply.table = _exclude(reply, query)
    if query.thin:
        reply.table = _inside(reply.table, query, units)
    if query.random_sample is not None:
        reply.table = _sample(reply.table, query.random_sample)
    reply.table = scale_positions(reply.table, units, query.resolution)
    order = _order(reply.table, query) if in_order else None
    if order is not None:
        reply.take(order)
    if query.offset or query.limit is not None:
        reply.table = reply.table.slice(query.offset or 0, query.limit)
    if query.select is not None:
        reply.table = _only_selected(reply, query)


def _exclude(reply: Reply, query: Query) -> Any:
    """Leave out what was to be left out: the services accept such filters and ignore them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = reply.table
    for owner, columns in query.filters.get("out", {}).items():
        for column, values in columns.items():
            name = _name_of(table.column_names, query, owner, column)
            if name not in table.column_names:
                raise InvalidQueryError(
                    f"{query.name!r} has no column {column!r} to exclude values of; it has "
                    f"{', '.join(table.column_names)}",
                    service="materialize",
                    url=reply.url,
                )
            listed = values if isinstance(values, list) else [values]
            try:
                unwanted = pa.array(listed).cast(table.column(name).type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                raise InvalidQueryError(
                    f"column {column!r} of {query.name!r} holds {table.column(name).type}, so {values!r} cannot be "
                    f"excluded from it: {error}",
                    service="materialize",
                    url=reply.url,
                ) from None
            table = table.filter(pc.invert(pc.is_in(table.column(name), value_set=unwanted)))
    return table


def _sample(table: Any, number: int) -> Any:
    """Draw rows at random: the services accept the wish for a sample, and give everything."""
    if number >= table.num_rows:
        return table
    import numpy as np
    import pyarrow as pa

    return table.take(pa.array(np.random.default_rng().choice(table.num_rows, size=number, replace=False)))


def _order(table: Any, query: Query) -> Any:
    """Return the order by id, so that the same query has the same result whatever order the parts came in.

    None where the rows are in order. A view without an id is sorted by its columns of ids, from left to right.
    """
    import pyarrow.compute as pc

    keys = [name for name in dict.fromkeys(("id", query.key_name)) if name in table.column_names]
    keys = keys or [name for name in table.column_names if is_id_column(name)]
    if not keys or table.num_rows < 2:
        return None
    values = table.column(keys[0])
    if len(keys) == 1 and pc.all(pc.less_equal(values[:-1], values[1:]), skip_nulls=False).as_py():
        return None
    return pc.sort_indices(table.select(keys), sort_keys=[(name, "ascending") for name in keys])


def _only_selected(reply: Reply, query: Query) -> Any:
    table = reply.table
    points = triples(table.column_names)
    wanted: list[str] = []
    for name in _selected(reply, query):
        if name in points:
            wanted.extend(points[name])
        elif name in table.column_names:
            wanted.append(name)
        else:
            raise InvalidQueryError(
                f"{query.name!r} has no column {name!r}; it has {', '.join(table.column_names)}",
                service="materialize",
                url=reply.url,
            )
    return table.select(list(dict.fromkeys(wanted)))


def _selected(reply: Reply, query: Query) -> Sequence[str]:
    """Return the names that selected columns have in the result; those of two tables may be given by table."""
    if not isinstance(query.select, dict):
        return [str(name) for name in query.select or ()]
    known = [query.name] if query.base is None else [query.name, query.base.name]
    names: list[str] = []
    present = reply.table.column_names
    for owner, columns in query.select.items():
        if owner not in known:
            raise InvalidQueryError(
                f"select_columns names the table {owner!r}, which is not queried; queried are {', '.join(known)}",
                service="materialize",
                url=reply.url,
            )
        for column in columns:
            # the services send it along, and so caveclient returns it
            beside = column.replace("_root_id", "_supervoxel_id")
            found = [_name_of(present, query, owner, name) for name in (beside, column)]
            names += [name for name in found if name in present or name == found[-1]]
    return names


def _units(query: Query, reply: Reply) -> dict[str, tuple[float, ...]]:
    """Return the size in nm of one unit of each point of a response.

    What the service says of a response (its header) matters where it is not what it says of the table.
    """
    units = {}
    for point in triples(reply.table.column_names):
        owner = query.owners.get(point, query.described)
        given = reply.resolution or query.scale or owner.voxel_resolution
        sizes = zip(owner.unit, given, owner.voxel_resolution, strict=True)
        units[point] = tuple(unit if a == b else unit * a / b for unit, a, b in sizes)
    return units


def _inside(table: Any, query: Query, units: Mapping[str, tuple[float, ...]]) -> Any:
    """Leave out rows beyond boxes that are thinner than a voxel, which were requested one voxel wider."""
    import pyarrow.compute as pc

    for (owner, column), (low, high) in query.thin.items():
        name = _name_of(table.column_names, query, owner, column)
        for axis, unit in enumerate(units[name]):
            places = pc.multiply(table.column(f"{name}_{'xyz'[axis]}").cast("float64"), unit)
            tiny = unit * 1e-6
            keep = pc.and_(
                pc.greater_equal(places, low[axis] - tiny), pc.less_equal(places, high[axis] + tiny)
            )
            table = table.filter(keep)
    return table


def _name_of(names: Sequence[str], query: Query, owner: str, column: str) -> str:
    """Return the name that a column of one of two joined tables has in the result."""
    suffix = query.suffixes.get(owner, "") if query.base is not None else ""
    present = {*names, *triples(names)}
    return f"{column}{suffix}" if suffix and f"{column}{suffix}" in present else column


def present(reply: Reply, query: Query) -> Any:
    """Return the frame that a query wants; the reply is used up."""
    if query.return_as != "pandas":
        return _in_arrow(reply.table, query, reply.attrs)
    frame = reply.frame()
    frame.attrs.update(reply.attrs)
    return frame if query.split_positions else join_positions(frame)


def present_frame(frame: pd.DataFrame, query: Query) -> Any:
    """Return a frame with split positions in the shape and of the kind that a query wants."""
    if query.return_as == "pandas":
        return frame if query.split_positions else join_positions(frame)
    import pyarrow as pa

    points = triples(list(frame.columns))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    # pandas cannot tell NaN from null: a scaled point that is missing is NaN by every road, one in voxels is null
    same = (1.0, 1.0, 1.0)
    table = scale_positions(table, dict.fromkeys(points, same), None if query.resolution is None else same)
    return _in_arrow(table, query, frame.attrs)


def _in_arrow(table: Any, query: Query, attrs: Mapping[Any, Any]) -> Any:
    if not query.split_positions:
        table = join_positions_of(table)
    if query.return_as == "arrow":
        # positions that are read out of the table later are in this unit; polars has no place for it
        unit = attrs.get("dataframe_resolution")
        return table.replace_schema_metadata({"dataframe_resolution": json.dumps(unit)})
    import polars as pl  # type: ignore[import-not-found,unused-ignore]

    return pl.from_arrow(table)


def with_valid(table: Any) -> Any:
    """Fill in that every row of a live response is valid: the server leaves that out for newer rows."""
    import pyarrow as pa

    there = table.column_names.index("valid") if "valid" in table.column_names else -1
    column = pa.repeat(pa.scalar(value=True), table.num_rows)
    return table.append_column("valid", column) if there < 0 else table.set_column(there, "valid", column)
