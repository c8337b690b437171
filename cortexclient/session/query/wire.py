"""One round trip to the materialization service: a question goes out, an Arrow table comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortexclient.errors import ProtocolError
from cortexclient.session.cache import forget
from cortexclient.session.failures import clean_url
from cortexclient.session.policy import cap_in

if TYPE_CHECKING:
    from requests import Response

    from cortexclient.session.core import Session
    from cortexclient.session.query.question import Question

__all__ = ["Reply", "ask", "ask_count"]

_HEADERS = {"Accept-Encoding": "zstd"}
_LARGE = 1_000_000
"""Bytes of an answer from which on threads pay for unpacking its columns."""


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
    """Send a question and read the Arrow stream that answers it.

    Raises
    ------
    ServiceError
        If the service refuses or its answer cannot be read.
    """
    response = _post(session, question, count=False)
    return Reply(_read(response), cap_in(response), _resolution(response))


def ask_count(session: Session, question: Question) -> int | None:
    """Ask how many rows a question has; None where the service cannot tell (joins and live queries)."""
    if question.live or question.base:
        return None
    table = _read(_post(session, question, count=True))
    if "count" not in table.column_names or table.num_rows != 1:
        return None
    return int(table.column("count")[0].as_py())


def _post(session: Session, question: Question, *, count: bool) -> Response:
    return session.http.send(
        "materialize",
        "POST",
        session.local_server + question.path(session.datastack),
        params=question.params(count=count),
        body=question.body(),
        headers=_HEADERS,
    )


def _read(response: Response) -> Any:
    import pyarrow as pa

    kind = response.headers.get("Content-Type", "")
    if not kind.startswith("data.arrow"):
        raise ProtocolError(
            f"the materialize service answered {kind or 'no content type'} instead of Arrow data; it may be older than "
            "5.13, or the server address may be wrong",
            service="materialize",
            status=response.status_code,
            url=clean_url(response.url),
        )
    options = pa.ipc.IpcReadOptions(use_threads=len(response.content) >= _LARGE)
    try:
        with pa.ipc.open_stream(response.content, options=options) as reader:
            table = reader.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        forget(response)
        raise ProtocolError(
            f"the answer of the materialize service broke off or cannot be read ({str(error)[:100]!r}); "
            "try again",
            service="materialize",
            status=response.status_code,
            url=clean_url(response.url),
        ) from None
    hidden = [name for name in table.column_names if name.startswith("__index_level_")]
    return table.drop_columns(hidden) if hidden else table


def _resolution(response: Response) -> tuple[float, ...] | None:
    text = response.headers.get("dataframe_resolution")
    if not text:
        return None
    try:
        return tuple(float(part) for part in text.strip("[] ").split(","))
    except ValueError:
        return None
