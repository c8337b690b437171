"""Live queries: the nearest version, with what was written since added and every root looked up again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from cortexclient.sandbox.arrays import Ids
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
from cortexclient.sandbox.stores.graph.state import aware
from cortexclient.sandbox.stores.tables.model import Found, QueryError, Source, aborted
from cortexclient.sandbox.stores.tables.query import BODY_FILTERS, EXCLUSION, Selection
from cortexclient.sandbox.stores.tables.store import TableStore
from cortexclient.sandbox.stores.tables.versions import naive

Filters = dict[str, dict[str, dict[str, Any]]]
# filters that are taken back; places, patterns and exclusions are left as they are
_REMAPPED = [key for key in BODY_FILTERS if key not in ("filter_spatial_dict", "filter_regex_dict")]


def filters_at_version(
    body: Mapping[str, Any], graph: ChunkedGraph, *, asked: datetime, version: datetime, allow_invalid: bool
) -> tuple[dict[str, Any], list[str]]:
    """Body of a live query with its root filters as they have to be at a version.

    In the body they are as of the time asked. ``allow_invalid`` warns of roots that are not valid at the time asked,
    instead of refusing them. Raise QueryError if a root is not valid and that is not allowed, or none is.
    """
    filters: Filters = {key: body[key] for key in _REMAPPED if body.get(key) is not None}
    given = [
        [value] if not isinstance(value, Iterable) else value
        for tables in filters.values()
        for columns in tables.values()
        for column, value in (columns or {}).items()
        if column.endswith("root_id")
    ]
    if not given:
        return dict(body), []
    roots: Ids = np.unique(np.concatenate([np.asarray(values) for values in given]))
    valid = graph.is_latest(roots, asked) if len(roots) else np.zeros(0, dtype=bool)
    invalid, warnings = roots[~valid], []
    if len(invalid):
        text = f"Some root_ids passed are not valid at the query timestamp: {invalid}"
        if not allow_invalid:
            raise aborted(400, text)
        warnings.append(text)
        roots = roots[valid]
    if not len(roots):
        gap = " " * 25
        raise QueryError(
            f"ALL root id filters passed ({invalid}) {gap}were invalid at timestamp {asked}. {gap}At least one root id "
            f"must be valid when using {gap}`allow_invalid_root_ids=True`"
        )
    if asked == version:
        return dict(body), warnings
    remapped = {**body, **_remapped(filters, _mapping(graph, roots, version), roots, allow_invalid)}
    return _equal_to_in(remapped), warnings


def _mapping(graph: ChunkedGraph, roots: Ids, at: datetime) -> dict[int, list[int]]:
    """Root -> the roots at another time that share supervoxels with it."""
    supervoxels, owner = graph.descendants(roots, 1)
    there = graph.roots(supervoxels, at)
    return {
        int(root): np.unique(there[(owner == index) & (there != 0)]).tolist()
        for index, root in enumerate(roots)
    }


def _remapped(filters: Filters, mapping: dict[int, list[int]], roots: Ids, allow_invalid: bool) -> Filters:
    found: Filters = {}
    for key, tables in filters.items():
        found[key] = {
            table: {
                column: _value(column, value, mapping, roots, allow_invalid)
                for column, value in (columns or {}).items()
            }
            for table, columns in tables.items()
        }
    return found


def _value(column: str, value: Any, mapping: dict[int, list[int]], roots: Ids, allow_invalid: bool) -> Any:
    if allow_invalid:
        # the service keeps valid roots only, and takes the values of every other column for roots too
        known = set(roots.tolist())
        value = [item for item in (value if isinstance(value, list) else [value]) if item in known]
    if not column.endswith("root_id"):
        return value
    if not isinstance(value, Iterable):
        return mapping.get(value, [])
    if not value:
        raise QueryError("need at least one array to concatenate")
    return [there for item in value for there in mapping.get(item, [])]


def _equal_to_in(body: dict[str, Any]) -> dict[str, Any]:
    """One root may have been several: filters for equality become lists."""
    equal = body.get("filter_equal_dict")
    if equal is None:
        return body
    within = {table: dict(columns) for table, columns in (body.get("filter_in_dict") or {}).items()}
    rest: dict[str, dict[str, Any]] | None = {table: dict(columns) for table, columns in equal.items()}
    for table, columns in equal.items():
        if rest is None:  # the service forgets the other tables once one has nothing left, and fails on them
            raise QueryError("'NoneType' object is not subscriptable")
        for column, value in columns.items():
            if column.endswith("root_id") and isinstance(value, Iterable):
                within.setdefault(table, {})[column] = rest[table].pop(column)
        if not rest[table]:
            rest = None
    return {**body, "filter_in_dict": within, "filter_equal_dict": rest}


def with_roots_at(
    frame: pd.DataFrame, graph: ChunkedGraph, at: datetime, *, allow_missing: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Rows with the roots that their supervoxels have at a time; a supervoxel of 1 awaits its lookup.

    ``allow_missing`` leaves such rows out with a warning, instead of refusing the query. Raise QueryError if rows await
    their lookup and that is not allowed, and KeyError if a supervoxel column has no root column beside it.
    """
    warnings: list[str] = []
    pairs = []
    for name in [str(name) for name in frame.columns if str(name).endswith("supervoxel_id")]:
        waiting = (frame[name] == 1).to_numpy(dtype=bool, na_value=False)
        if waiting.any():
            text = (
                f"There are {int(waiting.sum())} annotations that need supervoxel lookups, wait till new annotation "
                "ingest is done or pick an less recent timestamp"
            )
            if not allow_missing:
                raise aborted(406, text)
            warnings.append(text)
            frame = frame[~waiting]
        pair = (name, name.removesuffix("supervoxel_id") + "root_id")
        if pair[1] not in frame.columns:
            raise KeyError(pair[1])
        pairs.append(pair)
    if not pairs or not len(frame):
        return frame, warnings
    frame = frame.copy()
    stored = {root: frame[root].to_numpy(dtype=np.int64, na_value=0) for _, root in pairs}
    unique = np.unique(np.concatenate(list(stored.values())))
    current = unique[(unique == 0) | graph.is_latest(unique, at)]
    for supervoxel, root in pairs:
        stale = ~np.isin(stored[root], current)
        if stale.any():
            wanted, inverse = np.unique(
                frame[supervoxel].to_numpy(dtype=np.int64, na_value=0)[stale], return_inverse=True
            )
            stored[root][stale] = graph.roots(wanted, at)[inverse]
        frame[root] = pd.Series(stored[root], index=frame.index).astype(frame[root].dtype)
    return frame, warnings


