"""The ASGI application of one sandbox: all services under one address, and what surrounds every response.

The layers around the services are pure ASGI: nothing is buffered and nothing runs in a second task.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from starlette.applications import Starlette
from starlette.responses import Response

from cortexclient.sandbox.access import Authorize
from cortexclient.sandbox.faults import FaultPlan, InjectFaults
from cortexclient.sandbox.routes.pages import json_response, send_bytes

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from cortexclient.sandbox.world import Options, World

__all__ = [
    "AllowOrigins",
    "CatchErrors",
    "CheckHost",
    "CollapseSlashes",
    "Latency",
    "LogRequests",
    "RequestLog",
    "RequestRecord",
    "build_app",
]

logger = logging.getLogger(__name__)
_SLASHES = re.compile("/{2,}")


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
        self._records: list[RequestRecord] = []
        self._lock = threading.Lock()

    def append(self, record: RequestRecord) -> None:
        """Add a record."""
        with self._lock:
            self._records.append(record)

    def clear(self) -> None:
        """Remove all records."""
        with self._lock:
            self._records.clear()

    def snapshot(self) -> list[RequestRecord]:
        """Copy of the records so far."""
        with self._lock:
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
        with self._lock:
            return self._records[index]

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"<RequestLog of {len(self)} requests>"


class Layer:
    """What surrounds the services: it sees every HTTP request, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await (self._serve if scope["type"] == "http" else self.app)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class LogRequests(Layer):
    """Log every request before the client can see the end of its response."""

    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        super().__init__(app)
        self.log = log

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, clock = datetime.now(UTC), time.perf_counter()
        path = str(scope["path"])
        status = received = sent = 0
        written = False

        def write() -> None:
            nonlocal written
            written = True
            self.log.append(
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
            await self.app(scope, counting_receive, counting_send)
        finally:
            if not written:
                write()


class CollapseSlashes(Layer):
    """Take ``//`` in a path for ``/``: Neuroglancer and caveclient send such paths, and must not be redirected."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "//" in scope["path"]:
            scope["path"] = _SLASHES.sub("/", scope["path"])
        await self.app(scope, receive, send)


class CheckHost(Layer):
    """Refuse requests that name another host: a page whose name was rebound to this machine must not read anything."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope["headers"]).get(b"host", b"127.0.0.1").decode("latin-1")
        if not _LOOPBACK.match(host):
            message = f"this sandbox answers as 127.0.0.1 and localhost only, not as {host}"
            body = json.dumps({"message": message}).encode()
            await send_bytes(send, 421, body, b"application/json", (b"connection", b"close"))
            return
        await self.app(scope, receive, send)


_LOOPBACK = re.compile(r"(127\.0\.0\.1|\[::1\]|([\w-]+\.)*localhost)(:\d+)?\Z", re.ASCII | re.IGNORECASE)


class Latency(Layer):
    """Delay every response, as a distant server does."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        super().__init__(app)
        self.options = options

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.options.latency > 0:
            await asyncio.sleep(self.options.latency)
        await self.app(scope, receive, send)


class AllowOrigins(Layer):
    """Allow pages of any origin to read the responses, as the real services do, so that a viewer elsewhere can be used.

    Responses that may hold a token are left out: they are for programs and for the sandbox's own pages.
    """

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _SECRETS.match(scope["path"]):
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 200, "headers": [*_ORIGINS, *_PREFLIGHT]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def open_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_ORIGINS]
            await send(message)

        await self.app(scope, receive, open_send)


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


class CatchErrors(Layer):
    """Respond to a failure of the sandbox's own code with 500 in CAVE's shape, and log it."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watching_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watching_send)
        except Exception as error:
            logger.warning("the sandbox failed on %s %s", scope["method"], scope["path"], exc_info=True)
            if not started:
                await send_bytes(send, 500, failure(error), b"application/json")


def failure(error: Exception) -> bytes:
    """Body of the response to a request that the sandbox failed on."""
    # the text of an OSError names a file of this machine
    text = (error.strerror or "") if isinstance(error, OSError) else str(error)
    return json.dumps({"code": 500, "message": f"{type(error).__name__}: {text}", "traceback": []}).encode()


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
    """Assemble the application; it can be served by any ASGI server."""
    routes: list[BaseRoute] = []
    for service in SERVICES:
        module = importlib.import_module(f"cortexclient.sandbox.routes.{service}")
        routes += module.routes(world)
    reported: set[str] = set()

    async def not_found(request: Request, error: Exception) -> Response:
        path = f"{request.method} {request.url.path}"
        if path not in reported and len(reported) < 1000:
            reported.add(path)
            logger.info("the sandbox does not serve %s", path)
        status = getattr(error, "status_code", 404)
        return json_response({"message": f"the sandbox does not serve {path}"}, status)

    async def failed(_: Request, error: Exception) -> Response:
        return Response(failure(error), 500, media_type="application/json")

    handlers: dict[Any, Any] = {404: not_found, 405: not_found, Exception: failed}
    starlette = Starlette(routes=routes, exception_handlers=handlers)
    starlette.router.redirect_slashes = False  # caveclient takes any redirect for a login page
    app: ASGIApp = CatchErrors(starlette)
    app = Authorize(app, world, routes)
    app = Latency(app, world.options)
    app = InjectFaults(app, faults, world)
    app = AllowOrigins(app)
    app = CollapseSlashes(app)
    app = CheckHost(app)
    return LogRequests(app, log)
