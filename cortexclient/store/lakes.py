"""Tables as Parquet: Delta Lake tables as CAVE's exporter writes them, and plain folders of Parquet files."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from cortexclient.errors import ExportError, MissingExtraError
from cortexclient.store.dumps import canonical, decode_points, short, stored_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cortexclient.store.places import Place

__all__ = ["DeltaCopies", "ParquetFiles"]

_POINT_IDS = ("_supervoxel_id", "_root_id")


class DeltaCopies:
    """The copies of one table that an exporter wrote, each with all rows in the order of the column it is named after.

    `folders` maps copies to folders below the place; ``flat`` and ``id`` are any order. Files are taken from the log
    of a copy, never from the folder: in the making, and after a failure, files of several steps lie there.
    """

    def __init__(self, place: Place, folders: dict[str, str], where: str) -> None:
        self._place = place
        self.folders = folders
        self.where = where
        self._open: dict[str, Any] = {}

    def copy_for(self, columns: Sequence[str] = ()) -> str:
        """Choose the copy to read: of a column that is filtered, else ``flat``, else ``id``, else the first."""
        wanted = (*columns, "flat", "id", *sorted(self.folders))
        return next(name for name in wanted if name in self.folders)

    def table(self, copy: str) -> Any:
        """Open a copy (`deltalake.DeltaTable`); raises `ExportError` if its log says that it is not finished."""
        if copy not in self._open:
            try:
                import deltalake
            except ImportError as error:
                raise MissingExtraError.of("reading Delta tables needs", "deltalake", "delta") from error
            uri = f"{self._place.uri}/{self.folders[copy]}".rstrip("/")
            try:
                found = _opened(deltalake.DeltaTable, uri)
            except Exception as error:
                raise ExportError(
                    f"the Delta table {self.where}/{copy} cannot be read: {short(error)}"
                ) from error
            self._require_finished(found, copy)
            self._open[copy] = found
        return self._open[copy]

    def _require_finished(self, table: Any, copy: str) -> None:
        """Notice an export in the making: it has several commits, and is optimized after the last one."""
        if not any(column == f"{copy}_partition" for column in table.metadata().partition_columns):
            return  # one written at once, or by other hands
        steps = (entry.get("operation") for entry in table.history())  # newest first
        if next((step for step in steps if step in {"WRITE", "OPTIMIZE"}), None) == "WRITE":
            raise ExportError(
                f"the export {self.where}/{copy} is not finished or has failed: nothing was optimized after its last "
                "write. Wait for it, read another version, or ask its operators"
            )

    def count(self) -> int:
        """Number of rows, which all copies must have: if they differ, one is not finished (`ExportError`)."""
        counts = {}
        for copy in self.folders:
            actions = pa.table(self.table(copy).get_add_actions(flatten=True))
            counts[copy] = int(sum(actions.column("num_records").to_pylist()))
        if len(set(counts.values())) > 1:
            raise ExportError(
                f"the copies of {self.where} have different numbers of rows ({counts}): one is not finished"
            )
        return next(iter(counts.values()))

    def names(self) -> list[str]:
        """List the columns: positions spread out, what the exporter added left out."""
        table = self.table(self.copy_for())
        return _names(pa.schema(table.schema().to_arrow()), table.metadata().partition_columns)

    def batches(
        self, wanted: Sequence[str] | None = None, *, filtered: Sequence[str] = ()
    ) -> Iterator[pa.Table]:
        """Read the rows of one copy; as `Dump.batches`."""
        self.count()
        table = self.table(self.copy_for(filtered))
        names = self.names() if wanted is None else list(wanted)
        try:
            dataset = table.to_pyarrow_dataset()
            stored = stored_columns(dataset.schema.names, names)
            schema = pa.schema([dataset.schema.field(name) for name in stored])
            yield _decoded(schema.empty_table(), names)
            for batch in dataset.to_batches(columns=stored):
                yield _decoded(pa.Table.from_batches([batch]), names)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, ExportError):
                raise
            raise ExportError(f"{self.where} is cut or damaged: {short(error)}") from error


def _opened(kind: Any, uri: str) -> Any:
    """Open a table of a bucket without credentials first: without this hint delta-rs asks the machine for some."""
    hints = {"gs": "google_skip_signature", "s3": "aws_skip_signature"}
    hint = hints.get(uri.partition("://")[0])
    if hint is not None:
        with contextlib.suppress(Exception):  # not public; with credentials it may work, or say why not
            return kind(uri, storage_options={hint: "true"})
    return kind(uri)


class ParquetFiles:
    """A table as Parquet files, of which each holds some of the rows; folders ``column=value`` are columns."""

    def __init__(self, place: Place, paths: Sequence[str], where: str) -> None:
        self._place = place
        self.paths = sorted(paths)
        self.where = where
        self._schema: Any = None

    def names(self) -> list[str]:
        """List the columns: positions spread out."""
        if self._schema is None:
            with self._reading(self.paths[0]) as file:
                self._schema = self._with_folders(self.paths[0], file.schema_arrow.empty_table()).schema
        return _names(self._schema, [])

    def batches(self, wanted: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read the rows; as `Dump.batches`."""
        names = self.names() if wanted is None else list(wanted)
        for path in self.paths:
            with self._reading(path) as file:
                here = set(file.schema_arrow.names)
                columns = [name for name in stored_columns(self._schema.names, names) if name in here]
                if file.metadata.num_rows == 0:
                    yield _decoded(self._with_folders(path, file.schema_arrow.empty_table()), names)
                for batch in file.iter_batches(batch_size=1 << 18, columns=columns):
                    yield _decoded(self._with_folders(path, pa.Table.from_batches([batch])), names)

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[Any]:
        """Open a file; whatever is wrong with it, also with what is read inside of the block, is one error."""
        local = getattr(self._place, "folder", None)
        try:
            source = pa.BufferReader(self._place.read(path)) if local is None else str(local / path)
            with parquet.ParquetFile(source, page_checksum_verification=True) as file:
                yield file
        except ExportError:
            raise
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ExportError(
                f"{self.where}: {path} is no Parquet file, cut, damaged or of another table: {short(error)}"
            ) from error

    @staticmethod
    def _with_folders(path: str, table: pa.Table) -> pa.Table:
        for name, value in re.findall(r"([^/=]+)=([^/]*)/", path):
            if name not in table.column_names and not name.endswith("_partition"):
                filled = None if value == "__HIVE_DEFAULT_PARTITION__" else value
                column = pa.repeat(pa.scalar(filled, pa.string()), len(table))
                is_number = filled is None or re.fullmatch(r"-?\d+", value)
                table = table.append_column(name, column.cast(pa.int64()) if is_number else column)
        return table


