"""Failures of a query, in the words of the service and of its database."""

from __future__ import annotations

from http import HTTPStatus

__all__ = [
    "ARGUMENT_NEEDS_EQUALITY",
    "DatabaseError",
    "QueryError",
    "UnwritableError",
    "aborted",
    "counted_failure",
    "failed_statement",
]

# what the database says -> class of its error, and SQLAlchemy's page about it
_CLASSES = (
    ("invalid input syntax", ("InvalidTextRepresentation", "9h9h")),
    ("operator does not exist", ("UndefinedFunction", "f405")),
    ("does not exist", ("UndefinedColumn", "f405")),
    ("syntax error", ("SyntaxError", "f405")),
    ("invalid regular expression", ("InvalidRegularExpression", "9h9h")),
    ("out of range", ("NumericValueOutOfRange", "9h9h")),
    ("invalid geometry", ("InternalError_", "2j85")),
)
ARGUMENT_NEEDS_EQUALITY = (
    "Only '=', '!=', 'is_()', 'isnot()', 'is_distinct_from()', 'isnot_distinct_from()' "
    "operators can be used with None/True/False"
)


class QueryError(Exception):
    """A query that the service answers with an error; the text is the message of the answer."""


class DatabaseError(QueryError):
    """What the database of the service says about a value; the statement is put around it when it is run."""


class UnwritableError(QueryError):
    """A value that the service cannot write into a statement, which it notices when all else is put together."""


def failed_statement(sql: str, problem: str) -> str:
    """Words in which the service repeats what its database said of a statement that pandas sent."""
    return f"Execution failed on sql '{sql}': {problem}"


def counted_failure(sql: str, problem: str) -> str:
    """Words of the same for a count, which SQLAlchemy sends."""
    if problem.startswith("unterminated quoted string"):  # noticed before anything is sent
        return "A string literal cannot contain NUL (0x00) characters."
    found = (names for text, names in _CLASSES if text in problem)
    name, page = next(found, ("DataError", "9h9h"))
    return (
        f"(psycopg2.errors.{name}) {problem}\n\n[SQL: {sql}]\n"
        f"(Background on this error at: http://sqlalche.me/e/13/{page})"
    )


def aborted(status: int, text: str) -> QueryError:
    """Error of a handler that gave up with a status, which the service turns into text."""
    return QueryError(f"{status} {HTTPStatus(status).phrase}: {text}")
