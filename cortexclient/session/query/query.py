"""`Query`: a query of a table or view. It is planned for a moment, completed, and converted to a frame."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from cortexclient.errors import (
    AuthenticationError,
    CortexError,
    IncompleteResultError,
    InvalidQueryError,
    ProtocolError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from cortexclient.session.moment import Moment, fallback_note, moment_of_tables, provenance_of, require_live
from cortexclient.session.query.complete import fetch_all
from cortexclient.session.query.filters import (
    as_columns,
    as_frame_kind,
    as_number,
    as_resolution,
    in_voxels,
    require_columns,
)
from cortexclient.session.query.frames import combine, finish, present
from cortexclient.session.query.tables import TableInfo, column_kinds, columns_of, find_table
from cortexclient.session.query.wire import Reply, request_count, url_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from cortexclient.session.query.filters import Filters
    from cortexclient.session.session import Session
    from cortexclient.session.source import TableSource
    from cortexclient.types import IdArray

__all__ = [
    "NM",
    "Follow",
    "Query",
    "count_rows",
    "fetch_replies",
    "forget_queries",
    "run_queries",
    "run_query",
]

NM = (1.0, 1.0, 1.0)
"""Resolution of positions in nanometres."""

_LONG = 20


_CHECKS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "limit": (None, partial(as_number, name="limit")),
    "offset": (None, partial(as_number, name="offset")),
    "random_sample": (None, partial(as_number, name="random_sample", least=1)),
    "batch": (None, partial(as_number, name="batch_size", least=1)),
    "select": (None, as_columns),
    "resolution": (NM, as_resolution),
    "return_as": ("pandas", as_frame_kind),
}
"""Field of a query -> its usual value, which needs no check, and what reads any other."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a table or view: what the user wants, and after planning how it is sent."""

    name: str  # of a joined pair, the reference table
    kind: Literal["table", "view"] | None = None  # looked up where it is left out
    filters: Filters = field(default_factory=dict)  # boxes are [[x, y, z], [x, y, z]] in nm
    select: Sequence[str] | Mapping[str, Sequence[str]] | None = None  # of a joined pair also by table
    merge_reference: bool = True  # join a reference table with the table that it refers to
    resolution: Sequence[float] | None = NM  # nm of one unit of positions; None for the table's voxels
    split_positions: bool = False  # three columns for each point instead of one with arrays of three
    limit: int | None = None  # the user's own
    offset: int | None = None  # rows to leave out before the limit, in order of ids
    random_sample: int | None = None  # rows to draw at random from the complete result
    moment: Moment | None = None  # another than the session's
    allow_missing_lookups: bool = False  # for live queries, as caveclient has it
    allow_invalid_root_ids: bool = False  # for live queries, as caveclient has it
    batch: int | None = None  # most values of a list filter in one request
    needs: tuple[str, ...] = ()  # columns without which a response cannot be used
    progress: bool = False
    return_as: Literal["pandas", "arrow", "polars"] = "pandas"
    # set by planning
    info: TableInfo | None = None
    base: TableInfo | None = None  # the table that it is joined with
    suffixes: dict[str, str] = field(default_factory=dict)  # by table, for columns that both have
    version: int | None = None  # None for a live query
    timestamp: datetime | None = None  # of a live query
    near: int | None = None  # for a live query, a version that has about as many rows
    columns: tuple[str, ...] | None = None  # to request; None for all
    scale: tuple[float, ...] | None = None  # resolution to request, in nm; None for the table's own
    most: int | None = None  # rows to request
    owners: dict[str, TableInfo] = field(default_factory=dict)
    """Point -> its table, where the two of a joined pair have other units."""
    thin: dict[tuple[str, str], tuple[list[float], list[float]]] = field(default_factory=dict)
    """(table, column) -> box in nm that is applied to the rows of the response."""
    notes: dict[str, Any] = field(default_factory=dict)  # for `df.attrs`

    def __post_init__(self) -> None:
        if self.info is not None:
            return  # planned, and so checked
        for name, (usual, check) in _CHECKS.items():
            if (value := getattr(self, name)) is not usual:
                object.__setattr__(self, name, check(value))

    @property
    def live(self) -> bool:
        """Whether this is a live query."""
        return self.version is None

    @property
    def described(self) -> TableInfo:
        """What the service says of the table or view."""
        if self.info is None:
            raise TypeError("the query is not planned")
        return self.info

    @property
    def countable(self) -> bool:
        """Whether the service can count the rows."""
        return not self.live and self.base is None

    @property
    def key_name(self) -> str:
        """Name that the id of the table itself has in the result."""
        return f"id{self.suffixes.get(self.name, '')}"

    @property
    def keys(self) -> list[str]:
        """Names of the ids that every row of a table has: its own, and that of the table that it is joined with."""
        if self.kind != "table":
            return []
        return [self.key_name] + ([f"id{self.suffixes.get(self.base.name, '')}"] if self.base else [])

    def nearly(self) -> Query:
        """Return a query that can be counted and has as many rows, or about as many; itself where there is none."""
        columns = (name for tables in self.filters.values() for found in tables.values() for name in found)
        estimable = self.near is not None and not any(name.endswith("root_id") for name in columns)
        if self.countable or (self.live and not estimable):
            return self
        filters = {
            kind: {self.name: tables[self.name]}
            for kind, tables in self.filters.items()
            if self.name in tables
        }
        version = self.near if self.live else self.version
        return dataclasses.replace(
            self, base=None, suffixes={}, filters=filters, version=version, timestamp=None, most=None
        )

    def where(self, kind: str, table: str, column: str, value: Any) -> Query:
        """Return the same query with one more filter."""
        filters = {
            name: {key: dict(columns) for key, columns in tables.items()}
            for name, tables in self.filters.items()
        }
        filters.setdefault(kind, {}).setdefault(table, {})[column] = value
        return dataclasses.replace(self, filters=filters)

    def longest_list(self) -> tuple[str, str, list[Any]] | None:
        """Return table, column and values of the longest list that can be split; None where there is none."""
        lists = [
            (table, column, values)
            for table, columns in self.filters.get("in", {}).items()
            for column, values in columns.items()
            if len(values) > 1
        ]
        return max(lists, key=lambda found: len(found[2]), default=None)


