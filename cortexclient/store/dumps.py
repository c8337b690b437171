"""Dumps of a table as gzipped CSV without a header line, read block by block into Arrow.

CAVE's exporter has the database write them (``COPY ... CSV``): an empty field is null and ``""`` an empty text, truth
values are ``t`` and ``f``, points are hexadecimal EWKB, times are UTC without a zone. A header file names the columns.
"""

from __future__ import annotations

import binascii
import contextlib
import csv
import io
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from cortexclient.errors import CortexError, ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from io import BufferedReader

    from numpy.typing import NDArray

__all__ = ["Column", "Dump", "canonical", "decode_points", "parse_header", "short", "stored_columns"]

log = logging.getLogger(__name__)

_TRUE, _FALSE = ["t", "true", "True", "TRUE", "1"], ["f", "false", "False", "FALSE", "0"]
_GEOMETRY = re.compile(r"geometry|user-defined|point", re.IGNORECASE)
_TEXT = re.compile(r"text|.*char|json|string|array", re.IGNORECASE)
_BOOKKEEPING = ("created", "deleted", "superceded_id")
_NO_ZONE, _UTC = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
_OTHER_ZONE = {_NO_ZONE: _UTC, _UTC: _NO_ZONE}
_ARROW_TYPES = {
    r"((big|small)?(int|serial)|oid)": pa.int64(),
    r"real|float4": pa.float32(),  # its texts are the shortest, which give other numbers in 64 bits
    r"double|float|numeric|decimal": pa.float64(),
    r"bool": pa.bool_(),
    r"(timestamp|datetime)(.*with time zone|.*tz$)": _UTC,
    r"timestamp|datetime": _NO_ZONE,
    r"date$": pa.date32(),
    r"uuid|.*\[\]$": pa.string(),
}
_WKT = r"POINT\s*Z?\s*\(\s*(?P<x>\S+)\s+(?P<y>\S+)\s+(?P<z>[^\s)]+)\s*\)"
_BLOCK = 1 << 24
"""Unpacked bytes that are parsed together."""
_SAMPLE = 1 << 20
_MARK = "\ufeff".encode()

_Z, _SRID = 0x80000000, 0x20000000


@dataclass(frozen=True)
class Column:
    """One column of a dump; `sql_type` is as in the header file, None where it gives no types and they are inferred."""

    name: str
    sql_type: str | None

    @property
    def is_geometry(self) -> bool:
        """The column holds points, which are read into three columns."""
        return bool(self.sql_type and _GEOMETRY.search(self.sql_type))

    @property
    def is_text(self) -> bool:
        """The column may hold any text."""
        return self.sql_type is None or bool(_TEXT.match(self.sql_type))

    def arrow_type(self) -> pa.DataType | None:
        """Arrow type that the values are parsed as, None to infer it."""
        kind = (self.sql_type or "").strip().lower()
        for pattern, found in _ARROW_TYPES.items():
            if re.match(pattern, kind):
                return found
        return pa.string() if kind and (self.is_text or self.is_geometry) else None


