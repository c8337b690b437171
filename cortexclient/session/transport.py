"""One pool of connections for everything that talks to one server: patient, careful with the token, never hanging.

`Wire` is the adapter below every ``requests.Session`` of a client: caveclient's nine and our own. It sets timeouts,
repeats what may be repeated, keeps the token on the hosts it belongs to, refuses redirects to login pages, and notes
the row caps that servers mention only in a header.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import json
import logging
import os
import sys
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import DEFAULT_POOLSIZE, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from cortexclient.credentials import host_of, may_carry_token
from cortexclient.errors import ServiceUnavailableError
from cortexclient.forking import renew_in_child
from cortexclient.session.failures import (
    Context,
    Refusal,
    clean_url,
    error_for,
    note_response,
    read_refusal,
    service_of,
    unreadable,
)
from cortexclient.session.policy import Policy, cap_in, may_repeat, passing_trouble
from cortexclient.session.stopping import Cancelled, current_stop, pause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests import PreparedRequest, Response

    from cortexclient.session.cache import AnswerCache

__all__ = ["Wire", "adopt", "new_http_session", "watch_caps"]

log = logging.getLogger(__name__)

_SLOWEST = 10_000
"""Bytes per second; a response that comes more slowly ends at the read timeout."""
_BUFFER = 65_536
_DOCUMENTED = {200, 201, 202, 206}
"""Statuses of success that CAVE's protocol and byte ranges know, see `_is_documented`."""

_caps: ContextVar[list[int] | None] = ContextVar("cortexclient_caps", default=None)


@contextlib.contextmanager
def watch_caps() -> Iterator[list[int]]:
    """Collect the row caps that answers mention inside the block, in this thread and in workers started from it.

    Yields
    ------
    list of int
        Grows while the block runs; empty at its end means that nothing was cut.
    """
    seen: list[int] = []
    token = _caps.set(seen)
    try:
        yield seen
    finally:
        _caps.reset(token)


class _PatientReader(io.RawIOBase):
    """Reads a response from a socket within its timeout, plus the time that a slow network needs for what has come.

    The timeout of a socket holds for each piece; a server that sends a byte now and then would never end.
    """

    def __init__(self, sock: Any) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._timeout: float | None = sock.gettimeout()
        self._left = self._timeout

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def readinto(self, buffer: Any) -> int | None:
        if self._timeout is None or self._left is None:
            return self._raw.readinto(buffer)  # type: ignore[no-any-return]
        if self._left <= 0:
            raise TimeoutError("the response comes too slowly")
        began = time.monotonic()
        self._socket.settimeout(min(self._timeout, self._left))
        count: int | None = self._raw.readinto(buffer)
        self._left += (count or 0) / _SLOWEST - (time.monotonic() - began)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PatientSocket:
    """Stands in for a socket where `http.client` opens it for reading."""

    def __init__(self, sock: Any) -> None:
        self._socket = sock

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - always "rb"
        return io.BufferedReader(_PatientReader(self._socket), _BUFFER)


class _Response(http.client.HTTPResponse):
    """A response that has an overall deadline."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(_PatientSocket(sock), *args, **options)  # type: ignore[arg-type]


class _Tracked:
    """Mixed into urllib3's pools: a worker's connection can be found when the work is given up."""

    def _get_conn(self, timeout: Any = None) -> Any:
        connection = super()._get_conn(timeout=timeout)  # type: ignore[misc]
        stop = current_stop()
        if stop is not None:
            stop.enter(connection)
            _leave_if_stopped(connection)
        return connection

    def _put_conn(self, conn: Any) -> None:
        stop = current_stop()
        if stop is not None:
            stop.leave(conn)
        if conn is not None and conn.spoiled:
            # more may follow what was read, and the next request would take it for its own response
            conn.close()
        super()._put_conn(conn)  # type: ignore[misc]


class _Stoppable:
    """Mixed into urllib3's connections: who gives up finds no socket while one is made, so its maker looks again."""

    response_class: Any = _Response
    spoiled = False

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.spoiled = False
        _leave_if_stopped(self)

    def getresponse(self) -> Any:
        response = super().getresponse()  # type: ignore[misc]
        self.spoiled = response.status < 300 and response.status not in _DOCUMENTED
        return response


def _leave_if_stopped(connection: Any) -> None:
    stop = current_stop()
    if stop is not None and stop.is_set():
        connection.close()
        raise Cancelled


class _HTTP(_Stoppable, HTTPConnection):
    """A connection that is not used once the work is given up."""