@dataclass(frozen=True, slots=True)
class Follow:
    """A query of a table about ids that the rows of other queries contain: `query` is without the filter by those ids.

    ``pick`` takes the number of a query and some of its rows (`pyarrow.Table`, positions split), and returns the ids of
    these rows to query. Every id must be returned once.
    """

    query: Query
    column: str
    size: int
    pick: Callable[[int, Any], IdArray]


# -- running -----------------------------------------------------------------------------------------------------------


def run_query(session: Session, query: Query) -> Any:
    """Return the complete result of a query as a frame, in ascending order of ids; ``df.attrs`` says where it is from.

    Raises
    ------
    UnknownTableError
        If there is no such table or view.
    InvalidQueryError
        If a filter or column does not fit the table.
    IncompleteResultError
        If the service truncates a response and it cannot be completed.
    ServiceError
        For every other failure.
    """
    return run_queries(session, [query])[0]


def run_queries(session: Session, queries: Sequence[Query], *, description: str = "") -> list[Any]:
    """Return the results of several queries as frames; all their requests share one progress bar."""
    replies = fetch_replies(session, queries, description=description)
    return [present(reply, query) for query, reply in zip(queries, replies, strict=True)]


def fetch_replies(
    session: Session,
    queries: Sequence[Query],
    *,
    following: Sequence[Follow] = (),
    description: str = "",
    in_order: bool = True,
) -> list[Reply]:
    """Return the complete results of several queries, and of those that follow from their rows, as Arrow.

    With ``in_order=False`` the rows of `queries` are left in any order, for a caller that will sort them. Errors are
    those of `run_query`.
    """
    planned = [plan(session, query) for query in queries]
    follows = [dataclasses.replace(follow, query=plan(session, follow.query)) for follow in following]
    every = [*planned, *(follow.query for follow in follows)]
    tables = session.tables
    if tables is not None and every and all(map(tables.holds, every)):
        source, replies = str(tables.path), _from_store(session, tables, planned, follows)
    else:
        source = "server"
        try:
            replies = fetch_all(session, planned, following=follows, description=description)
        except (ServiceError, IncompleteResultError) as error:
            raise _explained(session, every, error) from None
    for number, (query, reply) in enumerate(zip(every, replies, strict=True)):
        finish(query, reply, in_order=in_order or number >= len(queries))
        reply.attrs = {**_attrs(session, query, reply), "source": source}
    return replies


