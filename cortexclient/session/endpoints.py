"""Where a server is: a plain address, or one that a launcher has to start first (``sandbox://small``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cortexclient.credentials import may_carry_token
from cortexclient.errors import SpecError

__all__ = ["LAUNCHERS", "Endpoint", "bare_address", "resolve"]

LAUNCHERS = "cortexclient.servers"
"""Group of entry points that start servers: the name is the scheme, the object takes the address."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that can be asked.

    Parameters
    ----------
    address : str
        Address of the global CAVE server, ``https://...`` without a slash at the end.
    token : str or None
        Token that belongs to this server, where the launcher knows it.
    exports_path : str or None
        Cloud path of the static exports, where the launcher brings its own.
    viewer_site : str or None
        Neuroglancer site, where the launcher brings its own.
    """

    address: str
    token: str | None = field(default=None, repr=False)
    exports_path: str | None = None
    viewer_site: str | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # a pickle may go anywhere; whoever opens it looks up a token of their own
        return Endpoint, (self.address, None, self.exports_path, self.viewer_site)


def bare_address(address: str) -> str:
    """Give the address of a server without a slash at its end.

    Raises
    ------
    ValueError
        If it carries a user, a password or a query, which may be secrets. The message does not repeat them.
    """
    if not isinstance(address, str):
        raise TypeError(
            f"a server address is text such as 'https://cave.my.lab', not {type(address).__name__}"
        )
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise ValueError(f"the server address cannot be read: {error}") from None
    if parts.scheme in {"http", "https"} and ("@" in parts.netloc or parts.query or parts.fragment):
        raise ValueError(
            f"the server address ({parts.scheme}://{parts.hostname}...) holds more than an address: a user, a "
            "password or a query would show in messages. Give the address alone, and a token as auth_token="
        )
    return address.rstrip("/")


def resolve(address: str) -> Endpoint:
    """Turn the address in a spec into a server that can be asked; starts one if the address says so.

    Parameters
    ----------
    address : str
        ``https://...``, ``http://...`` (loopback), or ``SCHEME://...`` for a scheme in the entry points
        ``cortexclient.servers``.

    Raises
    ------
    SpecError
        If nothing answers for the scheme, or it is plain http to another machine.
    """
    scheme = urlsplit(address).scheme
    if scheme in {"http", "https"}:
        if not may_carry_token(address):
            raise SpecError(
                f"{address} is not encrypted: plain http is for servers on this machine only; use its https address"
            )
        return Endpoint(address.rstrip("/"))
    from importlib.metadata import entry_points

    launchers = entry_points(group=LAUNCHERS)
    for launcher in launchers:
        if launcher.name == scheme:
            found: Any = launcher.load()(address)
            return Endpoint(
                found.address.rstrip("/"),
                found.token,
                getattr(found, "exports_path", None),
                getattr(found, "viewer_site", None),
            )
    known = ", ".join(sorted({"https", *(launcher.name for launcher in launchers)}))
    raise SpecError(f"server address {address!r} has an unknown scheme; known are {known}")
