"""Neuroglancer, served by the sandbox itself: the client that the ``neuroglancer`` wheel ships, and what it talks to.

The wheel's client is the one for Python programs. Its page must lie at ``/v/TOKEN``, and it keeps a stream of events
open, over which a picture of the canvas can be asked for.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import mimetypes
import re
import threading
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cortexclient.sandbox.authorize import USER
from cortexclient.sandbox.layout import path_inside
from cortexclient.sandbox.responses import json_response
from cortexclient.sandbox.viewer_state import neuron_state
from cortexclient.sandbox.world import SANDBOX_TOKEN

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.access import User
    from cortexclient.sandbox.world import World

__all__ = ["Viewer", "routes"]

# what is mended in the client while it is served: (pattern, replacement)
_MENDED = (
    # it knows how to get a token for https only; a sandbox is plain http
    (
        re.compile(rb'for\(let (\w+) of\["https"\]\)(\w+)\.registerBaseKvStoreProvider'),
        rb'for(let \1 of["https","http"])\2.registerBaseKvStoreProvider',
    ),
    # it makes all layers before it fills any. When the machine is busy the state is read in between: an annotation
    # layer that has no relations yet raises, and the layer that is being filled, whichever it is, is dropped for it
    (
        re.compile(rb'1===(\w+)\.length&&"segments"===\1\[0\]\?void 0:\1'),
        rb'1===\1?.length&&"segments"===\1[0]?void 0:\1',
    ),
)
_TYPES = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".html": "text/html"}
POLL_SECONDS = 0.1


def client_folder() -> Path | None:
    """Folder of the client's files; None where the ``neuroglancer`` package is not installed."""
    found = importlib.util.find_spec("neuroglancer")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "static" / "client"
    return folder if (folder / "index.html").is_file() else None


class Viewer:
    """What open pages are told and what they answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: list[str] = []
        self.actions: list[dict[str, Any]] = []

    def order(self, config: dict[str, Any]) -> None:
        """Tell every open page something, such as ``{"screenshot": "an id"}``."""
        with self._lock:
            number = len(self._orders) + 1
            message = json.dumps({"k": "c", "s": config, "g": str(number)})
            self._orders.append(f"data: {message}\n\n")

    def orders_after(self, seen: int) -> list[str]:
        """Orders that a page has not been told yet."""
        with self._lock:
            return self._orders[seen:]

    def heard(self, action: dict[str, Any]) -> None:
        """Keep what a page has sent."""
        with self._lock:
            self.actions.append(action)

    def screenshot(self, name: str) -> dict[str, Any] | None:
        """Picture that a page has sent for an order of that id."""
        with self._lock:
            for action in self.actions:
                picture = action.get("state", {}).get("screenshot")
                if action.get("action") == "screenshot" and picture and picture.get("id") == name:
                    found: dict[str, Any] = picture
                    return found
        return None


def client_file(folder: Path | None, token: str, name: str) -> Response:
    """One file of the client, mended where it has to be.

    Parameters
    ----------
    folder : Path or None
        Where the client lies.
    token : str
        Part of the page's address.
    name : str
        File.
    """
    if folder is None:
        text = 'Neuroglancer is not installed here; run: python -m pip install "cortexclient[sandbox]"'
        return Response(text, 404, media_type="text/plain")
    path = path_inside(folder.resolve(), name)
    if path is None or not path.is_file():
        return Response("Not Found", 404, media_type="text/plain")
    body = path.read_bytes()
    if name == "index.html":  # without a trailing slash the page's own files would be sought one level up
        base = f'<base href="/v/{escape(quote(token, safe=""))}/">'.encode()
        body = body.replace(b"<head>", b"<head>" + base, 1)
    elif path.suffix == ".js":
        for pattern, mended in _MENDED:
            body = pattern.sub(mended, body)
    media = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(body, media_type=media)


def routes(world: World) -> list[BaseRoute]:
    """Routes of the viewer."""
    service = _Service(world)
    return [
        Route("/v/{token}", service.page),
        Route("/v/{token}/{name:path}", service.page),
        Route("/events/{token}", service.events),
        Route("/action/{token}", service.action, methods=["POST"]),
        Route("/state/{token}", service.state, methods=["POST"]),
        Route("/credentials/{token}", service.credentials, methods=["POST"]),
        Route("/viewer/neuron/{root:int}.json", service.neuron),
        Route("/version.json", service.version),
    ]


class _Service:
    """Handlers; each answers one route."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.folder = client_folder()

    def page(self, request: Request) -> Response:
        name = request.path_params.get("name") or "index.html"
        if name == "version.json":
            return self.version(request)
        return client_file(self.folder, request.path_params["token"], name)

    async def events(self, request: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            yield ": ok\n\n"
            seen = 0
            while not self.world.closing.is_set() and not await request.is_disconnected():
                fresh = self.world.viewer.orders_after(seen)
                seen += len(fresh)
                for message in fresh:
                    yield message
                await asyncio.sleep(POLL_SECONDS)

        headers = {"cache-control": "no-cache"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    async def action(self, request: Request) -> Response:
        body = await request.body()
        try:
            self.world.viewer.heard(json.loads(body))
        except ValueError:
            return Response("Bad Request", 400, media_type="text/plain")
        return json_response({})

    async def state(self, request: Request) -> Response:
        await request.body()
        return json_response({})

    async def credentials(self, request: Request) -> Response:
        """Give the page's own reader their token back; nobody without a valid cookie or header gets here."""
        await request.body()
        user: User | None = request.scope.get(USER)
        token = SANDBOX_TOKEN if user is None else user.tokens[0]
        return json_response({"generation": 1, "credentials": {"tokenType": "Bearer", "accessToken": token}})

    async def neuron(self, request: Request) -> Response:
        found = await run_in_threadpool(neuron_state, self.world, int(request.path_params["root"]))
        return json_response(found)

    def version(self, _: Request) -> Response:
        return json_response({"site": "sandbox", "url": self.world.viewer_site})
