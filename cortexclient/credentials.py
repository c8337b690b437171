"""Where tokens live, and to which server each of them may go.

Tokens are looked up where caveclient keeps them: ``~/.cloudvolume/secrets/HOST-cave-secret.json`` first. The default
file ``cave-secret.json`` belongs to the public CAVE servers; it is not sent to any other host, so that a dataset
spec from somewhere else cannot collect it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cortexclient.settings import config_dir

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BUILTIN_HOSTS",
    "Token",
    "as_token",
    "default_token_applies",
    "find_token",
    "host_of",
    "is_loopback",
    "may_carry_token",
    "secrets_dir",
    "store_token",
    "token_file",
    "token_page",
    "trust_host",
    "trusted_hosts",
]

BUILTIN_HOSTS = frozenset(
    {"global.daf-apis.com", "global.em.brain.allentech.org", "globalv1.em.brain.allentech.org"}
)
"""Hosts of the datasets that come with the package: the default token may go there."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it was found.

    Parameters
    ----------
    value : str
        The token; never shown in a repr.
    path : pathlib.Path
        The file it was read from.
    """

    value: str = field(repr=False)
    path: Path


def secrets_dir() -> Path:
    """Folder in which caveclient keeps tokens (``~/.cloudvolume/secrets``)."""
    return Path.home() / ".cloudvolume" / "secrets"


def host_of(address: str) -> str:
    """Host (and port, if any) of a server address, in lower case and without credentials."""
    netloc = urlsplit(address if "://" in address else f"https://{address}").netloc
    return netloc.rpartition("@")[2].lower()


def is_loopback(address: str) -> bool:
    """Whether a server address names this machine."""
    name = urlsplit(address if "://" in address else f"https://{address}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return False


def may_carry_token(address: str) -> bool:
    """Whether a token may be sent there at all: over https, or to this machine."""
    return urlsplit(address).scheme == "https" or is_loopback(address)


def trusted_hosts() -> frozenset[str]:
    """Hosts to which the default token may go: built-in ones, and ``trusted_hosts`` of the config folder."""
    hosts = set(BUILTIN_HOSTS)
    with contextlib.suppress(OSError):
        for line in (config_dir() / "trusted_hosts").read_text(encoding="utf-8").splitlines():
            name = line.partition("#")[0].strip().lower()
            if name:
                hosts.add(name)
    return frozenset(hosts)


def trust_host(address: str) -> None:
    """Remember that the default token may go to a host."""
    path = config_dir() / "trusted_hosts"
    if host_of(address) in trusted_hosts():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{host_of(address)}\n")


def default_token_applies(address: str) -> bool:
    """Whether the default token file holds for a server."""
    return host_of(address) in trusted_hosts()


def token_file(address: str) -> Path:
    """File in which the token of one server is kept."""
    return secrets_dir() / f"{host_of(address)}-cave-secret.json"


def token_page(address: str) -> str:
    """Page of a CAVE server on which a user finds or makes a token."""
    return f"{address.rstrip('/')}/auth/api/v1/user/token"


def find_token(address: str, *, is_trusted: Callable[[str], bool] = default_token_applies) -> Token | None:
    """Look up the token for a server.

    Parameters
    ----------
    address : str
        Address of the global server, such as ``https://global.daf-apis.com``.
    is_trusted : callable
        Whether the default token may go to an address; the session asks the registry, which knows the hosts of all
        built-in datasets.

    Returns
    -------
    Token or None
        From the server's own file, else from the default file if the server is a trusted one, else None.
    """
    if not may_carry_token(address):
        return None
    places = [token_file(address)]
    if is_trusted(address):
        places.append(secrets_dir() / "cave-secret.json")
    for path in places:
        value = _read(path)
        if value:
            return Token(value, path)
    return None


def _read(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    value = content.get("token") if isinstance(content, dict) else None
    return value.strip() or None if isinstance(value, str) else None


def as_token(text: object) -> str:
    """Give a token without the spaces around it.

    Raises
    ------
    TypeError
        If it is no text.
    ValueError
        If it is not one word, and so nothing that can be sent. The message does not repeat it.
    """
    if not isinstance(text, str):
        raise TypeError(f"a token is text, not {type(text).__name__}")
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            "that is not a token: a token is one word of letters and digits, usually 32 of 0-9 and a-f"
        )
    return token


def store_token(address: str, token: str) -> Path:
    """Keep a token for one server, readable by this user only, where caveclient finds it.

    Parameters
    ----------
    address : str
        Address of the global server.
    token : str
        The token, as copied from the server's token page.

    Returns
    -------
    pathlib.Path
        The file that was written.

    Raises
    ------
    ValueError
        If the text cannot be a token, or the server is neither https nor on this machine.
    """
    token = as_token(token)
    if not may_carry_token(address):
        raise ValueError(
            f"{address} is not encrypted, so a token must not be sent there; use its https address"
        )
    path = token_file(address)
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    content: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError):
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(earlier, dict):
            content = earlier
    content["token"] = token
    # written aside and renamed: a crash leaves the old token, never half a file; mkstemp makes it private (0600)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".token-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
