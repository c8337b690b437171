"""The skeleton service (SkeletonService 0.23)."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.routing import Route

from cortexclient.sandbox.responses import json_response
from cortexclient.sandbox.stores.skeleton_formats import (
    FORMATS,
    LATEST,
    VERSIONS,
    encode,
    precomputed_info,
    real_version,
    to_swc,
)
from cortexclient.sandbox.stores.skeletons import SkeletonError, SkeletonStore

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from cortexclient.sandbox.world import World

__all__ = ["routes"]

VERSION = "0.23.11"
MAX_BULK = 10
MAX_CACHED = 500
# seconds that the service expects one skeleton to take, divided over its workers
SECONDS_EACH, WORKERS = 60.0, 10
CRASH = (
    "<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n<h1>Internal Server Error</h1>\n<p>The "
    "server encountered an internal error and was unable to complete your request. Either the server is overloaded or "
    "there is an error in the application.</p>\n"
)


def routes(world: World) -> list[BaseRoute]:
    """Routes of the skeleton service."""
    service = _Service(world)
    base = "/skeletoncache/api/v1/{datastack}"
    stored = f"{base}/precomputed/skeleton"
    return [
        Route("/skeletoncache/api/version", lambda _: json_response(VERSION)),
        Route("/skeletoncache/api/versions", lambda _: json_response(list(VERSIONS))),
        Route(f"{stored}/info", service.info),
        Route(f"{stored}/get_refusal_list", service.refusal_list),
        Route(f"{stored}/exists", service.exists, methods=["POST"]),
        Route(f"{stored}/exists/{{version}}/{{roots}}", lambda _: _crash()),
        Route(f"{stored}/query_cache/{{version}}/{{prefixes}}/{{limit}}", service.query_cache),
        Route(f"{stored}/{{version:int}}/info", service.info),
        Route(f"{stored}/{{version}}/{{root:int}}/{{form}}", service.one),
        Route(f"{stored}/{{version}}/{{root:int}}", service.one),
        Route(f"{stored}/{{root:int}}", service.one),
        Route(f"{base}/async/get_skeleton/{{version}}/{{root:int}}/{{form}}", service.one),
        Route(f"{base}/async/get_skeleton/{{version}}/{{root:int}}", service.one),
        Route(f"{base}/async/get_skeleton/{{root:int}}", service.one),
        Route(f"{base}/bulk/get_skeletons/{{version}}/{{form}}/{{make}}/{{roots}}", service.bulk),
        Route(f"{base}/bulk/get_cached_skeletons/{{version}}/{{form}}", service.cached, methods=["POST"]),
        Route(f"{base}/bulk/gen_skeletons", service.generate, methods=["POST"]),
        Route(f"{base}/bulk/get_skeleton_token/{{version}}", lambda _: _crash(), methods=["POST"]),
    ]


def _crash() -> Response:
    return Response(CRASH, 500, media_type="text/html")


class _Service:
    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def store(self) -> SkeletonStore:
        return self.world.skeletons

    def _stranger(self, request: Request) -> Response | None:
        """Answer for a datastack that is not served: the service fails while it asks the info service."""
        datastack = request.path_params["datastack"]
        if datastack == self.world.names.datastack:
            return None
        url = f"{self.world.base_url}/info/api/v2/datastack/full/{datastack}"
        return json_response({"Error": f"404 Client Error: NOT FOUND for url: {url} content: b'{{}}'"}, 500)

    @staticmethod
    def _version(request: Request) -> int | None:
        """Version asked for; None where there is no such version."""
        try:
            version = int(request.path_params.get("version", 0))
        except ValueError:
            return None
        return version if version in VERSIONS else None

    def info(self, request: Request) -> Response:
        version = self._version(request)
        return _crash() if version is None else json_response(precomputed_info(version))

    def refusal_list(self, request: Request) -> Response:
        if not self.world.options.skeleton_limiter:
            return json_response(True)
        rows = "".join(f"{request.path_params['datastack']},{root}\n" for root in self.store.refused)
        return Response(gzip.compress(rows.encode(), mtime=0), media_type="application/octet-stream")

    # -- one skeleton ------------------------------------------------------------------------------------------------

    def one(self, request: Request) -> Response:
        version, form = self._version(request), request.path_params.get("form", "precomputed")
        if version is None:
            return _crash()
        stranger = self._stranger(request)
        if stranger is not None:
            return stranger
        root = int(request.path_params["root"])
        try:
            if not self.store.exists(root) and self.world.closing.wait(self.world.options.skeleton_delay):
                return _crash()
            flat = self.store.get(root, real_version(version))
        except SkeletonError as error:
            return json_response({"Error": str(error)}, error.status)
        if form not in FORMATS:
            return _crash()
        body, media = encode(flat, version, form, self.store.swc(root))
        headers = {"content-disposition": "attachment"}
        return Response(body, media_type=media, headers=headers)

    # -- what is there -----------------------------------------------------------------------------------------------

    async def exists(self, request: Request) -> Response:
        body = await _json(request)
        if not self.world.options.skeleton_limiter:
            return json_response(True)
        if body is None or "root_ids" not in body or "skeleton_version" not in body:
            return _crash()
        asked = body["root_ids"] if isinstance(body["root_ids"], list) else [body["root_ids"]]
        found = await run_in_threadpool(lambda: {str(root): self.store.exists(int(root)) for root in asked})
        return json_response(next(iter(found.values())) if len(asked) == 1 else found)

    def query_cache(self, request: Request) -> Response:
        version = self._version(request)
        if version is None or not self.world.options.skeleton_limiter:
            return _crash()
        prefixes = tuple(request.path_params["prefixes"].split(","))
        limit = int(request.path_params["limit"])
        number = real_version(version)
        datastack = request.path_params["datastack"]
        files = [
            f"skeleton__v{number}__rid-{root}__ds-{datastack}__res-1x1x1__cs-True__cr-7500.h5.gz"
            for root in self.store.made(number)
            if str(root).startswith(prefixes)
        ]
        return json_response({"num_found": len(files), "files": files[:limit] if limit else files})

    # -- many skeletons ----------------------------------------------------------------------------------------------

    def bulk(self, request: Request) -> Response:
        version, form = self._version(request), request.path_params["form"]
        roots = [int(text) for text in request.path_params["roots"].split(",") if text][:MAX_BULK]
        if version is None or form not in FORMATS or not self.world.options.skeleton_limiter:
            return _crash()
        answer: dict[str, str] = {}
        waiting = []
        for root in roots:
            problem = self.store.problem(root)
            if problem is not None:
                answer[str(root)] = (
                    "invalid_layer_rid" if root >> 56 != self.world.graph.n_layers else "invalid_rid"
                )
            elif self.store.exists(root):
                answer[str(root)] = self._hex(root, version, form)
            else:
                answer[str(root)] = "async"
                waiting.append(root)
        if waiting and request.path_params["make"] == "True":
            self.store.queue(waiting, real_version(version))
        return json_response(answer)

    async def cached(self, request: Request) -> Response:
        body, version, form = await _json(request), self._version(request), request.path_params["form"]
        crashes = body is None or "root_ids" not in body or form not in {"flatdict", "swccompressed"}
        if crashes or body is None or version is None or not self.world.options.skeleton_limiter:
            return _crash()
        roots = [int(root) for root in body["root_ids"]]
        if len(roots) > MAX_CACHED:
            text = f"Too many root IDs requested: {len(roots)}. Maximum allowed is {MAX_CACHED}."
            return json_response({"Error": text}, 400)
        return await run_in_threadpool(self._cached, roots, version, form, bool(body.get("generate_missing")))

    def _cached(self, roots: list[int], version: int, form: str, make: bool) -> Response:
        found = [root for root in roots if self.store.exists(root)]
        answer = {str(root): self._hex(root, version, form) for root in found}
        missing = [root for root in roots if root not in set(found) and self.store.problem(root) is None]
        if make and missing:
            self.store.queue(missing, real_version(version))
        return json_response(answer)

    def _hex(self, root: int, version: int, form: str) -> str:
        flat = self.store.get(root, real_version(version))
        if form == "swccompressed":  # the client does not unpack these, so the service does not pack them
            return (self.store.swc(root) or to_swc(flat)).encode().hex()
        return encode(flat, version, form, self.store.swc(root))[0].hex()

    async def generate(self, request: Request) -> Response:
        body = await _json(request)
        if body is None or "root_ids" not in body:
            return _crash()
        version = int(body.get("skeleton_version", LATEST))
        roots = [int(root) for root in body["root_ids"]]
        fresh = [root for root in roots if self.store.problem(root) is None and not self.store.exists(root)]
        if fresh:
            self.store.queue(fresh, real_version(version))
        return json_response(SECONDS_EACH * len(fresh) / WORKERS)


async def _json(request: Request) -> dict[str, Any] | None:
    try:
        value = json.loads(await request.body())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