Names = dict[str, dict[str, str]]
# rows that one query of the service returns where nobody says how many, above its own cap
_UNLIMITED = 250_000
_HIDDEN = ("valid", "superceded_id")


@dataclass
class _Part:
    frame: pd.DataFrame | None
    names: Names
    warnings: list[str]


def live_rows(store: TableStore, body: dict[str, Any], arguments: dict[str, Any]) -> Found:
    """Rows of a table as they stand at any time, from a checked body and the arguments of the query.

    Raise QueryError where the service answers with an error.
    """
    options = store.world.options
    body = {**body, "limit": min(options.row_limit, body.get("limit", options.row_limit))}
    asked: datetime = body["timestamp"]
    chosen = _nearest(store, asked)
    metadata = store.metadata(body["table"])
    if metadata is None:
        raise QueryError("'NoneType' object is not subscriptable")
    if chosen is None:
        raise aborted(
            400, "there is no future or past version for this timestamp, is materialization broken?"
        )
    version, at = chosen
    body["desired_resolution"] = body.get("desired_resolution") or list(store.resolution(body["table"]))
    at_version, warnings = filters_at_version(
        body,
        store.world.graph,
        asked=asked,
        version=at,
        allow_invalid=bool(arguments.get("allow_invalid_root_ids")),
    )
    query = _Query(store, body, typed=bool(arguments.get("direct_sql_pandas")))
    frozen = query.frozen(at_version, version)
    written = _Part(None, {}, [])
    modified = aware(metadata["last_modified"])
    if modified > at or modified > asked:
        written = query.written(body, at, allow_missing=bool(arguments.get("allow_missing_lookups")))
        if frozen.frame is None:
            frozen.names = written.names
    frame = _combined(frozen, written, body, at)
    frame = _filtered(frame, body, frozen.names, strict=options.strict)
    frame, names = _asked_columns(frame, body, frozen.names)
    return Found(frame, warnings + frozen.warnings + written.warnings, body["desired_resolution"], names)


