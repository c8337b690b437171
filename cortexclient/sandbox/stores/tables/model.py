"""What the columns of a table or view are as the database of CAVE sees them, and how it fails."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd


# what the database says -> class of its error, and SQLAlchemy's page about it
_CLASSES = (
    ("invalid input syntax", ("InvalidTextRepresentation", "9h9h")),
    ("operator does not exist", ("UndefinedFunction", "f405")),
    ("does not exist", ("UndefinedColumn", "f405")),
    ("syntax error", ("SyntaxError", "f405")),
    ("invalid regular expression", ("InvalidRegularExpression", "9h9h")),
    ("out of range", ("NumericValueOutOfRange", "9h9h")),
    ("invalid geometry", ("InternalError_", "2j85")),
)
ARGUMENT_NEEDS_EQUALITY = (
    "Only '=', '!=', 'is_()', 'isnot()', 'is_distinct_from()', 'isnot_distinct_from()' "
    "operators can be used with None/True/False"
)


class QueryError(Exception):
    """A query that the service answers with an error; the text is the message of the answer."""


class DatabaseError(QueryError):
    """What the database of the service says about a value; the statement is put around it when it is run."""


class UnwritableError(QueryError):
    """A value that the service cannot write into a statement, which it notices when all else is put together."""


def failed_statement(sql: str, problem: str) -> str:
    """Words in which the service repeats what its database said of a statement that pandas sent."""
    return f"Execution failed on sql '{sql}': {problem}"


def counted_failure(sql: str, problem: str) -> str:
    """Words of the same for a count, which SQLAlchemy sends."""
    if problem.startswith("unterminated quoted string"):  # noticed before anything is sent
        return "A string literal cannot contain NUL (0x00) characters."
    found = (names for text, names in _CLASSES if text in problem)
    name, page = next(found, ("DataError", "9h9h"))
    return (
        f"(psycopg2.errors.{name}) {problem}\n\n[SQL: {sql}]\n"
        f"(Background on this error at: http://sqlalche.me/e/13/{page})"
    )


def aborted(status: int, text: str) -> QueryError:
    """Return the error of a handler that stops with a status, which the service turns into text."""
    # werkzeug keeps the name that Python had for it before 3.13
    phrase = "Unprocessable Entity" if status == 422 else HTTPStatus(status).phrase
    return QueryError(f"{status} {phrase}: {text}")


# columns of the parquet files that no query can name
BOOKKEEPING = ("storage_order", "seg_storage_order", "has_segmentation_row")
_AXES = ("_x", "_y", "_z")
_POSITION = "_position"


@dataclass(frozen=True)
class StoredColumn:
    """One column as the service's models declare it."""

    name: str  # name in a query; a point is one column here and three in every answer
    kind: str  # {"bigint", "integer", "float", "boolean", "string", "datetime", "point"}

    @property
    def stored(self) -> tuple[str, ...]:
        """Columns of the table file that hold it."""
        if self.kind == "point":
            return tuple(self.name + axis for axis in _AXES)
        return (self.name,)


@dataclass(frozen=True)
class Source:
    """Something that can be queried: a frozen table, a live table or a view."""

    name: str  # name on the wire
    relation: str  # what the engine calls it
    columns: dict[str, StoredColumn]  # columns in the order of an answer
    resolution: tuple[float, float, float]  # nm per voxel of its positions
    # the service reads the types of a view from the database and leaves them to pandas to find out
    reflected: bool = False
    split: bool = False  # A live table: annotations joined to their segmentation rows, which may be missing
    segmentation: tuple[str, ...] = field(default=())


@lru_cache(maxsize=4096)
def quoted(name: str) -> str:
    """Name of a table or column, safe inside SQL."""
    return '"' + name.replace('"', '""') + '"'


def with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:
    """Return rows with other values in one of their columns."""
    return rows.set_column(rows.column_names.index(name), name, values)


def source_columns(schema: pa.Schema) -> dict[str, StoredColumn]:
    """Columns of a stored table, the three axes of each point put together."""
    names = set(schema.names)
    columns: dict[str, StoredColumn] = {}
    for item in schema:
        if item.name in BOOKKEEPING:
            continue
        base = item.name[:-2]
        if f"_{base}".endswith(_POSITION) and all(base + axis in names for axis in _AXES):
            columns.setdefault(base, StoredColumn(base, "point"))
        else:
            columns[item.name] = StoredColumn(item.name, _kind(item.type))
    return columns


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_int64(kind) or pa.types.is_uint64(kind):
        return "bigint"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "float"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "datetime"
    return "string"


def is_looked_up(column: str, columns: Container[str]) -> bool:
    """Whether a column holds the supervoxel or root at a point of the same table, and not an id that was written."""
    point = column.removesuffix("_supervoxel_id").removesuffix("_root_id")
    return point != column and (f"{point}_position" in columns or f"{point}_position_x" in columns)


def flat_columns(
    live: Sequence[str], drop: Sequence[str] = ("created", "deleted", "superceded_id")
) -> list[str]:
    """Order of the columns of a frozen table, from that of the live one.

    Freezing puts the supervoxel and the root of a point beside its position; a live table has them at its end.
    """
    names = [name for name in live if name not in drop and name not in BOOKKEEPING]
    looked_up = [name for name in names if is_looked_up(name, names)]
    flat: list[str] = []
    for name in names:
        if name in looked_up:
            continue
        flat.append(name)
        base = name[: -len(_POSITION)] if name.endswith(_POSITION) else name.removesuffix(_POSITION + "_z")
        if base != name:
            flat += [column for column in (f"{base}_supervoxel_id", f"{base}_root_id") if column in looked_up]
    flat += [name for name in looked_up if name not in flat]
    return flat


def annotation_row(
    number: int, name: str, schema: str, resolution: tuple[float, float, float], **more: Any
) -> dict[str, Any]:
    """Metadata of a table of annotations; `more` are ``created``, ``last_modified``, ``description`` and the like."""
    row = {
        "id": number,
        "schema_type": schema,
        "table_name": name,
        "valid": True,
        "created": None,
        "deleted": None,
        "user_id": "1",
        "description": None,
        "notice_text": None,
        "reference_table": None,
        "flat_segmentation_source": None,
        **{f"voxel_resolution_{axis}": size for axis, size in zip("xyz", resolution, strict=True)},
        "write_permission": "PRIVATE",
        "read_permission": "PUBLIC",
        "last_modified": None,
    }
    return row | more


def segmentation_row(
    number: int, name: str, schema: str, pcg_table: str, *, created: str, updated: str
) -> dict[str, Any]:
    """Metadata of a table that binds annotations to the segmentation."""
    return {
        "id": number,
        "schema_type": schema,
        "table_name": f"{name}__{pcg_table}",
        "valid": True,
        "created": created,
        "deleted": None,
        "segmentation_source": None,
        "pcg_table_name": pcg_table,
        "last_updated": updated,
        "annotation_table": name,
    }


@dataclass
class Found:
    """Outcome of a query."""

    frame: pd.DataFrame | pa.RecordBatch  # a batch, notes for pandas included, only where Arrow is asked for
    warnings: list[str]
    resolution: list[float]  # nm per voxel of the positions
    names: dict[str, dict[str, str]]  # table -> column -> name in the frame
