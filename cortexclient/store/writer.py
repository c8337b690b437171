"""Writing a table of the store: read once, sorted by DuckDB under a memory limit, checked, and renamed into place.

What is interrupted goes on: the rows that were read lie in one file until all copies are made, and each copy is renamed
when it is complete, so that a kill costs one copy at most.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import shutil
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet
from pydantic import TypeAdapter

from cortexclient.errors import CortexError, ExportError, MissingExtraError, StoreError
from cortexclient.files import write_text
from cortexclient.store.dumps import short
from cortexclient.store.tables import FORMAT, INDEX, MANIFEST, Copy, Part, TableManifest, byte_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path


__all__ = ["TableWriter", "Work"]

log = logging.getLogger(__name__)

GROUP_ROWS, FEW_ROWS = 8192, 1024
"""Rows of a row group: at most, and those after which it ends with its last key."""
PART_ROWS = 1_000_000
MEMORY = "600MB"
_TAIL = 8
"""Bytes after the footer of a file: its length, and a mark."""
_BATCH = 122_880  # a row group of DuckDB
_SPOOL, _SPOOL_DONE, _COPY = ".rows.parquet", ".rows.json", "_copy.json"


@dataclass(frozen=True)
class Work:
    """What there is to write: the columns of a frozen query in its order, and one copy sorted by each of the keys.

    `source` says where the rows come from, `expected` how many the server counts; a query rounds the numbers of the
    columns `rounded` to 32 bits.
    """

    datastack: str
    version: int
    name: str
    kind: str
    columns: Sequence[str]
    keys: Sequence[str]
    source: str
    expected: int | None = None
    rounded: Sequence[str] = ()


@dataclass
class TableWriter:
    """Writes one table into its folder; `report` is called with a short text and the number of rows at each step."""

    folder: Path
    work: Work
    report: Callable[[str, int], None] = lambda *_: None

    def write(self, batches: Callable[[], Iterable[pa.Table]]) -> TableManifest:
        """Write all copies of the rows that `batches` reads; it is not called if an earlier run has read them.

        Raises `StoreError` if the disk is too small, or what was written is not what was read; `ExportError` if what is
        read is damaged, or not the table that the server has.
        """
        duckdb = _duckdb()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with _locked(self.folder), _Database(self.folder) as database:
                rows, checksum = self._spool(batches, database)
                copies = [self._copy(key, rows, checksum, database) for key in self.work.keys]
                return self._finished(rows, copies)
        except duckdb.Error as error:
            raise StoreError(f"{self.work.name} cannot be sorted in {self.folder}: {short(error)}") from error
        except RuntimeError as error:
            if "interrupted" in str(error):  # so says DuckDB of a Ctrl-C
                raise KeyboardInterrupt from error
            raise

    def _finished(self, rows: int, copies: Sequence[Copy]) -> TableManifest:
        schema = parquet.read_schema(self.folder / _SPOOL)
        manifest = TableManifest(
            datastack=self.work.datastack,
            version=self.work.version,
            name=self.work.name,
            kind=self.work.kind,
            rows=rows,
            columns=tuple((field.name, str(field.type)) for field in schema),
            copies=tuple(copies),
            source=self.work.source,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_text(self.folder / MANIFEST, manifest.to_json())
        for name in (_SPOOL, _SPOOL_DONE):
            (self.folder / name).unlink(missing_ok=True)
        return manifest

    def _spool(self, batches: Callable[[], Iterable[pa.Table]], database: _Database) -> tuple[int, str]:
        """Read all rows into one file, which the copies are made of."""
        path, rows = self.folder / _SPOOL, 0  # complete only if the note beside it says so
        done = self._done(self.folder / _SPOOL_DONE)
        if done is not None:
            with contextlib.suppress(_duckdb().Error, KeyError, ValueError):  # damaged since then
                if database.checksum([path]) == done["checksum"]:
                    return int(done["rows"]), done["checksum"]
        try:
            chosen = (_rows_of_a_query(table, self.work) for table in batches())
            first = next(chosen)
            with parquet.ParquetWriter(path, first.schema, **_options(first.schema, level=1)) as file:
                for table in itertools.chain([first], chosen):
                    file.write_table(table)
                    rows += len(table)
                    self.report("read", rows)
        except OSError as error:
            if isinstance(error, CortexError):
                raise
            raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
        if self.work.expected is not None and rows != self.work.expected:
            path.unlink()
            raise ExportError(
                f"{self.work.source} has {rows:,} rows of {self.work.name}, and the server counts "
                f"{self.work.expected:,} at version {self.work.version}: it is not complete, or of another version"
            )
        checksum = database.checksum([path])
        write_text(self.folder / _SPOOL_DONE, self._note(rows=rows, checksum=checksum))
        return rows, checksum

    def _note(self, **facts: Any) -> str:
        same = {"format": FORMAT, "source": self.work.source, "columns": list(self.work.columns)}
        return json.dumps({**same, **facts})

    def _done(self, path: Path) -> dict[str, Any] | None:
        """Read a note of an earlier run, if it was about the same rows."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(found, dict) and found == {**found, **json.loads(self._note())}
        return found if same else None

    def _copy(self, key: str, rows: int, checksum: str, database: _Database) -> Copy:
        """Write all rows in the order of a key, check them, and put them in their place."""
        place = self.folder / key
        done = self._done(place / _COPY)
        if done is not None and done.get("checksum") == checksum:
            with contextlib.suppress(ValueError, KeyError, OSError):  # damaged since then
                copy = TypeAdapter(Copy).validate_python(done["copy"])
                parts = [*copy.parts, copy.index]
                if all(_part(place / part.name, part.rows, part.footer) == part for part in parts):
                    return copy
        aside = self.folder / f".{key}.part"
        for old in (aside, place):
            shutil.rmtree(old, ignore_errors=True)
        aside.mkdir()
        try:
            parts, index = self._parts(database.sorted(self.folder / _SPOOL, key), aside, key)
            written = sum(part.rows for part in parts)
            if written != rows or database.checksum([aside / part.name for part in parts]) != checksum:
                raise StoreError(f"the copy of {self.work.name} by {key} is not what was read; pull it again")
            copy = Copy(key, tuple(parts), index)
            write_text(aside / _COPY, self._note(checksum=checksum, copy=asdict(copy)))
            aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return copy

    def _parts(self, batches: Iterator[pa.Table], folder: Path, key: str) -> tuple[list[Part], Part]:
        parts: list[Part] = []
        groups: list[tuple[int, ...]] = []
        found, written = _groups(batches, key), 0
        for first in found:
            path, in_part, keys = folder / f"part-{len(parts):05d}.parquet", 0, []
            with parquet.ParquetWriter(path, first.schema, **_options(first.schema, key)) as file:
                for group in itertools.chain([first], found):
                    file.write_table(group, row_group_size=GROUP_ROWS)
                    keys.append(group.column(key).drop_null())
                    in_part += len(group)
                    self.report(f"sorted by {key}", written + in_part)
                    if in_part >= PART_ROWS:
                        break
            written += in_part
            footer = parquet.read_metadata(path)
            for number, held in enumerate(keys):
                if len(held) and pa.types.is_integer(held.type):
                    places = list(byte_ranges(footer, first.schema.names, [number]))
                    ends = held[0].as_py(), held[-1].as_py(), places[0][0], places[-1][1]
                    groups.append((len(parts), number, *ends))
            parts.append(_part(path, in_part, footer.serialized_size + _TAIL))
        names = ("part", "group", "low", "high", "start", "end")
        columns = {name: pa.array([group[n] for group in groups], pa.int64()) for n, name in enumerate(names)}
        index = folder / INDEX
        parquet.write_table(pa.table(columns), index, compression="zstd")
        return parts, _part(index, len(groups))


