"""The embedded database: tables loaded when first asked, one cursor for every query."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cortexclient.sandbox.stores.tables.model import quoted, with_column


class Engine:
    """An in-memory database that many threads may query concurrently.

    A table is loaded when it is first asked for: a large cortex has many versions and most runs need one.
    """

    def __init__(self) -> None:
        self._base = duckdb.connect(":memory:")
        self._base.execute("SET preserve_insertion_order = true")
        # a name in a statement is never a variable of this program
        self._base.execute("SET python_enable_replacements = false")
        self._lock = threading.RLock()
        self._local = threading.local()
        self._cursors: list[duckdb.DuckDBPyConnection] = []
        self._schemas: dict[str, pa.Schema] = {}

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        cursor: duckdb.DuckDBPyConnection | None = getattr(self._local, "cursor", None)
        if cursor is None:
            with self._lock:
                cursor = self._base.cursor()
                self._cursors.append(cursor)
            self._local.cursor = cursor
        return cursor

    def read(self, sql: str, frames: Mapping[str, pa.Table] | None = None) -> pa.Table:
        """Answer of a query; `frames` can be named in it.

        Raise duckdb.Error where the database refuses it.
        """
        cursor = self._cursor()
        names = [*(frames or {})]
        for name in names:
            cursor.register(name, (frames or {})[name])
        try:
            return cursor.sql(sql).to_arrow_table()
        finally:
            for name in names:
                cursor.unregister(name)

    def write(self, sql: str, **frames: pa.Table) -> None:
        """Change a table; `frames` can be named in the statement."""
        with self._lock:
            cursor = self._base.cursor()
            try:
                for name, frame in frames.items():
                    cursor.register(name, frame)
                cursor.execute(sql)
            finally:
                cursor.close()

    def ensure(self, name: str, load: Callable[[], pa.Table]) -> pa.Schema:
        """Load a table unless it is there; its schema is returned."""
        schema = self._schemas.get(name)
        if schema is None:
            with self._lock:
                schema = self._schemas.get(name)
                if schema is None:
                    schema = self.replace(name, load())
        return schema

    def replace(self, name: str, rows: pa.Table) -> pa.Schema:
        """Put rows in place of a table, in their `storage_order` where they have one."""
        rows = _ready(rows)
        self.write(f"CREATE OR REPLACE TABLE {quoted(name)} AS SELECT * FROM incoming", incoming=rows)
        self._schemas[name] = rows.schema
        return rows.schema

    def close(self) -> None:
        """Free the database and end its threads, which may not outlive the interpreter that their tables belong to."""
        with self._lock:
            for cursor in self._cursors:
                cursor.close()
            self._cursors.clear()
            self._schemas.clear()
            self._base.close()


def _ready(rows: pa.Table) -> pa.Table:
    rows = rows.replace_schema_metadata(None)
    if "storage_order" in rows.column_names:
        order = rows["storage_order"]
        if len(order) > 1 and not pc.all(pc.less_equal(order[:-1], order[1:])).as_py():
            rows = rows.take(pc.sort_indices(order))
    for item in rows.schema:
        values = rows[item.name]
        if pa.types.is_timestamp(item.type) and item.type.tz is not None:
            # the database of the service keeps UTC without saying so
            utc = values.cast(pa.timestamp("us", "UTC"))
            rows = with_column(rows, item.name, utc.cast(pa.timestamp("us")))
        elif pa.types.is_large_string(item.type) or pa.types.is_dictionary(item.type):
            rows = with_column(rows, item.name, values.cast(pa.string()))
    return rows
