"""Which servers may be shown the user's general token.

A spec is a file that anybody can write. The token that is stored for a server goes to that server only; the token
without a server goes to hosts of the built-in specs and to those that the user has allowed. Not to this machine either:
what listens on one of its ports may be somebody else's.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from cortexclient.forking import ForkSafeLock
from cortexclient.settings import config_dir

__all__ = ["is_trusted", "trust", "trusted_hosts", "trusted_hosts_file", "untrust"]

_HOST = re.compile(
    r"(?=.{1,260}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?"
)
_lock = ForkSafeLock()


def trusted_hosts_file() -> Path:
    """File of hosts that the user has allowed, one per line."""
    return config_dir() / "trusted_hosts"


def is_trusted(host: str) -> bool:
    """Whether the user's general token may be sent to a host.

    Parameters
    ----------
    host : str
        A host name or an address (``https://cave.my.lab/info``).
    """
    name = _host(host)
    return bool(name) and (name in _builtin_hosts() or name in trusted_hosts())


def trusted_hosts() -> list[str]:
    """Hosts that the user has allowed."""
    try:
        lines = trusted_hosts_file().read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return sorted({name for line in lines if (name := line.partition("#")[0].strip().lower())})


def trust(host: str) -> str:
    """Allow the user's general token to be sent to a host, from now on and in every session.

    Returns
    -------
    str
        The host name that was stored.

    Raises
    ------
    ValueError
        If that is no host name.
    """
    name = _host(host)
    if not _HOST.fullmatch(name):
        raise ValueError(f"{host!r} is not a host name; write it as cave.my.lab")
    _write({*trusted_hosts(), name})
    return name


def untrust(host: str) -> None:
    """Take a host off the list of those that the user has allowed."""
    _write({*trusted_hosts()} - {_host(host)})


def _host(text: str) -> str:
    """Host, with its port where one is written: another port may be another person's server."""
    text = text.strip()
    with suppress(ValueError):
        return urlsplit(text if "://" in text else f"//{text}").netloc.rpartition("@")[2].lower()
    return ""


def _write(hosts: set[str]) -> None:
    path = trusted_hosts_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "# Hosts that may be shown your general CAVE token, one per line (cortexclient trust HOST).\n"
    with _lock:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".trusted_hosts-")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text + "".join(f"{host}\n" for host in sorted(hosts)))
        Path(name).replace(path)


@cache
def _builtin_hosts() -> frozenset[str]:
    from cortexclient.errors import CortexError
    from cortexclient.registry.assembly import read
    from cortexclient.registry.layers import BUILT_IN, Layer, builtin_folder

    layer = Layer(BUILT_IN, builtin_folder())
    hosts = set()
    for name in layer.names():
        with suppress(CortexError):
            hosts.add(read(layer.file(name), layer=BUILT_IN).host)
    return frozenset(hosts - {""})
