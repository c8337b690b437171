"""Plain responses in the shapes of the frameworks that the real services run on."""

from __future__ import annotations

import json
import logging
from html import escape
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; 64-bit ids are bare integers, as everywhere in CAVE."""
    return Response(json.dumps(value), status_code=status, media_type="application/json", headers=headers)


def message_error(status: int, message: str) -> Response:
    """Error as flask-restx writes it for routes that set their own status."""
    return json_response({"message": message}, status)


logger = logging.getLogger(__name__)
_reported: set[str] = set()

_CRASH = (
    "<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n<h1>Internal Server Error</h1>\n<p>The "
    "server encountered an internal error and was unable to complete your request. Either the server is overloaded or "
    "there is an error in the application.</p>\n"
)
_WRONG_METHOD = (
    "<!doctype html>\n<html lang=en>\n<title>405 Method Not Allowed</title>\n<h1>Method Not Allowed</h1>\n"
    "<p>The method is not allowed for the requested URL.</p>\n"
)
_NOT_FOUND = (
    "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>The requested URL was not "
    "found on the server. If you entered the URL manually please check your spelling and try again.</p>\n"
)


def redirect_text(target: str) -> str:
    """Return the page that goes with a redirect, for readers whose browser does not follow it."""
    shown = escape(target)
    return (
        "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n<h1>Redirecting...</h1>\n<p>You should be "
        f'redirected automatically to the target URL: <a href="{shown}">{shown}</a>. If not, click the link.\n'
    )


def not_found_page() -> Response:
    """Return the response to a path that a service does not know."""
    return Response(_NOT_FOUND, status_code=404, media_type="text/html")


def wrong_method_page() -> Response:
    """Return the response to a method that a service does not know."""
    return Response(_WRONG_METHOD, status_code=405, media_type="text/html")


def crash_page() -> Response:
    """Return the response of a service whose own code failed."""
    return Response(_CRASH, status_code=500, media_type="text/html")


async def unserved(request: Request) -> Response:
    """Respond to a path of a service that no route knows; logged once."""
    path = f"{request.method} {request.url.path}"
    if path not in _reported and len(_reported) < 1000:
        _reported.add(path)
        logger.info("the sandbox does not serve %s", path)
    return not_found_page()


async def send_bytes(
    send: Callable[[Any], Any], status: int, body: bytes, content_type: bytes, *extra: tuple[bytes, bytes]
) -> None:
    """Send a complete response."""
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
