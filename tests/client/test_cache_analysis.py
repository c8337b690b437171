"""An analysis that ran once runs again: without asking for data, and without a network at all, byte for byte."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import cortexclient
from cortexclient import errors
from cortexclient.sandbox import Sandbox
from cortexclient.services.roots import fetch_lineage
from cortexclient.services.skeletons import SkeletonsService
from cortexclient.session import EPOCH, CacheEntry, Endpoint, Session, is_latest, lifetimes
from cortexclient.session.transport import RetryAdapter

TOKEN = "c0ffee00c0ffee00c0ffee00c0ffee00"
RECORDS = (
    "/info/",
    "/tables/metadata",
    "/metadata",
    "/views",
    "/schemas",
    "/version",
    "/versions",
    "/schema/",
    "/info",
)
"""Ends and beginnings of paths at which servers tell about themselves; everything else is data."""


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "kept"


def roots_of(client) -> list[int]:
    cells = client.tables.nucleus_detection().query()["id"].head(6).tolist()
    found = client.cell_id_to_root_id(cells)
    return [int(root) for root in found["root_id"].tolist() if root > 0][:2]


def skeletons(client, roots, **options):
    return SkeletonsService(client.session).get_skeletons(roots, progress=False, **options)


def analysis(client) -> dict[str, object]:
    """A bit of everything that can be done at a version."""
    roots = roots_of(client)
    cells = client.tables.nucleus_detection().query()["id"].head(3).tolist()
    level2 = client.get_l2_ids(roots[0])
    neuron = client.get_skeleton(roots[0], restore_graph=True)
    return {
        "cells": client.cell_id_to_root_id([1, *cells]),
        "back": client.root_id_to_cell_id(roots),
        "synapses": client.query_synapses(roots, pre=True, post=True, progress=False),
        "level2": level2,
        "attributes": client.get_l2data(level2),
        "until": client.latest_valid_timestamp(roots),
        "latest": client.latest_roots(roots),
        "vertices": np.asarray(neuron.skeleton.vertices),
        "on it": neuron.anno.pre_syn.df,
        "many": [neuron.skeleton.path_length() for _, neuron in skeletons(client, roots)],
        "mesh": client.mesh.get_mesh(roots[0]).vertices,
        "labels": client.mesh.compute_vertex_to_l2_mapping(roots[0]),
        "views": sorted(client.views),
        "link": client.neuroglancer_url(),
    }


def same(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, other[name], check_exact=True)
            assert value.attrs == other[name].attrs
        else:
            np.testing.assert_array_equal(np.asarray(value), np.asarray(other[name]), err_msg=name)


def data_requests(server, before: int) -> list[str]:
    return [
        f"{record.method} {record.path}"
        for record in server.requests[before:]
        if not (
            record.path.startswith(RECORDS[0])
            or record.path.endswith(RECORDS[1:])
            or "/schema/" in record.path
        )
    ]


def kept_bytes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in (folder / "answers").glob("??/*")]


@pytest.mark.slow
def test_a_second_run_asks_for_no_data_and_an_offline_one_for_nothing(tiny, folder):
    first = analysis(tiny.load(version=3))
    same(first, analysis(tiny.load(version=3, cache=folder)))
    before = len(tiny.requests)
    second = analysis(tiny.load(version=3, cache=folder))
    assert data_requests(tiny, before) == []
    same(first, second)
    before = len(tiny.requests)
    again = analysis(tiny.load(version=3, cache=folder, offline=True))
    assert len(tiny.requests) == before
    same(first, again)


@pytest.mark.slow
def test_a_snapshot_is_the_whole_analysis(tiny, folder, tmp_path):
    client = tiny.load(version=3, cache=folder)
    first = analysis(client)
    file = client.save_snapshot(tmp_path / "figure.zip")
    assert file.stat().st_mode & 0o777 == 0o600
    before = len(tiny.requests)
    loaded = cortexclient.load(file)
    same(first, analysis(loaded))
    assert loaded.version == 3
    again = pickle.loads(pickle.dumps(cortexclient.load(str(file))))
    pd.testing.assert_frame_equal(again.cell_id_to_root_id(first["cells"].index), first["cells"])
    assert len(tiny.requests) == before
    with pytest.raises(errors.OfflineError, match=r"snapshot .* does not hold leaves of 12345"):
        loaded.get_l2_ids(12345)


def test_a_snapshot_is_saved_after_a_second_run_too(tiny, folder, tmp_path):
    first = tiny.load(version=3, cache=folder).tables.nucleus_detection().query()
    client = tiny.load(version=3, cache=folder)
    client.tables.nucleus_detection().query()
    loaded = cortexclient.load(client.save_snapshot(tmp_path / "again.zip"))
    pd.testing.assert_frame_equal(loaded.tables.nucleus_detection().query(), first)


def test_snapshots_say_what_is_wrong(tiny, folder, tmp_path):
    with pytest.raises(ValueError, match="cache=True"):
        tiny.load(version=3).save_snapshot(tmp_path / "none.zip")
    client = tiny.load(version=3, cache=folder)
    client.tables.nucleus_detection().query()
    with pytest.raises(ValueError, match=r"ends in \.zip"):
        client.save_snapshot(tmp_path / "figure")
    file = client.save_snapshot(tmp_path / "figure.zip")
    with pytest.raises(ValueError, match="auth_token= has no meaning"):
        cortexclient.load(file, auth_token=TOKEN)
    with pytest.raises(ValueError, match="has no server"):
        cortexclient.load(file, offline=False)
    client.session.connection.cache.store.clear()
    with pytest.raises(errors.IncompleteResultError, match="CORTEXCLIENT_CACHE_GB"):
        client.save_snapshot(tmp_path / "other.zip")
    assert not list(tmp_path.glob("*other*"))


def test_offline_names_what_is_missing(tiny, folder):
    client = tiny.load(version=3, cache=folder)
    client.tables.nucleus_detection(id=[1]).query()
    offline = tiny.load(version=3, cache=folder, offline=True)
    before = len(tiny.requests)
    with pytest.raises(errors.OfflineError, match="rows of nucleus_detection at version 3") as caught:
        offline.tables.nucleus_detection(id=[2]).query()
    assert str(folder) in str(caught.value)
    assert isinstance(caught.value, ConnectionError)
    with pytest.raises(errors.OfflineError, match=r"live query.*client\.at"):
        offline.at().is_latest_roots([1])
    with pytest.raises(errors.OfflineError, match="voxels"):
        offline.segmentation_cloudvolume()
    with pytest.raises(errors.OfflineError, match="voxels"):
        offline.image_cloudvolume(mip=1)
    blind = tiny.load(cache=folder, offline=True, auth_token=TOKEN)
    assert blind.session.token != TOKEN  # a token is not even looked at
    assert len(tiny.requests) == before


def test_offline_starts_no_server(folder):
    from cortexclient.sandbox import shared

    running = set(shared._shared)
    client = cortexclient.load("sandbox", server_address="sandbox://large", cache=folder, offline=True)
    with pytest.raises(errors.OfflineError, match="sandbox://large"):
        client.tables.nucleus_detection().query()
    assert set(shared._shared) == running


def _child(address: str, folder: Path, queue) -> None:
    client = cortexclient.load("sandbox", server_address=address, version=3, cache=folder)
    frame = client.query_synapses(roots_of(client), pre=True, progress=False)
    queue.put(frame.to_json())


@pytest.mark.slow
def test_two_processes_share_a_cache(tiny, folder):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    address = f"sandbox://127.0.0.1:{tiny.port}"
    children = [context.Process(target=_child, args=(address, folder, queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = {queue.get(timeout=45) for _ in children}
    for child in children:
        child.join()
    assert len(found) == 1
    before = len(tiny.requests)
    client = tiny.load(version=3, cache=folder)
    assert client.query_synapses(roots_of(client), pre=True, progress=False).to_json() in found
    assert data_requests(tiny, before) == []


def test_damage_is_asked_again(tiny, folder):
    first = tiny.load(version=3, cache=folder).tables.nucleus_detection().query()
    for number, path in enumerate((folder / "answers").glob("??/*")):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if number % 2 else content[:-1] + b"?")
    before = len(tiny.requests)
    again = tiny.load(version=3, cache=folder).tables.nucleus_detection().query()
    pd.testing.assert_frame_equal(first, again)
    assert len(data_requests(tiny, before)) == 1
    offline = tiny.load(version=3, cache=folder, offline=True).tables.nucleus_detection().query()
    pd.testing.assert_frame_equal(first, offline)


def test_live_answers_and_errors_are_never_kept(tiny, folder):
    client = tiny.load(cache=folder)
    roots = roots_of(client)
    before = set(kept_bytes(folder))
    client.is_latest_roots(roots)
    client.latest_valid_timestamp(roots)
    client.get_roots(client.get_l2_ids(roots[0])[:2])
    with pytest.raises(errors.InvalidQueryError):
        client.tables.nucleus_detection(nope=1).query()
    with pytest.raises(errors.MissingDataError):
        client.get_l2_ids(12345)
    tiny.inject("503", route="/query$", count=1)
    client.tables.nucleus_detection(id=[3]).query()
    heads = [json.loads(content.split(b"\n", 2)[1]) for content in kept_bytes(folder)]
    assert before
    assert {head.get("status", 200) for head in heads} == {200}
    kinds = [head["what"] for head in heads]
    assert not [what for what in kinds if what.startswith(("which roots are valid", "roots of supervoxels"))]
    # when roots were made may be stored, until when they are valid may not
    assert {head["valid"] for head in heads if "lifetimes" in head["what"]} <= {"forever"}


def test_missing_level2_entries_are_requested_again(toy_server, toy_session, tmp_path, files):
    from cortexclient.services.level2 import Level2Service

    there = files.l2cache[files.l2cache["in_cache"]]["l2_id"].tolist()[:3]
    missing = files.l2cache[~files.l2cache["in_cache"]]["l2_id"].tolist()[:2]

    def ask(ids, **options):
        before = len(toy_server.requests)
        session = toy_session(version=2, cache=tmp_path / "kept", **options)
        frame = Level2Service(session).get_l2data(ids, ["size_nm3"])
        paths = [record.path for record in toy_server.requests[before:]]
        return frame, sum(path.endswith("/attributes") for path in paths)

    first, _ = ask([*missing, *there])
    assert first["size_nm3"].isna().sum() == 2
    again, requests = ask([*missing, *there])
    pd.testing.assert_frame_equal(again, first)
    assert requests == 1
    pd.testing.assert_frame_equal(ask([*missing, *there], offline=True)[0], first)
    assert [ask(there)[1] for _ in range(2)] == [1, 0]


DAMAGES = {
    "rows": (r"/query$", lambda client, _: client.tables.nucleus_detection().query()),
    "skeleton": (r"/skeletoncache/.*skeleton", lambda client, root: client.get_skeleton(root, output="swc")),
    "manifest": (r"/meshing/.*manifest", lambda client, root: client.mesh.get_mesh(root).vertices.tolist()),
    "attributes": (r"/attributes$", lambda client, root: client.get_l2data(client.get_l2_ids(root)[:5])),
    "tables": (r"/tables/metadata$", lambda client, _: client.tables.table_names),
}


LISTS = {
    "root_timestamps": lambda session, roots: lifetimes(session, roots).created.tolist(),
    "is_latest_roots": lambda session, roots: is_latest(session, roots, at=session.timestamp).tolist(),
    "lineage_graph_multiple": lambda session, roots: sorted(
        fetch_lineage(session, roots, since=EPOCH, until=session.timestamp).roots
    ),
    "tables/metadata": lambda session, _: session.table_info("nucleus_detection").unit,
}


@pytest.mark.parametrize("path", LISTS)
def test_numbers_that_cannot_be_used_are_requested_again(tiny, folder, monkeypatch, path, tmp_path):
    """A response of the right shape, but with other values or a part missing, does not stay in the cache."""

    def spoiled(value):
        if isinstance(value, dict):
            return {key: spoiled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [spoiled(one) for one in value][: None if path != "tables/metadata" else 1]
        return float("nan") if type(value) in (int, float) and path != "tables/metadata" else value

    def spoil(self, request, policy, **options):
        response = fetch(self, request, policy, **options)
        if path in request.url:
            response._content = json.dumps(spoiled(response.json())).encode()
        return response

    roots = np.array(roots_of(tiny.load(version=3))[:3])
    right = LISTS[path](tiny.load(version=3).session, roots)
    fetch = RetryAdapter.fetch
    monkeypatch.setattr(RetryAdapter, "fetch", spoil)
    client = tiny.load(version=3, cache=folder)
    with contextlib.suppress(errors.CortexError):
        LISTS[path](client.session, roots)
    monkeypatch.setattr(RetryAdapter, "fetch", fetch)
    client.save_snapshot(tmp_path / "analysis.zip")  # it needs no response that could not be used
    for _ in range(2):
        assert LISTS[path](tiny.load(version=3, cache=folder).session, roots) == right


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["truncated", "content-type"])
@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_response_is_not_stored(tiny, what, kind, folder):
    """Whatever one call makes of it: later calls with the same cache find a healthy server's response."""
    route, call = DAMAGES[what]
    plain = tiny.load(version=3)
    root = roots_of(plain)[0]
    right = call(plain, root)
    tiny.inject(kind, route=route, count=1)
    with contextlib.suppress(errors.CortexError):
        call(tiny.load(version=3, cache=folder, retries=0), root)
    tiny.clear_faults()
    for options in ({}, {"offline": True}):
        same({what: right}, {what: call(tiny.load(version=3, cache=folder, **options), root)})


