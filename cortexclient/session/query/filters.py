"""Filters as users write them: ``cell_type="BC"``, ``id=[1, 2]``, ``volume={">": 200}``, ``pt_position_bbox=box``."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from cortexclient.errors import InvalidQueryError, MissingExtraError, ServiceError
from cortexclient.ids import as_id
from cortexclient.session.query.frames import is_id_column
from cortexclient.session.query.tables import TableInfo, columns_of, find_table, view_schemas
from cortexclient.session.query.wire import FILTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session.session import Session

__all__ = [
    "Filters",
    "as_choice",
    "as_columns",
    "as_frame_kind",
    "as_number",
    "as_resolution",
    "fields_of",
    "filters_from_dicts",
    "filters_from_keywords",
    "in_voxels",
    "no_column",
    "require_columns",
]

T = TypeVar("T")

Filters: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""kind -> table -> column -> value; kinds are those of `cortexclient.session.query.wire.FILTERS`."""

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

_ONE_AXIS = re.compile(r"(.+_position|position)_[xyz]$")


def fields_of(session: Session, info: TableInfo) -> dict[str, tuple[str, str, str]]:
    """Return every name that a filter may use: name -> (table, column, kind). Shared names get ``_ref``."""
    own = columns_of(session, info)
    found: dict[str, tuple[str, str, str]] = {}
    if info.reference_table:
        base = find_table(session, info.reference_table, kind="table")
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


def _locate(session: Session, info: TableInfo, name: str) -> tuple[str, str]:
    """Find the table and the column that a filter's name means.

    An `InvalidQueryError` about a column that neither a reference table nor its base has lists close names.
    """
    if not info.reference_table:
        # the service knows its columns best: no request is spent on them first
        return info.name, name.removesuffix("_bbox")
    return _locate_joined(session, info, name)


def _locate_joined(session: Session, info: TableInfo, name: str) -> tuple[str, str]:
    fields = fields_of(session, info)
    for candidate in (name, f"{name}_bbox"):
        if candidate in fields:
            table, column, _ = fields[candidate]
            return table, column
    raise session.error(InvalidQueryError, "materialize", no_column(info, name, list(fields)))


def no_column(info: TableInfo, name: str, known: list[str]) -> str:
    """Return the message that a table has no such column to filter by, and what to write instead."""
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
    if name in {"version", "timestamp"}:
        return f"{said}; for rows of another moment, ask client.at({name}=...)"
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"it can be filtered by {', '.join(known)}"
    return f"{said}; {hint}"


def _about_value(session: Session, info: TableInfo, name: str, error: ValueError) -> ServiceError:
    """Return an error about a value of a filter as `InvalidQueryError`; if there is no such column, one about that."""
    if isinstance(error, ServiceError):
        return error
    try:
        fields = fields_of(session, info)
    except ServiceError:
        fields = {}
    known = {column for _, column, _ in fields.values()} | set(fields)
    unknown = fields and name not in known and name.removesuffix("_bbox") not in known
    message = no_column(info, name, list(fields)) if unknown else str(error)
    return session.error(InvalidQueryError, "materialize", message)


def filters_from_keywords(
    session: Session, info: TableInfo, keywords: Mapping[str, Any], filters: Filters | None = None
) -> Filters:
    """Read filters given as keyword arguments; ``filters``, if given, are those that they are added to.

    A keyword is a column, its value is one value (equal), a list (one of), a dict of `OPERATORS`, or for ``..._bbox``
    two corners in nm. None is no filter. Raise `InvalidQueryError` if a column or an operator is unknown, a box is no
    box, or a filter is given twice.
    """
    filters = {} if filters is None else filters
    for name, value in keywords.items():
        if value is None:
            continue
        table, column = _locate(session, info, name)
        try:
            spatial = name.endswith("_bbox")
            if info.kind == "view" and not spatial:
                spatial = _is_box_of_view(session, info, column, value)
            for kind, content in _kinds(name, value, spatial=spatial):
                _add(filters, kind, table, column, _checked(column, kind, content))
        except ValueError as error:
            raise _about_value(session, info, name, error) from None
    return filters


def filters_from_dicts(session: Session, info: TableInfo, **dicts: Mapping[str, Any] | None) -> Filters:
    """Read filters given as caveclient's dicts (``filter_in_dict={column: values}``, ...).

    Raise `InvalidQueryError` if a column of a reference table is unknown, or a box is no box.
    """
    names = {wire: kind for kind, wire in FILTERS.items()} | {"filter_out_dict": "out"}
    filters: Filters = {}
    for wire, columns in dicts.items():
        for name, value in (columns or {}).items():
            table, column = _locate(session, info, name)
            kind = names[wire]
            try:
                _add(filters, kind, table, column, _checked(column, kind, as_plain(value)))
            except ValueError as error:
                raise _about_value(session, info, name, error) from None
    return filters


def _add(filters: Filters, kind: str, table: str, column: str, value: Any) -> None:
    """Add one filter to others; exclusions of one column add up, any other second one would be lost."""
    columns = filters.setdefault(kind, {}).setdefault(table, {})
    if column in columns and kind != "out":
        raise _refused(column, value, f"is the second of its kind ({kind}) for that column; give one")
    columns[column] = [*columns.get(column, []), *value] if kind == "out" else value


def _is_box_of_view(session: Session, info: TableInfo, column: str, value: Any) -> bool:
    if isinstance(value, str | dict) or not hasattr(value, "__len__"):
        return False
    return len(value) == 2 and view_schemas(session).get(info.name, {}).get(column) == "SpatialPoint"


