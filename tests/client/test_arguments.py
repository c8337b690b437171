"""Odd arguments of queries: each is honoured or refused by name before anything is sent, and none is misread."""

from __future__ import annotations

import math
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import cortexclient
from cortexclient import errors
from cortexclient.ids import as_id, as_ids
from cortexclient.services.roots import RootsService
from cortexclient.services.skeletons import SkeletonsService
from cortexclient.services.synapses import SynapsesService
from cortexclient.services.tables import QueriesService, TablesService, ViewsService

WAYS = {
    "a generator": lambda ids: (number for number in ids),
    "the keys of a dict": lambda ids: dict.fromkeys(ids).keys(),
    "a map": lambda ids: map(int, ids),
    "a range": lambda ids: range(ids[0], ids[-1] + 1),
    "a set": set,
    "digits": lambda ids: [str(number) for number in ids],
    "an array of unsigned ids": lambda ids: np.array(ids, dtype=np.uint64),
    "an Index": pd.Index,
    "a nullable Series": lambda ids: pd.Series(ids, dtype="Int64"),
    "a masked array without a mask": np.ma.array,
    "an Arrow array": pa.array,
    "a column of an Arrow table": lambda ids: pa.chunked_array([ids[:1], ids[1:]]),
    "Arrow scalars": lambda ids: [pa.scalar(number) for number in ids],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_hold_ids_is_a_list_of_them(toy, way):
    ids = [3, 4, 5]
    frame = TablesService(toy).synapses_toy(id=WAYS[way](ids)).query()
    assert frame["id"].tolist() == ids
    assert sorted(as_ids(WAYS[way](ids)).tolist()) == ids


def test_columns_and_scalars_of_arrow_and_numpy_are_values(toy):
    tags, synapses = TablesService(toy).tags_toy, TablesService(toy).synapses_toy
    held = tags.query(return_as="arrow").column("tag")
    assert tags(tag=held).count() == len(held) > 1
    assert tags(tag=held[0]).count() == held.to_pylist().count(held[0].as_py())
    assert synapses(size={">": pa.scalar(4000)}).count() == synapses(size={">": 4000}).count() > 0
    time = synapses(created={">": np.datetime64("2026-01-02T03:04:05.678", "ns")}).filters["greater"]
    assert time["synapses_toy"]["created"].isoformat() == "2026-01-02T03:04:05.678000"


@pytest.mark.parametrize("way", [way for way in WAYS if way != "a range"])
def test_several_ids_get_several_answers_however_they_are_held(toy, files, way):
    ids = sorted(files.current_roots())[:3]
    service = RootsService(toy)
    assert sorted(service.suggest_latest_roots(WAYS[way](ids))) == ids
    assert sorted(service.latest_roots(WAYS[way](ids))["latest_root_id"]) == ids
    assert set(SkeletonsService(toy).skeletons_exist(root_ids=WAYS[way](ids))) == set(ids)


@pytest.mark.parametrize("way", [int, str, np.int64, np.array, pa.scalar])
def test_one_id_gets_one_answer_however_it_is_held(toy, files, way):
    root = files.current_roots()[0]
    assert RootsService(toy).suggest_latest_roots(way(root)) == root
    assert isinstance(SkeletonsService(toy).skeletons_exist(root_ids=way(root)), bool)
    assert as_ids(way(root)).tolist() == [as_id(way(root))] == [root]


@pytest.mark.parametrize("way", WAYS)
def test_one_id_is_not_several(way):
    with pytest.raises(TypeError, match=r"^root_id must be one id, not several \(\w+\)$"):
        as_id(WAYS[way]([3, 4, 5]), "root_id")


@pytest.mark.parametrize(
    "ids", [np.ma.array([3, 4], mask=[0, 1]), np.ma.masked, [3, np.ma.masked], np.ma.array(3, mask=True)]
)
def test_masked_ids_are_missing(toy, ids):
    with pytest.raises(ValueError, match="ids holds masked values"):
        as_ids(ids)
    with pytest.raises((ValueError, errors.CortexError), match=r"masked|missing"):
        TablesService(toy).synapses_toy(id=ids).query()


@pytest.mark.parametrize("way", [pd.Series, pd.Index, pd.array])
def test_a_column_with_a_missing_id_says_so(way):
    with pytest.raises(ValueError, match=r"ids holds missing values.*dropna"):
        as_ids(way([3, None], dtype="Int64"))
    assert as_ids(way([3, 2**60 + 1], dtype="Int64")).tolist() == [3, 2**60 + 1]


@pytest.mark.parametrize("way", [list, pa.array, lambda ids: pd.Series(ids, dtype=object)])
def test_a_missing_id_among_others_says_so(way):
    for missing in (None, pd.NA) if way is list else (None,):
        with pytest.raises(ValueError, match=r"ids holds a missing value.*dropna"):
            as_ids(way([3, missing]))


def test_a_table_is_no_column_of_ids():
    with pytest.raises(TypeError, match="pass its column"):
        as_ids(pd.DataFrame({"pt_root_id": [1, 2]}))


def test_a_column_may_be_called_self(toy):
    with pytest.raises(errors.InvalidQueryError, match="no column 'self'"):
        TablesService(toy).synapses_toy(self=5).query()


@pytest.mark.parametrize("version", [0, -1, "0", np.int64(0)])
def test_zero_is_no_version(toy, version):
    # services answer it from the live tables, at no moment that could be named
    with pytest.raises(ValueError, match="at least 1"):
        toy.at(version=version)


def test_no_address_is_not_the_usual_one(toy):
    with pytest.raises((ValueError, errors.CortexError), match="server address ''"):
        list(cortexclient.load(toy.spec, server_address="").tables)


@pytest.mark.parametrize("one", [[3, 4], [], (3,)])
def test_equal_to_several_is_refused(toy, one):
    # the first of them would have been asked alone
    for ask in (
        lambda: QueriesService(toy).query("synapses_toy", filter_equal_dict={"id": one}),
        lambda: TablesService(toy).synapses_toy(id={"==": one}),
        lambda: TablesService(toy).synapses_toy(size={">": one}),
    ):
        with pytest.raises(errors.InvalidQueryError, match="one value"):
            ask()


def test_two_filters_of_one_kind_on_one_column(toy, files):
    # one of the two would have been lost
    with pytest.raises(errors.InvalidQueryError, match="second of its kind"):
        QueriesService(toy).query("synapses_toy", filter_in_dict={"id": [1]}, id=[2])
    every = files.frozen("synapses_toy", 2)["id"].tolist()
    frame = TablesService(toy.at(version=2)).synapses_toy(id={"!=": 1, "not in": [2, 3]}).query()
    assert frame["id"].tolist() == [number for number in every if number not in (1, 2, 3)]


@pytest.mark.parametrize("server", ["toy", "capped"])
@pytest.mark.parametrize("limit", [2, 49, 60])
def test_a_limit_counts_the_rows_that_are_left_after_exclusions(request, files, server, limit):
    every = files.frozen("synapses_toy", 2)["id"].tolist()
    session = request.getfixturevalue(server).at(version=2)
    frame = TablesService(session).synapses_toy(id={"not in": every[: -limit - 1]}).query(limit=limit)
    assert frame["id"].tolist() == every[-limit - 1 : -1]


@pytest.mark.parametrize("server", ["toy", "capped"])
def test_a_random_sample_is_one_although_servers_give_everything(request, files, server):
    session = request.getfixturevalue(server)
    every = set(files.frozen("synapses_toy", 2)["id"])
    draws = [
        TablesService(session.at(version=2)).synapses_toy().query(random_sample=20)["id"].tolist()
        for _ in range(2)
    ]
    for ids in draws:
        assert len(set(ids)) == 20
        assert set(ids) <= every
        assert ids == sorted(ids)
    assert draws[0] != draws[1]  # by chance the same once in 10^31
    live = TablesService(session.at(timestamp="2026-11-21T00:53:02.9")).synapses_toy()
    assert len(live.query(random_sample=20)) == 20
    whole = TablesService(session.at(version=2)).synapses_toy().query(random_sample=10**6)
    assert set(whole["id"]) == every


MISSING = [None, math.nan, np.float32("nan"), pd.NA, pd.NaT]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_missing_values_cannot_be_asked_for(toy, value):
    tables = TablesService(toy)
    for filters in ({"size": [4000, value]}, {"size": {">": value}}):
        with pytest.raises(errors.InvalidQueryError, match="missing value"):
            tables.synapses_toy(**filters)
    with pytest.raises((TypeError, errors.InvalidQueryError)):
        tables.synapses_toy(id=[1, value])


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_missing_values_can_be_excluded(toy, files, value):
    views = ViewsService(toy.at(version=2))
    stored = pd.read_parquet(files.folder / "tables" / "nucleus_celltype_view.v2.parquet").sort_values("id")
    assert stored["cell_type"].isna().any()
    frame = views.nucleus_celltype_view(cell_type={"not in": [value, "BC"]}).query()
    keep = stored["cell_type"].notna() & (stored["cell_type"] != "BC")
    assert frame["id"].tolist() == stored["id"][keep].tolist()


@pytest.mark.parametrize("value", [b"BC", math.inf, [["BC"]], {"a": 1}], ids=repr)
def test_values_that_are_none(toy, value):
    with pytest.raises(errors.InvalidQueryError, match=r"cannot be compared|operators"):
        TablesService(toy).tags_toy(tag=value if isinstance(value, dict | list) else [value])


def test_an_exclusion_of_another_type_says_so(toy):
    with pytest.raises(errors.InvalidQueryError, match="cannot be excluded"):
        TablesService(toy).synapses_toy(size={"!=": "large"}).query()


@pytest.mark.parametrize("bound", [float(2**60), np.float64(3), True, "3.5"])
@pytest.mark.parametrize("operator", [">", "<=", "==", "in", "!="])
def test_an_id_is_never_a_float_whatever_the_comparison(toy, bound, operator):
    with pytest.raises(TypeError, match=r"float|not an id"):
        TablesService(toy).synapses_toy(pre_pt_root_id={operator: bound})


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, str(2**64), np.uint64(2**63)], ids=repr)
def test_numbers_beyond_64_bits_are_no_ids(value):
    for given in ([1, value], np.array([1, int(value)], dtype=object)):
        with pytest.raises(ValueError, match="does not fit an id of 64 bits"):
            as_ids(given)
    with pytest.raises(ValueError, match="64 bits"):
        as_id(value)


