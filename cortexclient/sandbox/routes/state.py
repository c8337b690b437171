"""The Neuroglancer state service: JSON documents and segment properties, kept in memory under running numbers."""

from __future__ import annotations

import itertools
import json
import zlib
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.access import USER
from cortexclient.sandbox.routes.calls import anything_else
from cortexclient.sandbox.routes.pages import json_response, status_page
from cortexclient.sandbox.world import World

STATE_VERSION = "0.7.2"
# states alone are also served where they were before the service had versions
_PREFIX, _OLD_PREFIX = "/nglstate/api/v1", "/nglstate"


class _States:
    """Handlers; each answers one or more routes. States and properties share their running numbers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._numbers = itertools.count(1)
        self._used: set[int] = set()
        self._documents: dict[tuple[str, int], Any] = {}

    async def post(self, request: Request) -> Response:
        form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        given = request.path_params.get("number")
        try:
            # the real service's framework eats a form-encoded body before the service sees it
            document = json.loads(b"" if form else await request.body())
            free = (number for number in self._numbers if number not in self._used)
            number = next(free) if given is None else int(given)
        except ValueError:
            return status_page(500)
        if (_kind(request), number) in self._documents:
            return status_page(500)
        self._used.add(number)
        self._documents[_kind(request), number] = document
        above = request.url.path.rstrip("/").rpartition("/")[0]
        return json_response(f"{self.world.base_url}{above}/{number}")

    async def get(self, request: Request) -> Response:
        try:
            document = self._documents[_kind(request), int(request.path_params["number"])]
        except (KeyError, ValueError):
            return status_page(500)
        if "/raw/" in request.url.path:
            # as sent, and as it is stored: compressed
            return Response(zlib.compress(json.dumps(document).encode()), media_type="text/html")
        return json_response(document)

    async def post_only(self, _: Request) -> Response:
        return status_page(405)

    async def index(self, _: Request) -> Response:
        return Response(f"NeuroglancerJsonServer - v{STATE_VERSION}", media_type="text/html")

    async def version(self, _: Request) -> Response:
        return json_response(STATE_VERSION)

    async def table_info(self, request: Request) -> Response:
        user = getattr(request.scope.get(USER), "id", 0)
        # the project of the store, where one deployment has one datastack
        name = self.world.names.datastack
        return Response(
            f"User: {user} - project {escape(name)} - table {escape(name)}", media_type="text/html"
        )


def _kind(request: Request) -> str:
    return "property" if "/property/" in request.url.path else "state"


def routes(world: World) -> list[BaseRoute]:
    """Routes of the state service."""
    service = _States(world)
    both = [
        route
        for prefix in (_PREFIX, _OLD_PREFIX)
        for route in (
            Route(f"{prefix}/", service.index),
            Route(f"{prefix}/index", service.index),
            # asked for with GET, it is a document without a body
            Route(f"{prefix}/post", service.post, methods=["GET", "POST"]),
            Route(f"{prefix}/raw/{{number}}", service.get),
        )
    ]
    return [
        *both,
        Route(f"{_PREFIX}/version", service.version),
        Route(f"{_PREFIX}/table_info", service.table_info),
        Route(f"{_PREFIX}/post/{{number}}", service.post, methods=["GET", "POST"]),
        Route(f"{_PREFIX}/property/post", service.post, methods=["POST"]),
        Route(f"{_PREFIX}/property/post", service.post_only),
        Route(f"{_PREFIX}/property/post/{{number}}", service.post, methods=["GET", "POST"]),
        Route(f"{_PREFIX}/property/raw/{{number}}", service.get),
        Route(f"{_PREFIX}/property/{{number}}/info", service.get),
        Route(f"{_PREFIX}/{{number}}", service.get),
        Route(f"{_OLD_PREFIX}/{{number}}", service.get),
        anything_else("nglstate"),
    ]
