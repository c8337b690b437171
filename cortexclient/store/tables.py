"""`StoredTable`: one table of one version on disk, sorted once for each key that people ask by, found by statistics.

::

    <store>/<datastack>/v<version>/<table>/_table.json            what it is, written last
    <store>/<datastack>/v<version>/<table>/<key>/part-00000.parquet ...    all rows in the order of the key
    <store>/<datastack>/v<version>/<table>/<key>/_groups.parquet  smallest and largest key of each row group

Row groups are small, so that the rows of one neuron are a few of them: what is read follows the size of the result, not
of the table. An index of 32 bytes a group is all that is held in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import parquet
from pydantic import Field, TypeAdapter

from cortexclient.errors import CortexError, StoreError
from cortexclient.session import run_all
from cortexclient.store.places import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from cortexclient.store.places import Place
    from cortexclient.types import IdArray

__all__ = ["FORMAT", "LIBRARIES", "MANIFEST", "Copy", "Part", "StoredTable", "TableManifest", "open_with"]

FORMAT = 1
MANIFEST = "_table.json"
INDEX = "_groups.parquet"
_MOST_MANIFEST = 50_000_000
_FOOTERS = 128
_MOST_RANGES = 64
_SCANNED = 4
"""Files of a scan at a time: with 15 columns each takes up to 200 MB."""


@dataclass(frozen=True)
class Part:
    """One file of a copy."""

    name: Annotated[
        str, Field(pattern=r"^(part-\d{5}|_groups)\.parquet$")
    ]  # others could lead out of the folder
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Copy:
    """All rows in the order of a key."""

    key: str
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    index: Part


@dataclass(frozen=True)
class TableManifest:
    """What a stored table is: `rows` are those of a frozen query, `columns` have names and Arrow types."""

    datastack: str
    version: int
    name: str
    kind: str
    rows: int
    columns: tuple[tuple[str, str], ...]
    copies: Annotated[tuple[Copy, ...], Field(min_length=1)]
    source: str
    made: str
    format: int = field(default=FORMAT)

    def to_json(self) -> str:
        """Write it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: bytes, where: str) -> TableManifest:
        """Read what `to_json` wrote; raises `StoreError` if it is something else."""
        try:
            body = json.loads(text)
            if body["format"] != FORMAT:
                raise StoreError(
                    f"{where} was written by another version of cortexclient; pull the table again"
                )
            found = TypeAdapter(cls).validate_python(body)
            if not {copy.key for copy in found.copies} <= {name for name, _ in found.columns}:
                raise ValueError("copies of other columns")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{where} is damaged ({type(error).__name__}); pull the table again") from error
        return found


