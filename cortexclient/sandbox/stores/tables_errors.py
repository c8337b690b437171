"""Failures of a query, in the words of the service and of its database."""

from __future__ import annotations

from http import HTTPStatus

__all__ = ["ARGUMENT_NEEDS_EQUALITY", "DatabaseError", "QueryError", "UnwritableError", "aborted"]

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


def aborted(status: int, text: str) -> QueryError:
    """Error of a handler that gave up with a status, which the service turns into text."""
    return QueryError(f"{status} {HTTPStatus(status).phrase}: {text}")
