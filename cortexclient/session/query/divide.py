"""Dividing what was cut short: count it, learn from the rows that came how the rest lies, and cut it to fit."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cortexclient.errors import IncompleteResultError
from cortexclient.session.query.cuts import FILL, Range, blind_cuts, cut_list, cut_range, plan_cuts
from cortexclient.session.query.wire import Reply, ask_count
from cortexclient.session.workers import run_all

if TYPE_CHECKING:
    from cortexclient.session.query.question import Question
    from cortexclient.session.session import Session

__all__ = ["Ledger", "Outcome", "Part", "count_part", "divide", "gave_up"]

_LIST_SHARE = 8
"""Values that a piece of a list must have, so that pieces are about equally heavy."""

_PIECES = 8
"""Pieces where nothing is known about the number of rows."""


EVERYTHING = Range()


@dataclass(slots=True)
class Ledger:
    """A number of rows that the service promised, and how many of them have come."""

    name: str
    expected: int
    got: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A question that is a part of one of those that were asked.

    Parameters
    ----------
    number : int
        Which of the questions asked it belongs to.
    question : Question
        The question, with its list.
    span : Range
        Which values of the key it is about.
    key : tuple of str, optional
        Table and column along which it is cut; the table's id where it is left out.
    ledgers : tuple of Ledger
        Counts that its rows contribute to.
    cap : int
        Most rows of an answer, as far as is known.
    guessed : bool
        Whether its size was worked out from a count: if it is cut all the same, it is only a little too large.
    listed : tuple of str, optional
        Table and column of the list of which its question holds a piece.
    lighter, refusals : int
        How often it was made lighter for a weak server, and put off by one that is asked too often.
    packed : bool
        Whether the values of its list were chosen to fit.
    depth : int
        How often what was asked first was divided to get here.
    """

    number: int
    question: Question
    span: Range = EVERYTHING
    key: tuple[str, str] | None = None
    ledgers: tuple[Ledger, ...] = ()
    cap: int = 1
    guessed: bool = False
    listed: tuple[str, str] | None = None
    lighter: int = 0
    refusals: int = 0
    packed: bool = False
    depth: int = 0

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

    def spans(self, spans: list[Range], *, guessed: bool) -> list[Part]:
        """Give the part once for each range."""
        return [dataclasses.replace(self, span=span, guessed=guessed) for span in spans]


@dataclass(slots=True)
class Outcome:
    """What came of asking one part: its rows, or the smaller parts to ask instead."""

    part: Part
    reply: Reply | None
    parts: list[Part]
    requests: int
    cut: bool = False
    refused: bool = False


def divide(session: Session, cut: list[Outcome]) -> list[Outcome]:
    """Divide what was cut short, unless it turns out to be whole.

    Parameters
    ----------
    session : Session
        Where to count.
    cut : list of Outcome
        One part, or several that differ in one list only.

    Returns
    -------
    list of Outcome
        Rows that are whole after all, and smaller parts to ask.

    Raises
    ------
    IncompleteResultError
        If there is nothing left to divide by.
    """
    replies = [outcome.reply for outcome in cut if outcome.reply is not None]
    cap = max(1, *(reply.cap or reply.table.num_rows for reply in replies))
    part = dataclasses.replace(_joined([outcome.part for outcome in cut]), cap=cap)
    if part.span.single and part.key is not None:
        # one value of a view's column has more rows than fit: from here on another column divides them
        part = dataclasses.replace(part, question=part.asked(), span=EVERYTHING, key=None)
    rows = sum(reply.table.num_rows for reply in replies)
    seen = _seen(part, replies)
    if part.guessed and seen is not None:
        # its size was nearly right, so that halving it does, and counting would cost as much
        spans = cut_range(part.span, [], seen[1])
        return [
            Outcome(part, None, dataclasses.replace(part, key=seen[0]).spans(spans, guessed=False), len(cut))
        ]
    keyed = part if seen is None else dataclasses.replace(part, key=seen[0])
    numbers = _count(session, keyed, None if seen is None else seen[2])
    requests = len(cut) + numbers.requests
    if numbers.exact and numbers.total is not None:
        if numbers.total <= rows:
            # exactly as many rows as the server returns at most: it warns, but there is nothing more
            cut[0].requests = requests - len(cut) + 1
            return [dataclasses.replace(outcome, cut=False) for outcome in cut]
        part = dataclasses.replace(part, ledgers=(*part.ledgers, Ledger(part.question.name, numbers.total)))
    longest = part.question.longest_list()
    pieces = _PIECES if numbers.total is None else max(2, math.ceil(numbers.total / (cap * FILL)))
    # a long list falls into pieces of about equal weight; of a short one some values may weigh more than all others
    if longest is not None and (
        numbers.total is None or seen is None or len(longest[2]) >= _LIST_SHARE * pieces
    ):
        listed = cut_list(part.question, max(pieces, _finer(cut)))
        return [
            Outcome(part, None, [dataclasses.replace(part, question=piece) for piece in listed], requests)
        ]
    if seen is None:
        fullest = max(replies, key=lambda reply: reply.table.num_rows)
        return [_without_rows(part, rows, fullest, requests)]
    if part.question.live and part.question.allow_invalid_root_ids:
        # such a query takes every filter for one of root ids, those of id ranges too
        raise IncompleteResultError(gave_up(part.question))
    return _by_range(dataclasses.replace(part, key=seen[0]), seen, numbers, replies, requests)


