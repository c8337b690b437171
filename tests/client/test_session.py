"""The session: one connection for all, moments, tokens, threads, retries."""

from __future__ import annotations

import json
import math
import pickle
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from urllib3.connection import HTTPConnection
from urllib3.exceptions import NameResolutionError

from cortexclient import credentials, errors
from cortexclient.registry import is_trusted
from cortexclient.sandbox.faults import Fault
from cortexclient.services.datastack import DatastackService
from cortexclient.services.roots import RootsService
from cortexclient.services.synapses import SynapsesService
from cortexclient.services.tables import TablesService, ViewsService
from cortexclient.session import Endpoint, Moment, Session, as_utc
from cortexclient.session.http import _cause
from cortexclient.session.policy import Policy, may_repeat
from cortexclient.session.transport import new_http_session

TOKEN = "0123456789abcdef0123456789abcdef"


def asked(server, before: int = 0) -> list[str]:
    return [f"{entry.method} {entry.path}" for entry in list(server.requests)[before:]]


# -- moments ---------------------------------------------------------------------------------------------------


def test_a_time_without_a_zone_is_utc():
    plain = datetime(2024, 6, 5, 10, 10, 1, 203215)  # noqa: DTZ001 - the point of the test
    expected = plain.replace(tzinfo=UTC)
    for given_time in (
        plain,
        expected,
        plain.replace(tzinfo=timezone(timedelta(hours=2))) + timedelta(hours=2),
        "2024-06-05T10:10:01.203215",
        "2024-06-05T10:10:01.203215Z",
        "2024-06-05T12:10:01.203215+02:00",
        pd.Timestamp(plain),
        pd.Timestamp(expected),
        pd.Timestamp(plain).to_datetime64(),
    ):
        assert as_utc(given_time) == expected
        assert as_utc(given_time).tzinfo is UTC
    for wrong in (1.5, 17, None, plain.date()):
        with pytest.raises(TypeError):
            as_utc(wrong)
    with pytest.raises(ValueError, match="not a time"):
        as_utc("yesterday")


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be changed here")
def test_the_zone_of_the_machine_says_nothing(monkeypatch):
    plain = datetime(2024, 6, 5, 10, 10, 1)  # noqa: DTZ001 - the point of the test
    try:
        for zone in ("America/Los_Angeles", "Asia/Tokyo"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert plain.astimezone() != plain.replace(tzinfo=UTC)
            for written in (plain, plain.isoformat(), pd.Timestamp(plain)):
                assert as_utc(written) == plain.replace(tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_time_between_versions_is_of_the_one_before(toy_session, files):
    v1, v2 = files.versions[1], files.versions[2]
    for at, version in ((v1, 1), (v1 + (v2 - v1) / 2, 1), (v2, 2), (v2 + (v2 - v1), 2), (v1 - (v2 - v1), 1)):
        assert toy_session(timestamp=at).version == version


@given(st.datetimes(timezones=st.none()))
def test_times_survive(value):
    assert as_utc(value.isoformat()) == as_utc(value)


def test_a_moment_is_one_thing(toy):
    with pytest.raises(ValueError, match="give one of them"):
        Moment.of(3, "2024-01-01")
    with pytest.raises(ValueError, match="give one of them"):
        toy.at(version=1, timestamp="2024-01-01")
    with pytest.raises(TypeError):
        Moment.of(version=1.5)
    assert Moment.of("12").version == 12
    assert Moment.of().floating


def test_every_service_moves_together(toy, files):
    tables, roots, synapses, views = (
        TablesService(toy),
        RootsService(toy),
        SynapsesService(toy),
        ViewsService(toy),
    )
    supervoxels = files.frozen("nucleus_toy", 2)["pt_supervoxel_id"].tolist()
    neurons = files.current_roots(files.versions[1])
    v1, v2 = files.versions[1], files.versions[2]

    def holds(version, at):
        assert toy.version == version
        assert tables.synapses_toy().query().attrs["materialization_version"] == version
        assert views.nucleus_celltype_view().query().attrs["materialization_version"] == version
        assert roots.get_roots(supervoxels).tolist() == [files.root_of(sv, at) for sv in supervoxels]
        assert roots.is_latest_roots(neurons).all() == (version == 1)
        frame = synapses.query_synapses(neurons, pre=True, progress=False)
        assert frame.attrs["materialization_version"] == version
        assert toy.cave.timestamp == at
        assert toy.cave.materialize.version == version
        assert toy.cave.chunkedgraph.timestamp == at

    toy.pin(version=1)
    assert toy.pinned
    holds(1, v1)
    toy.pin(timestamp=v2)
    holds(2, v2)
    toy.cave.version = 1  # even caveclient's own switch moves everything
    holds(1, v1)
    toy.unpin()
    assert not toy.pinned
    assert toy.timestamp is None
    assert toy.version == 2
    toy.pin_current()
    holds(2, v2)


def test_unpinning_returns_to_where_it_was_opened(toy_session):
    session = toy_session(version=1)
    session.pin(version=2)
    session.unpin()
    assert session.moment == Moment(version=1)
    with pytest.raises(errors.UnknownVersionError, match="live versions are 1, 2"):
        session.pin(version=77)
    assert session.moment == Moment(version=1)
    with pytest.raises(ValueError, match="unpin"):
        session.pin()


def test_a_copy_elsewhere_shares_connections(toy_server, toy):
    assert toy.version == 2
    before = len(toy_server.requests)
    other = toy.at(version=1)
    assert other.version == 1
    assert toy.version == 2
    assert other.connection is toy.connection
    assert other.timestamp == toy.versions()[1].timestamp
    assert len(toy_server.requests) == before


def test_the_default_version_of_the_spec(toy_session):
    session = toy_session(spec={"default_version": 1})
    assert session.version == 1
    assert not session.pinned
    assert TablesService(session).synapses_toy().query().attrs["materialization_version"] == 1


# -- requests --------------------------------------------------------------------------------------------------


def test_opening_asks_nothing(toy_server, toy_session):
    before = len(toy_server.requests)
    session = toy_session(version=2)
    assert "toy" in repr(session)
    assert session.server_address == toy_server.url
    assert session.datastack == "toy"
    assert len(toy_server.requests) == before


def test_first_rows_in_few_round_trips(toy_server, toy_session):
    before = len(toy_server.requests)
    TablesService(toy_session())["nucleus_toy"]().query()
    assert len(asked(toy_server, before)) <= 4
    before = len(toy_server.requests)
    TablesService(toy_session(version=2)).nucleus_toy(id=[1]).query()
    assert len(asked(toy_server, before)) <= 3


def test_a_crowd_on_a_cold_client_asks_no_more_than_one(toy_server, toy_session):
    def work(session):
        frame = TablesService(session).nucleus_toy().query()
        session.cave.chunkedgraph.get_roots([0])
        _ = session.cave.materialize.tables
        assert session.segmentation_info()
        return len(frame)

    counts = []
    for threads in (1, 8):
        session = toy_session()
        before = len(toy_server.requests)
        barrier = threading.Barrier(threads)

        def start(session=session, barrier=barrier):
            barrier.wait()
            return work(session)

        with ThreadPoolExecutor(threads) as pool:
            assert [job.result() for job in [pool.submit(start) for _ in range(threads)]] == [40] * threads
        made = asked(toy_server, before)
        counts.append(len([entry for entry in made if not entry.endswith(("/query", "roots_binary"))]))
    assert counts[0] == counts[1]


def test_two_servers_do_not_mix(toy_server, capped_server, toy, capped):
    before = len(capped_server.requests)
    assert len(toy.cave.materialize.tables.nucleus_toy().query(log_warning=False)) == 40
    assert len(capped.cave.materialize.tables.nucleus_toy().query(log_warning=False)) == 40
    assert any("tables/metadata" in entry for entry in asked(capped_server, before))


def test_troubles_that_pass_are_waited_out(toy_server, toy_session, monkeypatch):
    monkeypatch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.02")
    handle = TablesService(toy_session(version=2)).nucleus_toy()
    for kind in ("429", "502", "503", "504", "reset"):
        toy_server.inject(Fault(kind, route="/query$", count=2))
        assert len(handle.query()) == 40
        toy_server.clear_faults()
    before = len(toy_server.requests)
    toy_server.inject(Fault("500", route="/query$", count=1))
    with pytest.raises(errors.ServiceError):
        handle.query()
    toy_server.clear_faults()
    assert len([entry for entry in asked(toy_server, before) if entry.endswith("/query")]) == 1


def test_a_server_says_how_long_to_wait(toy_server, toy_session, monkeypatch):
    monkeypatch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.01")
    handle = TablesService(toy_session(version=2)).nucleus_toy()
    toy_server.inject(Fault("429-retry-after", route="/query$", count=1, seconds=1))
    start = time.monotonic()
    assert len(handle.query()) == 40
    assert time.monotonic() - start >= 0.9
    policy = Policy()
    assert policy.wait(0, "3") == 3
    assert policy.wait(0, "3600") is None
    assert 0 <= policy.wait(0, "Wed, 21 Oct 2015 07:28:00 GMT") <= 1
    assert 0.1 <= policy.wait(0, None) <= 0.25
    assert policy.wait(20, None) <= 8


def test_what_may_be_sent_twice():
    base = "https://x.org"
    for method, path, safe in [
        ("GET", "/info/version", True),
        ("POST", "/materialize/api/v3/datastack/d/version/1/table/t/query?a=b", True),
        ("POST", "/segmentation/api/v1/table/t/roots_binary?timestamp=1", True),
        ("POST", "/segmentation/api/v1/table/t/merge", False),
        ("POST", "/annotation/api/v2/aligned_volume/v/table/t/annotations", False),
        ("PUT", "/annotation/api/v2/aligned_volume/v/table/t/annotations", False),
        ("POST", "/nglstate/api/v1/post", False),
        ("POST", "/materialize/api/v2/materialize/run/lookup_svid/datastack/d/t", False),
        ("DELETE", "/x", False),
    ]:
        assert may_repeat(requests.Request(method, base + path).prepare()) is safe, path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"timeout": value}, "seconds above 0") for value in (math.inf, math.nan, 0, (5, -1))),
        *(({"timeout": value}, "two of them") for value in ((5,), (1, 2, 3), "soon", (None, 5))),
        *(
            ({name: value}, "whole number")
            for name in ("retries", "max_workers")
            for value in ("1", 1.5, True)
        ),
        ({"retries": -1}, "at least 0"),
        ({"max_workers": 0}, "at least 1"),
    ],
)
def test_numbers_that_cannot_be_meant(toy_session, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        toy_session(**options)


def test_nothing_waits_for_ever(toy_server, toy_session):
    session = toy_session(timeout=0.3, retries=0, version=2)
    toy_server.inject(Fault("hang", route="/info/|/query", count=None, seconds=4))
    start = time.monotonic()
    with pytest.raises(errors.ServiceTimeoutError, match="timeout"):
        TablesService(session).nucleus_toy().query()
    with pytest.raises(errors.ServiceTimeoutError):
        _ = session.cave
    assert time.monotonic() - start < 3.5
    toy_server.clear_faults()


def test_a_server_that_is_not_there(toy_session, monkeypatch):
    monkeypatch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.01")
    session = toy_session(retries=1)
    dead = Session(session.spec, endpoint=Endpoint("http://127.0.0.1:9", TOKEN), retries=1)
    with pytest.raises(errors.ServiceUnavailableError, match="cannot be reached") as caught:
        dead.info()
    assert TOKEN not in str(caught.value)
    assert isinstance(caught.value, ConnectionError)
    # of the library's own words without those for its objects
    assert re.search(r"cannot be reached: [^<(]*[Cc]onnection", str(caught.value))
    line = HTTPConnection("cave.my.lab")
    unresolved = NameResolutionError("cave.my.lab", line, socket.gaierror(-2, "Name or service not known"))
    for raised in (unresolved, requests.exceptions.ConnectionError(unresolved)):
        assert _cause(raised).startswith("Failed to resolve 'cave.my.lab'")


# -- tokens ----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CORTEXCLIENT_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


def write_secret(home: Path, name: str, token: str) -> None:
    folder = home / ".cloudvolume" / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"token": token}))


