"""Filters as users write them: ``cell_type="BC"``, ``id=[1, 2]``, ``volume={">": 200}``, ``pt_position_bbox=box``."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import reprlib
from typing import TYPE_CHECKING, Any

from cortexclient.errors import InvalidQueryError, ServiceError
from cortexclient.ids import as_id
from cortexclient.session.query.frames import is_id_column
from cortexclient.session.query.metadata import TableInfo, find, schema_columns, view_schemas
from cortexclient.session.query.question import FILTERS, Filters, as_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cortexclient.session.session import Session

__all__ = [
    "OPERATORS",
    "columns_of",
    "fields_of",
    "from_dicts",
    "from_keywords",
    "locate",
    "no_column",
    "put",
]

OPERATORS = {
    "==": "equal",
    "<": "less",
    ">": "greater",
    "<=": "less_equal",
    ">=": "greater_equal",
    "in": "in",
    "not in": "out",
    "!=": "out",
    "regex": "regex",
    "bbox": "spatial",
}
"""Operators that a filter given as a dict may use, and the kinds of filters they stand for."""


def columns_of(session: Session, info: TableInfo) -> dict[str, str]:
    """Give the columns of one table or view by which rows can be filtered: name -> kind (``point`` for positions)."""
    if info.kind == "view":
        columns = view_schemas(session, info.version).get(info.name, {})
        return {name: "point" if kind == "SpatialPoint" else kind for name, kind in columns.items()}
    found = {"id": "integer"}
    if info.reference_table:
        found["target_id"] = "integer"
    for name, kind in (schema_columns(session, info.schema) if info.schema else {}).items():
        if kind == "BoundSpatialPoint":
            found |= {
                f"{name}_position": "point",
                f"{name}_supervoxel_id": "integer",
                f"{name}_root_id": "integer",
            }
        elif kind == "SpatialPoint":
            found[f"{name}_position"] = "point"
        else:
            found[name] = kind
    return found


def fields_of(session: Session, info: TableInfo) -> dict[str, tuple[str, str, str]]:
    """Give every name that a filter may use: name -> (table, column, kind). Shared names get ``_ref``."""
    own = columns_of(session, info)
    found: dict[str, tuple[str, str, str]] = {}
    if info.reference_table:
        base = find(session, info.reference_table, kind="table")
        theirs = columns_of(session, base)
        found |= {name: (base.name, name, kind) for name, kind in theirs.items()}
        for name, kind in own.items():
            found[f"{name}_ref" if name in theirs else name] = (info.name, name, kind)
    else:
        found |= {name: (info.name, name, kind) for name, kind in own.items()}
    return {
        (f"{name}_bbox" if kind == "point" and info.kind == "table" else name): entry
        for name, entry in found.items()
        for kind in (entry[2],)
    }


def locate(session: Session, info: TableInfo, name: str) -> tuple[str, str]:
    """Find the table and the column that a filter's name means.

    Raises
    ------
    InvalidQueryError
        If a reference table and its base have no such column; the message lists close names.
    """
    if not info.reference_table:
        # the service knows its columns best: no request is spent on asking for them first
        return info.name, name.removesuffix("_bbox") if name.endswith("_bbox") else name
    fields = fields_of(session, info)
    for candidate in (name, f"{name}_bbox"):
        if candidate in fields:
            table, column, _ = fields[candidate]
            return table, column
    raise InvalidQueryError(no_column(info, name, list(fields)), service="materialize")


def no_column(info: TableInfo, name: str, known: list[str]) -> str:
    """Say that a table has no such column to filter by, and what to write instead."""
    said = f"{info.kind} {info.name!r} has no column {name!r}"
    boxes = [field for field in known if field.endswith("_bbox")]
    if boxes and re.search(r"box|bounds|spatial", name):
        boxes.sort(
            key=lambda field: (field != "ctr_pt_position_bbox", field != "pt_position_bbox"), reverse=True
        )
        point = boxes[-1].removesuffix("_bbox")
        return (
            f"{said}; for a box, write {boxes[-1]}=[[x, y, z], [x, y, z]] in nm, or give client.query() "
            f"filter_spatial_dict={{{point!r}: [[x, y, z], [x, y, z]]}}"
            + (f" (also {', '.join(boxes[:-1])})" if boxes[1:] else "")
        )
    wire = difflib.get_close_matches(name, [*FILTERS.values(), "filter_out_dict"], n=1, cutoff=0.7)
    if wire:
        return f"{said}; did you mean {wire[0]}={{column: value}} of client.query()?"
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"it can be filtered by {', '.join(known)}"
    return f"{said}; {hint}"


@contextlib.contextmanager
def _names_before_values(session: Session, info: TableInfo, name: str) -> Iterator[None]:
    """Where a value is refused, say first that there is no such column, if there is none."""
    try:
        yield
    except InvalidQueryError:
        try:
            fields = fields_of(session, info)
        except ServiceError:
            fields = {}
        known = {column for _, column, _ in fields.values()} | set(fields)
        if fields and name not in known and name.removesuffix("_bbox") not in known:
            raise InvalidQueryError(no_column(info, name, list(fields)), service="materialize") from None
        raise


def from_keywords(session: Session, info: TableInfo, keywords: Mapping[str, Any]) -> Filters:
    """Read filters given as keyword arguments.

    Parameters
    ----------
    session : Session
        Where columns of reference tables are looked up.
    info : TableInfo
        What is filtered.
    keywords : mapping
        Column -> value (equal), list (one of), dict of `OPERATORS`, or for ``..._bbox`` two corners in nm. None is no
        filter.

    Raises
    ------
    InvalidQueryError
        If a column or an operator is unknown, or a box is no box.
    """
    filters: Filters = {}
    for name, value in keywords.items():
        if value is None:
            continue
        table, column = locate(session, info, name)
        with _names_before_values(session, info, name):
            spatial = name.endswith("_bbox") or _is_box_of_view(session, info, column, value)
            for kind, content in _kinds(name, value, spatial=spatial):
                put(filters, kind, table, column, _checked(column, kind, content))
    return filters


def from_dicts(session: Session, info: TableInfo, **dicts: Mapping[str, Any] | None) -> Filters:
    """Read filters given as caveclient's dicts (``filter_in_dict={column: values}``, ...).

    Raises
    ------
    InvalidQueryError
        If a column of a reference table is unknown, or a box is no box.
    """
    names = {wire: kind for kind, wire in FILTERS.items()} | {"filter_out_dict": "out"}
    filters: Filters = {}
    for wire, columns in dicts.items():
        for name, value in (columns or {}).items():
            table, column = locate(session, info, name)
            kind = names[wire]
            with _names_before_values(session, info, name):
                put(filters, kind, table, column, _checked(column, kind, as_plain(value)))
    return filters


def put(filters: Filters, kind: str, table: str, column: str, value: Any) -> None:
    """Add one filter to others; exclusions of one column add up.

    Raises
    ------
    InvalidQueryError
        If the column has a filter of that kind already: one of the two would be lost.
    """
    columns = filters.setdefault(kind, {}).setdefault(table, {})
    if column in columns and kind != "out":
        raise _refused(column, value, f"is the second of its kind ({kind}) for that column; give one")
    columns[column] = [*columns.get(column, []), *value] if kind == "out" else value


def _is_box_of_view(session: Session, info: TableInfo, column: str, value: Any) -> bool:
    if info.kind != "view" or isinstance(value, str | dict) or not hasattr(value, "__len__"):
        return False
    return len(value) == 2 and view_schemas(session).get(info.name, {}).get(column) == "SpatialPoint"


def _kinds(name: str, value: Any, *, spatial: bool) -> list[tuple[str, Any]]:
    if spatial:
        return [("spatial", as_plain(value))]
    if isinstance(value, dict):
        unknown = set(value) - set(OPERATORS)
        if unknown or not value:
            raise InvalidQueryError(
                f"filter {name}={value!r} has unknown operators; use one of {', '.join(OPERATORS)}",
                service="materialize",
            )
        return [(OPERATORS[operator], as_plain(content)) for operator, content in value.items()]
    plain = as_plain(value)
    return [("in" if isinstance(plain, list) else "equal", plain)]


def _checked(column: str, kind: str, value: Any) -> Any:
    if kind == "spatial":
        return _box(column, value)
    if kind not in {"in", "out"}:
        if isinstance(value, list):
            raise _refused(column, value, "takes one value; to ask for one of several, give the list alone")
        return _value(column, kind, value)
    return [_value(column, kind, entry) for entry in (value if isinstance(value, list) else [value])]


def _value(column: str, kind: str, value: Any) -> Any:
    """Check one value of a filter; missing ones can only be excluded, which is done here and not on the server."""
    if value is None or type(value).__name__ in {"NAType", "NaTType"} or value != value:
        if kind == "out":
            return None
        raise _refused(column, value, "is a missing value, which no service finds; leave it out")
    if isinstance(value, bytes | list | dict) or (isinstance(value, float) and math.isinf(value)):
        raise _refused(column, value, "cannot be compared with a column")
    if kind == "regex":
        if not isinstance(value, str):
            raise _refused(column, value, "is no regular expression")
        return value
    return as_id(value, column) if is_id_column(column) else value


def _refused(column: str, value: Any, why: str) -> InvalidQueryError:
    return InvalidQueryError(f"the filter {column}={reprlib.repr(value)} {why}", service="materialize")


def _box(column: str, value: Any) -> list[list[float]]:
    try:
        low, high = ([float(number) for number in corner] for corner in value)
    except (TypeError, ValueError):
        low, high = [], []
    ordered = len(low) == len(high) == 3 and all(a < b for a, b in zip(low, high, strict=True))
    if not ordered or not all(map(math.isfinite, [*low, *high])):
        raise InvalidQueryError(
            f"the box for {column!r} must be [[x, y, z], [x, y, z]] in nm, the first corner below the second on every "
            f"axis, not {value!r}",
            service="materialize",
        )
    return [low, high]
