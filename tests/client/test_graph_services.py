"""Roots, level-2 ids and the datastack's own record, against the recorded datastack's files."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from cortexclient import errors
from cortexclient.sandbox import Fault
from cortexclient.services.datastack import DatastackService
from cortexclient.services.level2 import ATTRIBUTES, Level2Service
from cortexclient.services.roots import RootsService
from cortexclient.services.tables import TablesService


def test_roots_at_every_moment(toy, files):
    service = RootsService(toy)
    supervoxels = [*files.frozen("nucleus_toy", 2)["pt_supervoxel_id"].tolist(), 0]
    for when in ("2026-11-21T00:52:50", "2026-11-21T00:53:02.9", "2026-11-21T02:00:00"):
        at = pd.Timestamp(when, tz="UTC")
        expected = [files.root_of(sv, at) for sv in supervoxels]
        assert service.get_roots(supervoxels, timestamp=when).tolist() == expected
        assert RootsService(toy.at(timestamp=when)).get_roots(supervoxels).tolist() == expected
    assert service.get_roots([]).dtype == np.int64
    assert service.get_roots(supervoxels[0], stop_layer=2).shape == (1,)


def test_which_roots_are_current(toy, files):
    service = RootsService(toy)
    roots = files.roots["node_id"].tolist()
    for when in ("2026-11-21T00:52:50", "2026-11-21T00:53:02.9", "2026-11-21T02:00:00"):
        current = files.current_roots(pd.Timestamp(when, tz="UTC"))
        assert service.is_latest_roots(roots, timestamp=when).tolist() == [root in current for root in roots]
    assert service.is_latest_roots([5]).tolist() == [False]


def test_until_when_roots_were_valid(toy, toy_server, files):
    service = RootsService(toy)
    roots = files.roots["node_id"].tolist()
    times = service.latest_valid_timestamp([*roots, roots[0]])
    assert times[0] == times[-1]
    for time, created, ended in zip(times, files.roots["created"], files.roots["superseded"], strict=False):
        assert time.tzinfo is UTC
        assert created <= time
        if pd.isna(ended):
            assert (datetime.now(UTC) - time).total_seconds() < 60
        else:
            assert time < ended or created == ended
            assert (ended - time).total_seconds() <= 0.002
    pinned = RootsService(toy.at(version=1))
    v1 = files.versions[1]
    for root, time in zip(roots, pinned.latest_valid_timestamp(roots), strict=True):
        assert (time == v1) == (root in files.current_roots(v1))
    retired = files.roots.loc[files.roots["superseded"].notna(), "node_id"].tolist()[:1]
    for after in (0, 1):  # a service that fails once, for one of the two times of a root
        toy_server.inject(Fault("500", route="/root_timestamps", count=1, after=after))
        with pytest.raises(errors.ServiceError, match="only one of the two times"):
            service.latest_valid_timestamp(retired)
    assert service.latest_valid_timestamp(retired)[0] < datetime.now(UTC)
    future = RootsService(toy.at(timestamp="2099-01-01T00:00:00"))
    for root, time in zip(roots, future.latest_valid_timestamp(roots), strict=True):
        assert (time.year == 2099) == (root in files.current_roots())
    with pytest.raises(errors.StaleRootError, match="5 is not a root id"):
        service.latest_valid_timestamp([5])
    before = len(toy_server.requests)
    with pytest.raises(errors.StaleRootError, match=r"^5 is not a root id"):
        service.latest_valid_timestamp([5] * 100)
    assert len(toy_server.requests) - before < 10  # of halving, down to the unknown id


def successors(files, root, at):
    lineage = pd.read_parquet(files.folder / "chunkedgraph" / "lineage.parquet")
    seen, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        for child in lineage[lineage["parent_root"] == node]["child_root"]:
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return sorted(seen & set(files.current_roots(at)))


def test_what_became_of_every_root(toy, files):
    service = RootsService(toy)
    now = pd.Timestamp.now(tz="UTC")
    roots = files.roots["node_id"].tolist()
    frame = service.latest_roots([*roots, 5, roots[0]])
    assert frame.index.tolist() == [*roots, 5, roots[0]]
    for root in roots:
        expected = successors(files, root, now)
        assert service.get_latest_roots(root).tolist() == expected
        row = frame.loc[[root]].iloc[0]
        assert row["latest_root_id"] in expected
        assert row["is_latest"] == (root in files.current_roots(now))
        assert 0 < row["overlap"] <= 1
    assert frame.loc[5, "latest_root_id"] == -1
    assert service.suggest_latest_roots(roots) == [
        frame.loc[[root], "latest_root_id"].iloc[0] for root in roots
    ]
    assert service.suggest_latest_roots(roots[0]) == frame["latest_root_id"].iloc[0]
    # of level-2 ids the share can be told from which of them the suggestion still has
    level2 = Level2Service(toy)
    frame = service.latest_roots(roots, stop_layer=2)
    shares = {}
    for root in roots:
        pieces = set(level2.get_l2_ids(root))
        current = files.current_roots(now)
        kept = {other: len(pieces & set(level2.get_l2_ids(other))) / len(pieces) for other in current}
        shares[root] = max(kept.values())
        assert kept[frame.loc[root, "latest_root_id"]] == shares[root]
    assert frame["overlap"].to_dict() == pytest.approx(shares)
    assert 0 < min(shares.values()) < 1
    # an edit replaces all pieces of the upper layers: the smaller ones still tell
    for layer in (3, 4, 5):
        found = service.latest_roots(roots, stop_layer=layer)
        assert set(found["latest_root_id"]) <= set(files.current_roots(now))
        # before a root was made, its larger pieces were not there either
        found = service.latest_roots(roots, timestamp=files.versions[1], stop_layer=layer)
        assert set(found["latest_root_id"]) <= set(files.current_roots(files.versions[1]))
    every, shares = service.suggest_latest_roots(roots[0], return_all=True, return_fraction_overlap=True)
    assert len(every) == len(shares)
    assert service.latest_roots([]).dtypes.to_dict() == frame.dtypes.to_dict()


def test_a_stale_root_in_a_live_query_names_its_successors(toy, files):
    gone = min(set(files.roots["node_id"]) - set(files.current_roots()))
    with pytest.raises(
        errors.StaleRootError, match=str(successors(files, gone, pd.Timestamp.now(tz="UTC"))[0])
    ):
        TablesService(toy).nucleus_toy(pt_root_id=[gone]).query(timestamp="2026-11-21T02:00:00")
    with pytest.raises(errors.StaleRootError, match="5 -> nothing"):  # the id of a cell, say
        TablesService(toy).nucleus_toy(pt_root_id=[5]).query(timestamp="2026-11-21T02:00:00")


def test_level_2_ids(toy, files):
    edges = pd.read_parquet(files.folder / "chunkedgraph" / "l2_edges.parquet")
    service = Level2Service(toy)
    for root in files.current_roots():
        mine = edges[edges["root_id"] == root]
        expected = sorted(set(mine["l2_id_1"]) | set(mine["l2_id_2"]))
        found = service.get_l2_ids(root)
        assert found == sorted(found)
        assert set(expected) <= set(found)
    with pytest.raises(errors.MissingDataError, match="root id"):
        service.get_l2_ids(5)
    with pytest.raises(ValueError, match="shape"):
        service.get_l2_ids(root, bounds=[[0, 1]])
    for low, high in ((1, 0), (0, np.inf), (0, 1e30)):
        with pytest.raises(ValueError, match="begin before"):
            service.get_l2_ids(root, bounds=[[low, high], [0, 1], [0, 1]])
    # chunks are 64 x 64 x 32 voxels of 8 x 8 x 40 nm; the box lies in the first two along x
    nodes = pd.read_parquet(files.folder / "chunkedgraph" / "nodes.parquet").set_index("node_id")
    for root in files.current_roots():
        ids = service.get_l2_ids(root)
        inside = nodes.loc[ids].query("chunk_x < 2 and chunk_y == 0 and chunk_z == 0").index
        some = service.get_l2_ids(root, bounds=[[0, 1000], [0, 500], [0, 1000]])
        assert some == sorted(inside)
        # the first voxel of a chunk is touched from inside of it, and not from its edge
        for high, chunks in ((1024, 2), (1025, 3)):
            inside = nodes.loc[ids].query(f"chunk_x < {chunks} and chunk_y == 0 and chunk_z == 0").index
            assert service.get_l2_ids(root, bounds=[[0, high], [0, 500], [0, 1000]]) == sorted(inside)
        # a box that begins within a chunk touches this chunk, also in its last voxel and in a part of that
        for low, first in ((500, 0), (511.5, 0), (512, 1), (1023.9, 1)):
            inside = nodes.loc[ids].query(f"{first} <= chunk_x < 3 and chunk_y == 0 and chunk_z == 0").index
            assert service.get_l2_ids(root, bounds=[[low, 1500], [500, 511], [1200, 1279]]) == sorted(inside)


def test_a_box_in_voxels_is_noticed(sandbox_client):
    root = int(sandbox_client.tables.nucleus_detection().query()["pt_root_id"].max())
    points = sandbox_client.get_l2data(sandbox_client.get_l2_ids(root), ["rep_coord_nm"]).to_numpy()
    middle = np.median(points, axis=0)
    info = sandbox_client.session.segmentation_info()
    voxels = (
        np.column_stack([(middle - 5000), (middle + 5000)]) / np.array([info["scales"][0]["resolution"]]).T
    )
    expected = sandbox_client.get_l2_ids(root, bounds=np.column_stack([middle - 5000, middle + 5000]))
    assert expected
    with pytest.raises(ValueError, match="bounds_unit='vx'"):
        sandbox_client.get_l2_ids(root, bounds=voxels)
    found = sandbox_client.get_l2_ids(root, bounds=voxels.round(), bounds_unit="vx")
    assert len(set(found) ^ set(expected)) <= 0.1 * len(expected)
    assert sandbox_client.get_l2_ids(root, bounds=voxels, bounds_unit="nm") == []
    # a box inside of the volume is what it says, whatever else it could mean
    assert (
        sandbox_client.get_l2_ids(
            root, bounds=np.column_stack([points.max(0) + 50_000, points.max(0) + 50_100])
        )
        == []
    )
    with pytest.raises(ValueError, match="bounds_unit must be"):
        sandbox_client.get_l2_ids(root, bounds=voxels, bounds_unit="um")


def test_level_2_attributes(toy, files):
    service = Level2Service(toy)
    cache = files.l2cache.set_index("l2_id")
    asked = [*cache.index[::-7].tolist(), cache.index[0], cache.index[0]]
    frame = service.get_l2data(asked)
    assert frame.index.tolist() == asked
    assert set(frame.dtypes) == {np.dtype("float64")}
    for l2_id, row in frame.iterrows():
        stored = cache.loc[l2_id]
        if not stored["in_cache"]:
            assert row.isna().all()
            continue
        assert row["size_nm3"] == stored["size_nm3"]
        position = np.array(stored["rep_coord_nm"], dtype=float)
        assert row[["rep_coord_nm_x", "rep_coord_nm_y", "rep_coord_nm_z"]].tolist() == position.tolist()
    assert list(service.get_l2data(asked, ["pca_val"]).columns) == list(ATTRIBUTES["pca_val"])
    whole = service.get_l2data(asked[:2], ["pca"], split_columns=False)
    assert whole["pca"].iloc[0].shape == (3, 3)
    plain = service.get_l2data(asked[:2], ["size_nm3"], as_dataframe=False)
    assert set(plain) == {str(l2_id) for l2_id in asked[:2]}
    pd.testing.assert_frame_equal(service.get_l2data(asked, "size_nm3"), frame[["size_nm3"]])
    assert service.get_l2data(asked, []).index.tolist() == asked
    assert service.get_l2data(asked[:2], [], as_dataframe=False) == {str(l2_id): {} for l2_id in asked[:2]}
    assert service.get_l2data([]).dtypes.to_dict() == frame.dtypes.to_dict()
    with pytest.raises(errors.InvalidQueryError, match="size_nm3"):
        service.get_l2data(asked, ["volume"])


def test_the_datastacks_record(toy, toy_server, files):
    service = DatastackService(toy)
    record = json.loads((files.folder / "datastack_info.json").read_text())
    assert service.get_datastack_info()["description"] == record["description"]
    assert service.viewer_resolution().tolist() == [4.0, 4.0, 40.0]
    assert service.segmentation_source().startswith("graphene://")
    assert toy_server.url in service.segmentation_source(format_for="cloudvolume")
    assert service.image_source()
    assert service.most_recent_materialization_version() == 2
    assert service.version_timestamp(1) == files.versions[1]
    assert list(toy.versions()) == [1, 2]
    state = {"layers": [], "id": "648518346341351536"}
    assert service.get_state_json(service.upload_state_json(state)) == state
    volume = service.segmentation_cloudvolume()
    assert volume is service.segmentation_cloudvolume()


@pytest.mark.parametrize(
    ("route", "body", "call"),
    [
        ("/leaves$", {"leaf_ids": [1.5e17, 2]}, "ids"),
        ("/leaves$", {"leaf_ids": [2**63]}, "ids"),
        ("/leaves$", {"leaf_ids": [-1]}, "ids"),
        ("/leaves$", {"leaf_ids": [True]}, "ids"),
        ("/leaves$", {"leaf_ids": [float("inf"), 5]}, "ids"),
        ("/leaves$", {"leaf_ids": "12"}, "ids"),
        ("/leaves$", {"leaf_ids": [[1], [2, 3]]}, "ids"),
        ("/leaves$", {"leaves": []}, "ids"),
        ("/attributes$", {"144257850313539585": {"size_nm3": "big"}}, "data"),
        ("/attributes$", {"144257850313539585": {"rep_coord_nm": [1, 2]}}, "data"),
        ("/attributes$", {"144257850313539585": {"rep_coord_nm": 5}}, "data"),
        ("/attributes$", {"144257850313539585": [1]}, "data"),
        ("/attributes$", [], "data"),
        ("/lvl2_graph$", {"edge_graph": [[1, 2, 3]]}, "graph"),
        ("/lvl2_graph$", {"edge_graph": [[1.0, 2.5]]}, "graph"),
        ("/lvl2_graph$", {}, "graph"),
        ("/root_timestamps$", {"timestamp": 5}, "times"),
        ("/root_timestamps$", {"timestamp": [None]}, "times"),
        ("/root_timestamps$", {"timestamp": ["1.5"]}, "times"),
        ("/root_timestamps$", {"timestamp": [float("inf")]}, "times"),
        ("/is_latest_roots$", {"is_latest": 5}, "latest"),
        ("/is_latest_roots$", {"is_latest": [5]}, "latest"),
        ("/is_latest_roots$", {"is_latest": []}, "latest"),
        ("/is_latest_roots$", [], "latest"),
        ("/roots_binary$", b"12345678" * 2, "roots"),
        ("/roots_binary$", b"1234567", "roots"),
        ("/roots_binary$", b"\xff" * 8, "roots"),
    ],
)
def test_responses_of_another_shape_are_errors_with_an_address(tiny, relay, tmp_path, route, body, call):
    client = tiny.load(server_address=relay.url, cache=tmp_path)
    root = int(client.tables.nucleus_detection().query()["pt_root_id"].max())
    ask = {
        "ids": lambda: client.get_l2_ids(root),
        "data": lambda: client.get_l2data([144257850313539585]),
        "graph": lambda: client.get_skeleton(root, restore_graph=True, synapses=False).mesh.link_edges,
        "times": lambda: client.latest_valid_timestamp([root]),
        "latest": lambda: client.is_latest_roots([root]),
        "roots": lambda: client.get_roots([72766366989418499]),
    }[call]
    relay.fail(route, lambda _: (200, body if isinstance(body, bytes) else json.dumps(body).encode()))
    with pytest.raises(errors.ProtocolError) as caught:
        ask()
    assert relay.url in str(caught.value.url)
    assert caught.value.status == 200
    relay.faults = []
    assert len(ask()) > 0  # nothing of it was remembered or cached


@pytest.mark.parametrize(
    "change",
    [
        {"graph": 5},
        {"graph": {"chunk_size": [1, 2]}},
        {"graph": {"chunk_size": [0, 2, 2]}},
        {"graph": {"cv_mip": 7}},
        {"graph": {"spatial_bit_masks": {"2": "x"}}},
        {"scales": []},
        {"scales": [{"resolution": [4, 4]}]},
        {"scales": [5]},
        {"mesh": 7},
        {"mesh_metadata": {"max_meshed_layer": "high"}},
    ],
)
def test_a_segmentation_of_other_shapes_is_an_error(tiny, relay, change):
    client = tiny.load(server_address=relay.url)
    root = 1 << 60
    body = {**tiny.load().session.segmentation_info(), **change}
    relay.fail("/segmentation/table/[^/]+/info$", lambda _: (200, json.dumps(body).encode()))
    for ask in (lambda: client.mesh.get_mesh(root), lambda: client.get_l2_ids(root, bounds=[[0, 1]] * 3)):
        with pytest.raises(errors.ProtocolError, match="other shapes") as caught:
            ask()
        assert "/info" in caught.value.url
    relay.faults = []


def test_ids_may_come_as_text(tiny, relay):
    client = tiny.load(server_address=relay.url)
    relay.fail("/leaves$", lambda _: (200, json.dumps({"leaf_ids": ["9007199254740993", "5"]}).encode()))
    assert client.get_l2_ids(1 << 60) == [5, 9007199254740993]
    relay.faults = []
