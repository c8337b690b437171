"""Writing annotations: new tables, new rows, replaced and deleted rows, and their later supervoxel lookup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cortexclient.sandbox.layout import voxel_nm
from cortexclient.sandbox.stores.tables.model import (
    QueryError,
    aborted,
    annotation_row,
    quoted,
    segmentation_row,
    with_column,
)
from cortexclient.sandbox.stores.tables.versions import TIME_FORMAT, naive

if TYPE_CHECKING:
    from cortexclient.sandbox.stores.tables.store import TableStore

_BOUND = ("BoundSpatialPoint", "DerivedSpatialPoint")
_POINTS = (*_BOUND, "SpatialPoint")
_AXES = ("_x", "_y", "_z")


class InvalidAnnotationError(QueryError):
    """A row that does not fit its schema."""

    def __init__(self, problems: dict[str, Any]) -> None:
        super().__init__(str(problems))


def schema_fields(schema: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Fields of an annotation type and their kinds, and which of them a row must have, from its JSON schema.

    Kinds are ``BoundSpatialPoint``, ``DerivedSpatialPoint``, ``SpatialPoint``, ``integer`` (32 bits), ``bigint``,
    ``float``, ``boolean``, ``string``, ``datetime``, and ``array`` for a bare position.
    """
    definition = schema["definitions"][str(schema["$ref"]).rsplit("/", 1)[-1]]
    properties = definition["properties"]
    ordered = sorted(properties, key=lambda name: properties[name].get("order", len(properties)))
    kinds = {name: _kind(properties[name]) for name in ordered}
    return kinds, tuple(definition.get("required", ()))


def _kind(declared: Mapping[str, Any]) -> str:
    point = str(declared.get("$ref", "")).rsplit("/", 1)[-1]
    if point in _POINTS:
        return point
    kinds = declared.get("type", "string")
    kind = next((each for each in kinds if each != "null"), "string") if isinstance(kinds, list) else kinds
    if kind == "integer":
        return "bigint"
    if kind == "number":
        return "integer" if declared.get("format") == "integer" else "float"
    if kind == "string" and declared.get("format") == "date-time":
        return "datetime"
    return str(kind)


def live_schema(kinds: Mapping[str, str]) -> pa.Schema:
    """Columns of the live table of an annotation type."""
    types = {
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "float": pa.float64(),
        "boolean": pa.bool_(),
        "string": pa.string(),
        "datetime": pa.timestamp("us"),
    }
    columns = [
        ("id", pa.int64()),
        ("created", pa.timestamp("us")),
        ("deleted", pa.timestamp("us")),
        ("superceded_id", pa.int64()),
        ("valid", pa.bool_()),
    ]
    if "target_id" in kinds:
        columns.append(("target_id", pa.int64()))
    bound = []
    for name, kind in kinds.items():
        if name in ("valid", "target_id"):
            continue
        if kind == "array":
            columns += [(f"{name}{axis}", pa.int32()) for axis in _AXES]
        elif kind in _POINTS:
            columns += [(f"{name}_position{axis}", pa.int32()) for axis in _AXES]
            bound += [name] if kind in _BOUND else []
            if kind == "DerivedSpatialPoint":
                columns += [(f"{name}_dependent_chunk", pa.int64()), (f"{name}_level", pa.int32())]
        else:
            columns.append((name, types.get(kind, pa.string())))
    for name in bound:
        columns += [(f"{name}_supervoxel_id", pa.int64()), (f"{name}_root_id", pa.int64())]
    if bound:
        columns.append(("has_segmentation_row", pa.bool_()))
    return pa.schema(columns)


