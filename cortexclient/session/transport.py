"""One pool of connections to one server: with retries and timeouts, and the token for trusted hosts only.

`Transport` is the adapter under every ``requests.Session`` of a client: caveclient's nine and our own. It sets
timeouts, retries what may be sent again, keeps the token on the hosts that it belongs to, and refuses redirects to
login pages and statuses that the protocol does not know.
"""

from __future__ import annotations

import functools
import http.client
import io
import json
import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from cortexclient.credentials import host_of, may_carry_token
from cortexclient.errors import ServiceUnavailableError
from cortexclient.forking import renew_in_child
from cortexclient.session.http import note_response, unreadable
from cortexclient.session.policy import Policy, may_repeat, passing_trouble
from cortexclient.session.refusals import Refusal, clean_url, error_for, read_refusal, service_of
from cortexclient.session.source import StoredMetadata
from cortexclient.session.workers import Cancelled, current_stop, pause

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

    from cortexclient.session.connection import Connection

__all__ = ["RetryAdapter", "Transport", "adopt", "new_http_session"]

log = logging.getLogger(__name__)

_SLOWEST = 10_000
"""Bytes per second; a response that comes more slowly ends at the read timeout."""
_BUFFER = 65_536
_DOWN = {502, 503, 504}
_DOCUMENTED = {200, 201, 202, 206}
"""Statuses of success that CAVE's protocol and byte ranges know, see `_is_documented`."""


_FAILURES = (OSError, OverflowError, http.client.HTTPException)
"""What a request may end with; requests' own errors are OSErrors."""


class _PatientReader(io.RawIOBase):
    """Reads a response from a socket within its timeout, plus what a slow network needs for the bytes received.

    The timeout of a socket holds for each piece; a server that sends a byte now and then would never end.
    """

    def __init__(self, sock: Any, raw: Any) -> None:
        self._socket, self._raw = sock, raw
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


class _Response(http.client.HTTPResponse):
    """A response that has an overall deadline."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_PatientReader(sock, self.fp.detach()), _BUFFER)


class _Tracked:
    """Mixed into urllib3's pools: a worker's connection can be found when its work is cancelled."""

    def _get_conn(self, timeout: Any = None) -> Any:
        connection = super()._get_conn(timeout=timeout)  # type: ignore[misc]
        if (stop := current_stop.get()) is not None:
            stop.enter(connection)
            _leave_if_stopped(connection)
        return connection

    def _put_conn(self, conn: Any) -> None:
        if (stop := current_stop.get()) is not None:
            stop.leave(conn)
        if conn is not None and conn.spoiled:
            # more may follow what was read, and the next request would take it for its own response
            conn.close()
        if conn is not None and self.pool is not None and self.pool.full():  # type: ignore[attr-defined]
            conn.close()  # more threads than connections kept: urllib3 would write a warning to the terminal
            return
        super()._put_conn(conn)  # type: ignore[misc]


class _Stoppable:
    """Mixed into urllib3's connections: a cancel during `connect` finds no socket yet, so it is checked afterwards."""

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
    stop = current_stop.get()
    if stop is not None and stop.is_set():
        connection.close()
        raise Cancelled


class _HTTP(_Stoppable, HTTPConnection):
    """A connection that is not used once the work is cancelled."""


class _HTTPS(_Stoppable, HTTPSConnection):
    """An encrypted connection that is not used once the work is cancelled."""


class _HTTPPool(_Tracked, HTTPConnectionPool):
    """A pool whose connections can be interrupted."""

    ConnectionCls = _HTTP


