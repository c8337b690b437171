"""`LocalStore`: the pulled tables of one datastack, which answer the same queries as the server at their versions."""

from __future__ import annotations

import io
import operator
import re
import reprlib
from functools import cached_property, partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cortexclient.errors import InvalidQueryError, StoreError
from cortexclient.session import SnapshotStore, triples
from cortexclient.store.places import FolderPlace, open_place
from cortexclient.store.tables import MANIFEST, StoredTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cortexclient.session import Query
    from cortexclient.store.places import Place

__all__ = ["METADATA", "LocalStore"]

METADATA = "_metadata.zip"
_SMALL = 200_000
_LONG = 1000
_SPARSE = 10_000
"""Rows of a table for each key that is looked up: one costs a row group of thousands, so with more, all are read."""
_COMPARE = {"equal": "eq", "greater": "gt", "less": "lt", "greater_equal": "ge", "less_equal": "le"}


class LocalStore:
    """The tables of one datastack in a store, a folder or one in a bucket or on a web server, which is read by ranges.

    A source of tables for a session. With `only`, a frozen table that is not here raises; else the server is queried.
    """

    def __init__(self, path: str | Path, datastack: str, *, only: bool = False) -> None:
        self.path = str(path).rstrip("/")
        self.datastack = datastack
        self.only = only
        self._tables: dict[tuple[int, str], StoredTable | None] = {}
        self._metadata: dict[int, SnapshotStore | None] = {}

    def __repr__(self) -> str:
        return f"LocalStore({self.path!r}, {self.datastack!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (partial(LocalStore, only=self.only), (self.path, self.datastack))

    @cached_property
    def folder(self) -> Path | None:
        """The folder, where the store is one of this machine."""
        place = open_place(self.path)
        return place.folder / self.datastack if isinstance(place, FolderPlace) else None

    def versions(self) -> list[int]:
        """List the versions that something was pulled of; of a store elsewhere those that were looked at."""
        if self.folder is None:
            return sorted({version for version, found in self._metadata.items() if found is not None})
        if not self.folder.is_dir():
            return []
        found = (re.fullmatch(r"v(\d+)", path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def names(self, version: int) -> list[str]:
        """List the tables of a version, complete ones only."""
        place = None if self.folder is None else self.folder / f"v{version}"
        return [] if place is None else sorted(path.parent.name for path in place.glob(f"*/{MANIFEST}"))

    def table(self, version: int, name: str) -> StoredTable | None:
        """Return a table; None where it is not here. Raises `StoreError` if it is here and damaged.

        Where it cannot be known, the same is raised if nothing else may answer, and it is tried again the next time.
        """
        if (version, name) not in self._tables:
            where = f"{self.path}/{self.datastack}/v{version}/{name}"
            place = open_place(where)
            try:
                content = _content(place, MANIFEST)
            except StoreError:
                if self.only:
                    raise
                return None
            self._tables[version, name] = None if content is None else StoredTable(place, where, content)
        return self._tables[version, name]

    def metadata(self, version: int | None) -> SnapshotStore | None:
        """Return what the services said about a version when its first table was pulled; None for the newest one."""
        if version is None:
            version = max(self.versions(), default=-1)
        if version not in self._metadata:
            folder = f"{self.path}/{self.datastack}/v{version}"
            try:
                content = _content(open_place(folder), METADATA)
            except StoreError:
                if self.only:
                    raise
                return None
            self._metadata[version] = (
                None
                if content is None
                else SnapshotStore(f"{folder}/{METADATA}", partial(io.BytesIO, content))
            )
        return self._metadata[version]

    def holds(self, query: Query) -> bool:
        """Whether a planned query can be answered here; raises `StoreError` if not and nothing else may answer."""
        if query.version is None:
            return False
        names = [query.name] if query.base is None else [query.name, query.base.name]
        missing = [name for name in names if self.table(query.version, name) is None]
        if missing and self.only:
            raise StoreError(
                f"{missing[0]!r} of {self.datastack} at version {query.version} is not in the store {self.path}; pull "
                f"it (`cortexclient pull DATASET@{query.version} {missing[0]}`), or load with source='auto' to ask the "
                "server for it"
            )
        return not missing

    def rows(self, query: Query) -> pa.Table:
        """Return the rows of a planned query, as the server has them: in voxels of the table, split, in any order.

        Raises `InvalidQueryError` if a filter names no column of the table, or does not fit its type.
        """
        own = self._require(query.version, query.name)
        if query.base is None:
            found = _select(own, query, query.name, query.columns)
        else:
            found = _joined(own, self._require(query.version, query.base.name), query, query.base.name)
        if query.most is None or len(found) <= query.most:
            return found
        key = query.key_name if query.key_name in found.column_names else found.column_names[0]
        return found.sort_by(key)[: query.most]

    def _require(self, version: int | None, name: str) -> StoredTable:
        found = None if version is None else self.table(version, name)
        if found is None:
            raise StoreError(f"{name!r} is not in the store {self.path}")
        return found


def _content(place: Place, name: str) -> bytes | None:
    """Return the content of a file; None where there is none."""
    try:
        return place.read(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # whatever a bucket raises
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{place.uri}/{name} cannot be read ({reason}); try again") from error


def _joined(own: StoredTable, base: StoredTable, query: Query, base_name: str) -> pa.Table:
    """Join a reference table with the table that it refers to, and name what both have as the server does."""
    sides = [(own, query.name, "target_id"), (base, base_name, "id")]
    if _is_keyed(base, query, base_name) and not _is_keyed(own, query, query.name):
        sides.reverse()  # what a key narrows down is read first, and tells the other which ids are wanted
    (first, first_name, first_link), (second, second_name, second_link) = sides
    found = _select(first, query, first_name, None)
    ids = pc.unique(found.column(first_link).drop_null()).to_numpy()
    parts = {first_name: found, second_name: _select(second, query, second_name, None, (second_link, ids))}
    rows, others = parts[query.name], parts[base_name]
    place = pc.index_in(rows.column("target_id"), value_set=others.column("id").combine_chunks())
    keep = pc.indices_nonzero(place.is_valid())
    rows, others = rows.take(keep), others.take(place.take(keep))
    shared = set(rows.column_names) & set(others.column_names)
    columns = {}
    for name, table in ((base_name, others), (query.name, rows)):  # as the server orders them
        suffix = query.suffixes.get(name, "")
        for column in table.column_names:
            columns[_suffixed(column, suffix) if column in shared else column] = table.column(column)
    return pa.table(columns)


def _suffixed(column: str, suffix: str) -> str:
    """Add the suffix of a table; to a point's name, before its axis."""
    point = re.fullmatch(r"(.*_position)(_[xyz])", column)
    return f"{point[1]}{suffix}{point[2]}" if point else f"{column}{suffix}"


def _select(
    table: StoredTable,
    query: Query,
    name: str,
    columns: Sequence[str] | None,
    among: tuple[str, Any] | None = None,
) -> pa.Table:
    """Read the rows of one table that its filters let through, and of them those ``among`` some ids of a column.

    Rows are found by a key where one is filtered, else all are read, first the columns that tell which are wanted.
    """
    filters = _filters_of(query, name)
    _require_columns(table, filters, name)
    known = set(table.names)
    wanted = table.names if columns is None else _spread([c for c in columns if {c, f"{c}_x"} & known], known)
    if among is not None:
        filters.append(("in", *among))
    filtered = _spread([column for _, column, _ in filters], known)
    needed = list(dict.fromkeys([*wanted, *filtered]))
    lists = [entry for entry in filters if entry[0] in {"in", "equal"} and entry[1] in table.keys]
    best = min(lists, key=lambda entry: len(_as_list(entry[2])), default=None)
    long = next((entry for entry in filters if best is None and _is_long(entry, table)), None)
    condition = _condition(
        table, needed, [entry for entry in filters if entry is not best and entry is not long]
    )
    try:
        if best is not None:
            found = table.find(best[1], _ids(best, table), needed)
        elif long is not None:
            values = _values(table, *long[1:], table.schema([long[1]]).field(0).type)
            return table.filtered(condition, wanted, needed, (long[1], values))
        elif condition is None or (keys := _keys_of(table, condition, filtered)) is None:
            return table.filtered(condition, wanted, needed)
        else:
            found = table.find(table.keys[0], keys, needed)
        return (found if condition is None else found.filter(condition)).select(wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _misfit(table, str(error)) from error


def _keys_of(table: StoredTable, condition: pc.Expression, filtered: Sequence[str]) -> Any:
    """Return the keys of the rows that a condition lets through; None where there are too many to look up."""
    key = table.keys[0]
    if table.manifest.rows < _SMALL or table.schema([key]).field(key).type != pa.int64():
        return None
    found = table.filtered(condition, [key], list(dict.fromkeys([key, *filtered]))).column(key)
    keys = pc.unique(found)
    return None if found.null_count or len(keys) > table.manifest.rows // _SPARSE else keys.to_numpy()


def _is_long(entry: tuple[str, str, Any], table: StoredTable) -> bool:
    """Whether a filter is a list so long that to look its rows up by their keys would read the whole table."""
    return entry[0] == "in" and len(_as_list(entry[2])) > max(_LONG, table.manifest.rows // _SPARSE)


def _is_keyed(table: StoredTable, query: Query, name: str) -> bool:
    """Whether a filter names keys of a table, so that few of its rows are read."""
    return any(entry[0] in {"in", "equal"} and entry[1] in table.keys for entry in _filters_of(query, name))


def _filters_of(query: Query, name: str) -> list[tuple[str, str, Any]]:
    """List the filters of one table: kind, column, value. Exclusions are made later, as for the server."""
    return [
        (kind, column, value)
        for kind, tables in query.filters.items()
        if kind != "out"
        for column, value in tables.get(name, {}).items()
    ]


def _require_columns(table: StoredTable, filters: Sequence[tuple[str, str, Any]], name: str) -> None:
    points = triples(table.names)
    # one axis of a point is no column of the server's, and would be in voxels
    axes = {axis for point in points if point.endswith("position") for axis in points[point]}
    known = {*table.names} - axes
    for kind, column, _ in filters:
        if column not in (points if kind == "spatial" else known):
            names = ", ".join(
                [*points] if kind == "spatial" else [name for name in table.names if name in known]
            )
            reason = f"{name!r} has no column {column!r} to filter by; it has {names}"
            raise InvalidQueryError(reason, service="store", url=table.where)


def _spread(columns: Sequence[str], known: set[str]) -> list[str]:
    names = []
    for column in columns:
        names += [column] if column in known else [f"{column}_{axis}" for axis in "xyz"]
    return list(dict.fromkeys(names))


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) or hasattr(value, "__array__") else [value]


def _ids(best: tuple[str, str, Any], table: StoredTable) -> Any:
    if isinstance(best[2], np.ndarray) and best[2].dtype == np.int64:
        return best[2]
    values = _as_list(best[2])
    if not all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values):
        raise _misfit(table, f"{best[1]} holds ids, not {values[:3]}")
    return np.array(values, dtype=np.int64)


def _condition(
    table: StoredTable, columns: Sequence[str], filters: Sequence[tuple[str, str, Any]]
) -> pc.Expression | None:
    """Write filters as one Arrow expression; None where there are none. Nulls pass none of them, as in SQL."""
    if not filters:
        return None  # and no footer is read for the types
    schema = table.schema(columns)
    return reduce(operator.and_, [part for entry in filters for part in _parts(table, schema, *entry)])


def _parts(table: StoredTable, schema: pa.Schema, kind: str, column: str, value: Any) -> list[Any]:
    if kind == "spatial":
        low, high = value
        places = [pc.field(f"{column}_{axis}") for axis in "xyz"]
        return [
            test for place, a, b in zip(places, low, high, strict=True) for test in (place >= a, place <= b)
        ]
    field, kind_of = pc.field(column), schema.field(column).type
    if kind == "in":
        return [field.isin(_values(table, column, value, kind_of))]
    if kind == "regex":
        return [pc.match_substring_regex(field, value)]
    plain = _values(table, column, [value], kind_of, cast=False)[0]
    return [getattr(operator, _COMPARE[kind])(field, plain)]


def _values(
    table: StoredTable, column: str, value: Any, kind_of: pa.DataType, *, cast: bool = True
) -> pa.Array:
    """Return values as the type of a column; without `cast`, numbers as they are.

    As a database does, read text as that type, times without a zone as UTC, and refuse values of another sort.
    """
    import pandas as pd

    try:
        values = pa.array(value if isinstance(value, np.ndarray) else _as_list(value))
        given, wanted = _sort_of(values.type), _sort_of(kind_of)
        if len(values) and given not in {wanted, "text"}:
            raise TypeError(f"no {wanted} can be compared with a {given}")
        if wanted == "number" == given and not cast:
            return values
        if pa.types.is_timestamp(kind_of):
            values = pa.array(pd.to_datetime(values.to_pandas(), utc=True, format="mixed"))
        return values.cast(kind_of, safe=not pa.types.is_floating(kind_of))
    except (ValueError, TypeError, OverflowError, pa.ArrowNotImplementedError) as error:
        raise _misfit(table, f"{column} holds {kind_of}, not {reprlib.repr(value)}: {error}") from error


def _sort_of(kind: pa.DataType) -> str:
    """Return which values a type can be compared with."""
    if pa.types.is_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "truth value"
    return "time" if pa.types.is_temporal(kind) else "number"


def _misfit(table: StoredTable, reason: str) -> InvalidQueryError:
    message = f"a filter of {table.where} does not fit its column: {' '.join(reason.split())[:200]}"
    return InvalidQueryError(message, service="store", url=table.where)