def parse_header(content: bytes, where: str) -> list[Column]:
    """Read a header file: a line of name and SQL type for each column, or a single line with all the names."""
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig")))
        rows = [row for row in lines if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExportError(f"{where} is no header file: {error}") from error
    if rows and [cell.strip().lower() for cell in rows[0]] == ["column_name", "data_type"]:
        rows = rows[1:]
    if not rows:
        raise ExportError(
            f"{where} is empty; it should hold a line 'name,SQL type' for each column of the table"
        )
    if len(rows) == 1 and len(rows[0]) > 2:
        columns = [Column(name.strip(), None) for name in rows[0]]
    elif all(len(row) <= 2 for row in rows):
        columns = [Column(row[0].strip(), row[1].strip() or None if len(row) > 1 else None) for row in rows]
    else:
        raise ExportError(
            f"{where} has lines of {len(rows[0])} fields; expected 'name,SQL type' on each line"
        )
    names = [column.name for column in columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if "" in names or repeated:
        raise ExportError(
            f"{where} has {f'repeated names {repeated}' if repeated else 'a column without a name'}"
        )
    return columns


class Dump:
    """The rows of a dump, in batches that do not depend on its size.

    `open_file` opens the file as it is stored, `where` names it in messages. `order` returns the columns in the table's
    own order where a service knows it: that of the header file is the database planner's choice, and may be another.
    """

    def __init__(
        self,
        open_file: Callable[[], BufferedReader],
        columns: Sequence[Column],
        where: str,
        *,
        order: Callable[[], Sequence[str] | None] | None = None,
    ) -> None:
        self._open = open_file
        self.columns = list(columns)
        self.where = where
        self._order = order
        self._types = {column.name: kind for column in columns if (kind := column.arrow_type()) is not None}
        self._points: dict[str, bool] = {column.name: True for column in columns if column.is_geometry}

    def names(self) -> list[str]:
        """List the columns of the batches: those of the header, points spread out."""
        return [name for column in self.columns for name in self._spread(column.name)]

    def _spread(self, name: str) -> list[str]:
        return [f"{name}_{axis}" for axis in "xyz"] if self._points.get(name) else [name]

    def batches(self, wanted: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows of the `wanted` columns in their order, as `names` has them: at least one table.

        Whole numbers are int64, other numbers float64, times UTC, points three columns (``_x``, ``_y``, ``_z``).
        Raises `ExportError` if the file is empty, cut or damaged, or does not fit its header file.
        """
        first = True
        stored = [column.name for column in self.columns]
        names = None if wanted is None else stored_columns(stored, wanted)
        with contextlib.closing(self._blocks()) as blocks:
            for block in blocks:
                if first:
                    self._check_order(block)
                elif block.startswith(_MARK):
                    block = _MARK + block  # noqa: PLW2901 - the beginning of a text, which Arrow would leave out
                first = False
                yield self._decoded(self._parse(block, names, self.columns), wanted)
        if first:
            schema = pa.schema([(name, self._types.get(name, pa.null())) for name in names or stored])
            yield self._decoded(schema.empty_table(), wanted)

    def _blocks(self) -> Generator[bytes]:
        """Unpack the file into blocks that end at the end of a row."""
        from isal import igzip_lib, igzip_threaded

        try:
            with self._open() as raw:
                start = raw.peek(2)[:2]
                if not start:
                    raise ExportError(
                        f"{self.where} is empty: not even a table without rows is 0 bytes; was its export interrupted?"
                    )
                if start != b"\x1f\x8b":
                    yield from _rows(raw)
                    return
                with igzip_threaded.open(raw, "rb", threads=1) as file:
                    yield from _rows(file)
        except (CortexError, FileNotFoundError):
            raise
        except (OSError, EOFError, ValueError, cast("type[Exception]", igzip_lib.IsalError)) as error:
            raise ExportError(f"{self.where} is cut or damaged: {short(error)}; download it again") from error

    def _check_order(self, block: bytes) -> None:
        """Correct the order of the columns where the first rows, or the usual order, contradict the header."""
        rows = block[: _last_row_end(block[:_SAMPLE])] or block
        failure = self._misfit(rows, self.columns)
        if failure is None and _is_usual(self.columns):
            return
        known = self._in_order(self._order and self._order())
        if known is not None and known != self.columns and self._misfit(rows, known) is None:
            log.warning(
                "the header file of %s has another order than its rows; the table's order is used", self.where
            )
            self.columns = known
        elif failure is not None:
            raise failure

    def _misfit(self, rows: bytes, columns: Sequence[Column]) -> ExportError | None:
        try:
            self._parse(rows, None, columns)
        except ExportError as error:
            return error
        return None

    def _in_order(self, names: Sequence[str] | None) -> list[Column] | None:
        """Put the columns in the order of a query's: bookkeeping, which no query returns, stands after ``id``."""
        by_name = {column.name: column for column in self.columns}
        order = [name for name in stored_columns(list(by_name), names or ()) if name in by_name]
        hidden = [name for name in _BOOKKEEPING if name in by_name and name not in order]
        at = order.index("id") + 1 if "id" in order else 0
        order[at:at] = hidden
        return [by_name[name] for name in order] if len(order) == len(by_name) else None

    def _parse(self, block: bytes, wanted: Sequence[str] | None, columns: Sequence[Column]) -> pa.Table:
        try:
            return self._read_csv(block, wanted, columns)
        except pa.ArrowInvalid as error:
            problem = error
        with contextlib.suppress(pa.ArrowInvalid):
            if "straddl" in str(problem):  # a row longer than what is parsed in parallel
                return self._read_csv(block, wanted, columns, parallel=False)
            if "conversion error to timestamp" in str(problem):
                # the SQL type says whether times carry a zone, but not every dump keeps to it
                before = self._types
                self._types = {name: _OTHER_ZONE.get(kind, kind) for name, kind in before.items()}
                try:
                    return self._read_csv(block, wanted, columns)
                except pa.ArrowInvalid:
                    self._types = before
                    raise
        raise ExportError(f"{self.where} does not fit its header file: {short(problem)}") from problem

    def _read_csv(
        self, block: bytes, wanted: Sequence[str] | None, columns: Sequence[Column], *, parallel: bool = True
    ) -> pa.Table:
        convert = arrow_csv.ConvertOptions(
            column_types=self._types,
            include_columns=list(wanted) if wanted is not None else None,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=_TRUE,
            false_values=_FALSE,
        )
        # texts may hold line ends, but looking for them keeps the rows from being cut up in parallel
        quoted = any(column.is_text for column in columns) and b'"' in block
        # a row of one null is an empty line
        parse = arrow_csv.ParseOptions(newlines_in_values=quoted, ignore_empty_lines=len(columns) > 1)
        size = len(block) + 1 if quoted or not parallel else _BLOCK // 8
        read = arrow_csv.ReadOptions(column_names=[column.name for column in columns], block_size=size)
        return arrow_csv.read_csv(
            pa.BufferReader(block), read_options=read, parse_options=parse, convert_options=convert
        )

    def _decoded(self, table: pa.Table, wanted: Sequence[str] | None) -> pa.Table:
        columns: dict[str, Any] = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            parts = decode_points(name, column) if self._points.get(name) else None
            if self._points.get(name) and parts is None:
                self._points[name] = False  # some other type of the database, kept as its text
            columns |= {name: canonical(column)} if parts is None else parts
        return pa.table(
            columns if wanted is None else {name: columns[name] for name in wanted if name in columns}
        )


def _rows(file: Any) -> Iterator[bytes]:
    rest = b""
    while content := file.read(_BLOCK):
        block = rest + content if rest else content
        end = _last_row_end(block)
        if end:
            yield block[:end]
        rest = block[end:]
    if rest:
        yield rest


def _last_row_end(block: bytes) -> int:
    """Where the last complete row ends; a line end inside of quotes, which come in pairs, ends no row."""
    end = block.rfind(b"\n") + 1
    while end and block.count(b'"', 0, end) % 2:
        end = block.rfind(b"\n", 0, end - 1) + 1
    return end


def _is_usual(columns: Sequence[Column]) -> bool:
    """Whether columns stand as CAVE's tables have them: ``id``, bookkeeping, ``valid``, then the schema's."""
    names = [column.name for column in columns]
    head = [name for name in ("id", *_BOOKKEEPING, "valid") if name in names]
    return "id" not in names or names[: len(head)] == head


def stored_columns(stored: Sequence[str], names: Sequence[str]) -> list[str]:
    """Name the columns of a file that hold some columns, which may be parts of points."""
    return list(dict.fromkeys(name if name in stored else re.sub(r"_[xyz]$", "", name) for name in names))


def canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column the one type of its kind: int64, float64, text, and times in UTC, which databases of CAVE hold."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us")).cast(pa.timestamp("ns", tz="UTC"))
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    if pa.types.is_null(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string())
    return column


def short(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())[:300]


def decode_points(name: str, column: pa.ChunkedArray) -> dict[str, pa.Array] | None:
    """Decode points from EWKB (hexadecimal text or bytes) or WKT into NAME_x, _y and _z; None if they are none.

    int64, cut toward zero, for a position, as every query returns it; else float64. The bytes are taken from Arrow's
    buffer as they lie there; no Python object is made for a row.
    """
    array = column.combine_chunks()
    missing = array.is_null().to_numpy(zero_copy_only=False)
    found = np.zeros((len(array), 3))
    if not missing.all():
        values = _decode(array.drop_null())
        if values is None:
            return None
        found[~missing] = values
    if name.endswith("_position"):
        with np.errstate(invalid="ignore"):
            found = np.trunc(found).astype(np.int64)
    return {
        f"{name}_{axis}": pa.array(np.ascontiguousarray(found[:, n]), mask=missing)
        for n, axis in enumerate("xyz")
    }


def _decode(array: Any) -> NDArray[np.float64] | None:
    lengths = pc.binary_length(array).to_numpy()
    found = np.empty((len(array), 3))
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        rows = array if len(same) == len(array) else array.take(pa.array(same))
        _, offsets, content = rows.buffers()
        wide = pa.types.is_large_string(rows.type) or pa.types.is_large_binary(rows.type)
        start = np.frombuffer(offsets, dtype=np.int64 if wide else np.int32)[rows.offset]
        raw = memoryview(content)[start : start + int(length) * len(rows)]
        text = pa.types.is_string(rows.type) or pa.types.is_large_string(rows.type)
        values = _from_bytes(raw, len(rows), text=text)
        if values is None:
            values = _from_wkt(rows)
        if values is None:
            return None
        found[same] = values
    return found


def _from_bytes(raw: memoryview, rows: int, *, text: bool) -> NDArray[np.float64] | None:
    """Read points of one length: byte order, kind, perhaps a reference system, three numbers."""
    try:
        content = binascii.unhexlify(raw) if text else bytes(raw)
    except (binascii.Error, ValueError):
        return None
    if rows == 0 or len(content) % rows or len(content) // rows not in {29, 33}:
        return None
    table = np.frombuffer(content, dtype=np.uint8).reshape(rows, -1)
    srid = _SRID if table.shape[1] == 33 else 0
    kinds = np.ascontiguousarray(table[:, 1:5]).view("<u4")
    if not (table[:, 0] == 1).all() or not np.isin(kinds, [1 | _Z | srid, 1001]).all():
        return None
    return np.ascontiguousarray(table[:, -24:]).view("<f8")


def _from_wkt(rows: Any) -> NDArray[np.float64] | None:
    if not pa.types.is_string(rows.type):
        return None
    parts = pc.extract_regex(rows, rf"^\s*(?:SRID=\d+;)?\s*{_WKT}\s*$")
    if parts.null_count:
        return None
    try:
        return np.column_stack([parts.field(axis).cast(pa.float64()).to_numpy() for axis in range(3)])
    except pa.ArrowInvalid:
        return None
