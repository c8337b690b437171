"""Complete answers from a service that cuts them without saying so where anyone would look.

A server returns at most so many rows (200,000 or 500,000, or whatever a deployment says) and mentions it in a header
of an HTTP 200. There is no order, so paging by offset repeats and loses rows. What is safe: cut the question into
parts that cannot overlap, first along the longest list of ids, then along ranges of the table's id, until no part is
cut; then check the number of rows against a count, where the service can count.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cortexclient.errors import IncompleteResultError, ServiceTimeoutError, ServiceUnavailableError
from cortexclient.session.query.wire import Reply, ask, ask_count
from cortexclient.session.workers import ProgressBar, at_once, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session.core import Session
    from cortexclient.session.query.question import Question

__all__ = ["Harvest", "Range", "cut_list", "cut_range", "fetch_all", "plan_cuts"]

LIST_SIZE = 5000
"""Most values of a list filter in one request: larger ones make slow plans and bodies of many megabytes."""

FILL = 0.8
"""How full a part should be of what the server returns at most, so that uneven parts still fit."""

MOST_PARTS = 64
MOST_WAVES = 40


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open range of key values; None is no bound."""

    low: int | None = None
    high: int | None = None

    def cut(self, bounds: Sequence[int]) -> list[Range]:
        """Cut at the given values, which fall inside or are left out."""
        inner = sorted({value for value in bounds if self._inside(value)})
        edges = [self.low, *inner, self.high]
        return [Range(low, high) for low, high in itertools.pairwise(edges)]

    def _inside(self, value: int) -> bool:
        return (self.low is None or value > self.low) and (self.high is None or value < self.high)

    @property
    def single(self) -> bool:
        """Whether only one value fits."""
        return self.low is not None and self.high is not None and self.high - self.low <= 1


@dataclass(slots=True)
class Ledger:
    """A number of rows that the service promised, and how many of them have come."""

    name: str
    expected: int
    got: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A question that is a part of one of those that were asked."""

    number: int
    question: Question
    span: Range = Range()
    key: tuple[str, str] | None = None
    ledgers: tuple[Ledger, ...] = ()
    cap: int = 1

    @property
    def key_column(self) -> tuple[str, str]:
        """Table and column along which the part may be cut."""
        return self.key or self.question.key

    def asked(self) -> Question:
        """Give the question with the part's range written into its filters."""
        question = self.question
        table, column = self.key_column
        for kind, bound, tighter in (("greater_equal", self.span.low, max), ("less", self.span.high, min)):
            if bound is not None:
                # the user may have set the same kind of bound on the same column
                theirs = question.filters.get(kind, {}).get(table, {}).get(column)
                question = question.where(
                    kind, table, column, bound if theirs is None else tighter(bound, theirs)
                )
        return question


@dataclass(slots=True)
class Harvest:
    """All parts of one complete answer."""

    replies: list[Reply]
    requests: int = 0

    @property
    def rows(self) -> int:
        """Number of rows of all parts."""
        return sum(reply.table.num_rows for reply in self.replies)


@dataclass(slots=True)
class Outcome:
    """What came of asking one part: its rows, or the smaller parts to ask instead."""

    part: Part
    reply: Reply | None
    parts: list[Part]
    requests: int


def cut_list(question: Question, pieces: int) -> list[Question]:
    """Cut the longest list filter of a question into about equal pieces; the question itself where there is none."""
    longest = question.longest_list()
    if longest is None:
        return [question]
    table, column, values = longest
    distinct = list(dict.fromkeys(values))
    size = max(1, math.ceil(len(distinct) / max(1, pieces)))
    return [
        question.where("in", table, column, distinct[start : start + size])
        for start in range(0, len(distinct), size)
    ]


