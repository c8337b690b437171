"""Neuroglancer, served by the sandbox itself: the client that the ``neuroglancer`` wheel ships, and what it talks to.

The wheel's client is the one for Python programs. Its page must lie at ``/v/TOKEN``, and it keeps a stream of events
open, over which a picture of the canvas can be asked for.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import mimetypes
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from cortexclient.sandbox.responses import json_response
from cortexclient.sandbox.viewer_state import neuron_state

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.world import World

__all__ = ["Viewer", "routes"]

# the client knows how to get a token for https only; a sandbox is plain http
_HTTPS_ONLY = b'for(let r of["https"])e.registerBaseKvStoreProvider'
_HTTP_TOO = b'for(let r of["https","http"])e.registerBaseKvStoreProvider'
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


def routes(world: World) -> list[BaseRoute]:
    """Routes of the viewer."""
    folder = client_folder()
    viewer = world.viewer

    def page(request: Request) -> Response:
        name = request.path_params.get("name") or "index.html"
        if name == "version.json":
            return json_response({"site": "sandbox", "url": world.viewer_site})
        if folder is None:
            text = 'Neuroglancer is not installed here; run: python -m pip install "cortexclient[sandbox]"'
            return Response(text, 404, media_type="text/plain")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return Response("Not Found", 404, media_type="text/plain")
        body = path.read_bytes()
        if name == "index.html":  # without a trailing slash the page's own files would be sought one level up
            base = f'<base href="/v/{request.path_params["token"]}/">'.encode()
            body = body.replace(b"<head>", b"<head>" + base, 1)
        elif path.suffix == ".js":
            body = body.replace(_HTTPS_ONLY, _HTTP_TOO)
        media = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(body, media_type=media)

    async def events(request: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            yield ": ok\n\n"
            seen = 0
            while not world.closing.is_set() and not await request.is_disconnected():
                fresh = viewer.orders_after(seen)
                seen += len(fresh)
                for message in fresh:
                    yield message
                await asyncio.sleep(POLL_SECONDS)

        return StreamingResponse(
            stream(), media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )

    async def action(request: Request) -> Response:
        body = await request.body()
        try:
            viewer.heard(json.loads(body))
        except ValueError:
            return Response("Bad Request", 400, media_type="text/plain")
        return json_response({})

    async def state(request: Request) -> Response:
        await request.body()
        return json_response({})

    async def credentials(request: Request) -> Response:
        await request.body()
        token = next(iter(world.options.tokens))
        return json_response({"generation": 1, "credentials": {"tokenType": "Bearer", "accessToken": token}})

    async def neuron(request: Request) -> Response:
        found = await run_in_threadpool(neuron_state, world, int(request.path_params["root"]))
        return json_response(found)

    def version(_: Request) -> Response:
        return json_response({"site": "sandbox", "url": world.viewer_site})

    return [
        Route("/v/{token}", page),
        Route("/v/{token}/{name:path}", page),
        Route("/events/{token}", events),
        Route("/action/{token}", action, methods=["POST"]),
        Route("/state/{token}", state, methods=["POST"]),
        Route("/credentials/{token}", credentials, methods=["POST"]),
        Route("/viewer/neuron/{root:int}.json", neuron),
        Route("/version.json", version),
    ]
