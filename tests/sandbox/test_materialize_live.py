"""Live queries, new versions and annotations that arrive while the server runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import requests
from caveclient import CAVEclient

from cortexclient.sandbox import Sandbox

from .toy import AFTER_EVERYTHING, client_of, sql_query


@pytest.fixture
def toy(recordings: Path) -> Iterator[Sandbox]:
    with Sandbox(data=recordings / "real_toy_datastack") as sandbox:
        yield sandbox


@pytest.fixture
def client(toy: Sandbox) -> CAVEclient:
    return client_of(toy)


def live(client: CAVEclient, table: str, at: datetime, **options: object):
    return client.materialize.live_live_query(table, timestamp=at, metadata=False, **options)


def test_a_row_newer_than_the_version_is_there_and_one_awaiting_lookup_is_refused(
    toy: Sandbox, client: CAVEclient
) -> None:
    found = live(client, "synapses_toy", AFTER_EVERYTHING)
    assert 304 in set(found["id"])
    with pytest.raises(requests.HTTPError, match="406 Not Acceptable: There are 1 annotations"):
        live(client, "pending_toy", AFTER_EVERYTHING)
    assert len(live(client, "pending_toy", AFTER_EVERYTHING, allow_missing_lookups=True)) == 2


def test_retired_roots_are_refused(client: CAVEclient) -> None:
    with pytest.raises(requests.HTTPError, match="400 Bad Request: Some root_ids passed are not valid"):
        live(
            client,
            "synapses_toy",
            AFTER_EVERYTHING,
            filter_equal_dict={"synapses_toy": {"pre_pt_root_id": 360287970189639683}},
        )


def test_gaps_in_row_numbers_show_as_an_extra_column(toy: Sandbox) -> None:
    import pyarrow as pa

    body = {
        "table": "nucleus_toy",
        "timestamp": AFTER_EVERYTHING.isoformat(),
        "filter_in_dict": {"nucleus_toy": {"volume": [21.968]}},
    }
    answer = requests.post(sql_query(toy, "query"), json=body, timeout=30)
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.num_rows == 0  # float32 holds no 21.968
    assert table.column_names[-1] == "__index_level_0__"


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
