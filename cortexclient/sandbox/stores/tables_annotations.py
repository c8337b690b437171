"""Rows as they are sent to the annotation service: checked against their schema, and flattened into columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cortexclient.sandbox.stores.tables_errors import QueryError

__all__ = ["InvalidAnnotationError", "flattened", "live_schema", "schema_fields"]

_BOUND = ("BoundSpatialPoint", "DerivedSpatialPoint")
_POINTS = (*_BOUND, "SpatialPoint")
_AXES = ("_x", "_y", "_z")


class InvalidAnnotationError(QueryError):
    """A row that does not fit its schema."""

    def __init__(self, problems: dict[str, Any]) -> None:
        super().__init__(str(problems))
        self.problems = problems


def schema_fields(schema: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Fields of an annotation type and their kinds, and which of them a row must have.

    Parameters
    ----------
    schema : mapping
        JSON schema as the schema service answers it.

    Returns
    -------
    kinds : dict of str to str
        ``BoundSpatialPoint``, ``DerivedSpatialPoint``, ``SpatialPoint``, ``integer`` (32 bits), ``bigint``, ``float``,
        ``boolean``, ``string``, ``datetime``, or ``array`` for a bare position.
    required : tuple of str
    """
    definition = schema["definitions"][str(schema["$ref"]).rsplit("/", 1)[-1]]
    properties = definition["properties"]
    ordered = sorted(properties, key=lambda name: properties[name].get("order", len(properties)))
    kinds = {name: _kind(properties[name]) for name in ordered}
    return kinds, tuple(definition.get("required", ()))


def _kind(declared: Mapping[str, Any]) -> str:
    point = str(declared.get("$ref", "")).rsplit("/", 1)[-1]
    if point in _POINTS:
        return point
    kinds = declared.get("type", "string")
    kind = next((each for each in kinds if each != "null"), "string") if isinstance(kinds, list) else kinds
    if kind == "integer":
        return "bigint"
    if kind == "number":
        return "integer" if declared.get("format") == "integer" else "float"
    if kind == "string" and declared.get("format") == "date-time":
        return "datetime"
    return str(kind)


def live_schema(kinds: Mapping[str, str]) -> pa.Schema:
    """Columns of the live table of an annotation type."""
    types = {
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "float": pa.float64(),
        "boolean": pa.bool_(),
        "string": pa.string(),
        "datetime": pa.timestamp("us"),
    }
    columns = [
        ("id", pa.int64()),
        ("created", pa.timestamp("us")),
        ("deleted", pa.timestamp("us")),
        ("superceded_id", pa.int64()),
        ("valid", pa.bool_()),
    ]
    if "target_id" in kinds:
        columns.append(("target_id", pa.int64()))
    bound = []
    for name, kind in kinds.items():
        if name in ("valid", "target_id"):
            continue
        if kind == "array":
            columns += [(f"{name}{axis}", pa.int32()) for axis in _AXES]
        elif kind in _POINTS:
            columns += [(f"{name}_position{axis}", pa.int32()) for axis in _AXES]
            bound += [name] if kind in _BOUND else []
            if kind == "DerivedSpatialPoint":
                columns += [(f"{name}_dependent_chunk", pa.int64()), (f"{name}_level", pa.int32())]
        else:
            columns.append((name, types.get(kind, pa.string())))
    for name in bound:
        columns += [(f"{name}_supervoxel_id", pa.int64()), (f"{name}_root_id", pa.int64())]
    if bound:
        columns.append(("has_segmentation_row", pa.bool_()))
    return pa.schema(columns)


def flattened(row: Mapping[str, Any], kinds: Mapping[str, str], required: tuple[str, ...]) -> dict[str, Any]:
    """Columns of one row.

    Raises
    ------
    InvalidAnnotationError
        If it does not fit the schema; fields that the schema does not know are ignored.
    """
    problems: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        if name == "valid":
            continue
        value = row.get(name)
        if name not in row:
            if name in required:
                problems[name] = ["Missing data for required field."]
            continue
        if kind in _POINTS:
            _take_point(name, value, columns, problems)
        elif kind == "array":
            _take_position(name, value, columns)
        elif value is None:
            if name in required:
                problems[name] = ["Field may not be null."]
        else:
            _take_value(name, kind, value, columns, problems)
    if problems:
        raise InvalidAnnotationError(problems)
    return columns


def _take_point(name: str, value: Any, columns: dict[str, Any], problems: dict[str, Any]) -> None:
    if not isinstance(value, Mapping):
        problems[name] = {"_schema": ["Invalid input type."]}
    elif "position" not in value:
        problems[name] = {"position": ["Missing data for required field."]}
    else:
        _take_position(f"{name}_position", value["position"], columns)
        for part in ("dependent_chunk", "level"):
            if part in value:
                columns[f"{name}_{part}"] = int(value[part])


def _take_position(name: str, position: Any, columns: dict[str, Any]) -> None:
    parts = list(position) if isinstance(position, (list, tuple)) else [position]
    numbers = [part for part in parts if isinstance(part, (int, float)) and not isinstance(part, bool)]
    if len(parts) != len(_AXES) or len(numbers) < len(parts):
        text = " ".join(str(part) for part in parts)
        # the schema lets anything through here; it is the database that cannot read it
        raise QueryError(
            f'(psycopg2.errors.InternalError_) parse error - invalid geometry\nHINT:  "POINTZ({text})"'
        )
    for axis, part in zip(_AXES, parts, strict=True):
        columns[f"{name}{axis}"] = int(part)


def _take_value(name: str, kind: str, value: Any, columns: dict[str, Any], problems: dict[str, Any]) -> None:
    try:
        if kind in ("integer", "bigint"):
            columns[name] = int(value)
        elif kind == "float":
            columns[name] = float(value)
        elif kind == "boolean":
            if not isinstance(value, (bool, int)):
                raise ValueError
            columns[name] = bool(value)
        else:
            if not isinstance(value, str):
                raise ValueError
            columns[name] = value
    except (TypeError, ValueError):
        word = {"float": "number", "bigint": "integer"}.get(kind, kind)
        problems[name] = [f"Not a valid {word}."]
