"""Every failure of a CAVE service, told as one of `cortexclient.errors`.

The real materialization service answers nearly every mistake with HTTP 500 and writes the status it meant into the
text, so the text decides first and the status line second. Long parts of messages (SQL, tracebacks) are cut, and
anything that looks like a token is blanked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from cortexclient import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import Response

__all__ = [
    "Answer",
    "Context",
    "clean_url",
    "error_for",
    "meant_status",
    "read_answer",
    "scrub",
    "service_of",
]

_STATUS_IN_TEXT = re.compile(r"^\[?(4\d\d|5\d\d)\]?\s*(?::|[A-Z][A-Za-z-]*(?: [A-Z][A-Za-z-]*)*:)")
_SECRET = re.compile(
    r"(?i)(bearer\s+|middle_auth_token=|[?&](?:token|access_token|key|signature|sig)=|\"?(?:auth_)?token\"?\s*[:=]\s*\"?)"
    r"([A-Za-z0-9+/=_\-.]{4,})"
)
_UNKNOWN_VERSION = re.compile(
    r"version\s+'?(\d+)'? not found|no version found|no valid versions found", re.IGNORECASE
)
_UNKNOWN_TABLE = re.compile(
    r"no table named '?(?P<a>[\w.]+)'?|analysis table '?(?P<b>[\w.]+)'? not found|table '?(?P<c>[\w.]+)'? not found",
    re.IGNORECASE,
)
_QUERY_MISTAKES = (
    "not in model or models",
    "schema_errors",
    "execution failed on sql",
    "regex filter is only supported",
    "must be less than max bounds",
    "duplicate suffixes set",
    "operators can be used",
    "operators are only allowed",
    "literal-quote value",
    "has no attribute",
    "unknown field",
    "invalid literal for int",
    "object is not iterable",
    "neither 'instrumentedattribute'",
    "cannot be outside of inclusive range",
    "buffer size must be a multiple",
)
_MAX_TEXT = 300


@dataclass(slots=True)
class Answer:
    """What a refusing server said, with the transport peeled off."""

    status: int
    text: str
    body: Any = None
    url: str | None = None
    html: bool = False
    retry_after: str | None = None


@dataclass(slots=True)
class Context:
    """What the session knows that makes a message more useful; every helper may be missing and may fail."""

    service: str | None = None
    datastack: str | None = None
    server_address: str | None = None
    token_file: str | None = None
    token_page: str | None = None
    close_names: Callable[[str], str] | None = None
    live_versions: Callable[[], str] | None = None
    tokens: tuple[str, ...] = field(default=(), repr=False)


def scrub(text: str, tokens: tuple[str, ...] = ()) -> str:
    """Blank anything that is, or looks like, a token."""
    for token in tokens:
        if token:
            text = text.replace(token, "***")
    return _SECRET.sub(lambda match: f"{match.group(1)}***", text)


def clean_url(url: str | None) -> str | None:
    """Give a URL without user, password and query string."""
    if not url:
        return None
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def service_of(url: str | None) -> str | None:
    """Name of the service that an address belongs to: the first part of its path."""
    return urlsplit(url or "").path.strip("/").partition("/")[0] or None


def meant_status(status: int, text: str) -> int:
    """Status that a service meant: the one in its message (``"404 Not Found: ..."``), else the HTTP status."""
    match = _STATUS_IN_TEXT.match(text)
    return int(match.group(1)) if match and status >= 400 else status


def read_answer(response: Response) -> Answer:
    """Read the text out of a refusing answer, whatever shape it has."""
    raw = response.content or b""
    text = raw.decode("utf-8", errors="replace")
    kind = response.headers.get("Content-Type", "")
    body: Any = None
    html = "<html" in text[:300].lower() or "<!doctype html" in text[:300].lower()
    if not html:
        try:
            body = json.loads(text)
        except ValueError:
            body = None
    message = _message(body, text, html=html, reason=response.reason or "")
    return Answer(
        status=meant_status(response.status_code, message),
        text=message,
        body=body,
        url=clean_url(response.url),
        html=html or "html" in kind,
        retry_after=response.headers.get("Retry-After"),
    )


def _message(body: Any, text: str, *, html: bool, reason: str) -> str:
    if isinstance(body, str):
        return body
    if isinstance(body, dict):
        for key in ("message", "Error", "error", "detail"):
            value = body.get(key)
            if isinstance(value, str) and value:
                return value
        for key in ("schema_errors", "errors"):
            if key in body:
                return f"{key}: {json.dumps(body[key])}"
        return reason or "no reason given"
    if html:
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        return title.group(1).strip() if title else reason
    return text.strip() or reason


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."


def error_for(answer: Answer, context: Context) -> errors.ServiceError:
    """Name the error that a refusing answer stands for.

    Parameters
    ----------
    answer : Answer
        The answer, read by `read_answer`.
    context : Context
        What the session knows about the question.

    Returns
    -------
    errors.ServiceError
        Not raised yet. Its message says what happened, where, and what to do next, and holds no token.
    """
    for rule in (_auth_error, _known_text_error, _status_error):
        made = rule(answer, context)
        if made is not None:
            cls, message = made
            return cls(
                scrub(message, context.tokens), service=context.service, status=answer.status, url=answer.url
            )
    return errors.ServiceError(
        scrub(
            f"{_where(answer, context)} failed (status {answer.status}): {_shorten(answer.text)}. This is a fault of "
            "the server; if it lasts, report it to the people who run it",
            context.tokens,
        ),
        service=context.service,
        status=answer.status,
        url=answer.url,
    )


_Made = tuple[type[errors.ServiceError], str] | None


def _where(answer: Answer, context: Context) -> str:
    service = context.service or "service"
    return f"the {service} service at {answer.url or context.server_address or 'the server'}"


def _auth_error(answer: Answer, context: Context) -> _Made:
    body: dict[str, Any] = answer.body if isinstance(answer.body, dict) else {}
    code = body.get("error") if isinstance(body.get("error"), str) else None
    found = body.get("data")
    data: dict[str, Any] = found if isinstance(found, dict) else {}
    where = _where(answer, context)
    if code == "missing_tos":
        return errors.TermsOfServiceError, (
            f"{where} wants its terms of service ({data.get('tos_name', 'unnamed')}) accepted first; "
            f"open {data.get('tos_form_url', 'the form on its web page')} in a browser, accept, then try again"
        )
    if code == "missing_permission":
        return errors.AuthenticationError, (
            f"{where} refused: your account lacks the permission {data.get('required_permission')!r} on "
            f"{data.get('auth_dataset')!r}. The token is good; ask the owners of {context.datastack or 'the dataset'} "
            f"to add you to a group that may {data.get('required_permission')} {data.get('auth_dataset')}"
        )
    if code == "invalid_table_id":
        return errors.UnknownTableError, (
            f"{where} knows no {data.get('resource_namespace', 'resource')} named {data.get('table_id')!r}; "
            "check the datastack and the server address in the dataset's spec"
        )
    if answer.status == 401 or code in {"no_token", "invalid_token", "bad_auth_header"}:
        return errors.AuthenticationError, _token_message(answer, context, code)
    if answer.status == 403:
        return errors.AuthenticationError, (
            f"{where} refused: {_shorten(answer.text)}. Your account does not have this right; ask the owners of "
            f"{context.datastack or 'the dataset'}"
        )
    return None


def _token_message(answer: Answer, context: Context, code: str | None) -> str:
    what = {
        "no_token": "no token was sent",
        "invalid_token": "the token is wrong or has expired",
        "bad_auth_header": "the token was not understood",
    }.get(code or "", _shorten(answer.text) or "the token was not accepted")
    page = (
        f"get one at {context.token_page}" if context.token_page else "get one from the server's token page"
    )
    place = f" (it is looked up in {context.token_file})" if context.token_file else ""
    return (
        f"{_where(answer, context)} refused: {what}{place}. To set it up, {page}, then run `cortexclient login`, "
        "or pass auth_token= to load()"
    )


def _known_text_error(answer: Answer, context: Context) -> _Made:
    text = answer.text
    low = text.lower()
    if _UNKNOWN_VERSION.search(text):
        live = _helper(context.live_versions)
        return errors.UnknownVersionError, (
            f"{_where(answer, context)}: {_shorten(text)}."
            + (f" {live}" if live else " Ask versions() for those that exist")
        )
    table = _UNKNOWN_TABLE.search(text)
    if table:
        name = next(group for group in table.groups() if group)
        close = _helper(context.close_names, name)
        return errors.UnknownTableError, (
            f"{context.datastack or 'the datastack'} has no table or view {name!r} here ({_shorten(text)})."
            + (f" {close}" if close else "")
        )
    if "no row was found for one()" in low and context.service == "materialize":
        return errors.UnknownTableError, (
            f"{_where(answer, context)} knows no table or view of that name. {_helper(context.close_names, '')}".strip()
        )
    if "not valid at the query timestamp" in low or "all root id filters passed" in low:
        ids = re.search(r"\[[\d\s,]*\]?", text)
        which = _shorten(ids.group(0) if ids else text)
        return errors.InvalidQueryError, (
            f"some root ids did not exist at the time asked for: {which}. Look up their "
            "successors with suggest_latest_roots(), or ask at a time when they were valid (latest_valid_timestamp())"
        )
    if "live live query to query a materialized timestamp" in low:
        return errors.InvalidQueryError, (
            f"{_where(answer, context)} does not answer live queries at exactly a version's time; ask for the version"
        )
    if "need supervoxel lookups" in low or answer.status == 406:
        return errors.ServiceUnavailableError, (
            f"{_where(answer, context)} is still placing annotations ({_shorten(text)}); wait a few minutes, try "
            "again, or pass allow_missing_lookups=True to leave them out"
        )
    if "chunk indices are not yet computed" in low or "refusal list" in low:
        return errors.MissingDataError, (
            f"{_where(answer, context)} cannot make this object: {_shorten(text)}. Level-2 data lack; try again later, "
            "or use another object"
        )
    return _query_mistake(answer, context)


def _query_mistake(answer: Answer, context: Context) -> _Made:
    low = answer.text.lower()
    bare_name = re.fullmatch(r"'?(\w+)'?", answer.text)
    if any(phrase in low for phrase in _QUERY_MISTAKES) or (bare_name and context.service == "materialize"):
        what = _shorten(re.sub(r"(?is)execution failed on sql '.*?':", "the database refused:", answer.text))
        if bare_name:
            what = f"unknown column or table {bare_name.group(1)!r}"
        return errors.InvalidQueryError, (
            f"{_where(answer, context)} did not understand the question: {what}. Check the column names, the types of "
            "the filters and the table's schema"
        )
    return None


def _status_error(answer: Answer, context: Context) -> _Made:
    where, text = _where(answer, context), _shorten(answer.text)
    if answer.status == 429:
        wait = f" It asks to wait {answer.retry_after} s." if answer.retry_after else ""
        return errors.ServiceUnavailableError, (
            f"{where} gets too many requests ({text}).{wait} Wait a little, or lower max_workers"
        )
    if answer.status in {502, 503, 504}:
        return errors.ServiceUnavailableError, (
            f"{where} does not work now (status {answer.status}: {text}); every retry failed too. Try again later"
        )
    if answer.status == 404:
        return (
            errors.MissingDataError,
            f"{where} has nothing there ({text}); check the id, the name and the version",
        )
    if answer.status == 410:
        return errors.ExpiredVersionError, (f"{where}: {text}. {_helper(context.live_versions)}".strip())
    if answer.status in {400, 405, 409, 413, 422}:
        return errors.InvalidQueryError, f"{where} refused the question: {text}. Correct the arguments"
    return None


def _helper(function: Callable[..., str] | None, *args: str) -> str:
    if function is None:
        return ""
    try:
        return function(*args)
    except (errors.CortexError, OSError):
        # the message is only made friendlier by it: a second failure must not hide the first
        return ""
