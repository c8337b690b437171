"""The Neuroglancer state service: JSON documents and segment properties, kept in memory under running numbers."""

from __future__ import annotations

import itertools
import json
import threading
import zlib
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from cortexclient.sandbox.routes.auth import USER
from cortexclient.sandbox.routes.calls import anything_else

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.world import World

__all__ = ["STATE_VERSION", "routes"]

STATE_VERSION = "0.7.2"
_PREFIX = "/nglstate/api/v1"
_FAILURE = (
    "<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n<h1>Internal Server Error</h1>\n"
    "<p>The server encountered an internal error and was unable to complete your request. Either the server is "
    "overloaded or there is an error in the application.</p>\n"
)


class _Shelf:
    """Documents under running numbers; states and properties share the numbers."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._documents: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()

    def put(self, kind: str, document: Any) -> int:
        with self._lock:
            number = next(self._numbers)
            self._documents[kind, number] = document
        return number

    def get(self, kind: str, number: str) -> Any:
        return self._documents[kind, int(number)]


def routes(world: World) -> list[BaseRoute]:
    """Routes of the state service."""
    shelf = _Shelf()

    async def post(request: Request) -> Response:
        kind = "property" if "/property/" in request.url.path else "state"
        form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        try:
            # the real service's framework eats a form-encoded body before the service sees it
            document = json.loads(b"" if form else await request.body())
        except ValueError:
            return _failure()
        part = "property/" if kind == "property" else ""
        return _json(f"{world.base_url}{_PREFIX}/{part}{shelf.put(kind, document)}")

    async def get(request: Request) -> Response:
        kind = "property" if "/property/" in request.url.path else "state"
        raw = "/raw/" in request.url.path
        try:
            document = shelf.get(kind, request.path_params["number"])
        except (KeyError, ValueError):
            return _failure()
        if raw:
            # as sent, and as it is stored: compressed
            return Response(zlib.compress(json.dumps(document).encode()), media_type="text/html")
        return _json(document)

    async def refuse(_: Request) -> Response:
        # storing over an existing number takes rights that nobody has here
        return _failure()

    async def version(_: Request) -> Response:
        return _json(STATE_VERSION)

    async def table_info(request: Request) -> Response:
        user = getattr(request.scope.get(USER), "id", 0)
        # the project of the store, where one deployment has one datastack
        name = world.names.datastack
        return Response(f"User: {user} - project {name} - table {name}", media_type="text/html")

    return [
        Route(f"{_PREFIX}/post", post, methods=["POST"]),
        Route(f"{_PREFIX}/property/post", post, methods=["POST"]),
        Route(f"{_PREFIX}/post/{{number}}", refuse, methods=["POST"]),
        Route(f"{_PREFIX}/property/post/{{number}}", refuse, methods=["POST"]),
        Route(f"{_PREFIX}/version", version),
        Route(f"{_PREFIX}/table_info", table_info),
        Route(f"{_PREFIX}/raw/{{number}}", get),
        Route(f"{_PREFIX}/property/{{number}}/info", get),
        Route(f"{_PREFIX}/property/{{number}}", get),
        Route(f"{_PREFIX}/{{number}}", get),
        anything_else("nglstate"),
    ]


def _json(value: Any) -> Response:
    return Response(json.dumps(value) + "\n", media_type="application/json")


def _failure() -> Response:
    return Response(_FAILURE, status_code=500, media_type="text/html")
