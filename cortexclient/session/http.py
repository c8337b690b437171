"""Direct questions to the services over the shared pool, each failure told as one of our errors."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

from cortexclient import errors
from cortexclient.session.failures import (
    Answer,
    Context,
    clean_url,
    error_for,
    meant_status,
    read_answer,
    scrub,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import requests
    from requests import Response

    from cortexclient.session.policy import Policy

__all__ = ["Http", "encode", "translate"]


def encode(body: Any) -> str:
    """Write JSON as the services read it: NumPy values as plain ones, times with their zone, ids as integers."""

    def plain(value: Any) -> Any:
        if hasattr(value, "isoformat"):
            return value.isoformat()
        if hasattr(value, "tolist"):
            return value.tolist()
        if isinstance(value, set | frozenset):
            return sorted(value)
        raise TypeError(f"{type(value).__name__} cannot be sent to a service: {value!r}")

    return json.dumps(body, default=plain)


@contextlib.contextmanager
def translate(context: Context) -> Iterator[None]:
    """Turn everything that requests, urllib3 and caveclient raise inside the block into one of our errors.

    Raises
    ------
    ServiceError
        One of its subclasses, with service, status and URL.
    """
    import requests
    import urllib3

    # nothing is chained: the originals hold the request with its headers, and so the token
    try:
        yield
    except errors.CortexError:
        raise
    except requests.HTTPError as error:
        if error.response is None:
            raise errors.ServiceError(scrub(str(error), context.tokens), service=context.service) from None
        raise error_for(read_answer(error.response), context) from None
    except requests.Timeout as error:
        raise errors.ServiceTimeoutError(
            f"the {context.service or 'service'} service at {_asked(error) or context.server_address} gave no answer "
            "in time; try again later, ask for less, or raise the timeout (load(..., timeout=seconds))",
            service=context.service,
            url=_asked(error),
        ) from None
    except json.JSONDecodeError as error:
        raise errors.ProtocolError(
            f"the {context.service or 'service'} service answered something that is not JSON ({error.msg}); "
            "is the server address right?",
            service=context.service,
        ) from None
    except (
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        urllib3.exceptions.HTTPError,  # from libraries that read the stream below requests
    ) as error:
        raise errors.ProtocolError(
            f"the answer of the {context.service or 'service'} service broke off or cannot be unpacked; try again",
            service=context.service,
            url=_asked(error),
        ) from None
    except requests.RequestException as error:
        raise errors.ServiceUnavailableError(
            f"the {context.service} service at {_asked(error) or context.server_address} cannot be reached: "
            f"{scrub(_cause(error), context.tokens)}. Check the network and the server address",
            service=context.service,
            url=_asked(error),
        ) from None
    except Exception as error:
        mapped = _from_caveclient(error, context)
        if mapped is None:
            raise
        raise mapped from None


def _asked(error: Any) -> str | None:
    request = getattr(error, "request", None)
    return clean_url(getattr(request, "url", None))


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


_LIBRARIES = ("caveclient", "cloudvolume", "cloudfiles")


def _raised_in(error: BaseException) -> str:
    """Name of the module that an error comes from."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__", ""))


def _from_caveclient(error: Exception, context: Context) -> errors.ServiceError | None:
    name, module = type(error).__name__, type(error).__module__
    if isinstance(error, KeyError) and _raised_in(error).startswith(_LIBRARIES):
        return errors.ProtocolError(
            f"an answer of the {context.service} service has no {error}, which every such answer has; is the server "
            "address right?",
            service=context.service,
        )
    if not module.startswith(_LIBRARIES):
        return None
    text = scrub(" ".join(str(error).split())[:300], context.tokens)
    if name in {"AuthException", "AuthenticationError"}:
        answer = Answer(status=401, text="the token was not accepted", body={"error": "invalid_token"})
        return error_for(answer, context)
    if name == "ServerIncompatibilityError":
        return errors.ProtocolError(
            f"the {context.service} service is too old or too new for this: {text}", service=context.service
        )
    if name == "NoL2CacheException":
        return errors.MissingDataError(
            f"this datastack has no level-2 cache, which this needs: {text}", service=context.service
        )
    return None


class Http:
    """Questions to the services of one connection.

    Parameters
    ----------
    session : requests.Session
        A session on the shared pool.
    context : Context
        What messages may mention; the service's name is filled in by each call.
    policy : Policy
        The timeouts, for messages.
    """

    def __init__(self, session: requests.Session, context: Context, policy: Policy) -> None:
        self._session = session
        self._context = context
        self.policy = policy

    def context(self, service: str | None) -> Context:
        """Give the context for messages about one service."""
        return dataclasses.replace(self._context, service=service)

    def send(
        self,
        service: str,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Response:
        """Send one request and give back its answer, which is a success or one of the statuses in ``accept``.

        Raises
        ------
        ServiceError
            For every failure.
        """
        head = dict(headers or {})
        payload: bytes | str | None = data
        if body is not None:
            payload = encode(body)
            head.setdefault("Content-Type", "application/json")
        with translate(self.context(service)):
            response = self._session.request(method, url, params=params, data=payload, headers=head)
        if response.status_code >= 300 and response.status_code not in accept:
            raise error_for(read_answer(response), self.context(service))
        return response

    def get_json(
        self,
        service: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        keys: Collection[str] | None = None,
    ) -> Any:
        """GET an address and read JSON; ``keys`` as in `read_json`."""
        return self.read_json(service, self.send(service, "GET", url, params=params, body=body), keys=keys)

    def post_json(
        self,
        service: str,
        url: str,
        body: Any,
        *,
        params: Mapping[str, Any] | None = None,
        keys: Collection[str] | None = None,
    ) -> Any:
        """POST JSON and read JSON; ``keys`` as in `read_json`."""
        return self.read_json(service, self.send(service, "POST", url, params=params, body=body), keys=keys)

    def read_json(self, service: str, response: Response, *, keys: Collection[str] | None = None) -> Any:
        """Read the JSON of an answer.

        Parameters
        ----------
        service : str
            Name of the service, for messages.
        response : requests.Response
            The answer.
        keys : collection of str, optional
            Keys that the answer, an object then, must have; none in it asks for an object of any keys.

        Raises
        ------
        ProtocolError
            If it is no JSON (a page for people, an answer that broke off), or of another shape.
        """
        body = self._loaded(service, response)
        if keys is None or (isinstance(body, dict) and all(key in body for key in keys)):
            return body
        wanted = f"an object with {', '.join(map(repr, keys))}" if keys else "an object"
        raise errors.ProtocolError(
            f"the {service} service at {clean_url(response.url)} answered JSON of another shape than CAVE's ({wanted} "
            "was expected); is the server address right?",
            service=service,
            status=response.status_code,
            url=clean_url(response.url),
        )

    def _loaded(self, service: str, response: Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            kind = response.headers.get("Content-Type", "no content type")
            raise errors.ProtocolError(
                f"the {service} service at {clean_url(response.url)} answered {kind} that is not JSON ({error}); "
                "is the server address right?",
                service=service,
                status=meant_status(response.status_code, ""),
                url=clean_url(response.url),
            ) from None
