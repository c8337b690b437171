"""The ASGI application of one sandbox: all services under one address, and what surrounds every response.

The layers around the services are pure ASGI: nothing is buffered and nothing runs in a second task.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, overload

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cortexclient.sandbox.access import Authorize
from cortexclient.sandbox.faults import FaultPlan, InjectFaults
from cortexclient.sandbox.routes.pages import json_response, note_unserved
from cortexclient.sandbox.world import Options, World

__all__ = ["RequestLog", "RequestRecord", "build_app"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request that a sandbox served."""

    method: str  # HTTP method
    path: str  # path as asked, without the query string
    query: str  # query string, still encoded
    # pattern of the route that matched (``/info/api/v2/datastack/full/{datastack}``); the path where none did
    route: str
    status: int  # HTTP status; 0 where the connection ended before there was one
    received: int  # bytes of the two bodies
    sent: int
    seconds: float  # time from the request line to the last byte handed over
    time: datetime  # when the request came, UTC


class RequestLog(Sequence[RequestRecord]):
    """The requests that a sandbox has served, oldest first; safe to read while it runs.

    Examples
    --------
    >>> from cortexclient.sandbox import Sandbox
    >>> with Sandbox(size="tiny") as sandbox:
    ...     frame = sandbox.load(version=3).query("nucleus_detection")
    ...     sandbox.requests.count("/materialize") > 0
    True
    """

    def __init__(self) -> None:
        self._records: list[RequestRecord] = []  # whose methods need no lock

    def append(self, record: RequestRecord) -> None:
        """Add a record."""
        self._records.append(record)

    def clear(self) -> None:
        """Remove all records."""
        self._records.clear()

    def snapshot(self) -> list[RequestRecord]:
        """Copy of the records so far."""
        return list(self._records)

    def matching(self, prefix: str) -> list[RequestRecord]:
        """Records whose path or route starts with a prefix."""
        return [
            record
            for record in self.snapshot()
            if record.path.startswith(prefix) or record.route.startswith(prefix)
        ]

    def count(self, prefix: str = "/") -> int:
        """Number of requests whose path or route starts with a prefix; all of them by default."""
        return len(self.matching(prefix))

    def bytes(self, prefix: str = "/") -> int:
        """Bytes of the responses whose path or route starts with a prefix."""
        return sum(record.sent for record in self.matching(prefix))

    def by_route(self) -> Counter[str]:
        """Number of requests of each route, most frequent first."""
        return Counter(f"{record.method} {record.route}" for record in self.snapshot())

    @overload
    def __getitem__(self, index: int) -> RequestRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[RequestRecord]: ...
    def __getitem__(self, index: int | slice) -> RequestRecord | list[RequestRecord]:
        return self._records[index]

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"<RequestLog of {len(self)} requests>"


async def log_requests(log: RequestLog, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Log every request before the client can see the end of its response."""
    started, clock = datetime.now(UTC), time.perf_counter()
    path = str(scope["path"])
    status = received = sent = 0
    written = False

    def write() -> None:
        nonlocal written
        written = True
        log.append(
            RequestRecord(
                method=scope["method"],
                path=path,
                query=scope.get("query_string", b"").decode("latin-1"),
                route=str(getattr(scope.get("route"), "path", path)),
                status=status,
                received=received,
                sent=sent,
                seconds=time.perf_counter() - clock,
                time=started,
            )
        )

    async def counting_receive() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return message

    async def counting_send(message: Message) -> None:
        nonlocal status, sent
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            sent += len(message.get("body", b""))
            if not message.get("more_body", False):
                write()
        await send(message)

    try:
        await app(scope, counting_receive, counting_send)
    finally:
        if not written:
            write()


async def check_address(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse requests that name another host: a page whose name was rebound to this machine must not read anything.

    Take ``//`` in a path for ``/``: Neuroglancer and caveclient send such paths, and must not be redirected.
    """
    host = dict(scope["headers"]).get(b"host", b"127.0.0.1").decode("latin-1")
    if not _LOOPBACK.match(host):
        message = f"this sandbox answers as 127.0.0.1 and localhost only, not as {host}"
        await json_response({"message": message}, 421, {"connection": "close"})(scope, receive, send)
        return
    scope["path"] = _SLASHES.sub("/", scope["path"])
    await app(scope, receive, send)


_SLASHES = re.compile("/{2,}")
_LOOPBACK = re.compile(r"(127\.0\.0\.1|\[::1\]|([\w-]+\.)*localhost)(:\d+)?\Z", re.ASCII | re.IGNORECASE)


async def delay(options: Options, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Delay every response, as a distant server does."""
    if options.latency > 0:
        await asyncio.sleep(options.latency)
    await app(scope, receive, send)


async def allow_origins(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Allow pages of any origin to read the responses, as the real services do, so that a viewer elsewhere can be used.

    Responses that may hold a token are left out: they are for programs and for the sandbox's own pages.
    """
    if _SECRETS.match(scope["path"]):
        await app(scope, receive, send)
        return
    if scope["method"] == "OPTIONS":
        await send({"type": "http.response.start", "status": 200, "headers": [*_ORIGINS, *_PREFLIGHT]})
        await send({"type": "http.response.body", "body": b""})
        return

    async def open_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_ORIGINS]
        await send(message)

    await app(scope, receive, open_send)


_SECRETS = re.compile(r"^/(sandbox\.json|credentials/.*|auth/api/v1/user/token)?$")
_ORIGINS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"WWW-Authenticate, X-Requested-With, Warning, Content-Range"),
)
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, Range, X-Requested-With"),
    (b"content-length", b"0"),
)


async def log_failures(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Log a failure of the sandbox's own code; it has been answered already."""
    try:
        await app(scope, receive, send)
    except ClientDisconnect:
        logger.debug("the client of %s %s left before its response", scope["method"], scope["path"])
    except Exception:
        logger.warning("the sandbox failed on %s %s", scope["method"], scope["path"], exc_info=True)


# order matters where a later module has catch-all paths
SERVICES = (
    "info",
    "auth",
    "schema",
    "materialize",
    "annotation",
    "chunkedgraph",
    "meshing",
    "l2cache",
    "skeleton",
    "state",
    "precomputed",
    "viewer",
    "home",
)


def build_app(world: World, *, log: RequestLog, faults: FaultPlan) -> ASGIApp:
    """Assemble the application, for HTTP requests only."""
    routes: list[BaseRoute] = []
    for service in SERVICES:
        module = importlib.import_module(f"cortexclient.sandbox.routes.{service}")
        routes += module.routes(world)

    async def not_found(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        return json_response({"message": f"the sandbox does not serve {note_unserved(request)}"}, status)

    async def failed(_: Request, error: Exception) -> Response:
        # the text of an OSError names a file of this machine
        text = (error.strerror or "") if isinstance(error, OSError) else str(error)
        body = {"code": 500, "message": f"{type(error).__name__}: {text}", "traceback": []}
        return json_response(body, 500)

    handlers: dict[Any, Any] = {404: not_found, 405: not_found, Exception: failed}
    starlette = Starlette(routes=routes, exception_handlers=handlers)
    starlette.router.redirect_slashes = False  # caveclient takes any redirect for a login page
    app: ASGIApp = partial(log_failures, starlette)
    app = Authorize(app, world, routes)
    app = partial(delay, world.options, app)
    app = InjectFaults(app, faults, world)
    app = partial(allow_origins, app)
    app = partial(check_address, app)
    return partial(log_requests, log, app)
