"""Static files of the image and segmentation volumes, under ``/precomputed/``; ranges, gzip twins, any file name."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.world import World

__all__ = ["path_inside", "routes"]

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


def routes(world: World) -> list[BaseRoute]:
    """Route of the static volumes."""
    root = world.folder.file("precomputed").resolve()

    def static(request: Request) -> Response:
        # a path that climbs out of the folder finds nothing
        path = path_inside(root, request.path_params["path"])
        if path is None:
            return _missing()
        # level-2 ids that an edit made have no file; their meshes are made when they are asked for
        made = None if path.is_file() else world.graph.meshes.made(path.name)
        if made is not None:
            return Response(made, media_type="application/octet-stream")
        return serve(path, request)

    return [Route("/precomputed/{path:path}", static, methods=["GET", "HEAD"])]


def path_inside(root: Path, name: str) -> Path | None:
    """Resolve a name that a client sent; None where it leads out of the folder or no file can be called so."""
    try:
        path = (root / name).resolve()
        path.is_file()
    except (OSError, ValueError):  # too long, or it holds a NUL
        return None
    return path if path.is_relative_to(root) else None


def serve(path: Path, request: Request) -> Response:
    """Answer a file, or the gzip twin that stands for it; 404 where there is neither."""
    headers = {"accept-ranges": "bytes"}
    twin = path_inside(path.parent, path.name + ".gz")
    if path.is_file():
        body = path.read_bytes()
    elif twin is not None and twin.is_file():
        body = twin.read_bytes()
        headers["content-encoding"] = "gzip"
    else:
        return _missing()
    kind = "application/json" if path.name in {"info", "provenance"} else mimetypes.guess_type(path.name)[0]
    media = kind or "application/octet-stream"
    asked = request.headers.get("range")
    if asked is None or "content-encoding" in headers:
        return Response(body, headers=headers, media_type=media)
    span = _span(asked, len(body))
    if span is None:
        return Response(status_code=416, headers={"content-range": f"bytes */{len(body)}"})
    first, last = span
    headers["content-range"] = f"bytes {first}-{last}/{len(body)}"
    return Response(body[first : last + 1], 206, headers=headers, media_type=media)


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


def _missing() -> Response:
    return Response("Not Found", 404, media_type="text/plain")