def _groups(batches: Iterator[pa.Table], key: str) -> Iterator[pa.Table]:
    """Cut sorted rows into row groups that end where a key ends, so that few rows of other keys are read with it.

    Groups of 4,096 rows that end anywhere would make a look-up of synapses read 2.6 times as many.
    """
    held: pa.Table | None = None
    for batch in batches:
        table = batch if held is None else pa.concat_tables([held, batch]).combine_chunks()
        ends = pc.run_end_encode(table.column(key).combine_chunks()).run_ends.to_numpy()
        at = 0
        while len(table) - at > GROUP_ROWS:  # the last run may go on in the next batch
            last = np.searchsorted(ends, at + FEW_ROWS)
            if ends[last] - at > GROUP_ROWS:
                last -= 1
            end = int(ends[last]) if last >= 0 and ends[last] > at else at + GROUP_ROWS
            yield table[at:end]
            at = end
        held = table[at:]
    if held is not None:
        yield held


def _part(path: Path, rows: int, footer: int = 0) -> Part:
    with path.open("rb") as file:
        size, checksum = path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(size - footer)
        return Part(path.name, rows, size, checksum, footer, hashlib.sha256(file.read()).hexdigest())


def _options(schema: pa.Schema, key: str | None = None, *, level: int = 3) -> dict[str, Any]:
    """How files are written: dictionaries for what repeats, bytes of numbers apart from each other for the rest.

    Measured with 15 columns of synapses: two copies take 1.4 times the gzipped CSV, half less than pyarrow's defaults.
    """
    repeating = [f.name for f in schema if f.name.endswith("_root_id") or pa.types.is_string(f.type)]
    numbers = [
        f.name
        for f in schema
        if f.name not in repeating and (pa.types.is_integer(f.type) or pa.types.is_floating(f.type))
    ]
    return {
        "compression": "zstd",
        "compression_level": level,
        "use_dictionary": repeating,
        "use_byte_stream_split": numbers,
        "write_page_checksum": True,
        # those of other columns exclude nothing, and are read with each footer
        "write_statistics": [] if key is None else [key],
        "sorting_columns": None if key is None else [parquet.SortingColumn(schema.names.index(key))],
    }


