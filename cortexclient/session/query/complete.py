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
from cortexclient.session.query.cuts import cut_list
from cortexclient.session.query.divide import Ledger, Outcome, Part, divide, gave_up
from cortexclient.session.query.wire import Reply, ask
from cortexclient.session.workers import map_in_order, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session.core import Session
    from cortexclient.session.query.question import Question

__all__ = ["LIST_SIZE", "Harvest", "fetch_all"]

LIST_SIZE = 5000
"""Most values of a list filter in one request: larger ones make slow plans and bodies of many megabytes."""

MOST_WAVES = 60
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


def fetch_all(
    session: Session, questions: Sequence[Question], *, progress: bool = False, description: str = ""
) -> list[Harvest]:
    """Ask until every answer is whole.

    Parameters
    ----------
    session : Session
        Where to ask.
    questions : sequence of Question
        What to ask. A question's ``limit`` is the user's own: an answer of that size is not cut short.
    progress : bool
        Whether to show one bar for the whole.
    description : str
        Text beside the bar.

    Returns
    -------
    list of Harvest
        In the order of the questions.

    Raises
    ------
    IncompleteResultError
        If the service cuts an answer that cannot be cut any finer, or the rows do not add up to its count.
    """
    waiting = [
        part for number, question in enumerate(questions) for part in _first(session, number, question)
    ]
    done: list[list[Outcome]] = [[] for _ in questions]
    requests = [0] * len(questions)
    ledgers: dict[int, Ledger] = {}
    workers = session.max_workers
    with progress_bar(len(waiting), description, show=progress) as bar:

        def step(part: Part) -> Outcome:
            try:
                return _ask_part(session, part)
            finally:
                bar.step()

        for _ in range(MOST_WAVES):
            if not waiting:
                break
            now, later = _next_wave(waiting, questions, done)
            asked = map_in_order(step, now, workers=workers)
            if any(outcome.refused for outcome in asked):
                workers = max(1, workers // 2)
            outcomes = [outcome for outcome in asked if not outcome.cut]
            for divided in map_in_order(
                lambda group: divide(session, group), _groups(asked), workers=workers
            ):
                outcomes.extend(divided)
            bar.grow(sum(len(outcome.parts) for outcome in outcomes))
            waiting = []
            for outcome in outcomes:
                number = outcome.part.number
                requests[number] += outcome.requests
                if outcome.reply is not None:
                    done[number].append(outcome)
                for part in outcome.parts:
                    ledgers |= {id(ledger): ledger for ledger in part.ledgers}
                waiting.extend(outcome.parts)
            # the smaller parts first: where only some rows are wanted, they are the ones that answer
            waiting = [
                part for part in (*waiting, *later) if not _enough(questions[part.number], done[part.number])
            ]
    if waiting:
        raise IncompleteResultError(gave_up(waiting[0].question))
    _check(questions, done, list(ledgers.values()))
    _learn(session, questions, done)
    return [Harvest(_in_order(outcomes), count) for outcomes, count in zip(done, requests, strict=True)]


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


def _learn(session: Session, questions: Sequence[Question], done: list[list[Outcome]]) -> None:
    """Remember how many rows a value of a list brings, so that the next lists are cut well at once."""
    memory = session.connection.memory
    if memory.peek("cap") is None:
        return
    for question, outcomes in zip(questions, done, strict=True):
        longest = question.longest_list()
        if longest is None or question.limit is not None:
            continue
        rows = sum(outcome.reply.table.num_rows for outcome in outcomes if outcome.reply is not None)
        memory.put(("rows per value", question.name, longest[1]), rows / len(longest[2]))


def _groups(asked: list[Outcome]) -> list[list[Outcome]]:
    """Put answers together that were cut short and come from pieces of one list: they are counted and cut as one."""
    groups: dict[Any, list[Outcome]] = {}
    for place, outcome in enumerate(asked):
        if outcome.cut:
            part = outcome.part
            together = part.listed is not None and part.question.limit is None
            groups.setdefault((part.number, part.listed) if together else place, []).append(outcome)
    return list(groups.values())


def _next_wave(
    waiting: list[Part], questions: Sequence[Question], done: list[list[Outcome]]
) -> tuple[list[Part], list[Part]]:
    """Choose the parts to ask now: all, but of a question with a limit only as many as will fill it."""
    room: dict[int, int] = {}
    now: list[Part] = []
    later: list[Part] = []
    for part in waiting:
        limit = questions[part.number].limit
        if limit is None:
            now.append(part)
            continue
        if part.number not in room:
            rows = [o.reply.table.num_rows for o in done[part.number] if o.reply is not None]
            size = max([1, part.cap, *rows])
            room[part.number] = max(1, math.ceil((limit - sum(rows)) / size))
        (now if room[part.number] > 0 else later).append(part)
        room[part.number] -= 1
    return now, later


def _in_order(outcomes: list[Outcome]) -> list[Reply]:
    order = sorted(range(len(outcomes)), key=lambda n: (outcomes[n].part.span.low or -(2**63), n))
    return [reply for n in order if (reply := outcomes[n].reply) is not None]


def _check(questions: Sequence[Question], done: list[list[Outcome]], ledgers: list[Ledger]) -> None:
    for number, outcomes in enumerate(done):
        if _enough(questions[number], outcomes):
            continue  # stopped early, because the user wanted no more
        for outcome in outcomes:
            for ledger in outcome.part.ledgers:
                if outcome.reply is not None:
                    ledger.got += outcome.reply.table.num_rows
    for ledger in ledgers:
        if ledger.got < ledger.expected and all(question.limit is None for question in questions):
            raise IncompleteResultError(
                f"the server counts {ledger.expected} rows of {ledger.name!r} but {ledger.got} came; rows whose "
                "splitting column is empty cannot be asked for in parts. Filter the query so that it has fewer rows"
            )


def _enough(question: Question, done: list[Outcome]) -> bool:
    if question.limit is None:
        return False
    rows = sum(outcome.reply.table.num_rows for outcome in done if outcome.reply is not None)
    return bool(rows >= question.limit)


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
