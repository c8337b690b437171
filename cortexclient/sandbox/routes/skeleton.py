"""The skeleton service (SkeletonService 0.23)."""

from __future__ import annotations

import gzip
import json
import logging
import math
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from cortexclient.sandbox.routes.pages import (
    json_response,
    message_error,
    status_page,
    unserved,
)
from cortexclient.sandbox.stores.skeleton_formats import (
    BULK_FORMATS,
    FORMATS,
    VERSIONS,
    encode,
    packed_hex,
    precomputed_info,
)
from cortexclient.sandbox.stores.skeletons import SkeletonError, SkeletonStore
from cortexclient.sandbox.world import World

logger = logging.getLogger(__name__)

VERSION = "0.23.11"
# the version in which skeletons are kept, and the one that Neuroglancer gets where none is named
LATEST, NEUROGLANCER = 4, 2
MAX_BULK = 10
MAX_CACHED = 500
# seconds that the service expects one skeleton to take, and how many it makes concurrently
SECONDS_EACH, WORKERS = 60, 15
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
# formats that the service knows but cannot send
_UNSENDABLE = ("h5", "meshwork", "meshwork_none")
_GATEWAY_TIMEOUT = (
    "<html>\r\n<head><title>504 Gateway Time-out</title></head>\r\n<body>\r\n"
    "<center><h1>504 Gateway Time-out</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n"
)


class _SkeletonCall:
    """One request, its body read."""

    def __init__(self, request: Request, body: bytes) -> None:
        self.path = request.path_params
        self.query = request.query_params
        self._typed = "json" in request.headers.get("content-type", "")
        self._body = body

    @property
    def datastack(self) -> str:
        return str(self.path["datastack"])

    @property
    def version(self) -> int:
        """Version asked for; Neuroglancer's where the path names none."""
        return int(self.path.get("version", NEUROGLANCER))

    @property
    def root(self) -> int:
        return int(self.path["root"])

    def json(self) -> dict[str, Any]:
        """The body; what is no JSON is refused."""
        if not self._typed:
            raise _RefusedError(415, "Did not attempt to load JSON data: the Content-Type is no JSON.")
        try:
            body: dict[str, Any] = json.loads(self._body)
        except ValueError as error:
            raise _RefusedError(400, f"Failed to decode JSON object: {error}") from None
        return body


