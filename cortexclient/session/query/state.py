"""The state of one question while it is being answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cortexclient.session.query.pack import counts_of, rows_of, values_of
from cortexclient.session.query.pool import Pool

if TYPE_CHECKING:
    from cortexclient.session.query.divide import Ledger, Outcome, Part
    from cortexclient.session.query.feed import Feed
    from cortexclient.session.query.question import Question

__all__ = ["LIST_SIZE", "Asking", "News", "State"]

LIST_SIZE = 5000
"""Most values of a list filter in one request: larger ones make slow plans and bodies of many megabytes."""

News = Callable[[], None]
"""Tells the fetch what an answer holds; called by one thread at a time."""

Asking = Callable[[], News]
"""Asks something, in any thread."""


@dataclass(slots=True)
class State:
    """How far one question is.

    Parameters
    ----------
    number : int
        Its place among the questions.
    question : Question
        The question as a whole; of a feed, without the list that is still coming.
    feed : Feed, optional
        Where its list comes from.

    Attributes
    ----------
    held : list of Outcome
        What was cut short, as it seems, and is the whole: the count will tell.
    pool : Pool or None
        The values of its list that wait, once an answer was cut short.
    early : list of Outcome
        What is done only as long as the count does not show that it was cut short after all.
    wary : bool
        Whether the count has shown that once: nothing more is taken early.
    model : Part or None
        A part like those to make of them.
    """

    number: int
    question: Question
    feed: Feed | None = None
    unsent: deque[Part] = field(default_factory=deque)
    jobs: deque[Asking] = field(default_factory=deque)
    pool: Pool | None = None
    model: Part | None = None
    cut: list[Outcome] = field(default_factory=list)
    held: list[Outcome] = field(default_factory=list)
    done: list[Outcome] = field(default_factory=list)
    early: list[Outcome] = field(default_factory=list)
    wary: bool = False
    rows: int = 0
    requests: int = 0
    flying: int = 0
    counting: bool = False
    counted: bool = False
    total: int | None = None
    promised: int | None = None
    ledgers: dict[int, Ledger] = field(default_factory=dict)

    @property
    def idle(self) -> bool:
        """Whether nothing of it is left to do."""
        return not (self.flying or self.unsent or self.jobs or self.cut or self.held or self.pool)

    @property
    def satisfied(self) -> bool:
        """Whether the user wants no more rows."""
        return self.question.limit is not None and self.rows >= self.question.limit

    def keep(self, outcome: Outcome) -> None:
        """Keep the rows of a part that is whole."""
        if outcome.reply is not None:
            self.done.append(outcome)
            self.rows += rows_of(outcome)

    def drop(self, outcome: Outcome) -> None:
        """Forget rows that were kept."""
        self.done = [other for other in self.done if other is not outcome]
        self.rows -= rows_of(outcome)

    def pooled(self, part: Part) -> Pool:
        """Give its pool, made when it is first needed; the part says which list it is of."""
        if self.pool is None:
            self.model = part
            self.pool = Pool(min(LIST_SIZE, self.question.batch or LIST_SIZE))
        return self.pool

    def mean(self) -> float:
        """Rows that values have on the average of which not all rows have come; what was counted less what came."""
        longest = self.question.longest_list()
        number = len(longest[2]) if longest is not None else 1
        known = sum(len(values_of(outcome.part)) for outcome in self.done)
        return max(0, (self.total or 0) - self.rows) / max(1, number - known)

    def learn_from(self, outcome: Outcome) -> None:
        """Look at rows of another question about the same table for those of values that wait."""
        if not self.pool or self.model is None or self.model.listed is None or outcome.reply is None:
            return
        rows, column = outcome.reply.table, self.model.listed[1]
        if column in rows.column_names:
            self.pool.saw(counts_of(rows, column))
