"""Frozen and live queries drawn at random, against pandas over the stored files of a recorded datastack."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortexclient.sandbox import Sandbox

# the columns of each table in the order of an answer, and what one voxel of its positions is in nm
_ENDS = " ".join(f"{side}_pt_position {side}_pt_supervoxel_id {side}_pt_root_id" for side in ("pre", "post"))
TABLES = {
    "synapses_toy": (f"id valid {_ENDS} ctr_pt_position size", (4, 4, 40)),
    "nucleus_toy": (
        "id valid volume pt_position pt_supervoxel_id pt_root_id bb_start_position bb_end_position",
        (4, 4, 40),
    ),
    "celltype_toy": ("id valid target_id classification_system cell_type", (4, 4, 40)),
    "tags_toy": ("id valid pt_position pt_supervoxel_id pt_root_id tag", (1, 1, 1)),
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "filter_equal_dict": operator.eq,
    "filter_greater_dict": operator.gt,
    "filter_less_dict": operator.lt,
    "filter_greater_equal_dict": operator.ge,
    "filter_less_equal_dict": operator.le,
}
TEXT = {"classification_system", "cell_type", "tag"}
ARGUMENTS = {"return_pyarrow": "True", "arrow_format": "True", "direct_sql_pandas": "True"}


@pytest.fixture(scope="module")
def toy(recordings: Path) -> Iterator[Sandbox]:
    with Sandbox(data=recordings / "real_toy_datastack") as sandbox:
        yield sandbox


@cache
def stored(folder: Path, name: str) -> pd.DataFrame:
    return pq.read_table(folder / "real_toy_datastack" / "tables" / f"{name}.parquet").to_pandas()


def ask(toy: Sandbox, path: str, body: dict[str, Any]) -> tuple[pa.Table, list[str]]:
    url = f"{toy.url}/materialize/api/v3/datastack/toy/{path}"
    answer = requests.post(
        url, params=ARGUMENTS, json=body, headers={"Accept-Encoding": "identity"}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return pa.ipc.open_stream(answer.content).read_all(), answer.headers.get("warning", "").split("201 - ")


@st.composite
def queries(draw: st.DrawFn) -> tuple[str, int, dict[str, Any]]:
    table = draw(st.sampled_from(sorted(TABLES)))
    columns = TABLES[table][0].split()
    body: dict[str, Any] = {}
    for kind in draw(st.lists(st.sampled_from(sorted(COMPARISONS)), max_size=2, unique=True)):
        column = draw(
            st.sampled_from([name for name in columns if "position" not in name and name != "valid"])
        )
        body[kind] = {table: {column: draw(st.integers(0, 299))}}  # the row whose value is compared with
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(columns), min_size=2, max_size=5, unique=True))
        body["select_columns"] = chosen
    if draw(st.booleans()):
        body["limit"] = draw(st.integers(0, 320))
    if draw(st.booleans()):
        body["offset"] = draw(st.integers(0, 320))
    if draw(st.booleans()):
        body["desired_resolution"] = draw(st.sampled_from([[1, 1, 1], [8, 8, 40], [16, 16, 16], [4, 4, 40]]))
    return table, draw(st.sampled_from([1, 2])), body


def with_values(body: dict[str, Any], table: str, rows: pd.DataFrame) -> dict[str, Any]:
    """The body with the value of a row in place of its number."""
    found = dict(body)
    for kind in COMPARISONS:
        if kind in body:
            ((column, number),) = body[kind][table].items()
            value = rows[column].tolist()[number % len(rows)]
            found[kind] = {table: {column: value}}
    return found


def flat(columns: list[str]) -> list[str]:
    """Columns of an answer: roots bring their supervoxels, positions come in three."""
    named: list[str] = []
    for name in columns:
        beside = name.replace("root_id", "supervoxel_id")
        named += [other for other in dict.fromkeys((beside, name)) if other not in named]
    parts = [[name + axis for axis in ("_x", "_y", "_z")] if "position" in name else [name] for name in named]
    return [part for three in parts for part in three]


def scaled(rows: pd.DataFrame, own: tuple[int, ...], asked: list[float]) -> pd.DataFrame:
    rows = rows.copy()
    for axis, (mine, wanted) in zip(("_x", "_y", "_z"), zip(own, asked, strict=True), strict=True):
        for name in [name for name in rows.columns if name.endswith("_position" + axis)]:
            rows[name] = np.trunc(rows[name] * mine / wanted).astype(np.int32)
    return rows


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=queries())
def test_a_frozen_query_is_what_pandas_makes_of_the_stored_rows(
    toy: Sandbox, recordings: Path, asked: tuple[str, int, dict[str, Any]]
) -> None:
    table, version, body = asked
    rows = stored(recordings, f"{table}.v{version}")
    rows = rows[rows["valid"]].sort_values("storage_order")
    body = with_values(body, table, rows)
    found, warnings = ask(toy, f"version/{version}/table/{table}/query", body)

    truth = rows
    for kind, compare in COMPARISONS.items():
        for column, value in body.get(kind, {}).get(table, {}).items():
            truth = truth[compare(truth[column], value)]
    most = body.get("limit", 200_000)
    truth = truth.iloc[body.get("offset", 0) :][:most]
    columns, own = TABLES[table]
    names = flat(body.get("select_columns", columns.split()))
    truth = scaled(truth, own, body.get("desired_resolution", own))[names]

    assert found.column_names == list(truth.columns)
    for name in truth.columns:
        kind = found.schema.field(name).type
        if name in TEXT:
            assert kind == (pa.string() if len(truth) else pa.null())
        elif name in ("size", "volume"):
            assert kind == pa.float32()
        elif name != "valid":
            assert kind == (pa.int32() if "position" in name else pa.int64())
        values = truth[name].astype(np.float32) if name in ("size", "volume") else truth[name]
        assert found[name].to_pylist() == values.tolist()
    assert any("Limited query" in text for text in warnings) == (len(truth) == most)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=st.floats(-3, 30, allow_nan=False),
    table=st.sampled_from(["synapses_toy", "nucleus_toy", "tags_toy"]),
    below=st.integers(0, 310),
)
def test_a_live_query_has_the_rows_that_stood_then_with_the_roots_of_then(
    toy: Sandbox, recordings: Path, seconds: float, table: str, below: int
) -> None:
    at = pd.Timestamp("2026-11-21T00:52:56.5", tz="UTC") + timedelta(seconds=round(seconds, 3))
    body = {"table": table, "timestamp": at.isoformat(), "filter_less_dict": {table: {"id": below}}}
    found, _ = ask(toy, "query", body)

    rows = stored(recordings, f"{table}.live")
    stood = (rows["created"] <= at) & ~(rows["deleted"] <= at) & rows["has_segmentation_row"]
    truth = rows[stood & (rows["id"] < below)]
    assert sorted(found["id"].to_pylist()) == sorted(truth["id"])

    supervoxels = dict(zip(truth["id"], truth[_supervoxel(table)], strict=True))
    answered = dict(zip(found["id"].to_pylist(), found[_supervoxel(table)].to_pylist(), strict=True))
    assert answered == supervoxels
    roots = _roots(recordings, at)
    wanted = {row: roots.get(supervoxel, 0) for row, supervoxel in supervoxels.items()}
    name = _supervoxel(table).replace("supervoxel_id", "root_id")
    assert dict(zip(found["id"].to_pylist(), found[name].to_pylist(), strict=True)) == wanted


def _supervoxel(table: str) -> str:
    return "post_pt_supervoxel_id" if table == "synapses_toy" else "pt_supervoxel_id"


def _roots(folder: Path, at: pd.Timestamp) -> dict[int, int]:
    """Root of each supervoxel at a time, from the parent history alone."""
    graph = folder / "real_toy_datastack" / "chunkedgraph"
    parents = pq.read_table(graph / "parents.parquet").to_pandas()
    valid = (
        parents[parents["valid_from"] <= at].sort_values("valid_from").groupby("node_id")["parent_id"].last()
    )
    parent = {int(node): int(above) for node, above in valid.items()}
    roots = {}
    for node in pq.read_table(graph / "supervoxels.parquet")["supervoxel_id"].to_pylist():
        top = node
        while top in parent:
            top = parent[top]
        roots[int(node)] = top
    return roots
