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
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.access import USER, User
from cortexclient.sandbox.arrays import Bools, Floats
from cortexclient.sandbox.layout import path_inside
from cortexclient.sandbox.routes.pages import json_response
from cortexclient.sandbox.world import SANDBOX_TOKEN, World

MAX_SYNAPSES = 2000
MAX_EXAMPLES = 50
# how wide a voxel of the segmentation is drawn
PIXELS_PER_VOXEL = 8
SIDES = {"pre": "#33c1ff", "post": "#ff5533"}


def example_roots(world: World, count: int = 5) -> list[int]:
    """Find some neurons worth looking at: current roots of the soma table, or simply current roots."""
    if not world.graph.available:
        return []
    roots = world.graph.alive()
    rows = world.folder.live_rows(world.folder.info.get("soma_table"))
    if rows is not None and "pt_supervoxel_id" in rows:
        supervoxels = rows["pt_supervoxel_id"].fillna(0).to_numpy(np.int64)
        somas = world.graph.roots(supervoxels[supervoxels > 0])
        roots = somas[somas > 0] if (somas > 0).any() else roots
    found = list(dict.fromkeys(roots.tolist()))[:MAX_EXAMPLES]
    # those that the image shows come first
    return sorted(found, key=lambda root: not _imaged(world, _points(world, root)).any())[:count]


def neuron_state(world: World, root: int) -> dict[str, Any]:
    """Neuroglancer state that shows one neuron.

    Ids are strings, positions are voxels of the viewer's resolution.
    """
    info = world.folder.info
    resolution = np.array([float(info[f"viewer_resolution_{axis}"]) for axis in ("x", "y", "z")])
    synapses = _synapses(world, root, resolution)
    position, extent = _frame(world, root, resolution, [place for _, _, place in synapses])
    voxel = float(world.graph.info["scales"][0]["resolution"][0])
    layers: list[dict[str, Any]] = []
    if world.folder.file("precomputed", "img", "info").is_file():
        layers.append({"type": "image", "name": "image", "source": world.image_source})
    layers.append(
        {
            "type": "segmentation",
            "name": "segmentation",
            "source": world.segmentation_source,
            "segments": [str(root)],
            "segmentColors": {str(root): "#ffd24a"},
        }
    )
    layers += [
        _annotations(side, synapses, resolution) for side in SIDES if any(s == side for s, _, _ in synapses)
    ]
    return {
        "dimensions": {axis: [float(size) * 1e-9, "m"] for axis, size in zip("xyz", resolution, strict=True)},
        "position": position,
        "crossSectionScale": voxel / PIXELS_PER_VOXEL / float(resolution[0]),
        "projectionScale": extent,
        "layout": "xy-3d",
        "showSlices": False,
        "showDefaultAnnotations": False,
        "layers": layers,
        "selectedLayer": {"layer": "segmentation", "visible": False},
    }


def _annotations(
    side: str, synapses: list[tuple[str, int, list[float]]], resolution: Floats
) -> dict[str, Any]:
    dimensions = {axis: [float(size) * 1e-9, "m"] for axis, size in zip("xyz", resolution, strict=True)}
    return {
        "type": "annotation",
        "name": f"{side}synaptic sites",
        "source": {"url": "local://annotations", "transform": {"outputDimensions": dimensions}},
        "annotationColor": SIDES[side],
        "shader": "void main() { setColor(defaultColor()); setPointMarkerSize(8.0); }",
        "annotations": [
            {"type": "point", "id": str(number), "point": position}
            for which, number, position in synapses
            if which == side
        ],
    }


def _synapses(world: World, root: int, resolution: Floats) -> list[tuple[str, int, list[float]]]:
    table = world.folder.info.get("synapse_table")
    rows = world.folder.live_rows(table)
    if rows is None or "ctr_pt_position_x" not in rows:
        return []
    mine = np.sort(np.asarray(world.graph.supervoxels(root), np.int64))
    scale = np.array(world.folder.voxel_nm(table)) / resolution
    found: list[tuple[str, int, list[float]]] = []
    for side in SIDES:
        part = rows[np.isin(rows[f"{side}_pt_supervoxel_id"].fillna(0).to_numpy(np.int64), mine)].head(
            MAX_SYNAPSES
        )
        places = part[[f"ctr_pt_position_{axis}" for axis in ("x", "y", "z")]].to_numpy(np.float64) * scale
        found += [
            (side, int(number), place.tolist()) for number, place in zip(part["id"], places, strict=True)
        ]
    return found


def _image_box(world: World) -> tuple[Floats, Floats] | None:
    """Corners of the image volume, nm: it may be much smaller than the segmentation."""
    info = world.folder.json("precomputed", "img", "info")
    if not info:
        return None
    scale = info["scales"][0]
    low = np.array(scale["voxel_offset"], np.float64)
    size = np.array(scale["resolution"], np.float64)
    return low * size, (low + np.array(scale["size"], np.float64)) * size


def _points(world: World, root: int) -> Floats:
    """Representative points of a root's level-2 ids, nm (n, 3)."""
    attributes = world.l2cache.get(world.graph.l2_ids(root), ["rep_coord_nm"]).values()
    return np.array([row["rep_coord_nm"] for row in attributes if "rep_coord_nm" in row], np.float64).reshape(
        -1, 3
    )


def _imaged(world: World, points: Floats) -> Bools:
    """Which points lie well inside the image volume."""
    box = _image_box(world)
    if box is None:
        return np.zeros(len(points), bool)
    margin = (box[1] - box[0]) / 8
    return np.asarray(((points > box[0] + margin) & (points < box[1] - margin)).all(axis=1), bool)


def _frame(
    world: World, root: int, resolution: Floats, places: list[list[float]]
) -> tuple[list[float], float]:
    """Where to look, and how far the view must reach: a point of the neuron, in the image if possible."""
    points = _points(world, root)
    if not len(points):
        points = np.array(places, np.float64).reshape(-1, 3) * resolution
    if not len(points):
        return [0.0, 0.0, 0.0], 1000.0
    inside = _imaged(world, points)
    candidates = points[inside] if inside.any() else points
    middle = (candidates.min(axis=0) + candidates.max(axis=0)) / 2
    nearest = candidates[np.argmin(np.linalg.norm(candidates - middle, axis=1))]
    reach = float(np.abs(points - nearest).max() / resolution[0])
    return (nearest / resolution).tolist(), 2.2 * max(reach, 100.0)


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
    """Commands for open pages, and what they send back."""

    def __init__(self) -> None:
        self._orders: list[str] = []
        self.actions: list[dict[str, Any]] = []  # what pages have sent

    def order(self, config: dict[str, Any]) -> None:
        """Send every open page a command, such as ``{"screenshot": "an id"}``."""
        message = json.dumps({"k": "c", "s": config, "g": str(len(self._orders) + 1)})
        self._orders.append(f"data: {message}\n\n")

    def orders_after(self, seen: int) -> list[str]:
        """Commands that a page has not received yet."""
        return self._orders[seen:]

    def screenshot(self, name: str) -> dict[str, Any] | None:
        """Picture that a page has sent for an order of that id."""
        for action in self.actions:
            picture: dict[str, Any] | None = action.get("state", {}).get("screenshot")
            if action.get("action") == "screenshot" and picture and picture.get("id") == name:
                return picture
        return None


def client_file(folder: Path | None, token: str, name: str) -> Response:
    """One file of the client, mended where it has to be; the token is a part of the page's address."""
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
    service = _Pages(world)
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


class _Pages:
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
            self.world.viewer.actions.append(json.loads(body))
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