def flattened(row: Mapping[str, Any], kinds: Mapping[str, str], required: tuple[str, ...]) -> dict[str, Any]:
    """Columns of one row.

    Raise InvalidAnnotationError if it does not fit the schema; fields that the schema does not know are ignored.
    """
    problems: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        if name == "valid":
            continue
        value = row.get(name)
        if name not in row:
            if name in required:
                problems[name] = ["Missing data for required field."]
            continue
        if kind in _POINTS:
            _take_point(name, value, columns, problems)
        elif kind == "array":
            _take_position(name, value, columns)
        elif value is None:
            if name in required:
                problems[name] = ["Field may not be null."]
        else:
            _take_value(name, kind, value, columns, problems)
    if problems:
        raise InvalidAnnotationError(problems)
    return columns


def _take_point(name: str, value: Any, columns: dict[str, Any], problems: dict[str, Any]) -> None:
    if not isinstance(value, Mapping):
        problems[name] = {"_schema": ["Invalid input type."]}
    elif "position" not in value:
        problems[name] = {"position": ["Missing data for required field."]}
    else:
        _take_position(f"{name}_position", value["position"], columns)
        for part in ("dependent_chunk", "level"):
            if part in value:
                columns[f"{name}_{part}"] = int(value[part])


def _take_position(name: str, position: Any, columns: dict[str, Any]) -> None:
    parts = list(position) if isinstance(position, (list, tuple)) else [position]
    numbers = [part for part in parts if isinstance(part, (int, float)) and not isinstance(part, bool)]
    if len(parts) != len(_AXES) or len(numbers) < len(parts):
        text = " ".join(str(part) for part in parts)
        # the schema lets anything through here; it is the database that cannot read it
        raise QueryError(
            f'(psycopg2.errors.InternalError_) parse error - invalid geometry\nHINT:  "POINTZ({text})"'
        )
    for axis, part in zip(_AXES, parts, strict=True):
        columns[f"{name}{axis}"] = int(part)


def _take_value(name: str, kind: str, value: Any, columns: dict[str, Any], problems: dict[str, Any]) -> None:
    try:
        if kind in ("integer", "bigint"):
            columns[name] = int(value)
        elif kind == "float":
            columns[name] = float(value)
        elif kind == "boolean":
            if not isinstance(value, (bool, int)):
                raise ValueError
            columns[name] = bool(value)
        else:
            if not isinstance(value, str):
                raise ValueError
            columns[name] = value
    except (TypeError, ValueError):
        word = {"float": "number", "bigint": "integer"}.get(kind, kind)
        problems[name] = [f"Not a valid {word}."]


_NAME = re.compile(r"^[a-z_]+[a-z0-9_]*$")
_MOST_ROWS = 10_000
_BROKEN = (
    "This Session's transaction has been rolled back due to a previous exception during flush. To begin a new "
    "transaction with this Session, first issue Session.rollback(). Original exception was: {}"
)


