"""Answers in the shapes of the real services."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.responses import Response

__all__ = ["code_error", "json_response", "message_error", "pcg_error"]


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer a JSON body; 64-bit ids are bare integers, as everywhere in CAVE."""
    return Response(json.dumps(value), status_code=status, media_type="application/json", headers=headers)


def code_error(code: int, message: str, *, status: int | None = None) -> Response:
    """Error of the materialization service: the true status stands in the text, the HTTP status is mostly 500."""
    body = {"code": status or 500, "message": message, "traceback": []}
    return json_response(body, status=status or 500) if code else json_response(body, 500)


def message_error(status: int, message: str) -> Response:
    """Error as flask-restx writes it for routes that set their own status."""
    return json_response({"message": message}, status)


def pcg_error(status: int, message: str) -> Response:
    """Error of the chunkedgraph service."""
    body: dict[str, Any] = {
        "timestamp": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "duration": 0.0,
        "code": status,
        "message": message,
    }
    if status >= 500:
        body["traceback"] = []
    return json_response(body, status)
