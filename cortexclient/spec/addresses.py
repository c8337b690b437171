"""Addresses in specs: of servers, pages and buckets; each refuses what it cannot mean, and what would leak a secret."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, WithJsonSchema

from cortexclient.credentials import is_loopback
from cortexclient.spec.fields import refuse, short

__all__ = ["CloudPath", "ServerAddress", "Url"]

_HOST = re.compile(r"[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)*\.?")


def _web_address(value: str, *, what: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        refuse("CX207", f"{short(value)} is not an address", "write it as https://host.name/path")
    if re.search(r"[\s\x00-\x1f\x7f<>\"\\^`{|}]", value):
        refuse("CX207", f"{short(value)} holds characters that no address has", "remove blanks and quotes")
    if parts.username or parts.password or "@" in parts.netloc:
        refuse("CX405", f"{what} carries a user name or password", "remove everything before the @")
    if parts.hostname and not _HOST.fullmatch(parts.hostname) and not parts.netloc.startswith("["):
        refuse("CX207", f"{short(parts.hostname)} is not the name of a host", "write it as host.name")
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        refuse("CX207", f"{short(value)} is not a web address", "write it as https://host.name/path")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        refuse(
            "CX402", f"{what} is plain http to {parts.hostname}", "use https (http is for this machine only)"
        )
    return value


def _url(value: str) -> str:
    return _web_address(value, what="the address")


Url = Annotated[
    str,
    Field(strict=True, max_length=2000),
    AfterValidator(_url),
    WithJsonSchema({"type": "string", "pattern": r"^https?://\S+$"}),
]


def _server_address(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if separator and scheme not in {"http", "https"}:
        if scheme not in _launchers():
            refuse(
                "CX406",
                f"no server is reached by {short(scheme)}://",
                f"use https://, or one of the installed launchers: {', '.join(sorted(_launchers()))}",
            )
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", rest):
            refuse("CX207", f"{short(value)} does not name what to start", f"write it as {scheme}://small")
        return value
    _web_address(value, what="the server address")
    parts = urlsplit(value)
    if parts.query or parts.fragment:
        refuse("CX207", f"{short(value)} has a query or fragment", "give the address of the server only")
    return value.rstrip("/")


def _launchers() -> set[str]:
    """Schemes that start a server on this machine (entry points of the group ``cortexclient.servers``)."""
    from importlib.metadata import entry_points

    return {"sandbox", *(point.name for point in entry_points(group="cortexclient.servers"))}


ServerAddress = Annotated[
    str,
    Field(strict=True, max_length=500),
    AfterValidator(_server_address),
    WithJsonSchema({"type": "string", "pattern": r"^[a-z][a-z0-9+.-]*://\S+$"}),
]


def _cloud_path(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if scheme in {"http", "https"}:
        return _web_address(value, what="the path")
    if not separator or scheme not in {"gs", "s3", "file"} or not rest.strip("/") or re.search(r"\s", rest):
        refuse(
            "CX207",
            f"{short(value)} is not a path in a bucket",
            f"a folder of this machine is written as file://{value[:200]}"
            if value.startswith("/")
            else "write it as gs://bucket/folder/, s3://..., https://... or file:///...",
        )
    bucket = rest.split("/")[0]
    if "@" in bucket:
        refuse("CX405", "the path carries a user name or password", "remove everything before the @")
    if scheme != "file" and not re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,220}[a-z0-9])?", bucket):
        refuse(
            "CX207", f"{short(bucket)} is not the name of a bucket", f"write it as {scheme}://bucket/folder/"
        )
    return value


CloudPath = Annotated[
    str,
    Field(strict=True, max_length=2000),
    AfterValidator(_cloud_path),
    WithJsonSchema({"type": "string", "pattern": r"^(gs|s3|file|https?)://\S+$"}),
]
