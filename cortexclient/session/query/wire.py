"""One request to the materialization service, and one reply: how a `Query` is written, and how Arrow is read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cortexclient.session.http import unreadable
from cortexclient.session.query.frames import combine, free_memory, is_id_column, to_pandas, triples

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from requests import Response

    from cortexclient.errors import ProtocolError
    from cortexclient.session.query.query import Query
    from cortexclient.session.session import Session

__all__ = ["FILTERS", "Reply", "concat_replies", "request_count", "request_rows", "url_of"]

FILTERS = {
    "in": "filter_in_dict",
    "out": "filter_notin_dict",
    "equal": "filter_equal_dict",
    "greater": "filter_greater_dict",
    "less": "filter_less_dict",
    "greater_equal": "filter_greater_equal_dict",
    "less_equal": "filter_less_equal_dict",
    "spatial": "filter_spatial_dict",
    "regex": "filter_regex_dict",
}
"""Kinds of filters, and the names they have on the wire."""

_CERTAIN_ID = re.compile(r"^(id|target_id|super[cs]eded_id)(_ref)?$|_(root|supervoxel)_id(_ref)?$")
"""Columns that hold ids in every table; other names that end in ``_id`` may be text of somebody's schema."""

_POSITION = re.compile(r"(^|_)position(_ref)?_[xyz]$")

_LIMIT = re.compile(r"Limited query to (\d+) rows|than limit of (\d+)")

_LARGE = 1_000_000
"""Bytes of a response from which on threads pay for unpacking its columns."""

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""The end-of-stream mark of Arrow."""


@dataclass(slots=True)
class Reply:
    """The rows of one response, or of all the responses that make up a complete result."""

    table: Any  # pyarrow.Table, every column of its lasting type, positions split
    row_limit: int | None = None  # rows at which the server says that it stopped
    resolution: tuple[float, ...] | None = None  # nm of one unit of the positions, as the server says
    requests: int = 1  # that it took
    url: str = ""  # where the rows are from, for messages
    attrs: dict[str, Any] = field(default_factory=dict)  # where the rows are from, for `df.attrs`

    def take(self, order: Any) -> None:
        """Keep the rows of these places, in this order; one column at a time, so that nothing is held twice."""
        import pyarrow as pa

        columns = self._columns()
        for name in columns:
            columns[name] = columns[name].take(order)
            free_memory(len(order))
        self.table = pa.table(columns)

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame with stable types; the reply is used up."""
        return to_pandas(self._columns())

    def _columns(self) -> dict[str, Any]:
        columns = dict(zip(self.table.column_names, self.table.columns, strict=True))
        self.table = None
        return columns


def request_rows(session: Session, query: Query) -> Reply:
    """Request the rows of a planned query once; raise `ProtocolError` if the response cannot be read."""
    response = _post(session, query)
    table = _read(response)
    if wrong := _wrong_rows(query, table) or (_wrong_types(table) if query.kind == "table" else ""):
        raise _unreadable(response, f"sent rows of {query.name!r} {wrong}")
    return Reply(table, _row_limit(response), _resolution(response), url=url_of(session, query))


def request_count(session: Session, query: Query) -> int | None:
    """Request how many rows a planned query has; None where the service cannot count (joins and live queries)."""
    if not query.countable:
        return None
    response = _post(session, query, count="True")
    table = _read(response)
    is_one = table.column_names == ["count"] and table.num_rows == 1
    number = table.column("count")[0].as_py() if is_one else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        found = repr(number) if is_one else f"{table.num_rows} rows of {', '.join(table.column_names)}"
        raise _unreadable(response, f"counted {found[:100]}, which is no number of rows")
    return number


def url_of(session: Session, query: Query) -> str:
    """Return the address of a planned query."""
    start = f"{session.local_server}/materialize/api/v3/datastack/{session.datastack}"
    if query.live:
        return f"{start}/query"
    start = f"{start}/version/{query.version}"
    if query.base is not None:
        return f"{start}/query"
    return f"{start}/{'views' if query.kind == 'view' else 'table'}/{query.name}/query"


_ARROW = {"return_pyarrow": "True", "arrow_format": "True", "direct_sql_pandas": "True"}


def _post(session: Session, query: Query, **params: str) -> Response:
    body: dict[str, Any] = {FILTERS[kind]: tables for kind, tables in query.filters.items() if tables}
    params |= _ARROW
    if query.live:
        params |= _live_params(query)
        body |= _live_body(query)
    else:
        params["split_positions"] = "True"
        if query.base is not None:
            body |= _joined_body(query.name, query.base.name, query.suffixes)
    if query.columns is not None and query.base is None:
        body["select_columns"] = {query.name: list(query.columns)} if query.live else list(query.columns)
    if query.most is not None:
        body["limit"] = query.most
    if query.scale is not None:
        body["desired_resolution"] = list(query.scale)
    url, headers = url_of(session, query), {"Accept-Encoding": "zstd"}
    return session.http.send("materialize", "POST", url, params=params, body=body, headers=headers)


def _joined_body(name: str, base: str, suffixes: dict[str, str]) -> dict[str, Any]:
    return {"tables": [[name, "target_id"], [base, "id"]], "suffix_map": suffixes}


def _live_params(query: Query) -> dict[str, str]:
    return {
        "merge_reference": "False",
        "allow_missing_lookups": str(query.allow_missing_lookups),
        "allow_invalid_root_ids": str(query.allow_invalid_root_ids),
    }


def _live_body(query: Query) -> dict[str, Any]:
    if query.timestamp is None:
        raise ValueError("a query needs a version or a timestamp")
    body: dict[str, Any] = {"table": query.name, "timestamp": query.timestamp.isoformat()}
    if query.base is not None:
        body["join_tables"] = [[query.name, "target_id", query.base.name, "id"]]
        body["suffixes"] = query.suffixes
    return body


