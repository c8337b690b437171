"""Queries: from filters to a complete frame, at the session's moment."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from cortexclient.errors import (
    AuthenticationError,
    InvalidQueryError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from cortexclient.session.moment import Moment, nearest
from cortexclient.session.query.advice import expired, misnamed, stale
from cortexclient.session.query.arguments import as_columns, as_frame_kind, as_number, as_resolution
from cortexclient.session.query.complete import Following, fetch_all
from cortexclient.session.query.filters import columns_of
from cortexclient.session.query.metadata import TableInfo, column_kinds, find
from cortexclient.session.query.question import Filters, Question
from cortexclient.session.query.results import Answer, assemble
from cortexclient.session.query.wire import ask_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from cortexclient.session.session import Session
    from cortexclient.types import IdArray

__all__ = [
    "NM",
    "Answer",
    "Follow",
    "Request",
    "count",
    "fallback_note",
    "gather",
    "moment_of_tables",
    "run",
    "run_many",
]

NM = (1.0, 1.0, 1.0)
"""Resolution of positions in nanometres."""


@dataclass(frozen=True, slots=True)
class Request:
    """A query as a user states it.

    Parameters
    ----------
    name : str
        Table or view.
    kind : {"table", "view"}, optional
        Which of the two; looked up where it is left out.
    filters : dict
        kind -> table -> column -> value (kinds of `cortexclient.session.query.question.FILTERS`). Boxes are
        ``[[x, y, z], [x, y, z]]`` in nm.
    select : sequence of str, or dict, optional
        Columns wanted; of a joined pair also table -> columns of it.
    merge_reference : bool
        Join a reference table with the table that it points at.
    suffixes : dict, optional
        table -> suffix for columns that both have. Default: ``_ref`` for the reference table.
    resolution : sequence of float or None
        nm of one unit of the positions that come back; None for the table's own voxels.
    split_positions : bool
        Three columns for each point, instead of one with arrays of three.
    limit, offset : int, optional
        The user's own limit, and rows to leave out before it (in order of ids).
    random_sample : int, optional
        Number of rows to draw at random from the whole answer.
    moment : Moment, optional
        Another moment than the session's.
    allow_missing_lookups, allow_invalid_root_ids : bool
        For live queries, as caveclient has them.
    batch : int, optional
        Most values of a list filter in one request.
    progress : bool
        Show a bar.
    return_as : {"pandas", "arrow", "polars"}
        Kind of frame.
    """

    name: str
    kind: Literal["table", "view"] | None = None
    filters: Filters = field(default_factory=dict)
    select: Sequence[str] | Mapping[str, Sequence[str]] | None = None
    merge_reference: bool = True
    suffixes: dict[str, str] | None = None
    resolution: Sequence[float] | None = NM
    split_positions: bool = False
    limit: int | None = None
    offset: int | None = None
    random_sample: int | None = None
    moment: Moment | None = None
    allow_missing_lookups: bool = False
    allow_invalid_root_ids: bool = False
    batch: int | None = None
    progress: bool = False
    return_as: Literal["pandas", "arrow", "polars"] = "pandas"

    def __post_init__(self) -> None:
        checked = {
            "select": as_columns(self.select),
            "resolution": as_resolution(self.resolution),
            "limit": as_number(self.limit, "limit"),
            "offset": as_number(self.offset, "offset"),
            "random_sample": as_number(self.random_sample, "random_sample", least=1),
            "batch": as_number(self.batch, "batch_size", least=1),
            "return_as": as_frame_kind(self.return_as),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def bare(self) -> bool:
        """Whether nothing of the table's metadata is needed to ask: no join, no units, no boxes."""
        return (
            self.kind is not None
            and not self.merge_reference
            and self.resolution is None
            and not self.filters.get("spatial")
        )


@dataclass(frozen=True, slots=True)
class Follow:
    """A query about the ids that the answers to others bring, asked while those are still coming.

    Parameters
    ----------
    request : Request
        The query, without the filter by those ids; of a table.
    column : str
        Column that holds the ids.
    size : int
        Most ids in one request.
    pick : callable
        Takes the number of a query and rows of its answer (`pyarrow.Table`, positions split); gives the ids of these
        rows to ask about. Every id must be given once.
    """

    request: Request
    column: str
    size: int
    pick: Callable[[int, Any], IdArray]


