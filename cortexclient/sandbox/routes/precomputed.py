"""Static files of the image and segmentation volumes, under ``/precomputed/``; ranges, gzip twins, any file name."""

from __future__ import annotations

import mimetypes
import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.world import World

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


def routes(world: World) -> list[BaseRoute]:
    """Route of the static volumes."""

    def static(request: Request) -> Response:
        name = request.path_params["path"]
        # level-2 ids that an edit made have no file; their meshes are made when they are asked for
        made = world.graph.meshes.made(name.rsplit("/", 1)[-1]) if world.graph.available else None
        if made is not None:
            return Response(made, media_type="application/octet-stream")
        found = world.folder.content(name)
        if found is None:
            return Response("Not Found", 404, media_type="text/plain")
        return serve(*found, name, request)

    return [Route("/precomputed/{path:path}", static, methods=["GET", "HEAD"])]


def serve(body: bytes, packed: bool, name: str, request: Request) -> Response:
    """Return a file, which may be gzipped, or the requested range of it."""
    headers = {"accept-ranges": "bytes"}
    if packed:
        headers["content-encoding"] = "gzip"
    last = name.rsplit("/", 1)[-1]
    kind = "application/json" if last in {"info", "provenance"} else mimetypes.guess_type(last)[0]
    media = kind or "application/octet-stream"
    asked = request.headers.get("range")
    if asked is None or packed:
        return Response(body, headers=headers, media_type=media)
    span = _span(asked, len(body))
    if span is None:
        return Response(status_code=416, headers={"content-range": f"bytes */{len(body)}"})
    first, last_byte = span
    headers["content-range"] = f"bytes {first}-{last_byte}/{len(body)}"
    return Response(body[first : last_byte + 1], 206, headers=headers, media_type=media)


def _span(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range; None where it cannot be satisfied."""
    match = _RANGE.match(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    return (start, end) if start <= end and start < size else None
