"""Frozen tables, joins and views, asked by the unmodified client of a datastack recorded from the real services."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from caveclient import CAVEclient

from cortexclient.sandbox import Sandbox

from .toy import client_of, sql_query


@pytest.fixture(scope="module")
def toy(recordings: Path) -> Iterator[Sandbox]:
    with Sandbox(data=recordings / "real_toy_datastack") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def client(toy: Sandbox) -> CAVEclient:
    return client_of(toy)


def stored(recordings: Path, name: str) -> pd.DataFrame:
    return pq.read_table(recordings / "real_toy_datastack" / "tables" / f"{name}.parquet").to_pandas()


def test_whole_table_is_exact(client: CAVEclient, recordings: Path) -> None:
    found = client.materialize.query_table("synapses_toy", materialization_version=2, split_positions=True)
    truth = stored(recordings, "synapses_toy.v2")
    assert found["id"].tolist() == truth["id"].tolist()  # in storage order
    for name in ("pre_pt_root_id", "post_pt_supervoxel_id", "ctr_pt_position_x"):
        assert found[name].tolist() == truth[name].tolist()
    assert found["size"].dtype == "Float32"
    assert found["pre_pt_root_id"].dtype == "Int64"
    assert found["ctr_pt_position_x"].dtype == "Int32"


def test_table_manager_and_views(client: CAVEclient) -> None:
    tables = client.materialize.tables
    assert set(dir(tables)) >= {"synapses_toy", "celltype_toy"}
    joined = tables.celltype_toy(cell_type="BC").query()
    assert set(joined["cell_type"]) == {"BC"}
    assert {"id", "id_ref", "pt_root_id"} <= set(joined.columns)
    view = client.materialize.views.nucleus_celltype_view(cell_type="BC").query()
    assert sorted(view["id"]) == sorted(joined["id"])
    assert view["volume"].dtype == "Float64"  # a table answers float32


def test_exclusion_filters_do_nothing_unless_the_sandbox_is_sane(toy: Sandbox, client: CAVEclient) -> None:
    def excluded() -> int:
        return len(client.materialize.query_table("tags_toy", filter_out_dict={"id": [1, 2]}))

    assert excluded() == 4
    toy.world.options.strict = False
    try:
        assert excluded() == 2
    finally:
        toy.world.options.strict = True


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [([16, 16, 16], [130, 2, 7]), ([1, 1, 1], [2088, 40, 120]), ([8, 8, 50], [261, 5, 2])],
)
def test_positions_are_cut_toward_zero(
    client: CAVEclient, resolution: list[float], expected: list[int]
) -> None:
    found = client.materialize.query_table(
        "tags_toy", desired_resolution=resolution, filter_equal_dict={"id": 4}, split_positions=True
    )
    assert [int(found[f"pt_position_{axis}"].iloc[0]) for axis in "xyz"] == expected
    assert found["pt_position_x"].dtype == "Int32"
    assert found.attrs["dataframe_resolution"] == [float(value) for value in resolution]


def test_a_scale_with_decimals_does_not_lose_a_voxel(toy: Sandbox) -> None:
    # 100 x 0.57 is 56.999.. in binary and 57 in the database of the service
    url = sql_query(toy, "version/2/table/tags_toy/query")
    ratio = 1 / 0.57
    body = {"desired_resolution": [ratio] * 3, "filter_equal_dict": {"tags_toy": {"id": 4}}}
    table = pa.ipc.open_stream(requests.post(url, json=body, timeout=30).content).read_all()
    assert table["pt_position_y"][0].as_py() == int(np.trunc(40 * 0.57))


def test_row_cap_and_warnings(recordings: Path) -> None:
    with Sandbox(data=recordings / "real_toy_datastack", row_limit=50) as capped:
        url = sql_query(capped, "version/2/table/synapses_toy/query")
        answer = requests.post(url, json={"limit": 100}, timeout=30)
        lines = [value for key, value in answer.raw.headers.items() if key.lower() == "warning"]
        assert lines == [
            '201 - "Limited query to 50 rows',
            "Table Owner Notice on synapses_toy: toy notice: do not publish",
        ]
        assert pa.ipc.open_stream(answer.content).read_all().num_rows == 50
        resolutions = [v for k, v in answer.raw.headers.items() if k.lower() == "dataframe_resolution"]
        assert resolutions == ["4.0", "4.0", "40.0"]


@pytest.mark.parametrize(
    ("accepted", "codec", "packed"), [("lz4", "lz4", None), ("zstd", "zstd", None), ("gzip", None, "gzip")]
)
def test_compression_follows_the_request(
    toy: Sandbox, accepted: str, codec: str | None, packed: str | None
) -> None:
    url = sql_query(toy, "version/2/table/synapses_toy/query")
    answer = requests.post(url, json={}, headers={"Accept-Encoding": accepted}, timeout=30)
    assert answer.headers["Content-Type"] == "data.arrow"
    assert answer.headers.get("Content-Encoding") == packed
    plain = requests.post(url, json={}, headers={"Accept-Encoding": "identity"}, timeout=30)
    assert pa.ipc.open_stream(answer.content).read_all() == pa.ipc.open_stream(plain.content).read_all()
    assert (len(answer.content) < len(plain.content)) == (codec is not None)


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("version/77/table/tags_toy/query", {}, "404 Not Found: version 77 not found in toy"),
        ("version/2/table/nope/query", {}, "404 Not Found: Analysis table 'nope' not found"),
        ("version/2/table/tags_toy/query", {"filter_equal_dict": {"tags_toy": {"nope": 1}}}, "'nope'"),
        ("version/2/table/tags_toy/query", {"select_columns": ["id"]}, "'BigInteger' object has no attribute 'id'"),
        ("version/2/table/tags_toy/query", {"filter_equal_dict": {"tags_toy": {"id": "abc"}}}, "invalid input syntax"),
        ("version/2/table/tags_toy/query", {"filter_greater_dict": {"tags_toy": {"valid": True}}}, "Only '='"),
        ("version/2/table/tags_toy/query", {"filter_regex_dict": {"tags_toy": {"id": "1"}}}, "Regex filter"),
        ("version/2/table/tags_toy/query", {"filter_regex_dict": {"tags_toy": {"tag": "("}}}, "invalid regular exp"),
        ("version/2/table/tags_toy/query", {"limit": -1}, "LIMIT must not be negative"),
        ("version/2/views/nope/query", {}, "No row was found for one()"),
    ],
)  # fmt: skip
def test_errors_are_500_with_the_meant_status_in_the_text(
    toy: Sandbox, path: str, body: dict[str, Any], text: str
) -> None:
    answer = requests.post(sql_query(toy, path), json=body, timeout=30)
    assert answer.status_code == 500
    assert text in answer.json()["message"]
    assert answer.json()["code"] == 500


def test_sane_statuses_on_request(toy: Sandbox) -> None:
    toy.world.options.strict = False
    try:
        answer = requests.post(sql_query(toy, "version/77/table/tags_toy/query"), json={}, timeout=30)
        assert answer.status_code == 404
        single = requests.post(
            sql_query(toy, "version/2/table/tags_toy/query"), json={"select_columns": ["id"]}, timeout=30
        )
        assert pa.ipc.open_stream(single.content).read_all().column_names == ["id"]
    finally:
        toy.world.options.strict = True


def test_an_id_is_not_compared_as_a_floating_point_number(client: CAVEclient, recordings: Path) -> None:
    roots = stored(recordings, "synapses_toy.v2")["pre_pt_root_id"].unique().tolist()
    root = next(root for root in roots if int(float(root)) != root)
    ask = client.materialize.query_table
    assert len(ask("synapses_toy", filter_equal_dict={"pre_pt_root_id": root})) > 0
    assert len(ask("synapses_toy", filter_equal_dict={"pre_pt_root_id": float(root)})) == 0


def test_scaled_positions_keep_every_digit_of_the_scale(sandbox: Sandbox) -> None:
    materialize = client_of(sandbox).materialize
    table = materialize.synapse_table
    own = [float(size) for size in materialize.get_table_metadata(table)["voxel_resolution"]]
    ask = functools.partial(materialize.query_table, table, select_columns=["id", "ctr_pt_position"])
    plain = ask(split_positions=True).set_index("id").sort_index()
    scaled = ask(split_positions=True, desired_resolution=[45 * size for size in own])
    scaled = scaled.set_index("id").sort_index()
    ratio = Decimal(repr(1 / 45))  # 0.022222222222222223: the whole voxels are those that it makes whole
    expected = [int(Decimal(voxel) * ratio) for voxel in plain["ctr_pt_position_x"].tolist()]
    assert (plain["ctr_pt_position_x"] % 45 == 0).any()
    assert scaled["ctr_pt_position_x"].tolist() == expected
