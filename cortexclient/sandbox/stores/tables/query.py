"""One query over frozen tables, live tables or views: selection, joins, filters, and the frame that results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from cortexclient.sandbox.stores.tables import frames
from cortexclient.sandbox.stores.tables.engine import Engine
from cortexclient.sandbox.stores.tables.model import (
    ARGUMENT_NEEDS_EQUALITY,
    DatabaseError,
    QueryError,
    Source,
    StoredColumn,
    UnwritableError,
    counted_failure,
    failed_statement,
    quoted,
)

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
# accepted by the body's schema and ignored
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
_TRUTHS = dict.fromkeys(("t", "true", "yes", "on", "1", "y"), True)
_TRUTHS |= dict.fromkeys(("f", "false", "no", "off", "0", "n"), False)


def find_column(source: Source, name: str) -> StoredColumn:
    """Column of a source.

    Raise QueryError where there is none; the text depends on what the source is, as in the service.
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


def _field(source: Source, column: StoredColumn, axis: str = "") -> str:
    return f"{quoted(source.name)}.{quoted(column.name + axis)}"


def _membership(field: str, column: StoredColumn, value: Any, *, negate: bool) -> str:
    if not isinstance(value, Iterable):
        raise QueryError(f"{type(value).__name__!r} object is not iterable")
    if column.kind == "point" and any(item is not None for item in value):
        raise _unwritable(value)
    literals = ["NULL" if item is None else literal(column, item, "=") for item in value]
    if not literals:
        return "true" if negate else "false"
    return f"{field} {'NOT IN' if negate else 'IN'} ({', '.join(literals)})"