def _kinds(name: str, value: Any, *, spatial: bool) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and not spatial:
        return _kinds_of_operators(name, value)
    plain = as_plain(value)
    return [("spatial" if spatial else "in" if isinstance(plain, list) else "equal", plain)]


def _kinds_of_operators(name: str, value: dict[str, Any]) -> list[tuple[str, Any]]:
    if not value or set(value) - set(OPERATORS):
        raise ValueError(f"filter {name}={value!r} has unknown operators; use one of {', '.join(OPERATORS)}")
    return [(OPERATORS[operator], as_plain(content)) for operator, content in value.items()]


def _checked(column: str, kind: str, value: Any) -> Any:
    if kind == "spatial":
        return _box(column, value)
    if kind in {"in", "out"}:
        return [_value(column, kind, entry) for entry in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        raise _refused(column, value, "takes one value; to ask for one of several, give the list alone")
    return _value(column, kind, value)


def _value(column: str, kind: str, value: Any) -> Any:
    """Check one value of a filter; missing ones can only be excluded, which is done here and not on the server."""
    if value is None or type(value).__name__ in {"NAType", "NaTType"} or value != value:
        if kind == "out":
            return None
        raise _refused(column, value, "is a missing value, which no service finds; leave it out")
    if isinstance(value, bytes | list | dict) or (isinstance(value, float) and math.isinf(value)):
        raise _refused(column, value, "cannot be compared with a column")
    if kind == "regex" and not isinstance(value, str):
        raise _refused(column, value, "is no regular expression")
    return as_id(value, column) if is_id_column(column) and kind != "regex" else value


def _refused(column: str, value: Any, why: str) -> ValueError:
    return ValueError(f"the filter {column}={reprlib.repr(value)} {why}")


def _box(column: str, value: Any) -> list[list[float]]:
    try:
        low, high = ([float(number) for number in corner] for corner in value)
    except (TypeError, ValueError):
        low, high = [], []
    ordered = len(low) == len(high) == 3 and all(a < b for a, b in zip(low, high, strict=True))
    if not ordered or not all(map(math.isfinite, [*low, *high])):
        raise ValueError(
            f"the box for {column!r} must be [[x, y, z], [x, y, z]] in nm, the first corner below the second on every "
            f"axis, not {value!r}"
        )
    return [low, high]


def as_plain(value: Any) -> Any:
    """Return a filter value as plain Python: of NumPy or Arrow a plain scalar, of what can be iterated a list."""
    if hasattr(value, "as_py"):
        return value.as_py()
    if type(value).__module__ == "numpy" and value.dtype.kind == "M":
        value = value.astype("datetime64[us]")  # nanoseconds would become numbers
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes | dict):
        return [as_plain(entry) for entry in value]
    return value


# -- boxes ------------------------------------------------------------------------------------------------------------


def in_voxels(
    session: Session, filters: Filters, version: int | None
) -> tuple[Filters, dict[tuple[str, str], tuple[list[float], list[float]]]]:
    """Return the filters with boxes in voxels of their tables, and the boxes that are applied to the rows.

    A voxel is inside a box if its own position is, as it is returned. The services want boxes that are wider than
    nothing on every axis: those that are not are requested one voxel wider, and returned to be applied here.
    """
    result: Filters = {
        kind: {table: dict(columns) for table, columns in tables.items()} for kind, tables in filters.items()
    }
    thin: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    empty: list[tuple[str, str]] = []
    for table, boxes in result.get("spatial", {}).items():
        unit = find_table(session, table, version=version).unit
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


# -- other arguments --------------------------------------------------------------------------------------------------


def as_number(value: Any, name: str, *, least: int = 0) -> int | None:
    """Return a number of rows as a plain int; None stays None.

    Raise `TypeError` if it is no whole number, `ValueError` if it is too small.
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
    """Return a resolution (nm of one unit, on each axis) as three floats; None stays None.

    Raise `ValueError` if it is not three numbers above 0.
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
    """
    if value is None:
        return None
    if hasattr(value, "keys"):
        by_table = {str(table): as_columns(value[table]) for table in value}
        return {table: names for table, names in by_table.items() if isinstance(names, list)}
    return [value] if isinstance(value, str) else [str(name) for name in value]


def require_columns(session: Session, select: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
    """Raise `InvalidQueryError` if no columns are selected, or one axis of a point."""
    lists = list(select.values()) if isinstance(select, Mapping) else [select]
    if not lists or not all(map(len, lists)):
        message = "no columns are selected; name some, or leave select_columns out to have all"
        raise session.error(InvalidQueryError, "materialize", message)
    for name in (name for names in lists for name in names):
        axis = _ONE_AXIS.match(name)
        if axis is not None:
            raise session.error(
                InvalidQueryError,
                "materialize",
                f"{name!r} is one axis of a point, which cannot be had alone; select {axis[1]!r} (with "
                "split_positions=True it comes as three columns)",
            )


def as_choice(value: T, name: str, choices: Sequence[T]) -> T:
    """Return a value that must be one of a few, else raise `ValueError`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def as_frame_kind(value: str) -> str:
    """Return the kind of frame that is wanted.

    Raise `ValueError` if there is no such kind, `MissingExtraError` if it needs a package that is not installed.
    """
    import importlib.util

    kind = as_choice(value, "return_as", ("pandas", "arrow", "polars"))
    if kind == "polars" and importlib.util.find_spec("polars") is None:
        raise MissingExtraError.of("return_as='polars' needs", "polars", "polars")
    return kind