class _RefusedError(Exception):
    """A request that the framework refuses before the service sees it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _NeverReadyError(Exception):
    """A skeleton that the queue cannot make, so that a request for it waits for ever."""


def routes(world: World) -> list[BaseRoute]:
    """Routes of the skeleton service."""
    service = _Skeletons(world)
    base = "/skeletoncache/api/v1/{datastack}"
    stored, one, bulk = f"{base}/precomputed/skeleton", f"{base}/async/get_skeleton", f"{base}/bulk"
    paths: list[tuple[str, Callable[[_SkeletonCall], Response], str]] = [
        (f"{base}/precomputed", service.named, "GET"),
        (f"{base}/precomputed/info", service.volume_info, "GET"),
        (f"{stored}/info", service.info, "GET"),
        (f"{stored}/{{version}}/info", service.info, "GET"),
        (f"{bulk}/skeleton/info", service.bulk_info, "GET"),
        (f"{stored}/get_refusal_list", service.refusal_list, "GET"),
        (f"{stored}/exists", service.exists, "POST"),
        # older ways to ask; the service takes the text of the path for a list and fails
        (f"{stored}/exists/{{roots}}", service.fails, "GET"),
        (f"{stored}/exists/{{version}}/{{roots}}", service.fails, "GET"),
        (f"{bulk}/gen_skeletons/{{roots}}", service.fails, "GET"),
        (f"{bulk}/gen_skeletons/{{version}}/{{roots}}", service.fails, "GET"),
        (f"{stored}/query_cache/{{prefixes}}/{{limit:int}}", service.query_cache, "GET"),
        (f"{stored}/query_cache/{{version}}/{{prefixes}}/{{limit:int}}", service.query_cache, "GET"),
        (f"{stored}/{{version}}/{{root:int}}/{{form}}", service.one, "GET"),
        (f"{stored}/{{version}}/{{root:int}}", service.one, "GET"),
        (f"{stored}/{{root:int}}", service.one, "GET"),
        (f"{one}/{{version}}/{{root:int}}/{{form}}", service.waiting_one, "GET"),
        (f"{one}/{{version}}/{{root:int}}", service.waiting_one, "GET"),
        (f"{one}/{{root:int}}", service.waiting_one, "GET"),
        (f"{bulk}/get_skeletons/{{form}}/{{make}}/{{roots}}", service.bulk, "GET"),
        (f"{bulk}/get_skeletons/{{version}}/{{form}}/{{make}}/{{roots}}", service.bulk, "GET"),
        (f"{bulk}/get_cached_skeletons/{{version}}/{{form}}", service.cached, "POST"),
        (f"{bulk}/gen_skeletons", service.generate, "POST"),
        # tokens for a bucket, which a sandbox does not have
        (f"{bulk}/get_skeleton_token/{{version}}", service.fails, "POST"),
    ]
    return [
        Route("/skeletoncache/health", lambda _: json_response("healthy")),
        Route("/skeletoncache/api/version", lambda _: json_response(VERSION)),
        Route("/skeletoncache/api/versions", lambda _: json_response(list(VERSIONS))),
        *(_route(world, path, handler, method) for path, handler, method in paths),
        Route("/skeletoncache/{rest:path}", unserved, methods=_METHODS),
    ]


def _route(world: World, path: str, handler: Callable[[_SkeletonCall], Response], method: str) -> Route:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        version = request.path_params.get("version", "0")
        if not version.removeprefix("-").isdecimal():
            return status_page(404)
        if request.method not in (method, "HEAD"):
            return message_error(405, "The method is not allowed for the requested URL.")
        try:
            return await run_in_threadpool(_answer, handler, request, body)
        except _NeverReadyError:
            await world.closing_wait(world.options.skeleton_gateway)
            return Response(_GATEWAY_TIMEOUT, 504, media_type="text/html")

    return Route(path, endpoint, methods=_METHODS)


def _answer(handler: Callable[[_SkeletonCall], Response], request: Request, body: bytes) -> Response:
    """Answer of a handler; whatever it raises is an internal error, without a word about what it was."""
    try:
        int(request.query_params.get("verbose_level", 0))
        return handler(_SkeletonCall(request, body))
    except _RefusedError as refusal:
        return message_error(refusal.status, str(refusal))
    except _NeverReadyError:
        raise
    except Exception as error:
        logger.debug("%s failed", request.url.path, exc_info=error)
        return status_page(500)


def _check_version(version: Any) -> None:
    if version not in VERSIONS:
        raise ValueError(f"Invalid skeleton version: v{version}. Valid versions: {list(VERSIONS)}")


class _Skeletons:
    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def store(self) -> SkeletonStore:
        return self.world.skeletons

    def _is_strange(self, call: _SkeletonCall) -> bool:
        """Whether a datastack is not the one that is served."""
        return call.datastack != self.world.names.datastack

    def _refuse_strangers(self, call: _SkeletonCall) -> None:
        """Fail with what the info service responds to the skeleton service."""
        if self._is_strange(call):
            url = f"{self.world.base_url}/info/api/v2/datastack/full/{call.datastack}"
            raise SkeletonError(500, f"404 Client Error: NOT FOUND for url: {url} content: b'{{}}'")

    def _limited(self) -> None:
        """Do what a service without a rate limiter does: its stand-in takes no argument but the datastack."""
        if not self.world.options.skeleton_limiter:
            raise TypeError("<lambda>() got an unexpected keyword argument")

    def _is_kept(self, call: _SkeletonCall, root: int) -> bool:
        return not self._is_strange(call) and self.store.exists(root)

    def named(self, call: _SkeletonCall) -> Response:
        return json_response({"datastack_name": call.datastack})

    def info(self, call: _SkeletonCall) -> Response:
        assert call.version in range(1, LATEST + 1)  # the aliases -1 and 0 are not known here
        return json_response(precomputed_info(call.version))

    def volume_info(self, _: _SkeletonCall) -> Response:
        """Describe the segmentation and the place of its skeletons; the real service describes minnie65 to everyone."""
        own = {"skeletons": "skeleton", "data_dir": self.world.data_dir}
        return json_response({**self.world.graph.info, **own})

    def bulk_info(self, _: _SkeletonCall) -> Response:
        text = "Use the bulk skeletons endpoint to get skeletons for multiple root ids at once."
        return json_response({"bulk skeletons": text})

    def fails(self, _: _SkeletonCall) -> Response:
        return status_page(500)

    def refusal_list(self, _: _SkeletonCall) -> Response:
        if not self.world.options.skeleton_limiter:
            return json_response(True)
        rows = "".join(f"{self.world.names.datastack},{root}\n" for root in self.store.refused)
        body = gzip.compress(f"DATASTACK_NAME,ROOT_ID\n{rows}".encode(), mtime=0)
        headers = {"content-disposition": "attachment"}
        return Response(body, media_type="application/octet-stream", headers=headers)

    def one(self, call: _SkeletonCall) -> Response:
        form = str(call.path.get("form", "precomputed"))
        if form == "none":  # meant to be made in the background; the service calls itself the wrong way
            return status_page(500)
        _check_version(call.version)
        try:
            return self._one(call, form)
        except SkeletonError as error:
            return json_response({"Error": str(error)}, error.status)

    def waiting_one(self, call: _SkeletonCall) -> Response:
        """Answer a skeleton once the queue has made it; without a queue, as :meth:`one`."""
        if not self.world.options.skeleton_queue:
            return self.one(call)
        form = str(call.path.get("form", "precomputed"))
        known = not self._is_strange(call) and self.store.problem(call.root) is None
        if known and form in FORMATS and not self.store.can_make(call.root):
            raise _NeverReadyError
        return self.one(call)

    def _one(self, call: _SkeletonCall, form: str) -> Response:
        self._refuse_strangers(call)
        problem = self.store.problem(call.root)
        if problem is not None:
            raise problem
        if form not in FORMATS and form not in _UNSENDABLE:
            raise SkeletonError(500, "")  # a bare assertion of the service
        if not self.store.exists(call.root) and self.world.closing.wait(self.world.options.skeleton_delay):
            return status_page(500)
        flat = self.store.get(call.root)
        if form in _UNSENDABLE:
            return status_page(500)
        body, media = encode(flat, call.version, form, self.store.swc(call.root))
        return Response(body, media_type=media, headers={"content-disposition": "attachment"})

    def exists(self, call: _SkeletonCall) -> Response:
        if not self.world.options.skeleton_limiter:
            return json_response(True)
        body = call.json()
        asked, version = body["root_ids"], body["skeleton_version"]
        _check_version(version)
        alone = len(asked) == 1
        found = {str(int(root)): self._is_kept(call, int(root)) for root in asked}
        return json_response(next(iter(found.values())) if alone else found)

    def query_cache(self, call: _SkeletonCall) -> Response:
        self._limited()
        _check_version(call.version)
        prefixes = [str(int(text)) for text in call.path["prefixes"].split(",")]
        limit = int(call.path["limit"])
        # skeletons are kept in the newest version only, and the service looks for the number as it was given
        kept = self.store.made() if call.version == LATEST else []
        files = [
            f"skeleton__v{LATEST}__rid-{root}__ds-{call.datastack}__res-1x1x1__cs-True__cr-7500.h5.gz"
            for prefix in prefixes
            for root in kept
            if str(root).startswith(prefix) and not self._is_strange(call)
        ]
        return json_response({"num_found": len(files), "files": files[:limit] if limit else files})

    def bulk(self, call: _SkeletonCall) -> Response:
        self._limited()
        form, version = self._bulk_form(call), int(call.path.get("version", 0))
        _check_version(version)
        roots = [int(text) for text in call.path["roots"].split(",")][:MAX_BULK]
        self._refuse_strangers(call)
        answer: dict[str, str] = {}
        waiting = []
        for root in roots:
            if root in self.store.refused:
                continue
            if self.store.problem(root) is not None:
                level = root >> 56 == self.world.graph.n_layers
                answer[str(root)] = "invalid_rid" if level else "invalid_layer_rid"
            elif self.store.exists(root):
                answer[str(root)] = self._hex(root, version, form)
            else:
                answer[str(root)] = "async"
                waiting.append(root)
        # whether to make missing ones is asked in the path, and not looked at
        self.store.queue(waiting)
        return json_response(answer)

    def _bulk_form(self, call: _SkeletonCall) -> str:
        form = str(call.path["form"])
        assert form in BULK_FORMATS
        return form

    def cached(self, call: _SkeletonCall) -> Response:
        self._limited()
        body = call.json()
        given = body["root_ids"]
        if len(given) > MAX_CACHED:
            text = f"Too many root IDs requested: {len(given)}. Maximum allowed is {MAX_CACHED}."
            return json_response({"Error": text}, 400)
        form, roots = self._bulk_form(call), [int(root) for root in given]
        int(body.get("verbose_level", 0))
        _check_version(call.version)
        found = [root for root in roots if root not in self.store.refused and self._is_kept(call, root)]
        answer = {str(root): self._hex(root, call.version, form) for root in found}
        missing = [root for root in roots if root not in found and self.store.problem(root) is None]
        if body.get("generate_missing") and not self._is_strange(call):
            self.store.queue(missing)
        return json_response(answer)

    def _hex(self, root: int, version: int, form: str) -> str:
        return packed_hex(self.store.get(root), version, form, self.store.swc(root))

    def generate(self, call: _SkeletonCall) -> Response:
        if not self.world.options.skeleton_limiter:
            return json_response(True)
        body = call.json()
        roots, version = list(dict.fromkeys(int(root) for root in body["root_ids"])), body["skeleton_version"]
        _check_version(version)
        self._refuse_strangers(call)
        top = self.world.graph.n_layers
        fresh = [
            root
            for root in roots
            if not self.store.exists(root) and root not in self.store.refused and root >> 56 == top
        ]
        self.store.queue(fresh)
        return json_response(math.ceil(len(fresh) / WORKERS) * SECONDS_EACH)