class _HTTPS(_Stoppable, HTTPSConnection):
    """An encrypted connection that is not used once the work is given up."""


class _HTTPPool(_Tracked, HTTPConnectionPool):
    """A pool whose connections can be interrupted."""

    ConnectionCls = _HTTP


class _HTTPSPool(_Tracked, HTTPSConnectionPool):
    """A pool whose encrypted connections can be interrupted."""

    ConnectionCls = _HTTPS


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class Wire(HTTPAdapter):
    """The adapter under every HTTP session of a client.

    Parameters
    ----------
    policy : Policy
        Timeouts and retries.
    home : str
        Address of the server that the token belongs to.
    token : str or None
        The token; sent to ``home`` and to the hosts that `trust` adds, and nowhere else.
    context : Context
        What error messages may mention.
    cache : AnswerCache, optional
        What is asked first, and told what came.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        home: str,
        token: str | None,
        context: Context,
        cache: AnswerCache | None = None,
    ) -> None:
        self.cache = cache
        self.policy = policy
        self.token = token
        self.context = context
        self._hosts = {host_of(home)}
        self._lock = threading.Lock()
        super().__init__(pool_connections=32, pool_maxsize=policy.pool_size, max_retries=0, pool_block=False)
        renew_in_child(self)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools, of connections that can be interrupted."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Make the pools for a proxy, of connections that can be interrupted."""
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def renew(self) -> None:
        """Leave the open connections to the parent process: a child that reads from them takes its responses."""
        self._lock = threading.Lock()
        self.proxy_manager = {}
        self.init_poolmanager(32, self.policy.pool_size, block=False)

    def trust(self, address: str) -> None:
        """Let the token go to a further host: the local server that the home server names."""
        with self._lock:
            self._hosts.add(host_of(address))

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Answer from the cache where that is right; else send, again where that helps and does no harm."""

        def ask(asked: PreparedRequest) -> Response:
            return self._send(
                asked, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies
            )

        if self.cache is None:
            return ask(request)
        response, kept = self.cache.answer(request, ask)
        response.connection = self  # as requests has it: what cannot be read is removed from this cache
        return self._accept(response) if kept else response

    def _send(
        self, request: PreparedRequest, *, stream: bool, timeout: Any, verify: Any, cert: Any, proxies: Any
    ) -> Response:
        self._authorise(request)
        if timeout is None:
            timeout = (self.policy.connect_timeout, self.policy.read_timeout)
        repeatable = may_repeat(request)
        attempt = 0
        while True:
            try:
                with _named(request):
                    response = super().send(
                        request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies
                    )
                    if not stream:
                        # read here, so that a body that breaks off is asked for again like a refused connection; and
                        # in one piece: requests' own ten kilobytes at a time take twice the memory for good
                        response._content = b"".join(response.iter_content(chunk_size=None))
                wait = self._wait_after(response, attempt) if repeatable else None
                if wait is None:
                    return self._accept(response)
                response.close()
            except (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                # a connection that was never made carried nothing, so even an edit may try again
                unsent = isinstance(error, requests.exceptions.ConnectTimeout) or "NewConnectionError" in str(
                    error
                )
                dropped = not isinstance(error, requests.exceptions.SSLError)
                again = (repeatable or unsent) and dropped and attempt < self.policy.retries
                wait = self.policy.wait(attempt, None) if again else None
                if wait is None:
                    raise
            attempt += 1
            log.info(
                "trying %s again in %.1f s (%d of %d)",
                clean_url(request.url),
                wait,
                attempt,
                self.policy.retries,
            )
            pause(wait)

    def _wait_after(self, response: Response, attempt: int) -> float | None:
        if (
            attempt >= self.policy.retries
            or response.status_code < 429
            or not passing_trouble(response, attempt)
        ):
            return None
        return self.policy.wait(attempt, response.headers.get("Retry-After"))

    def _authorise(self, request: PreparedRequest) -> None:
        url = request.url or ""
        with self._lock:
            ours = host_of(url) in self._hosts
        if ours and may_carry_token(url):
            if self.token and "Authorization" not in request.headers:
                request.headers["Authorization"] = f"Bearer {self.token}"
            return
        # a viewer site, a bucket, a redirect: caveclient's sessions would hand them the token
        request.headers.pop("Authorization", None)
        cookie = request.headers.get("Cookie")
        if cookie and "middle_auth_token" in cookie:
            del request.headers["Cookie"]

    def _accept(self, response: Response) -> Response:
        note_response(response)
        if response.is_redirect:
            self._refuse_login(response)
        elif response.status_code < 400 and not _is_documented(response):
            raise unreadable(
                response,
                f"answered with status {response.status_code}, which is not part of CAVE's protocol; a proxy or "
                "gateway may stand between: check the server address, or try again",
            )
        if response.status_code == 403:
            answer = read_refusal(response)
            if isinstance(answer.body, dict) and answer.body.get("error") == "missing_tos":
                # raised here because caveclient would open a browser before anyone could stop it
                raise error_for(answer, self._context_of(response))
        if response.status_code >= 500:
            _make_object(response)
        cap = cap_in(response)
        if cap is not None:
            seen = _caps.get()
            if seen is not None:
                seen.append(cap)
        return response

    def _refuse_login(self, response: Response) -> None:
        target = response.headers.get("Location", "")
        elsewhere = bool(urlsplit(target).netloc) and host_of(target) != host_of(response.url or "")
        if not elsewhere and "authorize" not in target and "login" not in target:
            return
        refusal = Refusal(
            status=401,
            text="the server sent a login page",
            body={"error": "no_token" if not self.token else "invalid_token"},
            url=clean_url(response.url),
        )
        response.close()
        raise error_for(refusal, self._context_of(response))

    def _context_of(self, response: Response) -> Context:
        return dataclasses.replace(self.context, service=service_of(response.url))


def _is_documented(response: Response) -> bool:
    """Whether the protocol knows this status of success, for this request."""
    status, request = response.status_code, response.request
    if status == 200:
        return True
    path = urlsplit(request.url or "").path
    return (
        (status == 201 and path.startswith("/annotation/"))
        or (status == 202 and path.endswith("/remeshing"))
        or (status == 206 and "Range" in request.headers)
    )


@contextlib.contextmanager
def _named(request: PreparedRequest) -> Iterator[None]:
    """See to it that every failure of the block is one of requests', and says which request it is about."""
    try:
        yield
    except requests.RequestException as error:
        if error.request is None:
            error.request = request
        if isinstance(error, requests.ConnectionError) and _is_timeout(error):
            # requests calls a body that stops coming a lost connection
            raise requests.ReadTimeout(request=request) from None
        raise
    except (OverflowError, http.client.HTTPException) as error:
        # a Content-Length that no machine can count to
        raise requests.exceptions.ContentDecodingError(str(error)[:100], request=request) from None
    except OSError as error:
        # requests looks for the file of certificates only now
        url = clean_url(request.url)
        raise ServiceUnavailableError(
            f"{url} cannot be asked: {str(error)[:200]}. Correct or unset the environment variable REQUESTS_CA_BUNDLE "
            "(or CURL_CA_BUNDLE)",
            service=service_of(url),
            url=url,
        ) from None


