"""Unreadable responses, and the errors of requests, caveclient and cloud-volume, raised as our errors."""

from __future__ import annotations

import contextlib
import json
import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cortexclient import errors
from cortexclient.session.cache import forget
from cortexclient.session.refusals import (
    SERVICES,
    Context,
    clean_url,
    error_for,
    read_refusal,
    scrub,
    service_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from requests import Response

__all__ = ["note_response", "raised_as_ours", "unreadable"]


def unreadable(response: Response, what: str, *, service: str | None = None) -> errors.ProtocolError:
    """Make the error for a response that cannot be read; ``what`` continues "the X service at URL ...".

    The response is removed from the cache.

    Parameters
    ----------
    response : requests.Response
        The response.
    what : str
        What is wrong with it, and what to do.
    service : str, optional
        Name of the service; left out: the one that the address names.
    """
    forget(response)
    url = clean_url(response.url)
    path = service_of(url) or "service"
    name = service or SERVICES.get(path, path)
    return errors.ProtocolError(
        scrub(f"the {name} service at {url} {what}"), service=name, status=response.status_code, url=url
    )


@dataclass(slots=True)
class _Latest:
    """The last response inside of a `raised_as_ours`, for errors of libraries that do not say what they are about."""

    url: str | None = None
    status: int | None = None


_latest: ContextVar[_Latest | None] = ContextVar("cortexclient_latest", default=None)


def note_response(response: Response) -> None:
    """Remember which response is being read, for the messages of what fails next."""
    latest = _latest.get()
    if latest is not None:
        latest.url, latest.status = clean_url(response.url), response.status_code


@contextlib.contextmanager
def raised_as_ours(context: Context) -> Iterator[None]:
    """Turn everything that requests, urllib3, caveclient and cloud-volume raise inside the block into our errors.

    Raises
    ------
    ServiceError
        One of its subclasses, with service, status and URL.
    """
    latest = _Latest()
    token = _latest.set(latest)
    # nothing is chained: the originals hold the request with its headers, and so the token
    try:
        yield
    except errors.ServiceError as error:
        error.url = error.url or latest.url or context.server_address
        error.service = error.service or context.service
        raise
    except errors.CortexError:
        raise
    except Exception as error:
        made = _translated(error, context, latest)
        if made is None:
            raise
        raise made from None
    finally:
        _latest.reset(token)


def _translated(error: Exception, context: Context, latest: _Latest) -> errors.ServiceError | None:
    import requests
    import urllib3

    asked = clean_url(getattr(getattr(error, "request", None), "url", None))
    url = asked or latest.url or context.server_address
    service = context.service or "service"
    where = f"the {service} service at {url}"

    def made(cls: type[errors.ServiceError], message: str, status: int | None = None) -> errors.ServiceError:
        return cls(scrub(message, context.tokens), service=context.service, status=status, url=url)

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
            latest.status,
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
            latest.status,
        )
    if isinstance(error, requests.RequestException):
        return made(
            errors.ServiceUnavailableError,
            f"{where} cannot be reached: {_cause(error)}. Check the network and the server address",
        )
    return _from_library(error, made, service, latest.status)


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
