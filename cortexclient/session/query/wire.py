"""One round trip to the materialization service: a question goes out, an Arrow table comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortexclient.session.cache import forget
from cortexclient.session.failures import unreadable
from cortexclient.session.policy import cap_in
from cortexclient.session.query.frames import typed

if TYPE_CHECKING:
    from requests import Response

    from cortexclient.errors import ProtocolError
    from cortexclient.session.query.question import Question
    from cortexclient.session.session import Session

__all__ = ["Reply", "ask", "ask_count"]

_HEADERS = {"Accept-Encoding": "zstd"}
_LARGE = 1_000_000
"""Bytes of a response from which on threads pay for unpacking its columns."""

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""The end-of-stream mark of Arrow."""


@dataclass(slots=True)
class Reply:
    """What came back.

    Parameters
    ----------
    table : pyarrow.Table
        The rows.
    cap : int or None
        Number of rows at which the server says it stopped; None where it says nothing.
    resolution : tuple of float or None
        Resolution that the server says the positions have.
    """

    table: Any
    cap: int | None
    resolution: tuple[float, ...] | None


def ask(session: Session, question: Question) -> Reply:
    """Send a query and read the Arrow stream that answers it.

    Raises
    ------
    ServiceError
        If the service refuses, or its response cannot be read (`ProtocolError`).
    """
    response = _post(session, question, count=False)
    return Reply(_read(response), cap_in(response), _resolution(response))


def ask_count(session: Session, question: Question) -> int | None:
    """Ask how many rows a query has; None where the service cannot count (joins and live queries).

    Raises
    ------
    ServiceError
        If the service refuses, or its response is no count (`ProtocolError`).
    """
    if question.live or question.base:
        return None
    response = _post(session, question, count=True)
    table = _read(response)
    number = (
        table.column("count")[0].as_py() if table.column_names == ["count"] and table.num_rows == 1 else None
    )
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        found = (
            repr(number)
            if number is not None
            else f"{table.num_rows} rows of {', '.join(table.column_names)}"
        )
        raise _unreadable(response, f"counted {found[:100]}, which is no number of rows")
    return number


def _post(session: Session, question: Question, *, count: bool) -> Response:
    return session.http.send(
        "materialize",
        "POST",
        session.local_server + question.path(session.datastack),
        params=question.params(count=count),
        body=question.body(),
        headers=_HEADERS,
    )


def _unreadable(response: Response, what: str) -> ProtocolError:
    forget(response)
    return unreadable(response, f"{what}; try again, and if it lasts, check the server address")


def _read(response: Response) -> Any:
    """Read an Arrow stream, which must be complete, valid, and of types that can be converted."""
    import pyarrow as pa

    kind = response.headers.get("Content-Type", "")
    if response.status_code != 200 or not kind.startswith("data.arrow"):
        raise _unreadable(
            response,
            f"answered status {response.status_code} and {kind or 'no content type'} instead of Arrow data (it may be "
            "older than 5.13)",
        )
    body = response.content
    if not body.endswith(_END):
        # without this mark, pyarrow takes a stream that broke off between two batches for a complete one
        raise _unreadable(response, "sent a response that broke off")
    options = pa.ipc.IpcReadOptions(use_threads=len(body) >= _LARGE)
    try:
        with pa.ipc.open_stream(body, options=options) as reader:
            table = reader.read_all()
        # damaged offsets would read other memory, or crash the interpreter
        table.validate(full=True)
        hidden = [name for name in table.column_names if name.startswith("__index_level_")]
        return typed(table.drop_columns(hidden) if hidden else table)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise _unreadable(response, f"sent a response that cannot be read ({str(error)[:150]})") from None


def _resolution(response: Response) -> tuple[float, ...] | None:
    text = response.headers.get("dataframe_resolution")
    if not text:
        return None
    try:
        sizes = tuple(float(part) for part in text.strip("[] ").split(","))
    except ValueError:
        return None
    return sizes if len(sizes) == 3 and all(0 < size < math.inf for size in sizes) else None
