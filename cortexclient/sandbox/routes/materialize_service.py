"""What all routes of the materialization service share: refusals, rate limits, arguments and errors."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.routing import Route

from cortexclient.sandbox.authorize import USER
from cortexclient.sandbox.responses import json_response
from cortexclient.sandbox.routes.info import knows_datastack, unknown_datastack
from cortexclient.sandbox.routes.materialize_body import RefusedError
from cortexclient.sandbox.routes.pages import not_found_page
from cortexclient.sandbox.stores.tables_errors import QueryError, aborted

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cortexclient.sandbox.stores.tables import TableStore
    from cortexclient.sandbox.world import World

__all__ = ["Ask", "Service", "failure", "parsed_body"]

logger = logging.getLogger(__name__)

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_STATUS = re.compile(r"^([45]\d\d) [A-Z]")
_RATE = re.compile(r"^\s*(\d+)\s*(?:per|/)\s*(\d*)\s*(second|minute|hour|day)s?\s*$")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
# most requests that are worked on at a time: more would all take longer, and no answer be ready early
_AT_WORK = min(4, max(2, os.cpu_count() or 2))
_NUMBER, _WHOLE = re.compile(r"-?\d+"), re.compile(r"\d+")

Answer = Callable[["Ask"], "Response"]


def failure(message: str, *, strict: bool) -> Response:
    """An error in the service's shape.

    The status that was meant stands in the text and the real one is 500, unless the sandbox is asked to be sane.
    """
    found = _STATUS.match(message)
    status = int(found.group(1)) if found and not strict else 500
    headers = {"Retry-After": "60"} if status == 429 else None
    return json_response({"code": status, "message": message, "traceback": []}, status, headers)


@dataclass
class Ask:
    """One request to the service, with what is known about it so far."""

    request: Request
    body: bytes
    world: World
    store: TableStore
    datastack: str
    version: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])


class Service:
    """Builds the routes of the service.

    Parameters
    ----------
    world : World
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._asked: dict[tuple[Any, str], tuple[float, int]] = {}
        self._lock = threading.Lock()
        self._at_work = anyio.CapacityLimiter(_AT_WORK)

    def route(
        self,
        path: str,
        answer: Answer,
        *,
        method: str = "GET",
        checked: bool = True,
        limited: bool = True,
        signed: bool = True,
    ) -> Route:
        """A route.

        Parameters
        ----------
        path : str
            With ``{datastack}`` and perhaps ``{version}``.
        answer : callable
            Runs in a worker thread.
        method : str
            The only one allowed.
        checked : bool
            Refuse versions that were never made before anything else.
        limited : bool
            Count requests against the rate limit.
        signed : bool
            The version in the path may be negative.
        """
        number = _NUMBER if signed else _WHOLE

        async def serve(request: Request) -> Response:
            body = await request.body()
            if not number.fullmatch(request.path_params.get("version", "0")):
                return not_found_page()
            return await anyio.to_thread.run_sync(
                self._serve, request, body, answer, method, checked, limited, limiter=self._at_work
            )

        return Route(path, serve, methods=_METHODS)

    def _serve(
        self, request: Request, body: bytes, answer: Answer, method: str, checked: bool, limited: bool
    ) -> Response:
        strict = self.world.options.strict
        asked = request.method if request.method != "HEAD" else "GET"
        if asked != method:
            text = "405 Method Not Allowed: The method is not allowed for the requested URL."
            return failure(text, strict=strict)
        version = request.path_params.get("version", "0")
        ask = Ask(
            request, body, self.world, self.world.tables, request.path_params["datastack"], int(version)
        )
        try:
            if limited:
                self._count(request)
            self._check(ask, checked)
            return answer(ask)
        except RefusedError as refusal:
            return refusal.response()
        except QueryError as error:
            return failure(str(error), strict=strict)
        except Exception as error:
            logger.info("%s %s failed", request.method, request.url.path, exc_info=True)
            return failure(str(error), strict=strict)

    def _count(self, request: Request) -> None:
        rate = self.world.options.query_rate
        if rate is None:
            return
        found = _RATE.match(rate)
        if found is None:
            raise ValueError(f"query_rate {rate!r} is not understood; write it as '2 per 1 minute'")
        most, span = int(found.group(1)), int(found.group(2) or 1) * _SECONDS[found.group(3)]
        user = request.scope.get(USER)
        key = (None if user is None else user.id, str(request.scope["route"].path))
        now = time.monotonic()
        with self._lock:
            # a window begins with its first request, and those that are refused count too
            began, asked = self._asked.get(key, (now, 0))
            if now - began >= span:
                began, asked = now, 0
            self._asked[key] = began, asked + 1
        if asked >= most:
            raise aborted(429, f"{most} per {found.group(2) or 1} {found.group(3)}")

    def _check(self, ask: Ask, checked: bool) -> None:
        if ask.datastack != self.world.names.datastack:
            if not knows_datastack(self.world, ask.datastack):
                raise QueryError(unknown_datastack(self.world, ask.datastack))
            ask.store = ask.store.without_versions()
            checked = checked and ask.version != -1
            if checked:
                raise aborted(404, f"version {ask.version or None} not found in {ask.datastack}")
        if checked and ask.version not in (0, -1) and ask.store.version(ask.version) is None:
            raise aborted(404, f"version {ask.version} not found in {ask.datastack}")


def parsed_body(body: bytes) -> Any:
    """JSON of a request.

    Raises
    ------
    QueryError
        If it is none.
    """
    try:
        return json.loads(body)
    except ValueError:
        raise aborted(
            400, "The browser (or proxy) sent a request that this server could not understand."
        ) from None
