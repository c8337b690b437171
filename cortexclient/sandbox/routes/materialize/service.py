"""What all routes of the materialization service share: refusals, rate limits, arguments and errors."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import pandas as pd
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cortexclient.sandbox.access import USER
from cortexclient.sandbox.routes.info import knows_datastack, unknown_datastack
from cortexclient.sandbox.routes.materialize.body import (
    TEXTS,
    BodySchema,
    RefusedError,
    checked_body,
    query_arguments,
)
from cortexclient.sandbox.routes.pages import json_response, status_page
from cortexclient.sandbox.stores.tables.model import Found, QueryError, aborted
from cortexclient.sandbox.stores.tables.store import TableStore
from cortexclient.sandbox.world import World

_NO_GROUP = "because you do not share a common group with the creator of this table."


def user_id(request: Request) -> str:
    """Who asks; 0 where auth is off."""
    user = request.scope.get(USER)
    return "0" if user is None else str(user.id)


def check_reader(world: World, request: Request, table: str) -> dict[str, Any]:
    """Refuse who may not read a table; its metadata are returned."""
    row = _metadata(world, table)
    mine = row["user_id"] == user_id(request)
    if row["read_permission"] == "GROUP" and not mine and not _share_group(world, request, row["user_id"]):
        raise aborted(401, f"Unauthorized: You cannot read this table {_NO_GROUP}")
    if row["read_permission"] == "PRIVATE" and not mine:
        raise aborted(401, "Unauthorized: The table can only be read by its owner")
    return row


def check_writer(world: World, request: Request, table: str) -> None:
    """Refuse who may not write to a table."""
    row = _metadata(world, table)
    if row["user_id"] == user_id(request) or row["write_permission"] == "PUBLIC":
        return
    if row["write_permission"] != "GROUP":
        raise aborted(401, "Unauthorized: The table can only be written to by owner")
    if not _share_group(world, request, row["user_id"]):
        raise aborted(401, f"Unauthorized: You cannot write {_NO_GROUP}")


def check_owner(world: World, request: Request, table: str) -> None:
    """Refuse who does not own a table."""
    if _metadata(world, table)["user_id"] != user_id(request):
        raise aborted(401, "You cannot do this because you are not the owner of this table")


def _metadata(world: World, table: str) -> dict[str, Any]:
    row = world.tables.metadata(table)
    if row is None:
        raise QueryError("'NoneType' object is not subscriptable")
    return row


def _share_group(world: World, request: Request, owner: str) -> bool:
    user = request.scope.get(USER)
    other = world.access.by_id(int(owner)) if owner.isdigit() else None
    # where auth is off there are no groups, and nobody is kept out by them
    return user is None or (other is not None and bool(set(user.groups) & set(other.groups)))


def frame_response(request: Request, found: Found, arguments: dict[str, Any]) -> Response:
    """Answer rows as the service does: warnings, voxel sizes and names of columns are headers."""
    frame, warnings = found.frame, found.warnings
    accepted = request.headers.get("accept-encoding", "")
    headers: list[tuple[str, str]] = []
    if arguments["return_pyarrow"]:
        if not arguments["arrow_format"]:
            warnings = [TEXTS["format"]]  # the service lets this one replace the others
        body, kind = _arrow(frame, accepted, compress=arguments["ipc_compress"]), "data.arrow"
        headers.append(("cache-control", "no-cache"))
    else:
        body, kind = frame.to_json(orient="records").encode(), "application/json"
    headers += [("warning", header_text(text)) for text in warnings]
    headers += [("dataframe_resolution", str(float(value))) for value in found.resolution]
    headers.append(("column_names", str(found.names)))
    return gzipped(request, body, kind, headers)


def header_text(text: str) -> str:
    """Text that a header can hold: one line, in Latin-1."""
    return " ".join(text.splitlines()).strip().encode("latin-1", "replace").decode("latin-1")


def gzipped(request: Request, body: bytes, kind: str, headers: list[tuple[str, str]]) -> Response:
    """Response whose body is compressed for clients that accept it."""
    if "gzip" in request.headers.get("accept-encoding", "").lower():
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers = [*headers, ("content-encoding", "gzip"), ("vary", "Accept-Encoding")]
    response = Response(body, headers={"content-type": kind})
    for name, value in headers:
        response.raw_headers.append((name.encode(), value.encode("latin-1", "replace")))
    return response


def _arrow(frame: pd.DataFrame | pa.RecordBatch, accepted: str, *, compress: bool) -> bytes:
    codec = None
    if compress:
        codec = "lz4" if "lz4" in accepted else "zstd" if "zstd" in accepted else None
    batch = frame if isinstance(frame, pa.RecordBatch) else pa.RecordBatch.from_pandas(frame)
    sink = pa.BufferOutputStream()
    # a batch is small: threads for its columns take longer than they save
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    answer: bytes = sink.getvalue().to_pybytes()
    return answer


logger = logging.getLogger(__name__)

NOT_ALLOWED = "405 Method Not Allowed: The method is not allowed for the requested URL."
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


def answered(respond: Callable[[], Response], request: Request, *, strict: bool) -> Response:
    """Response to a request; whatever is raised becomes an error in the service's shape."""
    try:
        return respond()
    except RefusedError as refusal:
        return refusal.response()
    except Exception as error:
        if not isinstance(error, QueryError):
            logger.info("%s %s failed", request.method, request.url.path, exc_info=True)
        return failure(str(error), strict=strict)


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
    """Builds the routes of the service."""

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
        """A route for one method, whose answer is made in a worker thread.

        ``checked`` routes refuse versions that were never made before anything else, ``limited`` ones count against
        the rate limit, and in the path of a ``signed`` one the version may be negative.
        """
        number = _NUMBER if signed else _WHOLE

        def respond(request: Request, body: bytes) -> Response:
            strict = self.world.options.strict
            if (request.method if request.method != "HEAD" else "GET") != method:
                return failure(NOT_ALLOWED, strict=strict)
            parts = request.path_params
            version = int(parts.get("version", "0"))
            ask = Ask(request, body, self.world, self.world.tables, parts["datastack"], version)

            def checked_answer() -> Response:
                if limited:
                    self._count(request)
                self._check(ask, checked)
                return answer(ask)

            return answered(checked_answer, request, strict=strict)

        async def serve(request: Request) -> Response:
            body = await request.body()
            if not number.fullmatch(request.path_params.get("version", "0")):
                return status_page(404)
            return await anyio.to_thread.run_sync(respond, request, body, limiter=self._at_work)

        return Route(path, serve, methods=_METHODS)

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


def question(ask: Ask, schema: BodySchema) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checked body and arguments of a query."""
    body = checked_body(parsed_body(ask.body), schema)
    return body, query_arguments(ask.request.query_params)


def parsed_body(body: bytes) -> Any:
    """JSON of a request.

    Raise QueryError if it is none.
    """
    try:
        return json.loads(body)
    except ValueError:
        raise aborted(
            400, "The browser (or proxy) sent a request that this server could not understand."
        ) from None
