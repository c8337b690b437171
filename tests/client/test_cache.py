"""Answers kept on disk: only what lasts, whole, private; and a whole analysis again without a network."""

from __future__ import annotations

import pickle

import pandas as pd
import pytest

from cortexclient import errors
from cortexclient.sandbox import Sandbox
from cortexclient.services.cells import CellsService
from cortexclient.services.level2 import Level2Service
from cortexclient.services.roots import RootsService
from cortexclient.services.synapses import SynapsesService
from cortexclient.services.tables import TablesService, ViewsService
from cortexclient.session import Endpoint, Session

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def cached(toy_session, tmp_path):
    return lambda **options: toy_session(cache=tmp_path / "kept", **options)


def analysis(session, files) -> list[pd.DataFrame]:
    roots = files.current_roots(files.versions[2])
    there = set(files.l2cache[files.l2cache["in_cache"]]["l2_id"])
    l2_ids = [l2_id for root in roots for l2_id in Level2Service(session).get_l2_ids(root) if l2_id in there]
    return [
        TablesService(session).celltype_toy(cell_type="BC").query(),
        ViewsService(session).nucleus_celltype_view().query(),
        SynapsesService(session).query_synapses(roots[:2], pre=True, post=True, progress=False),
        CellsService(session).cell_id_to_root_id([1, 2, 3, 40]),
        Level2Service(session).get_l2data(l2_ids[:3]),
        pd.DataFrame({"root": RootsService(session).get_roots(l2_ids)}),
    ]


def data_requests(server, before):
    words = ("/query", "roots_binary", "/leaves", "/attributes", "is_latest")
    return [
        entry.path for entry in list(server.requests)[before:] if any(word in entry.path for word in words)
    ]


def test_a_second_run_asks_for_no_data(toy_server, cached, files):
    first = analysis(cached(version=2), files)
    before = len(toy_server.requests)
    second = analysis(cached(version=2), files)
    assert data_requests(toy_server, before) == []
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other)
        assert one.attrs == other.attrs


def test_a_whole_analysis_without_a_network(toy_folder, toy_session, tmp_path, files):
    with Sandbox(data=toy_folder) as server:
        endpoint = Endpoint(server.url, server.token)
        spec = toy_session().spec
        first = analysis(Session(spec, endpoint=endpoint, version=2, cache=tmp_path / "kept"), files)
    offline = Session(spec, endpoint=endpoint, version=2, cache=tmp_path / "kept", offline=True)
    for one, other in zip(first, analysis(offline, files), strict=True):
        pd.testing.assert_frame_equal(one, other)
    with pytest.raises(errors.ServiceUnavailableError, match=r"offline.*tags_toy") as caught:
        TablesService(offline).tags_toy().query()
    assert "cache=True" in str(caught.value)
    with pytest.raises(errors.ServiceUnavailableError, match="offline"):
        RootsService(offline.at()).is_latest_roots([1])


def test_live_answers_and_errors_are_not_kept(toy_server, cached, tmp_path):
    session = cached()
    TablesService(session).tags_toy().query(timestamp="2026-11-21T01:30:00")
    RootsService(session).is_latest_roots([1])
    with pytest.raises(errors.InvalidQueryError):
        TablesService(session).tags_toy(nope=1).query()
    kept = [path.read_bytes() for path in (tmp_path / "kept" / "answers").glob("??/*")]
    assert kept
    assert not [content for content in kept if b"/toy/query" in content or b"is_latest" in content]
    assert not [content for content in kept if b"traceback" in content]


def test_what_a_service_lacks_is_asked_again(toy_server, cached, files):
    missing = files.l2cache[~files.l2cache["in_cache"]]["l2_id"].tolist()[:2]
    for _ in range(2):
        before = len(toy_server.requests)
        frame = Level2Service(cached(version=2)).get_l2data(missing)
        assert frame["size_nm3"].isna().all()
        assert [path for path in data_requests(toy_server, before) if path.endswith("/attributes")]


def test_private_and_without_the_token(toy_server, cached, tmp_path):
    session = cached(version=2, auth_token=TOKEN)
    TablesService(session).tags_toy().query()
    session.cave.schema.get_schemas()
    paths = list((tmp_path / "kept" / "answers").glob("??/*"))
    assert paths
    for path in paths:
        assert path.stat().st_mode & 0o077 == 0
        assert TOKEN.encode() not in path.read_bytes()
    assert (tmp_path / "kept" / "answers" / paths[0].parent.name).stat().st_mode & 0o077 == 0
    assert TOKEN.encode() not in pickle.dumps(session)
    assert pickle.loads(pickle.dumps(session)).connection.cache.choice.place == tmp_path / "kept"


def test_the_environment_turns_it_on(toy_session, tmp_path, monkeypatch):
    assert toy_session().connection.cache is None
    monkeypatch.setenv("CORTEXCLIENT_CACHE", str(tmp_path / "there"))
    assert toy_session().connection.cache.choice.place == tmp_path / "there"
    assert toy_session(cache=False).connection.cache is None
    monkeypatch.setenv("CORTEXCLIENT_CACHE", "0")
    assert toy_session().connection.cache is None
