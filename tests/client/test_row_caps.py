"""Answers of views that have no id, from a server that cuts every answer short."""

from __future__ import annotations

import pandas as pd
import pytest

from cortexclient.sandbox import Sandbox


@pytest.fixture(scope="module", params=[4, 50])
def cut(request):
    with Sandbox(size="tiny", row_limit=request.param) as sandbox:
        yield sandbox


def stored(sandbox: Sandbox, name: str) -> pd.DataFrame:
    """What the file of a table or view says, in the order of its ids."""
    frame = pd.read_parquet(sandbox.folder.path / "tables" / f"{name}.v3.parquet")
    ids = [column for column in frame.columns if column.endswith("_id")]
    return frame.sort_values(["id"] if "id" in frame else ids).reset_index(drop=True)


def same(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    ids = [name for name in theirs.columns if name.endswith("id")]
    assert ids
    assert len(ours) == len(theirs)
    for name in ids:
        assert ours[name].fillna(-1).tolist() == theirs[name].astype("Int64").fillna(-1).tolist()


@pytest.mark.parametrize(
    "view", ["connections_with_nuclei", "synapse_degrees", "cell_info", "single_neurons", "soma_counts"]
)
def test_a_view_is_whole(cut, view):
    expected = stored(cut, view)
    assert len(expected) > 5
    same(cut.load(version=3).views[view].query(split_positions=True), expected)


def test_a_view_asked_by_a_list_is_whole(cut):
    roots = stored(cut, "nucleus_detection")["pt_root_id"].unique()
    edges = stored(cut, "connections_with_nuclei")
    expected = edges[edges["pre_pt_root_id"].isin(roots)].reset_index(drop=True)
    assert len(expected) > 5
    found = cut.load(version=3).query("connections_with_nuclei", filter_in_dict={"pre_pt_root_id": roots})
    same(found, expected)


def test_a_reference_table_is_whole_one_row_at_a_time():
    with Sandbox(size="tiny", row_limit=1) as sandbox:
        expected = stored(sandbox, "nucleus_alternative_points")
        assert len(expected) == 2
        found = sandbox.load(version=3).tables.nucleus_alternative_points.query(split_positions=True)
    assert sorted(found["id_ref"]) == expected["id"].tolist()
    assert sorted(found["id"]) == sorted(expected["target_id"])