def test_skeletons_asked_together_and_alone_are_the_same(tiny, folder):
    client = tiny.load(version=3, cache=folder)
    roots = roots_of(client)
    client.get_skeleton(roots[0], synapses=False)
    before = len(tiny.requests)
    dict(skeletons(client, roots, output="dict"))
    asked = [record.path for record in tiny.requests[before:] if "skeleton" in record.path]
    assert asked
    before = len(tiny.requests)
    found = dict(skeletons(tiny.load(version=3, cache=folder), roots, output="dict"))
    assert set(found) == set(roots)
    assert not [record for record in tiny.requests[before:] if "/skeletoncache/" in record.path]


def test_no_token_anywhere(tmp_path, folder):
    with Sandbox(size="tiny", auth=True, tokens={TOKEN: ("view", "edit")}) as sandbox:
        client = sandbox.load(version=3, cache=folder)
        analysis(client)
        client.cave.schema.get_schemas()
        file = client.save_snapshot(tmp_path / "figure.zip")
        assert kept_bytes(folder)
        for content in [*kept_bytes(folder), file.read_bytes(), *map(pickle.dumps, (client, client.exports))]:
            assert TOKEN.encode() not in content
        import zipfile

        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                assert TOKEN.encode() not in archive.read(name)


def test_a_version_made_anew_is_another_one(toy_session, toy_server, tmp_path):
    """The same number on a server that was set up again must not give the old rows."""
    from cortexclient.services.tables import TablesService

    session = toy_session(version=2, cache=tmp_path / "kept")
    session.versions()
    TablesService(session).tags_toy().query()
    for path in (tmp_path / "kept" / "answers").glob("??/*"):
        entry = CacheEntry.from_bytes(path.read_bytes())
        if "frozen_at" in entry.head:
            other = CacheEntry({**entry.head, "frozen_at": "1999-01-01T00:00:00+00:00"}, entry.body)
            path.write_bytes(other.to_bytes())
    again = toy_session(version=2, cache=tmp_path / "kept")
    again.versions()
    before = len(toy_server.requests)
    TablesService(again).tags_toy().query()
    assert [record for record in toy_server.requests[before:] if record.path.endswith("/query")]


