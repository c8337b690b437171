"""Faults as the unmodified caveclient sees them; what our own client makes of every kind is tested with it."""

from __future__ import annotations

import threading
import time
import webbrowser
from typing import Any

import pytest
import requests

from cortexclient.sandbox import Fault, Sandbox
from cortexclient.sandbox.faults import FaultPlan
from tests.sandbox.toy import client_of


@pytest.fixture
def cave(sandbox: Sandbox) -> Any:
    """An unmodified client that has made its first requests; the log is empty."""
    client = client_of(sandbox)
    assert client.materialize.version
    assert client.chunkedgraph.table_name
    sandbox.requests.clear()
    return client


@pytest.fixture
def synapses(cave: Any) -> str:
    """Name of the synapse table."""
    return cave.materialize.synapse_table


VERSIONS = "/versions$"


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("401", 401, "invalid_token"),
        ("403", 403, "missing_permission"),
        ("404", 404, "404"),
        ("406", 500, "406 Not Acceptable"),
        ("500", 500, "fault was set up"),
    ],
)
def test_refused_at_once(sandbox: Sandbox, cave: Any, kind: str, status: int, text: str) -> None:
    sandbox.inject(kind, route=VERSIONS)
    with pytest.raises(requests.HTTPError, match=text) as caught:
        cave.materialize.get_versions()
    assert caught.value.response.status_code == status
    assert sandbox.requests.count() == 1
    assert cave.materialize.get_versions()


def test_terms_of_service_open_a_page_of_the_sandbox(
    sandbox: Sandbox, cave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    sandbox.inject("403-terms", route=VERSIONS)
    with pytest.raises(requests.HTTPError, match="missing_tos"):
        cave.materialize.get_versions()
    assert opened == [f"{sandbox.url}/auth/api/v1/tos/1/accept"]
    assert requests.get(opened[0]).status_code == 200


def test_a_json_string_breaks_the_client(sandbox: Sandbox, cave: Any) -> None:
    sandbox.inject("500-string", route=VERSIONS)
    with pytest.raises(AttributeError):
        cave.materialize.get_versions()


def test_retry_after_is_obeyed(sandbox: Sandbox, cave: Any) -> None:
    sandbox.inject("429-retry-after", route=VERSIONS, seconds=1)
    started = time.monotonic()
    assert cave.materialize.get_versions()
    assert time.monotonic() - started >= 1
    assert [record.status for record in sandbox.requests] == [429, 200]


@pytest.mark.slow
def test_connections_are_refused(sandbox: Sandbox, cave: Any) -> None:
    sandbox.inject("refused", route=VERSIONS, seconds=2)
    with pytest.raises(requests.ConnectionError, match="refused"):
        cave.materialize.get_versions()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert cave.materialize.get_versions()
            break
        except requests.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_hang(sandbox: Sandbox, cave: Any) -> None:
    sandbox.inject("hang", route=VERSIONS, seconds=0.8)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(cave.materialize.get_versions()))
    thread.start()
    thread.join(0.4)
    assert thread.is_alive()  # the client has no timeout of its own
    thread.join(10)
    assert answers  # the dropped connection was tried again
    assert answers[0]


def test_slow_drip(sandbox: Sandbox, cave: Any, synapses: str) -> None:
    sandbox.inject("drip", route="/query$", seconds=0.6)
    started = time.monotonic()
    assert len(cave.materialize.query_table(synapses, limit=20)) == 20
    assert time.monotonic() - started >= 0.5


def test_stale_root(sandbox: Sandbox, cave: Any, synapses: str) -> None:
    root = _root(sandbox)
    sandbox.inject("stale-root", route="/is_latest_roots")
    sandbox.inject("stale-root", route="/query$")
    assert not cave.chunkedgraph.is_latest_roots([root])[0]
    with pytest.raises(requests.HTTPError, match="not valid at the query timestamp") as caught:
        cave.materialize.live_live_query(
            synapses, "now", filter_equal_dict={synapses: {"pre_pt_root_id": root}}, log_warning=False
        )
    assert str(root) in str(caught.value)


def test_expired_version(sandbox: Sandbox, cave: Any, synapses: str) -> None:
    version = cave.materialize.version
    sandbox.inject("expired-version", route="/query$")
    with pytest.raises(requests.HTTPError, match=f"version {version} not found in {sandbox.datastack}"):
        cave.materialize.query_table(synapses, limit=1)


def test_a_table_missing_from_a_version(sandbox: Sandbox, cave: Any, synapses: str) -> None:
    sandbox.inject("table-missing", route=f"/table/{synapses}/")
    with pytest.raises(requests.HTTPError, match=f"No table of name {synapses}"):
        cave.materialize.get_table_metadata(synapses)


def test_a_version_appears(sandbox_factory: Any) -> None:
    own = sandbox_factory()
    client = client_of(own)
    before = set(client.materialize.get_versions())
    own.inject("version-appears", route=VERSIONS)
    appeared = set(client.materialize.get_versions()) - before
    assert appeared == {max(before) + 1}
    synapses = client.materialize.synapse_table
    assert len(client.materialize.query_table(synapses, limit=5, materialization_version=appeared.pop())) == 5


def test_plan_counts() -> None:
    plan = FaultPlan.of([Fault("404", route="/a", after=1, count=2), "503"])
    taken = [plan.take("GET", path) for path in ("/a", "/a", "/a", "/a")]
    # the second fault takes what the first lets pass
    assert [fault and fault.kind for fault in taken] == ["503", "404", "404", None]
    assert plan.waiting == []


def test_faults_that_make_no_sense() -> None:
    for wrong in ({"kind": "nonsense"}, {"kind": "404", "count": 0}, {"kind": "404", "route": "("}):
        with pytest.raises(ValueError, match=r"fault|route"):
            Fault(**wrong)


def _root(sandbox: Sandbox) -> int:
    return int(sandbox.world.graph.alive()[0])


def test_one_failure_poisons_the_next_request_of_a_worker(sandbox: Sandbox, cave: Any, synapses: str) -> None:
    sandbox.inject("poisons-worker", route="/query$")
    with pytest.raises(requests.HTTPError, match="invalid input syntax"):
        cave.materialize.query_table(synapses, filter_equal_dict={"size": "x"}, get_counts=True)
    with pytest.raises(requests.HTTPError, match="current transaction is aborted"):
        cave.materialize.get_versions()
    assert cave.materialize.get_versions()