def plan_cuts(seen: Sequence[int], cap: int, total: int | None, above: int | None) -> list[int]:
    """Choose where to cut a range of keys, from the keys of an answer that was cut short.

    Parameters
    ----------
    seen : sequence of int
        Sorted keys of the rows that came.
    cap : int
        Most rows of one answer.
    total, above : int or None
        Number of rows in the whole range and beyond the largest key seen; None where it is not known.

    Returns
    -------
    list of int
        Values to cut at. Inside the keys seen they are quantiles; beyond them they are steps as dense as what was
        seen, or doubling ones where nothing can be counted.
    """
    low, high = seen[0], seen[-1]
    room = max(1, int(cap * FILL))
    if total is None or above is None:
        width = max(1, high - low)
        doubling = [high + 1 + width * (2**step - 1) for step in range(1, 7)]
        return sorted({seen[len(seen) // 2], high + 1, *doubling})
    inside = total - above
    pieces = min(MOST_PARTS, max(1, math.ceil(inside / room)))
    cuts = [seen[(len(seen) * step) // pieces] for step in range(1, pieces)]
    beyond = min(MOST_PARTS, math.ceil(above / room))
    step = max(1, math.ceil((high - low + 1) / max(1, inside) * room))
    return sorted({*cuts, high + 1, *(high + 1 + step * number for number in range(1, beyond + 1))})


def cut_range(span: Range, cuts: Sequence[int]) -> list[Range]:
    """Cut a range so that progress is certain: if no cut falls inside, it is halved."""
    parts = span.cut(cuts)
    if len(parts) == 1 and span.low is not None and span.high is not None and not span.single:
        parts = span.cut([(span.low + span.high) // 2])
    return parts


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
        Part(number, piece)
        for number, question in enumerate(questions)
        for piece in cut_list(question, _pieces(question))
    ]
    done: list[list[Outcome]] = [[] for _ in questions]
    requests = [0] * len(questions)
    ledgers: dict[int, Ledger] = {}
    with progress_bar(len(waiting), description, show=progress) as bar:
        for _ in range(MOST_WAVES):
            if not waiting:
                break
            now, later = _next_wave(waiting, questions, done)
            outcomes = session.map(lambda part: _ask_part(session, part, bar), now)
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
        raise IncompleteResultError(_gave_up(waiting[0].question))
    _check(questions, done, list(ledgers.values()))
    return [Harvest(_in_order(outcomes), count) for outcomes, count in zip(done, requests, strict=True)]


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


def _pieces(question: Question) -> int:
    longest = question.longest_list()
    return 1 if longest is None else math.ceil(len(longest[2]) / LIST_SIZE)


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


def _ask_part(session: Session, part: Part, bar: ProgressBar) -> Outcome:
    question = part.question
    try:
        reply = ask(session, part.asked())
    except (ServiceTimeoutError, ServiceUnavailableError) as error:
        heavy = isinstance(error, ServiceTimeoutError) or error.status in {502, 504}
        if not heavy or question.longest_list() is None:
            raise
        # too heavy for the server: the same in smaller pieces
        pieces = [dataclasses.replace(part, question=piece) for piece in cut_list(question, 4)]
        return Outcome(part, None, pieces, 1)
    finally:
        bar.step()
    if reply.cap is None or (question.limit is not None and reply.cap >= question.limit):
        return Outcome(part, reply, [], 1)
    return _divide(session, part, reply)


def _enough(question: Question, done: list[Outcome]) -> bool:
    if question.limit is None:
        return False
    rows = sum(outcome.reply.table.num_rows for outcome in done if outcome.reply is not None)
    return bool(rows >= question.limit)


def _divide(session: Session, part: Part, reply: Reply) -> Outcome:
    """Divide a part that was cut short, unless it turns out to be whole."""
    question = dataclasses.replace(part.question, limit=None)
    cap = max(1, reply.cap or reply.table.num_rows)
    session.connection.memory.put("cap", cap)
    counter = dataclasses.replace(part, question=question)
    seen = _seen(part, reply)
    span = Range(part.span.low if seen is None else seen[1][-1] + 1, part.span.high)
    farther = dataclasses.replace(counter, span=span)
    total, above = at_once(
        [
            lambda: ask_count(session, counter.asked()),
            lambda: None if seen is None else ask_count(session, farther.asked()),
        ]
    )
    requests = 1 if total is None else 2 if seen is None else 3
    if total is not None:
        if total <= reply.table.num_rows:
            # exactly as many rows as the server returns at most: it warns, but there is nothing more
            return Outcome(part, reply, [], requests)
        part = dataclasses.replace(part, ledgers=(*part.ledgers, Ledger(question.name, total)))
    part = dataclasses.replace(part, cap=cap)
    longest = question.longest_list()
    pieces = 4 if total is None else max(2, math.ceil(total / (cap * FILL)))
    # a long list falls into pieces of about equal weight; of a short one some values may weigh more than all others
    if longest is not None and (total is None or seen is None or len(longest[2]) >= 4 * pieces):
        parts = [dataclasses.replace(part, question=piece) for piece in cut_list(part.question, pieces)]
        return Outcome(part, None, parts, requests)
    if seen is None:
        if part.span.single and part.key is None and question.kind == "table" and reply.table.num_rows <= 1:
            return Outcome(part, reply, [], requests)  # one id, one row: there is no other
        raise IncompleteResultError(_gave_up(question))
    part = dataclasses.replace(part, key=seen[0])
    cuts = plan_cuts(seen[1], cap, total, above)
    if total is not None and above is not None and total - above == reply.table.num_rows:
        # the server took the rows of smallest ids: they are whole up to the last one, only the rest is asked
        spans = cut_range(span, cuts)
        return Outcome(part, reply, [dataclasses.replace(part, span=rest) for rest in spans], requests)
    spans = cut_range(part.span, cuts)
    return Outcome(part, None, [dataclasses.replace(part, span=piece) for piece in spans], requests)


def _seen(part: Part, reply: Reply) -> tuple[tuple[str, str] | None, list[int]] | None:
    """Choose the column to cut along, and give its values in an answer; None where there is none to cut along."""
    import pyarrow as pa

    table = reply.table
    if part.span.single:
        return None
    if part.key is not None or part.question.key_name in table.column_names:
        names = [part.question.key_name if part.key is None else part.key[1]]
    else:
        # a view without an id: any whole number that differs between rows will do, one of many values does best
        whole = [field.name for field in table.schema if pa.types.is_integer(field.type)]
        whole = [
            name
            for name in whole
            if table.column(name).null_count == 0 and not name.endswith(("_x", "_y", "_z"))
        ]
        names = sorted(whole, key=lambda name: -len(table.column(name).unique()))
    for name in names:
        values = sorted(value for value in table.column(name).unique().to_pylist() if value is not None)
        if values and (len(values) > 1 or name == part.question.key_name):
            return (part.key if name == part.question.key_name else (part.question.name, name)), values
    return None


def _gave_up(question: Question) -> str:
    return (
        f"the server cuts its answer about {question.name!r} and it cannot be completed: there is nothing left to "
        "split it by. Ask for less at a time (filters, or ids in pieces), or pass limit= if a part is enough"
    )