def _from_store(
    session: Session, tables: TableSource, queries: Sequence[Query], follows: Sequence[Follow]
) -> list[Reply]:
    """Return the replies of a store that holds every table of some queries."""
    import numpy as np

    def reply(query: Query) -> Reply:
        rows = combine([tables.rows(query)], lambda: column_kinds(session, query.described))
        return Reply(rows, requests=0, url=str(tables.path))

    replies = session.map(reply, queries)
    for follow in follows:
        picked = [follow.pick(number, found.table) for number, found in enumerate(replies[: len(queries)])]
        ids = np.unique(np.concatenate([np.asarray(some, dtype=np.int64) for some in picked])).tolist()
        replies.append(reply(follow.query.where("in", follow.query.name, follow.column, ids)))
    return replies


def count_rows(session: Session, query: Query) -> int:
    """Count the rows that match a query, whatever its limit: on the server where it can, else by fetching ids."""
    # a number of rows has no unit, and points of two tables may have no voxels in common
    every = dataclasses.replace(query, limit=None, offset=None, random_sample=None, resolution=NM)
    planned = plan(session, every)
    stored = session.tables is not None and session.tables.holds(planned)
    # the service ignores exclusions when it counts, too
    if not planned.filters.get("out") and not planned.thin and not stored:
        try:
            counted = request_count(session, dataclasses.replace(planned, columns=None))
        except ServiceError as error:
            raise _explained(session, [planned], error) from None
        if counted is not None:
            return counted
    ids = ["id"] if planned.kind == "table" else None
    bare = dataclasses.replace(every, select=ids, split_positions=True, progress=False, return_as="arrow")
    rows: int = run_query(session, bare).num_rows
    return rows


def forget_queries(session: Session, queries: Sequence[Query]) -> None:
    """Remove the responses of some queries from the cache, because their rows cannot be used."""
    if session.connection.cache is not None:
        _forget(session, [plan(session, query) for query in queries])


def _forget(session: Session, planned: Sequence[Query]) -> None:
    if session.connection.cache is not None:
        for query in planned:
            session.connection.cache.forget_path(urlsplit(url_of(session, query)).path)


def _explained(session: Session, queries: Sequence[Query], error: CortexError) -> CortexError:
    """Return an error about queries as what a service refused them for, where that can be found out.

    If the responses are wrong, all of them are removed from the cache: one of them is, at least.
    """
    if isinstance(error, IncompleteResultError | ProtocolError):
        _forget(session, queries)
    known = (IncompleteResultError, AuthenticationError, ServiceTimeoutError, ServiceUnavailableError)
    if isinstance(error, known) or not isinstance(error, ServiceError):
        return error
    from cortexclient.session.query.advice import explain

    return explain(session, error, queries) or error


# -- planning ----------------------------------------------------------------------------------------------------------


