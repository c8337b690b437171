"""Complete answers from a service that cuts them without saying so where anyone would look.

A server returns at most so many rows (200,000 or 500,000, or whatever a deployment says) and mentions it in a header
of an HTTP 200. There is no order, so paging by offset repeats and loses rows. What is safe: cut the question into
parts that cannot overlap, along a list of ids or along ranges of the table's id, until no part is cut; then check the
number of rows against a count, where the service can count.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortexclient.errors import IncompleteResultError, ServiceTimeoutError, ServiceUnavailableError
from cortexclient.session.flow import work_off
from cortexclient.session.query.cuts import cut_list
from cortexclient.session.query.divide import Outcome, Part
from cortexclient.session.query.feed import Feed
from cortexclient.session.query.fetch import Fetch
from cortexclient.session.query.state import LIST_SIZE, State
from cortexclient.session.query.wire import Reply, ask
from cortexclient.session.workers import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cortexclient.session.query.question import Question
    from cortexclient.session.session import Session
    from cortexclient.types import IdArray

__all__ = ["Following", "Harvest", "fetch_all"]

_LIGHTER = 3
_PATIENCE = 3


@dataclass(slots=True)
class Harvest:
    """All parts of one complete answer."""

    replies: list[Reply]
    requests: int = 0

    @property
    def rows(self) -> int:
        """Number of rows of all parts."""
        return sum(reply.table.num_rows for reply in self.replies)


@dataclass(frozen=True, slots=True)
class Following:
    """A question about ids that the answers to others bring; it is asked on as they come.

    Parameters
    ----------
    question : Question
        The question without its list, about a table that has ids.
    table, column : str
        The list filter that the ids go into.
    size : int
        Most ids in one request.
    pick : callable
        Takes the number of a question and rows of its answer, gives the ids to ask about: each once, whatever the
        order in which rows come.
    """

    question: Question
    table: str
    column: str
    size: int
    pick: Callable[[int, Any], IdArray]


def fetch_all(
    session: Session,
    questions: Sequence[Question],
    *,
    following: Sequence[Following] = (),
    progress: bool = False,
    description: str = "",
) -> list[Harvest]:
    """Ask until every answer is whole.

    Parameters
    ----------
    session : Session
        Where to ask.
    questions : sequence of Question
        What to ask. A question's ``limit`` is the user's own: an answer of that size is not cut short.
    following : sequence of Following
        What to ask about the rows that come.
    progress : bool
        Whether to show one bar for the whole.
    description : str
        Text beside the bar.

    Returns
    -------
    list of Harvest
        In the order of the questions, then of those that follow.

    Raises
    ------
    IncompleteResultError
        If the service cuts an answer that cannot be cut any finer, or the rows do not add up to its count.
    """
    parts = [_first(session, number, question) for number, question in enumerate(questions)]
    with progress_bar(sum(map(len, parts)), description, show=progress) as bar:
        fetch = Fetch(session, _ask_part, bar)
        for question, first in zip(questions, parts, strict=True):
            fetch.add(question, first)
        for other in following:
            feed = Feed(other.table, other.column, size=other.size, pick=other.pick)
            fetch.add(other.question, [], feed=feed)
        work_off(fetch.take, workers=session.max_workers)
    for state in fetch.states:
        _check(state)
        _learn(session, state)
    return [Harvest(_in_order(state.done), state.requests) for state in fetch.states]


def _first(session: Session, number: int, question: Question) -> list[Part]:
    """Give the parts to begin with: lists in pieces as asked for, smaller ones where the cap is near."""
    longest = question.longest_list()
    if longest is None:
        return [Part(number, question)]
    table, column, values = longest
    size = min(LIST_SIZE, question.batch or LIST_SIZE)
    cap, weight = _known(session, question, column)
    if cap and weight and not question.live and question.limit is None:
        # as full as is safe, where values differ in weight
        size = min(size, max(1, int(0.6 * cap / weight)))
    return [
        Part(number, piece, listed=(table, column))
        for piece in cut_list(question, math.ceil(len(values) / size))
    ]


def _known(session: Session, question: Question, column: str) -> tuple[int | None, float | None]:
    memory = session.connection.memory
    return memory.peek("cap"), memory.peek(("rows per value", question.name, column))


def _learn(session: Session, state: State) -> None:
    """Remember how many rows a value of a list brings, so that the next lists are cut well at once."""
    memory = session.connection.memory
    longest = state.question.longest_list()
    if memory.peek("cap") is None or longest is None or state.question.limit is not None:
        return
    memory.put(("rows per value", state.question.name, longest[1]), state.rows / len(longest[2]))


def _in_order(outcomes: list[Outcome]) -> list[Reply]:
    """Give answers in an order that does not depend on when they came."""

    def place(outcome: Outcome) -> tuple[float, str]:
        part = outcome.part
        values = part.question.filters["in"][part.listed[0]][part.listed[1]] if part.listed else []
        low = part.span.low
        return -math.inf if low is None else low, repr(values[:1])

    return [outcome.reply for outcome in sorted(outcomes, key=place) if outcome.reply is not None]


def _check(state: State) -> None:
    if state.question.limit is not None:
        return  # stopped early, because the user wanted no more
    for outcome in state.done:
        for ledger in outcome.part.ledgers:
            if outcome.reply is not None:
                ledger.got += outcome.reply.table.num_rows
    found = [(ledger.got, ledger.expected) for ledger in state.ledgers.values()]
    if state.promised is not None:
        found.append((state.rows, state.promised))
    for got, expected in found:
        if got < expected:
            raise IncompleteResultError(
                f"the server counts {expected} rows of {state.question.name!r} but {got} came; rows whose splitting "
                "column is empty cannot be asked for in parts. Filter the query so that it has fewer rows"
            )


def _ask_part(session: Session, part: Part) -> Outcome:
    question = part.question
    try:
        reply = ask(session, part.asked())
    except (ServiceTimeoutError, ServiceUnavailableError) as error:
        if error.status == 429 and part.refusals < _PATIENCE:
            # the transport has waited and tried again already: the same once more, with fewer at a time
            again = dataclasses.replace(part, refusals=part.refusals + 1)
            return Outcome(part, None, [again], 1, refused=True)
        heavy = isinstance(error, ServiceTimeoutError) or error.status in {502, 503, 504}
        if not heavy or question.longest_list() is None or part.lighter >= _LIGHTER:
            raise
        # too heavy for the server: the same in smaller pieces, but not for ever, as it may just be down
        pieces = [
            dataclasses.replace(part, question=piece, lighter=part.lighter + 1)
            for piece in cut_list(question, 4)
        ]
        return Outcome(part, None, pieces, 1)
    limit = question.limit
    # a live answer is filtered once more after it was cut, and so may hold less than its limit
    satisfied = (
        limit is not None
        and reply.cap is not None
        and reply.cap >= limit
        and (not question.live or reply.table.num_rows >= limit)
    )
    return Outcome(part, reply, [], 1, cut=reply.cap is not None and not satisfied)