def _by_range(
    part: Part,
    seen: tuple[tuple[str, str] | None, list[int], int],
    numbers: _Numbers,
    replies: list[Reply],
    requests: int,
) -> list[Outcome]:
    """Cut a part along its key, and keep of its answers what is known to be whole."""
    values, last = seen[1], seen[2]
    cap = part.cap
    known = [value for value in values if value <= last]
    cuts = plan_cuts(known, cap, numbers.total, numbers.above)
    if numbers.exact and numbers.total is not None and numbers.above is not None:
        whole = [_up_to(part, reply, last) for reply in replies]
        if numbers.total - numbers.above == sum(reply.table.num_rows for reply in whole):
            # the server took the rows of smallest ids: they are whole up to the last one, only the rest is asked
            rest = cut_range(Range(last + 1, part.span.high), cuts)
            first = dataclasses.replace(part, span=Range(part.span.low, last + 1))
            kept = [Outcome(first, reply, [], 0) for reply in whole]
            return [Outcome(part, None, part.spans(rest, guessed=True), requests), *kept]
    spans = cut_range(part.span, cuts, values)
    return [Outcome(part, None, part.spans(spans, guessed=numbers.total is not None), requests)]


def _joined(parts: list[Part]) -> Part:
    """Give one part for several that differ in the values of one list."""
    first = parts[0]
    if len(parts) == 1 or first.listed is None:
        return dataclasses.replace(first, listed=None)
    table, column = first.listed
    values = [value for part in parts for value in part.question.filters["in"][table][column]]
    return dataclasses.replace(first, question=first.question.where("in", table, column, values), listed=None)


def _finer(cut: list[Outcome]) -> int:
    """Pieces of a joined list that are certainly smaller than those that were cut."""
    return 1 if len(cut) == 1 else 2 * len(cut)


@dataclass(frozen=True, slots=True)
class _Numbers:
    total: int | None
    above: int | None
    exact: bool
    requests: int


def count_part(session: Session, part: Part) -> tuple[int | None, int]:
    """Count the rows of a part, or of one that has about as many; give also the number of requests that it took."""
    total = _ask_count(session, part)
    return total, 1 if total is not None or part.question.countable else 0


def _count(session: Session, part: Part, last: int | None) -> _Numbers:
    """Count the rows of a part, and those of it beyond a key; estimates where the service cannot count."""
    counter = dataclasses.replace(part, question=dataclasses.replace(part.question, limit=None))
    exact = counter.question.countable
    asked = [counter]
    if last is not None:
        asked.append(dataclasses.replace(counter, span=Range(last + 1, part.span.high)))
    found = run_all([lambda one=one: _ask_count(session, one) for one in asked], workers=2)  # type: ignore[misc]
    total, above = found[0], found[1] if last is not None else None
    return _Numbers(total, above, exact, len(asked) if total is not None else 1 if exact else 0)


def _ask_count(session: Session, part: Part) -> int | None:
    question = part.asked()
    if not question.countable:
        nearly = question.nearly()
        return None if nearly is None else ask_count(session, nearly)
    return ask_count(session, question)


def _without_rows(part: Part, rows: int, reply: Reply, requests: int) -> Outcome:
    """Go on where no row shows how to: a live answer is cut first and filtered afterwards, so none may be left."""
    question = part.question
    if part.key is not None and reply.table.num_rows:
        # all rows that came share one value of a view's column: it gets a part of its own
        value = reply.table.column(part.key[1])[0].as_py()
        return Outcome(part, None, part.spans(part.span.cut([value, value + 1]), guessed=False), requests)
    if part.span.single:
        if part.key is None and question.kind == "table" and rows <= 1:
            return Outcome(part, reply, [], requests)  # one id, one row: there is no other
    elif question.live and not rows:
        spans = cut_range(part.span, blind_cuts(part.span))
        return Outcome(part, None, part.spans(spans, guessed=False), requests)
    raise IncompleteResultError(gave_up(question))


def _up_to(part: Part, reply: Reply, last: int) -> Reply:
    import pyarrow.compute as pc

    name = part.question.key_name if part.key is None else part.key[1]
    return Reply(reply.table.filter(pc.less_equal(reply.table.column(name), last)), None, reply.resolution)


def _seen(part: Part, replies: list[Reply]) -> tuple[tuple[str, str] | None, list[int], int] | None:
    """Choose the column to cut along; give its values in the answers, and the value up to which all answers reach.

    None where there is no column to cut along, or no value of it came.
    """
    import pyarrow as pa

    tables = [reply.table for reply in replies]
    if part.span.single:
        return None
    first = tables[0]
    if part.key is not None or part.question.key_name in first.column_names:
        names = [part.question.key_name if part.key is None else part.key[1]]
    else:
        # a view without an id: any whole number that differs between rows will do, one of many values does best
        whole = [field.name for field in first.schema if pa.types.is_integer(field.type)]
        whole = [
            name
            for name in whole
            if all(table.column(name).null_count == 0 for table in tables)
            and not name.endswith(("_x", "_y", "_z"))
        ]
        names = sorted(whole, key=lambda name: -len(first.column(name).unique()))
    for name in names:
        found = [
            sorted(value for value in table.column(name).unique().to_pylist() if value is not None)
            for table in tables
        ]
        values = sorted(set().union(*found))
        if values and (len(values) > 1 or name == part.question.key_name):
            key = part.key if name == part.question.key_name else (part.question.name, name)
            return key, values, min(own[-1] for own in found if own)
    return None


def gave_up(question: Question) -> str:
    """Say that an answer cannot be completed, and what to do."""
    return (
        f"the server cuts its answer about {question.name!r} and it cannot be completed: there is nothing left to "
        "split it by. Ask for less at a time (filters, or ids in pieces), or pass limit= if a part is enough"
    )