@pytest.mark.parametrize("way", [list, np.array, pd.Series, pa.array])
def test_truth_values_are_no_ids(way):
    with pytest.raises(TypeError, match="not an id"):
        as_ids(way([True, False]))


@pytest.mark.parametrize("value", [b"12", "²", "1_0", "", "-", "864691135336055529.0"], ids=repr)
def test_text_that_is_no_id(value):
    for given in (value, [value]):
        with pytest.raises(TypeError, match="not an id"):
            as_ids(given)


@pytest.mark.parametrize(
    "box",
    [
        [[0, 0, 0], [math.nan] * 3],
        [[-math.inf] * 3, [math.inf] * 3],
        [[5, 5, 5], [5, 6, 6]],
        [[0, 0], [1, 1]],
        "abc",
        7,
    ],
    ids=repr,
)
def test_a_box_that_is_none(toy, box):
    with pytest.raises(errors.InvalidQueryError, match="in nm"):
        TablesService(toy).nucleus_toy(pt_position_bbox=box)


@pytest.mark.parametrize("name", ["limit", "offset", "random_sample"])
@pytest.mark.parametrize("value", [-1, 2.0, 2.5, "2", True, math.nan], ids=repr)
def test_a_number_of_rows_that_is_none(toy, name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        TablesService(toy).synapses_toy().query(**{name: value})


@pytest.mark.parametrize(
    "value",
    [[1, 1], [0, 1, 1], [-1, 1, 1], [math.nan] * 3, [math.inf, 1, 1], 4, "abc", [], ["x", 1, 1]],
    ids=repr,
)
def test_a_resolution_that_is_none(toy, files, value):
    with pytest.raises(ValueError, match="three sizes in nm"):
        TablesService(toy).nucleus_toy().query(desired_resolution=value)
    with pytest.raises(ValueError, match="three sizes in nm"):
        SynapsesService(toy).query_synapses(1, pre=True, resolution=value, progress=False)


def test_a_resolution_may_be_an_array(toy):
    query = TablesService(toy).nucleus_toy()
    listed = query.query(desired_resolution=[8, 8, 40], split_positions=True)
    for value in (np.array([8, 8, 40]), (np.float32(8), np.int64(8), 40)):
        pd.testing.assert_frame_equal(query.query(desired_resolution=value, split_positions=True), listed)


def test_columns_to_select(toy):
    query = TablesService(toy).synapses_toy(id=[1, 2])
    assert list(query.query(select_columns="size").columns) == ["size"]
    assert list(query.query(select_columns=("id", "size")).columns) == ["id", "size"]
    with pytest.raises(errors.InvalidQueryError, match="no columns"):
        query.query(select_columns=[])
    with pytest.raises(errors.InvalidQueryError, match="select 'ctr_pt_position'"):
        query.query(select_columns=["ctr_pt_position_x"])


def test_a_count_comes_as_the_frame_that_is_asked_for(toy):
    answer = TablesService(toy).synapses_toy().query(get_counts=True, return_as="arrow")
    assert isinstance(answer, pa.Table)
    assert answer.to_pydict() == {"count": [303]}


def test_choices_are_checked(toy):
    with pytest.raises(ValueError, match="return_as must be one of 'pandas', 'arrow', 'polars'"):
        TablesService(toy).synapses_toy().query(return_as="numpy")
    ask = SynapsesService(toy).query_synapses
    with pytest.raises(ValueError, match="duplicates must be one of"):
        ask(1, pre=True, duplicates="frist", progress=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ask(1, pre=True, batch_size=0, progress=False)
    with pytest.raises(ValueError, match="ref_batch_size must be at least 1"):
        ask(1, pre=True, reference_tables="tags_toy", ref_batch_size=0, progress=False)


def test_a_package_that_is_not_there_is_told_before_anything_is_asked(toy_server, toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    before = len(toy_server.requests)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "cortexclient\[polars\]"'):
        SynapsesService(toy).query_synapses(1, pre=True, return_as="polars", progress=False)
    with pytest.raises(errors.MissingExtraError, match="polars"):
        TablesService(toy).synapses_toy().query(return_as="polars")
    asked = [entry.path for entry in list(toy_server.requests)[before:] if entry.path.endswith("/query")]
    assert asked == []


def test_a_name_that_is_no_text(toy):
    with pytest.raises(errors.UnknownTableError, match="no table '5'"):
        TablesService(toy)[5]


@pytest.mark.parametrize("way", [str, np.int16, pa.scalar])
def test_a_version_is_one_number_however_it_is_held(tiny, tmp_path, way):
    client = tiny.load(store=tmp_path)
    client.store.pull("cell_types", progress=False)
    version = client.version
    assert client.version_timestamp(way(version)) == client.version_timestamp()
    assert client.exports.find("nucleus_alternative_points", way(version)).version == version
    assert client.store.scan("cell_types", version=way(version)).count_rows() > 0
    assert client.diff("cell_types", way(version), version).empty
    assert cortexclient.load(f"minnie_public@{version}", version=way(version)).version == version


@pytest.mark.parametrize("wrong", [3.0, True, [3], "v3"])
def test_what_is_no_version_is_refused_as_such(tiny, wrong):
    client = tiny.load()
    for ask in (
        client.version_timestamp,
        lambda version: client.exports.find("nucleus_alternative_points", version),
        lambda version: client.store.scan("cell_types", version=version),
        lambda version: client.diff("cell_types", version, 3),
        lambda version: client.at(version=version),
    ):
        with pytest.raises(TypeError, match="version must be a materialization number such as 1300, not"):
            ask(wrong)


def test_a_moment_among_the_filters_is_said_to_go_elsewhere(toy):
    with pytest.raises(errors.InvalidQueryError, match=r"ask client\.at\(version=\.\.\.\)"):
        TablesService(toy).synapses_toy(version=3).query()


@pytest.mark.parametrize(
    "points",
    [
        "x",
        [["a", "b", "c"]],
        {1, 2, 3},
        pd.Series([[1, 2]]),
        pd.Series(["x"]),
        pd.Series([None, [[1, 2, 3]]]),
    ],
)
def test_what_is_no_point_is_refused_as_such(tiny, points):
    client = tiny.load()
    for ask in (client.depth, client.root_at, lambda given: client.neuroglancer_url(annotations=given)):
        with pytest.raises(ValueError, match="points are three numbers each, not "):
            ask(points)


def test_points_may_be_columns_x_y_z(tiny):
    client = tiny.load(version=3)
    nuclei = client.tables.nucleus_detection().query()
    points = pd.DataFrame(np.stack(nuclei["pt_position"]), columns=["x", "y", "z"])
    assert client.root_at(points).tolist() == nuclei["pt_root_id"].tolist()
    np.testing.assert_array_equal(client.depth(pa.Table.from_pandas(points)), client.depth(nuclei))
    assert "annotations" in repr(client.neuroglancer_viewer(annotations=points))


@pytest.mark.parametrize("layer", [0, -1, 2.5, True, 99])
def test_what_is_no_layer_is_refused(tiny, layer):
    client = tiny.load(version=3)
    root = int(client.tables.nucleus_detection().query()["pt_root_id"].max())
    for ask in (client.get_roots, client.latest_roots, client.suggest_latest_roots):
        with pytest.raises((TypeError, ValueError), match="stop_layer must be"):
            ask([root], stop_layer=layer)


def test_segment_properties_are_a_table(tiny):
    with pytest.raises(
        TypeError, match="seg_prop is a table of one row per root id, or their JSON, not list"
    ):
        tiny.load().neuroglancer_url(seg_prop=[1])


def test_an_option_that_load_does_not_have_is_refused_by_its_name():
    with pytest.raises(TypeError, match="no option 'verison' of a client: did you mean version"):
        cortexclient.load("minnie_public", verison=3)
    with pytest.raises(TypeError, match="no option 'foo'"):
        cortexclient.load("minnie_public", foo=1)