def plan(session: Session, query: Query) -> Query:
    """Plan a query: at which version, with which join, boxes in voxels, which columns."""
    if query.select is not None:
        require_columns(session, query.select)
    version, timestamp, notes = _resolve_moment(session, query)
    at = version if version is not None else session.at(timestamp=timestamp).version
    info = _metadata_of(session, query, version, at)
    found: dict[str, Any] = {"kind": info.kind, "info": info, "version": version}
    if version is None:
        _require_table(session, info, timestamp, at)
        found |= {"timestamp": timestamp, "near": at}
    filters = query.filters
    thin: dict[tuple[str, str], Any] = {}
    if filters.get("spatial"):
        filters, thin = in_voxels(session, filters, at)
    if info.kind == "table" and query.merge_reference and info.reference_table:
        found |= _joined(session, query, info, at)
    elif query.select is not None:
        found["columns"] = _columns_needed(session, query, info, query.select, thin, live=version is None)
    if filters.get("in"):
        filters = _with_lists(session, info, filters)
    # rows after an offset are only defined in the order of ids, which no service keeps; exclusions, samples and boxes
    # thinner than a voxel are made here
    needs_all = query.offset is not None or query.random_sample is not None or filters.get("out") or thin
    found |= {"filters": filters, "thin": thin, "most": None if needs_all else query.limit}
    return dataclasses.replace(query, **found, notes={"filters": _short(query.filters), **notes})


def _require_table(session: Session, info: TableInfo, timestamp: Any, version: int) -> None:
    """Raise `InvalidQueryError` if a view is to be queried at a time."""
    if info.kind == "view":
        raise session.error(
            InvalidQueryError,
            "materialize",
            f"{info.name!r} is a view, and views exist at versions only, not at {timestamp}; ask at a version "
            f"(client.at(version={version}))",
        )


def _metadata_of(session: Session, query: Query, version: int | None, at: int) -> TableInfo:
    """Describe the table or view of a query; without a request where its rows say what matters of it: their unit."""
    plain = not query.merge_reference and query.resolution is None and not query.filters.get("spatial")
    if plain and query.kind is not None and version is not None and session.tables is None:
        units = session.spec.table_unit(query.name)
        return TableInfo(query.name, query.kind, "", NM, None, None, {}, units=units, version=version)
    return find_table(session, query.name, kind=query.kind, version=at)


def _joined(session: Session, query: Query, info: TableInfo, at: int) -> dict[str, Any]:
    """Plan how a reference table is joined with the table that it refers to."""
    base = find_table(session, info.reference_table or "", kind="table", version=at)
    suffixes = {info.name: "_ref", base.name: ""}
    owners = _owners(session, info, base, suffixes)
    scale = _exact_scale(session, query, owners) if owners else None
    return {"base": base, "suffixes": suffixes, "owners": owners, "scale": scale}


def _resolve_moment(session: Session, query: Query) -> tuple[int | None, Any, dict[str, Any]]:
    """Return the version or the time to query, and what `df.attrs` should say about the choice."""
    moment = query.moment or moment_of_tables(session)
    if moment.timestamp is not None:
        frozen = session.frozen_version(moment.timestamp)
        if frozen is None:
            require_live(session, moment.timestamp)
        return frozen, moment.timestamp, {}
    version = moment.version if moment.version is not None else session.version
    if session.version_fallback and (notes := fallback_note(session, moment)):
        return None, session.version_record(version).timestamp, notes
    return version, None, {}


def _owners(
    session: Session, info: TableInfo, base: TableInfo, suffixes: dict[str, str]
) -> dict[str, TableInfo]:
    """Return the table that each point of a joined result is of, where it matters: the two have other units."""
    if (info.unit, info.voxel_resolution) == (base.unit, base.voxel_resolution):
        return {}
    points = {
        table.name: {name for name, kind in columns_of(session, table).items() if kind == "point"}
        for table in (info, base)
    }
    shared = points[info.name] & points[base.name]
    return {
        f"{name}{suffixes.get(table.name, '')}" if name in shared else name: table
        for table in (info, base)
        for name in points[table.name]
    }


def _exact_scale(session: Session, query: Query, owners: dict[str, TableInfo]) -> tuple[float, ...]:
    """Return the resolution to request, so that the service scales nothing, or by whole numbers only.

    The services cut scaled positions toward zero, so no other units than those of the table are ever requested. Only
    a join of two tables with different units comes in one of them, whatever is requested; in the greatest size that
    divides both, nothing is cut.
    """
    if query.resolution is None and len({table.unit for table in owners.values()}) > 1:
        names = " and ".join(sorted({f"{table.name} {list(table.unit)}" for table in owners.values()}))
        raise session.error(
            InvalidQueryError,
            "materialize",
            f"the points of {names} have no voxels in common; ask with desired_resolution=, such as [1, 1, 1] for nm",
        )
    sizes = {table.voxel_resolution for table in owners.values()}
    return tuple(_common_divisor({size[axis] for size in sizes}) for axis in range(3))


