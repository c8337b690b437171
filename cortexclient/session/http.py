"""Requests to the services over the shared connections; every failure is one of our errors."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from cortexclient.session.failures import raised_as_ours, unreadable
from cortexclient.session.refusals import Context, error_for, read_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import requests
    from requests import Response

    from cortexclient.errors import ProtocolError
    from cortexclient.session.policy import Policy

__all__ = ["Http", "encode"]


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


class Http:
    """Requests to the services of one connection, over a `requests.Session` on the shared pool.

    Of the context, which says what messages may mention, each call fills in its service; the policy is for its
    timeouts.
    """

    def __init__(self, session: requests.Session, context: Context, policy: Policy) -> None:
        self._session = session
        self._context = context
        self.policy = policy

    def context(self, service: str | None) -> Context:
        """Return the context for messages about one service."""
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
        timeout: float | None = None,
    ) -> Response:
        """Send one request; return its response, a success or one of the statuses in ``accept`` with a body of CAVE's.

        With ``timeout`` (seconds) no longer than that is waited for the response, where the policy waits longer. Every
        failure is raised as a `ServiceError`.
        """
        head = dict(headers or {})
        payload: bytes | str | None = data
        if body is not None:
            payload = encode(body)
            head.setdefault("Content-Type", "application/json")
        with raised_as_ours(self.context(service)):
            response = self._session.request(
                method, url, params=params, data=payload, headers=head, timeout=self._timeout(timeout)
            )
            if response.status_code >= 300:
                if response.status_code not in accept:
                    raise error_for(read_refusal(response), self.context(service))
                _require_caves(response, service)
        return response

    def _timeout(self, seconds: float | None) -> tuple[float, float] | None:
        """Return the timeouts of connecting and reading for one request; None for the policy's."""
        if seconds is None:
            return None
        return min(seconds, self.policy.connect_timeout), min(seconds, self.policy.read_timeout)

    def fetch_file(
        self, service: str, url: str, *, headers: Mapping[str, str] | None = None
    ) -> Response | None:
        """GET a file of a bucket or web folder; None where there is none (404, or 403 as buckets say it).

        Every failure is raised as a `ServiceError`.
        """
        with raised_as_ours(self.context(service)):
            response = self._session.request("GET", url, headers=dict(headers or {}))
            if response.status_code in {403, 404}:
                return None
            if response.status_code >= 300:
                raise error_for(read_refusal(response), self.context(service))
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
            wanted = f"an object with {', '.join(map(repr, keys))}" if keys else "an object"
            raise unreadable(
                response,
                f"answered JSON of another shape than CAVE's ({wanted} was expected); is the server address right?",
                service=service,
            )
        try:
            return body if parse is None else parse(body)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise unreadable(
                response,
                f"answered JSON that cannot be used ({str(error)[:150]}); try again, or check the server address",
                service=service,
            ) from None


def _not_json(service: str, response: Response, error: Exception) -> ProtocolError:
    kind = response.headers.get("Content-Type", "no content type")
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    return unreadable(
        response,
        f"answered {kind} that is not JSON ({why}); is the server address right?",
        service=service,
    )


def _require_caves(response: Response, service: str) -> None:
    """Check that an accepted refusal ("there is none") was written by a service, not by a gateway in front of it.

    Raise `ProtocolError` if it has no JSON body.
    """
    try:
        response.json()
    except (ValueError, RecursionError):
        raise unreadable(
            response,
            f"answered status {response.status_code} with something that is not CAVE's: it may be restarting, or the "
            "server address is wrong; try again",
            service=service,
        ) from None
