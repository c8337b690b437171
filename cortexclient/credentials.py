"""Where tokens are stored, and to which server each of them may be sent.

Tokens are looked up where caveclient keeps them: ``~/.cloudvolume/secrets/HOST-cave-secret.json`` first. The general
token, ``cave-secret.json``, is sent only to hosts that the registry trusts (`cortexclient.registry.is_trusted`): those
of the built-in datasets, and those in the user's own list, which this module reads and writes. A spec is a file that
anybody can write, so a spec cannot add a host.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cortexclient.files import write_bytes
from cortexclient.settings import config_dir

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Token",
    "as_token",
    "find_token",
    "host_of",
    "is_loopback",
    "may_carry_token",
    "secrets_dir",
    "store_token",
    "token_file",
    "token_page",
    "trust",
    "trusted_hosts",
    "trusted_hosts_file",
    "untrust",
]

_HOST = re.compile(
    r"(?=.{1,260}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?"
)
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Token:
    """A token, never shown in a repr, and the file that it was read from."""

    value: str = field(repr=False)
    path: Path


def secrets_dir() -> Path:
    """Return the folder in which caveclient keeps tokens (``~/.cloudvolume/secrets``)."""
    return Path.home() / ".cloudvolume" / "secrets"


def host_of(address: str) -> str:
    """Return the host of a server address, in lower case and without credentials, with its port where one is written.

    Another port may be another person's server. What is no address gives an empty text.
    """
    address = address.strip()
    with contextlib.suppress(ValueError):
        netloc = urlsplit(address if "://" in address else f"https://{address}").netloc
        return netloc.rpartition("@")[2].lower()
    return ""


def is_loopback(address: str | None) -> bool:
    """Return whether a server address, or a bare host name, names this machine."""
    if not address:
        return False
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    with contextlib.suppress(ValueError):
        name = urlsplit(address if "://" in address else f"https://{address}").hostname or ""
        if name == "localhost" or name.endswith(".localhost"):
            return True
        return ipaddress.ip_address(name).is_loopback
    return False


def may_carry_token(address: str) -> bool:
    """Return whether a token may be sent there at all: over https, or to this machine."""
    return urlsplit(address).scheme == "https" or is_loopback(address)


def trusted_hosts_file() -> Path:
    """Return the file of the hosts that the user allowed, one per line."""
    return config_dir() / "trusted_hosts"


def trusted_hosts() -> list[str]:
    """Return the hosts that the user allowed, sorted."""
    try:
        lines = trusted_hosts_file().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    return sorted({name for line in lines if (name := line.partition("#")[0].strip().lower())})


def trust(host: str) -> str:
    """Allow the user's general token to be sent to a host, from now on; return the name that was stored.

    Raise `ValueError` if that is no host name.
    """
    name = host_of(host)
    if not _HOST.fullmatch(name):
        raise ValueError(f"{host!r} is not a host name; write it as cave.my.lab")
    _write_hosts({*trusted_hosts(), name})
    return name


def untrust(host: str) -> None:
    """Remove a host from the list of those that the user allowed."""
    _write_hosts({*trusted_hosts()} - {host_of(host)})


def _write_hosts(hosts: set[str]) -> None:
    text = "# Hosts that may be sent your general CAVE token, one per line (cortexclient trust HOST).\n"
    with _lock:
        _replace(trusted_hosts_file(), text + "".join(f"{host}\n" for host in sorted(hosts)))


def _replace(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_bytes(path, content.encode(), private=True)


def token_file(address: str) -> Path:
    """Return the file in which the token of one server is kept."""
    return secrets_dir() / f"{host_of(address)}-cave-secret.json"


def token_page(address: str) -> str:
    """Return the page of a CAVE server on which a user finds or makes a token."""
    return f"{address.rstrip('/')}/auth/api/v1/user/token"


def find_token(address: str, *, is_trusted: Callable[[str], bool]) -> Token | None:
    """Look up the token for a server: in the server's own file, else the general token if the server is trusted.

    ``is_trusted`` is `cortexclient.registry.is_trusted`, which this module may not import.
    """
    if not may_carry_token(address):
        return None
    places = [token_file(address)]
    if is_trusted(address):
        places.append(secrets_dir() / "cave-secret.json")
    for path in places:
        value = _content(path).get("token")
        if isinstance(value, str) and value.strip():
            return Token(value.strip(), path)
    return None


def _content(path: Path) -> dict[str, object]:
    """Return what a file of a token holds; nothing where there is none, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def as_token(text: object) -> str:
    """Return a token without the spaces around it.

    Raise `TypeError` if it is no text, `ValueError` if it is not one word, and so nothing that can be sent. The message
    does not repeat it.
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
    """Store a token for one server where caveclient finds it, readable by this user only; return the file.

    Raise `ValueError` if the text cannot be a token, or the server is neither https nor on this machine.
    """
    token = as_token(token)
    if not may_carry_token(address):
        raise ValueError(
            f"{address} is not encrypted, so a token must not be sent there; use its https address"
        )
    path = token_file(address)
    _replace(path, json.dumps(_content(path) | {"token": token}))
    return path
