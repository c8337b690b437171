"""Static exports: a table per version as gzipped CSV without a header row, and a file that names its columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cortexclient.sandbox.cortex.files import write_gzip
from cortexclient.sandbox.cortex.history import VERSIONS

__all__ = ["write_exports"]

# tables that exist as exports, by the versions that have them
_MERGED = {
    "synapses": (1, 2, 3),
    "nucleus_detection": (1, 2, 3),
    "nucleus_alternative_points": (2, 3),
    "proofreading_status_and_strategy": (2, 3),
}
_PLAIN = {
    "cell_types": (1, 2),
    "connections_with_nuclei": (1, 2, 3),
    "nucleus_lookup": (2, 3),
    "cell_info": (3,),
}
_SQL = {
    "int64": "bigint",
    "int32": "integer",
    "double": "double precision",
    "bool": "boolean",
    "string": "text",
}


def write_exports(folder: Path, frames: dict[int, dict[str, pd.DataFrame]]) -> None:
    """Write the exports of all versions.

    Parameters
    ----------
    folder : Path
        The data folder; its tables are written already.
    frames : dict
        Version -> view -> frame.
    """
    for version in VERSIONS:
        place = folder / "exports" / f"v{version.number}"
        place.mkdir(parents=True, exist_ok=True)
        for name, versions in (_MERGED | _PLAIN).items():
            if version.number not in versions:
                continue
            if name in frames[version.number]:
                table = pa.Table.from_pandas(frames[version.number][name], preserve_index=False)
            else:
                table = pq.read_table(folder / "tables" / f"{name}.v{version.number}.parquet")
            table = table.drop_columns([c for c in ("storage_order",) if c in table.column_names])
            _write(place, f"{name}_merged" if name in _MERGED else name, table)


def _write(place: Path, stem: str, table: pa.Table) -> None:
    lines = [f"{field.name},{_sql(field.type)}" for field in table.schema]
    (place / f"{stem}_header.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    buffer = io.BytesIO()
    columns: list[Any] = [_as_text(column) for column in table.columns]
    plain = pa.table(columns, names=table.column_names)
    options = pa_csv.WriteOptions(include_header=False, quoting_style="needed")
    pa_csv.write_csv(plain, buffer, options)
    write_gzip(place / f"{stem}.csv.gz", buffer.getvalue(), level=4)


def _sql(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamp without time zone"
    return _SQL.get(str(kind), "text")


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Booleans and times as the database writes them."""
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "t", "f")
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column.cast(pa.timestamp("us")), format="%Y-%m-%d %H:%M:%S")
    return column
