"""The tables of a sandbox: annotations as they were ever written, frozen versions of them, and views."""

from __future__ import annotations

import copy
import threading
from datetime import datetime
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cortexclient.sandbox.layout import voxel_nm
from cortexclient.sandbox.stores.tables.declared import DeclaredTable, shaped_rows, view_document
from cortexclient.sandbox.stores.tables.engine import Engine
from cortexclient.sandbox.stores.tables.model import (
    QueryError,
    Source,
    is_looked_up,
    quoted,
    source_columns,
)
from cortexclient.sandbox.stores.tables.versions import freeze, looked_up_again, version_row
from cortexclient.sandbox.stores.tables.write import AnnotationWriter
from cortexclient.sandbox.world import World

Row = dict[str, Any]
_FROZEN_DROPS = ("created", "deleted", "superceded_id")


class TableStore:
    """Annotation tables, frozen versions and views, under the names that clients use.

    Positions are int32 voxels of the table's own resolution, ids int64, times naive UTC inside and aware UTC outside.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.engine = Engine()
        self.lock = threading.RLock()
        stored = world.folder.tables
        self._own: dict[str, str] = {}
        self.annotation_rows: dict[str, Row] = {}
        self.segmentation_rows: dict[str, Row] = {}
        for row in stored.get("annotation_tables") or []:
            self._take_annotation(dict(row))
        for row in stored.get("segmentation_tables") or []:
            self._take_segmentation(dict(row))
        self._shapes = dict(world.names.shapes)
        self._take_shapes({str(row["table_name"]): row for row in stored.get("annotation_tables") or []})
        self._versions: list[Row] = [
            {
                **row,
                "datastack": world.names.datastack,
                "version": world.names.public_version(int(row["version"])),
            }
            for row in world.folder.versions
        ]
        self._counts: dict[int, dict[str, int]] = {
            world.names.public_version(int(version)): {
                world.names.public(table): int(count) for table, count in counts.items()
            }
            for version, counts in (stored.get("frozen") or {}).items()
        }
        for shape in self._shapes.values():
            if shape.schema is not None:
                for version, counts in self._counts.items():
                    counts[shape.name] = self._count_of(shape, version)
        self._counts = {
            version: {table: count for table, count in counts.items() if world.names.is_in(version, table)}
            for version, counts in self._counts.items()
        }
        self._analysis: dict[tuple[int, str], int] = {}
        # (table, version) whose older metadata route was asked: the service mixes its answer into the newer one's
        self.mixed: set[tuple[str, int]] = {
            (world.names.public(table), world.names.public_version(int(version)))
            for version, rows in (stored.get("frozen_metadata") or {}).items()
            for table, row in rows.items()
            if "annotation_table" in row
        }
        for version, counts in self._counts.items():
            for table in counts:
                self._analysis[version, table] = len(self._analysis) + 1

    def _take_annotation(self, row: Row) -> None:
        own = str(row["table_name"])
        name = self.world.names.public(own)
        self._own[name] = own
        row["table_name"] = name
        if row.get("reference_table"):
            row["reference_table"] = self.world.names.public(str(row["reference_table"]))
        self.annotation_rows[name] = row

    def _take_segmentation(self, row: Row, name: str | None = None) -> None:
        name = name or self.world.names.public(str(row["annotation_table"]))
        pcg = self.world.names.pcg_table
        self.segmentation_rows[name] = {
            **row,
            "annotation_table": name,
            "table_name": f"{name}__{pcg}",
            "pcg_table_name": pcg,
        }

    def _take_shapes(self, stored: dict[str, Row]) -> None:
        """Tables that a spec declares otherwise than the folder has them, or that it alone has."""
        for shape in self._shapes.values():
            if shape.schema is None:
                continue
            row = self.annotation_rows.get(shape.name)
            if row is None:
                number = max(int(each["id"]) for each in self.annotation_rows.values()) + 1
                text = f"Rows of {self.world.names.public(shape.base)} with the columns of {shape.schema}."
                row = {**stored[shape.base], "id": number, "table_name": shape.name, "description": text}
            self._own[shape.name] = shape.base
            unit = shape.unit or self.world.folder.voxel_nm(shape.base)
            resolution = {f"voxel_resolution_{axis}": size for axis, size in zip("xyz", unit, strict=True)}
            row |= {"schema_type": shape.schema, **resolution}
            if shape.fields is not None or shape.reference is not None:
                row["reference_table"] = shape.reference
            self.annotation_rows[shape.name] = row
            if shape.is_bound and shape.name not in self.segmentation_rows:
                base = next(iter(self.segmentation_rows.values()))
                number = max(int(each["id"]) for each in self.segmentation_rows.values()) + 1
                # the name is public already: a view of the folder may be called the same
                self._take_segmentation({**base, "id": number}, shape.name)
            if shape.is_bound:
                self.segmentation_rows[shape.name]["schema_type"] = shape.schema
            else:
                self.segmentation_rows.pop(shape.name, None)

    def _count_of(self, shape: DeclaredTable, version: int) -> int:
        own = self.world.names.own_version(version)
        path = self.world.folder.file("tables", f"{shape.base}.v{own}.parquet")
        return shape.count(pq.read_table(path, columns=shape.counted_columns))

    @cached_property
    def writer(self) -> AnnotationWriter:
        """Changes to the live tables."""
        return AnnotationWriter(self)

    def versions(self, *, expired: bool = False) -> list[Row]:
        """Rows of the materialized versions, oldest first; expired ones only on request."""
        return [row for row in self._versions if expired or row["valid"]]

    def version(self, version: int) -> Row | None:
        """Row of one version; None if it was never made."""
        return next((row for row in self._versions if row["version"] == version), None)

    def materialize(self, version: int | None = None, at: datetime | None = None) -> int:
        """Freeze the tables as they are at a moment, by default now, into a new version.

        As in the service's complete run, rows that await their supervoxels are looked up first. Return its number, by
        default one above the highest. Raise ValueError if there is such a version already.
        """
        with self.lock:
            number = version or max((row["version"] for row in self._versions), default=0) + 1
            if self.version(number) is not None:
                raise ValueError(f"version {number} exists already; give another number")
            moment = at or self.world.now()
            counts: dict[str, int] = {}
            for table, annotated in self.annotation_rows.items():
                self.writer.look_up(table, moment)
                if self.segmentation_rows.get(table) is None and not annotated["reference_table"]:
                    continue  # none of its points has a supervoxel, so there is nothing to freeze
                if not self.world.names.is_in(number, table):
                    continue
                rows, counts[table] = freeze(self, table, moment)
                self.engine.replace(_frozen_name(table, number), rows)
            for view in self.views(0):
                rows = looked_up_again(self._view_rows(view), self.world.graph, moment)
                self.engine.replace(_frozen_name(view, number), rows)
            identity = max((int(row.get("id", 0)) for row in self._versions), default=0) + 1
            self._counts[number] = counts
            for table in counts:
                self._analysis[number, table] = max(self._analysis.values(), default=0) + 1
            self._versions = [
                *self._versions,
                version_row(identity, self.world.names.datastack, number, moment),
            ]
            return number

    def expire(self, version: int) -> None:
        """Drop the database of a version; its metadata stays, as on the real services.

        Raise KeyError if there is no such version.
        """
        with self.lock:
            if self.version(version) is None:
                raise KeyError(f"there is no version {version} to expire")
            self._versions = [
                {**row, "valid": False, "status": "EXPIRED"} if row["version"] == version else row
                for row in self._versions
            ]

    def without_versions(self) -> TableStore:
        """The same live tables as another datastack over them sees them, of which no version was ever made."""
        other = copy.copy(self)
        other._versions, other._counts, other._analysis = [], {}, {}
        return other

    def forget(self, table: str, version: int) -> None:
        """Take a table out of one version, as when its freezing had failed."""
        with self.lock:
            self._counts[version] = {name: n for name, n in self._counts[version].items() if name != table}
            self._analysis.pop((version, table), None)

    def names(self, version: int | None = None) -> list[str]:
        """Tables of a version; of all annotations by default."""
        if version is None:
            return list(self.annotation_rows)
        return list(self._counts.get(version, {}))

    def row_count(self, table: str, version: int) -> int | None:
        """Rows of a table as counted when it was frozen; None if it is not in the version."""
        return self._counts.get(version, {}).get(table)

    def metadata(self, table: str) -> Row | None:
        """Annotation and segmentation metadata joined, where the latter wins; None for unknown tables."""
        row = self.annotation_rows.get(table)
        if row is None:
            return None
        return {**row, **self.segmentation_rows.get(table, {})}

    def frozen_metadata(self, table: str, version: int) -> Row | None:
        """What a version says about one of its tables; None if it is not in it."""
        row = self.metadata(table)
        identity = self._analysis.get((version, table))
        if row is None or identity is None:
            return None
        row.pop("id")
        row.pop("deleted")
        row["table_name"] = row.pop("annotation_table", row["table_name"])
        analysis = {
            "id": identity,
            "schema": row["schema_type"],
            "aligned_volume": self.world.names.aligned_volume,
        }
        return {**analysis, **row}

    def schema(self, schema_type: str) -> Row | None:
        """JSON schema of an annotation type; None where neither the folder nor the sandbox has it."""
        schema: Row | None = self.schemas.get(schema_type)
        return schema

    @cached_property
    def schemas(self) -> dict[str, Row]:
        """JSON schemas of annotation types by name: those of the folder, then those that the sandbox knows."""
        from cortexclient.sandbox.stores.tables.schemas import all_schemas

        document = self.world.folder.json("tables", "schemas.json", default={})
        return {**all_schemas(), **document.get("used", {})}

    @cached_property
    def schema_names(self) -> list[str]:
        """Names of all annotation types."""
        document = self.world.folder.json("tables", "schemas.json", default={})
        names = document.get("all names") or document.get("names of all schemas") or []
        return list(dict.fromkeys([*names, *self.schemas]))

    def resolution(self, table: str) -> tuple[float, float, float]:
        """Voxel size of a table's positions, nm."""
        return voxel_nm(self.annotation_rows[table])

    def frozen(self, table: str, version: int) -> Source:
        """A table as frozen in a version.

        Raise KeyError if the version has no such table.
        """
        if self.row_count(table, version) is None:
            raise KeyError(table)
        name = _frozen_name(table, version)
        schema = self.engine.ensure(name, lambda: self._frozen_file(table, version))
        columns = {key: column for key, column in source_columns(schema).items() if key not in _FROZEN_DROPS}
        return Source(table, quoted(name), columns, self.resolution(table))

    def queried(self, table: str, version: int) -> Source:
        """A frozen table that a query names; raise QueryError as the service fails on one that it does not have."""
        if self.metadata(table) is None:
            raise QueryError("'NoneType' object is not subscriptable")
        try:
            return self.frozen(table, version)
        except KeyError:
            raise QueryError(f'Execution failed on sql: relation "{table}" does not exist') from None

    def live(self, table: str) -> Source:
        """Every row ever written to a table, joined to its segmentation rows.

        Raise KeyError if there is no such table.
        """
        if table not in self.annotation_rows:
            raise KeyError(table)
        name = _live_name(table)
        schema = self.engine.ensure(name, lambda: self._live_file(table))
        columns = source_columns(schema)
        segmentation = tuple(key for key in columns if is_looked_up(key, columns))
        ordered = [key for key in columns if key not in segmentation] + list(segmentation)
        return Source(
            table,
            quoted(name),
            {key: columns[key] for key in ordered},
            self.resolution(table),
            split=True,
            segmentation=segmentation,
        )

    def _live_file(self, name: str) -> pa.Table:
        return self._served(name, "live", live=True)

    def _frozen_file(self, name: str, version: int) -> pa.Table:
        return self._served(name, f"v{self.world.names.own_version(version)}", live=False)

    def _served(self, name: str, moment: str, *, live: bool) -> pa.Table:
        """Rows of a table or view as it is served at a moment; from the folder's own, where a spec declares others."""
        shape = self._shapes.get(name)
        own = self._own.get(name, name) if shape is None else shape.base
        rows = pq.read_table(self.world.folder.file("tables", f"{own}.{moment}.parquet"))
        if shape is None:
            return rows
        return shaped_rows(shape, rows, self.world.folder.voxel_nm(shape.base), live=live)

    @cached_property
    def _view_documents(self) -> dict[str, Row]:
        document: dict[str, Row] = self.world.folder.json("tables", "views.json", default={})
        for name in document:
            self._own[self.world.names.public(name)] = name
        found = {self.world.names.public(name): entry for name, entry in document.items()}
        for shape in self._shapes.values():
            if shape.schema is None:
                number = len(found) + 1
                unit = self.world.folder.voxel_nm(shape.base)
                found[shape.name] = view_document(shape, number, document, unit)
        return found

    def views(self, version: int) -> dict[str, Row]:
        """Metadata of the views of a version; version 0 is the live database."""
        found = {}
        for name, entry in self._view_documents.items():
            row = self._of_version(entry["metadata by version"], version)
            if row is not None and self._has_view(version, name):
                found[name] = {**row, "datastack_name": self.world.names.datastack}
        return found

    def view_schemas(self, version: int) -> dict[str, Row]:
        """Column types of the views of a version."""
        schemas = {}
        for name, entry in self._view_documents.items():
            columns = self._of_version(entry["schema by version"], version)
            if columns is not None and self._has_view(version, name):
                schemas[name] = columns
        return schemas

    def _has_view(self, version: int, view: str) -> bool:
        return version == 0 or self.world.names.is_in(version, view)

    def _of_version(self, by_version: dict[str, Row], version: int) -> Row | None:
        # versions made while the sandbox runs have the views of the live database
        if version == 0 or (self.version(version) is not None and str(version) not in self._stored_versions):
            return by_version.get("0")
        return by_version.get(str(self.world.names.own_version(version)))

    @cached_property
    def _stored_versions(self) -> frozenset[str]:
        names = self.world.names
        return frozenset(str(names.public_version(int(row["version"]))) for row in self.world.folder.versions)

    def view(self, view: str, version: int) -> Source:
        """A view of a version; version 0 is the live database.

        Raise KeyError if the version has no such view.
        """
        row = self.views(version).get(view)
        if row is None:
            raise KeyError(view)
        if version == 0:
            name = f"{_live_name(view)}.{self.world.graph.generation}" if self._edited else _live_name(view)
            schema = self.engine.ensure(name, lambda: self._view_rows(view))
        else:
            name = _frozen_name(view, version)
            schema = self.engine.ensure(name, lambda: self._frozen_file(view, version))
        return Source(view, quoted(name), source_columns(schema), voxel_nm(row), reflected=True)

    @property
    def _edited(self) -> bool:
        return self.world.graph.available and self.world.graph.generation > 0

    def _view_rows(self, view: str) -> pa.Table:
        rows = self._live_file(view)
        # a table's roots are those of its last update, a view's those of now
        stale = self._edited or (view in self._shapes and self._shapes[view].base not in self._view_documents)
        return looked_up_again(rows, self.world.graph, None) if stale else rows

    def frame(self, table: str, version: int | None = None) -> pd.DataFrame:
        """Rows of a table as stored: frozen in a version, or every row ever written."""
        source = self.live(table) if version is None else self.frozen(table, version)
        names = ", ".join(quoted(name) for column in source.columns.values() for name in column.stored)
        frame: pd.DataFrame = self.engine.read(f"SELECT {names} FROM {source.relation}").to_pandas()
        return frame

    def live_rows(self, table: str) -> pa.Table:
        """Stored rows of a live table, bookkeeping columns included."""
        return self.engine.read(f"SELECT * FROM {self.live(table).relation}")


def _frozen_name(table: str, version: int) -> str:
    return f"v{version}.{table}"


def _live_name(table: str) -> str:
    return f"live.{table}"
