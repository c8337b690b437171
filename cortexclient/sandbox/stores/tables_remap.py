"""Root ids across time: filters taken back to a version, rows brought forward from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cortexclient.sandbox.stores.tables_errors import QueryError, aborted

if TYPE_CHECKING:
    from cortexclient.sandbox.stores.graph import ChunkedGraph

__all__ = ["filters_at_version", "with_roots_at"]

Ids = NDArray[np.int64]
Filters = dict[str, dict[str, dict[str, Any]]]
# filters that are taken back; places, patterns and exclusions are left as they are
_REMAPPED = (
    "filter_in_dict",
    "filter_equal_dict",
    "filter_greater_dict",
    "filter_less_dict",
    "filter_greater_equal_dict",
    "filter_less_equal_dict",
)


def filters_at_version(
    body: Mapping[str, Any],
    graph: ChunkedGraph,
    *,
    asked: datetime,
    version: datetime,
    allow_invalid: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Body of a live query with its root filters as they have to be at a version.

    Parameters
    ----------
    body : mapping
        Filters hold roots that are valid at the time asked.
    asked, version : datetime.datetime
        Times of the query and of the version.
    allow_invalid : bool
        Warn of roots that are not valid at the time asked, instead of refusing them.

    Returns
    -------
    body : dict
    warnings : list of str

    Raises
    ------
    QueryError
        If a root is not valid and that is not allowed, or none is.
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
    """Rows with the roots that their supervoxels have at a time.

    Parameters
    ----------
    frame : pandas.DataFrame
        Columns ``*supervoxel_id`` with ``*root_id`` beside; a supervoxel of 1 awaits its lookup.
    allow_missing : bool
        Leave such rows out with a warning, instead of refusing the query.

    Raises
    ------
    QueryError
        If rows await their lookup and that is not allowed.
    KeyError
        If a supervoxel column has no root column beside it.
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
