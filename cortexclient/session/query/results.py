"""From the parts of an answer to the frame that a user gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortexclient.errors import InvalidQueryError, ProtocolError
from cortexclient.session.moment import Moment
from cortexclient.session.provenance import provenance_of
from cortexclient.session.query.frames import (
    combine,
    free_memory,
    is_id_column,
    join_positions,
    join_positions_of,
    scale_positions,
    to_pandas,
    triples,
)
from cortexclient.session.query.metadata import TableInfo, column_kinds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from cortexclient.session.query import Request
    from cortexclient.session.query.complete import Harvest
    from cortexclient.session.query.question import Question
    from cortexclient.session.session import Session

__all__ = ["Answer", "as_asked", "assemble", "joined"]

_LONG = 20


@dataclass(slots=True)
class Answer:
    """A complete answer, still as Arrow.

    Parameters
    ----------
    request : Request
        What was asked.
    info : TableInfo
        The table or view.
    table : pyarrow.Table
        All rows, in ascending order of ids, positions split, in the units asked for.
    attrs : dict
        Where the answer is from.
    """

    request: Request
    info: TableInfo
    table: Any
    attrs: dict[str, Any]

    def take(self, order: Any) -> None:
        """Keep the rows of these places, in this order; one column at a time, so that nothing is there twice."""
        import pyarrow as pa

        columns = self._columns()
        for name in columns:
            columns[name] = columns[name].take(order)
            free_memory(len(order))
        self.table = pa.table(columns)

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame with stable types; the answer is used up."""
        return to_pandas(self._columns())

    def _columns(self) -> dict[str, Any]:
        columns = dict(zip(self.table.column_names, self.table.columns, strict=True))
        self.table = None
        return columns

    def present(self) -> Any:
        """Return the frame that the user asked for; the answer is used up."""
        if self.request.return_as != "pandas":
            return _in_arrow(self.table, self.request)
        frame = self.frame()
        frame.attrs.update(self.attrs)
        return as_asked(frame, self.request)


def joined(answers: Sequence[Answer]) -> Answer:
    """Give answers about one table as one, the rows one after the other; the answers are used up."""
    first = answers[0]
    if len(answers) > 1:
        tables = [answer.table for answer in answers]
        for answer in answers:
            answer.table = None
        first.table = combine(tables)
    return first


def assemble(
    session: Session,
    request: Request,
    info: TableInfo,
    question: Question,
    harvest: Harvest,
    notes: Mapping[str, Any],
    *,
    in_order: bool = True,
) -> Answer:
    """Combine the parts of an answer, apply what servers ignore, and give it its order, types and provenance."""
    parts = [reply.table for reply in harvest.replies]
    if question.live and not question.base and question.select is None:
        parts = [_with_valid(part) for part in parts]
    table = combine(parts, lambda: column_kinds(session, info))
    del parts
    if info.kind == "table":
        _require_once_each(session, question, table)
    resolution = harvest.replies[0].resolution
    harvest.replies.clear()
    free_memory(table.num_rows)
    units = _units(info, question, table, resolution)
    rows = _sample(_inside(_exclude(table, question), question, units), request.random_sample)
    rows = scale_positions(rows, units, request.resolution)
    answer = Answer(request, info, rows, {})
    del table, rows
    if in_order:
        order = _order(answer.table, question)
        if order is not None:
            answer.take(order)
    start = request.offset or 0
    if start or request.limit is not None:
        answer.table = answer.table.slice(start, request.limit)
    answer.table = _only_selected(answer.table, request, question)
    answer.attrs = _provenance(session, request, info, question, harvest, notes)
    return answer


def _require_once_each(session: Session, question: Question, table: Any) -> None:
    """Notice rows that came twice: ids of a table are unique."""
    import pyarrow.compute as pc

    if question.key_name not in table.column_names:
        return
    ids = table.column(question.key_name)
    if (distinct := pc.count_distinct(ids, mode="all").as_py()) < table.num_rows:
        raise ProtocolError(
            f"the materialize service sent {table.num_rows} rows of {question.name!r} with {distinct} ids, so some "
            "are there twice; try again",
            service="materialize",
            status=200,
            url=session.local_server + question.path(session.datastack),
        )


