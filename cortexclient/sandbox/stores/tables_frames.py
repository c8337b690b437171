"""From the rows of the engine to the frame that the service would have made of them, types and all."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from cortexclient.sandbox.stores.tables_model import Column

__all__ = ["Output", "csv_frame", "typed_frame"]

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


@dataclass(frozen=True)
class Output:
    """One column of an answer."""

    name: str
    sql: str
    column: Column
    reflected: bool
    scaled: bool = False


def typed_frame(rows: pa.Table, outputs: list[Output]) -> pd.DataFrame:
    """Frame with nullable types.

    Notes
    -----
    What has no declared type (text, and all of a view but its points) takes the type of its values: none at all
    where there are no rows, text where all are null.
    """
    arrays: list[pa.ChunkedArray] = []
    nothing: list[str] = []
    for output, values in zip(outputs, rows.columns, strict=True):
        kinds = _REFLECTED if output.reflected else _ARROW
        kind = output.column.kind
        target = kinds[kind]
        inferred = kind == "string" or (output.reflected and kind != "point")
        if inferred and len(values) == 0:
            nothing.append(output.name)
        elif inferred and values.null_count == len(values):
            arrays.append(pa.chunked_array([pa.nulls(len(values), pa.string())]))
            continue
        arrays.append(values if values.type == target else values.cast(target, safe=False))
    table = pa.table(arrays, names=[output.name for output in outputs])
    frame: pd.DataFrame = table.to_pandas(types_mapper=_PANDAS.get)
    for name in nothing:
        frame[name] = frame[name].astype(object)
    for output in outputs:
        if output.column.kind == "datetime" and len(frame):
            times = pd.to_datetime(frame[output.name], utc=True).astype("datetime64[ns, UTC]")
            # of a view they are plain Python times, whose zone nobody told
            plain = [None if pd.isna(time) else time.to_pydatetime().replace(tzinfo=None) for time in times]
            frame[output.name] = pd.Series(plain, dtype=object) if output.reflected else times
        elif output.column.kind == "datetime" and not output.reflected:
            frame[output.name] = pd.Series([], dtype="datetime64[ns, UTC]")
    return frame


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
