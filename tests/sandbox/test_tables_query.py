"""The query engine of the tables, on a table made here: filters, joins, types, errors."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortexclient.sandbox.routes.materialize.body import LIVE, SIMPLE, RefusedError, checked_body
from cortexclient.sandbox.stores.tables.engine import Engine
from cortexclient.sandbox.stores.tables.model import QueryError, Source, flat_columns, quoted, source_columns
from cortexclient.sandbox.stores.tables.query import TableQuery
from cortexclient.sandbox.stores.tables.write import InvalidAnnotationError, flattened, schema_fields

CELLS = pa.table(
    {
        "id": [3, 1, 2],
        "valid": [True, True, True],
        "pt_position_x": pa.array([-7, 5, 100], pa.int32()),
        "pt_position_y": pa.array([7, 5, 100], pa.int32()),
        "pt_position_z": pa.array([0, 1, 2], pa.int32()),
        "pt_supervoxel_id": [72057594037927937, 72057594037927938, 0],
        "pt_root_id": [360287970189639683, 360287970189639684, 0],
        "size": [1.5, 2.0, 314.761],
        "tag": ["a", "b's", "é"],
        "storage_order": [1, 0, 2],
    }
)
TYPES = pa.table({"id": [1, 2], "valid": [True, True], "target_id": [1, 1], "kind": ["x", "y"]})


@pytest.fixture(scope="module")
def engine() -> Engine:
    engine = Engine()
    engine.replace("cells", CELLS)
    engine.replace("types", TYPES)
    return engine


def source(name: str, rows: pa.Table, *, reflected: bool = False) -> Source:
    return Source(name, quoted(name), source_columns(rows.schema), (4.0, 4.0, 40.0), reflected=reflected)


def query(engine: Engine, **options: Any) -> TableQuery:
    rows = {"cells": CELLS, "types": TYPES}
    return TableQuery(engine, lambda name: source(name, rows[name]), **options)


def run(engine: Engine, comparison: str, column: str, value: Any) -> list[int]:
    asked = query(engine)
    asked.source("cells")
    asked.filter({"cells": {column: value}}, comparison)
    asked.select_all("cells")
    return asked.run()[0]["id"].tolist()


@pytest.mark.parametrize(
    ("comparison", "column", "value", "expected"),
    [
        ("=", "id", 1, [1]),
        ("=", "id", "1", [1]),
        ("=", "pt_root_id", 360287970189639683, [3]),
        ("=", "pt_root_id", 360287970189639683.0, []),  # a float of this size is another number
        (">", "id", 1.5, [3, 2]),
        ("in", "id", [1, 2, 99], [1, 2]),
        ("in", "id", [], []),
        ("in", "tag", ["b's", "é"], [1, 2]),
        ("in", "id", list(range(2, 5000)), [3, 2]),
        ("=", "size", 314.761, [2]),
        ("<=", "size", 2, [1, 3]),
        ("regex", "tag", "^[ab]", [1, 3]),
        ("spatial", "pt_position", [[5, 5, 1], [100, 100, 2]], [1, 2]),
        ("=", "tag", None, []),
        ("=", "valid", False, []),
    ],
)
def test_filters(engine: Engine, comparison: str, column: str, value: Any, expected: list[int]) -> None:
    assert sorted(run(engine, comparison, column, value)) == sorted(expected)


@pytest.mark.parametrize(
    ("comparison", "column", "value", "text"),
    [
        ("=", "nope", 1, "'nope'"),
        ("=", "id", "abc", 'invalid input syntax for type bigint: "abc"'),
        ("=", "size", ">2", "invalid input syntax for type double precision"),
        ("=", "id", [1], 'syntax error at or near "["'),
        ("=", "id", True, "operator does not exist: bigint = boolean"),
        ("=", "tag", 5, "operator does not exist: character varying = integer"),
        (">", "valid", True, "Only '=', '!='"),
        ("in", "id", 3, "'int' object is not iterable"),
        ("regex", "id", "1", "Regex filter is only supported on string columns"),
        ("spatial", "id", [[0, 0, 0], [1, 1, 1]], "has an attribute 'intersects_nd'"),
        ("spatial", "pt_position", [[9, 9, 9], [0, 0, 0]], "must be less than max bounds"),
        ("=", "pt_position", [1, 2, 3], "Don't know how to literal-quote value [1, 2, 3]"),
    ],
)
def test_what_the_database_refuses(
    engine: Engine, comparison: str, column: str, value: Any, text: str
) -> None:
    with pytest.raises(QueryError) as refused:
        run(engine, comparison, column, value)
    assert text in str(refused.value)


def test_storage_order_and_types(engine: Engine) -> None:
    asked = query(engine, limit=2)
    asked.select_all("cells")
    frame, names = asked.run()
    assert frame["id"].tolist() == [1, 3]
    assert "storage_order" not in frame
    assert str(frame["size"].dtype) == "Float32"
    assert str(frame["pt_position_x"].dtype) == "Int32"
    assert names["cells"]["pt_position"] == "pt_position"


def test_empty_text_has_no_type_and_a_view_finds_its_types_out(engine: Engine) -> None:
    asked = query(engine, limit=0)
    asked.select_all("cells")
    frame, _ = asked.run()
    assert pa.RecordBatch.from_pandas(frame).schema.field("tag").type == pa.null()
    assert pa.RecordBatch.from_pandas(frame).schema.field("id").type == pa.int64()
    view = TableQuery(engine, lambda name: source(name, CELLS, reflected=True), limit=0)
    view.select_all("cells")
    schema = pa.RecordBatch.from_pandas(view.run()[0]).schema
    assert schema.field("id").type == pa.null()
    assert schema.field("pt_position_x").type == pa.int32()


def test_joins_name_what_both_have(engine: Engine) -> None:
    asked = query(engine, suffixes={"types": "_ref", "cells": ""})
    asked.join("types", "target_id", "cells", "id")
    for table in ("cells", "types"):
        asked.select_all(table)
    frame, names = asked.run()
    assert list(frame.columns[:2]) == ["id", "valid"]
    assert frame["id_ref"].tolist() == [1, 2]
    assert names["types"]["id"] == "id_ref"
    with pytest.raises(QueryError, match="Duplicate suffixes"):
        query(engine, suffixes={"types": "", "cells": ""})


def test_a_filter_of_another_table_multiplies_the_rows(engine: Engine) -> None:
    asked = query(engine)
    asked.source("cells")
    asked.filter({"types": {"kind": "x"}}, "=")
    asked.select_all("cells")
    assert len(asked.run()[0]) == 3
    asked.filter({"types": {"kind": ["x", "y"]}}, "in")
    assert len(asked.run()[0]) == 3


def test_one_single_column_fails_unless_lenient(engine: Engine) -> None:
    asked = query(engine)
    asked.select("cells", "size")
    with pytest.raises(QueryError, match="'Float' object has no attribute 'size'"):
        asked.run()
    lenient = query(engine, lenient=True)
    lenient.select("cells", "size")
    assert lenient.run()[0]["size"].tolist() == pytest.approx([2.0, 1.5, 314.761])


def test_a_root_brings_its_supervoxel(engine: Engine) -> None:
    asked = query(engine)
    asked.select("cells", "pt_root_id")
    assert list(asked.run()[0].columns) == ["pt_supervoxel_id", "pt_root_id"]


def test_csv_mangles_types(engine: Engine) -> None:
    asked = query(engine, typed=False)
    asked.select_all("cells")
    frame, _ = asked.run()
    assert frame["valid"].tolist() == ["t", "t", "t"]
    assert frame["pt_position_x"].dtype == "int64"


@given(
    voxel=st.integers(-(2**20), 2**20),
    own=st.sampled_from([1.0, 4.0, 9.7, 40.0]),
    asked=st.sampled_from([0.5, 1.0, 3.0, 8.0, 16.0, 45.0]),
)
def test_scaling_is_decimal_and_cut_toward_zero(voxel: int, own: float, asked: float) -> None:
    from cortexclient.sandbox.stores.tables.query import _scaled, _scales

    columns = source_columns(CELLS.schema)
    scales = _scales(Source("t", "t", columns, (own, own, own)), [asked] * 3)
    sql = _scaled(f"CAST({voxel} AS INTEGER)", scales[0], exact=False)
    found = ENGINE.scalar(f"SELECT {sql}")
    exact = Decimal(voxel) * Decimal(repr(own / asked))
    assert found == int(float(exact))


ENGINE = Engine()


@pytest.mark.parametrize(
    ("schema", "body", "problems"),
    [
        (SIMPLE, {"limit": "x"}, {"limit": ["Not a valid integer."]}),
        (SIMPLE, [], {"_schema": ["Invalid input type."]}),
        (LIVE, {"table": "t"}, {"timestamp": ["Missing data for required field."]}),
        (LIVE, {"table": "t", "timestamp": "yesterday"}, {"timestamp": ["Not a valid datetime."]}),
    ],
)
def test_bodies(schema: Any, body: Any, problems: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as refused:
        checked_body(body, schema)
    assert refused.value.body == {"schema_errors": problems}


def test_body_values_take_their_types() -> None:
    body = checked_body({"limit": 2.5, "offset": "4", "desired_resolution": [1, 1, 1]}, SIMPLE)
    assert body == {"limit": 2, "offset": 4, "desired_resolution": [1.0, 1.0, 1.0]}
    live = checked_body({"table": "t", "timestamp": "2026-11-21T00:00:00"}, LIVE)
    assert live["timestamp"].utcoffset().total_seconds() == 0


def test_annotations_are_checked_and_flattened() -> None:
    from cortexclient.sandbox.stores.tables.schemas import all_schemas

    kinds, required = schema_fields(all_schemas()["bound_tag"])
    row = {"pt": {"position": [1, 2, 3]}, "tag": "x"}
    assert flattened(row, kinds, required) == {
        "pt_position_x": 1, "pt_position_y": 2, "pt_position_z": 3, "tag": "x",
    }  # fmt: skip
    for wrong, problem in [
        ({"tag": "x"}, {"pt": ["Missing data for required field."]}),
        ({"pt": {}, "tag": "x"}, {"pt": {"position": ["Missing data for required field."]}}),
        ({**row, "tag": 5}, {"tag": ["Not a valid string."]}),
    ]:
        with pytest.raises(InvalidAnnotationError) as refused:
            flattened(wrong, kinds, required)
        assert refused.value.problems == problem


def test_freezing_puts_lookups_beside_their_point() -> None:
    live = ["id", "created", "deleted", "superceded_id", "valid", "size", "pre_pt_position_x", "pre_pt_position_y",
            "pre_pt_position_z", "ctr_pt_position_x", "ctr_pt_position_y", "ctr_pt_position_z", "pre_pt_supervoxel_id",
            "pre_pt_root_id"]  # fmt: skip
    assert flat_columns(live) == [
        "id", "valid", "size", "pre_pt_position_x", "pre_pt_position_y", "pre_pt_position_z", "pre_pt_supervoxel_id",
        "pre_pt_root_id", "ctr_pt_position_x", "ctr_pt_position_y", "ctr_pt_position_z",
    ]  # fmt: skip


def test_frames_survive_the_round_trip(engine: Engine) -> None:
    asked = query(engine)
    asked.select_all("cells")
    frame, _ = asked.run()
    assert isinstance(frame, pd.DataFrame)
    again = pa.Table.from_pandas(frame).to_pandas()
    pd.testing.assert_frame_equal(again, frame)