def run(session: Session, request: Request) -> Any:
    """Answer a request with a complete frame.

    Returns
    -------
    pandas.DataFrame, pyarrow.Table or polars.DataFrame
        Rows in ascending order of ids. ``df.attrs`` says where and from when they are.

    Raises
    ------
    UnknownTableError
        If there is no such table or view.
    InvalidQueryError
        If a filter or column does not fit the table.
    IncompleteResultError
        If the service cuts the answer and it cannot be completed.
    ServiceError
        For every other failure.
    """
    return run_many(session, [request])[0]


def run_many(session: Session, requests: Sequence[Request], *, description: str = "") -> list[Any]:
    """Answer several requests at once, all their parts sharing the session's pool and one progress bar."""
    return [answer.present() for answer in gather(session, requests, description=description)]


def gather(
    session: Session,
    requests: Sequence[Request],
    *,
    following: Sequence[Follow] = (),
    description: str = "",
    in_order: bool = True,
) -> list[Answer]:
    """Answer several requests at once, and those that follow from their answers; leave the answers as Arrow.

    With ``in_order=False`` the rows of `requests` are left as they came, for a caller that will sort them itself.
    """
    every = [*requests, *(follow.request for follow in following)]
    plans = _plans(session, every)
    with _explained(session, [question for _, question, _ in plans]):
        harvests = fetch_all(
            session,
            [question for _, question, _ in plans[: len(requests)]],
            following=[
                Following(question, info.name, follow.column, follow.size, follow.pick)
                for follow, (info, question, _) in zip(following, plans[len(requests) :], strict=True)
            ],
            progress=any(request.progress for request in every),
            description=description or ", ".join(dict.fromkeys(request.name for request in requests)),
        )
    return [
        assemble(
            session, request, info, question, harvest, notes, in_order=in_order or number >= len(requests)
        )
        for number, (request, (info, question, notes), harvest) in enumerate(
            zip(every, plans, harvests, strict=True)
        )
    ]


@contextlib.contextmanager
def _explained(session: Session, questions: Sequence[Question]) -> Iterator[None]:
    """Raise what a service refused inside the block as what it was refused for, where that can be told."""
    try:
        yield
    except (AuthenticationError, ServiceTimeoutError, ServiceUnavailableError):
        raise
    except ServiceError as error:
        raise (
            expired(session, error, {question.version for question in questions})
            or stale(session, error, questions)
            or misnamed(session, error, questions)
            or error
        ) from None


def _plans(session: Session, requests: Sequence[Request]) -> list[tuple[TableInfo, Question, dict[str, Any]]]:
    """Plan all requests; what is known of a table after the first about it is not worth a thread."""
    first: dict[Any, Request] = {}
    for request in requests:
        first.setdefault((request.name, request.moment), request)
    made = session.map(lambda request: (request, plan(session, request)), first.values())
    known = {id(request): planned for request, planned in made}
    return [known.get(id(request)) or plan(session, request) for request in requests]


def plan(session: Session, request: Request) -> tuple[TableInfo, Question, dict[str, Any]]:
    """Work out the question for a request: which version, which join, boxes in voxels, columns needed."""
    version, timestamp, notes = resolve_moment(session, request)
    if request.bare and version is not None:
        info = TableInfo(request.name, request.kind or "table", "", NM, None, None, {}, version=version)
        return info, _question(session, request, info, None, version, None, None), notes
    metadata_version = version if version is not None else session.at(timestamp=timestamp).version
    info = find(session, request.name, kind=request.kind, version=metadata_version)
    if info.kind == "view" and version is None:
        raise InvalidQueryError(
            f"{info.name!r} is a view, and views exist at versions only, not at {timestamp}; ask at a version "
            f"(client.at(version={metadata_version}))",
            service="materialize",
        )
    base = None
    if info.kind == "table" and request.merge_reference and info.reference_table:
        base = find(session, info.reference_table, kind="table", version=metadata_version)
    near = None if version is not None else metadata_version
    return info, _question(session, request, info, base, version, timestamp, near), notes