class StoredTable:
    """A table of a store, read only; `place` is its folder, `where` its name for messages."""

    def __init__(self, place: Place, where: str) -> None:
        self._place = place
        self.where = where
        try:
            content = place.read(MANIFEST)
        except FileNotFoundError as error:
            raise StoreError(f"there is no table at {where}") from error
        except CortexError:
            raise
        except Exception as error:
            raise StoreError(f"{where} cannot be read: {type(error).__name__}: {error}") from error
        self.manifest = TableManifest.from_json(content[:_MOST_MANIFEST], f"{where}/{MANIFEST}")
        self._indexes: dict[str, Any] = {}
        self._footers: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"StoredTable({self.where!r}, {self.manifest.rows:,} rows by {', '.join(self.keys)})"

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Columns that rows are found by: ids. A view may have none, and a copy in the order of a text."""
        kinds = dict(self.manifest.columns)
        return tuple(copy.key for copy in self.manifest.copies if kinds[copy.key] == "int64")

    @cached_property
    def names(self) -> list[str]:
        """Columns, in the order in which queries return them."""
        return [name for name, _ in self.manifest.columns]

    def copy(self, key: str | None = None) -> Copy:
        """Return the copy of a key; None for the first."""
        return next(copy for copy in self.manifest.copies if key in {None, copy.key})

    def paths(self, key: str | None = None) -> list[str]:
        """List the files of a copy."""
        copy = self.copy(key)
        return [f"{self._place.uri}/{copy.key}/{part.name}" for part in copy.parts]

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine."""
        return hasattr(self._place, "folder")

    def find(self, key: str, ids: IdArray, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows whose key is one of some ids (int64), in the order of the key.

        Only row groups that can hold one are read: those whose smallest and largest key say so.
        """
        wanted = np.unique(np.asarray(ids, dtype=np.int64))
        names = self.names if columns is None else list(columns)
        read = list(dict.fromkeys([*names, key]))
        copy = self.copy(key)

        def rows(part: int, groups: list[int]) -> pa.Table:
            with self._opened(key, copy.parts[part], read, groups) as file:
                return _of_keys(file.read_row_groups(groups, columns=read, use_threads=False), key, wanted)

        jobs = [partial(rows, *each) for each in self.groups_for(key, wanted)]
        tables = run_all(jobs, workers=(os.cpu_count() or 1) if self.is_local else CONNECTIONS)
        return pa.concat_tables(tables or [self.schema(read).empty_table()]).select(names)

    def groups_for(self, key: str, wanted: IdArray) -> list[tuple[int, list[int]]]:
        """List the row groups that can hold some sorted ids: number of the part, numbers of its groups."""
        index = self._index(key)
        # more ids are at most its largest key than are below its smallest: some are between them
        between = np.searchsorted(wanted, index["high"], side="right") > np.searchsorted(wanted, index["low"])
        hit = np.flatnonzero(between)
        parts = index["part"][hit]
        return [(part, index["group"][hit[parts == part]].tolist()) for part in np.unique(parts).tolist()]

    def _index(self, key: str) -> dict[str, Any]:
        if key not in self._indexes:
            with self._opened(key, self.copy(key).index) as file:
                table = file.read()
            self._indexes[key] = {name: table.column(name).to_numpy() for name in table.column_names}
        return self._indexes[key]  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _opened(
        self, key: str, part: Part, columns: Sequence[str] = (), groups: Sequence[int] | None = None
    ) -> Iterator[parquet.ParquetFile]:
        """Open a file; whatever is wrong with it, also with what is read inside of the block, is one error.

        Of one elsewhere, those `columns` are fetched, of some row groups or all; without any it may be read at will.
        """
        path = f"{key}/{part.name}"
        try:
            source: Any = self._place.random(path, part.size)
            footer = self._footers.get(path)
            if footer is None and columns:
                # it describes hundreds of row groups: reading it takes longer than the rows of a neuron
                footer = parquet.read_metadata(source)
                if len(self._footers) >= _FOOTERS:
                    self._footers.clear()  # in one step, since other threads add theirs
                self._footers[path] = footer
            if columns and hasattr(source, "holding"):
                source = source.holding(_ranges(footer, columns, groups))
            with parquet.ParquetFile(
                source, metadata=footer, page_checksum_verification=True, pre_buffer=True
            ) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(
                f"{self.where}/{path} is missing or damaged ({reason}); `cortexclient store verify` removes damaged "
                "tables, then pull it again"
            ) from error

    def filtered(
        self,
        condition: pc.Expression | None,
        columns: Sequence[str],
        needed: Sequence[str],
        among: tuple[str, pa.Array] | None = None,
    ) -> pa.Table:
        """Return the rows that a condition lets through; ``needed`` are the columns that it is about, and ``columns``.

        Of them those whose column holds one of the values ``among``, which may be many. A few files are read at a time.
        """
        copy = self.copy()

        def rows(part: Part) -> pa.Table:
            with self._opened(copy.key, part, needed) as file:
                found = file.read(columns=list(needed))
            if among is not None:
                found = found.filter(pc.is_in(found.column(among[0]), value_set=among[1]))
            return (found if condition is None else found.filter(condition)).select(list(columns))

        return pa.concat_tables(run_all([partial(rows, part) for part in copy.parts], workers=_SCANNED))

    def schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """Arrow schema of some columns, as the files have it."""
        with self._opened(self.copy().key, self.copy().parts[0], self.names, ()) as file:
            found = file.schema_arrow
        return pa.schema([found.field(name) for name in (columns or self.names)])

    def damaged(self) -> list[str]:
        """Read every file and compare its checksum; returns the paths of those that differ."""
        bad = []
        for copy in self.manifest.copies:
            for part in (*copy.parts, copy.index):
                path = f"{copy.key}/{part.name}"
                try:
                    with self._place.open(path) as file:
                        sound = hashlib.file_digest(file, "sha256").hexdigest() == part.sha256
                except (OSError, CortexError):
                    sound = False
                if not sound:
                    bad.append(path)
        return bad

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for copy in self.manifest.copies for part in (*copy.parts, copy.index))


def _ranges(
    footer: parquet.FileMetaData, columns: Sequence[str], groups: Sequence[int] | None
) -> Iterator[tuple[int, int]]:
    """Say in which bytes of a file some columns of its row groups lie."""
    wanted = {*columns}
    for group in range(footer.num_row_groups) if groups is None else groups:
        described = footer.row_group(group)
        for number in range(described.num_columns):
            column = described.column(number)
            if not wanted.isdisjoint({column.path_in_schema, column.path_in_schema.partition(".")[0]}):
                start = column.dictionary_page_offset or column.data_page_offset
                yield start, start + column.total_compressed_size


def _of_keys(table: pa.Table, key: str, wanted: IdArray) -> pa.Table:
    """Select the rows of some keys from rows that are sorted by it, nulls last: ranges, of which nothing is copied."""
    last = np.iinfo(np.int64).max
    column = table.column(key)
    values = (column.fill_null(last) if column.null_count else column).to_numpy()
    ids = wanted[wanted < last]
    starts, ends = np.searchsorted(values, ids, side="left"), np.searchsorted(values, ids, side="right")
    ranges = [(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True) if end > start]
    if len(ranges) <= _MOST_RANGES:
        return pa.concat_tables([table[:0], *(table[start:end] for start, end in ranges)])
    chosen = np.zeros(len(table), dtype=bool)
    for start, end in ranges:
        chosen[start:end] = True
    return table.filter(pa.array(chosen))


LIBRARIES = ("dataset", "duckdb", "polars", "dask")


def open_with(library: str, table: StoredTable, key: str | None, ids: IdArray | None) -> Any:
    """Open a stored table in one of the `LIBRARIES`: all rows, or those whose key is one of some ids."""
    paths = table.paths(key)
    if library == "dask":
        return _open_with_dask(table, paths, key, ids)
    rows = None if key is None or ids is None else table.find(key, ids)
    if library == "duckdb":
        import duckdb

        connection = duckdb.connect()
        return connection.read_parquet(paths) if rows is None else connection.from_arrow(rows)
    if library == "polars":
        import polars as pl  # type: ignore[import-not-found,unused-ignore]

        return pl.scan_parquet(paths) if rows is None else pl.DataFrame(rows).lazy()
    return ds.dataset(paths, format="parquet", schema=table.schema()) if rows is None else ds.dataset(rows)


def _open_with_dask(table: StoredTable, paths: list[str], key: str | None, ids: IdArray | None) -> Any:
    import dask.dataframe

    frames: Any = dask.dataframe
    if key is None or ids is None:
        return frames.read_parquet(paths, dtype_backend="pyarrow")
    # Dask looks at the statistics of files only, and reads every row group of those
    empty = _in_pandas(table.schema().empty_table())
    parts = [(paths[part], groups) for part, groups in table.groups_for(key, np.unique(ids))]
    if not parts:
        return frames.from_pandas(empty, npartitions=1)
    return frames.from_map(_read_groups, parts, key=key, ids=ids, meta=empty)


def _read_groups(part: tuple[str, list[int]], *, key: str, ids: IdArray) -> pd.DataFrame:
    path, groups = part
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        found = file.read_row_groups(groups)
    return _in_pandas(found.filter(pc.is_in(found.column(key), value_set=pa.array(ids))))


def _in_pandas(table: pa.Table) -> pd.DataFrame:
    import pandas as pd

    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame
