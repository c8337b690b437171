"""Tables and views of a recorded datastack against its files: at both versions and live, with and without a row cap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cortexclient import errors
from cortexclient.sandbox import Sandbox
from cortexclient.services.tables import QueriesService, TablesService, ViewsService
from cortexclient.session import Moment

UNITS = {
    "synapses_toy": (4, 4, 40),
    "nucleus_toy": (4, 4, 40),
    "tags_toy": (1, 1, 1),
    "celltype_toy": (4, 4, 40),
}


def same_rows(ours: pd.DataFrame, theirs: pd.DataFrame, unit=(1, 1, 1)) -> None:
    """Compare every column that both have; positions are asked in nm, and the files hold voxels."""
    common = [name for name in ours.columns if name in theirs.columns]
    assert len(common) >= 3
    assert ours["id"].tolist() == theirs["id"].tolist()
    for name in common:
        expected = theirs[name]
        if name.endswith(("_x", "_y", "_z")):
            expected = expected * unit["xyz".index(name[-1])]
        if expected.dtype.kind == "f":
            assert np.allclose(
                ours[name].to_numpy(dtype=float), expected.to_numpy(), rtol=1e-6, equal_nan=True
            ), name
        else:
            assert ours[name].tolist() == expected.tolist(), name


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("table", ["synapses_toy", "nucleus_toy", "tags_toy"])
@pytest.mark.parametrize("server", ["toy", "capped"])
def test_a_whole_table(request, files, server, table, version):
    session = request.getfixturevalue(server).at(version=version)
    frame = TablesService(session)[table]().query(split_positions=True)
    same_rows(frame, files.frozen(table, version), UNITS[table])
    assert frame.attrs["materialization_version"] == version
    assert frame.attrs["complete"] is True


@pytest.mark.parametrize("server", ["toy", "capped"])
@pytest.mark.parametrize("table", ["synapses_toy", "nucleus_toy", "tags_toy"])
@pytest.mark.parametrize("when", ["2026-11-21T00:52:58", "2026-11-21T00:53:02.9", "2026-11-21T01:30:00"])
def test_a_whole_table_at_any_time(request, files, server, table, when):
    session = request.getfixturevalue(server).at(timestamp=when)
    frame = TablesService(session)[table]().query(split_positions=True)
    same_rows(frame, files.live(table, pd.Timestamp(when, tz="UTC")), UNITS[table])
    assert frame.attrs["live_query"] is True


EDITS = ["2026-11-21T00:50:00", "2026-11-21T00:53:00.5", "2026-11-21T00:53:10", "2026-11-21T02:00:00"]


@pytest.mark.parametrize("server", ["toy", "capped"])
@pytest.mark.parametrize("when", EDITS)
def test_a_reference_table_at_any_time(request, files, server, when):
    session = request.getfixturevalue(server).at(timestamp=when)
    at = pd.Timestamp(when, tz="UTC")
    frame = TablesService(session).celltype_toy().query(split_positions=True)
    expected = files.live("celltype_toy", at).merge(
        files.live("nucleus_toy", at), left_on="target_id", right_on="id", suffixes=("_ref", "")
    )
    assert sorted(frame["id_ref"]) == sorted(expected["id_ref"])
    by_row = expected.set_index("id_ref").loc[frame["id_ref"]]
    assert frame["id"].tolist() == by_row["id"].tolist()
    assert frame["cell_type"].tolist() == by_row["cell_type"].tolist()
    assert frame["pt_root_id"].tolist() == by_row["pt_root_id"].tolist()


@pytest.mark.parametrize("server", ["toy", "capped"])
@pytest.mark.parametrize("when", EDITS[1:])
def test_live_rows_of_neurons_are_whole(request, files, server, when):
    # the cap holds for the version's rows and for newer ones apart, and before roots are filtered
    session = request.getfixturevalue(server).at(timestamp=when)
    at = pd.Timestamp(when, tz="UTC")
    rows = files.live("synapses_toy", at)
    for root in files.current_roots(at):
        frame = TablesService(session).synapses_toy(pre_pt_root_id=root).query()
        assert frame["id"].tolist() == rows["id"][rows["pre_pt_root_id"] == root].tolist()
    frame = TablesService(session).synapses_toy(id={">=": 20, "<": 200}).query(limit=60)
    assert len(frame) == 60
    assert set(frame["id"]) <= set(rows["id"][rows["id"].between(20, 199)])


@pytest.mark.parametrize("server", ["toy", "capped"])
def test_a_reference_table_comes_with_what_it_refers_to(request, files, server):
    session = request.getfixturevalue(server).at(version=2)
    frame = TablesService(session).celltype_toy(cell_type="BC").query(split_positions=True)
    types = files.frozen("celltype_toy", 2)
    types = types[types["cell_type"] == "BC"]
    expected = types.merge(
        files.frozen("nucleus_toy", 2), left_on="target_id", right_on="id", suffixes=("_ref", "")
    )
    expected = expected.sort_values("id")
    assert frame["id"].tolist() == expected["id"].tolist()
    assert frame["id_ref"].tolist() == expected["id_ref"].tolist()
    assert frame["pt_root_id"].tolist() == expected["pt_root_id"].tolist()
    assert set(frame["cell_type"]) == {"BC"}


def test_two_filters_on_columns_that_both_tables_have(toy, files):
    # caveclient loses one of them
    types = files.frozen("celltype_toy", 2)
    wanted = types["id"].tolist()[3:9]
    targets = types["target_id"].tolist()[5:20]
    frame = TablesService(toy.at(version=2)).celltype_toy(id=targets, id_ref=wanted).query()
    expected = types[types["id"].isin(wanted) & types["target_id"].isin(targets)]
    assert sorted(frame["id_ref"]) == sorted(expected["id"])


@pytest.mark.parametrize("server", ["toy", "capped"])
def test_types_do_not_depend_on_the_rows(request, files, server):
    session = request.getfixturevalue(server).at(version=2)
    tables, views = TablesService(session), ViewsService(session)
    for handle in (
        tables.synapses_toy,
        tables.nucleus_toy,
        tables.tags_toy,
        tables.celltype_toy,
        views.nucleus_celltype_view,
    ):
        many = handle().query(split_positions=True)
        one = handle(id=many["id"].tolist()[:1]).query(split_positions=True)
        none = handle(id=[]).query(split_positions=True)
        assert len(none) == 0
        assert len(one) == 1
        assert list(many.columns) == list(one.columns) == list(none.columns)
        assert many.dtypes.to_dict() == one.dtypes.to_dict() == none.dtypes.to_dict()
        assert not [name for name, dtype in many.dtypes.items() if name.endswith("id") and dtype.kind == "f"]
    assert many.dtypes["id"] == np.int64


def test_text_filters_that_match_nothing_keep_the_columns(toy):
    views = ViewsService(toy)
    everything = views.nucleus_celltype_view().query(split_positions=True)
    nothing = views.nucleus_celltype_view(cell_type=[]).query(split_positions=True)
    assert nothing.dtypes.to_dict() == everything.dtypes.to_dict()
    assert len(nothing) == 0


@pytest.mark.parametrize("server", ["toy", "capped"])
def test_exclusions_hold_although_servers_ignore_them(request, files, server):
    session = request.getfixturevalue(server).at(version=2)
    frame = QueriesService(session).query(
        "synapses_toy", filter_out_dict={"id": [1, 2, 303]}, select_columns=["size"]
    )
    assert len(frame) == len(files.frozen("synapses_toy", 2)) - 3
    assert list(frame.columns) == ["size"]
    frame = TablesService(session).nucleus_toy(pt_root_id={"!=": 0}).query()
    assert len(frame) == (files.frozen("nucleus_toy", 2)["pt_root_id"] != 0).sum()
    assert TablesService(session).nucleus_toy(pt_root_id={"!=": 0}).count() == len(frame)


@pytest.mark.parametrize("server", ["toy", "capped"])
def test_counts(request, files, server):
    tables = TablesService(request.getfixturevalue(server).at(version=2))
    assert tables.synapses_toy.count() == 303
    assert tables.synapses_toy(size={">": 4000, "<=": 4500}).count() == (
        files.frozen("synapses_toy", 2)["size"].between(4000, 4500, inclusive="right").sum()
    )
    # caveclient downloads the rows of a reference table and forgets that it was to count
    assert tables.celltype_toy().query(get_counts=True)["count"].tolist() == [
        len(files.frozen("celltype_toy", 2))
    ]


@pytest.mark.parametrize("server", ["toy", "capped"])
@pytest.mark.parametrize("when", ["2026-11-21T00:53:02.9Z", None])
def test_a_count_is_of_all_rows_that_match(request, files, server, when):
    tables = TablesService(request.getfixturevalue(server).at(version=2))
    rows = files.frozen("synapses_toy", 2) if when is None else files.live("synapses_toy", pd.Timestamp(when))
    small = tables.synapses_toy(size={"<": 4000})
    wanted = int((rows["size"] < 4000).sum())
    assert 7 < wanted < len(rows)
    for options in ({}, {"limit": 2}, {"offset": 3}, {"random_sample": 4}, {"select_columns": "size"}):
        found = small.query(timestamp=when, get_counts=True, **options)
        assert found["count"].tolist() == [wanted], options
    but_one = tables.synapses_toy(id={"!=": int(rows["id"].iloc[0])})
    assert but_one.query(timestamp=when, get_counts=True, limit=2)["count"].tolist() == [len(rows) - 1]


def test_a_count_has_no_unit(tiny, session_at):
    """Points of a reference table and of its table may have no voxels in common; their rows can be counted."""
    tables = {"points": {"name": "nucleus_alternative_points", "voxel_resolution": [8, 8, 40]}}
    session = session_at(tiny, spec={"datastack": tiny.load().datastack_name, "tables": tables}, version=3)
    points = TablesService(session).nucleus_alternative_points()
    rows = len(pd.read_parquet(tiny.folder.path / "tables" / "nucleus_alternative_points.v3.parquet"))
    for asked in ({}, {"desired_resolution": None}):
        assert points.query(get_counts=True, **asked)["count"].tolist() == [rows]
    assert points.count() == len(points.query()) == rows > 0


def test_a_count_at_an_expired_version_says_so(tiny):
    table = tiny.load(version=3).tables.nucleus_detection()
    for asked in (False, True):
        with pytest.raises(errors.ExpiredVersionError, match="Live versions are 2, 3; the nearest is 2"):
            table.query(materialization_version=1, get_counts=asked)


@pytest.mark.parametrize("server", ["toy", "capped"])
def test_columns_at_any_time_need_not_be_those_that_are_filtered(request, files, server):
    when = pd.Timestamp("2026-11-21T00:53:02.9", tz="UTC")
    roots = files.current_roots(when)
    rows = files.live("synapses_toy", when)
    rows = rows[rows["pre_pt_root_id"].isin(roots) & (rows["size"] > 1000)]
    table = TablesService(request.getfixturevalue(server)).synapses_toy
    found = table(pre_pt_root_id=roots, size={">": 1000}).query(
        timestamp=when, select_columns="ctr_pt_position"
    )
    assert list(found.columns) == ["ctr_pt_position"]
    assert len(found) == len(rows) > 10
    x = np.stack(found["ctr_pt_position"])[:, 0]
    assert x.tolist() == (rows["ctr_pt_position_x"] * 4).tolist()


def test_boxes_are_in_nm(toy, files):
    nuclei = files.frozen("nucleus_toy", 2)
    low, high = [400, 200, 200], [2600, 800, 1000]
    inside = np.ones(len(nuclei), dtype=bool)
    for axis, unit, a, b in zip("xyz", (4, 4, 40), low, high, strict=True):
        inside &= (nuclei[f"pt_position_{axis}"] * unit).between(a, b)
    frame = TablesService(toy.at(version=2)).nucleus_toy(pt_position_bbox=[low, high]).query()
    assert 0 < inside.sum() < len(nuclei)
    assert frame["id"].tolist() == nuclei["id"][inside].tolist()
    # a row is inside if its own position is, on the edge too, however thin the box
    row = nuclei.iloc[0]
    corner = row[[f"pt_position_{axis}" for axis in "xyz"]].to_numpy(dtype=float)
    nucleus_toy = TablesService(toy.at(version=2)).nucleus_toy
    for low, high in ((-0.6, -0.4), (0.4, 0.6)):
        box = [((corner + low) * (4, 4, 40)).tolist(), ((corner + high) * (4, 4, 40)).tolist()]
        assert nucleus_toy(pt_position_bbox=box).query()["id"].tolist() == []
        assert nucleus_toy(pt_position_bbox=box).count() == 0
    for low, high in ((-0.4, 0), (-0.4, 0.4), (0, 0.4), (-3, 0), (0, 3)):
        box = [((corner + low) * (4, 4, 40)).tolist(), ((corner + high) * (4, 4, 40)).tolist()]
        within = nucleus_toy(pt_position_bbox=box)
        found = within.query(select_columns=["pt_root_id", "id"])
        assert list(found.columns) == ["pt_root_id", "id"]
        assert within.count() == len(found)
        for position in within.query()["pt_position"]:
            assert ((box[0] <= position) & (position <= box[1])).all()
        assert row["id"] in found["id"].tolist()
    with pytest.raises(errors.InvalidQueryError, match="in nm"):
        TablesService(toy).nucleus_toy(pt_position_bbox=[[9, 9, 9], [1, 1, 1]])


def test_resolution_is_applied_once(toy, files):
    stored = files.frozen("nucleus_toy", 2)
    handle = TablesService(toy.at(version=2)).nucleus_toy()
    assert (
        handle.query(split_positions=True)["pt_position_z"].tolist()
        == (stored["pt_position_z"] * 40).tolist()
    )
    voxels = handle.query(split_positions=True, desired_resolution=None)
    assert voxels["pt_position_z"].tolist() == stored["pt_position_z"].tolist()
    assert voxels.attrs["dataframe_resolution"] == [4.0, 4.0, 40.0]
    joined = handle.query()
    assert joined["pt_position"].iloc[0].tolist() == [
        stored[f"pt_position_{axis}"].iloc[0] * unit for axis, unit in zip("xyz", (4, 4, 40), strict=True)
    ]


def test_units_of_the_spec_win_over_the_servers(toy_session, files):
    tables = {"nuclei": {"name": "nucleus_toy", "voxel_resolution": [8, 8, 50]}}
    session = toy_session(spec={"tables": tables}, version=2)
    frame = TablesService(session).nucleus_toy().query(split_positions=True)
    assert frame["pt_position_z"].tolist() == (files.frozen("nucleus_toy", 2)["pt_position_z"] * 50).tolist()


@pytest.mark.parametrize(
    ("limit", "offset"), [(20, None), (70, None), (20, 100), (None, 290), (49, 0), (50, None), (51, None)]
)
def test_a_users_own_limit_is_no_truncation(capped, files, limit, offset):
    frame = TablesService(capped.at(version=2)).synapses_toy().query(limit=limit, offset=offset)
    stored = files.frozen("synapses_toy", 2)
    assert len(frame) == min(limit or 10**6, len(stored) - (offset or 0))
    assert frame["id"].is_unique
    if offset is not None:
        assert frame["id"].tolist() == stored["id"].tolist()[offset : offset + (limit or 10**6)]


def test_a_list_longer_than_the_cap(capped, files):
    ids = files.frozen("synapses_toy", 2)["id"].tolist()[::-1]
    frame = TablesService(capped.at(version=2)).synapses_toy(id=[*ids, *ids]).query()
    assert frame["id"].tolist() == ids[::-1]


def test_columns_are_those_asked_for(toy):
    handle = TablesService(toy).synapses_toy(id=[3, 1])
    assert list(handle.query(select_columns=["size"]).columns) == ["size"]
    assert list(handle.query(select_columns=["id"]).columns) == ["id"]
    frame = handle.query(select_columns=["pre_pt_root_id", "ctr_pt_position"], split_positions=True)
    assert list(frame.columns) == ["pre_pt_root_id", *(f"ctr_pt_position_{axis}" for axis in "xyz")]


def test_a_point_in_polars_is_a_list_and_frames_need_no_metadata(toy):
    assert TablesService(toy).tags_toy().query(metadata=False).attrs == {}
    pytest.importorskip("polars")
    points = TablesService(toy).synapses_toy(id=[1]).query(return_as="polars")
    assert len(points["ctr_pt_position"][0]) == 3


@pytest.mark.parametrize("server", ["toy", "capped"])
def test_frames_may_be_written_to(request, server):
    """Of an answer in one piece, Arrow gives views that refuse it."""
    frame = TablesService(request.getfixturevalue(server)).synapses_toy().query(split_positions=True)
    for name in frame.columns:
        frame.loc[frame.index[0], name] = frame[name].iloc[1]
        assert frame[name].iloc[0] == frame[name].iloc[1]


def test_names(toy, files):
    tables = TablesService(toy)
    assert tables.table_names == ["celltype_toy", "nucleus_toy", "pending_toy", "synapses_toy", "tags_toy"]
    assert "nucleus_toy" in tables
    assert "nucleus" not in tables
    assert len(tables) == 5
    assert "synapses_toy" in dir(tables)
    assert tables.find("TOY") == tables.table_names
    assert "celltype_toy" in repr(tables)
    assert "celltype_toy" in tables._repr_html_()
    assert hasattr(tables, "tags_toy")
    assert not hasattr(tables, "nope")
    with pytest.raises(errors.UnknownTableError, match="did you mean synapses_toy"):
        _ = tables.synapse_toy
    assert "cell_type" in tables.celltype_toy.fields
    assert "id_ref" in tables.celltype_toy.fields
    import inspect

    assert "pt_position_bbox" in inspect.signature(tables.nucleus_toy).parameters
    assert ViewsService(toy).table_names == ["nucleus_celltype_view"]


def test_mistakes_are_told(toy):
    tables = TablesService(toy)
    with pytest.raises(errors.InvalidQueryError, match="nope"):
        tables.synapses_toy(nope=3).query()
    with pytest.raises(errors.InvalidQueryError, match="did you mean cell_type"):
        tables.celltype_toy(cell_typ="BC").query()
    with pytest.raises(errors.UnknownVersionError, match=r"Live versions are 1, 2|live versions are 1, 2"):
        tables.synapses_toy().query(materialization_version=77)
    with pytest.raises(TypeError, match="float"):
        tables.synapses_toy(id=[1.0])
    with pytest.raises(ValueError, match="give one of them"):
        tables.synapses_toy().query(materialization_version=1, timestamp="2026-11-21T00:53:00")
    with pytest.raises(errors.InvalidQueryError, match="operators"):
        tables.synapses_toy(size={"~": 3})


def test_a_view_has_no_rows_between_versions(toy):
    with pytest.raises(errors.InvalidQueryError, match="versions"):
        ViewsService(toy.at(timestamp="2026-11-21T00:52:58")).nucleus_celltype_view().query()
    exact = toy.at(timestamp=toy.versions()[1].timestamp)
    assert len(ViewsService(exact).nucleus_celltype_view().query()) == 40


def test_exactly_a_versions_time_is_that_version(toy, files):
    session = toy.at(timestamp=toy.versions()[1].timestamp)
    frame = TablesService(session).synapses_toy().query()
    assert len(frame) == 300
    assert frame.attrs["materialization_version"] == 1


def test_columns_of_a_view_are_those_of_the_version_that_is_asked(toy_folder, session_at):
    with Sandbox(data=toy_folder) as sandbox:
        session = session_at(sandbox)
        view = "nucleus_celltype_view"
        none = session.query(view, moment=Moment(version=1), filters={"in": {view: {"id": []}}})
        read = [entry.path for entry in sandbox.requests if entry.path.endswith("/views/schemas")]
    assert len(none) == 0
    assert len(read) == 1
    assert "/version/1/" in read[0]
