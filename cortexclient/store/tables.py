"""`StoredTable`: one table of one version on disk, sorted once for each key that people ask by, found by statistics.

::

    <store>/<datastack>/v<version>/<table>/_table.json            what it is, written last
    <store>/<datastack>/v<version>/<table>/<key>/part-00000.parquet ...    all rows in the order of the key
    <store>/<datastack>/v<version>/<table>/<key>/_groups.parquet  smallest and largest key of each row group, its bytes

Row groups are small, so that the rows of one neuron are a few of them: what is read follows the size of the result, not
of the table. An index of 48 bytes a group is all that is held in memory.

Pages have checksums of their own, which are compared when they are read; manifest, index and footers are compared here.
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeAlias

    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.store.places import Place
    from cortexclient.types import IdArray

    Ranges: TypeAlias = Iterable[tuple[int, int]]

__all__ = [
    "FORMAT",
    "LIBRARIES",
    "MANIFEST",
    "Copy",
    "OtherFormatError",
    "Part",
    "StoredTable",
    "TableManifest",
    "byte_ranges",
    "open_with",
]

FORMAT = 2
MANIFEST = "_table.json"
INDEX = "_groups.parquet"
_MOST_MANIFEST = 50_000_000
_FOOTERS = 128
_MOST_RANGES = 64
_SCANNED = 4
"""Files of a scan at a time: with 15 columns each takes up to 200 MB."""


class OtherFormatError(StoreError):
    """A sound table of another version of cortexclient, which must not be removed as damaged."""


@dataclass(frozen=True)
class Part:
    """One file of a copy; `footer` are the bytes at its end that say where columns lie (0 for an index)."""

    name: Annotated[
        str, Field(pattern=r"^(part-\d{5}|_groups)\.parquet$")
    ]  # others could lead out of the folder
    rows: int
    size: int
    sha256: str
    footer: int = 0
    footer_sha256: str = ""

    @property
    def end(self) -> tuple[int, int]:
        """Where the footer lies."""
        return self.size - self.footer, self.size


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
        """Write it, with a checksum."""
        body = asdict(self)
        return json.dumps({**body, "checksum": _checksum(body)}, indent=1)

    @classmethod
    def from_json(cls, text: bytes, where: str) -> TableManifest:
        """Read what `to_json` wrote; raises `StoreError` if it is something else."""
        try:
            body = json.loads(text)
            if body.pop("checksum") != _checksum(body):
                raise ValueError("another checksum")
            if body["format"] != FORMAT:
                raise OtherFormatError(
                    f"{where} was written by another version of cortexclient; use that one, or pull the table again"
                )
            found = TypeAdapter(cls).validate_python(body)
            if not {copy.key for copy in found.copies} <= {name for name, _ in found.columns}:
                raise ValueError("copies of other columns")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{where} is damaged ({type(error).__name__}); pull the table again") from error
        return found


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


class StoredTable:
    """A table of a store, read only; `place` is its folder, `where` its name for messages, `content` its manifest."""

    def __init__(self, place: Place, where: str, content: bytes) -> None:
        self._place = place
        self.where = where
        self.manifest = TableManifest.from_json(content[:_MOST_MANIFEST], f"{where}/{MANIFEST}")
        self._indexes: dict[str, dict[str, NDArray[np.int64]]] = {}
        self._footers: dict[tuple[str, int], Any] = {}

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
        hits = self.hits(key, wanted)
        needed = {number: self._bytes_of(key, number, hits[number], read) for number in hits}
        # files of this machine are opened when they are read: there may be more than a process may have open
        fetched = {} if self.is_local else self._sources(key, needed)

        def rows(number: int) -> pa.Table:
            source = fetched.get(number) or self._sources(key, {number: needed[number]})[number]
            with self._opened(key, number, *source) as file:
                groups = hits[number]["group"].tolist()
                return _of_keys(file.read_row_groups(groups, columns=read, use_threads=False), key, wanted)

        tables = run_all([partial(rows, number) for number in hits], workers=os.cpu_count() or 1)
        return pa.concat_tables(tables or [self.schema(read).empty_table()]).select(names)

    def hits(self, key: str, wanted: IdArray) -> dict[int, dict[str, NDArray[np.int64]]]:
        """Find the row groups that can hold some sorted ids: number of the part -> their rows of the index."""
        index = self._index(key)
        # more ids are at most its largest key than are below its smallest: some are between them
        between = np.searchsorted(wanted, index["high"], side="right") > np.searchsorted(wanted, index["low"])
        found = {name: column[between] for name, column in index.items()}
        return {
            number: {name: column[found["part"] == number] for name, column in found.items()}
            for number in np.unique(found["part"]).tolist()
        }

    def _index(self, key: str) -> dict[str, NDArray[np.int64]]:
        if key not in self._indexes:
            part = self.copy(key).index
            with self._damage_in(f"{key}/{part.name}") as path:
                content = self._place.read(path)
                _require_same(content, part.sha256)
                table = parquet.read_table(pa.BufferReader(content))
            self._indexes[key] = {name: table.column(name).to_numpy() for name in table.column_names}
        return self._indexes[key]

    def _bytes_of(
        self, key: str, number: int, hits: dict[str, NDArray[np.int64]], columns: Sequence[str]
    ) -> Ranges:
        """Say in which bytes of a part some row groups lie: of all columns, if its footer is not known yet."""
        footer = self._footers.get((key, number))
        if footer is not None:
            return byte_ranges(footer, columns, hits["group"].tolist())
        return zip(hits["start"].tolist(), hits["end"].tolist(), strict=True)

    def _sources(
        self, key: str, wanted: dict[int, Ranges]
    ) -> dict[int, tuple[pa.NativeFile, parquet.FileMetaData]]:
        """Open parts, of which some bytes will be read: number -> the file and its footer.

        Of files elsewhere these bytes, and footers that are not known yet, are fetched concurrently.
        """
        parts = {number: self.copy(key).parts[number] for number in wanted}
        paths = {number: f"{key}/{part.name}" for number, part in parts.items()}
        footers = {number: self._footers.get((key, number)) for number in wanted}
        with self._damage_in(", ".join([*paths.values()][:3])):
            ranges = {
                paths[number]: (part.size, [*wanted[number], *([] if footers[number] else [part.end])])
                for number, part in parts.items()
            }
            opened = self._place.holding(ranges)
        for number, part in parts.items():
            if footers[number] is None:
                with self._damage_in(paths[number]):
                    tail = opened[paths[number]].read_at(part.footer, part.end[0])
                    _require_same(tail, part.footer_sha256)
                    footers[number] = parquet.read_metadata(pa.BufferReader(tail))
                if len(self._footers) >= _FOOTERS:
                    self._footers.clear()  # in one step, since other threads add theirs
                self._footers[key, number] = footers[number]
        return {number: (opened[paths[number]], footers[number]) for number in parts}

    @contextlib.contextmanager
    def _opened(
        self, key: str, number: int, source: pa.NativeFile, footer: parquet.FileMetaData
    ) -> Iterator[parquet.ParquetFile]:
        with (
            self._damage_in(f"{key}/{self.copy(key).parts[number].name}"),
            source,
            parquet.ParquetFile(
                source, metadata=footer, page_checksum_verification=True, pre_buffer=True
            ) as file,
        ):
            yield file

    @contextlib.contextmanager
    def _damage_in(self, path: str) -> Iterator[str]:
        """Give the path of a file; whatever is wrong with it inside of the block is one error."""
        try:
            yield path
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
        key = self.copy().key

        def rows(number: int) -> pa.Table:
            footer = self._footers.get((key, number)) or self._sources(key, {number: ()})[number][1]
            source = self._sources(key, {number: byte_ranges(footer, needed, None)})[number]
            with self._opened(key, number, *source) as file:
                found = file.read(columns=list(needed))
            if among is not None:
                found = found.filter(pc.is_in(found.column(among[0]), value_set=among[1]))
            return (found if condition is None else found.filter(condition)).select(list(columns))

        jobs = [partial(rows, number) for number in range(len(self.copy().parts))]
        return pa.concat_tables(run_all(jobs, workers=_SCANNED))

    def schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """Arrow schema of some columns, as the files have it."""
        key = self.copy().key
        footer = self._footers.get((key, 0)) or self._sources(key, {0: ()})[0][1]
        found = footer.schema.to_arrow_schema()
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


def _require_same(content: bytes, sha256: str) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise pa.ArrowInvalid("it has another checksum")


def byte_ranges(
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
    hits = table.hits(key, np.unique(ids))
    parts = [(paths[number], found["group"].tolist()) for number, found in hits.items()]
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
