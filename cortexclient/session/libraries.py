"""Requests that libraries send themselves: with the timeouts and retries of the session that they work for.

cloud-volume, cloud-files and caveclient call ``requests`` in places where nothing can be mounted, without a timeout. To
hosts that a session named here, such requests go through its policy; to any other, as the library sends them. What they
would print beside an error goes to their log.
"""

from __future__ import annotations

import io
import logging
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

_PRINTING = (
    "cloudvolume.datasource.graphene.mesh.unsharded",
    "cloudvolume.datasource.precomputed.image.rx",
    "cloudvolume.datasource.precomputed.mesh.unsharded",
)
"""Modules that print to stdout what is wrong with a file."""

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
        for name in _PRINTING:
            if name in sys.modules:
                sys.modules[name].print = _log  # type: ignore[attr-defined]
        _adapt_cloud_files()


def _log(*words: Any, **_: Any) -> None:
    """Stand in for ``print``: what a library has to say beside its error is for whoever turns on its log."""
    logging.getLogger("cloudvolume").info(" ".join(map(str, words)))


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
    """The adapter of cloud-files: only what cloud-files itself takes for an outcome is no error."""

    def send(self, request: PreparedRequest, *_: Any, **options: Any) -> Response:
        """Send as `_LibraryAdapter` does."""
        try:
            response = super().send(request, **options)
            if host_of(request.url or "") not in _policies:
                return response
            if response.status_code not in {401, 403, 404}:
                response.raise_for_status()
                _require_content(request, response)
        except requests.RequestException as error:
            error.request = error.request or request
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
    for kind in (interfaces.HttpInterface, interfaces.GoogleCloudStorageInterface, interfaces.S3Interface):
        for method in vars(kind).values():
            _limit_tries(method)
    # with this rule cloud-files makes, at each call, the function that lists a public bucket of Google's
    rule = getattr(interfaces, "retry_if_not", None)
    if rule is not None:
        interfaces.retry_if_not = lambda *kinds: lambda list_page: _limit_tries(rule(*kinds)(list_page), "gs")


def _limit_tries(function: Any, scheme: str | None = None) -> Any:
    """Let a function that cloud-files tries up to seven times obey the retries of the session."""
    retrying: Any = getattr(function, "retry", None)
    if hasattr(retrying, "stop"):
        retrying.stop = _Stop(retrying.stop, scheme)
    return function


class _Stop:
    """A rule of tenacity: after as many tries as the policy of a host allows, elsewhere after the library's own number.

    A request that failed was tried by an adapter or by Google's client already, and is not tried again. Without a
    scheme, what is tried is a method, whose object knows it.
    """

    def __init__(self, usual: Any, scheme: str | None) -> None:
        self._usual = usual
        self._scheme = scheme

    def __call__(self, state: Any) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        failed = error.request if isinstance(error, requests.RequestException) else None
        if failed is not None and host_of(failed.url or "") in _policies:
            return True
        scheme = self._scheme or getattr(getattr(state.args[0], "_path", None), "protocol", "")
        policy = _policies.get(host_of(web_address(f"{scheme}://bucket")))
        return bool(self._usual(state)) or (policy is not None and state.attempt_number > policy.retries)


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