def _common_divisor(sizes: set[float]) -> float:
    fractions = [Fraction(size).limit_denominator(1_000_000) for size in sizes]
    below = math.lcm(*(fraction.denominator for fraction in fractions))
    return float(Fraction(math.gcd(*(int(fraction * below) for fraction in fractions)), below))


def _with_lists(session: Session, info: TableInfo, filters: Filters) -> Filters:
    """Return filters whose lists have no value twice; ones that no row passes where a list is empty."""
    lists: dict[str, dict[str, Any]] = {}
    for table, columns in filters["in"].items():
        for column, values in columns.items():
            if not values:
                return _no_rows(session, info, table, column)
            lists.setdefault(table, {})[column] = list(dict.fromkeys(values))
    return {**filters, "in": lists}


def _no_rows(session: Session, info: TableInfo, table: str, column: str) -> Filters:
    """Return filters that no row passes: a service would take an empty list for no filter.

    The query is sent all the same, for the columns.
    """
    if info.kind == "table":
        return {"equal": {info.name: {"id": -1}}}
    kinds = column_kinds(session, info)
    if kinds.get("id") == "integer":
        return {"equal": {table: {"id": -1}}}
    if kinds.get(column) not in {"string", "integer"}:
        column = next(
            (name for name, kind in kinds.items() if kind == "integer" and name[-2:-1] != "_"), column
        )
    return {"equal": {table: {column: "no value" if kinds.get(column) == "string" else -1}}}


def _columns_needed(
    session: Session,
    query: Query,
    info: TableInfo,
    select: Any,
    thin: Mapping[tuple[str, str], Any],
    *,
    live: bool,
) -> tuple[str, ...]:
    """Return the columns to request: those selected, and those that are looked at here."""
    names = select.values() if isinstance(select, dict) else [select]
    needed = [str(name) for some in names for name in some] + [column for _, column in thin]
    for kind, tables in query.filters.items():
        # a live service filters once more after it has looked up the roots, among the columns that it selected
        if kind == "out" or (live and kind != "spatial"):
            needed.extend(column for columns in tables.values() for column in columns)
    if info.kind == "table":
        needed = ["id", *needed]  # rows are distinguished and ordered by it
    if len(set(needed)) == 1:  # the service cannot select one column alone
        others = ["valid"] if info.kind == "table" else columns_of(session, info)
        needed += [name for name in others if name not in needed][:1]
    return tuple(dict.fromkeys(needed))


# -- what a frame says of itself ---------------------------------------------------------------------------------------


def _attrs(session: Session, query: Query, reply: Reply) -> dict[str, Any]:
    """Return where rows are from. Plain values only, and few: pandas copies them at every step."""
    info = query.described
    prefix = session.spec.position_prefix_of(info.name, synapse_table=session.synapse_table)
    own = next(iter({table.unit for table in query.owners.values()}), info.unit)
    if not info.metadata:
        own = info.units or reply.resolution or own
    return {
        **provenance_of(session, Moment(version=query.version, timestamp=query.timestamp)),
        "table_name": info.name,
        "table_kind": info.kind,
        "reference_table": info.reference_table,
        "position_column": None if prefix is None else f"{prefix}_position",
        "table_voxel_resolution": list(own),
        "dataframe_resolution": list(query.resolution or own),
        "live_query": query.live,
        **query.notes,
        "select_columns": query.select,
        "limit": query.limit,
        "offset": query.offset,
        "complete": query.limit is None and query.random_sample is None and not query.offset,
        "requests": reply.requests,
    }


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items() if entry}
    if isinstance(value, list) and len(value) > _LONG:
        return f"{len(value)} values"
    return value
