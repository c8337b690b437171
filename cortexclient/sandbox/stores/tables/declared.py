"""Tables and views with the columns that a spec declares, made from those of the cortex.

The cortex has some tables of its own. A spec may say that a table has another schema, further columns, or another unit:
then each of its rows is made from a row of the cortex (a nucleus, a synapse, a connection), and every value from a hash
of the table, the column and that row. So a row keeps its values through all versions, and from one sandbox to the next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cortexclient.sandbox.arrays import Floats, Ints

if TYPE_CHECKING:
    from cortexclient.spec.table_schemas import TableField


_AXES = ("x", "y", "z")
_SUFFIXES = ("_x", "_y", "_z")
# share of the rows referred to that a reference table speaks of, and of the values that are missing where any may be
_SHARE, _MISSING = 0.9, 0.02
_ROW = ("id", "created", "deleted", "superceded_id", "valid")
_LAST = ("has_segmentation_row", "storage_order", "seg_storage_order")
_VALUES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
# points of a pair of cells, and the point of a synapse that stands for each
_SYNAPSE_POINTS: dict[str, str] = _VALUES["synapse_points"]
_TRANSMITTERS: list[str] = _VALUES["transmitters"]


@dataclass(frozen=True)
class DeclaredTable:
    """How a table of the cortex is served for a spec."""

    name: str  # name on the wire
    base: str  # table or view of the folder whose rows it has
    fields: tuple[TableField, ...] | None = None  # what each row holds; None keeps the columns of the base
    schema: str | None = None  # annotation schema; None for a view
    # size of a voxel of its positions, nm; None keeps the base's
    unit: tuple[float, float, float] | None = None
    reference: str | None = None  # table on the wire that ``target_id`` refers to
    found_only: bool = False  # leave out rows whose point misses the segmentation

    @property
    def is_bound(self) -> bool:
        """Whether it has points that are bound to the segmentation."""
        from cortexclient.spec.table_schemas import fields_of

        fields = self.fields or fields_of(self.schema)
        return any(field.type in ("bound_point", "derived_point") for field in fields)

    def count(self, rows: pa.Table) -> int:
        """Return the number of valid rows that it has over some rows of its base."""
        rows = rows.filter(rows["valid"])
        return int((rows if self.fields is None else _sample(self, rows)).num_rows)

    @property
    def counted_columns(self) -> list[str]:
        """Columns of its base that :meth:`count` needs."""
        return ["id", "valid", *(["pt_supervoxel_id"] if self.found_only else [])]


def base_of(fields: tuple[TableField, ...], target: str | None, *, view: bool = False) -> str:
    """Return the table or view of the cortex whose rows suit some fields; a reference has rows of its target."""
    names = {field.name for field in fields}
    if any(field.type == "reference" for field in fields):
        return target or "nucleus_detection"
    if names & set(_SYNAPSE_POINTS) or {"pre_pt_position", "post_pt_position"} & names:
        return "synapses"
    if {"pre_pt_root_id", "post_pt_root_id"} <= names:
        return "synapses" if "id" in names else "connections_with_nuclei"
    if view:
        return "synapse_degrees" if "root_id" in names else "cell_info"
    return "nucleus_detection"


def view_columns(fields: tuple[TableField, ...]) -> dict[str, dict[str, str]]:
    """Return the columns of a view as the service describes them."""
    words = {"bool": "boolean", "float": "float", "text": "string", "point": "SpatialPoint"}
    columns = {}
    for field in fields:
        kind = "point" if field.type in ("position", "bound_point", "derived_point") else field.type
        name = f"{field.name}_position" if field.type in ("point", "bound_point") else field.name
        columns[name] = {"type": words.get(kind, "integer")}
        if field.type == "bound_point":
            columns |= {f"{field.name}_{part}": {"type": "integer"} for part in ("supervoxel_id", "root_id")}
    return columns


def view_document(
    shape: DeclaredTable, number: int, documents: dict[str, dict[str, Any]], unit: tuple[float, float, float]
) -> dict[str, Any]:
    """Metadata and columns of a view that a spec declares."""
    like = documents.get(shape.base) or next(iter(documents.values()))
    described = {
        "id": number,
        "description": f"Rows of {shape.base} with the columns that the spec declares.",
        **{f"voxel_resolution_{axis}": size for axis, size in zip("xyz", shape.unit or unit, strict=True)},
    }
    columns = None if shape.fields is None else view_columns(shape.fields)
    return {
        "metadata by version": {
            moment: None if row is None else {**row, **described}
            for moment, row in like["metadata by version"].items()
        },
        "schema by version": {
            moment: row if columns is None else columns for moment, row in like["schema by version"].items()
        },
    }


def shaped_rows(
    shape: DeclaredTable, rows: pa.Table, base_unit: tuple[float, float, float], *, live: bool
) -> pa.Table:
    """Rows of a declared table or view, from those of its base as its file has them.

    ``base_unit`` is the size of a voxel of their positions, nm. In live tables supervoxels and roots stand at the end.
    """
    scale = np.asarray(base_unit) / np.asarray(shape.unit or base_unit)
    if shape.fields is None:
        return _scaled(rows, scale)
    return _Maker(shape, _sample(shape, rows), scale).table(live=live)


def _sample(shape: DeclaredTable, rows: pa.Table) -> pa.Table:
    """Leave out the rows of the base that a table has nothing to say of."""
    if shape.found_only:
        rows = rows.filter(pc.greater(rows["pt_supervoxel_id"], 0))
    if shape.reference is None:
        return rows
    # hardly any reference table speaks of all rows of another
    keys = np.asarray(rows["id"], dtype=np.int64)
    return rows.filter(pa.array(_uniform(shape.name, "row", keys) < _SHARE))


def _scaled(rows: pa.Table, scale: Floats) -> pa.Table:
    if np.all(scale == 1):
        return rows
    for index, name in enumerate(rows.column_names):
        if name[:-2].endswith("position") and name[-2:] in _SUFFIXES:
            rows = rows.set_column(index, name, _in_voxels(rows[name], scale[_SUFFIXES.index(name[-2:])]))
    return rows


def _in_voxels(column: pa.ChunkedArray, scale: float) -> pa.Array:
    mask = np.asarray(column.is_null())
    values = np.asarray(column.fill_null(0)) * scale
    return pa.array(np.round(values).astype(np.int32), mask=mask)


class _Maker:
    """Columns of a declared table, one after another."""

    def __init__(self, shape: DeclaredTable, rows: pa.Table, scale: Floats) -> None:
        self.shape, self.rows, self.scale = shape, rows, scale
        names = rows.column_names
        if "id" in names:
            self.keys = np.asarray(rows["id"], dtype=np.int64)
        else:
            numbers = [
                np.asarray(rows[name].fill_null(0)) for name in names if str(rows[name].type) == "int64"
            ]
            self.keys = _mixed(*numbers[:2])
        self.is_view = shape.schema is None

    def table(self, *, live: bool) -> pa.Table:
        """All columns in the order of the database."""
        fields = self.shape.fields or ()
        columns = {} if self.is_view else self._row_columns(fields, live=live)
        looked_up: dict[str, Any] = {}
        for field in fields:
            if field.name in columns:
                continue
            own, beside = self._field(field)
            columns |= own
            if live:
                looked_up |= beside
            else:
                columns |= beside
        columns |= looked_up
        is_bound = any(column.endswith("_supervoxel_id") for column in columns)
        for name in _LAST:
            if name in self.rows.column_names and (is_bound or name == "storage_order"):
                columns[name] = self.rows[name]
        return pa.table(columns)

    def _row_columns(self, fields: tuple[TableField, ...], *, live: bool) -> dict[str, Any]:
        """Columns that every table has, and the reference."""
        is_reference = any(field.type == "reference" for field in fields)
        history = live or (is_reference and not any(field.type == "bound_point" for field in fields))
        columns: dict[str, Any] = {
            name: self.rows[name]
            for name in _ROW
            if name in self.rows.column_names and (history or name in ("id", "valid"))
        }
        if is_reference:
            columns["id"] = pa.array(self.keys * 2 + 1)
            columns["target_id"] = pa.array(self.keys)
        return columns

    def _field(self, field: TableField) -> tuple[dict[str, Any], dict[str, Any]]:
        """Columns of a field, and what is looked up at its point."""
        if field.type in ("point", "bound_point", "derived_point", "position"):
            return self._point(field)
        if field.name in self.rows.column_names and self._fits(field):
            return {field.name: self.rows[field.name]}, {}
        values = self._values(field)
        mask = None
        if field.nullable and not field.name.endswith("size"):
            mask = _uniform(self.shape.name, f"{field.name} is missing", self.keys) < _MISSING
        return {field.name: pa.array(values, mask=mask)}, {}

    def _fits(self, field: TableField) -> bool:
        kind = self.rows.schema.field(field.name).type
        tests: dict[str, Callable[[pa.DataType], bool]] = {
            "bool": pa.types.is_boolean,
            "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
            "float": pa.types.is_floating,
            "int": pa.types.is_integer,
        }
        return bool(tests.get(field.type, pa.types.is_integer)(kind))

    def _point(self, field: TableField) -> tuple[dict[str, Any], dict[str, Any]]:
        name = field.name
        source = self._source_point(name)
        whole_name = field.type == "position" or (self.is_view and name.endswith("_position"))
        prefix = name if whole_name else f"{name}_position"
        columns: dict[str, Any] = {}
        for k, axis in enumerate(_AXES):
            columns[f"{prefix}_{axis}"] = _in_voxels(self.rows[f"{source}_position_{axis}"], self.scale[k])
        if field.type not in ("bound_point", "derived_point"):
            return columns, {}
        zeros = pa.array(np.zeros(len(self.keys), dtype=np.int64))
        looked_up = {
            f"{name}_{part}": self.rows[f"{source}_{part}"]
            if f"{source}_{part}" in self.rows.column_names
            else zeros
            for part in ("supervoxel_id", "root_id")
        }
        if field.type == "derived_point":
            columns[f"{name}_dependent_chunk"] = pa.array(_whole(self.shape.name, name, self.keys))
            columns[f"{name}_level"] = pa.array(np.full(len(self.keys), 2, dtype=np.int32))
        return columns, looked_up

    def _source_point(self, name: str) -> str:
        point = name.removesuffix("_position")
        for candidate in (point, _SYNAPSE_POINTS.get(point, ""), "pt", "ctr_pt", "post_pt"):
            if f"{candidate}_position_x" in self.rows.column_names:
                return candidate
        raise KeyError(f"{self.shape.base} has no point that could stand for {name}")

    def _values(self, field: TableField) -> Any:
        name, keys, table = field.name, self.keys, self.shape.name
        draw = _uniform(table, name, keys)
        if field.values:
            return _chosen(tuple(value for value in field.values if value is not None), draw)
        if field.type == "bool":
            return draw < 0.7
        if field.type == "text":
            return _chosen(self._words(name), draw).tolist()
        if field.type in ("id", "reference"):
            root = next((c for c in ("pt_root_id", "post_pt_root_id") if c in self.rows.column_names), None)
            if root is not None and (name == "valid_id" or name.endswith("root_id")):
                return np.asarray(self.rows[root].fill_null(0), dtype=np.int64)
            return _whole(table, name, keys)
        if name in _TRANSMITTERS:
            return self._transmitter(name)
        low, high = _VALUES["ranges"].get(name, (0, 1) if field.type == "float" else (1, 100))
        if field.type == "float":
            return (low + (high - low) * draw).astype(np.float32).astype(np.float64)
        return (low + np.floor((high - low + 1) * draw)).astype(np.int32)

    def _words(self, name: str) -> Sequence[str]:
        """Words of a text column, by its name; of tags, by what the table's name speaks of."""
        if name == "tag2":
            return cast("list[str]", _VALUES["keys"])
        if name == "tag":
            return next(
                (words for word, words in _VALUES["tags"] if word in self.shape.name), ["a", "b", "c"]
            )
        if name.endswith("_source"):
            return ("model", "expert")
        words: list[str] = _VALUES["words"].get(name) or [f"{name}_{letter}" for letter in "abc"]
        return words

    def _transmitter(self, name: str) -> Floats:
        """Share of one transmitter: one is likely, and all of them sum to 1."""
        weights = [-(np.log(1 - _uniform(self.shape.name, one, self.keys)) ** 3) for one in _TRANSMITTERS]
        weights = [np.abs(weight) + 1e-6 for weight in weights]
        share: Floats = weights[_TRANSMITTERS.index(name)] / np.sum(weights, axis=0)
        return share.astype(np.float32).astype(np.float64)


