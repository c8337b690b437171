"""Freezing: what a materialized version holds of the live tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cortexclient.sandbox.arrays import Ids
from cortexclient.sandbox.stores.graph.state import aware
from cortexclient.sandbox.stores.tables.model import flat_columns, with_column

if TYPE_CHECKING:
    from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
    from cortexclient.sandbox.stores.tables.store import TableStore

# what the client parses: six digits of a second and no zone
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%f"
_LIFETIME = timedelta(days=7)


def naive(moment: datetime) -> datetime:
    """UTC without a zone, as the database keeps times."""
    return aware(moment).astimezone(UTC).replace(tzinfo=None)


def version_row(
    identity: int,
    datastack: str,
    version: int,
    moment: datetime,
    *,
    expires: datetime | None = None,
    valid: bool = True,
) -> dict[str, Any]:
    """Row of a version; a new one lives for a week."""
    return {
        "id": identity,
        "datastack": datastack,
        "version": version,
        "time_stamp": naive(moment).strftime(TIME_FORMAT),
        "valid": valid,
        "expires_on": naive(expires or moment + _LIFETIME).strftime(TIME_FORMAT),
        "status": "AVAILABLE" if valid else "EXPIRED",
        "is_merged": True,
        "parent_version": None,
    }


def freeze(store: TableStore, table: str, moment: datetime) -> tuple[pa.Table, int]:
    """Rows of a table at a moment, in the columns of a frozen one, and how many of them are valid."""
    rows = store.live_rows(table)
    at = pa.scalar(naive(moment), pa.timestamp("us"))
    written = pc.less_equal(rows["created"], at)
    rows = rows.filter(pc.fill_null(written, False))
    standing = pc.fill_null(pc.greater(rows["deleted"], at), True)
    if store.annotation_rows[table].get("reference_table"):
        # a reference table keeps its replaced rows: only the flag tells them apart
        rows = with_column(rows, "valid", standing)
    else:
        rows = rows.filter(standing)
        rows = with_column(rows, "valid", pa.repeat(True, len(rows)))
    if "has_segmentation_row" in rows.column_names:
        rows = rows.filter(pc.fill_null(rows["has_segmentation_row"], False))
        rows = looked_up_again(rows, store.world.graph, moment, view=False)
    names = rows.column_names
    flat = flat_columns(names)
    order = ["id", "valid", *(["target_id"] if "target_id" in names else [])]
    order += [name for name in flat if name not in order]
    return rows.select(order), int(pc.sum(rows["valid"]).as_py() or 0)


def looked_up_again(
    rows: pa.Table, graph: ChunkedGraph, moment: datetime | None, *, view: bool = True
) -> pa.Table:
    """Rows with the root that each supervoxel has at a moment.

    A root of a view without its supervoxel beside it becomes the root that holds most of what it was; in a table, it is
    an id that somebody wrote, and stays.
    """
    if not graph.available:
        return rows
    for name in rows.column_names:
        if not name.endswith("root_id"):
            continue
        beside = name.removesuffix("root_id") + "supervoxel_id"
        known = beside in rows.column_names
        if not known and not view:
            continue
        column = rows[beside if known else name]
        values = pc.fill_null(column, 0).to_numpy().astype(np.int64)
        unique, inverse = np.unique(values, return_inverse=True)
        roots = graph.roots(unique, moment) if known else _heirs(graph, unique, moment)
        nulls = pc.is_null(column).to_numpy()
        rows = with_column(rows, name, pa.array(roots[inverse], pa.int64(), mask=nulls))
    return rows


def _heirs(graph: ChunkedGraph, roots: Ids, moment: datetime | None) -> Ids:
    """The root at a moment that holds most supervoxels of each root; unknown ones stay as they are."""
    heirs = roots.copy()
    stale = np.flatnonzero((roots != 0) & ~graph.is_latest(roots, moment) & graph.exists(roots))
    supervoxels, owner = graph.descendants(roots[stale], 1)
    there = graph.roots(supervoxels, moment)
    pairs, counts = np.unique(np.stack([owner, there]), axis=1, return_counts=True)
    # the largest share of each owner comes last, so it is what is written
    order = np.argsort(counts, kind="stable")
    heirs[stale[pairs[0, order]]] = pairs[1, order]
    return heirs


def repeat_versions(source: TableStore, target: TableStore) -> None:
    """Make and expire the versions that another store over the same folder made and expired.

    Two specs may number versions differently; those frozen at the same moment are the same.
    """
    same_numbers = source.world.names.versions == target.world.names.versions
    for row in source.versions(expired=True):
        moment = row["time_stamp"]
        twin = next((known for known in target.versions(expired=True) if known["time_stamp"] == moment), None)
        if twin is None:
            number = row["version"] if same_numbers else None
            twin = target.version(target.materialize(number, aware(moment)))
        if twin is not None and twin["valid"] and not row["valid"]:
            target.expire(twin["version"])