def _nearest(store: TableStore, asked: datetime) -> tuple[int, datetime] | None:
    """The latest valid version up to a time, or the first one after it."""
    versions = sorted((aware(row["time_stamp"]), int(row["version"])) for row in store.versions())
    before = [entry for entry in versions if entry[0] <= asked]
    if before:
        return before[-1][1], before[-1][0]
    return (versions[0][1], versions[0][0]) if versions else None


class _Query:
    """The two halves of a live query."""

    def __init__(self, store: TableStore, body: dict[str, Any], *, typed: bool) -> None:
        self.store = store
        self.table: str = body["table"]
        self.asked: datetime = body["timestamp"]
        self.resolution: list[float] = body["desired_resolution"]
        self.typed = typed

    def _configured(
        self, body: dict[str, Any], find: Callable[[str], Source], skip: tuple[str, ...]
    ) -> Selection:
        query = Selection(
            self.store.engine,
            find,
            limit=body.get("limit") or _UNLIMITED,
            offset=body.get("offset") or None,
            suffixes=body.get("suffixes"),
            typed=self.typed,
            lenient=not self.store.world.options.strict,
        )
        query.source(self.table)
        joins = body.get("join_tables") or []
        for left, left_column, right, right_column in joins:
            query.join(left, left_column, right, right_column)
        if body.get("select_columns"):
            for table, columns in body["select_columns"].items():
                for column in columns:
                    query.select(table, column)
        else:
            for table in dict.fromkeys(
                [self.table, *(name for join in joins for name in (join[0], join[2]))]
            ):
                query.select_all(table, skip)
        for key, comparison in BODY_FILTERS.items():
            query.filter(body.get(key), comparison)
        return query

    def frozen(self, body: dict[str, Any], version: int) -> _Part:
        """Rows of the version, with their roots at the time asked."""
        if not self.store.row_count(self.table, version):
            return _Part(None, {}, [])

        query = self._configured(body, lambda name: self.store.queried(name, version), ())
        query.filter({self.table: {"valid": True}}, "=")
        frame, names = query.run(self.resolution)
        frame, warnings = with_roots_at(frame, self.store.world.graph, self.asked)
        return _Part(frame, names, warnings + _full(frame, body["limit"], 8))

    def written(self, body: dict[str, Any], at: datetime, *, allow_missing: bool) -> _Part:
        """Rows created or deleted between the version and the time asked."""
        if at == self.asked:
            raise aborted(400, "do not use live live query to query a materialized timestamp")
        unrooted = {
            key: {
                table: {column: value for column, value in columns.items() if not column.endswith("_root_id")}
                for table, columns in filters.items()
            }
            if key in _REMAPPED
            else filters
            for key, filters in body.items()
        }
        query = self._configured(unrooted, self._live, _HIDDEN)
        for column in ("created", "deleted", "superceded_id"):
            query.select(self.table, column)
        start, end = (f"CAST('{naive(moment)}' AS TIMESTAMP)" for moment in sorted((at, self.asked)))
        fields = [f'"{self.table}".{name} BETWEEN {start} AND {end}' for name in ("created", "deleted")]
        query.where(f"({' OR '.join(fields)})")
        frame, names = query.run(self.resolution)
        frame, warnings = with_roots_at(
            frame, self.store.world.graph, self.asked, allow_missing=allow_missing
        )
        return _Part(frame, names, warnings + _full(frame, body["limit"], 4))

    def _live(self, name: str) -> Source:
        row = self.store.annotation_rows.get(name)
        if row is None:
            raise aborted(404, f"Table {name} not found in metadata database")
        if name not in self.store.segmentation_rows and not row.get("reference_table"):
            relation = f"{name}__{self.store.world.names.pcg_table}"
            raise QueryError(f'Execution failed on sql: relation "{relation}" does not exist')
        return self.store.live(name)


def _full(frame: pd.DataFrame, limit: int, blanks: int) -> list[str]:
    if len(frame) < limit:
        return []
    text = (
        f"result has {len(frame)} entries, which is equal or more {' ' * blanks}than limit of {limit} "
        "there may be more results which are not shown"
    )
    return [text]


