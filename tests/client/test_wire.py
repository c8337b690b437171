"""What enters from the network is checked where it enters: statuses, lengths, speed, JSON."""

from __future__ import annotations

import json
import time

import pytest

from cortexclient import errors


@pytest.fixture
def client(relay, monkeypatch):
    monkeypatch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.01")
    relay.recover()
    client = relay.upstream.load(server_address=relay.url, version=3, retries=2, timeout=5)
    yield client
    relay.recover()


def rows(client):
    return len(client.tables.nucleus_detection().query())


def lines(*text: str, body: bytes = b"", pause: float = 0.0):
    """A fault that writes these lines and this body, byte by byte where it pauses."""

    def write(handler):
        content = "\r\n".join((*text, "", "")).encode() + body
        pieces = [content] if not pause else [content[at : at + 1] for at in range(len(content))]
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)
        handler.close_connection = True

    return write


def status(number: int, body: bytes = b""):
    return lambda _handler: (number, body)


ODD = {
    "no content": status(204),
    "another's": status(203, b"{}"),
    "accepted": status(202, b"{}"),
    "part": status(206, b"{}"),
    "created": status(201, b"{}"),
    "not modified": status(304),
    "early hints": lines(
        "HTTP/1.1 103 Early Hints", "Link: </x>", "", "HTTP/1.1 200 OK", "Content-Length: 0"
    ),
    "processing": lines("HTTP/1.1 102 Processing"),
    "beyond counting": lines("HTTP/1.1 200 OK", "Content-Length: 99999999999999999999", body=b"{}"),
    "cut": lines("HTTP/1.1 200 OK", "Content-Type: application/json", "Content-Length: 99", body=b"{}"),
    "a chunk of no length": lines(
        "HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"ZZZ\r\n{}\r\n0\r\n\r\n"
    ),
    "packed badly": lines("HTTP/1.1 200 OK", "Content-Encoding: gzip", "Content-Length: 3", body=b"abc"),
    "deep": lambda _handler: (200, b"[" * 200_000),
    "cut list": lambda _handler: (200, b'{"a": [1, 2'),
    "in circles": lines(
        "HTTP/1.1 302 Found", "Location: /info/api/v2/datastack/full/sandbox", "Content-Length: 0"
    ),
}


@pytest.mark.parametrize("route", ["/query$", "/info/api/v2/datastack/full", "/tables/metadata$"])
@pytest.mark.parametrize("kind", ODD)
def test_no_odd_response_is_taken_for_an_answer(relay, client, kind, route):
    expected = rows(relay.upstream.load(version=3))
    relay.fail(route, ODD[kind])
    with pytest.raises((errors.ProtocolError, errors.ServiceUnavailableError)) as caught:
        rows(client)
    assert caught.value.url.startswith(relay.url)
    assert caught.value.service in {"materialize", "info"}
    relay.recover()
    # the same client goes on, on connections that hold nothing of it
    assert [rows(client) for _ in range(3)] == [expected] * 3


def test_a_response_before_the_response_is_not_taken_for_the_next_one(relay, client):
    relay.fail(
        "/query$", lambda handler: handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n") and (200, b"{}")
    )
    with pytest.raises(errors.ProtocolError, match="status 103") as caught:
        rows(client)
    assert caught.value.status == 103
    relay.recover()
    assert rows(client) > 5


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_response_that_drips_ends_at_the_timeout(relay, where):
    client = relay.upstream.load(server_address=relay.url, version=3, retries=0, timeout=0.8)
    head = ("HTTP/1.1 200 OK", "Content-Type: application/json", "Content-Length: 2000")
    fault = lines(*head, body=b"[" * 2000, pause=0.05)
    if where == "body":
        slow = lines(body=b"[" * 2000, pause=0.05)

        def fault(handler):
            handler.wfile.write("\r\n".join((*head, "")).encode())
            slow(handler)

    relay.fail("/query$", fault)
    start = time.monotonic()
    with pytest.raises(errors.ServiceTimeoutError, match="timeout") as caught:
        rows(client)
    assert time.monotonic() - start < 4
    assert caught.value.url.endswith("/query")
    relay.recover()


