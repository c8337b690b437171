"""The state of one fetch: which parts wait, which came, which were cut short, and what is asked next.

Nothing waits for anything that it does not need: a part that was cut short is divided while others are on their way,
and ids that came are passed on to the questions that need them. Only where answers are kept on disk, everything goes
in rounds: what is asked then depends on answers alone and not on their timing, so that a run without a network asks
for nothing but what a run with one has kept.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cortexclient.errors import IncompleteResultError
from cortexclient.session.query.cuts import FILL
from cortexclient.session.query.divide import Ledger, Outcome, Part, count_part, divide, gave_up
from cortexclient.session.query.pack import cap_of, expected_rows, pack, part_of, sample_of, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session.core import Session
    from cortexclient.session.flow import Job
    from cortexclient.session.progress import ProgressBar
    from cortexclient.session.query.feed import Feed
    from cortexclient.session.query.question import Question

News = Callable[[], None]
"""Tells the fetch what an answer holds; called by one thread at a time."""

Asking = Callable[[], News]
"""Asks something, in any thread."""

__all__ = ["DEEPEST", "LIST_SIZE", "Fetch", "State"]

LIST_SIZE = 5000
"""Most values of a list filter in one request: larger ones make slow plans and bodies of many megabytes."""

DEEPEST = 60
"""How often a part may be divided further: more would mean that nothing is gained by it."""


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
    """

    number: int
    question: Question
    feed: Feed | None = None
    unsent: deque[Part] = field(default_factory=deque)
    jobs: deque[Asking] = field(default_factory=deque)
    cut: list[Outcome] = field(default_factory=list)
    done: list[Outcome] = field(default_factory=list)
    rows: int = 0
    requests: int = 0
    flying: int = 0
    counting: bool = False
    counted: bool = False
    packed: bool = False
    total: int | None = None
    promised: int | None = None
    ledgers: dict[int, Ledger] = field(default_factory=dict)

    @property
    def idle(self) -> bool:
        """Whether nothing of it is left to do."""
        return not (self.flying or self.unsent or self.jobs or self.cut)

    @property
    def satisfied(self) -> bool:
        """Whether the user wants no more rows."""
        return self.question.limit is not None and self.rows >= self.question.limit

    def keep(self, outcome: Outcome) -> None:
        """Keep the rows of a part that is whole."""
        if outcome.reply is not None:
            self.done.append(outcome)
            self.rows += outcome.reply.table.num_rows


