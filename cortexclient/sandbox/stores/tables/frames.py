"""From the rows of the engine to the frame that the service would have made of them, types and all."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from cortexclient.sandbox.stores.tables.model import StoredColumn

_ARROW = {
    "bigint": pa.int64(),
    "integer": pa.int32(),
    "point": pa.int32(),
    "float": pa.float32(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "datetime": pa.timestamp("us"),
}
# columns of a view reach pandas as plain Python values
_REFLECTED = {**_ARROW, "integer": pa.int64(), "float": pa.float64()}
_PANDAS = {
    pa.int64(): pd.Int64Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}
_TIMES = pa.timestamp("ns", "UTC")


@dataclass(frozen=True)
class Output:
    """One column of an answer."""

    name: str
    sql: str
    column: StoredColumn
    reflected: bool
    scaled: bool = False


def typed_frame(rows: pa.Table, outputs: list[Output]) -> pd.DataFrame:
    """Frame with nullable types.

    What has no declared type (text, and all of a view but its points) takes the type of its values: none at all
    where there are no rows, text where all are null.
    """
    table = _typed(rows, outputs)
    frame = _in_pandas(table, tuple(output.column.kind == "datetime" for output in outputs))
    for output in outputs:
        if len(frame) == 0 and _inferred(output):
            frame[output.name] = frame[output.name].astype(object)
        elif output.column.kind == "datetime" and output.reflected:
            # of a view they are plain Python times, without a zone
            times = frame[output.name]
            plain = [None if pd.isna(time) else time.to_pydatetime().replace(tzinfo=None) for time in times]
            frame[output.name] = pd.Series(plain, dtype=object)
    return frame


def typed_batch(rows: pa.Table, outputs: list[Output]) -> pa.RecordBatch:
    """What Arrow makes of the typed frame, notes for pandas included.

    The frame itself is made only where its columns are not the typed ones: where there are no rows, and of the times
    of a view.
    """
    plain = any(output.column.kind == "datetime" and output.reflected for output in outputs)
    if plain or len(rows) == 0 or len({output.name for output in outputs}) < len(outputs):
        return pa.RecordBatch.from_pandas(typed_frame(rows, outputs))
    table = _typed(rows, outputs)
    times = tuple(output.column.kind == "datetime" for output in outputs)
    columns = [
        values.cast(_TIMES) if time else values for values, time in zip(table.columns, times, strict=True)
    ]
    schema = pa.schema(
        [(name, values.type) for name, values in zip(table.column_names, columns, strict=True)],
        metadata={"pandas": _notes(table.schema, times, len(rows))},
    )
    # one batch, however many pieces the engine gave
    return pa.table(columns, schema=schema).combine_chunks().to_batches()[0]


def _inferred(output: Output) -> bool:
    return output.column.kind == "string" or (output.reflected and output.column.kind != "point")


def _typed(rows: pa.Table, outputs: list[Output]) -> pa.Table:
    arrays: list[pa.ChunkedArray] = []
    for output, values in zip(outputs, rows.columns, strict=True):
        target = (_REFLECTED if output.reflected else _ARROW)[output.column.kind]
        if len(values) and values.null_count == len(values) and _inferred(output):
            arrays.append(pa.chunked_array([pa.nulls(len(values), pa.string())]))
        else:
            arrays.append(values if values.type == target else values.cast(target, safe=False))
    return pa.table(arrays, names=[output.name for output in outputs])


def _in_pandas(table: pa.Table, times: Sequence[bool]) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=_PANDAS.get)
    for name, time in zip(table.column_names, times, strict=True):
        if time:
            frame[name] = (
                pd.to_datetime(frame[name], utc=True).astype("datetime64[ns, UTC]")
                if len(frame)
                else pd.Series([], dtype="datetime64[ns, UTC]")
            )
    return frame


def _notes(schema: pa.Schema, times: tuple[bool, ...], rows: int) -> str:
    notes = _notes_of_one(schema, times)
    index = {**notes["index_columns"][0], "stop": rows}
    return json.dumps({**notes, "index_columns": [index]})


@functools.lru_cache(maxsize=512)
def _notes_of_one(schema: pa.Schema, times: tuple[bool, ...]) -> dict[str, Any]:
    """What Arrow notes about a frame of one row of such columns."""
    row = pa.table([pa.nulls(1, item.type) for item in schema], schema=schema)
    written = pa.RecordBatch.from_pandas(_in_pandas(row, times)).schema.metadata[b"pandas"]
    notes: dict[str, Any] = json.loads(written)
    return notes


def csv_frame(rows: pa.Table, outputs: list[Output]) -> pd.DataFrame:
    """Frame as read back from CSV text, where types are guessed anew: the old way of the service."""
    if len(rows) == 0:
        return pd.DataFrame({output.name: pd.Series([], dtype=object) for output in outputs})
    arrays = [_as_text_would_be(values) for values in rows.columns]
    sink = io.BytesIO()
    pacsv.write_csv(pa.table(arrays, names=rows.column_names), sink)
    sink.seek(0)
    scaled = {output.name: "float64" for output in outputs if output.scaled}
    frame: pd.DataFrame = pd.read_csv(sink, dtype=scaled)
    for output in outputs:
        if output.column.kind == "datetime" and not output.reflected:
            frame[output.name] = pd.to_datetime(frame[output.name], utc=True)
    return frame


def _as_text_would_be(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_boolean(values.type):
        return pc.if_else(values, "t", "f")
    return values.cast(pa.float64()) if pa.types.is_decimal(values.type) else values
