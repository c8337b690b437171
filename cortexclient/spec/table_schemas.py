"""The annotation schemas of CAVE, and the columns that a table of each has.

The schemas are those of the package EMAnnotationSchemas, written down in ``table_schemas.yaml`` beside this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ColumnType",
    "TableField",
    "fields_of",
    "schema_names",
    "table_field",
    "table_schemas",
]

ColumnType = Literal[
    "bool",
    "int",
    "float",
    "text",
    "id",
    "user",
    "reference",
    "point",
    "bound_point",
    "derived_point",
    "position",
]
COLUMN_TYPES: tuple[str, ...] = get_args(ColumnType)


@dataclass(frozen=True, slots=True)
class TableField:
    """One field of an annotation schema, which becomes one column or, for points, several."""

    name: str
    type: ColumnType
    """``bool``, ``int``, ``float``, ``text``, ``id`` (64-bit integer), ``user`` (id of who wrote the row),
    ``reference`` (id of a row of another table), ``point`` (a position), ``bound_point`` (a position with its
    supervoxel and root), ``derived_point`` (a bound point with its level), ``position`` (bare)."""
    nullable: bool = False
    values: tuple[str | int, ...] = ()
    """The only values that are allowed; empty where any is."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns in the rows of a query with positions in one column."""
        if self.type == "point":
            return (f"{self.name}_position",)
        if self.type == "bound_point":
            return (f"{self.name}_position", f"{self.name}_supervoxel_id", f"{self.name}_root_id")
        if self.type == "derived_point":
            more = ("position", "supervoxel_id", "root_id", "dependent_chunk", "level")
            return tuple(f"{self.name}_{each}" for each in more)
        return (self.name,)


def table_field(name: str, what: Any) -> TableField:
    """Read one field as specs and the file of schemas write it: ``float``, ``text|null``, or a list of values."""
    if isinstance(what, list | tuple):
        values = tuple(value for value in what if value is not None)
        kinds = {type(value) for value in values}
        if kinds not in ({str}, {int}):
            raise ValueError("a list holds the values that the column may have: texts, or whole numbers")
        return TableField(name, "int" if kinds == {int} else "text", len(values) < len(what), values)
    kind, bar, null = (part.strip() for part in str(what).partition("|"))
    if kind not in COLUMN_TYPES or null != ("null" if bar else ""):
        raise ValueError(f"{str(what)[:60]!r} is not a type of column")
    return TableField(name, cast("ColumnType", kind), bool(bar))


@cache
def table_schemas() -> Mapping[str, tuple[TableField, ...]]:
    """Return the fields of every annotation schema by its name, in declared order and without ``valid``."""
    import yaml

    content = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {
        schema: tuple(table_field(name, what) for name, what in fields.items())
        for schema, fields in content.items()
    }


def schema_names() -> list[str]:
    """Return the names of all annotation schemas, sorted."""
    return sorted(table_schemas())


def fields_of(schema: str | None, further: Mapping[str, Any] | None = None) -> tuple[TableField, ...]:
    """Return the fields of a table: those of its schema, then its further ones. Raises KeyError for another schema.

    A further one of the same name takes the place of the schema's: it knows the values that this table has.
    """
    fields = {each.name: each for each in (table_schemas()[schema] if schema is not None else ())}
    fields |= {name: table_field(name, what) for name, what in (further or {}).items()}
    return tuple(fields.values())
