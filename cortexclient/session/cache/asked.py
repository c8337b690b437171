"""A request as the cache sees it: without the token, and the same text for the same question."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from requests import PreparedRequest

__all__ = ["Asked", "Realm", "read_request"]

_SECRET_PARAMS = {"middle_auth_token", "token", "access_token", "auth_token"}
_IDLE_PARAMS = {"verbose_level", "log_warning"}
"""Parameters that change nothing in an answer."""


@dataclass(frozen=True, slots=True)
class Realm:
    """Whose answers: part of the name of each.

    Parameters
    ----------
    server : str
        Address of the server as the dataset names it; for one that a launcher starts, the launcher's address, since
        the port is another one each time.
    datastack : str
        The datastack.
    """

    server: str
    datastack: str

    def key(self, *parts: str) -> str:
        """Name something of this realm: 64 hexadecimal digits."""
        text = json.dumps(["cortexclient", 1, self.server, self.datastack, *parts])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Asked:
    """One question.

    Parameters
    ----------
    method, url : str
        The URL is whole but for secrets and idle parameters; the home server stands in it under its lasting name.
    path : str
        Path of the URL.
    params : dict
        Parameters of the URL, secrets left out.
    body : bytes
        What was sent.
    accept : str
        Kind of answer that was asked for.
    """

    method: str
    url: str
    path: str
    params: dict[str, str]
    body: bytes = b""
    accept: str = field(default="*/*")

    @functools.cached_property
    def json(self) -> Any:
        """The body as JSON; None where it is something else."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def key(self, realm: Realm, *, without: tuple[str, ...] = (), body: Any = None) -> str:
        """Name the question.

        Parameters
        ----------
        realm : Realm
            Whose.
        without : tuple of str
            Parameters that do not matter to this answer.
        body : object, optional
            JSON that stands for the body.
        """
        params = sorted((name, value) for name, value in self.params.items() if name not in without)
        content = self.json if body is None else body
        text = self.body if content is None else json.dumps(content, sort_keys=True).encode()
        return realm.key(
            self.method, self.url, urlencode(params), hashlib.sha256(text).hexdigest(), self.accept
        )


def read_request(request: PreparedRequest, realm: Realm, home: str) -> Asked:
    """Read a request on its way out.

    Parameters
    ----------
    request : requests.PreparedRequest
        The request; its headers, with the token, are not looked at but for ``Accept``.
    realm : Realm
        Whose.
    home : str
        Address at which the realm's server answers at present.
    """
    parts = urlsplit(request.url or "")
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if address == home.rstrip("/"):
        address = realm.server
    params = {
        name: value
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name not in _SECRET_PARAMS and name not in _IDLE_PARAMS
    }
    path = urlunsplit(("", "", parts.path, "", ""))
    body = request.body or b""
    return Asked(
        method=request.method or "GET",
        url=f"{address}{path}",
        path=parts.path,
        params=params,
        body=body.encode() if isinstance(body, str) else bytes(body),
        accept=str(request.headers.get("Accept") or "*/*"),
    )
