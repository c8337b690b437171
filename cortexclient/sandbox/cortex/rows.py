"""An annotation table in memory, and its files: frozen for each version, live, and metadata."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cortexclient.sandbox.cortex.files import TIME

__all__ = ["NEVER", "Point", "Rows", "frozen_columns", "live_columns", "micros"]

Ints = npt.NDArray[np.int64]

# in microseconds since 1970: a time that stands for "not"
NEVER = np.iinfo(np.int64).max


def micros(when: datetime) -> int:
    """Microseconds since 1970."""
    return round(when.timestamp() * 1_000_000)


@dataclass(frozen=True)
class Point:
    """A point column.

    Parameters
    ----------
    position : (n, 3) int32
        Voxels of the table's own resolution.
    row : (n,) int64 or None
        Rows of supervoxels, -1 where nothing is; None for a point that is not bound to the segmentation.
    """

    position: npt.NDArray[np.int32]
    row: Ints | None = None


@dataclass
class Rows:
    """All rows that a table ever had.

    Parameters
    ----------
    name, schema, description : str
    ids : (n,) int64
    columns : dict
        Points and values in the order of a frozen table.
    created, deleted : (n,) int64
        Microseconds since 1970; `NEVER` for a row that was not deleted.
    successor : (n,) int64
        Id of the row that replaced each, 0 for none.
    reference : str or None
        Table that ``target`` refers to.
    target : (n,) int64 or None
    notice : str or None
    """

    name: str
    schema: str
    description: str
    ids: Ints
    columns: dict[str, Point | npt.NDArray[Any] | pa.Array]
    created: Ints
    deleted: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    successor: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    reference: str | None = None
    target: Ints | None = None
    notice: str | None = None

    def __post_init__(self) -> None:
        if len(self.deleted) == 0:
            self.deleted = np.full(len(self.ids), NEVER)
        if len(self.successor) == 0:
            self.successor = np.zeros(len(self.ids), dtype=np.int64)

    def select(self, keep: npt.NDArray[np.bool_]) -> Rows:
        """Return the same table with some of its rows."""
        take = np.flatnonzero(keep)
        columns: dict[str, Point | npt.NDArray[Any] | pa.Array] = {}
        for name, column in self.columns.items():
            if isinstance(column, Point):
                columns[name] = Point(column.position[take], None if column.row is None else column.row[take])
            else:
                columns[name] = _values(column, take)
        return replace(
            self,
            ids=self.ids[take],
            columns=columns,
            created=self.created[take],
            deleted=self.deleted[take],
            successor=self.successor[take],
            target=None if self.target is None else self.target[take],
        )

    @property
    def bound(self) -> dict[str, Point]:
        """Points that are bound to the segmentation."""
        return {name: p for name, p in self.columns.items() if isinstance(p, Point) and p.row is not None}

    def position(self, point: str) -> npt.NDArray[np.int32]:
        """Voxels of a point column, int32 (n, 3)."""
        column = self.columns[point]
        assert isinstance(column, Point)
        return column.position

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """Values of a numeric column."""
        column = self.columns[name]
        assert isinstance(column, np.ndarray)
        return column

    def text(self, name: str) -> npt.NDArray[np.object_]:
        """Values of a text column."""
        column = self.columns[name]
        assert not isinstance(column, Point | np.ndarray)
        return np.array(column.to_pylist(), dtype=np.object_)

    def there(self, when: int) -> npt.NDArray[np.bool_]:
        """Which rows exist at a time (microseconds)."""
        return (self.created <= when) & (self.deleted > when)


def _values(values: npt.NDArray[Any] | pa.Array, take: Ints) -> Any:
    return values.take(pa.array(take)) if isinstance(values, pa.Array | pa.ChunkedArray) else values[take]


def _position(name: str, point: Point, take: Ints) -> dict[str, Any]:
    return {f"{name}_position_{axis}": point.position[take, k] for k, axis in enumerate("xyz")}


def _segments(name: str, point: Point, take: Ints, ids: Ints, roots: Ints) -> dict[str, Any]:
    """Supervoxel and root of a bound point; 0 where it misses the segmentation."""
    assert point.row is not None
    row = point.row[take]
    hit = row >= 0
    return {
        f"{name}_supervoxel_id": np.where(hit, ids[row], 0),
        f"{name}_root_id": np.where(hit, roots[row], 0),
    }


def _history(rows: Rows, take: Ints) -> dict[str, Any]:
    return {
        "created": pa.array(rows.created[take]).cast(TIME),
        "deleted": pa.array(rows.deleted[take], mask=rows.deleted[take] == NEVER).cast(TIME),
        "superceded_id": pa.array(rows.successor[take], mask=rows.successor[take] == 0),
    }


def frozen_columns(
    rows: Rows, when: int, supervoxels: Ints, roots: Ints, random: np.random.Generator
) -> dict[str, Any]:
    """Columns of a table as frozen at a time.

    Parameters
    ----------
    rows : Rows
    when : int
        Microseconds since 1970.
    supervoxels, roots : (n,) int64
        Ids, and root of each supervoxel at that time.
    random : numpy.random.Generator
        Draws the order in which the database holds the rows.
    """
    plain_reference = rows.reference is not None and not rows.bound
    # a reference table keeps the rows that were replaced, as the real service does
    take = np.flatnonzero(rows.created <= when if plain_reference else rows.there(when))
    take = take[random.permutation(len(take))]
    columns: dict[str, Any] = {"id": rows.ids[take]}
    if plain_reference:
        columns |= _history(rows, take)
    columns["valid"] = rows.deleted[take] > when
    if rows.target is not None:
        columns["target_id"] = rows.target[take]
    for name, values in rows.columns.items():
        if isinstance(values, Point):
            columns |= _position(name, values, take)
            if values.row is not None:
                columns |= _segments(name, values, take, supervoxels, roots)
        else:
            columns[name] = _values(values, take)
    columns["storage_order"] = np.arange(len(take), dtype=np.int64)
    return columns


def live_columns(rows: Rows, supervoxels: Ints, roots: Ints, random: np.random.Generator) -> dict[str, Any]:
    """Columns of the live table: every row ever written, roots as last brought up to date."""
    take = np.arange(len(rows.ids))
    columns: dict[str, Any] = {"id": rows.ids, **_history(rows, take), "valid": rows.deleted == NEVER}
    if rows.target is not None:
        columns["target_id"] = rows.target
    for name, values in rows.columns.items():
        if isinstance(values, Point):
            columns |= _position(name, values, take)
        else:
            columns[name] = _values(values, take)
    for name, point in rows.bound.items():
        columns |= _segments(name, point, take, supervoxels, roots)
    if rows.bound:
        columns["has_segmentation_row"] = np.ones(len(take), dtype=bool)
    columns["storage_order"] = np.arange(len(take), dtype=np.int64)
    if rows.bound:
        columns["seg_storage_order"] = random.permutation(len(take)).astype(np.int64)
    return columns
