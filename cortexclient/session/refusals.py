"""Refusals of CAVE services, parsed and turned into errors of `cortexclient.errors`.

The materialization service responds to nearly every mistake with HTTP 500 and writes the status that it means into the
text, so the text decides first and the status line second. Where the text quotes the database, what follows its
preamble decides whose mistake it is. Long parts of messages (SQL, tracebacks) are truncated, and anything that looks
like a token is blanked.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from cortexclient import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import Response

__all__ = [
    "SERVICES",
    "Context",
    "Refusal",
    "clean_url",
    "database_message",
    "error_for",
    "meant_status",
    "read_refusal",
    "scrub",
    "service_of",
]

_STATUS_IN_TEXT = re.compile(r"^\[?(4\d\d|5\d\d)\]?\s*(?::|[A-Z][A-Za-z-]*(?: [A-Z][A-Za-z-]*)*:)")
_SECRET = re.compile(
    r"(?i)(bearer\s+|middle_auth_token=|[?&](?:token|access_token|key|signature|sig)=|\"?(?:auth_)?token\"?\s*[:=]\s*\"?)"
    r"([A-Za-z0-9+/=_\-.]{4,})"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal would act on; tabs and newlines stay."""
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
    "regex filter is only supported",
    "must be less than max bounds",
    "duplicate suffixes set",
    "operators can be used",
    "operators are only allowed",
    "literal-quote value",
    "unknown field",
    "invalid literal for int",
    "object is not iterable",
    "neither 'instrumentedattribute'",
    "cannot be outside of inclusive range",
    "buffer size must be a multiple",
    "cannot contain nul",
)
_QUERY_ROUTE_MISTAKES = ("has no attribute",)
"""Texts of Python that are about the filters of a query; of any other route they are the server's own fault."""
_MAX_TEXT = 300

# -- reading refusals ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Refusal:
    """The content of a server's refusal."""

    status: int  # that was meant
    text: str
    body: Any = None  # its JSON, if it is JSON
    url: str | None = None  # without secrets
    retry_after: str | None = None


@dataclass(slots=True)
class Context:
    """What a session adds to messages; every function may be missing and may fail."""

    service: str | None = None
    datastack: str | None = None
    server_address: str | None = None
    token_file: str | None = None
    token_page: str | None = None
    close_names: Callable[[str], str] | None = None
    live_versions: Callable[[], str] | None = None
    tokens: tuple[str, ...] = field(default=(), repr=False)


def scrub(text: str, tokens: tuple[str, ...] = ()) -> str:
    """Blank anything that is, or looks like, a token, and what a terminal would take for a command."""
    for token in tokens:
        if token:
            text = text.replace(token, "***")
    return _CONTROL.sub("?", _SECRET.sub(lambda match: f"{match.group(1)}***", text))


