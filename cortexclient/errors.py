"""The errors of cortexclient: one tree, one base, each saying what, where and what to do next.

::

    CortexError
    ├── SpecError (ValueError)                     a dataset spec that cannot be used
    ├── UnknownDatasetError (LookupError)          no spec of that name
    ├── NotConfiguredError (NotImplementedError)   the spec lacks the section that a feature needs
    ├── MissingExtraError (ImportError)            an optional dependency is not installed
    ├── ServiceError                               a server refused or failed (.service .status .url)
    │   ├── AuthenticationError (PermissionError)  no token, a bad one, or one without the right
    │   │   └── TermsOfServiceError                the terms of service are not accepted yet
    │   ├── ServiceUnavailableError (ConnectionError)
    │   │   └── OfflineError                       working offline, and the cache does not have it
    │   ├── ServiceTimeoutError (TimeoutError)
    │   ├── ProtocolError                          a response that cannot be read
    │   ├── InvalidQueryError (ValueError)         the server refused the query itself
    │   ├── UnknownTableError (LookupError)
    │   ├── UnknownVersionError (LookupError)
    │   │   └── ExpiredVersionError
    │   └── MissingDataError (LookupError)         the object is known, but has no such data
    ├── IncompleteResultError                      a truncated result that could not be completed
    ├── StaleRootError (LookupError)               a root id that is not valid at the client's moment
    ├── AmbiguousCellError (LookupError)           several cells or roots where one was asked for
    ├── ExportError (OSError)                      a static export that cannot be found or read
    ├── OutputError (OSError)                      a file that cannot be written
    ├── StoreError (LookupError)                   a table of the store that is not there or damaged
    └── JobError                                   a bulk job with failures
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

__all__ = [
    "AmbiguousCellError",
    "AuthenticationError",
    "CortexError",
    "ExpiredVersionError",
    "ExportError",
    "IncompleteResultError",
    "InvalidQueryError",
    "JobError",
    "MissingDataError",
    "MissingExtraError",
    "NotConfiguredError",
    "OfflineError",
    "OutputError",
    "ProtocolError",
    "ServiceError",
    "ServiceTimeoutError",
    "ServiceUnavailableError",
    "SpecError",
    "StaleRootError",
    "StoreError",
    "TermsOfServiceError",
    "UnknownDatasetError",
    "UnknownTableError",
    "UnknownVersionError",
]

Kind = TypeVar("Kind", bound="ServiceError")

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Replace control characters, so that text of a server cannot steer the terminal that shows it.

    Line ends and tabs stay. Marks that turn the direction of writing count as control characters.
    """
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


class CortexError(Exception):
    """Base of every error that cortexclient raises on purpose."""

    def __str__(self) -> str:
        # most messages quote a server, a file or a name
        return printable(super().__str__())


class SpecError(CortexError, ValueError):
    """A dataset spec that cannot be used; the message lists every problem with file, line and column.

    ``problems`` holds them one by one, as `cortexclient.spec.Problem`.
    """

    problems: tuple[Any, ...] = ()  # of Problem; that module is above this one


class UnknownDatasetError(CortexError, LookupError):
    """No dataset of that name; the message lists close names and the places searched."""


class NotConfiguredError(CortexError, NotImplementedError):
    """The feature needs a section that this dataset's spec does not have; the message names the YAML key."""


class MissingExtraError(CortexError, ImportError):
    """An optional dependency is not installed; the message is the pip command that installs it."""

    @classmethod
    def of(cls, purpose: str, package: str, extra: str) -> MissingExtraError:
        """Explain what needs which package, and the command that installs the extra it belongs to."""
        return cls(
            f"{purpose} the package {package!r}, which is not installed; "
            f'run: python -m pip install "cortexclient[{extra}]"'
        )


class ServiceError(CortexError):
    """A CAVE service responded with an error, or did not respond.

    Parameters
    ----------
    message : str
        What happened and what to do next. Never holds a token.
    service : str or None
        Name of the service (``"materialize"``, ``"chunkedgraph"``, ...).
    status : int, optional
        The status that was meant: the HTTP status, or the one that a service wrote into the text of an HTTP 500. Left
        out where there was no response: then it is the status that HTTP has for such an error.
    url : str or None
        The address of the request that was sent or would have been, without credentials.
    """

    usual_status = 500

    def __init__(
        self,
        message: str,
        *,
        service: str | None = None,
        status: int | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(message)
        self.service = service
        self.status = self.usual_status if status is None else status
        self.url = url

    def of_kind(self, kind: type[Kind], message: str) -> Kind:
        """Return an error of another kind about the same request, with what is known about its reason."""
        return kind(message, service=self.service, status=self.status, url=self.url)

    def __reduce__(self) -> tuple[object, ...]:
        # exceptions with keyword-only arguments do not pickle by themselves; workers send these across processes
        return (_rebuild, (type(self), str(self), self.service, self.status, self.url))


def _rebuild(
    cls: type[ServiceError], message: str, service: str | None, status: int | None, url: str | None
) -> ServiceError:
    return cls(message, service=service, status=status, url=url)


class AuthenticationError(ServiceError, PermissionError):
    """No token, a wrong one, or one without the right that was needed."""

    usual_status = 401


class TermsOfServiceError(AuthenticationError):
    """The dataset's terms of service are not accepted yet; the message gives the address of the form."""

    usual_status = 403


class ServiceUnavailableError(ServiceError, ConnectionError):
    """The service could not be reached, or every retry failed with 429 or 502-504."""

    usual_status = 503


class OfflineError(ServiceUnavailableError):
    """The client works offline, and the response is not cached; the message names the request."""

    usual_status = 504


class ServiceTimeoutError(ServiceError, TimeoutError):
    """The service did not respond in time."""

    usual_status = 504


class ProtocolError(ServiceError):
    """The response cannot be parsed (a login page, an incomplete stream, a wrong content type)."""

    usual_status = 502


class InvalidQueryError(ServiceError, ValueError):
    """The service refused the query: an unknown column, a bad filter, a malformed value."""

    usual_status = 400


class UnknownTableError(ServiceError, LookupError):
    """No table or view of that name at that version; the message lists close names."""

    usual_status = 404


class UnknownVersionError(ServiceError, LookupError):
    """No materialization of that number; the message lists those that exist."""

    usual_status = 404


class ExpiredVersionError(UnknownVersionError):
    """The materialization existed and is gone; the message offers the nearest live one."""

    usual_status = 410


class MissingDataError(ServiceError, LookupError):
    """The object exists, but the service holds no mesh, skeleton or attributes for it."""

    usual_status = 404


class IncompleteResultError(CortexError):
    """A result that a server truncated and that could not be completed."""


class StaleRootError(CortexError, LookupError):
    """A root id that is not valid at the client's moment; the message names its successors where known."""


class AmbiguousCellError(CortexError, LookupError):
    """Several cells or roots where exactly one was wanted."""


class ExportError(CortexError, OSError):
    """A static table export that cannot be found or read."""


class OutputError(CortexError, OSError):
    """A file that was asked for cannot be written; one that was there before is unchanged."""


class StoreError(CortexError, LookupError):
    """A table that is not in the store, or whose files are damaged."""


class JobError(CortexError):
    """A bulk job with failures, or one that cannot begin or go on in its folder."""