def test_the_default_token_goes_to_known_servers_only(home):
    write_secret(home, "cave-secret.json", "defaultdefault")
    write_secret(home, "one.example.org-cave-secret.json", "oneone")
    find = partial(credentials.find_token, is_trusted=is_trusted)
    assert find("https://global.daf-apis.com").value == "defaultdefault"
    assert find("https://one.example.org").value == "oneone"
    for stranger in ("https://evil.example.org", "http://127.0.0.1:8000", "http://one.example.org"):
        assert find(stranger) is None
    # one list: what is no built-in dataset's host is no trusted one, and an address that nobody verified is none either
    assert find("https://globalv1.em.brain.allentech.org") is None
    assert find("https://global.brain-wire-test.org") is None
    credentials.trust("https://two.example.org/")
    assert find("https://two.example.org").value == "defaultdefault"
    assert find("https://two.example.org:8443") is None
    assert "oneone" not in repr(find("https://one.example.org"))


def test_tokens_are_stored_privately(home):
    path = credentials.store_token("https://global.daf-apis.com", f" {TOKEN}\n")
    assert path.name == "global.daf-apis.com-cave-secret.json"
    assert json.loads(path.read_text()) == {"token": TOKEN}
    assert path.stat().st_mode & 0o077 == 0
    assert credentials.find_token("https://global.daf-apis.com", is_trusted=is_trusted).value == TOKEN
    from caveclient.auth import server_token_filename

    assert str(path) == server_token_filename("https://global.daf-apis.com")
    for wrong in ("", "two words", "é"):
        with pytest.raises(ValueError, match="token"):
            credentials.store_token("https://x.org", wrong)
    with pytest.raises(ValueError, match="encrypted"):
        credentials.store_token("http://x.org", TOKEN)