def clean_url(url: str | None) -> str | None:
    """Return a URL without user, password and query string."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


SERVICES = {"segmentation": "chunkedgraph", "skeletoncache": "skeleton", "nglstate": "state"}
"""Names of services whose addresses begin with another one."""


def service_of(url: str | None) -> str | None:
    """Return the name of the service that an address belongs to: the first part of its path."""
    return urlsplit(url or "").path.strip("/").partition("/")[0] or None


def meant_status(status: int, text: str) -> int:
    """Return the status that a service meant: that in its message (``"404 Not Found: ..."``), else the HTTP status."""
    match = _STATUS_IN_TEXT.match(text)
    return int(match.group(1)) if match and status >= 400 else status


def read_refusal(response: Response) -> Refusal:
    """Read the text of a refusing response, whatever shape it has."""
    raw = response.content or b""
    text = raw.decode("utf-8", errors="replace")
    body: Any = None
    html = False
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        html = "<html" in text[:300].lower() or "<!doctype html" in text[:300].lower()
    message = _message(body, text, html=html, reason=response.reason or "")
    # what the database says is not what the status in front of it says ("404 Not Found: (psycopg2.errors...")
    status = (
        response.status_code if database_message(message) else meant_status(response.status_code, message)
    )
    return Refusal(
        status=status,
        text=message,
        body=body,
        url=clean_url(response.url),
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
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."


# -- what the database said ----------------------------------------------------------------------------------------
#
# The materialization service quotes its database in two forms: ``Execution failed on sql '...': REASON`` (through
# pandas; sometimes without quotes, and with ``unable to rollback`` at the end) and ``(psycopg2.errors.NAME) REASON
# [SQL: ...]`` (through SQLAlchemy). Only the reason says whether the query was wrong or the database was in trouble.

Kind = Literal["mistake", "duplicate", "lost work", "overload", "other"]

_FORMS = (
    re.compile(r"\(psycopg2?\.(?:errors\.)?(?P<name>\w+)\)\s*(?P<reason>.*?)\s*(?:\[SQL:|\Z)", re.DOTALL),
    re.compile(r"(?i:execution failed on sql).*OFFSET \d+'?:?\s*(?P<reason>.*)", re.DOTALL),
    re.compile(r"(?i:execution failed on sql).*?':\s*(?P<reason>.*)", re.DOTALL),
)
_ROLLED_BACK = "transaction has been rolled back due to a previous exception"

# in this order: what a reason says of the connection counts more than the words of the query that it quotes
_PHRASES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("duplicate", re.compile("UniqueViolation|duplicate key value")),
    (
        # trouble of one connection of the server: the same request works next time
        "lost work",
        re.compile(
            "InFailedSqlTransaction|transaction is aborted|transaction has been rolled back|AdminShutdown|"
            "CrashShutdown|terminating connection|server closed the connection|(?:connection|cursor) already closed|"
            "connection not open|connection reset|could not receive data|SSL connection|SSL SYSCALL|"
            "lost synchronization|[Dd]eadlock|Serialization|could not serialize"
        ),
    ),
    (
        "overload",
        re.compile(
            "QueryCanceled|canceling statement|(?:statement|lock) timeout|[Oo]ut ?[Oo]f ?[Mm]emory|No space left|"
            "DiskFull|TooMany|too many (?:connections|clients)|remaining connection slots|could not connect|"
            "connection refused|connection timed out|could not translate host|CannotConnect|database system is|"
            "OperationalError|InterfaceError|QueuePool limit"
        ),
    ),
    (
        "mistake",
        re.compile(
            "^Invalid|^Undefined|^Ambiguous|^Numeric|^Datatype|^Datetime|^String|^SyntaxError|^Grouping|^Cannot|"
            "^Character|^Untranslatable|^Division|^DataError|^ProgrammingError|"
            "invalid (?:input syntax|regular expression|byte sequence)|does not exist|out of range|syntax error|"
            "unterminated quoted|cannot contain NUL|is ambiguous|cannot (?:be )?cast|could not determine|must be type|"
            "malformed|division by zero|must not be"
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class DatabaseMessage:
    """A parsed message of a database: whose mistake it reports, and its own words without the SQL.

    ``"lost work"`` is a connection or transaction that broke: the next try works.
    """

    kind: Kind
    reason: str


def database_message(text: str) -> DatabaseMessage | None:
    """Find what the database said in the message of a service; None where it is not quoted."""
    if _ROLLED_BACK in text:
        # it quotes the failure of an earlier request, which may have been anybody's
        return DatabaseMessage(
            "lost work", "its transaction has been rolled back, because an earlier request failed"
        )
    found = next((match for form in _FORMS if (match := form.search(text))), None)
    if found is None:
        if text.strip() not in {"cursor already closed", "connection already closed"}:
            return None
        name, reason = "", text.strip()
    else:
        name, reason = found.groupdict().get("name") or "", found["reason"]
    reason = re.sub(r"\s*unable to rollback\s*$", "", reason).strip()
    # the first line says what happened, the others quote the query
    first = f"{name} {reason}".strip().partition("\n")[0]
    kind: Kind = next((kind for kind, phrases in _PHRASES if phrases.search(first)), "other")
    if re.search(r'database "[^"]*" does not exist', first):
        kind = "other"  # a frozen version whose database is gone
    elif kind == "other" and "\nLINE " in reason:
        kind = "mistake"  # it points at a place in the query
    return DatabaseMessage(kind, reason)


# -- which error a refusal is ----------------------------------------------------------------------------------------

_Made = tuple[type[errors.ServiceError], str] | None


def error_for(refusal: Refusal, context: Context) -> errors.ServiceError:
    """Make the error that a refusal stands for, not raised yet.

    Its message says what happened, where, and what to do next, and holds no token.
    """
    made: _Made = None
    for rule in (_auth_error, _database_error, _known_text_error, _status_error):
        made = rule(refusal, context)
        if made is not None:
            break
    cls, message = made or (
        errors.ServiceError,
        (
            f"{_where(refusal, context)} failed (status {refusal.status}): {_shorten(refusal.text)}. This is a fault "
            "of the server; if it lasts, report it to the people who run it"
        ),
    )
    return cls(
        scrub(message, context.tokens),
        service=context.service,
        status=refusal.status,
        url=refusal.url or context.server_address,
    )


def _where(refusal: Refusal, context: Context) -> str:
    service = context.service or "service"
    return f"the {service} service at {refusal.url or context.server_address or 'the server'}"


_RIGHTS = re.compile(
    r"\b(owner|owned|permission|private|privilege|group|read access|write access)\b", re.IGNORECASE
)


def _auth_error(refusal: Refusal, context: Context) -> _Made:
    body: dict[str, Any] = refusal.body if isinstance(refusal.body, dict) else {}
    code = body.get("error") if isinstance(body.get("error"), str) else None
    found = body.get("data")
    data: dict[str, Any] = found if isinstance(found, dict) else {}
    where = _where(refusal, context)
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
    if refusal.status == 401 and code is None and _RIGHTS.search(refusal.text):
        return errors.AuthenticationError, (
            f"{where} refused: {_shorten(refusal.text)}. The token is good, but your account does not have this right; "
            "ask the owner of the table"
        )
    if refusal.status == 401 or code in {"no_token", "invalid_token", "bad_auth_header"}:
        return errors.AuthenticationError, _token_message(refusal, context, code)
    if refusal.status == 403:
        return errors.AuthenticationError, (
            f"{where} refused: {_shorten(refusal.text)}. Your account does not have this right; ask the owners of "
            f"{context.datastack or 'the dataset'}"
        )
    return None


def _token_message(refusal: Refusal, context: Context, code: str | None) -> str:
    if code == "invalid_token" and not context.tokens:
        code = "no_token"  # a placeholder was sent
    what = {
        "no_token": "it wants a token, and none is stored for it",
        "invalid_token": "the token is wrong or has expired",
        "bad_auth_header": "the token was not understood",
    }.get(code or "", _shorten(refusal.text) or "the token was not accepted")
    page = (
        f"get one at {context.token_page}" if context.token_page else "get one from the server's token page"
    )
    place = f" (it is looked for in {context.token_file})" if context.token_file else ""
    return (
        f"{_where(refusal, context)} refused: {what}{place}. To set it up, {page}, then run `cortexclient login`, "
        "or pass auth_token= to load()"
    )


def _database_error(refusal: Refusal, context: Context) -> _Made:
    said = database_message(refusal.text)
    if said is None:
        return None
    where, reason = _where(refusal, context), _shorten(said.reason)
    if said.kind == "mistake":
        return errors.InvalidQueryError, (
            f"{where} did not understand the query: the database refused: {reason}. Check the column names, the types "
            "of the filters and the table's schema"
        )
    if said.kind == "duplicate":
        return errors.InvalidQueryError, (
            f"{where} refused: an id is in the table already ({reason}); leave the ids out, so that the service gives "
            "new ones, or update those that exist"
        )
    if said.kind == "lost work":
        return errors.ServiceUnavailableError, (
            f"{where} lost its connection to the database, or the database aborted an earlier request ({reason}). "
            "Nothing was wrong with this request, and nothing was written: try again"
        )
    if said.kind == "overload":
        return errors.ServiceUnavailableError, (
            f"{where} has a database that cannot answer this now ({reason}); ask for less (fewer ids, a limit), or try "
            "again later"
        )
    return errors.ServiceError, (
        f"{where} failed in its database: {reason}. This is a fault of the server; if it lasts, report it to the "
        "people who run it"
    )


def _known_text_error(refusal: Refusal, context: Context) -> _Made:
    text = refusal.text
    low = text.lower()
    if _UNKNOWN_VERSION.search(text):
        live = _helper(context.live_versions)
        return errors.UnknownVersionError, (
            f"{_where(refusal, context)}: {_shorten(text)}."
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
            f"{_where(refusal, context)} knows no table or view of that name. "
            f"{_helper(context.close_names, '')}".strip()
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
            f"{_where(refusal, context)} does not answer live queries at exactly a version's time; ask for the version"
        )
    if "need supervoxel lookups" in low or refusal.status == 406:
        return errors.ServiceUnavailableError, (
            f"{_where(refusal, context)} is still placing annotations ({_shorten(text)}); wait a few minutes, try "
            "again, or pass allow_missing_lookups=True to leave them out"
        )
    if "chunk indices are not yet computed" in low or "refusal list" in low:
        return errors.MissingDataError, (
            f"{_where(refusal, context)} cannot make this object: {_shorten(text)}. Level-2 data are missing; try "
            "again later, or use another object"
        )
    return _query_mistake(refusal, context)


def _query_mistake(refusal: Refusal, context: Context) -> _Made:
    low = refusal.text.lower()
    phrases: tuple[str, ...] = _QUERY_MISTAKES
    if (refusal.url or "").endswith("/query"):
        phrases += _QUERY_ROUTE_MISTAKES
    # a service sends it in JSON; of a page of a gateway, the text may be no more than its reason
    named = context.service == "materialize" and refusal.body is not None and refusal.status in {400, 500}
    bare_name = re.fullmatch(r"'?(\w+)'?", refusal.text) if named else None
    if bare_name or any(phrase in low for phrase in phrases):
        what = f"unknown column or table {bare_name.group(1)!r}" if bare_name else _shorten(refusal.text)
        return errors.InvalidQueryError, (
            f"{_where(refusal, context)} did not understand the query: {what}. Check the column names, the types of "
            "the filters and the table's schema"
        )
    return None


_UPSTREAM = re.compile(r"for url: \S*?://[^/\s]+/+(\w+)")


def _status_error(refusal: Refusal, context: Context) -> _Made:
    where, text = _where(refusal, context), _shorten(refusal.text)
    if refusal.status == 429:
        wait = f" It asks to wait {refusal.retry_after} s." if refusal.retry_after else ""
        return errors.ServiceUnavailableError, (
            f"{where} gets too many requests ({text}).{wait} Wait a little, or lower max_workers"
        )
    if refusal.status in {502, 503, 504}:
        upstream = _UPSTREAM.search(refusal.text)
        if upstream:
            name = SERVICES.get(upstream[1], upstream[1])
            return errors.ServiceUnavailableError, (
                f"{where} needs the {name} service, which does not work now (status {refusal.status}: "
                f"{_shorten(refusal.text.partition(' content:')[0])}); every retry failed too. Try again later"
            )
        return errors.ServiceUnavailableError, (
            f"{where} does not work now (status {refusal.status}: {text}); every retry failed too. Try again later"
        )
    if refusal.status == 404:
        return (
            errors.MissingDataError,
            f"{where} has nothing there ({text}); check the id, the name and the version",
        )
    if refusal.status == 410:
        return errors.ExpiredVersionError, (f"{where}: {text}. {_helper(context.live_versions)}".strip())
    if refusal.status in {400, 405, 409, 413, 422}:
        return errors.InvalidQueryError, f"{where} refused the request: {text}. Correct the arguments"
    return None


def _helper(function: Callable[..., str] | None, *args: str) -> str:
    if function is None:
        return ""
    try:
        return function(*args)
    except (errors.CortexError, OSError):
        # the message is only made friendlier by it: a second failure must not hide the first
        return ""
