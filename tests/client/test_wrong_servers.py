"""A server that is none of CAVE's, or that sends broken answers: always one of our errors, whatever the service."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cortexclient import errors, load
from cortexclient.cli import main

ASKS = {
    "tables": lambda client: list(client.tables),
    "views": lambda client: list(client.views),
    "query": lambda client: client.query("nucleus_detection"),
    "query_synapses": lambda client: client.query_synapses(5, pre=True, progress=False),
    "connectivity": lambda client: client.connectivity(5),
    "cell_id_to_root_id": lambda client: client.cell_id_to_root_id([5]),
    "root_id_to_cell_id": lambda client: client.root_id_to_cell_id([5]),
    "get_roots": lambda client: client.get_roots([5, 6]),
    "is_latest_roots": lambda client: client.is_latest_roots([5, 6]),
    "latest_roots": lambda client: client.latest_roots([5]),
    "latest_valid_timestamp": lambda client: client.latest_valid_timestamp([5]),
    "get_latest_roots": lambda client: client.get_latest_roots(5),
    "suggest_latest_roots": lambda client: client.suggest_latest_roots(5),
    "get_l2_ids": lambda client: client.get_l2_ids(5),
    "get_skeleton": lambda client: client.get_skeleton(5),
    "version_timestamp": lambda client: client.version_timestamp(),
    "skeletons_exist": lambda client: client.skeletons_exist(root_ids=[5]),
    "segmentation_cloudvolume": lambda client: client.segmentation_cloudvolume(),
    "image_cloudvolume": lambda client: client.image_cloudvolume(),
}


class _Handler(BaseHTTPRequestHandler):
    body = b""
    kind = "application/json"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_args):
        """Say nothing."""


@pytest.fixture
def stranger():
    """A server that answers everything with the same."""
    servers = []

    def start(body: bytes, kind: str = "application/json") -> str:
        handler = type("Handler", (_Handler,), {"body": body, "kind": kind})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("body", [b"5", b'["a"]', b"null"])
@pytest.mark.parametrize(
    "routes", ["/skeletoncache/api/versions$|/table_mapping$", "/views$|/tables(/metadata)?$"]
)
def test_check_names_the_service_that_sent_nonsense(routes, body, relay, capsys):
    relay.fail(routes, lambda _: (200, body))
    status = main(["check", "sandbox", "--server", relay.url])
    shown = "".join(capsys.readouterr())
    assert status == ("views" in routes)
    points = ["cannot be read"] if status else ["capabilities.l2cache ", "capabilities.skeletons "]
    assert all(point in shown for point in points), shown
    assert len(load("sandbox", server_address=relay.url).status())


def test_a_long_text_is_no_address_of_a_stored_state(relay):
    relay.fail(
        "/nglstate/.*post|/nglstate/api/v1/(property/)?post", lambda _: (200, b'"' + b"a" * 1_000_000 + b'"')
    )
    client = load("sandbox", server_address=relay.url)
    for store in (client.upload_state_json, client.session.cave.state.upload_property_json):
        with pytest.raises(errors.ProtocolError, match="more than the address"):
            store({"layers": []})


PAGES = {
    "a page": (b"<html>Welcome</html>", "text/html"),
    "an empty object": (b"{}", "application/json"),
    "a list": (b"[]", "application/json"),
    "null": (b"null", "application/json"),
    "text": (b'"hello"', "application/json"),
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("version", [3, None])
def test_a_server_that_is_not_caves(stranger, page, version):
    address = stranger(*PAGES[page])
    for ask in ASKS.values():
        with pytest.raises((errors.ServiceError, errors.StaleRootError)) as caught:
            ask(load("sandbox", server_address=address, version=version, retries=0))
        assert type(caught.value) is not errors.ServiceError


def test_a_server_that_describes_a_datastack_and_nothing_else(stranger):
    record = {
        "aligned_volume": {"id": 1, "name": "x", "image_source": "precomputed://http://127.0.0.1:9/x"},
        "segmentation_source": "graphene://http://127.0.0.1:9/segmentation/table/pcg",
        "synapse_table": "synapses",
    }
    address = stranger(json.dumps(record).encode())
    for name in set(ASKS) - {"segmentation_cloudvolume", "image_cloudvolume"}:
        with pytest.raises((errors.ServiceError, errors.StaleRootError)):
            ASKS[name](load("sandbox", server_address=address, version=3, retries=0))


@pytest.mark.parametrize("address", [5, b"http://x", ["http://x"]])
def test_an_address_that_is_no_text(address):
    with pytest.raises(TypeError, match="server address is text"):
        load("sandbox", server_address=address)


def test_an_address_that_cannot_be_read():
    with pytest.raises(ValueError, match="cannot be read"):
        load("sandbox", server_address="http://[::1")


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("tables", "tables/metadata$"),
        ("views", "/views$"),
        ("query_synapses", "/query$"),
        ("get_roots", "roots_binary$"),
        ("is_latest_roots", "is_latest_roots$"),
        ("get_l2_ids", "leaves$"),
        ("segmentation_cloudvolume", "/table/.*/info$"),
    ],
)
@pytest.mark.parametrize("kind", ["truncated", "login-redirect"])
def test_broken_answers_are_told(tiny, kind, name, route):
    tiny.inject(kind, route=route, count=None)
    try:
        with pytest.raises((errors.ProtocolError, errors.AuthenticationError)):
            ASKS[name](tiny.load(version=3, retries=0))
    finally:
        tiny.clear_faults()