def _is_timeout(error: requests.ConnectionError) -> bool:
    return bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError)


def _make_object(response: Response) -> None:
    """Wrap the text of an error in an object: caveclient looks for a key in it and dies of a bare string."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return
    if not isinstance(body, dict):
        response._content = json.dumps({"message": str(body)}).encode()


class _Session(requests.Session):
    """Asks the environment about proxies and certificates once for each host: requests reads it twice a request."""

    def __init__(self) -> None:
        super().__init__()
        self._settings: dict[str, Any] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        if proxies or verify is not None or cert is not None:
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        parts = urlsplit(str(url))
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._settings:
            self._settings[host] = super().merge_environment_settings(url, {}, None, None, None)
        return {**self._settings[host], "stream": self.stream if stream is None else stream}


def _as_it_is(request: PreparedRequest) -> PreparedRequest:
    """Leave a request alone: the token is added where it is known which host it goes to."""
    return request


def new_http_session(wire: Wire) -> requests.Session:
    """Make an HTTP session over the shared pool that keeps no cookies."""
    from http.cookiejar import DefaultCookiePolicy

    session = _Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adopt(session, wire)
    return session


def adopt(session: requests.Session, wire: Wire) -> None:
    """Put an existing HTTP session onto the shared pool."""
    session.mount("https://", wire)
    session.mount("http://", wire)
    if session.auth is None:
        # .netrc entries would replace the token without a word
        session.auth = _as_it_is


def _renew_cloud_files() -> None:
    """Give cloud-files new pools in a forked child; it keeps those of buckets and of http for the whole process."""
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
    if isinstance(adapter, HTTPAdapter):
        # in place: sessions that exist have it mounted
        adapter.init_poolmanager(DEFAULT_POOLSIZE, DEFAULT_POOLSIZE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_cloud_files)
