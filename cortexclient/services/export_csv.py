"""Reading the two files of an export: rows without a header line, and the columns' names and SQL types."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortexclient.errors import ExportError
from cortexclient.services.export_gzip import opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa

__all__ = ["Column", "parse_header", "read_rows", "to_frame"]

# Postgres writes booleans as t and f
_TRUE, _FALSE = ["t", "true", "True", "TRUE", "1"], ["f", "false", "False", "FALSE", "0"]
_GEOMETRY = re.compile(r"geometry|user-defined|point", re.IGNORECASE)
_WKT = r"POINT\s*Z?\s*\(\s*(\S+)\s+(\S+)\s+(\S+?)\s*\)"


@dataclass(frozen=True)
class Column:
    """One column of an export.

    Attributes
    ----------
    name : str
    sql_type : str or None
        As in the header file; None if it gives no types, which are then inferred.
    """

    name: str
    sql_type: str | None

    @property
    def is_geometry(self) -> bool:
        """The column holds points, which are read into three columns."""
        return bool(self.sql_type and _GEOMETRY.search(self.sql_type))

    @property
    def is_text(self) -> bool:
        """The column may hold any text."""
        return self.sql_type is None or bool(re.match(r"text|.*char|json|string", self.sql_type.lower()))

    def arrow_type(self) -> pa.DataType | None:
        """Arrow type that the values are read into, None to infer it."""
        import pyarrow as pa

        kind = (self.sql_type or "").strip().lower()
        if re.match(r"(big|small)?int|(big|small)?serial|oid", kind):
            return pa.int64()  # ids need it; coordinates in it cannot overflow when scaled to nm
        if re.match(r"double|float|real|numeric|decimal", kind):
            return pa.float64()
        if kind.startswith("bool"):
            return pa.bool_()
        if kind.startswith(("timestamp", "datetime")):
            return pa.timestamp("us", tz="UTC" if "with time zone" in kind or kind.endswith("tz") else None)
        if kind == "date":
            return pa.date32()
        if kind and (
            self.is_text or self.is_geometry or kind.endswith("[]") or kind.startswith(("uuid", "array"))
        ):
            return pa.string()
        return None


def parse_header(content: bytes, where: str) -> list[Column]:
    """Read a header file: one line for each column, name and SQL type; or a single line with all the names.

    Raises
    ------
    ExportError
        If it is empty, or a name is missing or repeats.
    """
    rows = [
        row
        for row in csv.reader(io.StringIO(content.decode("utf-8-sig")))
        if any(cell.strip() for cell in row)
    ]
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


def read_rows(
    content: bytes, columns: Sequence[Column], wanted: Sequence[str] | None, where: str
) -> pa.Table:
    """Read a CSV without a header line into Arrow, every value in the type that the header file gives it.

    An empty field is null and ``""`` is an empty text, as Postgres writes them; no word such as NA or None is null.

    Raises
    ------
    ExportError
        If rows have another number of fields than the header, or a value does not fit its type.
    """
    import pyarrow as pa

    types = {column.name: kind for column in columns if (kind := column.arrow_type()) is not None}
    try:
        return _utc(_read_csv(content, columns, wanted, types))
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            chosen = [c for c in columns if wanted is None or c.name in wanted]
            return _utc(pa.schema([(c.name, types.get(c.name, pa.null())) for c in chosen]).empty_table())
        if "conversion error to timestamp" in str(error):
            # the SQL type says whether times carry a zone, but not every dump keeps to it
            with contextlib.suppress(pa.ArrowInvalid):
                return _utc(
                    _read_csv(content, columns, wanted, {k: _other_zone(t) for k, t in types.items()})
                )
        raise ExportError(f"{where} does not fit its header file: {_short(error)}") from error
    except OSError as error:
        raise ExportError(f"{where} is cut or damaged: {_short(error)}; download it again") from error


def _read_csv(
    content: bytes, columns: Sequence[Column], wanted: Sequence[str] | None, types: dict[str, Any]
) -> pa.Table:
    from pyarrow import csv as arrow_csv

    convert = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=list(wanted) if wanted is not None else None,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=_TRUE,
        false_values=_FALSE,
    )
    # texts may hold line ends, but looking for them keeps the rows from being cut up in parallel
    parse = arrow_csv.ParseOptions(newlines_in_values=any(column.is_text for column in columns))
    read = arrow_csv.ReadOptions(column_names=[column.name for column in columns], block_size=1 << 23)
    return arrow_csv.read_csv(
        opened(content), read_options=read, parse_options=parse, convert_options=convert
    )


def _other_zone(kind: Any) -> Any:
    import pyarrow as pa

    if not pa.types.is_timestamp(kind):
        return kind
    return pa.timestamp("us", tz=None if kind.tz else "UTC")


def _utc(table: pa.Table) -> pa.Table:
    """Read times without a zone as UTC: CAVE's databases hold nothing else."""
    import pyarrow as pa

    aware = pa.timestamp("us", tz="UTC")
    fields = [f.with_type(aware) if pa.types.is_timestamp(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def to_frame(table: pa.Table, columns: Sequence[Column]) -> pd.DataFrame:
    """Turn an Arrow table into pandas: ids stay whole numbers, with nulls as ``Int64``; points become three columns."""
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    geometry = {column.name for column in columns if column.is_geometry}
    special: dict[str, dict[str, Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in geometry:
            special[name] = _points(name, column)
        elif column.null_count and column.type in nullable:
            special[name] = {name: column.to_pandas(types_mapper=nullable.get)}
        elif not len(column) and pa.types.is_boolean(column.type):
            special[name] = {name: pd.Series([], dtype=bool)}
    # all the others at once: pandas would copy them one by one
    plain: pd.DataFrame = table.drop_columns(list(special)).to_pandas() if special else table.to_pandas()
    if not special:
        return plain
    parts = {name: special.get(name) or {name: plain[name]} for name in table.column_names}
    return pd.DataFrame({name: values for part in parts.values() for name, values in part.items()})


def _points(name: str, column: pa.ChunkedArray) -> dict[str, Any]:
    """Split a PostGIS point column, hexadecimal EWKB or text, into ``_x``, ``_y`` and ``_z``."""
    import numpy as np
    import pandas as pd

    values = column.to_pandas()
    present = values.notna().to_numpy()
    found = np.full((len(values), 3), np.nan)
    texts = values[present].astype(str)
    if len(texts) and texts.str.match(r"\s*(?:SRID=\d+;)?\s*POINT").all():
        found[present] = texts.str.extract(_WKT)[[0, 1, 2]].astype(float).to_numpy()
    elif len(texts) and texts.str.fullmatch(r"[0-9A-Fa-f]+").all() and (texts.str.len() >= 58).all():
        # the last 24 bytes are the three coordinates, with or without a reference system before them
        tail = np.frombuffer(bytes.fromhex("".join(texts.str[-48:])), dtype="<f8")
        found[present] = tail.reshape(-1, 3)
    elif len(texts):
        return {name: values}
    parts = {f"{name}_{axis}": found[:, k] for k, axis in enumerate("xyz")}
    if np.isfinite(found).all() and (found == np.round(found)).all():
        return {key: part.astype(np.int64) for key, part in parts.items()}
    return {key: pd.Series(part) for key, part in parts.items()}