class Fetch:
    """Everything that is asked to answer some questions.

    Parameters
    ----------
    session : Session
        Where to ask.
    ask_part : callable
        Asks one part.
    bar : ProgressBar
        Told of every part.
    """

    def __init__(
        self, session: Session, ask_part: Callable[[Session, Part], Outcome], bar: ProgressBar
    ) -> None:
        self.states: list[State] = []
        self._session = session
        self._ask = ask_part
        self._bar = bar
        self._rounds = session.connection.cache is not None
        self._lock = threading.RLock()
        self._news: list[tuple[int, News]] = []
        self._started = self._telling = self._slowed = 0
        self._flying = self._busy = 0
        self._allowed = session.max_workers

    def add(self, question: Question, parts: Sequence[Part], *, feed: Feed | None = None) -> State:
        """Add a question, with the parts to begin with."""
        state = State(len(self.states), question, feed)
        state.unsent.extend(parts)
        self.states.append(state)
        return state

    def take(self) -> Job | None:
        """Give the next thing to do; None where there is nothing until an answer comes."""
        with self._lock:
            # in rounds, answers are looked at when all of a round has come, which is as large as it can be
            job = self._next() if self._rounds or not self._news else None
            if job is None and self._news and not (self._rounds and self._busy):
                self._settle()
                job = self._next()
            return job

    def _next(self) -> Job | None:
        if self._flying >= self._allowed:
            return None
        for state in sorted(self.states, key=_comes_last):
            if (job := self._of(state)) is not None:
                return self._started_now(state, job)
        return None

    # -- what is asked next --------------------------------------------------------------------------------------

    def _of(self, state: State) -> Asking | None:
        if state.jobs:
            return state.jobs.popleft()
        if state.feed is not None and not state.unsent:
            # no sooner: how many ids fit shows in the answers about those that came first
            self._pass_on(state, [state.feed.full(self._room(state, state.feed))])
        if state.counting or not state.unsent:
            return None
        if state.satisfied:
            state.unsent.clear()
            return None
        if state.question.limit is not None:
            # only as many as will fill what is wanted
            sizes = [outcome.reply.table.num_rows for outcome in state.done if outcome.reply is not None]
            size = max([1, state.unsent[0].cap, *sizes])
            if state.flying * size >= state.question.limit - state.rows:
                return None
        return partial(self._asked, state, state.unsent.popleft())

    def _started_now(self, state: State, job: Asking) -> Job:
        self._started += 1
        self._busy += 1
        self._flying += 1
        state.flying += 1
        number = self._started

        def run() -> None:
            news = job()
            with self._lock:
                self._busy -= 1
                if not self._rounds:
                    self._flying -= 1
                    state.flying -= 1
                self._news.append((number, news))

        return run

    def _asked(self, state: State, part: Part) -> News:
        outcome = self._ask(self._session, part)
        self._bar.step()
        return partial(self._came, state, outcome)

    def _count(self, state: State, part: Part) -> News:
        total, requests = count_part(self._session, part)
        return partial(self._was_counted, state, total, requests)

    def _divide(self, state: State, group: list[Outcome]) -> News:
        outcomes = divide(self._session, group)
        return partial(self._was_divided, state, group, outcomes)

    # -- what came -----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._rounds:
            self._flying = 0
            for state in self.states:
                state.flying = 0
        while self._news:
            news, self._news = sorted(self._news, key=lambda entry: entry[0]), []
            for self._telling, tell in news:
                tell()
            for state in self.states:
                self._decide(state)
            self._feed_the_rest()

    def _came(self, state: State, outcome: Outcome) -> None:
        if outcome.refused:
            self._refused(state, outcome)
            return
        if outcome.cut:
            state.cut.append(outcome)
            return
        state.requests += outcome.requests
        self._keep(state, outcome)
        self._wait(state, outcome.parts, outcome.part.depth + 1)

    def _refused(self, state: State, outcome: Outcome) -> None:
        """Ask fewer at a time, and this part after the others; refusals of one crowd slow down once."""
        state.requests += outcome.requests
        if self._telling > self._slowed:
            self._slowed = self._started
            self._allowed = max(1, self._allowed // 2)
        self._bar.grow(len(outcome.parts))
        state.unsent.extend(outcome.parts)

    def _keep(self, state: State, outcome: Outcome) -> None:
        state.keep(outcome)
        if outcome.reply is None or state.feed is not None:
            return
        for other in self.states:
            if other.feed is not None:
                other.feed.take_from(state.number, outcome.reply.table)

    def _wait(self, state: State, parts: Sequence[Part], depth: int) -> None:
        """Put parts before those that wait already: where only some rows are wanted, smaller parts do."""
        if parts and depth > DEEPEST:
            raise IncompleteResultError(gave_up(state.question))
        self._bar.grow(len(parts))
        for part in reversed(parts):
            state.ledgers |= {id(ledger): ledger for ledger in part.ledgers}
            state.unsent.appendleft(dataclasses.replace(part, depth=depth))

    def _was_counted(self, state: State, total: int | None, requests: int) -> None:
        state.counting, state.counted = False, True
        state.requests += requests
        state.total = total
        if total is not None and state.question.countable:
            state.promised = total
        if total is not None and not state.cut and state.unsent:
            self._repack(state, [])

    def _was_divided(self, state: State, group: list[Outcome], outcomes: list[Outcome]) -> None:
        depth = max(outcome.part.depth for outcome in group) + 1
        for outcome in outcomes:
            state.requests += outcome.requests
            self._keep(state, outcome)
        self._wait(state, [part for outcome in outcomes for part in outcome.parts], depth)

    # -- what to do about answers that were cut short ------------------------------------------------------------

    def _decide(self, state: State) -> None:
        if not state.cut or state.counting:
            return
        self._session.connection.memory.put("cap", max(1, *(cap_of(outcome) for outcome in state.cut)))
        listed = [outcome for outcome in state.cut if _is_packable(state, outcome)]
        alone = [outcome for outcome in state.cut if not _is_packable(state, outcome)]
        state.cut = []
        for outcome in alone:
            state.jobs.append(partial(self._divide, state, [outcome]))
        if not listed:
            return
        if not state.counted:
            state.cut = listed
            self._count_whole(state)
            for other in self.states:
                if other.question.name == state.question.name and _is_countable_list(other):
                    self._count_whole(other)
        elif state.total is None:
            state.jobs.append(partial(self._divide, state, listed))
        else:
            self._repack(state, listed)

    def _count_whole(self, state: State) -> None:
        state.counting = True
        whole = Part(state.number, state.question)
        state.jobs.append(partial(self._count, state, whole))

    def _repack(self, state: State, cut: list[Outcome]) -> None:
        """Put values of parts that were cut short, and of those that were not yet asked, into parts that fit."""
        rows = sum(outcome.reply.table.num_rows for outcome in cut if outcome.reply is not None)
        whole = state.total == state.rows + rows and state.question.countable
        if cut and whole and not (state.flying or state.unsent or state.jobs):
            # exactly as many rows as the server returns at most: it warns, but there is nothing more
            for outcome in cut:
                state.requests += outcome.requests
                self._keep(state, dataclasses.replace(outcome, cut=False))
            return
        state.requests += sum(outcome.requests for outcome in cut)
        for outcome in (outcome for outcome in cut if outcome.part.packed):
            self._halve(state, outcome)
        cut = [outcome for outcome in cut if not outcome.part.packed]
        waiting = [] if state.packed else [part for part in state.unsent if part.listed is not None]
        if not cut and not waiting:
            return
        first = cut[0].part if cut else waiting[0]
        cap = self._session.connection.memory.peek("cap")
        mean = (state.total or 0) / max(
            1, len(values_of(dataclasses.replace(first, question=state.question)))
        )
        if not cut and all(mean * len(values_of(part)) <= FILL * cap for part in waiting):
            return
        others = [value for part in waiting for value in values_of(part)]
        samples = [sample_of(outcome) for outcome in cut]
        asked = sum(len(sample.values) for sample in samples)
        left = mean * (asked + len(others)) if state.packed else (state.total or 0) - state.rows
        weights = expected_rows(samples, others, left)
        most = min(LIST_SIZE, state.question.batch or LIST_SIZE)
        groups = pack(weights, FILL * cap, most=most, pieces=2 if len(cut) == 1 and not waiting else 1)
        if not state.packed:
            state.unsent = deque(part for part in state.unsent if part.listed is None)
            self._bar.grow(-len(waiting))
        state.packed = True
        depth = max([outcome.part.depth for outcome in cut], default=0) + 1
        self._wait(state, [part_of(first, group, cap, packed=1) for group in groups], depth)

    def _halve(self, state: State, outcome: Outcome) -> None:
        """Divide a part that was made to fit and is only a little too large: counting would cost as much."""
        sample = sample_of(outcome)
        weights = expected_rows([sample], [], sample.cap)
        groups = pack(weights, math.inf, most=LIST_SIZE, pieces=2)
        parts = [part_of(outcome.part, group, sample.cap, packed=2) for group in groups]
        self._wait(state, parts, outcome.part.depth + 1)

    # -- what is passed on to other questions --------------------------------------------------------------------

    def _room(self, state: State, feed: Feed) -> int:
        """Ids that one request may hold: those of whose rows the server gives all, as far as is known."""
        size = min(LIST_SIZE, feed.size)
        cap = self._session.connection.memory.peek("cap")
        if cap is None:
            return size
        asked = sum(len(values_of(outcome.part)) for outcome in state.done)
        ratio = max(0.2, state.rows / asked) if asked and state.rows else 1.0
        return max(1, min(size, int(0.9 * cap / ratio)))

    def _pass_on(self, state: State, lists: Sequence[list[int]]) -> None:
        feed = state.feed
        if feed is None:
            return
        for ids in filter(None, lists):
            question = state.question.where("in", feed.table, feed.column, ids)
            state.unsent.append(Part(state.number, question, listed=(feed.table, feed.column)))
            self._bar.grow(1)

    def _feed_the_rest(self) -> None:
        if not all(state.idle for state in self.states if state.feed is None):
            return
        for state in self.states:
            if state.feed is not None and not state.feed.over:
                self._pass_on(state, state.feed.rest(self._room(state, state.feed)))
                if not state.feed.passed:
                    # the answer has the columns, even if there is no row
                    nothing = state.question.where("equal", state.question.name, "id", -1)
                    state.unsent.append(Part(state.number, nothing))


def _comes_last(state: State) -> bool:
    """Whether others are asked first: all but ids of which nothing has been asked, whose answer shows how many fit."""
    return state.feed is None or bool(state.done or state.flying)


def _is_packable(state: State, outcome: Outcome) -> bool:
    part = outcome.part
    return (
        part.listed is not None
        and part.packed < 2
        and state.feed is None
        and state.question.limit is None
        and len(values_of(part)) > 1
    )


def _is_countable_list(state: State) -> bool:
    return (
        not state.counted
        and not state.counting
        and state.feed is None
        and state.question.limit is None
        and any(part.listed is not None for part in state.unsent)
    )
