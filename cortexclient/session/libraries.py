"""Requests that libraries send themselves: with the timeouts and retries of the session that they work for.

cloud-volume, cloud-files and caveclient call ``requests`` in places where nothing can be mounted, without a timeout. To
hosts that a session named here, such requests go through its policy; to any other, as the library sends them.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import DEFAULT_POOLSIZE, HTTPAdapter
from urllib3 import HTTPResponse

from cortexclient.credentials import host_of
from cortexclient.session.policy import Policy
from cortexclient.session.transport import RetryAdapter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from requests import PreparedRequest, Response

__all__ = ["be_patient_with", "web_address"]

_BUCKETS = {"gs": "https://storage.googleapis.com/", "s3": "https://s3.amazonaws.com/"}

_MODULES = (
    "caveclient.auth",
    "caveclient.base",
    "cloudfiles.interfaces",
    "cloudvolume.datasource.graphene.mesh.unsharded",
    "cloudvolume.datasource.graphene.metadata",
    "cloudvolume.frontends.graphene",
)
"""Modules that call ``requests.get`` and its like, or make a session for one request."""

_policies: dict[str, Policy] = {}
_mounting = threading.Lock()


def web_address(folder: str) -> str:
    """Return the address of a folder on the web or in a public bucket, without cloud-volume's prefix."""
    address = folder.removeprefix("precomputed://").rstrip("/")
    scheme, _, rest = address.partition("://")
    return f"{_BUCKETS[scheme]}{rest}" if scheme in _BUCKETS else address


def be_patient_with(addresses: Iterable[str], policy: Policy | None = None) -> None:
    """Use a policy for the requests of libraries to the hosts of these addresses.

    Without one, hosts keep that which they have, and others get that of the environment's settings.
    """
    with _mounting:
        for host in {host_of(web_address(address)) for address in addresses if "://" in address}:
            _policies[host] = policy or _policies.get(host) or Policy.from_settings()
        for name in _MODULES:
            module: Any = sys.modules.get(name)
            if getattr(module, "requests", None) is requests:
                module.requests = _Requests()
        _adapt_cloud_files()


class _Requests:
    """Stands in for ``requests`` in a module of a library: its sessions have our adapter."""

    _adapter: HTTPAdapter | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "Session":
            return self._session
        return getattr(self._session() if name in {"get", "head", "post", "put"} else requests, name)

    def _session(self) -> requests.Session:
        if _Requests._adapter is None:
            _Requests._adapter = _LibraryAdapter(pool_size=16)
        session = requests.Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Requests._adapter)
        return session


class _LibraryAdapter(RetryAdapter):
    """An adapter that is patient with the hosts that sessions named, and any other adapter for the rest."""

    def send(self, request: PreparedRequest, *_: Any, **options: Any) -> Response:
        """Send as any adapter; to a known host with retries."""
        policy = _policies.get(host_of(request.url or ""))
        if policy is None:
            return HTTPAdapter.send(self, request, **options)
        return self.fetch(request, policy, **{**options, "stream": False})


# -- cloud-files -----------------------------------------------------------------------------------------------------


class _FilesAdapter(_LibraryAdapter):
    """The adapter of cloud-files: marks errors that are final, because cloud-files has retries of its own."""

    def send(self, request: PreparedRequest, *_: Any, **options: Any) -> Response:
        """Send as `_LibraryAdapter` does."""
        try:
            response = super().send(request, **options)
            if host_of(request.url or "") not in _policies:
                return response
            if response.status_code not in {403, 404}:
                response.raise_for_status()
                _require_content(request, response)
        except requests.RequestException as error:
            error.final = host_of(request.url or "") in _policies  # type: ignore[attr-defined]
            raise
        # cloud-files reads the stream below, and unpacks it itself
        response.headers.pop("Content-Encoding", None)
        response.raw = HTTPResponse(
            io.BytesIO(response.content), status=response.status_code, preload_content=False
        )
        return response


def _require_content(request: PreparedRequest, response: Response) -> None:
    """Raise for a success without content: cloud-volume would take it for a missing file, and so for black voxels."""
    status = response.status_code
    known = status == 200 or (status == 206 and "Range" in request.headers) or response.is_redirect
    if not known or (status < 300 and request.method == "GET" and not response.content):
        size = len(response.content)
        raise requests.exceptions.ContentDecodingError(f"status {status}, {size} bytes", request=request)


def _adapt_cloud_files() -> None:
    interfaces: Any = sys.modules.get("cloudfiles.interfaces")
    if interfaces is None or isinstance(getattr(interfaces.HttpInterface, "adaptor", None), _FilesAdapter):
        return
    interfaces.HttpInterface.adaptor = _FilesAdapter(pool_size=64)
    for name in ("get_file", "head", "exists", "size", "save_file"):
        retrying = getattr(getattr(interfaces.HttpInterface, name, None), "retry", None)
        if retrying is not None and hasattr(retrying, "stop"):
            retrying.stop = _StopAtFinal(retrying.stop)


class _StopAtFinal:
    """A rule of tenacity, with which cloud-files tries again: not after an error that our adapter calls final."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual

    def __call__(self, state: Any) -> bool:
        failed = state.outcome is not None and state.outcome.failed
        if failed and getattr(state.outcome.exception(), "final", False):
            return True
        return bool(self._usual(state))


def _renew_cloud_files() -> None:
    """Replace the pools of cloud-files in a forked child; cloud-files keeps one for buckets and one for http."""
    global _mounting  # noqa: PLW0603 - the parent may have held it while it forked
    _mounting = threading.Lock()
    interfaces: Any = sys.modules.get("cloudfiles.interfaces")
    if interfaces is None:
        return
    for name in ("S3_BUCKET_POOL_LOCK", "GCS_BUCKET_POOL_LOCK", "MEM_BUCKET_POOL_LOCK"):
        if hasattr(interfaces, name):
            setattr(interfaces, name, threading.Lock())
    in_memory = interfaces.MEM_POOL
    interfaces.reset_connection_pools()
    interfaces.MEM_POOL = in_memory  # files that the user put there, no connections
    adapter = getattr(interfaces.HttpInterface, "adaptor", None)
    if isinstance(adapter, HTTPAdapter) and not isinstance(adapter, _FilesAdapter):
        # in place: sessions that exist have it mounted; ours renews itself
        adapter.init_poolmanager(DEFAULT_POOLSIZE, DEFAULT_POOLSIZE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_cloud_files)
