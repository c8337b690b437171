"""Filters of a query: what each kind accepts, and its SQL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from cortexclient.sandbox.stores.tables_errors import (
    ARGUMENT_NEEDS_EQUALITY,
    DatabaseError,
    QueryError,
    UnwritableError,
)
from cortexclient.sandbox.stores.tables_model import Column, Source, quoted

__all__ = ["BODY_FILTERS", "EXCLUSION", "find_column", "literal", "predicate", "value_list"]

# name in the body -> comparison, in the order in which the service applies them
BODY_FILTERS = {
    "filter_in_dict": "in",
    "filter_equal_dict": "=",
    "filter_greater_dict": ">",
    "filter_less_dict": "<",
    "filter_greater_equal_dict": ">=",
    "filter_less_equal_dict": "<=",
    "filter_spatial_dict": "spatial",
    "filter_regex_dict": "regex",
}
# accepted by the body's schema and read by nobody
EXCLUSION = "filter_notin_dict"

# from here on a list is handed over as a table
_LONG = 200

_SQL_NAMES = {
    "bigint": "bigint",
    "integer": "integer",
    "float": "double precision",
    "boolean": "boolean",
    "string": "character varying",
    "datetime": "timestamp without time zone",
}
_TRUTHS = {
    "t": True,
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "y": True,
    "f": False,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
    "n": False,
}


def find_column(source: Source, name: str) -> Column:
    """Column of a source.

    Raises
    ------
    QueryError
        There is none; the text depends on what the source is, as in the service.
    """
    column = source.columns.get(name)
    if column is None:
        raise QueryError(name if source.reflected else repr(name))
    return column


def predicate(source: Source, name: str, comparison: str, value: Any) -> str:
    """SQL of one filter."""
    column = find_column(source, name)
    if comparison == "spatial":
        return _spatial(source, column, value)
    if comparison == "regex":
        return _regex(source, column, value)
    point = column.kind == "point"
    field = _field(source, column, "_x" if point else "")
    if comparison in ("in", "notin"):
        return _membership(field, column, value, negate=comparison == "notin")
    if value is None or isinstance(value, bool):
        if comparison != "=":
            raise QueryError(ARGUMENT_NEEDS_EQUALITY)
        if value is None:
            return f"{field} IS NULL"
    if point:
        raise _unwritable(value)
    return f"{field} {comparison} {literal(column, value, comparison)}"


def _unwritable(value: Any) -> UnwritableError:
    return UnwritableError(f"Don't know how to literal-quote value {value!r}")


def value_list(source: Source, name: str, comparison: str, value: Any) -> pa.Table | None:
    """A long list of a filter as a table, which the engine reads much faster than text; None for anything else."""
    column = source.columns.get(name)
    if (
        comparison != "in"
        or column is None
        or not isinstance(value, (list, np.ndarray))
        or len(value) < _LONG
    ):
        return None
    if column.kind not in ("bigint", "integer") or not all(type(item) is int for item in value):
        return None
    try:
        return pa.table({"value": pa.array(value, pa.int64())})
    except (OverflowError, pa.ArrowInvalid):
        return None


def _field(source: Source, column: Column, axis: str = "") -> str:
    return f"{quoted(source.name)}.{quoted(column.name + axis)}"


def _membership(field: str, column: Column, value: Any, *, negate: bool) -> str:
    if not isinstance(value, Iterable):
        raise QueryError(f"{type(value).__name__!r} object is not iterable")
    if column.kind == "point" and any(item is not None for item in value):
        raise _unwritable(value)
    literals = ["NULL" if item is None else literal(column, item, "=") for item in value]
    if not literals:
        return "true" if negate else "false"
    return f"{field} {'NOT IN' if negate else 'IN'} ({', '.join(literals)})"


def literal(column: Column, value: Any, operator: str) -> str:
    """A value written into a statement, checked as the database checks it against the column's type.

    Raises
    ------
    DatabaseError
        The database would refuse to compare the two.
    """
    if isinstance(value, (list, dict, np.ndarray)):
        raise DatabaseError(f'syntax error at or near "{"[" if not isinstance(value, dict) else "{"}"')
    if isinstance(value, str):
        return _LITERALS[column.kind](_without_nul(value))
    if isinstance(value, bool):
        if column.kind != "boolean":
            raise _no_operator(column, operator, "boolean")
        return "true" if value else "false"
    if column.kind not in ("bigint", "integer", "float"):
        raise _no_operator(column, operator, "integer" if isinstance(value, int) else "numeric")
    return _number(column, value)


def _without_nul(text: str) -> str:
    """Refuse what ends a statement for the database."""
    head, nul, _ = text.partition("\0")
    if nul:
        raise DatabaseError(f'unterminated quoted string at or near "\'{head}"\n')
    return text


def _no_operator(column: Column, operator: str, other: str) -> DatabaseError:
    return DatabaseError(f"operator does not exist: {_SQL_NAMES[column.kind]} {operator} {other}")


def _number(column: Column, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise DatabaseError(f'column "{value}" does not exist')
    if column.kind == "float":
        return f"CAST('{value!r}' AS DOUBLE)"
    # an id is never compared as a floating point number
    return f"{Decimal(repr(value)):f}"


def _invalid(kind: str, text: str) -> DatabaseError:
    return DatabaseError(f'invalid input syntax for type {kind}: "{text}"')


def _integer_text(text: str) -> str:
    try:
        return str(int(text))
    except ValueError:
        raise _invalid("bigint", text) from None


def _float_text(text: str) -> str:
    try:
        return f"CAST('{float(text)!r}' AS DOUBLE)"
    except ValueError:
        raise _invalid("double precision", text) from None


def _boolean_text(text: str) -> str:
    truth = _TRUTHS.get(text.strip().lower())
    if truth is None:
        raise _invalid("boolean", text)
    return "true" if truth else "false"


def _string_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_LITERALS: dict[str, Callable[[str], str]] = {
    "bigint": _integer_text,
    "integer": _integer_text,
    "float": _float_text,
    "boolean": _boolean_text,
    "string": _string_text,
    "datetime": lambda text: f"CAST({_string_text(text)} AS TIMESTAMP)",
}


def _spatial(source: Source, column: Column, box: Any) -> str:
    corners = np.array(box)
    if not bool(np.all(corners[0] < corners[1])):
        raise QueryError(f"min bounds: {corners[0]} must be less than max bounds: {corners[1]}")
    if column.kind != "point":
        owner = "'Column' object" if source.reflected else "'InstrumentedAttribute' object"
        raise QueryError(
            f"Neither {owner} nor 'Comparator' object associated with {source.name}.{column.name} "
            "has an attribute 'intersects_nd'"
        )
    if corners.shape != (2, 3):
        raise DatabaseError("parse error - invalid geometry")
    low, high = corners.tolist()
    parts = [
        f"{_field(source, column, axis)} BETWEEN {low[index]} AND {high[index]}"
        for index, axis in enumerate(("_x", "_y", "_z"))
    ]
    return "(" + " AND ".join(parts) + ")"


def _regex(source: Source, column: Column, pattern: Any) -> str:
    if column.kind != "string":
        raise QueryError("Regex filter is only supported on string columns")
    if not isinstance(pattern, str):
        raise DatabaseError("operator does not exist: character varying ~ integer")
    return f"regexp_matches({_field(source, column)}, {_string_text(_without_nul(pattern))})"
