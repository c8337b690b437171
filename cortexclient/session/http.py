"""Requests to the services over the shared connections; every failure is one of our errors."""

from __future__ import annotations

import contextlib
import json
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from cortexclient import errors
from cortexclient.session.cache import forget
from cortexclient.session.refusals import (
    SERVICES,
    clean_url,
    error_for,
    read_refusal,
    scrub,
    service_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from requests import Response

    from cortexclient.session.connection import Connection

__all__ = ["Http", "as_ours", "note_response", "raised_as_ours", "unreadable"]


def _plain(value: Any) -> Any:
    """Make of a value what JSON has: of a NumPy value a plain one, of a time one with its zone, of a set a list."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be sent to a service: {value!r}")


class Http:
    """Requests to the services of one connection, over its pool."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(
        self,
        service: str,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
        timeout: float | None = None,
    ) -> Response:
        """Send one request; return its response, a success or one of the statuses in ``accept`` with a body of CAVE's.

        A body is sent as JSON, bytes as they are. With ``timeout`` (seconds) no longer than that is waited for the
        response, where the policy waits longer. Every failure is raised as a `ServiceError`.
        """
        head = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body, default=_plain)
            head.setdefault("Content-Type", "application/json")
        limits = None if timeout is None else self._limits(timeout)
        try:
            response = self._connection.http_session.request(
                method, url, params=params, data=body, headers=head, timeout=limits
            )
        except Exception as error:
            if (made := as_ours(error, self._connection, service)) is None:
                raise
            raise made from None
        if response.status_code >= 300:
            self._require_accepted(response, service, accept)
        return response

    def _limits(self, seconds: float) -> tuple[float, float]:
        """Return the timeouts of connecting and reading for one request that should not take longer than so many."""
        policy = self._connection.policy
        return min(seconds, policy.connect_timeout), min(seconds, policy.read_timeout)

    def _require_accepted(self, response: Response, service: str, accept: tuple[int, ...]) -> None:
        """Raise what a refusal stands for; if its status is accepted, check that it is a service's, not a gateway's."""
        if response.status_code not in accept:
            raise error_for(read_refusal(response), self._connection.context(service))
        try:
            response.json()
        except (ValueError, RecursionError):
            raise unreadable(
                response,
                f"answered status {response.status_code} with something that is not CAVE's: it may be restarting, or "
                "the server address is wrong; try again",
                service=service,
            ) from None

    def fetch_file(
        self, service: str, url: str, *, headers: Mapping[str, str] | None = None
    ) -> Response | None:
        """GET a file of a bucket or web folder; None where there is none (404, or 403 as buckets say it).

        Every failure is raised as a `ServiceError`.
        """
        with raised_as_ours(self._connection, service):
            response = self._connection.http_session.request("GET", url, headers=dict(headers or {}))
        if response.status_code in {403, 404}:
            return None
        if response.status_code >= 300:
            raise error_for(read_refusal(response), self._connection.context(service))
        return response

    def get_json(
        self,
        service: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        keys: Collection[str] | None = None,
        parse: Callable[[Any], Any] | None = None,
    ) -> Any:
        """GET an address and parse JSON; ``keys`` and ``parse`` as in `read_json`."""
        response = self.send(service, "GET", url, params=params, body=body)
        return self.read_json(service, response, keys=keys, parse=parse)

    def post_json(
        self,
        service: str,
        url: str,
        body: Any,
        *,
        params: Mapping[str, Any] | None = None,
        keys: Collection[str] | None = None,
        parse: Callable[[Any], Any] | None = None,
    ) -> Any:
        """POST JSON and parse JSON; ``keys`` and ``parse`` as in `read_json`."""
        response = self.send(service, "POST", url, params=params, body=body)
        return self.read_json(service, response, keys=keys, parse=parse)

    def read_json(
        self,
        service: str,
        response: Response,
        *,
        keys: Collection[str] | None = None,
        parse: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Parse the JSON of a response, which must be an object with these keys (of any keys, for an empty collection).

        Without ``keys`` it may be anything. ``parse`` makes the result of it; what it raises about values, types and
        keys says that they are wrong. Raise `ProtocolError` if it is no JSON (a page for people, a response that broke
        off), or cannot be used.
        """
        try:
            body = response.json()
        except (ValueError, RecursionError) as error:
            raise _not_json(service, response, error) from None
        if keys is not None and not (isinstance(body, dict) and all(key in body for key in keys)):
            raise _of_another_shape(service, response, keys)
        try:
            return body if parse is None else parse(body)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            what = f"answered JSON that cannot be used ({str(error)[:150]}); try again, or check the server address"
            raise unreadable(response, what, service=service) from None


def _of_another_shape(service: str, response: Response, keys: Collection[str]) -> errors.ProtocolError:
    wanted = f"an object with {', '.join(map(repr, keys))}" if keys else "an object"
    return unreadable(
        response,
        f"answered JSON of another shape than CAVE's ({wanted} was expected); is the server address right?",
        service=service,
    )


def _not_json(service: str, response: Response, error: Exception) -> errors.ProtocolError:
    kind = response.headers.get("Content-Type", "something") if response.content else "nothing"
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    return unreadable(
        response,
        f"answered {kind}, which is not JSON ({why}); is the server address right?",
        service=service,
    )


# -- failures --------------------------------------------------------------------------------------------------------


def unreadable(response: Response, what: str, *, service: str | None = None) -> errors.ProtocolError:
    """Make the error for a response that cannot be read, and remove the response from the cache.

    ``what`` continues "the X service at URL ...": what is wrong with it, and what to do. The service is by default the
    one that the address names.
    """
    forget(response)
    url = clean_url(response.url)
    path = service_of(url) or "service"
    name = service or SERVICES.get(path, path)
    return errors.ProtocolError(
        scrub(f"the {name} service at {url} {what}"), service=name, status=response.status_code, url=url
    )


_latest: ContextVar[list[Response] | None] = ContextVar("cortexclient_latest", default=None)
"""The last response inside of a `raised_as_ours`, for errors of libraries that do not say what they are about."""


def note_response(response: Response) -> None:
    """Remember which response is being read, for the messages of what fails next."""
    latest = _latest.get()
    if latest is not None:
        latest[:] = [response]


@contextlib.contextmanager
def raised_as_ours(connection: Connection, service: str | None) -> Iterator[None]:
    """Turn everything that requests, urllib3, caveclient and cloud-volume raise inside the block into our errors.

    They are `ServiceError`, with service, status and URL.
    """
    latest: list[Response] = []
    token = _latest.set(latest)
    # nothing is chained: the originals hold the request with its headers, and so the token
    try:
        yield
    except Exception as error:
        made = as_ours(error, connection, service, *latest)
        if made is None:
            raise
        raise made from None
    finally:
        _latest.reset(token)


def as_ours(
    error: Exception, connection: Connection, service: str | None, latest: Response | None = None
) -> errors.ServiceError | None:
    """Make our error of a foreign one; None for one that is ours, completed in place, or a mistake of the caller.

    ``latest`` is the response that was being read, for errors that do not say what they are about.
    """
    import requests
    import urllib3

    latest = getattr(error, "response", None) if latest is None else latest
    seen = None if latest is None else clean_url(latest.url)
    if isinstance(error, errors.ServiceError):
        error.url = error.url or seen or connection.address
        error.service = error.service or service
    if isinstance(error, errors.CortexError):
        return None
    status = None if latest is None else latest.status_code
    context = connection.context(service)
    requested = clean_url(getattr(getattr(error, "request", None), "url", None))
    url = requested or seen or context.server_address
    name = service or "service"
    where = f"the {name} service at {url}"

    def made(cls: type[errors.ServiceError], message: str, status: int | None = None) -> errors.ServiceError:
        return cls(scrub(message, context.tokens), service=service, status=status, url=url)

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error_for(read_refusal(error.response), context)
    if isinstance(error, requests.Timeout):
        return made(
            errors.ServiceTimeoutError,
            f"{where} did not respond in time; try again later, ask for less, or raise the timeout "
            "(load(..., timeout=seconds))",
        )
    if isinstance(error, json.JSONDecodeError):
        return made(
            errors.ProtocolError,
            f"{where} answered something that is not JSON ({error.msg}); is the server address right?",
            status,
        )
    if isinstance(
        error,
        requests.exceptions.ChunkedEncodingError
        | requests.exceptions.ContentDecodingError
        | requests.exceptions.TooManyRedirects
        | urllib3.exceptions.HTTPError,  # from libraries that read the stream below requests
    ):
        return made(
            errors.ProtocolError,
            f"the response of {where} broke off, cannot be unpacked or leads in a circle; try again",
            status,
        )
    if isinstance(error, requests.RequestException):
        return made(
            errors.ServiceUnavailableError,
            f"{where} cannot be reached: {_cause(error)}. Check the network and the server address",
        )
    return _from_library(error, made, name, status)


_SPEAKER = re.compile(r"^(<[^>]*>|\w+\(host=[^)]*\)): ")
"""urllib3 begins its messages with the connection object that they are about."""


def _cause(error: BaseException) -> str:
    reason = error
    while True:
        deeper = getattr(reason, "reason", None) or (reason.args[0] if reason.args else None)
        if not isinstance(deeper, BaseException):
            break
        reason = deeper
    said = _SPEAKER.sub("", " ".join(str(reason).split()))
    return said[:200] or type(reason).__name__


_LIBRARIES = (
    "caveclient",
    "cloudvolume",
    "cloudfiles",
    "requests",
    "urllib3",
    "json",
    "http.",
    "deflate",
    "zlib",
    "gzip",
)


def _raised_in(error: BaseException) -> str:
    """Return the name of the module that an error comes from."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__", ""))


