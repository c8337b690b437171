"""Materialization of a recorded datastack where the recording says nothing: what changes, texts, and saner answers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
from caveclient import CAVEclient

from cortexclient.sandbox import Sandbox

from .toy import client_of, sql_query


@pytest.fixture
def toy(recordings: Path) -> Iterator[Sandbox]:
    with Sandbox(data=recordings / "real_toy_datastack") as sandbox:
        yield sandbox


@pytest.fixture
def client(toy: Sandbox) -> CAVEclient:
    return client_of(toy)


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


def test_a_sane_sandbox(toy: Sandbox, client: CAVEclient) -> None:
    toy.world.options.strict = False
    url = sql_query(toy, "version/2/table/tags_toy/query")
    assert requests.post(url.replace("version/2", "version/77"), json={}, timeout=30).status_code == 404
    single = requests.post(url, json={"select_columns": ["id"]}, timeout=30)
    assert pa.ipc.open_stream(single.content).read_all().column_names == ["id"]
    assert len(client.materialize.query_table("tags_toy", filter_out_dict={"id": [1, 2]})) == 2


def test_an_id_is_not_compared_as_a_floating_point_number(toy: Sandbox, client: CAVEclient) -> None:
    roots = toy.world.tables.frame("synapses_toy", 2)["pre_pt_root_id"].unique().tolist()
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


def live(client: CAVEclient, table: str, at: datetime, **options: object):
    return client.materialize.live_live_query(table, timestamp=at, metadata=False, **options)


def test_new_version_appears_and_old_one_expires(toy: Sandbox, client: CAVEclient) -> None:
    number = toy.world.tables.materialize()
    assert number == 3
    assert sorted(client.materialize.get_versions()) == [1, 2, 3]
    frozen = client.materialize.query_table("synapses_toy", materialization_version=3)
    assert len(frozen) == 304
    roots = frozen["pre_pt_root_id"].to_numpy(dtype=np.int64)
    assert toy.world.graph.is_latest(np.unique(roots[roots > 0])).all()
    assert client.materialize.get_annotation_count("synapses_toy", version=3) == 304
    assert client.materialize.get_timestamp(3).tzinfo is not None
    view = client.materialize.query_view("nucleus_celltype_view", materialization_version=3)
    assert len(view) == 40

    toy.world.tables.expire(1)
    assert sorted(client.materialize.get_versions()) == [2, 3]
    assert sorted(client.materialize.get_versions(expired=True)) == [1, 2, 3]
    with pytest.raises(requests.HTTPError, match='database "toy__mat1" does not exist'):
        client.materialize.query_table("synapses_toy", materialization_version=1)


def test_edits_show_in_live_tables_views_and_the_next_version(toy: Sandbox, client: CAVEclient) -> None:
    graph = toy.world.graph
    first, second = (int(root) for root in graph.alive()[:2])
    edit = toy.merge(first, second)
    later = edit.time + timedelta(seconds=1)
    found = live(client, "synapses_toy", later)
    roots = np.concatenate([found[f"{side}_pt_root_id"].to_numpy(dtype=np.int64) for side in ("pre", "post")])
    assert not np.isin(roots, [first, second]).any()
    assert int(edit.new_roots[0]) in roots
    view = client.materialize.query_view("nucleus_celltype_view", materialization_version=0)
    supervoxels = view["pt_supervoxel_id"].to_numpy(dtype=np.int64)
    assert (view["pt_root_id"].to_numpy(dtype=np.int64) == graph.roots(supervoxels)).all()
    before = client.materialize.query_table("nucleus_toy", materialization_version=2)
    toy.materialize()
    after = client.materialize.query_table("nucleus_toy", materialization_version=3)
    assert (after["pt_root_id"].to_numpy(dtype=np.int64) == graph.roots(after["pt_supervoxel_id"])).all()
    assert len(before) == len(after)


def test_a_table_can_be_missing_from_a_version(toy: Sandbox, client: CAVEclient) -> None:
    toy.world.tables.forget("tags_toy", 2)
    assert "tags_toy" not in client.materialize.get_tables(version=2)
    with pytest.raises(requests.HTTPError, match=r"No table named .*tags_toy.* found"):
        client.materialize.query_table("tags_toy", materialization_version=2)
    assert len(client.materialize.query_table("tags_toy", materialization_version=1)) == 4


def test_annotations_get_supervoxels_and_roots_when_looked_up(toy: Sandbox, client: CAVEclient) -> None:
    annotation, now = client.annotation, datetime.now(UTC) + timedelta(days=365 * 10)
    annotation.create_table("mine", "bound_tag", "points of mine", [4, 4, 40])
    nuclei = toy.world.tables.frame("nucleus_toy", 2)
    row = nuclei[nuclei["id"] == 6].iloc[0]
    point = [int(row[f"pt_position_{axis}"]) for axis in "xyz"]
    assert annotation.post_annotation("mine", [{"pt": {"position": point}, "tag": "first"}]) == [1]
    with pytest.raises(requests.HTTPError, match='relation "mine__toy_pcg" does not exist'):
        live(client, "mine", now)
    client.materialize.ingest_annotation_table("mine")
    found = live(client, "mine", now)
    assert found["pt_supervoxel_id"].tolist() == [row["pt_supervoxel_id"]]
    assert found["pt_root_id"].tolist() == toy.world.graph.roots([row["pt_supervoxel_id"]]).tolist()

    assert annotation.update_annotation("mine", [{"id": 1, "pt": {"position": point}, "tag": "second"}]) == {
        "1": 2
    }
    with pytest.raises(requests.HTTPError, match="already been superseded by annotation ID 2"):
        annotation.update_annotation("mine", [{"id": 1, "pt": {"position": point}, "tag": "third"}])
    assert annotation.delete_annotation("mine", [2]) == [2]
    shown = {row["id"]: row for row in annotation.get_annotation("mine", [1, 2])}
    assert shown[1]["superceded_id"] == 2
    assert shown[2]["deleted"] != "None"
    assert annotation.get_annotation_count("mine") == 2


def test_a_failed_insert_spoils_the_next_one(toy: Sandbox, client: CAVEclient) -> None:
    annotation = client.annotation
    annotation.create_table("mine", "bound_tag", "points of mine", [4, 4, 40])
    good = {"pt": {"position": [1, 2, 3]}, "tag": "x"}
    with pytest.raises(requests.HTTPError, match=r"422 Unprocessable Entity: {'pt'"):
        annotation.post_annotation("mine", [{"tag": "x"}])
    with pytest.raises(requests.HTTPError, match="parse error - invalid geometry"):
        annotation.post_annotation("mine", [{"pt": {"position": ["a", 2, 3]}, "tag": "x"}])
    with pytest.raises(requests.HTTPError, match="rolled back"):
        annotation.post_annotation("mine", [good])
    assert len(annotation.post_annotation("mine", [good, good])) == 2


def test_sane_sandbox_looks_up_at_once(toy: Sandbox, client: CAVEclient) -> None:
    toy.world.options.strict = False
    client.annotation.create_table("mine", "bound_tag", "points of mine", [4, 4, 40])
    client.annotation.post_annotation("mine", [{"pt": {"position": [10, 20, 3]}, "tag": "x"}])
    found = live(client, "mine", datetime.now(UTC) + timedelta(days=365 * 10))
    assert (found["pt_root_id"] > 0).all()
