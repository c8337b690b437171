"""A server between a client and a sandbox that passes everything on, but for what a test makes of some responses."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        relay: Relay = self.server
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        relay.seen.append((self.command, self.path, self.headers.get("Authorization")))
        for route, fault in relay.faults:
            if re.search(route, self.path.partition("?")[0]):
                if relay.count == 0:
                    break
                relay.count -= 1
                # a fault writes its own response, or returns another body (or status and body) for the usual one
                made = fault(self)
                if made is None:
                    return
                self.respond(*made)
                return
        hidden = {"host", "connection", "content-length", "accept-encoding"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hidden}
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", relay.upstream.port, timeout=60)
        ) as up:
            up.request(self.command, self.path, body=sent, headers=headers)
            response = up.getresponse()
            body = response.read().replace(f"127.0.0.1:{relay.upstream.port}".encode(), relay.host.encode())
        self.respond(response.status, body, response.getheaders())

    do_POST = do_HEAD = do_GET  # noqa: N815 - the library's names

    def respond(self, status, body, headers=(("Content-Type", "application/json"),)):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Say nothing."""


class Relay(ThreadingHTTPServer):
    """Passes requests on to a sandbox; ``faults`` are pairs of a route and a function of the request's handler."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.faults = []
        self.count = -1
        self.seen = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def host(self):
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self):
        return f"http://{self.host}"

    def fail(self, route, fault, *, count=-1):
        """Let a fault strike at a route, always or a number of times."""
        self.faults, self.count = [(route, fault)], count
        self.seen.clear()

    def recover(self):
        self.faults = []

    def handle_error(self, request, client_address):
        """Say nothing: clients that give up close connections."""

    def close(self):
        self.shutdown()
        self.server_close()