def _with_valid(table: Any) -> Any:
    """Say of every row of a live answer that it is valid: the server leaves that out for newer rows."""
    import pyarrow as pa

    there = table.column_names.index("valid") if "valid" in table.column_names else -1
    column = pa.repeat(pa.scalar(value=True), table.num_rows)
    return table.append_column("valid", column) if there < 0 else table.set_column(there, "valid", column)


def as_asked(frame: pd.DataFrame, request: Request) -> Any:
    """Return a frame with split positions in the shape and of the kind that a request wants."""
    if request.return_as == "pandas":
        return frame if request.split_positions else join_positions(frame)
    import pyarrow as pa

    points = triples(list(frame.columns))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if request.resolution is not None:
        # pandas cannot tell NaN from null, and a missing point is NaN by every road
        table = scale_positions(table, dict.fromkeys(points, (1.0, 1.0, 1.0)), (1.0, 1.0, 1.0))
    return _in_arrow(table.replace_schema_metadata(None), request)


def _in_arrow(table: Any, request: Request) -> Any:
    if not request.split_positions:
        table = join_positions_of(table)
    if request.return_as == "arrow":
        return table
    import polars as pl  # type: ignore[import-not-found,unused-ignore]

    return pl.from_arrow(table)


def _exclude(table: Any, question: Question) -> Any:
    """Leave out what was to be left out: the services accept such filters and ignore them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for owner, columns in question.filters.get("out", {}).items():
        for column, values in columns.items():
            name = _name_of(table.column_names, question, owner, column)
            if name not in table.column_names:
                raise InvalidQueryError(
                    f"{question.name!r} has no column {column!r} to exclude values of; it has "
                    f"{', '.join(table.column_names)}",
                    service="materialize",
                )
            listed = values if isinstance(values, list) else [values]
            try:
                unwanted = pa.array(listed).cast(table.column(name).type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                raise InvalidQueryError(
                    f"column {column!r} of {question.name!r} holds {table.column(name).type}, so {values!r} cannot be "
                    f"excluded from it: {error}",
                    service="materialize",
                ) from None
            table = table.filter(pc.invert(pc.is_in(table.column(name), value_set=unwanted)))
    return table


def _sample(table: Any, number: int | None) -> Any:
    """Draw rows at random: the services accept the wish for a sample, and give everything."""
    if number is None or number >= table.num_rows:
        return table
    import numpy as np
    import pyarrow as pa

    return table.take(pa.array(np.random.default_rng().choice(table.num_rows, size=number, replace=False)))


def _order(table: Any, question: Question) -> Any:
    """Give the order by id, so that the same question gives the same answer whatever order the parts came in.

    None where the rows are in order. A view without an id is sorted by its columns of ids, from left to right.
    """
    import pyarrow.compute as pc

    keys = [name for name in dict.fromkeys(("id", question.key_name)) if name in table.column_names]
    keys = keys or [name for name in table.column_names if is_id_column(name)]
    if not keys or table.num_rows < 2:
        return None
    values = table.column(keys[0])
    if len(keys) == 1 and pc.all(pc.less_equal(values[:-1], values[1:])).as_py():
        return None
    return pc.sort_indices(table.select(keys), sort_keys=[(name, "ascending") for name in keys])


def _only_selected(table: Any, request: Request, question: Question) -> Any:
    if request.select is None:
        return table
    points = triples(table.column_names)
    wanted: list[str] = []
    for name in _selected(table, request.select, question):
        if name in points:
            wanted.extend(points[name])
        elif name in table.column_names:
            wanted.append(name)
        else:
            raise InvalidQueryError(
                f"{question.name!r} has no column {name!r}; it has {', '.join(table.column_names)}",
                service="materialize",
            )
    return table.select(list(dict.fromkeys(wanted)))


def _selected(
    table: Any, select: Sequence[str] | Mapping[str, Sequence[str]], question: Question
) -> Sequence[str]:
    """Return the names that selected columns have in the answer; those of two tables may be given by table."""
    if not isinstance(select, dict):
        return [str(name) for name in select]
    known = [name for name in (question.name, question.base) if name]
    names: list[str] = []
    for owner, columns in select.items():
        if owner not in known:
            raise InvalidQueryError(
                f"select_columns names the table {owner!r}, which is not asked; asked are {', '.join(known)}",
                service="materialize",
            )
        for column in columns:
            # the services send it along, and so caveclient returns it
            beside = column.replace("_root_id", "_supervoxel_id")
            found = [_name_of(table.column_names, question, owner, name) for name in (beside, column)]
            names += [name for name in found if name in table.column_names or name == found[-1]]
    return names


def _units(
    info: TableInfo, question: Question, table: Any, resolution: tuple[float, ...] | None
) -> dict[str, tuple[float, ...]]:
    """Return the size in nm of one unit of each point of a response.

    What the service says of a response (its header) matters where it is not what it says of the table.
    """
    units = {}
    for point in triples(table.column_names):
        owner = question.owners.get(point, info)
        given = resolution or question.resolution or owner.voxel_resolution
        sizes = zip(owner.unit, given, owner.voxel_resolution, strict=True)
        units[point] = tuple(unit if a == b else unit * a / b for unit, a, b in sizes)
    return units


def _inside(table: Any, question: Question, units: Mapping[str, tuple[float, ...]]) -> Any:
    """Leave out rows beyond boxes that are thinner than a voxel, which were asked one voxel wider."""
    import pyarrow.compute as pc

    for (owner, column), (low, high) in question.thin.items():
        name = _name_of(table.column_names, question, owner, column)
        for axis, unit in enumerate(units[name]):
            places = pc.multiply(table.column(f"{name}_{'xyz'[axis]}").cast("float64"), unit)
            tiny = unit * 1e-6
            keep = pc.and_(
                pc.greater_equal(places, low[axis] - tiny), pc.less_equal(places, high[axis] + tiny)
            )
            table = table.filter(keep)
    return table


def _name_of(names: Sequence[str], question: Question, owner: str, column: str) -> str:
    """Return the name that a column of one of two joined tables has in the answer."""
    suffix = dict(question.suffixes).get(owner, "") if question.base else ""
    present = {*names, *triples(names)}
    return f"{column}{suffix}" if suffix and f"{column}{suffix}" in present else column


def _provenance(
    session: Session,
    request: Request,
    info: TableInfo,
    question: Question,
    harvest: Harvest,
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """Say where an answer is from. Plain values only, and few: pandas copies them at every step."""
    prefix = session.spec.position_prefix_of(info.name, synapse_table=session.synapse_table)
    own = next(iter({table.unit for table in question.owners.values()}), info.unit)
    return {
        **provenance_of(session, Moment(version=question.version, timestamp=question.timestamp)),
        "table_name": info.name,
        "table_kind": info.kind,
        "reference_table": info.reference_table,
        "position_column": None if prefix is None else f"{prefix}_position",
        "table_voxel_resolution": list(own),
        "dataframe_resolution": list(request.resolution or own),
        "live_query": question.live,
        "filters": _short(request.filters),
        "select_columns": _plain(request.select),
        "limit": request.limit,
        "offset": request.offset,
        "complete": request.limit is None and request.random_sample is None and not request.offset,
        "requests": harvest.requests,
        **notes,
    }


def _plain(select: Sequence[str] | Mapping[str, Sequence[str]] | None) -> Any:
    return dict(select) if isinstance(select, dict) else None if select is None else list(select)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items() if entry}
    if isinstance(value, list) and len(value) > _LONG:
        return f"{len(value)} values"
    return value