class _HTTPSPool(_Tracked, HTTPSConnectionPool):
    """A pool whose encrypted connections can be interrupted."""

    ConnectionCls = _HTTPS


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class RetryAdapter(HTTPAdapter):
    """An adapter of requests with timeouts and retries, which can be interrupted.

    It keeps ``pool_size`` connections to each host.
    """

    def __init__(self, pool_size: int) -> None:
        self._pool_size = pool_size
        super().__init__(pool_connections=32, pool_maxsize=pool_size, max_retries=0, pool_block=False)
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
        self.proxy_manager = {}
        self.init_poolmanager(32, self._pool_size, block=False)

    def fetch(self, request: PreparedRequest, policy: Policy, **options: Any) -> Response:
        """Send a request and read its response; retry where that helps and does no harm.

        The last failure is raised as a `requests.RequestException` that names the request.
        """
        options["timeout"] = options.get("timeout") or (policy.connect_timeout, policy.read_timeout)
        attempt = 0
        while True:
            try:
                response = HTTPAdapter.send(self, request, **options)
                if not options.get("stream"):
                    # read here, so that a body that breaks off is retried like a refused connection; and in one piece:
                    # requests' own ten kilobytes at a time take twice the memory for good
                    response._content = b"".join(response.iter_content(chunk_size=None))
                wait = None if response.status_code < 429 else _wait_after_response(response, policy, attempt)
                if wait is None:
                    return response
                response.close()
            except _FAILURES as error:
                wait = _wait_after_error(error, request, policy, attempt)
                if wait is None:
                    raise _named(error, request) from None
            attempt += 1
            tries = f"{attempt} of {policy.retries}"
            log.info("trying %s again in %.1f s (%s)", clean_url(request.url), wait, tries)
            pause(wait)


def _wait_after_response(response: Response, policy: Policy, attempt: int) -> float | None:
    """Return the seconds until a request is retried that a server refused; None where that would not help."""
    if (
        attempt >= policy.retries
        or not may_repeat(response.request)
        or not passing_trouble(response, attempt)
    ):
        return None
    return policy.wait(attempt, response.headers.get("Retry-After"))


def _wait_after_error(
    error: Exception, request: PreparedRequest, policy: Policy, attempt: int
) -> float | None:
    """Return the seconds until a request is retried whose connection failed; None where that would not help."""
    lost = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)
    final = isinstance(error, requests.exceptions.SSLError) or _is_timeout(error)
    if attempt >= policy.retries or not isinstance(error, lost) or final:
        return None
    # a connection that was never made carried nothing, so even an edit may be sent again
    unsent = isinstance(error, requests.exceptions.ConnectTimeout) or "NewConnectionError" in str(error)
    return policy.wait(attempt, None) if unsent or may_repeat(request) else None


def _named(error: Exception, request: PreparedRequest) -> Exception:
    """Return a failure of a request as one of requests' errors, with the request that it is about."""
    if isinstance(error, requests.RequestException):
        if _is_timeout(error):
            # requests calls a body that stops coming a lost connection
            return requests.ReadTimeout(request=request)
        error.request = error.request or request
        return error
    if isinstance(error, OSError):
        # requests looks for the file of certificates only now
        url = clean_url(request.url)
        return ServiceUnavailableError(
            f"{url} cannot be reached: {str(error)[:200]}. Correct or unset the environment variable "
            "REQUESTS_CA_BUNDLE (or CURL_CA_BUNDLE)",
            service=service_of(url),
            url=url,
        )
    # a Content-Length that no machine can count to
    return requests.exceptions.ContentDecodingError(str(error)[:100], request=request)


def _is_timeout(error: Exception) -> bool:
    """Return whether a lost connection is one on which the response stopped coming."""
    lost = isinstance(error, requests.ConnectionError) and bool(error.args)
    return lost and isinstance(error.args[0], urllib3.exceptions.ReadTimeoutError)


