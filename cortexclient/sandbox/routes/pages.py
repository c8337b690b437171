"""Plain answers of the web framework that the real services run on."""

from __future__ import annotations

from starlette.responses import Response

__all__ = ["not_found_page"]

_NOT_FOUND = (
    "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>The requested URL was not "
    "found on the server. If you entered the URL manually please check your spelling and try again.</p>\n"
)


def not_found_page() -> Response:
    """Answer for a path that a service does not know."""
    return Response(_NOT_FOUND, status_code=404, media_type="text/html")
