"""Sandboxes by address: ``sandbox://small`` starts or reuses one, ``sandbox://127.0.0.1:PORT`` finds a running one."""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
import urllib.request
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from cortexclient.sandbox.cortex.sizes import SIZES

if TYPE_CHECKING:
    from cortexclient.sandbox.sandbox import Sandbox

__all__ = ["SandboxAddress", "announce", "close_shared", "forget", "shared_endpoint", "shared_sandbox"]


class SandboxAddress(NamedTuple):
    """Where a sandbox is, for whoever wants to be its client.

    Parameters
    ----------
    address : str
        ``http://127.0.0.1:PORT``.
    token : str or None
        Token that it accepts.
    exports_path : str or None
        Cloud path of its static exports.
    viewer_site : str or None
        Its Neuroglancer.
    """

    address: str
    token: str | None
    exports_path: str | None = None
    viewer_site: str | None = None


_lock = threading.Lock()
_shared: dict[tuple[str, str], Sandbox] = {}
_ports: dict[int, Sandbox] = {}
# sandboxes of the process that this one was forked from, which go on serving both
_inherited: dict[tuple[str, str] | int, SandboxAddress] = {}


def shared_endpoint(address: str) -> SandboxAddress:
    """Address of the sandbox that an address names; started where it does not run yet.

    Parameters
    ----------
    address : str
        ``sandbox://SIZE`` or ``sandbox://SIZE/DATASET``: the sandbox of that size that this process shares, serving
        the dataset's names (``sandbox`` by default). ``sandbox://127.0.0.1:PORT``: a sandbox that runs already, in
        this process or another one.

    Raises
    ------
    ValueError
        The address names no size and no port.
    OSError
        Nothing answers on that port.
    """
    parts = urlsplit(address)
    if parts.port is not None:
        sandbox = _ports.get(parts.port)
        if sandbox is not None:
            return _endpoint(sandbox)
        return _inherited_endpoint(parts.port) or _ask(parts.port)
    size, dataset = parts.netloc or "small", parts.path.strip("/") or "sandbox"
    if size not in SIZES:
        raise ValueError(
            f"{address!r} names no sandbox; write sandbox://SIZE with a size out of {', '.join(SIZES)}"
        )
    return _inherited_endpoint((size, dataset)) or _endpoint(shared_sandbox(size, dataset))


def shared_sandbox(size: str = "small", dataset: str = "sandbox") -> Sandbox:
    """The one sandbox of a size and dataset that this process shares; it closes when the process ends.

    Raise MissingExtraError if the sandbox's own dependencies are not installed.
    """
    # of the package, which says what to install where something is missing
    from cortexclient.sandbox import Sandbox

    key = (size, dataset)
    with _lock:
        if key not in _shared:
            _shared[key] = Sandbox(dataset, size=size)
        return _shared[key]


def announce(sandbox: Sandbox) -> None:
    """Register a running sandbox by its port."""
    _ports[sandbox.port] = sandbox


def forget(sandbox: Sandbox) -> None:
    """Remove a closed sandbox from the register."""
    if _ports.get(sandbox.port) is sandbox:
        del _ports[sandbox.port]
    with _lock:
        for key in [key for key, known in _shared.items() if known is sandbox]:
            del _shared[key]


def close_shared() -> None:
    """Close the sandboxes that this process shares."""
    for sandbox in list(_shared.values()):
        sandbox.close()


def _endpoint(sandbox: Sandbox) -> SandboxAddress:
    return SandboxAddress(sandbox.url, sandbox.token, sandbox.exports_path, sandbox.viewer_site)


def _ask(port: int) -> SandboxAddress:
    """Request the endpoint of a sandbox of another process."""
    address = f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(f"{address}/sandbox.json", timeout=10) as answer:  # noqa: S310 - loopback only
        about = json.load(answer)
    return SandboxAddress(address, about["token"], about["exports_path"], about["viewer_site"])


def _inherited_endpoint(key: tuple[str, str] | int) -> SandboxAddress | None:
    """Return a sandbox of the process that this one was forked from, as long as it runs."""
    endpoint = _inherited.get(key)
    if endpoint is None:
        return None
    try:
        socket.create_connection(("127.0.0.1", urlsplit(endpoint.address).port or 0), timeout=10).close()
    except OSError:
        del _inherited[key]
        return None
    return endpoint


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the parent may have held it while it forked
    _lock = threading.Lock()
    for port, sandbox in _ports.items():
        _inherited[port] = _endpoint(sandbox)
    for key, sandbox in _shared.items():
        _inherited[key] = _endpoint(sandbox)
    _shared.clear()
    _ports.clear()


atexit.register(close_shared)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