class AnnotationWriter:
    """Changes to the live tables of a store."""

    def __init__(self, store: TableStore) -> None:
        self.store = store
        self._next: dict[str, int] = {}
        self._broken: str | None = None

    def create(self, table: str, schema_type: str, metadata: Mapping[str, Any], user: str) -> str:
        """Make an empty table.

        Raise QueryError where the name, the schema or the reference is not right.
        """
        store = self.store
        if not _NAME.match(table):
            raise aborted(
                400,
                "Table name error: Invalid table name. Table name must include at least one letter, and can only "
                "contain lowercase letters, numbers, and underscores (_).",
            )
        with store.lock:
            if table in store.annotation_rows:
                raise aborted(400, f"Table {table} already exists")
            if schema_type not in store.schema_names:
                raise aborted(400, f"Schema type: {schema_type} is not a known annotation type")
            kinds, _ = schema_fields(store.schemas[schema_type])
            reference = (metadata.get("table_metadata") or {}).get("reference_table")
            if "target_id" in kinds and reference is None:
                raise aborted(
                    400,
                    "Reference metadata must be supplied as a dict in the form "
                    '{"reference_table": "your_target_table"}',
                )
            if reference is not None and reference not in store.annotation_rows:
                raise aborted(400, f"No table named '{reference}' exists.")
            now = naive(store.world.now()).strftime(TIME_FORMAT)
            store.engine.replace(f"live.{table}", self._columns(schema_type, kinds).empty_table())
            store.annotation_rows[table] = annotation_row(
                max((int(row["id"]) for row in store.annotation_rows.values()), default=0) + 1,
                table,
                schema_type,
                voxel_nm(dict(metadata)),
                created=now,
                user_id=str(metadata.get("user_id") or user),
                description=metadata["description"],
                notice_text=metadata.get("notice_text"),
                reference_table=reference,
                flat_segmentation_source=metadata.get("flat_segmentation_source"),
                write_permission=metadata.get("write_permission") or "PRIVATE",
                read_permission=metadata.get("read_permission") or "PUBLIC",
                last_modified=now,
            )
            return table

    def _columns(self, schema_type: str, kinds: Mapping[str, str]) -> pa.Schema:
        """Columns of a new table: those of a table of the same type, where there is one."""
        for name, row in self.store.annotation_rows.items():
            if row["schema_type"] == schema_type:
                return self._stored_schema(name)
        return live_schema(kinds)

    def update_metadata(self, table: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change what is said about a table."""
        with self.store.lock:
            row = dict(self._row(table))
            for key in (
                "description",
                "user_id",
                "flat_segmentation_source",
                "read_permission",
                "write_permission",
            ):
                if changes.get(key) is not None:
                    row[key] = changes[key]
            notice = changes.get("notice_text")
            if notice is not None:
                row["notice_text"] = None if notice.lower() in ("", "none") else notice
            self.store.annotation_rows[table] = row
        return self.store.metadata(table) or {}

    def mark_deleted(self, table: str) -> bool:
        """Mark a table as deleted; it stays in the list, as on the real service."""
        with self.store.lock:
            now = naive(self.store.world.now()).strftime(TIME_FORMAT)
            self.store.annotation_rows[table] = {**self._row(table), "deleted": now}
        return True

    def _row(self, table: str) -> dict[str, Any]:
        row = self.store.annotation_rows.get(table)
        if row is None:
            raise QueryError("'NoneType' object is not subscriptable")
        return row

    def insert(self, table: str, annotations: Sequence[Mapping[str, Any]], user: str = "0") -> list[int]:
        """Add rows written by a user; their ids are returned in order."""
        row = self._row(table)
        if len(annotations) > _MOST_ROWS:
            text = f"The insertion limit is {_MOST_ROWS}, {len(annotations)} were attempted to be inserted"
            raise aborted(413, f"{_MOST_ROWS} -> {text}")
        with self.store.lock:
            try:
                rows = [self._flat(row, annotation, user) for annotation in annotations]
                if self._broken is not None:
                    # the service notices only now that its last insert had failed
                    text, self._broken = _BROKEN.format(self._broken), None
                    raise QueryError(text)
                ids = self._append(table, rows, [annotation.get("id") for annotation in annotations])
            except InvalidAnnotationError as error:
                raise aborted(422, str(error)) from error
            except QueryError as error:
                if str(error).startswith("(psycopg2"):
                    self._broken = str(error)
                    self._next[table] = self._next_id(table) + len(annotations)
                raise aborted(404, str(error)) from error
            self._touch(table)
            return ids

    def update(self, table: str, annotation: Mapping[str, Any], user: str = "0") -> tuple[int, int]:
        """Replace a row by a new one, written by a user; old and new id are returned."""
        row = self._row(table)
        identity = annotation.get("id")
        if not identity:
            raise aborted(400, "'str' object has no attribute 'items'")
        with self.store.lock:
            old = self._rows(table, [int(identity)])
            if not len(old):
                raise aborted(400, "No row was found for one()")
            later = old["superceded_id"][0].as_py()
            if later is not None:
                raise aborted(
                    409,
                    f"Error update ID {identity} -> Annotation with ID {identity} has already been superseded by "
                    f"annotation ID {later}, update annotation ID {later} instead",
                )
            try:
                flat = self._flat(row, {**self._plain(old, row), **annotation}, user)
                (new,) = self._append(table, [flat], [None])
            except InvalidAnnotationError as error:
                raise aborted(422, str(error)) from error
            except QueryError as error:
                raise aborted(400, str(error)) from error
            self._strike(table, [int(identity)], superseded_by=new)
            self._touch(table)
            return int(identity), new

    def delete(self, table: str, ids: Sequence[int]) -> list[int] | None:
        """Mark rows as deleted; the ids found are returned, None where none is."""
        self._row(table)
        with self.store.lock:
            found = self._rows(table, ids)["id"].to_pylist()
            if not found:
                return None
            self._strike(table, found)
            self._touch(table)
            return [int(identity) for identity in found]

    def rows(self, table: str, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Rows as the service shows them: points together, times as text."""
        self._row(table)
        source = self.store.live(table)
        hidden = set(source.segmentation)
        shown = []
        for row in self._rows(table, ids).to_pylist():
            entry = {}
            for column in source.columns.values():
                if column.name in hidden:
                    continue
                values = [row[name] for name in column.stored]
                entry[column.name] = values if column.kind == "point" else values[0]
            shown.append({**entry, "created": str(entry["created"]), "deleted": str(entry["deleted"])})
        return shown

    def count(self, table: str) -> int:
        """Rows ever written to a table."""
        self._row(table)
        return self._number("count(*)", table)

    def _number(self, what: str, table: str) -> int:
        rows = self.store.engine.read(f"SELECT {what} FROM {self.store.live(table).relation}")
        return int(rows.column(0)[0].as_py() or 0)

    def _flat(self, row: Mapping[str, Any], annotation: Mapping[str, Any], user: str) -> dict[str, Any]:
        schema = self.store.schema(str(row["schema_type"]))
        if schema is None:
            raise QueryError(f"Schema type: {row['schema_type']} is not a known annotation type")
        kinds, required = schema_fields(schema)
        author = {"user_id": int(user)} if "user_id" in kinds else {}
        flat = flattened({**author, **annotation}, kinds, required)
        target = row.get("reference_table")
        if target and not len(self._rows(str(target), [int(flat["target_id"])])):
            raise QueryError(
                f'(psycopg2.errors.ForeignKeyViolation) insert or update on table "{row["table_name"]}" violates '
                f"foreign key constraint\nDETAIL:  Key (target_id)=({flat['target_id']}) is not present in table "
                f'"{target}".\n'
            )
        return flat

    def _plain(self, old: pa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
        """A stored row in the form in which rows are sent, but for its points: those must be sent again."""
        schema = self.store.schema(str(row["schema_type"]))
        names = schema_fields(schema)[0] if schema else {}
        return {name: old[name][0].as_py() for name in names if name in old.column_names and name != "valid"}

    def _rows(self, table: str, ids: Sequence[int]) -> pa.Table:
        listed = ", ".join(str(int(identity)) for identity in ids)
        wanted = f"id IN ({listed})" if listed else "false"
        return self.store.engine.read(
            f"SELECT * FROM {self.store.live(table).relation} WHERE {wanted} ORDER BY rowid"
        )

    def _next_id(self, table: str) -> int:
        if table not in self._next:
            self._next[table] = self._number("max(id)", table) + 1
        return self._next[table]

    def _append(self, table: str, rows: list[dict[str, Any]], wanted: list[Any]) -> list[int]:
        start = self._next_id(table)
        ids = [int(given) if given else start + offset for offset, given in enumerate(wanted)]
        taken = self._rows(table, ids)["id"].to_pylist()
        if taken or len(set(ids)) < len(ids):
            key = next(iter(taken), ids[0])
            raise QueryError(
                "(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "
                f'"{table}_pkey"\nDETAIL:  Key (id)=({key}) already exists.\n'
            )
        schema = self._stored_schema(table)
        now = naive(self.store.world.now())
        full = [
            {
                **dict.fromkeys(schema.names),
                **row,
                "id": identity,
                "created": now,
                "valid": True,
                **({"has_segmentation_row": False} if "has_segmentation_row" in schema.names else {}),
            }
            for identity, row in zip(ids, rows, strict=True)
        ]
        incoming = pa.Table.from_pylist(full, schema=schema)
        relation = self.store.live(table).relation
        self.store.engine.write(f"INSERT INTO {relation} BY NAME SELECT * FROM incoming", incoming=incoming)
        self._next[table] = max(start + len(ids), max(ids, default=0) + 1)
        return ids

    def _stored_schema(self, table: str) -> pa.Schema:
        relation = self.store.live(table).relation
        schema: pa.Schema = self.store.engine.read(f"SELECT * FROM {relation} LIMIT 0").schema
        return schema

    def _strike(self, table: str, ids: Sequence[int], superseded_by: int | None = None) -> None:
        """Mark rows as no longer valid; a changed row moves to the end of its table, as in the real database."""
        rows = self._rows(table, ids)
        now = pa.scalar(naive(self.store.world.now()), pa.timestamp("us"))
        changes: dict[str, pa.Scalar] = {"deleted": now, "valid": pa.scalar(False)}
        if superseded_by is not None:
            changes["superceded_id"] = pa.scalar(superseded_by, pa.int64())
        for name, value in changes.items():
            rows = with_column(rows, name, pa.repeat(value, len(rows)).cast(rows[name].type))
        self._rewrite(table, rows)

    def _rewrite(self, table: str, rows: pa.Table) -> None:
        relation = self.store.live(table).relation
        listed = ", ".join(str(identity) for identity in rows["id"].to_pylist())
        self.store.engine.write(
            f"BEGIN; DELETE FROM {relation} WHERE id IN ({listed}); "
            f"INSERT INTO {relation} BY NAME SELECT * FROM incoming; COMMIT",
            incoming=rows,
        )

    def _touch(self, table: str) -> None:
        now = naive(self.store.world.now()).strftime(TIME_FORMAT)
        self.store.annotation_rows[table] = {**self._row(table), "last_modified": now}

    def look_up(self, table: str, at: datetime | None = None) -> int:
        """Find the supervoxels, and the roots at a time (by default now), of all rows that await them.

        Return the number of rows looked up.
        """
        store = self.store
        self._row(table)
        source = store.live(table)
        points = [
            name.removesuffix("_supervoxel_id")
            for name in source.segmentation
            if name.endswith("_supervoxel_id")
        ]
        if not points:
            return 0
        with store.lock:
            rows = store.engine.read(
                f"SELECT * FROM {source.relation} WHERE NOT coalesce({quoted('has_segmentation_row')}, false)"
            )
            moment = at or store.world.now()
            if len(rows):
                graph = store.world.graph
                # positions are voxels of the table, the volume has voxels of its own
                scale = np.asarray(source.resolution) / np.asarray(graph.info["scales"][0]["resolution"])
                for point in points:
                    voxels = np.stack([rows[f"{point}_position_{axis}"].to_numpy() for axis in "xyz"], axis=1)
                    supervoxels = graph.volume.supervoxel_at(voxels * scale)
                    roots = graph.roots(supervoxels, moment)
                    for suffix, values in (("supervoxel_id", supervoxels), ("root_id", roots)):
                        rows = with_column(rows, f"{point}_{suffix}", pa.array(values, pa.int64()))
                self._rewrite(table, with_column(rows, "has_segmentation_row", pa.repeat(True, len(rows))))
            self._note_lookup(table, moment)
            return len(rows)

    def _note_lookup(self, table: str, moment: datetime) -> None:
        """Row of the segmentation table, which is there once supervoxels have been looked up."""
        store, pcg = self.store, self.store.world.names.pcg_table
        now = naive(moment).strftime(TIME_FORMAT)
        number = max((int(each["id"]) for each in store.segmentation_rows.values()), default=0) + 1
        schema = self._row(table)["schema_type"]
        store.segmentation_rows[table] = {
            **segmentation_row(number, table, schema, pcg, created=now, updated=now),
            **store.segmentation_rows.get(table, {}),
            "last_updated": now,
        }