def _question(
    session: Session,
    request: Request,
    info: TableInfo,
    base: TableInfo | None,
    version: int | None,
    timestamp: datetime | None,
    near: int | None,
) -> Question:
    suffixes = request.suffixes or ({info.name: "_ref", base.name: ""} if base else {})
    owners = {} if base is None else _owners(session, info, base, suffixes)
    filters, thin = _in_voxels(session, request.filters, version if version is not None else near)
    columns = _columns_needed(request, info, base, live=version is None)
    if columns is not None:
        columns = tuple(dict.fromkeys([*columns, *(column for _, column in thin)]))
    question = Question(
        kind=info.kind,
        name=info.name,
        base=None if base is None else base.name,
        filters=_nothing(session, info, filters),
        select=columns,
        suffixes=tuple(suffixes.items()) if base else (),
        resolution=_exact_resolution(request, owners),
        limit=request.limit,
        version=version,
        timestamp=timestamp if version is None else None,
        allow_missing_lookups=request.allow_missing_lookups,
        allow_invalid_root_ids=request.allow_invalid_root_ids,
        near=near,
        batch=request.batch,
        owners=owners,
        thin=thin,
    )
    return dataclasses.replace(question, limit=None) if _needs_all(request, question) else question


def _owners(
    session: Session, info: TableInfo, base: TableInfo, suffixes: dict[str, str]
) -> dict[str, TableInfo]:
    """Return the table that each point of a joined answer is of, where it matters: the two have other units."""
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


def _exact_resolution(request: Request, owners: dict[str, TableInfo]) -> tuple[float, ...] | None:
    """Return the resolution to ask for, so that the service scales nothing, or by whole numbers only.

    The services cut scaled positions toward zero, so they are never asked for other units than those of the table. Only
    a join of two tables with different units comes in one of them, whatever is asked; in the greatest size that divides
    both, nothing is cut.
    """
    if not owners:
        return None
    if request.resolution is None and len({table.unit for table in owners.values()}) > 1:
        names = " and ".join(sorted({f"{table.name} {list(table.unit)}" for table in owners.values()}))
        raise InvalidQueryError(
            f"the points of {names} have no voxels in common; ask with desired_resolution=, such as [1, 1, 1] for nm",
            service="materialize",
        )
    sizes = {table.voxel_resolution for table in owners.values()}
    return tuple(_common_divisor({size[axis] for size in sizes}) for axis in range(3))


def _common_divisor(sizes: set[float]) -> float:
    fractions = [Fraction(size).limit_denominator(1_000_000) for size in sizes]
    below = math.lcm(*(fraction.denominator for fraction in fractions))
    return float(Fraction(math.gcd(*(int(fraction * below) for fraction in fractions)), below))


def _needs_all(request: Request, question: Question) -> bool:
    """Whether the whole answer is asked for although fewer rows are wanted.

    Rows after an offset are only defined in the order of ids, which no service keeps; exclusions and samples are
    accepted and ignored by the services, so both are made here, as is a box that is thinner than a voxel.
    """
    return (
        request.offset is not None
        or request.random_sample is not None
        or bool(request.filters.get("out") or question.thin)
    )


def resolve_moment(session: Session, request: Request) -> tuple[int | None, Any, dict[str, Any]]:
    """Give version or timestamp to ask at, and what `df.attrs` should say about the choice."""
    moment = request.moment or session.moment
    if moment.timestamp is not None:
        frozen = session.frozen_version(moment.timestamp)
        if frozen is not None:
            return frozen, moment.timestamp, {}
        _require_live(session, moment.timestamp)
        return None, moment.timestamp, {}
    version = moment.version if moment.version is not None else session.version
    notes = fallback_note(session, moment)
    return (None, session.version_record(version).timestamp, notes) if notes else (version, None, {})


def moment_of_tables(session: Session) -> Moment:
    """Return the moment at which tables are read where the caller names none.

    This is the rule of the whole package: a pinned session reads at its own moment, a floating one reads the version
    that its spec names or else the newest. Versions are complete and never change, so that two methods of one client
    give the same rows. What was made after that version is there in a live query only, which has to be asked for.
    """
    return session.moment if session.pinned else Moment(version=session.version)


def fallback_note(session: Session, moment: Moment | None) -> dict[str, str]:
    """Say, for ``df.attrs``, that a moment's version has expired and is answered at its time; empty where it is not."""
    if moment is None or moment.version is None or not session.version_fallback:
        return {}
    if session.version_record(moment.version).valid:
        return {}
    note = f"version {moment.version} has expired; answered by a live query at its timestamp"
    return {"version_fallback": note}