def _chosen(values: Sequence[Any], draw: Floats) -> NDArray[Any]:
    kind = object if isinstance(values[0], str) else np.int32
    return np.array(values, dtype=kind)[(draw * len(values)).astype(np.int64)]


def _mixed(*keys: Ints) -> Ints:
    """One number for each row, from several."""
    mixed = np.zeros(len(keys[0]), dtype=np.uint64)
    for key in keys:
        mixed = _scrambled(mixed ^ key.astype(np.int64).view(np.uint64))
    return mixed.view(np.int64)


def _scrambled(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of 64-bit numbers (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _hashed(table: str, column: str, keys: Ints) -> NDArray[np.uint64]:
    seed = hashlib.sha256(f"{table}|{column}".encode()).digest()[:8]
    return _scrambled(np.ascontiguousarray(keys).view(np.uint64) ^ np.frombuffer(seed, dtype="<u8")[0])


def _uniform(table: str, column: str, keys: Ints) -> Floats:
    """Number in [0, 1) for each row, which depends on nothing but the table, the column and the row."""
    return (_hashed(table, column, keys) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _whole(table: str, column: str, keys: Ints) -> Ints:
    """Positive number of 62 bits for each row."""
    return (_hashed(table, column, keys) >> np.uint64(2)).view(np.int64)
