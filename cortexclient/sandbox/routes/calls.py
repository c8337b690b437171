"""One call of a CAVE service written with Flask: reading what was asked, answering, and failing as it does.

The chunkedgraph, meshing and level-2 services share one way of doing all three: numpy values in JSON, binary ids,
gzipped bodies, and any error at all as status 500 with its text.
"""

from __future__ import annotations

import gzip
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortexclient.sandbox.access import USER
from cortexclient.sandbox.arrays import Ids, Ints
from cortexclient.sandbox.routes.pages import redirect_text, status_page, unserved
from cortexclient.sandbox.stores.graph.edits import EditError
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
from cortexclient.sandbox.stores.graph.state import moment
from cortexclient.sandbox.world import World

logger = logging.getLogger(__name__)

_TRUE, _FALSE = ("true", "1"), ("false", "0")
_WRAP = 1 << 64


class ApiError(Exception):
    """A refusal with a status of its own, as opposed to a failure (always 500)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"[{status}]: {message}")
        self.status = status


@dataclass
class Call:
    """One request, its body read."""

    world: World
    request: Request
    body: bytes  # without the gzip compression that cloud-volume puts on large ones
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __getitem__(self, name: str) -> str:
        """Value of a part of the path."""
        return str(self.request.path_params[name])

    @property
    def graph(self) -> ChunkedGraph:
        """The chunkedgraph of the sandbox."""
        return self.world.graph

    @property
    def user(self) -> str:
        """Id of the user; 0 where the sandbox asks for no token."""
        return str(getattr(self.request.scope.get(USER), "id", 0))

    def arg(self, name: str, default: str | None = None) -> str | None:
        """Value of a query parameter."""
        value = self.request.query_params.get(name)
        return default if value is None else value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Boolean query parameter; what is neither true nor false counts as not given."""
        value = (self.arg(name) or "").lower()
        return True if value in _TRUE else False if value in _FALSE else default

    def json(self) -> Any:
        """Body as JSON; numbers beyond 2**53 stay exact."""
        return json.loads(self.body)

    def ids(self, key: str = "node_ids", *, raw: bool = False) -> Ids:
        """Ids from the body, int64: little-endian integers (`raw`), or a JSON list under a key."""
        if raw:
            return np.frombuffer(self.body, dtype="<u8").astype(np.int64)
        given = self.json()[key]
        if isinstance(given, list):
            # the services' numpy takes a negative number for the unsigned one of the same bits
            given = [one % _WRAP if isinstance(one, int) and -_WRAP < 2 * one < 0 else one for one in given]
        ids = np.array(given, dtype=np.uint64)
        if ids.ndim != 1:
            raise TypeError(f"{key} is no list of ids, but has {ids.ndim} dimensions")
        return ids.astype(np.int64)

    def node(self, name: str = "node") -> int:
        """Id that is a part of the path, as a signed number of 64 bits."""
        number = int(self[name])
        if not -_WRAP <= 2 * number < 2 * _WRAP:
            raise OverflowError("Python int too large to convert to C long")
        return number - _WRAP if 2 * number >= _WRAP else number

    def number(self, name: str, default: int) -> int:
        """Whole number given as a query parameter."""
        value = self.arg(name)
        return default if value is None else int(value)

    def moment(
        self, name: str, default: float | datetime | None, *, optional: bool = False
    ) -> datetime | None:
        """Time given in seconds since 1970, as an aware time."""
        value: Any = self.arg(name)
        value = default if value is None else value
        if value is None:
            if optional:
                return None
            raise ApiError(400, f"Timestamp parameter {name} is mandatory")
        try:
            return datetime.fromtimestamp(float(value), UTC)
        except (TypeError, ValueError):
            raise ApiError(400, f"Timestamp parameter {name} is not a valid unix timestamp") from None

    def at(self, name: str = "timestamp", default: float | None = None) -> datetime:
        """Time given in seconds, now by default."""
        when = self.moment(name, time.time() if default is None else default)
        assert when is not None
        return when

    def bounds(self) -> Ints | None:
        """Bounds ``x0-x1_y0-y1_z0-z1`` in voxels, int64 (2, 3), if given."""
        given = self.arg("bounds")
        if given is None:
            return None
        bounds = np.array([axis.split("-") for axis in given.split("_")], dtype=int).T
        if bounds.shape[1] != len("xyz"):
            raise IndexError(f"bounds of {bounds.shape[1]} axes")
        return bounds


Handler = Callable[[Call], Response]