def test_the_users_token_does_not_reach_a_sandbox(home, toy_server, toy_session):
    write_secret(home, "cave-secret.json", TOKEN)
    session = Session(toy_session().spec, server_address=toy_server.url)
    assert session.token != TOKEN
    session.info()
    assert session.cave.auth.token != TOKEN
    assert TOKEN not in json.dumps(dict(session.cave.info.session.headers))


def test_a_netrc_does_not_replace_the_token(toy_server, toy, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    sessions = [
        toy.cave.info.session,
        toy.cave.chunkedgraph.session,
        new_http_session(toy.connection.transport),
    ]
    for session in sessions:
        answer = session.get(f"{toy_server.url}/info/version")
        assert answer.request.headers["Authorization"] == f"Bearer {toy_server.token}"


def test_proxies_of_the_environment_hold(toy, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    session = new_http_session(toy.connection.transport)
    for _ in range(2):
        far = session.merge_environment_settings("http://far.invalid/info", {}, None, None, None)
        near = session.merge_environment_settings("http://127.0.0.1:80/info", {}, None, None, None)
        assert far["proxies"]["http"] == "http://proxy.invalid:3128"
        assert "http" not in near["proxies"]


def test_the_token_stays_with_its_server(toy_server, capped_server, toy):
    """caveclient's own sessions would send it to any address they are given."""
    cave = toy.cave
    state, info = cave.state, cave.info
    seen = []
    original = requests.adapters.HTTPAdapter.send

    def spy(self, request, **options):
        seen.append((request.url, request.headers.get("Authorization"), request.headers.get("Cookie")))
        return original(self, request, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(requests.adapters.HTTPAdapter, "send", spy)
    try:
        state.session.get(f"{capped_server.url}/info/version")
        info.session.get(f"{toy_server.url}/info/version")
    finally:
        patch.undo()
    foreign, own = seen
    assert foreign[1] is None
    assert foreign[2] is None
    assert own[1] == f"Bearer {toy_server.token}"
    with pytest.raises(ValueError, match="not a state of"):
        DatastackService(toy).get_state_json(f"{capped_server.url}/nglstate/api/v1/3")


def test_no_token_in_repr_pickle_or_messages(toy_server, toy_session):
    session = Session(
        toy_session().spec, endpoint=Endpoint(toy_server.url, TOKEN), auth_token=TOKEN, version=1
    )
    session.info()
    _ = session.cave
    parts = [
        repr(session),
        repr(session.endpoint),
        repr(session.cave),
        repr(session.moment),
        repr(session.connection),
    ]
    assert not [text for text in parts if TOKEN in text]
    packed = pickle.dumps(session)
    assert TOKEN.encode() not in packed
    copy = pickle.loads(packed)
    assert copy.token != TOKEN
    assert copy.moment == session.moment
    assert copy.server_address == session.server_address
    assert len(TablesService(copy).nucleus_toy().query()) == 40


def test_no_token_in_logs_or_caches(toy_folder, toy_session, tmp_path, caplog):
    from cortexclient.sandbox import Sandbox

    with Sandbox(data=toy_folder, auth=True) as server, caplog.at_level("DEBUG"):
        token = server.token
        kept = tmp_path / "kept"
        session = Session(
            toy_session().spec,
            endpoint=Endpoint(server.url, token),
            version=2,
            cache=kept,
            retries=0,
        )
        assert len(TablesService(session).nucleus_toy().query()) == 40
        assert session.cave.materialize.get_tables(version=2)
        refused = Session(
            session.spec, endpoint=Endpoint(server.url, "deadbeefdeadbeefdeadbeefdeadbeef"), retries=0
        )
        with pytest.raises(errors.AuthenticationError) as caught:
            refused.info()
        session.close()
    assert "deadbeef" not in str(caught.value)
    assert "deadbeef" not in caplog.text
    assert token not in caplog.text
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert not [path for path in files if path.stat().st_mode & 0o077]


def test_a_session_works_in_another_process(python, toy, tmp_path):
    path = tmp_path / "session.pickle"
    path.write_bytes(pickle.dumps(toy.at(version=1)))
    code = (
        "import pickle, pathlib, sys; from cortexclient.services.tables import TablesService;"
        "session = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes());"
        "print(len(TablesService(session).synapses_toy().query()))"
    )
    made = python(code, str(path))
    assert made.strip() == "300"


def test_nothing_is_written_to_the_cloudvolume_folder(home, toy_server, toy_session):
    session = toy_session()
    session.cave.materialize.query_table("nucleus_toy", log_warning=False)
    assert not (home / ".cloudvolume").exists()


def test_servers_are_started_by_scheme(toy_session):
    session = Session(toy_session().spec, server_address="nothing://here")
    with pytest.raises(errors.SpecError, match="unknown scheme"):
        _ = session.server_address