def _names(schema: Any, partitions: Sequence[str]) -> list[str]:
    """List the columns of a table as queries name and order them, of whatever copy the schema is."""
    stored = set(schema.names)
    names = []
    for field in schema:
        point = field.name.removesuffix("_morton")
        is_morton = point != field.name and {point, f"{point}_x"} & stored
        if is_morton or field.name in partitions or field.name.startswith("__index_level_"):
            continue  # added by the exporter, or by pandas
        binary = pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        names += [f"{field.name}_{axis}" for axis in "xyz"] if binary else [field.name]
    # a copy whose points were spread out has them at its end, others where they stood: before the ids of the point
    for last in [name for name in names if name.endswith("_position_z")]:
        point = last.removesuffix("_position_z")
        ids = [name for name in names if name in {point + end for end in _POINT_IDS}]
        if ids and names.index(ids[0]) < names.index(last):
            parts = [f"{point}_position_{axis}" for axis in "xyz"]
            rest = [name for name in names if name not in parts]
            at = rest.index(ids[0])
            names = [*rest[:at], *parts, *rest[at:]]
    return names


def _decoded(table: pa.Table, names: Sequence[str]) -> pa.Table:
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        binary = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
        parts = decode_points(name, column) if binary else None
        if binary and parts is None:
            raise ExportError(f"the column {name} holds bytes that are no points")
        columns |= {name: canonical(column)} if parts is None else parts
    return pa.table({name: columns[name] for name in names})
