"""`query_synapses` and `connectivity` against the recorded datastack's files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cortexclient import errors
from cortexclient.sandbox import Sandbox
from cortexclient.services.connections import ConnectionsService, _sum_up
from cortexclient.services.synapses import SynapsesService, _once_each


def expected_synapses(rows: pd.DataFrame, roots, *, pre=True, post=True, omit_self=True) -> pd.DataFrame:
    mine = np.zeros(len(rows), dtype=bool)
    if pre:
        mine |= rows["pre_pt_root_id"].isin(roots).to_numpy()
    if post:
        mine |= rows["post_pt_root_id"].isin(roots).to_numpy()
    if omit_self:
        mine &= (rows["pre_pt_root_id"] != rows["post_pt_root_id"]).to_numpy()
    return rows[mine].sort_values("id")


@pytest.mark.parametrize("server", ["toy", "capped"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("pre", "post", "omit"), [(True, True, True), (True, False, False), (False, True, True)]
)
def test_synapses_of_neurons(request, files, server, version, pre, post, omit):
    session = request.getfixturevalue(server).at(version=version)
    roots = files.current_roots(files.versions[version])[:4]
    frame = SynapsesService(session).query_synapses(
        [*roots, *roots], pre=pre, post=post, omit_self_synapse=omit, progress=False
    )
    expected = expected_synapses(
        files.frozen("synapses_toy", version), roots, pre=pre, post=post, omit_self=omit
    )
    assert len(expected) > 20
    assert frame["id"].tolist() == expected["id"].tolist()
    for name in ("pre_pt_root_id", "post_pt_root_id", "pre_pt_supervoxel_id"):
        assert frame[name].dtype == np.int64
        assert frame[name].tolist() == expected[name].tolist()
    assert frame["ctr_pt_position_z"].tolist() == (expected["ctr_pt_position_z"] * 40).tolist()


def test_synapses_in_voxels_say_so(toy_session, files):
    roots = files.current_roots(files.versions[2])[:4]
    expected = expected_synapses(files.frozen("synapses_toy", 2), roots, post=False)
    for spec, unit in (({}, [4, 4, 40]), ({"synapses": {"voxel_resolution": [8, 8, 50]}}, [8, 8, 50])):
        service = SynapsesService(toy_session(spec=spec, version=2))
        frame = service.query_synapses(roots, pre=True, resolution=None, progress=False)
        assert frame["ctr_pt_position_z"].tolist() == expected["ctr_pt_position_z"].tolist()
        assert frame.attrs["dataframe_resolution"] == frame.attrs["table_voxel_resolution"] == unit


@pytest.mark.slow
@pytest.mark.parametrize("server", ["toy", "capped"])
def test_at_any_time(request, files, server):
    when = pd.Timestamp("2026-11-21T00:53:02.9", tz="UTC")
    roots = files.current_roots(when)
    expected = expected_synapses(files.live("synapses_toy", when), roots)
    service = SynapsesService(request.getfixturevalue(server))
    # a timestamp alone asks at that time: it is not ignored for want of live=True
    for live in (False, True):
        frame = service.query_synapses(roots, pre=True, post=True, live=live, timestamp=when, progress=False)
        assert frame["id"].tolist() == expected["id"].tolist()
        assert frame["post_pt_root_id"].tolist() == expected["post_pt_root_id"].tolist()
    pinned = SynapsesService(request.getfixturevalue(server).at(timestamp=when))
    assert (
        pinned.query_synapses(roots, pre=True, post=True, progress=False)["id"].tolist()
        == expected["id"].tolist()
    )


def test_live_means_now_on_a_floating_client(toy, files):
    now = pd.Timestamp.now(tz="UTC")
    roots = files.current_roots(now)
    frame = SynapsesService(toy).query_synapses(roots, pre=True, live=True, progress=False)
    assert (
        frame["id"].tolist()
        == expected_synapses(files.live("synapses_toy", now), roots, post=False)["id"].tolist()
    )
    assert 304 in frame["id"].tolist() or 304 not in files.live("synapses_toy", now)["id"].tolist()


@pytest.mark.parametrize("server", ["toy", "capped"])
def test_no_neurons_give_an_empty_frame_of_the_same_shape(request, files, server):
    service = SynapsesService(request.getfixturevalue(server).at(version=2))
    roots = files.current_roots(files.versions[2])
    options = {"pre": True, "post": True, "reference_tables": ["tags_toy"], "progress": False}
    many = service.query_synapses(roots, **options)
    for none in (service.query_synapses([], **options), service.query_synapses([1], **options)):
        assert len(none) == 0
        assert none.dtypes.to_dict() == many.dtypes.to_dict()
    one = service.query_synapses(roots[:1], **options)
    assert one.dtypes.to_dict() == many.dtypes.to_dict()


def test_neither_side_is_a_mistake(toy):
    with pytest.raises(ValueError, match="pre=True"):
        SynapsesService(toy).query_synapses([1])


def test_a_mistake_is_told_before_anything_is_asked(toy_server, toy, files):
    roots = files.current_roots()[:1]
    service = SynapsesService(toy)
    before = len(toy_server.requests)
    for ask in (service.query_synapses, ConnectionsService(toy).connectivity):
        with pytest.raises(ValueError, match="return_as must be one of"):
            ask(roots, pre=True, return_as="a frame")
    assert len(toy_server.requests) == before


def test_a_neuron_that_did_not_exist_is_told_from_a_silent_one(toy, files, caplog):
    v1, v2 = files.versions[1], files.versions[2]
    gone = sorted(set(files.current_roots(v1)) - set(files.current_roots(v2)))
    assert gone
    frame = SynapsesService(toy.at(version=2)).query_synapses(gone, pre=True, post=True, progress=False)
    assert len(frame) == 0
    assert frame.attrs["stale_root_ids"] == gone
    assert "not valid" in caplog.text
    # what counts is the moment asked about, not today
    new = sorted(set(files.current_roots(v2)) - set(files.current_roots(v1)))
    frame = SynapsesService(toy.at(version=1)).query_synapses(new, pre=True, post=True, progress=False)
    assert frame.attrs["stale_root_ids"] == new


def test_a_reference_table_of_something_else_is_refused(toy, files):
    with pytest.raises(ValueError, match="refers to 'nucleus_toy'"):
        SynapsesService(toy).query_synapses(files.current_roots(), pre=True, reference_tables="celltype_toy")
    with pytest.raises(errors.UnknownTableError):
        SynapsesService(toy).query_synapses(files.current_roots(), pre=True, reference_tables=["tag_toy"])


@pytest.mark.parametrize("server", ["toy", "capped"])
@pytest.mark.parametrize("version", [1, 2])
def test_connectivity(request, files, server, version):
    session = request.getfixturevalue(server).at(version=version)
    roots = files.current_roots(files.versions[version])[:3]
    rows = expected_synapses(files.frozen("synapses_toy", version), roots)
    expected = rows.groupby(["pre_pt_root_id", "post_pt_root_id"])["size"].agg(["size", "sum"]).reset_index()
    frame = ConnectionsService(session).connectivity(roots)
    assert frame[["pre_pt_root_id", "post_pt_root_id"]].to_numpy().tolist() == (
        expected[["pre_pt_root_id", "post_pt_root_id"]].to_numpy().tolist()
    )
    assert frame["n_syn"].tolist() == expected["size"].tolist()
    assert np.allclose(frame["sum_size"], expected["sum"], rtol=1e-5)
    within = ConnectionsService(session).connectivity(roots, within=True)
    assert set(within["post_pt_root_id"]) <= set(roots)
    assert (
        within["n_syn"].sum()
        == rows["pre_pt_root_id"].isin(roots).mul(rows["post_pt_root_id"].isin(roots)).sum()
    )
    none = ConnectionsService(session).connectivity([])
    assert none.dtypes.to_dict() == frame.dtypes.to_dict()
    assert len(none) == 0


def test_a_table_of_connections_says_the_same_as_the_synapses(tiny):
    client = tiny.load()
    assert client.spec.table_for("edges").name == "connections_with_nuclei"
    rows = pd.read_parquet(tiny.folder.path / "tables" / f"synapses.v{client.version}.parquet")
    roots = rows["pre_pt_root_id"].value_counts().index[:4].tolist()
    before = len(tiny.requests)
    read = client.connectivity(roots)
    assert [entry for entry in list(tiny.requests)[before:] if "connections_with_nuclei" in entry.path]
    pd.testing.assert_frame_equal(
        read, client.connectivity(roots, synapse_table=client.session.synapse_table)
    )
    assert len(read) > 10


def test_a_synapse_of_unknown_sides_hides_no_synapse_of_a_neuron_onto_itself():
    rows = pa.table(
        {
            "id": pa.array([4, 2, 3, 1]),
            "pre_pt_root_id": pa.array([10, 10, 10, None], pa.int64()),
            "post_pt_root_id": pa.array([11, 10, None, 10], pa.int64()),
        }
    )
    kept = _once_each(rows, omit_self=True)
    assert rows.column("id").take(kept).to_pylist() == [1, 3, 4]


def test_no_sizes_are_not_sizes_of_zero():
    rows = pd.DataFrame({"id": [1, 2, 3], "pre_pt_root_id": [7, 7, 8], "post_pt_root_id": [8, 8, 7]})
    for sizes in ({}, {"size": pd.array([pd.NA] * 3, dtype="Int64")}):
        edges = _sum_up([rows.assign(**sizes)], counted=False, size="size")
        assert edges["n_syn"].tolist() == [2, 1]
        assert edges["sum_size"].isna().all()
    some = _sum_up([rows.assign(size=pd.array([5, pd.NA, 6], dtype="Int64"))], counted=False, size="size")
    assert some["sum_size"].tolist() == [5.0, 6.0]


def test_a_graph_that_is_down_takes_no_synapses_along(toy_folder, files, session_at, caplog):
    roots = files.current_roots(files.versions[2])
    with Sandbox(data=toy_folder) as sandbox:
        service = SynapsesService(session_at(sandbox, version=2, retries=0))
        whole = service.query_synapses([*roots, 5], pre=True, progress=False)
        assert whole.attrs["stale_root_ids"] == [5]
        sandbox.inject("503", route="is_latest_roots", count=None)
        frame = service.query_synapses([*roots, 5], pre=True, progress=False)
    pd.testing.assert_frame_equal(frame, whole)
    assert frame.attrs["stale_root_ids"] is None
    assert "cannot find out which of 1 neurons" in caplog.text