class _Encoder(json.JSONEncoder):
    def __init__(self, *, int64_as_str: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.int64_as_str = int64_as_str

    def default(self, value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            if self.int64_as_str and value.dtype.kind in "iu" and value.dtype.itemsize == 8:
                return value.astype(str).tolist()
            return value.tolist()
        if isinstance(value, datetime):
            return str(value)
        if hasattr(value, "to_json"):
            return value.to_json()
        return super().default(value)


def jsonify(value: Any, call: Call | None = None, *, status: int = 200, **options: Any) -> Response:
    """Return a JSON response; the value may hold numpy arrays and scalars, times and frames.

    64-bit numbers of numpy become text where the call asks for ``int64_as_str``. Options are those of `Response`.
    """
    as_text = call is not None and call.flag("int64_as_str")
    body = json.dumps(value, cls=_Encoder, int64_as_str=as_text, sort_keys=True)
    options.setdefault("media_type", "application/json")
    return Response(harmless(body) + "\n", status_code=status, **options)


def harmless(body: str) -> str:
    """Write JSON so that it means the same, and holds no markup where a service sends it as HTML."""
    return body.replace("<", "\\u003c")


def binary(ids: Any) -> Response:
    """Return raw little-endian 64-bit integers; the type is what Flask calls any bytes."""
    return Response(np.ascontiguousarray(ids).astype("<i8").tobytes(), media_type="text/html")


def unsigned(ids: Any) -> Any:
    """Ids as the services know them, for answers that repeat what was asked: without a sign."""
    return np.asarray(ids, dtype=np.int64).view(np.uint64)


def text(body: str | bytes) -> Response:
    """Return text or bytes; the type is what Flask calls both."""
    return Response(body, media_type="text/html")


def route(world: World, path: str, handler: Handler, methods: tuple[str, ...] = ("GET",)) -> Route:
    """Route whose handler runs in a worker thread; whatever it raises is answered as the real services do."""

    async def endpoint(request: Request) -> Response:
        body = await request.body()
        if request.method not in methods:
            return status_page(405)
        return await run_in_threadpool(_answer, world, handler, request, body)

    return Route(path, endpoint, methods=["GET", "POST", "PUT", "DELETE"])


def index_routes(world: World, prefix: str, index: str) -> list[Route]:
    """Routes of a service's page that names it; without the slash at its end one is sent there."""

    async def with_slash(request: Request) -> Response:
        target = str(request.url.replace(path=f"{prefix}/"))
        page = redirect_text(target)
        return Response(page, status_code=308, headers={"location": target}, media_type="text/html")

    return [
        route(world, f"{prefix}/", lambda _: text(index)),
        route(world, f"{prefix}/index", lambda _: text(index)),
        Route(prefix, with_slash),
    ]


def anything_else(service: str) -> Route:
    """Route for all paths of a service that no other route serves; it goes behind them."""
    return Route(f"/{service}/{{rest:path}}", unserved, methods=["GET", "POST", "PUT", "DELETE"])


def _answer(world: World, handler: Handler, request: Request, body: bytes) -> Response:
    call = Call(world, request, body)
    try:
        if "gzip" in request.headers.get("content-encoding", "").lower():
            call.body = gzip.decompress(body)
        _check_table(call)
        return handler(call)
    except ApiError as error:
        return _failure(call, error.status, str(error))
    except EditError as error:
        return _failure(call, 400, f"[400]: {error}")
    except Exception as error:  # the real services turn every error into this answer
        logger.debug("%s failed", request.url.path, exc_info=error)
        return _failure(call, 500, str(error), traceback=[f"{type(error).__name__}: {error}\n"])


def _check_table(call: Call) -> None:
    table = call.request.path_params.get("table")
    if table is not None and (table != call.world.names.pcg_table or not call.graph.available):
        place = f"projects/{call.world.names.datastack}/instances/pychunkedgraph/tables/{table}"
        raise LookupError(f'404 table "{place}" not found')


def _failure(call: Call, status: int, message: str, **more: Any) -> Response:
    duration = (datetime.now(UTC) - call.started).total_seconds() * 1000
    stamp = str(call.started.replace(tzinfo=None))
    return jsonify(
        {"timestamp": stamp, "duration": duration, "code": status, "message": message, **more}, status=status
    )


def service_time(micros: int) -> str:
    """Text of a time in the services' messages: whole milliseconds, with zone."""
    return str(moment(int(micros) // 1000 * 1000))
