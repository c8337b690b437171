"""How each kind of fault is carried out on the wire."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cortexclient.sandbox.routes.pages import json_response
from cortexclient.sandbox.world import World

if TYPE_CHECKING:
    from cortexclient.sandbox.faults import Fault

__all__ = ["TRANSPORT", "strike"]

# key of the scope under which the server leaves the connection (see cortexclient.sandbox.server)
TRANSPORT = "cortexclient.transport"


async def strike(
    fault: Fault, app: ASGIApp, world: World, scope: Scope, receive: Receive, send: Send
) -> None:
    """Respond to one request as a fault says."""
    if fault.kind in _PLAIN or fault.kind in _FROM_REQUEST:
        body = await _read(receive)  # an unread body would be taken for the next request of the connection
        plain = fault.kind in _PLAIN
        answer = _PLAIN[fault.kind](fault, world) if plain else _FROM_REQUEST[fault.kind](scope, body, world)
        await answer(scope, receive, send)
    elif fault.kind == "refused":
        await _read(receive)
        world.refuse_connections(fault.seconds)
        await _abort(scope)
    elif fault.kind == "hang":
        await _read(receive)
        await world.closing_wait(fault.seconds)
        await _abort(scope)
    elif fault.kind == "version-appears":
        await run_in_threadpool(world.tables.materialize)
        await app(scope, receive, send)
    else:
        start, body = await _collect(app, scope, receive)
        await _SPOILED[fault.kind](fault, world, scope, start, body, send)


def _page(status: int, title: str, headers: dict[str, str] | None = None) -> Response:
    page = f"<!doctype html>\n<html lang=en>\n<title>{title}</title>\n<h1>{title}</h1>\n"
    return Response(page, status, headers, "text/html")


def _login(_: Fault, world: World) -> Response:
    location = f"{world.base_url}/auth/api/v1/authorize?redirect=elsewhere"
    return _page(302, "Redirecting...", {"location": location})


def _terms(_: Fault, world: World) -> Response:
    # the form lies on this server: caveclient opens the address in a browser
    form = {
        "tos_id": 1,
        "tos_name": "Terms of the sandbox",
        "tos_form_url": f"{world.base_url}/auth/api/v1/tos/1/accept",
    }
    message = "Need to accept Terms of Service to access resource."
    return json_response({"error": "missing_tos", "message": message, "data": form}, 403)


_PERMISSION = {
    "error": "missing_permission",
    "message": "Missing permission: view for dataset sandbox",
    "data": {"required_permission": "view", "auth_dataset": "sandbox"},
}
_PLAIN: dict[str, Callable[[Fault, World], Response]] = {
    "401": lambda _, world: json_response(
        {"error": "invalid_token", "message": "Unauthorized - Token is Invalid or Expired"},
        401,
        {"www-authenticate": f'Bearer realm="{world.base_url}/auth/api/v1/authorize"'},
    ),
    "403": lambda *_: json_response(_PERMISSION, 403),
    "403-terms": _terms,
    "404": lambda *_: json_response({"message": "404 Not Found"}, 404),
    "406": lambda *_: _coded("406 Not Acceptable: There are 1 annotations that need supervoxel lookups"),
    "429": lambda *_: json_response({"message": "2 per 1 minute"}, 429),
    "429-retry-after": lambda fault, _: json_response(
        {"message": "2 per 1 minute"}, 429, {"retry-after": str(round(fault.seconds))}
    ),
    "500": lambda *_: _coded("this fault was set up in the sandbox"),
    "aborted-transaction": lambda *_: _coded(
        "(psycopg2.errors.InFailedSqlTransaction) current transaction is aborted, commands ignored until end of "
        "transaction block\n\n[SQL: SELECT 1]\n(Background on this error at: http://sqlalche.me/e/13/2j85)"
    ),
    "500-string": lambda *_: json_response("this fault was set up in the sandbox", 500),
    "500-html": lambda *_: _page(500, "500 Internal Server Error"),
    "502": lambda *_: _page(502, "502 Bad Gateway"),
    "503": lambda *_: _page(503, "503 Service Temporarily Unavailable"),
    "504": lambda *_: _page(504, "504 Gateway Time-out"),
    "login-redirect": _login,
}


def _coded(message: str) -> Response:
    return json_response({"code": 500, "message": message, "traceback": []}, 500)


def _stale_root(scope: Scope, body: bytes, _: World) -> Response:
    numbers = [int(number) for number in re.findall(rb"\d{15,19}", body)]
    if scope["path"].endswith("/is_latest_roots"):
        return json_response({"is_latest": [False] * len(numbers)})
    return _coded(f"400 Bad Request: Some root_ids passed are not valid at the query timestamp: {numbers}")


def _expired(scope: Scope, _: bytes, world: World) -> Response:
    match = re.search(r"/version/(-?\d+)", scope["path"])
    version = match.group(1) if match else "0"
    return _coded(f"404 Not Found: version {version} not found in {world.names.datastack}")


def _no_table(scope: Scope, _: bytes, world: World) -> Response:
    match = re.search(r"/version/(-?\d+)/table/([^/]+)", scope["path"])
    version, table = match.groups() if match else ("0", "table")
    if scope["path"].endswith("/metadata"):
        return json_response(f"No table of name {table} at materialization version {version}", 404)
    return _coded(
        f"404 Not Found: table {table} not found in version {version} of datastack {world.names.datastack}"
    )


_FROM_REQUEST = {"stale-root": _stale_root, "expired-version": _expired, "table-missing": _no_table}


async def _reset(fault: Fault, _: World, scope: Scope, start: Message, body: bytes, send: Send) -> None:
    await send(start)
    await send(
        {"type": "http.response.body", "body": body[: int(len(body) * fault.fraction)], "more_body": True}
    )
    await asyncio.sleep(0.02)  # let the piece leave before the reset overtakes it
    await _abort(scope)


async def _truncated(fault: Fault, _: World, __: Scope, start: Message, body: bytes, send: Send) -> None:
    cut = body[: int(len(body) * fault.fraction)]
    await send({**start, "headers": _with(start, b"content-length", str(len(cut)).encode())})
    await send({"type": "http.response.body", "body": cut})


async def _content_type(_: Fault, __: World, ___: Scope, start: Message, body: bytes, send: Send) -> None:
    await send({**start, "headers": _with(start, b"content-type", b"text/plain; charset=utf-8")})
    await send({"type": "http.response.body", "body": body})


async def _drip(fault: Fault, world: World, _: Scope, start: Message, body: bytes, send: Send) -> None:
    pieces = 20
    size = max(1, -(-len(body) // pieces))
    await send(start)
    for offset in range(0, len(body), size):
        if await world.closing_wait(fault.seconds / pieces):
            break
        await send({"type": "http.response.body", "body": body[offset : offset + size], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


_SPOILED = {"reset": _reset, "truncated": _truncated, "content-type": _content_type, "drip": _drip}


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


async def _collect(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    start: Message = {}
    parts: list[bytes] = []

    async def keep(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    return start, b"".join(parts)


def _with(start: Message, name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [*((key, old) for key, old in start["headers"] if key.lower() != name), (name, value)]


async def _abort(scope: Scope) -> None:
    transport = scope.get(TRANSPORT)
    assert transport is not None  # it is our server that runs the application
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
    transport.abort()
    await asyncio.sleep(0.01)  # until the server has noticed; it would complain about an unfinished answer