def test_a_slow_network_is_no_drip(relay):
    """A body that needs longer than the timeout, and comes steadily, is read to its end."""
    client = relay.upstream.load(server_address=relay.url, version=3, retries=0, timeout=0.5)
    body = json.dumps({"timestamp": ["x" * 100_000]}).encode()

    def steady(handler):
        handler.wfile.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        for start in range(0, len(body), 8000):
            handler.wfile.write(body[start : start + 8000])
            time.sleep(0.1)

    relay.fail("/segmentation/slow$", steady)
    got = client.session.http.get_json("chunkedgraph", f"{relay.url}/segmentation/slow")
    relay.recover()
    assert got == json.loads(body)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<html>404 page not found</html>", errors.ProtocolError),
        (b"", errors.ProtocolError),
        (b'{"message": "404 Not Found"}', errors.MissingDataError),
    ],
)
def test_only_a_service_can_say_that_there_is_none(relay, client, body, error):
    """The version of the graph: 404 of the service means one that is too old, 404 of a gateway means nothing."""
    relay.fail("/segmentation/api/version$", status(404, body))
    with pytest.raises(error):
        client.latest_valid_timestamp([864691135000000000])


TEXTS = {
    "aborted": "(psycopg2.errors.InFailedSqlTransaction) current transaction is aborted\n\n[SQL: SELECT 1]",
    "killed": "Execution failed on sql: S OFFSET 0\nserver closed the connection unexpectedly\n\nunable to rollback",
    "cursor": "cursor already closed",
}


@pytest.mark.parametrize("text", TEXTS)
def test_work_that_the_database_lost_is_asked_for_once_more(relay, client, text):
    expected = rows(client)
    fault = status(500, json.dumps({"code": 500, "message": TEXTS[text]}).encode())
    relay.fail("/query$", fault, count=1)
    assert rows(client) == expected
    assert len(relay.seen) == 2
    relay.fail("/query$", fault)
    with pytest.raises(errors.ServiceUnavailableError, match="try again"):
        rows(client)
    assert len(relay.seen) == 2


def test_certificates_that_are_not_there(relay, client, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")
    address = relay.url.replace("http://", "https://")
    with pytest.raises(errors.ServiceUnavailableError, match="REQUESTS_CA_BUNDLE") as caught:
        client.session.http.get_json("info", f"{address}/info")
    assert caught.value.url.startswith(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "RUNNING", "valid": False}, "version 3 of .* is being made; the newest is 2"),
        ({"status": "FAILED", "valid": False}, "version 3 of .* failed; the newest is 2"),
    ],
)
def test_a_version_in_the_making_is_told_from_one_that_does_not_exist(relay, client, changes, message):
    records = [
        {"version": number, "time_stamp": f"2026-01-0{number}T00:00:00", "valid": True, "status": "AVAILABLE"}
        for number in (1, 2, 3)
    ]
    records[2] |= changes
    relay.faults = [
        ("/tables", status(404, b"[]")),
        ("/metadata$", status(200, json.dumps(records).encode())),
    ]
    relay.count = -1
    for ask in (lambda: rows(client), client.version_timestamp):
        with pytest.raises(errors.UnknownVersionError, match=message) as caught:
            ask()
        assert caught.value.url


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "lists no version of"),
        (
            [{"version": 1, "time_stamp": "2026-01-01T00:00:00", "valid": False}],
            "the last of 1, 1, has expired",
        ),
    ],
)
def test_no_live_version_is_told_from_no_version(relay, records, message):
    client = relay.upstream.load(server_address=relay.url, retries=0)
    relay.fail("/materialize/.*/metadata$", status(200, json.dumps(records).encode()))
    for ask in (
        lambda: rows(client),
        lambda: client.tables.nucleus_detection().query(timestamp="2026-02-01"),
    ):
        with pytest.raises(errors.UnknownVersionError, match=message):
            ask()
    relay.recover()
    assert rows(client)  # a version that is made later is seen
