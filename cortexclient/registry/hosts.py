"""Which servers may be sent the user's general token.

A spec is a file that anybody can write. The token that is stored for a server goes to that server only; the token
without a server goes to hosts of the built-in specs and to those that the user has allowed. Not to this machine either:
what listens on one of its ports may be somebody else's.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from cortexclient.credentials import host_of, trusted_hosts

__all__ = ["is_trusted"]


def is_trusted(host: str) -> bool:
    """Whether the user's general token may be sent to a host.

    Parameters
    ----------
    host : str
        A host name or an address (``https://cave.my.lab/info``).
    """
    name = host_of(host)
    return bool(name) and (name in _builtin_hosts() or name in trusted_hosts())


@cache
def _builtin_hosts() -> frozenset[str]:
    """Hosts of the built-in specs, except where the address itself was never verified."""
    from cortexclient.errors import CortexError
    from cortexclient.registry.assembly import read
    from cortexclient.registry.layers import BUILT_IN, Layer, builtin_folder

    layer = Layer(BUILT_IN, builtin_folder())
    hosts = set()
    for name in layer.names():
        with suppress(CortexError):
            spec = read(layer.file(name), layer=BUILT_IN)
            if spec.is_verified("server_address"):
                hosts.add(spec.host)
    return frozenset(hosts - {""})