def _unreadable(response: Response, what: str) -> ProtocolError:
    return unreadable(response, f"{what}; try again, and if it lasts, check the server address")


def _read(response: Response) -> Any:
    """Read an Arrow stream, which must be complete, valid, and of types that can be converted."""
    import pyarrow as pa

    kind = response.headers.get("Content-Type", "no content type")
    if response.status_code != 200 or not kind.startswith("data.arrow"):
        what = f"status {response.status_code} and {kind or 'no content type'} instead of Arrow data"
        raise _unreadable(response, f"answered {what} (it may be older than 5.13)")
    body = response.content
    if not body.endswith(_END):
        # without this mark, pyarrow takes a stream that broke off between two batches for a complete one
        raise _unreadable(response, "sent a response that broke off")
    options = pa.ipc.IpcReadOptions(use_threads=len(body) >= _LARGE)
    try:
        with pa.ipc.open_stream(body, options=options) as reader:
            table = reader.read_all()
        # damaged offsets would read other memory, or crash the interpreter
        table.validate(full=True)
        return _typed(table)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise _unreadable(response, f"sent a response that cannot be read ({str(error)[:150]})") from None


def _wrong_rows(query: Query, table: Any) -> str:
    """Say which column a response lacks that it must have, or which rows were not requested; empty if all is well."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists: dict[str, Any] = {}
    if query.base is None and query.columns is None and not query.allow_invalid_root_ids:
        lists = query.filters.get("in", {}).get(query.name, {})
    filtered = {name: values for name, values in lists.items() if is_id_column(name)}
    names = {*table.column_names, *triples(table.column_names)}
    missing = sorted({*query.needs, *query.keys, *(query.columns or ()), *filtered} - names)
    if missing or not names:
        return f"without column {missing[0]!r}" if missing else "without columns"
    for name in query.keys:
        if table.column(name).null_count:
            return f"whose {name!r} is missing"
    for name, values in filtered.items():
        column = table.column(name)
        if pa.types.is_integer(column.type) and pc.any(pc.invert(pc.is_in(column, pa.array(values)))).as_py():
            return f"with values of {name!r} that were not asked for"
    return ""


def _wrong_types(table: Any) -> str:
    """Say what no table has: a list, a ``valid`` that is no truth value, a part of a position; empty if all is well."""
    import pyarrow as pa

    points = triples(table.column_names)
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        if _POSITION.search(name) and name[:-2] not in points:
            return f"with {name!r} alone, an axis of a position"
        odd = name in {"valid", "valid_ref"} and not (pa.types.is_boolean(kind) or pa.types.is_null(kind))
        if odd or pa.types.is_list(kind):
            return f"whose {name!r} holds {kind}"
    return ""


def _row_limit(response: Response) -> int | None:
    """Return the row limit at which the server truncated this response, from its ``Warning`` header; else None."""
    match = _LIMIT.search(" ".join(response.headers.get("Warning", "").split()))
    return int(match.group(1) or match.group(2)) if match else None


def _resolution(response: Response) -> tuple[float, ...] | None:
    text = response.headers.get("dataframe_resolution")
    if not text:
        return None
    try:
        sizes = tuple(float(part) for part in text.strip("[] ").split(","))
    except ValueError:
        return None
    return sizes if len(sizes) == 3 and all(0 < size < math.inf for size in sizes) else None


# -- types ------------------------------------------------------------------------------------------------------


def _typed(table: Any) -> Any:
    """Convert every column of a validated response to its lasting type, exactly; leave out the index of a frame.

    The types are int64, float64, bool, string, timestamp[ns, UTC], dates, lists of these, or null where nothing
    is known.
    Raise `ValueError` if a column comes twice, has another type, holds ids as floats, or numbers that do not fit.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in columns:
            raise ValueError(f"column {name!r} comes twice")
        try:
            if not name.startswith("__index_level_"):
                columns[name] = _typed_column(name, column)
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"column {name!r} cannot be converted ({str(error)[:100]})") from None
    return pa.table(columns) if columns else table.select([])


def _typed_column(name: str, column: Any) -> Any:
    import pyarrow as pa

    is_type, kind = pa.types, column.type
    if is_type.is_dictionary(kind):
        return _typed_column(name, column.cast(kind.value_type))
    if is_type.is_large_string(kind) or kind == pa.string_view():
        return _typed_column(name, column.cast(pa.string()))
    # an id of somebody's own schema may be text, or missing everywhere
    other_id = is_id_column(name) and not is_type.is_string(kind) and column.null_count < len(column)
    if _CERTAIN_ID.search(name) or _POSITION.search(name) or other_id:
        return _whole_numbers(name, column)
    if is_type.is_timestamp(kind):
        return column.cast(pa.timestamp("ns", tz="UTC"))  # what a view sends has no zone, and is UTC
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
    is_id, is_float = is_id_column(name), is_type.is_floating(kind)
    if is_type.is_integer(kind) or is_type.is_decimal(kind) or (is_id and is_type.is_string(kind)):
        return column.cast(pa.int64())
    if is_float and not is_id:
        return column.cast(pa.float64())
    why = " instead of coordinates" if not is_id else ", in which ids lose digits" if is_float else ""
    raise ValueError(f"column {name!r} holds {kind}{why}")


def concat_replies(replies: Sequence[Reply]) -> Reply:
    """Return replies about one table as one, the rows one after the other; the replies are used up."""
    first = replies[0]
    if len(replies) > 1:
        tables = [reply.table for reply in replies]
        for reply in replies:
            reply.table = None
        first.table = combine(tables, url=first.url)
    return first
