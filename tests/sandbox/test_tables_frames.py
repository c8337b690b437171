"""What is sent of a query is what Arrow makes of its pandas frame, whichever way it was made."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from cortexclient.sandbox.stores.tables.frames import Output, typed_batch, typed_frame
from cortexclient.sandbox.stores.tables.model import Column

_START = dt.datetime(2024, 2, 29, 23, 59, 59, 123456)  # noqa: DTZ001 - as the engine stores times
_STORED = {
    "bigint": pa.array([2**62 + 1, -1, None, 0], pa.int64()),
    "integer": pa.array([None, 7, -7, 0], pa.int16()),
    "float": pa.array([0.1, float("nan"), None, float("inf")], pa.float64()),
    "boolean": pa.array([True, None, False, True]),
    "string": pa.array(["", None, "é", "long" * 9]),
    "datetime": pa.array([_START, None, _START, _START], pa.timestamp("us")),
    "point": pa.array([1, 2, None, -3], pa.int32()),
}


@pytest.mark.parametrize("reflected", [False, True], ids=["declared", "of a view"])
@pytest.mark.parametrize("rows", ["none", "one of nulls", "nulls", "some", "in pieces"])
def test_batch_is_what_arrow_makes_of_the_frame(rows, reflected):
    random = np.random.default_rng(5)
    for _ in range(30):
        kinds = [str(kind) for kind in random.choice(list(_STORED), size=random.integers(1, 9))]
        columns = [_column(_STORED[kind], rows) for kind in kinds]
        outputs = [
            Output(f"c{place}", "", Column(f"c{place}", kind), reflected) for place, kind in enumerate(kinds)
        ]
        table = pa.table(columns, names=[output.name for output in outputs])
        batch = typed_batch(table, outputs)
        through_pandas = pa.RecordBatch.from_pandas(typed_frame(table, outputs))
        assert batch.schema.equals(through_pandas.schema)
        # byte for byte: readers make their frames by these notes
        assert batch.schema.metadata == through_pandas.schema.metadata
        for one, other in zip(batch.columns, through_pandas.columns, strict=True):
            assert one.is_null().equals(other.is_null())
            assert repr(one.to_pylist()) == repr(other.to_pylist())


def _column(values, rows):
    chosen = {
        "none": values[:0],
        "one of nulls": pa.nulls(1, values.type),
        "nulls": pa.nulls(3, values.type),
        "some": values,
    }
    if rows == "in pieces":
        return pa.chunked_array([values[:1], values[1:], values])
    return pa.chunked_array([chosen[rows]])