def _rows_of_a_query(table: pa.Table, work: Work) -> pa.Table:
    """Select the rows and columns that a frozen query returns: exports hold rows that are not valid, too."""
    missing = [name for name in work.columns if name not in table.column_names]
    if missing:
        raise ExportError(f"{work.source} has no columns {missing}, which {work.name} has on the server")
    if "valid" in table.column_names:
        table = table.filter(table.column("valid"))
    table = table.select(list(work.columns))
    for name in work.rounded:
        single = table.column(name).cast("float32", safe=False).cast("float64")
        table = table.set_column(table.column_names.index(name), name, single)
    return table


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtraError.of("the store needs", "duckdb", "store") from error
    if int(duckdb.__version__.partition(".")[0]) < 2:  # cannot read the encoding of our numbers
        raise MissingExtraError.of("the store needs", "duckdb>=2.0", "store")
    return duckdb


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one thread of one process at a time write into a folder; the lock of one that is killed is free."""
    path = folder / ".lock"
    with path.open("wb") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise StoreError(f"{folder} is being written by another process or thread") from error
        except OSError:
            log.info("%s is on a disk without locks: nothing may write into it at the same time", folder)
        yield
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            path.unlink()


class _Database:
    """DuckDB over Parquet files, with a limit to its memory and room on the disk beside them."""

    def __init__(self, folder: Path) -> None:
        self._spill = folder / ".spill"

    def __enter__(self) -> Self:
        config = {
            "memory_limit": MEMORY,
            "temp_directory": str(self._spill),
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        self._connection = _duckdb().connect(config=config)
        # its bar would be printed over ours
        self._connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    def checksum(self, paths: Sequence[Path]) -> str:
        """Return a number that depends on every value of every row, and not on their order."""
        if not paths:
            return "0"
        sql = "SELECT bit_xor(h), sum(h >> 32) FROM (SELECT hash(t) AS h FROM read_parquet(?) t)"
        [(one, other)] = self._connection.execute(sql, [[str(path) for path in paths]]).fetchall()
        return "0" if one is None else f"{one:x}-{other:x}"

    def sorted(self, path: Path, key: str) -> Iterator[pa.Table]:
        """Read a file in the order of a key, then of the ids."""
        schema = parquet.read_schema(path)
        order = [key, *(["id"] if "id" in schema.names and key != "id" else [])]
        columns = ", ".join(f'"{name}" NULLS LAST' for name in order)
        sql = f"SELECT * FROM read_parquet(?) ORDER BY {columns}"  # noqa: S608 - names of columns that are ours
        found = self._connection.sql(sql, params=[str(path)])
        yield schema.empty_table()
        for batch in found.to_arrow_reader(_BATCH):
            yield pa.Table.from_batches([batch]).cast(schema)