def test_the_environment_turns_it_on(toy_session, tmp_path, monkeypatch):
    assert toy_session().connection.cache is None
    monkeypatch.setenv("CORTEXCLIENT_CACHE", str(tmp_path / "there"))
    session = toy_session()
    assert session.connection.cache.choice.place == tmp_path / "there"
    assert pickle.loads(pickle.dumps(session)).connection.cache.choice.place == tmp_path / "there"
    assert toy_session(cache=False).connection.cache is None


def test_a_session_without_a_cache_writes_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("CORTEXCLIENT_CACHE_DIR", str(tmp_path / "user"))
    tiny.load(version=3).tables.nucleus_detection().query()
    assert not (tmp_path / "user" / "answers").exists()
    tiny.load(version=3, cache=True).tables.nucleus_detection().query()
    assert list((tmp_path / "user" / "answers").glob("??/*"))


def test_loading_touches_nothing(tmp_path):
    Session(
        cortexclient.get_spec("sandbox"), cache=tmp_path / "kept", endpoint=Endpoint("http://127.0.0.1:9")
    )
    assert not (tmp_path / "kept").exists()


def test_a_response_that_lacks_a_row_does_not_stay(folder):
    """It is complete Arrow; only the count tells that a row is missing, and both are requested again."""
    from cortexclient.session.query import complete

    with Sandbox(size="tiny", row_limit=5) as server:
        right = server.load(version=3).tables.nucleus_detection().query()
        client = server.load(version=3, cache=folder)
        with pytest.MonkeyPatch.context() as patch:
            requesting = complete.request_rows
            patch.setattr(complete, "request_rows", lambda session, query: _short(requesting(session, query)))
            with pytest.raises(errors.IncompleteResultError):
                client.tables.nucleus_detection().query()
        stored = [CacheEntry.from_bytes(path.read_bytes()) for path in (folder / "answers").glob("??/*")]
        assert not [entry for entry in stored if entry.head["what"].startswith("rows of nucleus")]
        pd.testing.assert_frame_equal(
            server.load(version=3, cache=folder).tables.nucleus_detection().query(), right
        )


def _short(reply):
    if reply.row_limit is None:
        reply.table = reply.table[1:]
    return reply


def test_rows_that_do_not_add_up_are_requested_again_by_the_next_pull(tiny, folder, tmp_path, monkeypatch):
    def spoil(self, request, policy, **options):
        response = fetch(self, request, policy, **options)
        if "/table/cell_types/query" in request.url and "count=" not in request.url:
            rows = pa.ipc.open_stream(response.content).read_all()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.schema) as writer:
                writer.write_table(rows.slice(0, len(rows) - 1))
            response._content = sink.getvalue().to_pybytes()
        return response

    fetch = RetryAdapter.fetch
    pull = {"source": "server", "path": tmp_path / "store", "progress": False}
    monkeypatch.setattr(RetryAdapter, "fetch", spoil)
    with pytest.raises(errors.ExportError, match="not complete"):
        tiny.load(version=3, cache=folder).store.pull("cell_types", **pull)
    monkeypatch.setattr(RetryAdapter, "fetch", fetch)
    assert tiny.load(version=3, cache=folder).store.pull("cell_types", **pull) == ["cell_types"]
