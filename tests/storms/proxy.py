"""A reverse proxy on loopback that damages responses on purpose, byte by byte."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Fault", "Plan", "Proxy", "Reply", "Request"]

_FRAMING = {"content-length", "transfer-encoding", "connection", "date", "server"}


@dataclass(frozen=True)
class Request:
    """What the client sent."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def route(self) -> str:
        """Method and path without the numbers: what different requests of one kind have in common."""
        return f"{self.method} {re.sub(r'[0-9]{4,}[-0-9_:]*', '*', self.path)}"


@dataclass
class Reply:
    """A response, and how it is put on the wire: faults change the fields."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    request: Request
    earlier: Sequence[Reply] = ()
    """Undamaged replies to earlier requests of the same storm."""

    wait: float = 0.0
    """Seconds before the first byte."""
    before: bytes = b""
    """Bytes in front of the status line."""
    raw: bytes | None = None
    """Bytes in place of the response."""
    length: str | None = "right"
    """``"right"``, the text of a Content-Length that is not, or None for no such header."""
    chunked: bytes | None = None
    """A chunked body: ``b""``, or the text of a chunk size that is not right."""
    sent: int | None = None
    """Bytes of the body that are sent; None for all of them."""
    drip: tuple[int, float] | None = None
    """Bytes at a time, and the seconds between."""
    times: int = 1
    """How often the response is sent."""
    end: str = "keep"
    """What becomes of the connection afterwards: ``"keep"``, ``"close"``, ``"half"`` or ``"reset"``."""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def set(self, name: str, value: str | None) -> None:
        self.headers = [(key, old) for key, old in self.headers if key.lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))

    def become(self, status: int, body: bytes, content_type: str | None = "application/json") -> None:
        self.status, self.body = status, body
        self.set("Content-Type", content_type)

    def wire(self) -> bytes:
        """Return the bytes of the whole response."""
        if self.raw is not None:
            return self.before + self.raw
        headers = list(self.headers)
        body = self.body if self.request.method != "HEAD" else b""
        shown = body if self.sent is None else body[: self.sent]
        if self.chunked is not None:
            headers.append(("Transfer-Encoding", "chunked"))
            size = self.chunked or b"%x" % len(body)
            shown = b"%s\r\n%s" % (size, shown) + (b"\r\n0\r\n\r\n" if self.sent is None else b"")
        elif self.length is not None:
            right = str(len(self.body))
            headers.append(("Content-Length", right if self.length == "right" else self.length))
        if self.status in (204, 304):
            shown = b""
        lines = [f"HTTP/1.1 {self.status} Text", *(f"{key}: {value}" for key, value in headers), "", ""]
        return self.before + ("\r\n".join(lines).encode("latin-1") + shown) * self.times


Fault = Callable[[random.Random, Reply], bool | None]
"""Changes a reply; returns False where it does not apply, and then nothing was struck."""


@dataclass
class Plan:
    """Which responses are struck: ``count`` of those to requests of a route, from the ``after``-th on."""

    fault: Fault
    rng: random.Random
    route: str
    after: int = 0
    count: int = 1
    likely: float = 1.0
    struck: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def strike(self, reply: Reply) -> None:
        with self._lock:
            if self.count <= 0 or reply.request.route != self.route or self.rng.random() >= self.likely:
                return
            if self.after > 0:
                self.after -= 1
            elif self.fault(self.rng, reply) is not False:
                self.count -= 1
                self.struck.append(f"{reply.request.method} {reply.request.path}")


class Proxy:
    """Pass requests on to ``upstream``, and strike the responses as the plan says.

    Parameters
    ----------
    upstream : mapping of str to str
        Address for each prefix of a path; the longest prefix decides.
    """

    def __init__(self, upstream: dict[str, str]) -> None:
        self._upstream = {prefix: urlsplit(url) for prefix, url in upstream.items()}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.plan: Plan | None = None
        self.replies: list[Reply] = []
        """Undamaged replies since the last storm began."""
        self._calm = threading.Event()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, name="storm-accept", daemon=True).start()

    def storm(self, plan: Plan, earlier: Iterable[Reply] = ()) -> None:
        """Strike from now on; earlier replies may come in place of others."""
        self.replies = list(earlier)
        self._calm = threading.Event()
        self.plan = plan

    def calm(self) -> None:
        """Strike no more, and wake every reply that waits or drips."""
        self.plan = None
        self._calm.set()

    def close(self) -> None:
        self.calm()
        # a listener that waits in accept() does not notice that it was closed
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="storm-serve", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        upstream: dict[str, http.client.HTTPConnection] = {}
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as reader:
            while (request := _read(reader)) is not None:
                reply = self._ask(request, upstream)
                plan, calm = self.plan, self._calm
                clean = Reply(reply.status, list(reply.headers), reply.body, request)
                reply.earlier = list(self.replies)
                if plan is not None:
                    plan.strike(reply)
                self.replies.append(clean)
                if not _send(connection, reply, calm):
                    break
        self._open.discard(connection)
        connection.close()
        for used in upstream.values():
            used.close()

    def _ask(self, request: Request, connections: dict[str, http.client.HTTPConnection]) -> Reply:
        prefix = max((prefix for prefix in self._upstream if request.path.startswith(prefix)), key=len)
        place = self._upstream[prefix]
        target = request.target if prefix == "/" else request.target[len(prefix) - 1 :]
        own = {"host", "connection", "accept-encoding", "content-length", "if-none-match"}
        headers = {key: value for key, value in request.headers if key.lower() not in own}
        headers["Accept-Encoding"] = "identity"
        connection = connections.setdefault(
            prefix, http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
        )
        try:
            connection.request(request.method, target, request.body or None, headers)
            response = connection.getresponse()
        except (http.client.HTTPException, ConnectionError):  # the server had closed it: a fresh one
            connection.close()
            connection.request(request.method, target, request.body or None, headers)
            response = connection.getresponse()
        body = response.read().replace(place.netloc.encode(), f"127.0.0.1:{self.port}".encode())
        kept = [(key, value) for key, value in response.getheaders() if key.lower() not in _FRAMING]
        return Reply(response.status, kept, body, request)


def _read(reader) -> Request | None:
    first = reader.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers = []
    while line := reader.readline().decode("latin-1").strip():
        key, _, value = line.partition(":")
        headers.append((key, value.strip()))
    length = next((int(value) for key, value in headers if key.lower() == "content-length"), 0)
    return Request(first[0], first[1], tuple(headers), reader.read(length) if length else b"")


def _send(connection: socket.socket, reply: Reply, calm: threading.Event) -> bool:
    """Send a reply; return whether the connection serves further requests."""
    calm.wait(reply.wait)
    data = reply.wire()
    if reply.drip is None:
        connection.sendall(data)
    else:
        size, seconds = reply.drip
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
            if seconds and calm.wait(seconds):
                seconds = 0.0
                if reply.end == "reset":
                    break
    if reply.end == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif reply.end == "half":
        connection.shutdown(socket.SHUT_WR)
    return reply.end == "keep"
