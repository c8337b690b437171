"""What is no id, and no time: 0 lies on no segment, -1 marks a lookup without a result, NaT is no moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from cortexclient import errors
from cortexclient.services.roots import RootsService
from cortexclient.session import as_utc


@pytest.fixture(scope="module")
def client(tiny):
    return tiny.load(version=3)


def test_synapses_without_a_segment_are_nobodys(tiny, caplog):
    rows = pd.read_parquet(tiny.folder.path / "tables" / "synapses.v3.parquet").sort_values("id")
    assert (rows["pre_pt_root_id"] == 0).sum() > 2
    mine = int(rows["pre_pt_root_id"].mode().iloc[0])
    client = tiny.load(version=3)
    frame = client.query_synapses([0, mine, -1], pre=True, progress=False)
    nobody = client.query_synapses([0, -1], pre=True, post=True, progress=False)
    edges = client.connectivity([0, -1])
    expected = rows[(rows["pre_pt_root_id"] == mine) & (rows["post_pt_root_id"] != mine)]
    assert frame["id"].tolist() == expected["id"].tolist()
    assert frame.attrs["stale_root_ids"] == [-1, 0]
    assert "root_ids holds what is no root: -1, 0 (" in caplog.text
    assert "successors" not in caplog.text  # of no segment
    assert len(nobody) == 0
    assert nobody.dtypes.to_dict() == frame.dtypes.to_dict()
    assert len(edges) == 0


@pytest.mark.parametrize("no_id", [0, -1, -(2**63)])
def test_questions_about_roots_go_on(toy, files, no_id):
    roots = RootsService(toy)
    mine = files.current_roots()[0]
    assert roots.is_latest_roots([no_id, mine, no_id]).tolist() == [False, True, False]
    assert roots.get_roots([no_id, mine]).tolist() == [0, mine]
    assert roots.latest_roots([mine, no_id])["latest_root_id"].tolist() == [mine, -1]
    for ask in (roots.latest_valid_timestamp, roots.get_latest_roots, roots.suggest_latest_roots):
        with pytest.raises(errors.StaleRootError, match=str(no_id)):
            ask(no_id)


def test_cell_ids_in_place_of_roots_cost_few_requests(tiny):
    client = tiny.load()
    cells, roots = tiny.truth.cells["cell_id"].tolist(), client.tables.nucleus_detection().query()
    root = int(roots["pt_root_id"].max())
    before = len(tiny.requests)
    found = client.root_id_to_cell_id([*cells, root, *range(1, 1000)], status=True)
    assert found["status"].value_counts().to_dict() == {"unknown root": len(found) - 1, "found": 1}
    anchors = client.anchor_points([*range(1, 1000), root])
    assert anchors["source"].isna().sum() == 999
    assert len(tiny.requests) - before < 40  # of halving, down to each of them, it would be thousands


@pytest.mark.parametrize("no_id", [0, -1])
def test_level2_data_has_a_row_for_what_is_no_id(client, no_id):
    frame = client.get_l2data([no_id])
    assert frame.index.tolist() == [no_id]
    assert frame.isna().all(axis=None)
    assert client.get_l2data([no_id], as_dataframe=False) == {str(no_id): {}}


def test_what_is_no_level2_id_does_not_take_the_others_along(client, caplog):
    cells = client.tables.nucleus_detection.query()["pt_root_id"]
    root = int(cells[cells > 0].iloc[0])
    level2 = client.get_l2_ids(root)[0]
    frame = client.get_l2data([level2, 12345, root, level2], ["size_nm3"])
    assert frame.index.tolist() == [level2, 12345, root, level2]
    assert frame["size_nm3"].isna().tolist() == [False, True, True, False]
    assert "2 of the ids are no level-2 ids" in caplog.text


@pytest.mark.parametrize("value", [pd.NaT, np.datetime64("NaT", "ns"), None, 1751364601.2, True])
def test_no_times(value):
    with pytest.raises(TypeError, match="timestamp"):
        as_utc(value)


def test_a_time_beyond_the_calendar():
    far = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))
    with pytest.raises(ValueError, match="9999"):
        as_utc(far)
    assert as_utc(datetime(9999, 12, 31)).tzinfo is UTC  # noqa: DTZ001 - naive on purpose


def test_a_version_that_never_was_is_told_with_those_that_are(tiny):
    client = tiny.load(version=99)
    for ask in (lambda: list(client.tables), lambda: list(client.views), lambda: client.query("x")):
        with pytest.raises(errors.UnknownVersionError, match=r"(?i)live versions are 2, 3"):
            ask()