class Transport(RetryAdapter):
    """The adapter under every HTTP session of a client.

    The token is sent to the home server and to the hosts that `trust` adds, and nowhere else. Responses stored
    with the tables of a store come before everything else, those of the cache next.
    """

    def __init__(self, connection: Connection) -> None:
        tables, home = connection.tables, connection.address
        self.cache = connection.cache
        self.stored = None if tables is None else StoredMetadata(tables, connection.origin, home)
        self.policy = connection.policy
        self.token = connection.token
        self._connection = connection
        self._hosts = frozenset({host_of(home)})
        self._away: frozenset[str] = frozenset()
        super().__init__(connection.policy.pool_size)

    def trust(self, address: str) -> None:
        """Let the token go to a further host: the local server that the home server names."""
        self._hosts |= {host_of(address)}

    def may_send_token(self, url: str) -> bool:
        """Return whether the token belongs to the server of an address: the home server or the local one, encrypted."""
        return host_of(url) in self._hosts and may_carry_token(url)

    def send(self, request: PreparedRequest, *_: Any, **options: Any) -> Response:
        """Return the cached response where there is one; else send the request."""
        if self.cache is None and self.stored is None:
            return self._request(request, **options)
        response, cached = self._cached_or_sent(request, **options)
        response.connection = self  # as requests has it: what cannot be read is removed from this cache
        return self._accept(response) if cached else response

    def _cached_or_sent(self, request: PreparedRequest, **options: Any) -> tuple[Response, bool]:
        """Return a response and whether it was stored or cached; while a service is down, one of before, if it may."""
        offline = self.cache is not None and self.cache.offline
        if self.stored is not None and (found := self.stored.find(request, away=offline)) is not None:
            return found, True
        try:
            if self.cache is None:
                response, cached = self._request(request, **options), False
            else:
                response, cached = self.cache.respond(request, functools.partial(self._request, **options))
        except (requests.ConnectionError, requests.Timeout, ServiceUnavailableError):
            found = self._while_away(request)
            if found is None:
                raise
            return found, True
        found = self._while_away(request) if response.status_code in _DOWN else None
        return (response, cached) if found is None else (found, True)

    def _while_away(self, request: PreparedRequest) -> Response | None:
        """Return what is known of a request whose service is down; None where only the server may answer."""
        if self.stored is None or self.stored.only:
            return None
        found = self.stored.find(request, away=True)
        if found is None and self.cache is not None:
            found = self.cache.while_away(request)
        service = service_of(request.url) or "CAVE"
        if found is not None and service not in self._away:
            self._away |= {service}
            log.warning(
                "the %s service at %s is down; what is in the store or the cache is used instead, as it was then",
                service,
                host_of(request.url or ""),
            )
        return found

    def _request(self, request: PreparedRequest, **options: Any) -> Response:
        self._authorise(request)
        return self._accept(self.fetch(request, self.policy, **options))

    def _authorise(self, request: PreparedRequest) -> None:
        if self.may_send_token(request.url or ""):
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
        if response.status_code != 200:
            self._check_status(response)
        return response

    def _check_status(self, response: Response) -> None:
        """Raise for what is not CAVE's own response, and for terms of service that are not accepted."""
        if response.is_redirect:
            self._refuse_login(response)
        elif response.status_code < 400 and not _is_documented(response):
            raise unreadable(
                response,
                f"answered with status {response.status_code}, which is not part of CAVE's protocol; a proxy or "
                "gateway may stand between: check the server address, or try again",
            )
        elif response.status_code == 403:
            refusal = read_refusal(response)
            if isinstance(refusal.body, dict) and refusal.body.get("error") == "missing_tos":
                # raised here because caveclient would open a browser before anyone could stop it
                raise error_for(refusal, self._connection.context(service_of(response.url)))
        elif response.status_code >= 500:
            _make_object(response)

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
        raise error_for(refusal, self._connection.context(service_of(response.url)))


def _is_documented(response: Response) -> bool:
    """Return whether the protocol has this other status of success, for this request."""
    status, request = response.status_code, response.request
    path = urlsplit(request.url or "").path
    return (
        (status == 201 and path.startswith("/annotation/"))
        or (status == 202 and path.endswith("/remeshing"))
        or (status == 206 and "Range" in request.headers)
    )


def _make_object(response: Response) -> None:
    """Wrap the text of an error in an object: caveclient looks for a key in it and dies of a bare string."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return
    if not isinstance(body, dict):
        response._content = json.dumps({"message": str(body)}).encode()


class _HttpSession(requests.Session):
    """Reads proxies and certificates of the environment once for each host: requests does it twice a request."""

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


def new_http_session(transport: Transport) -> requests.Session:
    """Make an HTTP session over the shared pool that keeps no cookies."""
    from http.cookiejar import DefaultCookiePolicy

    session = _HttpSession()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adopt(session, transport)
    return session


def adopt(session: requests.Session, transport: Transport) -> None:
    """Put an existing HTTP session onto the shared pool."""
    session.mount("https://", transport)
    session.mount("http://", transport)
    if session.auth is None:
        # .netrc entries would replace the token without a word
        session.auth = _as_it_is