def _combined(frozen: _Part, written: _Part, body: dict[str, Any], at: datetime) -> pd.DataFrame:
    """Version and later rows put together: what was deleted goes, what is new comes first."""
    table, asked = body["table"], body["timestamp"]
    bookkeeping = [
        names[key] for names in written.names.values() for key in ("deleted", "superceded_id") if key in names
    ]
    created = [names["created"] for names in written.names.values() if "created" in names]
    old, new = frozen.frame, written.frame
    if old is not None and len(old) == 0:
        if new is None:
            return old.drop(columns=bookkeeping, errors="ignore")
        old = None
    if old is None and new is None:
        raise aborted(400, f"This query on table {table} returned no results")
    index = frozen.names[table]["id"]
    old = None if old is None else old.set_index(index)
    if new is None:
        assert old is not None
        return old.reset_index()
    new = new.set_index(index)
    if old is None and len(new) == 0:
        return new.drop(columns=[*bookkeeping, *created], errors="ignore").reset_index()
    names = written.names[table]
    deleted, made = (_between(new[names[key]], at, asked) for key in ("deleted", "created"))
    # backwards in time the two change places: what was deleted since stands, what was created since does not
    gone, come = (deleted, made) if at < asked else (made, deleted)
    kept = new.drop(index=new.index[gone]) if gone.any() else new
    if old is None:
        return new[come & ~gone].drop(columns=bookkeeping, errors="ignore").reset_index()
    kept = kept.drop(columns=[*bookkeeping, *(name for name in created if name not in old)])
    old = old.drop(index=new.index[gone & ~come], errors="ignore")
    return _stacked(kept, old).reset_index()


def _stacked(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """One frame under the other, where an empty one has no say in the types but that it may know none."""
    if len(first):
        return pd.concat([first, second])
    order = [*first.columns, *(name for name in second.columns if name not in first.columns)]
    untyped = [
        name
        for name, kind in first.dtypes.items()
        if kind.kind == "O"
        and isinstance(second.dtypes.get(name), np.dtype)
        and second[name].dtype.kind == "i"
    ]
    return second.reindex(columns=order).astype(dict.fromkeys(untyped, object))


def _between(times: pd.Series, one: datetime, other: datetime) -> np.ndarray[Any, np.dtype[np.bool_]]:
    start, end = sorted((one, other))
    times = pd.to_datetime(times, utc=True)
    return ((times > start) & (times < end)).to_numpy(dtype=bool)


def _filtered(frame: pd.DataFrame, body: dict[str, Any], names: Names, *, strict: bool) -> pd.DataFrame:
    """Apply the filters once more, to the roots as they are at the time asked."""
    tests: dict[str, Callable[[pd.Series, Any], pd.Series]] = {
        "filter_in_dict": lambda values, wanted: values.isin(wanted),
        "filter_equal_dict": lambda values, wanted: values == wanted,
        "filter_greater_dict": lambda values, wanted: values > wanted,
        "filter_less_dict": lambda values, wanted: values < wanted,
        "filter_greater_equal_dict": lambda values, wanted: values >= wanted,
        "filter_less_equal_dict": lambda values, wanted: values <= wanted,
    }
    if not strict:
        tests[EXCLUSION] = lambda values, unwanted: ~values.isin(unwanted)
    for key, test in tests.items():
        for table, columns in (body.get(key) or {}).items():
            for column, value in columns.items():
                keep = test(frame[names[table][column]], value).to_numpy(dtype=bool, na_value=False)
                if not keep.all():
                    left = np.asarray(frame.index, dtype=np.int64)[keep]
                    # the service leaves the gaps in the row numbers, and they show in its answer
                    frame = frame[keep].set_axis(pd.Index(left, dtype="int64"), axis=0)
    return frame


def _asked_columns(frame: pd.DataFrame, body: dict[str, Any], names: Names) -> tuple[pd.DataFrame, Names]:
    """Drop columns that were not requested, mostly supervoxels."""
    chosen = body.get("select_columns")
    if chosen is None:
        return frame, names
    extra = [
        (table, column)
        for table, columns in names.items()
        for column in columns
        if column not in chosen[table]
    ]
    frame = frame.drop(columns=[names[table][column] for table, column in extra])
    kept = {
        table: {column: label for column, label in columns.items() if (table, column) not in extra}
        for table, columns in names.items()
    }
    return frame, kept
