"""Messages of the database behind the materialization service, and whose mistake they report.

The services quote it in two forms: ``Execution failed on sql '...': REASON`` (through pandas; sometimes without quotes,
and with ``unable to rollback`` at the end) and ``(psycopg2.errors.NAME) REASON [SQL: ...]`` (through SQLAlchemy). Only
the reason says whether the query was wrong or the database was in trouble.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["DatabaseMessage", "database_message"]

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
    """A parsed message of a database.

    Parameters
    ----------
    kind : str
        ``"mistake"`` of the query, ``"duplicate"`` id, ``"lost work"`` (a connection or transaction that broke: the
        next try works), ``"overload"`` (timeouts, memory, connections) or ``"other"``.
    reason : str
        Its own words, without the SQL.
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