def _require_live(session: Session, at: datetime) -> None:
    """Say that tables are asked at versions only, where the spec declares so, and which version is the nearest."""
    if not session.spec.denies("live"):
        return
    near = nearest(session.versions(), at)
    instead = ""
    if near is not None:
        froze = f"{near.timestamp:%Y-%m-%d %H:%M} UTC"
        instead = f"ask at a version, client.at(version={near.version}) is the nearest (of {froze})"
    session.spec.require_capability("live", feature=f"a query at {at.isoformat()}", instead=instead)


def _in_voxels(
    session: Session, filters: Filters, version: int | None
) -> tuple[Filters, dict[tuple[str, str], tuple[list[float], list[float]]]]:
    """Return the filters with boxes in voxels of their tables and lists without duplicates.

    A voxel is inside a box if its own position is, as it is returned. The services want boxes that are wider than
    nothing on every axis: those that are not are asked one voxel wider, and returned to be applied here.
    """
    result: Filters = {
        kind: {table: dict(columns) for table, columns in tables.items()} for kind, tables in filters.items()
    }
    thin: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    empty: list[tuple[str, str]] = []
    for table, boxes in result.get("spatial", {}).items():
        unit = find(session, table, version=version).unit
        for column, box in list(boxes.items()):
            low = [_voxel(value, size, up=True) for value, size in zip(box[0], unit, strict=True)]
            high = [_voxel(value, size, up=False) for value, size in zip(box[1], unit, strict=True)]
            if any(a > b for a, b in zip(low, high, strict=True)):
                empty.append((table, column))  # between two voxels
            elif any(a == b for a, b in zip(low, high, strict=True)):
                thin[table, column] = (list(box[0]), list(box[1]))
            boxes[column] = [low, [max(a + 1, b) for a, b in zip(low, high, strict=True)]]
    for table, column in empty:
        del result["spatial"][table][column]
        result.setdefault("in", {}).setdefault(table, {})[column] = []
    for columns in result.get("in", {}).values():
        for column, values in columns.items():
            columns[column] = list(dict.fromkeys(values))
    return result, thin


def _voxel(value: float, size: float, *, up: bool) -> int:
    """Return the first voxel whose position is not below a value, or the last that is not above it."""
    number = round(value / size)
    if up:
        while number * size < value:
            number += 1
        while (number - 1) * size >= value:
            number -= 1
    else:
        while number * size > value:
            number -= 1
        while (number + 1) * size <= value:
            number += 1
    return number


def _nothing(session: Session, info: TableInfo, filters: Filters) -> Filters:
    """Return filters that no row passes where a list is empty: a service would take the empty list for no filter.

    The question is still asked, because its answer has the columns.
    """
    empty = [
        (table, column)
        for table, columns in filters.get("in", {}).items()
        for column, v in columns.items()
        if not v
    ]
    if not empty:
        return filters
    table, column = empty[0]
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
    request: Request, info: TableInfo, base: TableInfo | None, *, live: bool
) -> tuple[str, ...] | None:
    """Give the columns to ask for; None for all. Exclusions are made here, so what they look at must come, too."""
    if request.select is None or base:
        return None
    by_table = request.select
    needed = (
        [column for columns in by_table.values() for column in columns]
        if isinstance(by_table, dict)
        else list(request.select)
    )
    for kind, tables in request.filters.items():
        # a live service filters once more after it has looked up the roots, among the columns that it selected
        if kind == "out" or (live and kind != "spatial"):
            needed.extend(column for columns in tables.values() for column in columns)
    if info.kind == "table":
        needed = ["id", *needed]  # rows are told apart and ordered by it
        if set(needed) == {"id"}:
            needed.append("valid")  # the service cannot select one column alone
    return tuple(dict.fromkeys(needed))


def count(session: Session, request: Request) -> int:
    """Count the rows that match a request, whatever its limit: on the server where it can, else by asking for ids."""
    every = dataclasses.replace(request, limit=None, offset=None, random_sample=None)
    info, question, _ = plan(session, every)
    if (
        not request.filters.get("out") and not question.thin
    ):  # the service ignores exclusions when it counts, too
        with _explained(session, [question]):
            counted = ask_count(session, dataclasses.replace(question, select=None))
        if counted is not None:
            return counted
    ids = ["id"] if info.kind == "table" else None
    bare = dataclasses.replace(
        every, select=ids, resolution=None, split_positions=True, progress=False, return_as="arrow"
    )
    rows: int = run(session, bare).num_rows
    return rows