def literal(column: StoredColumn, value: Any, operator: str) -> str:
    """A value written into a statement, checked as the database checks it against the column's type.

    Raise DatabaseError where the database would refuse to compare the two.
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


def _no_operator(column: StoredColumn, operator: str, other: str) -> DatabaseError:
    return DatabaseError(f"operator does not exist: {_SQL_NAMES[column.kind]} {operator} {other}")


def _number(column: StoredColumn, value: float) -> str:
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


def _spatial(source: Source, column: StoredColumn, box: Any) -> str:
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


def _regex(source: Source, column: StoredColumn, pattern: Any) -> str:
    if column.kind != "string":
        raise QueryError("Regex filter is only supported on string columns")
    if not isinstance(pattern, str):
        raise DatabaseError("operator does not exist: character varying ~ integer")
    return f"regexp_matches({_field(source, column)}, {_string_text(_without_nul(pattern))})"


# what tells columns of the same name apart where the caller says nothing
_SUFFIXES = ("x", "y", "z", "xx", "yy", "zz", "xxx", "yyy", "zzz")
# class names that show through in one of the service's errors: (declared, read from the database)
_TYPE_NAMES = {
    "bigint": ("BigInteger", "BIGINT"),
    "integer": ("Integer", "INTEGER"),
    "float": ("Float", "DOUBLE_PRECISION"),
    "boolean": ("Boolean", "BOOLEAN"),
    "string": ("String", "VARCHAR"),
    "datetime": ("DateTime", "TIMESTAMP"),
}


class Selection:
    """A query being put together.

    ``find`` gives the source of any table that a filter names, ``suffixes`` what is put behind the columns of a table
    where two have the same. Without ``typed`` it goes the old way over CSV, which mangles types; ``lenient`` answers a
    query for one single column, which the service cannot. Raise QueryError anywhere: the service answers with an
    error.
    """

    def __init__(
        self,
        engine: Engine,
        find: Callable[[str], Source],
        *,
        limit: int | None = None,
        offset: int | None = None,
        suffixes: Mapping[str, str] | None = None,
        typed: bool = True,
        lenient: bool = False,
    ) -> None:
        if suffixes is not None and len(set(suffixes.values())) != len(suffixes):
            raise QueryError(f"Duplicate suffixes set in {dict(suffixes)}")
        self.engine = engine
        self.limit = limit
        self.offset = offset
        self.typed = typed
        self.lenient = lenient
        self.suffixes: dict[str, str] = dict(suffixes or {})
        self.selected: dict[str, list[str]] = {}
        self._find = find
        self._sources: dict[str, Source] = {}
        self._joined: list[str] = []
        self._conditions: list[str] = []
        self._where: list[str] = []
        self._lists: dict[str, pa.Table] = {}
        # what only shows when the statement is written, and then when the database reads it
        self._late: QueryError | None = None
        self._database_refuses: tuple[str, str] | None = None

    def source(self, table: str) -> Source:
        """A table of the query; one that only a filter names is added to it, unjoined."""
        if table not in self._sources:
            self._sources[table] = self._find(table)
        return self._sources[table]

    def join(self, left: str, left_column: str, right: str, right_column: str) -> None:
        """Join two tables on a column of each."""
        first, second = self.source(left), self.source(right)
        second_column = find_column(second, right_column)
        first_column = find_column(first, left_column)
        self._joined += [name for name in (left, right) if name not in self._joined]
        if (first_column.kind == "point") != (second_column.kind == "point"):
            self._refuse(f"{left}.{left_column} = {right}.{right_column}", "operator does not exist")
            self._conditions.append("true")
            return
        pairs = zip(first_column.stored, second_column.stored, strict=True)
        equal = [f"{quoted(left)}.{quoted(one)} = {quoted(right)}.{quoted(other)}" for one, other in pairs]
        self._conditions.append(" AND ".join(equal))

    def filter(self, filters: Mapping[str, Mapping[str, Any]] | None, comparison: str) -> None:
        """Apply the filters of one kind: ``{table: {column: value}}``."""
        for table, columns in (filters or {}).items():
            if not hasattr(columns, "items"):
                raise QueryError(f"{type(columns).__name__!r} object has no attribute 'items'")
            for column, value in columns.items():
                listed = value_list(self.source(table), column, comparison, value)
                if listed is not None:
                    name = f"list {len(self._lists)}"
                    self._lists[name] = listed
                    self._where.append(
                        f"{quoted(table)}.{quoted(column)} IN (SELECT value FROM {quoted(name)})"
                    )
                    continue
                try:
                    self._where.append(predicate(self.source(table), column, comparison, value))
                except UnwritableError as error:
                    self._late = self._late or error
                except DatabaseError as error:
                    self._refuse(f"{table} WHERE {table}.{column} {comparison} {value!r}", str(error))

    def _refuse(self, statement: str, problem: str) -> None:
        self._database_refuses = self._database_refuses or (f"SELECT ... FROM {statement}", problem)

    def where(self, condition: str) -> None:
        """Add a condition in SQL."""
        self._where.append(condition)

    def select(self, table: str, column: str) -> None:
        """Ask for a column; a root brings its supervoxel along."""
        chosen = self.selected.setdefault(table, [])
        if column in chosen:
            return
        source = self.source(table)
        if column not in source.columns:
            raise QueryError(f"{column} not in model or models for {table}")
        if column.endswith("root_id"):
            beside = column.removesuffix("root_id") + "supervoxel_id"
            if beside in source.columns:
                self.select(table, beside)
        chosen.append(column)

    def select_all(self, table: str, skip: Iterable[str] = ()) -> None:
        """Ask for every column of a table."""
        self.selected[table] = [name for name in self.source(table).columns if name not in skip]

    def count(self) -> pd.DataFrame:
        """Number of rows, as a frame of one row."""
        self.outputs(None)
        rows = self._run(f"SELECT count(*) AS count FROM (SELECT 1 {self._tail()})", counted_failure)
        return pd.DataFrame({"count": [int(rows.column(0)[0].as_py())]})

    def run(self, resolution: list[float] | None = None) -> tuple[pd.DataFrame, dict[str, dict[str, str]]]:
        """Rows, and under which name each column of each table stands in them.

        Positions are in voxels of ``resolution`` (nm), by default that of each table.
        """
        rows, outputs, names = self._rows(resolution)
        make = frames.typed_frame if self.typed else frames.csv_frame
        return make(rows, outputs), names

    def batch(
        self, resolution: list[float] | None = None
    ) -> tuple[pa.RecordBatch, dict[str, dict[str, str]]]:
        """What `run` gives, as Arrow writes it; for typed queries."""
        rows, outputs, names = self._rows(resolution)
        return frames.typed_batch(rows, outputs), names

    def _rows(
        self, resolution: list[float] | None
    ) -> tuple[pa.Table, list[frames.Output], dict[str, dict[str, str]]]:
        outputs, names = self.outputs(resolution)
        listed = ", ".join(f"{output.sql} AS {quoted(output.name)}" for output in outputs)
        rows = self._run(f"SELECT {listed} {self._tail(ordered=True)}")
        if len(outputs) == 1 and not self.lenient:
            # one column that is no point: the service takes its type for a table
            declared, read = _TYPE_NAMES[outputs[0].column.kind]
            kind = read if outputs[0].reflected else declared
            raise QueryError(f"'{kind}' object has no attribute '{outputs[0].name}'")
        return rows, outputs, names

    def _run(self, sql: str, failure: Callable[[str, str], str] = failed_statement) -> pa.Table:
        if self._late is not None:
            raise self._late
        if self._database_refuses is not None:
            raise QueryError(failure(*self._database_refuses))
        try:
            if self.limit is not None and self.limit < 0:
                raise DatabaseError("LIMIT must not be negative\n")
            if self.offset is not None and self.offset < 0:
                raise DatabaseError("OFFSET must not be negative\n")
            return self.engine.read(sql, self._lists)
        except (duckdb.Error, DatabaseError) as error:
            # the engine says so of a pattern only: values are checked before
            problem = str(error).replace("Invalid Input Error", "invalid regular expression")
            raise QueryError(failure(sql, problem)) from error

    def outputs(
        self, resolution: list[float] | None
    ) -> tuple[list[frames.Output], dict[str, dict[str, str]]]:
        """Columns of the answer, and under which name each column of each table stands in it."""
        counts: dict[str, int] = {}
        for column in itertools.chain.from_iterable(self.selected.values()):
            counts[column] = counts.get(column, 0) + 1
        outputs: list[frames.Output] = []
        names: dict[str, dict[str, str]] = {}
        for number, (table, columns) in enumerate(self.selected.items()):
            source = self.source(table)
            suffix = self.suffixes.get(table)
            suffix = _SUFFIXES[number] if suffix is None else suffix
            names[table] = {}
            for name in columns:
                label = name + suffix if counts[name] > 1 else name
                names[table][name] = label
                outputs += self._output(source, source.columns[name], label, resolution)
        return outputs, names

    def _output(
        self, source: Source, column: StoredColumn, label: str, resolution: list[float] | None
    ) -> list[frames.Output]:
        field = f"{quoted(source.name)}.{quoted(column.name)}"
        if column.kind == "point":
            scales = _scales(source, resolution)
            return [
                frames.Output(
                    label + axis,
                    _scaled(
                        f"{quoted(source.name)}.{quoted(column.name + axis)}", scale, exact=not self.typed
                    ),
                    column,
                    source.reflected,
                    scaled=scale is not None,
                )
                for axis, scale in zip(("_x", "_y", "_z"), scales, strict=True)
            ]
        if source.split and column.name in source.segmentation:
            # a row that awaits its lookup shows as 1
            field = f"coalesce({field}, 1)"
        return [frames.Output(label, field, column, source.reflected)]

    def _tail(self, *, ordered: bool = False) -> str:
        parts = []
        tables = self._joined or list(dict.fromkeys([*self.selected, *self._sources]))[:1]
        loose = [name for name in self._sources if name not in tables]
        for position, name in enumerate(tables):
            source = self._sources[name]
            relation = f"{source.relation} AS {quoted(name)}"
            if position == 0:
                parts.append(f"FROM {relation}")
            else:
                condition = self._conditions[position - 1] if position - 1 < len(self._conditions) else "true"
                parts.append(f"JOIN {relation} ON {condition}")
        parts += [f"CROSS JOIN {self._sources[name].relation} AS {quoted(name)}" for name in loose]
        if self._where:
            parts.append("WHERE " + " AND ".join(self._where))
        if ordered and len(tables) + len(loose) > 1:
            # the real database says nothing of the order either, but a sandbox shall answer the same twice
            parts.append("ORDER BY " + ", ".join(f"{quoted(name)}.rowid" for name in [*tables, *loose]))
        if self.limit is not None:
            parts.append(f"LIMIT {self.limit}")
        if self.offset:
            parts.append(f"OFFSET {self.offset}")
        return " ".join(parts)


def _scales(source: Source, resolution: list[float] | None) -> list[Decimal | None]:
    if resolution is None:
        return [None, None, None]
    ratios = []
    for own, asked in zip(source.resolution, resolution, strict=True):
        if asked == 0:
            raise QueryError(
                f"Execution failed on sql 'SELECT ... FROM {source.name}': column \"inf\" does not exist"
            )
        ratios.append(own / asked)
    if all(ratio == 1 for ratio in ratios):
        return [None, None, None]
    return [Decimal(repr(float(ratio))) for ratio in ratios]


def _scaled(field: str, scale: Decimal | None, *, exact: bool) -> str:
    """A scaled coordinate, multiplied in decimal as the database does, so that 100 x 0.57 is 57."""
    if scale is None:
        return field
    if scale == int(scale) and not exact:
        return f"{field} * {int(scale)}"
    if Decimal(float(scale)) == scale:
        product = f"{field} * CAST('{float(scale)!r}' AS DOUBLE)"  # nothing is lost in binary
    else:
        # all that the number has: a voxel more or less
        places = min(max(-int(scale.as_tuple().exponent), 0), 22)
        product = f"CAST({field} AS DECIMAL(12, 0)) * CAST({scale:f} AS DECIMAL(26, {places}))"
    if exact:
        return f"CAST({product} AS DOUBLE)"
    # whole voxels, cut toward zero
    return f"CAST(trunc(CAST({product} AS DOUBLE)) AS INTEGER)"
