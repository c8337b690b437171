"""Which answers last: those that can never change, and those that are kept for working offline only."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

__all__ = ["HEADERS", "describe", "is_whole", "kind_of", "normal_url"]

HEADERS = ("Content-Type", "Warning", "dataframe_resolution", "column_names", "Used-Bounds")
"""Headers of an answer that belong to it; all others are about the connection."""

_SETTLED = 60.0
"""Seconds after which what was true at a time is written down everywhere."""

_FIXED = re.compile(
    r"/materialize/api/v\d+/datastack/[^/]+/version/\d+/"
    r"|/schema/api/v\d+/type"
    r"|/segmentation/api/v1/table/[^/]+/node/\d+/(leaves|lvl2_graph|children)$"
    r"|/l2cache/api/v1/table/[^/]+/attributes$"
    r"|/skeletoncache/api/v1/[^/]+/async/get_skeleton/\d+/"
    r"|/skeletoncache/api/v1/[^/]+/bulk/get_cached_skeletons/\d+/"
)
_AT_A_TIME = re.compile(r"/segmentation/api/v1/table/[^/]+/(roots_binary|is_latest_roots)$")
_BIRTH = re.compile(r"/segmentation/api/v1/table/[^/]+/root_timestamps$")
_RECORDED = re.compile(
    r"/info/|/materialize/(version|api/versions)$|/materialize/api/v\d+/datastack/[^/]+/(metadata|versions)$"
    r"|/segmentation/(api/versions?|table/[^/]+/info)$|/schema/versions$|/l2cache/api/v1/(table_mapping|attribute_metadata)$"
    r"|/skeletoncache/api/versions?$|/nglstate/api/v1/version$"
)


def _parts(request: PreparedRequest) -> tuple[str, dict[str, str]]:
    parts = urlsplit(request.url or "")
    return parts.path, dict(parse_qsl(parts.query))


def kind_of(request: PreparedRequest) -> Literal["fixed", "recorded"] | None:
    """Say how long the answer to a request holds.

    Returns
    -------
    str or None
        ``"fixed"``: it can never be another one. ``"recorded"``: it may change, and is kept for working offline only.
        None: a live answer, a write, a secret; never kept.
    """
    if request.method not in {"GET", "POST"}:
        return None
    path, query = _parts(request)
    if "random_sample" in query or "get_skeleton_token" in path:
        return None
    if _FIXED.search(path):
        return "fixed"
    if _AT_A_TIME.search(path):
        return "fixed" if _long_ago(query.get("timestamp")) else None
    if _BIRTH.search(path):
        # when a root was made never changes; until when it is valid does
        return "fixed" if query.get("latest") == "False" else None
    return "recorded" if request.method == "GET" and _RECORDED.search(path) else None


def _long_ago(timestamp: str | None) -> bool:
    try:
        return timestamp is not None and float(timestamp) < time.time() - _SETTLED
    except ValueError:
        return False


def normal_url(request: PreparedRequest) -> str:
    """Give the address without what does not change the answer, so that the same question has the same name."""
    parts = urlsplit(request.url or "")
    query = dict(parse_qsl(parts.query))
    for name in ("middle_auth_token", "verbose_level"):
        query.pop(name, None)
    if _BIRTH.search(parts.path):
        query.pop("timestamp", None)
    netloc = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(sorted(query.items())), ""))


def is_whole(request: PreparedRequest, response: Response) -> bool:
    """Say whether an answer has everything that was asked: what a service does not have yet, it may have tomorrow."""
    path, _ = _parts(request)
    if path.endswith("/attributes"):
        return _all_there(response)
    if "get_cached_skeletons" in path:
        wanted = _json(request.body or b"{}")
        asked = wanted.get("root_ids", ()) if isinstance(wanted, dict) else ()
        found = _json(response.content)
        return isinstance(found, dict) and all(
            len(str(found.get(str(root), ""))) > len("invalid_layer_rid") for root in asked
        )
    if path.endswith("/roots_binary"):
        ids = response.content
        return bool(ids) and all(any(ids[at : at + 8]) for at in range(0, len(ids), 8))
    return True


def _json(content: bytes | str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _all_there(response: Response) -> bool:
    found = _json(response.content)
    return isinstance(found, dict) and bool(found) and all(found.values())


def describe(request: PreparedRequest) -> str:
    """Say in a few words what a request asks, for a message."""
    path, query = _parts(request)
    body = request.body or b""
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else str(body)
    asked = f" {text[:120]}" if text.startswith("{") else ""
    when = f" at {query['timestamp']}" if "timestamp" in query else ""
    return f"{request.method} {path}{when}{asked}"
