"""`Question`: what is asked of the materialization service, and how it is written down for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cortexclient.errors import InvalidQueryError

if TYPE_CHECKING:
    from datetime import datetime

    from cortexclient.session.query.metadata import TableInfo

__all__ = ["FILTERS", "Filters", "Question", "as_plain"]

FILTERS = {
    "in": "filter_in_dict",
    "out": "filter_notin_dict",
    "equal": "filter_equal_dict",
    "greater": "filter_greater_dict",
    "less": "filter_less_dict",
    "greater_equal": "filter_greater_equal_dict",
    "less_equal": "filter_less_equal_dict",
    "spatial": "filter_spatial_dict",
    "regex": "filter_regex_dict",
}
"""Kinds of filters, and the names they have on the wire."""

Filters = dict[str, dict[str, dict[str, Any]]]
"""kind -> table -> column -> value."""


def as_plain(value: Any) -> Any:
    """Give a filter value as plain Python: a NumPy scalar becomes a number, whatever can be walked through a list."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes | dict):
        return [as_plain(entry) for entry in value]
    return value


@dataclass(frozen=True, slots=True)
class Question:
    """One query, as asked and as sent.

    Parameters
    ----------
    kind : {"table", "view"}
        What ``name`` is.
    name : str
        The table or view. Of a joined pair it is the reference table.
    base : str or None
        The table that a reference table points at, if rows are to be joined with it.
    filters : dict
        kind -> table -> column -> value; kinds as in `FILTERS`, boxes in voxels of the table.
    select : tuple of str or None
        Columns asked for; None for all.
    suffixes : tuple of (table, suffix)
        Suffixes for columns that both joined tables have.
    resolution : tuple of float or None
        Resolution of positions to ask for (nm); None for the table's own.
    limit : int or None
        Most rows that are wanted.
    version : int or None
        Materialized version; None for a live query.
    timestamp : datetime.datetime or None
        Time of a live query.
    near : int or None
        For a live query, a version whose rows are about as many.
    batch : int or None
        Most values of a list filter to send at once.
    owners : dict
        Point of a joined answer -> the table that it is of, where the two have other units.
    thin : dict
        (table, column) -> box in nm that is applied to the rows that come.
    """

    kind: Literal["table", "view"]
    name: str
    base: str | None = None
    filters: Filters = field(default_factory=dict)
    select: tuple[str, ...] | None = None
    suffixes: tuple[tuple[str, str], ...] = ()
    resolution: tuple[float, ...] | None = None
    limit: int | None = None
    version: int | None = None
    timestamp: datetime | None = None
    allow_missing_lookups: bool = False
    allow_invalid_root_ids: bool = False
    near: int | None = None
    batch: int | None = None
    owners: dict[str, TableInfo] = field(default_factory=dict)
    thin: dict[tuple[str, str], tuple[list[float], list[float]]] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Whether this is a live query."""
        return self.version is None

    @property
    def countable(self) -> bool:
        """Whether the service can say how many rows the answer has."""
        return not self.live and self.base is None

    def nearly(self) -> Question | None:
        """Give a question that can be counted, and has about as many rows; None where there is none."""
        if self.live and (self.near is None or self._about_roots()):
            return None
        filters = {
            kind: {self.name: columns[self.name]}
            for kind, columns in self.filters.items()
            if self.name in columns
        }
        version = self.near if self.live else self.version
        return dataclasses.replace(
            self, base=None, suffixes=(), filters=filters, version=version, timestamp=None
        )

    def _about_roots(self) -> bool:
        columns = (name for tables in self.filters.values() for found in tables.values() for name in found)
        return any(name.endswith("root_id") for name in columns)

    @property
    def key(self) -> tuple[str, str]:
        """Table and column whose values split the rows: the id of the table itself."""
        return (self.name, "id")

    @property
    def key_name(self) -> str:
        """Name that the key column has in the answer."""
        return f"id{dict(self.suffixes).get(self.name, '')}" if self.base else "id"

    def where(self, kind: str, table: str, column: str, value: Any) -> Question:
        """Give the same question with one more filter."""
        filters = {
            name: {key: dict(columns) for key, columns in tables.items()}
            for name, tables in self.filters.items()
        }
        filters.setdefault(kind, {}).setdefault(table, {})[column] = value
        return dataclasses.replace(self, filters=filters)

    def longest_list(self) -> tuple[str, str, list[Any]] | None:
        """Table, column and values of the longest list filter that can be cut in two; None where there is none."""
        found: tuple[str, str, list[Any]] | None = None
        for table, columns in self.filters.get("in", {}).items():
            for column, values in columns.items():
                if len(values) > 1 and (found is None or len(values) > len(found[2])):
                    found = (table, column, values)
        return found

    def path(self, datastack: str) -> str:
        """Path of the query on the materialization service."""
        if self.live:
            return f"/materialize/api/v3/datastack/{datastack}/query"
        start = f"/materialize/api/v3/datastack/{datastack}/version/{self.version}"
        if self.base:
            return f"{start}/query"
        return f"{start}/{'views' if self.kind == 'view' else 'table'}/{self.name}/query"

    def params(self, *, count: bool = False) -> dict[str, str]:
        """Query string."""
        params = {"return_pyarrow": "True", "arrow_format": "True", "direct_sql_pandas": "True"}
        if self.live:
            params |= {
                "merge_reference": "False",
                "allow_missing_lookups": str(self.allow_missing_lookups),
                "allow_invalid_root_ids": str(self.allow_invalid_root_ids),
            }
        else:
            params["split_positions"] = "True"
        if count:
            params["count"] = "True"
        return params

    def body(self) -> dict[str, Any]:
        """JSON body."""
        body: dict[str, Any] = {FILTERS[kind]: tables for kind, tables in self.filters.items() if tables}
        if self.live:
            if self.timestamp is None:
                raise InvalidQueryError("a query needs a version or a timestamp", service="materialize")
            body |= {"table": self.name, "timestamp": self.timestamp.isoformat()}
            if self.base:
                body["join_tables"] = [[self.name, "target_id", self.base, "id"]]
                body["suffixes"] = dict(self.suffixes)
        elif self.base:
            body["tables"] = [[self.name, "target_id"], [self.base, "id"]]
            body["suffix_map"] = dict(self.suffixes)
        if self.select is not None and not self.base:
            body["select_columns"] = {self.name: list(self.select)} if self.live else list(self.select)
        if self.limit is not None:
            body["limit"] = self.limit
        if self.resolution is not None:
            body["desired_resolution"] = list(self.resolution)
        return body