def _from_library(
    error: Exception, made: Callable[..., errors.ServiceError], service: str, status: int | None
) -> errors.ServiceError | None:
    """Make our error of one that a library raised over a response; None for a mistake of the caller."""
    name = type(error).__name__
    ours = not (type(error).__module__.startswith(_LIBRARIES) or _raised_in(error).startswith(_LIBRARIES))
    if ours:
        return None
    text = " ".join(str(error).split())[:300]
    if name in {"AuthException", "AuthenticationError"}:
        return made(
            errors.AuthenticationError,
            f"the {service} service did not accept the token; run `cortexclient login`, or pass auth_token= to load()",
            401,
        )
    if name == "NoL2CacheException":
        return made(
            errors.MissingDataError, f"this datastack has no level-2 cache, which this needs: {text}", 404
        )
    if name == "ServerIncompatibilityError":
        return made(
            errors.ProtocolError, f"the {service} service is too old or too new for this: {text}", status
        )
    if isinstance(error, KeyError):
        return made(
            errors.ProtocolError,
            f"a response of the {service} service has no {error}, which every such response has; is the server address "
            "right?",
            status,
        )
    return made(
        errors.ProtocolError,
        f"a response of the {service} service cannot be read ({name}: {text}); is the server address right?",
        status,
    )
