"""Plain responses in the shapes of the frameworks that the real services run on."""

from __future__ import annotations

import json
import logging
from html import escape
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; 64-bit ids are bare integers, as everywhere in CAVE."""
    return Response(json.dumps(value), status_code=status, media_type="application/json", headers=headers)


def message_error(status: int, message: str) -> Response:
    """Error as flask-restx writes it for routes that set their own status."""
    return json_response({"message": message}, status)


logger = logging.getLogger(__name__)
_reported: set[str] = set()

_WORDS = {
    404: "The requested URL was not found on the server. If you entered the URL manually please check your spelling "
    "and try again.",
    405: "The method is not allowed for the requested URL.",
    500: "The server encountered an internal error and was unable to complete your request. Either the server is "
    "overloaded or there is an error in the application.",
}


def status_page(status: int) -> Response:
    """Return the page of a service for a path (404) or method (405) that it does not know, or its own failure (500)."""
    phrase = HTTPStatus(status).phrase
    head = f"<!doctype html>\n<html lang=en>\n<title>{status} {phrase}</title>\n<h1>{phrase}</h1>\n"
    return Response(f"{head}<p>{_WORDS[status]}</p>\n", status, media_type="text/html")


def redirect_text(target: str) -> str:
    """Return the page that goes with a redirect, for readers whose browser does not follow it."""
    shown = escape(target)
    return (
        "<!doctype html>\n<html lang=en>\n<title>Redirecting...</title>\n<h1>Redirecting...</h1>\n<p>You should be "
        f'redirected automatically to the target URL: <a href="{shown}">{shown}</a>. If not, click the link.\n'
    )


def note_unserved(request: Request) -> str:
    """Log once that a path is not served; return its name."""
    path = f"{request.method} {request.url.path}"
    if path not in _reported and len(_reported) < 1000:
        _reported.add(path)
        logger.info("the sandbox does not serve %s", path)
    return path


async def unserved(request: Request) -> Response:
    """Respond to a path of a service that no route knows."""
    note_unserved(request)
    return status_page(404)
