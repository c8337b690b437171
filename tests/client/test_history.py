"""Edits, versions and differences between versions, against the files of the recorded datastack."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cortexclient import errors
from cortexclient.sandbox import Sandbox
from cortexclient.services.history import HistoryService

from .conftest import session_on


@pytest.fixture(scope="module")
def log(toy_folder) -> list[dict]:
    return json.loads((toy_folder / "chunkedgraph" / "operations.json").read_text())


def edits_that_led_to(log: list[dict], root: int) -> dict[int, dict]:
    """Walk back from a root through the recorded edits."""
    found: dict[int, dict] = {}
    waiting = [root]
    while waiting:
        wanted = waiting.pop()
        for edit in log:
            if wanted in edit["new_roots"]:
                found[edit["operation_id"]] = edit
                waiting += edit["old_roots"]
    return found


def test_every_edit_of_every_root(toy, files, log):
    roots = files.roots["node_id"].tolist()
    frame = HistoryService(toy).edit_history([*roots, roots[0], 0, -1])
    voxel = np.array([8, 8, 40])  # of the graph, not of a table
    for root in roots:
        expected = edits_that_led_to(log, root)
        mine = frame[frame["root_id"] == root].set_index("operation_id")
        assert set(mine.index) == set(expected)
        assert mine["timestamp"].is_monotonic_increasing
        for number, row in mine.iterrows():
            edit = expected[number]
            assert row["kind"] == edit["kind"]
            assert row["user_id"] == edit["user"]
            assert row["timestamp"] == pd.Timestamp(edit["time"])
            assert row["before_root_ids"].tolist() == sorted(edit["old_roots"])
            assert row["after_root_ids"].tolist() == sorted(edit["new_roots"])
            led = [new for new in edit["new_roots"] if new == root or number in edits_that_led_to(log, root)]
            assert set(row["ancestor_root_ids"].tolist()) <= set(led)
            assert len(row["ancestor_root_ids"])
            points = np.array([*edit["source_coords_voxel"], *edit["sink_coords_voxel"]]) * voxel
            assert np.concatenate([row["source_points"], row["sink_points"]]).tolist() == points.tolist()
            np.testing.assert_allclose(row["pt_position"], points.mean(axis=0))
    assert frame["root_id"].drop_duplicates().tolist() == [
        root for root in roots if edits_that_led_to(log, root)
    ]
    nothing = HistoryService(toy).edit_history([])
    assert len(nothing) == 0
    assert nothing.dtypes.to_dict() == frame.dtypes.to_dict()
    with pytest.raises(errors.StaleRootError, match="5 is not a root id"):
        HistoryService(toy).edit_history([roots[0], 5])


def test_a_split_shows_both_halves(tiny):
    client = tiny.load()
    history = tiny.truth.history
    split = next(
        edit
        for edit in tiny.folder.json("chunkedgraph", "operations.json")
        if edit["kind"] == "split" and len(edit["new_roots"]) == 2
    )
    kept, other = split["new_roots"]
    row = client.edit_history(kept).set_index("operation_id").loc[split["operation_id"]]
    assert set(row["after_root_ids"]) == {kept, other}
    assert row["ancestor_root_ids"].tolist() == [kept]
    assert set(history["root_id"]) >= {kept, other}
    versions = client.versions().set_index("version")["exported"]
    exported = set(client.exports.available_data_df()["version"])
    assert exported
    assert set(versions.index[versions]) == exported


def test_edits_that_cannot_be_read(tiny, relay):
    kept, edit = next(
        (edit["new_roots"][0], str(edit["operation_id"]))
        for edit in tiny.folder.json("chunkedgraph", "operations.json")
        if edit["kind"] == "split"
    )
    numbers = tiny.load().edit_history(kept)["operation_id"].tolist()
    details = json.loads(
        json.dumps(tiny.load().cave.chunkedgraph.get_operation_details(numbers), default=str)
    )

    def history(**changes):
        body = json.dumps({**details, edit: {**details[edit], **changes}}).encode()
        relay.fail("operation_details$", lambda _: (200, body))
        return tiny.load(server_address=relay.url).edit_history(kept).set_index("operation_id")

    assert pd.isna(history(user=None).loc[int(edit), "user_id"])
    for wrong in (
        {"timestamp": None},
        {"source_coords": [[1, 2, None]]},
        {"sink_coords": [[1, 2, 3, 4, 5, 6]]},
        {"sink_coords": 5},
    ):
        with pytest.raises(errors.ProtocolError, match="cannot be used"):
            history(**wrong)
    relay.recover()


def test_a_root_whose_edits_cannot_be_had_fails_alone_and_is_named(
    toy_session, files, log, monkeypatch, caplog
):
    roots = files.roots["node_id"].tolist()
    session = toy_session(retries=0)
    right = HistoryService(session).edit_history(roots)
    send, slow = session.http.send, []

    def spoiled(service, method, url, **options):
        if "lineage_graph" in url and set(slow) & set(options["body"]["root_ids"]):
            raise errors.ServiceUnavailableError("time-out", service=service, status=504, url=url)
        return send(service, method, url, **options)

    monkeypatch.setattr(session.http, "send", spoiled)
    slow += [int(right["root_id"].iloc[0])]
    frame = HistoryService(session).edit_history(roots)
    assert frame.attrs["failed_root_ids"] == slow
    assert set(frame["root_id"]) == set(right["root_id"]) - set(slow)
    assert f"1 of {len(roots)} roots have no history here, the first is {slow[0]}" in caplog.text
    slow += roots
    with pytest.raises(errors.ServiceUnavailableError, match="time-out"):
        HistoryService(session).edit_history(roots)


def test_versions(toy, files):
    frame = HistoryService(toy).versions()
    assert frame["version"].tolist() == sorted(files.versions, reverse=True)
    assert [files.versions[version] for version in frame["version"]] == frame["timestamp"].tolist()
    assert frame["valid"].all()
    assert not frame["exported"].any()


def test_what_changed_between_versions(toy, files):
    before, after = (files.frozen("celltype_toy", version).set_index("id") for version in (1, 2))
    before, after = before[before["valid"]], after[after["valid"]]
    changes = HistoryService(toy).diff("celltype_toy", 1, 2).set_index("id")
    assert set(changes.index[changes["change"] == "added"]) == set(after.index) - set(before.index)
    assert set(changes.index[changes["change"] == "removed"]) == set(before.index) - set(after.index)
    nuclei = HistoryService(toy).diff("nucleus_toy", 1, 2).set_index("id")
    before, after = (files.frozen("nucleus_toy", version).set_index("id") for version in (1, 2))
    both = before.index.intersection(after.index)
    moved = both[(before.loc[both, "pt_root_id"] != after.loc[both, "pt_root_id"]).to_numpy()]
    assert len(moved)
    assert set(moved) == set(nuclei.index[nuclei["change"] == "changed"])
    for number in moved:
        assert nuclei.loc[number, "columns"] == ("pt_root_id",)
        assert nuclei.loc[number, "pt_root_id_a"] == before.loc[number, "pt_root_id"]
        assert nuclei.loc[number, "pt_root_id_b"] == after.loc[number, "pt_root_id"]
    assert nuclei["pt_root_id_a"].dtype == "Int64"
    whole = nuclei["pt_position_x_a"]
    assert whole.dtype == "float64", "positions in nm, which are whole numbers here"
    assert (whole == whole.round()).all()
    back = HistoryService(toy).diff("nucleus_toy", 2, 1)
    assert sorted(back["id"]) == sorted(nuclei.index)
    assert len(HistoryService(toy).diff("nucleus_toy", 2, 2)) == 0


def test_rows_of_a_view_that_share_their_ids_cannot_be_matched(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "toy")
    file = folder / "tables" / "nucleus_celltype_view.v2.parquet"
    rows = pq.read_table(file)
    pq.write_table(pa.concat_tables([rows, rows.slice(0, 1)]), file)
    with Sandbox(data=folder) as sandbox:
        service = HistoryService(session_on(sandbox))
        assert len(service.diff("nucleus_celltype_view", 1, 1)) == 0
        with pytest.raises(errors.InvalidQueryError, match="no id of their own"):
            service.diff("nucleus_celltype_view", 1, 2)
