"""The state of one fetch: which parts wait, which came, which were cut short, and what is asked next.

Nothing waits for anything that it does not need: a part that was cut short is divided while others are on their way,
smaller parts are asked while the rows are counted, and ids that came are passed on to the questions that need them.
Only where answers are kept on disk, everything goes in rounds: what is asked then depends on answers alone and not on
their timing, so that a run without a network asks for nothing but what a run with one has kept.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from cortexclient.errors import IncompleteResultError
from cortexclient.session.query.cuts import FILL
from cortexclient.session.query.divide import Outcome, Part, count_part, divide, gave_up
from cortexclient.session.query.early import split_early
from cortexclient.session.query.pack import cap_of, part_of, rows_of, sample_of, values_of
from cortexclient.session.query.state import LIST_SIZE, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cortexclient.session.flow import Job
    from cortexclient.session.query.feed import Feed
    from cortexclient.session.query.pool import Pool
    from cortexclient.session.query.question import Question
    from cortexclient.session.query.state import Asking, News
    from cortexclient.session.session import Session
    from cortexclient.session.workers import ProgressBar

__all__ = ["DEEPEST", "Fetch"]

DEEPEST = 80
"""How often a part may be divided further: a range of 63-bit ids can be halved so often, and more gains nothing."""


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
        for state in self.states:
            # what is found out about parts comes before parts
            if state.jobs:
                return self._started_now(state, state.jobs.popleft())
        for state in sorted(self.states, key=_rank):
            if (job := self._of(state)) is not None:
                return self._started_now(state, job)
        return None

    # -- what is asked next --------------------------------------------------------------------------------------

    def _of(self, state: State) -> Asking | None:
        if state.feed is not None and not state.unsent:
            # no sooner: how many ids fit shows in the answers about those that came first
            self._pass_on(state, [state.feed.full(self._room(state, state.feed))])
        if state.pool:
            return partial(self._asked, state, self._fitting(state, state.pool))
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
        whole = not (outcome.refused or outcome.cut)
        return partial(self._came, state, outcome, self._picked(state, outcome) if whole else {})

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
                self._confirm(state)
            self._feed_the_rest()

    def _picked(self, state: State, outcome: Outcome) -> dict[int, list[int]]:
        """Give the ids of an answer to ask others about: question -> ids. It takes time, so nobody waits for it."""
        if outcome.reply is None or state.feed is not None:
            return {}
        return {
            other.number: other.feed.picked(state.number, outcome.reply.table)
            for other in self.states
            if other.feed is not None
        }

    def _came(self, state: State, outcome: Outcome, picked: dict[int, list[int]]) -> None:
        if outcome.refused:
            self._refused(state, outcome)
            return
        if outcome.cut:
            state.cut.append(outcome)
            return
        state.requests += outcome.requests
        self._keep(state, outcome, picked)
        self._wait(state, outcome.parts, outcome.part.depth + 1)

    def _refused(self, state: State, outcome: Outcome) -> None:
        """Ask fewer at a time, and this part after the others; refusals of one crowd slow down once."""
        state.requests += outcome.requests
        if self._telling > self._slowed:
            self._slowed = self._started
            self._allowed = max(1, self._allowed // 2)
        self._bar.grow(len(outcome.parts))
        state.unsent.extend(outcome.parts)

    def _keep(self, state: State, outcome: Outcome, picked: dict[int, list[int]] | None = None) -> None:
        state.keep(outcome)
        if outcome.reply is None or state.feed is not None:
            return
        picked = self._picked(state, outcome) if picked is None else picked
        for other in self.states:
            if other.feed is not None:
                other.feed.take(picked[other.number])
            elif _same_rows(other, state):
                other.learn_from(outcome)

    def _wait(self, state: State, parts: Sequence[Part], depth: int) -> None:
        """Put parts before those that wait already: where only some rows are wanted, smaller parts do."""
        if parts and depth > DEEPEST:
            raise IncompleteResultError(gave_up(state.question))
        self._bar.grow(len(parts))
        for part in reversed(parts):
            state.ledgers |= {id(ledger): ledger for ledger in part.ledgers}
            state.unsent.appendleft(dataclasses.replace(part, depth=depth))

    def _was_divided(self, state: State, group: list[Outcome], outcomes: list[Outcome]) -> None:
        depth = max(outcome.part.depth for outcome in group) + 1
        for outcome in outcomes:
            state.requests += outcome.requests
            self._keep(state, outcome)
        self._wait(state, [part for outcome in outcomes for part in outcome.parts], depth)

    # -- what to do about answers that were cut short ------------------------------------------------------------

    def _decide(self, state: State) -> None:
        if not state.cut:
            return
        if state.question.limit is None:  # a user's limit says nothing about the server's
            self._session.connection.memory.put("cap", max(1, *(cap_of(outcome) for outcome in state.cut)))
        listed = [outcome for outcome in state.cut if _is_packable(state, outcome)]
        for outcome in state.cut:
            if not _is_packable(state, outcome):
                state.jobs.append(partial(self._divide, state, [outcome]))
        state.cut = []
        if not listed:
            return
        if not (state.counted or state.counting):
            self._count_whole(state)
            for other in self.states:
                if other.question.name == state.question.name and _is_countable_list(other):
                    self._count_whole(other)
        if state.counting and not state.pool and len(listed) == 1 and not (state.flying or state.unsent):
            # the server warns of exactly as many rows as it returns at most, too
            state.held = listed
            return
        self._pool(state, listed)

    def _count_whole(self, state: State) -> None:
        state.counting = True
        whole = Part(state.number, state.question)
        state.jobs.append(partial(self._count, state, whole))

    def _was_counted(self, state: State, total: int | None, requests: int) -> None:
        state.counting, state.counted = False, True
        state.requests += requests
        state.total = total
        if total is not None and state.question.countable:
            state.promised = total
        held, state.held = state.held, []
        rows = sum(outcome.reply.table.num_rows for outcome in held if outcome.reply is not None)
        if held and total == state.rows + rows and state.question.countable:
            for outcome in held:
                state.requests += outcome.requests
                self._keep(state, dataclasses.replace(outcome, cut=False))
            return
        self._pool(state, held)
        if total is None:
            return
        mean, cap = state.mean(), self._session.connection.memory.peek("cap")
        waiting = [part for part in state.unsent if part.listed is not None]
        if state.pool or any(mean * len(values_of(part)) > FILL * cap for part in waiting):
            for part in waiting:
                state.pooled(part).wait(values_of(part))
            state.unsent = deque(part for part in state.unsent if part.listed is None)
            self._bar.grow(-len(waiting))
            for other in self.states:
                for outcome in other.done if _same_rows(state, other) else ():
                    state.learn_from(outcome)
        if state.pool:
            state.pool.counted(mean, cap)

    def _pool(self, state: State, cut: Sequence[Outcome]) -> None:
        """Put the values of parts that were cut short where they are put into parts that fit."""
        for outcome in cut:
            state.requests += outcome.requests
            part, sample = outcome.part, sample_of(outcome)
            pool = state.pooled(part)
            before = pool.pieces
            if state.question.countable and not state.wary:
                early, sample = split_early(outcome, sample)
                if early is not None:
                    state.early.append(early)
                    self._keep(state, early)
                    pool.heard(len(values_of(early.part)), rows_of(early))
            pool.cut(sample, depth=part.depth, fitted=part.packed)
            self._bar.grow(pool.pieces - before)

    def _confirm(self, state: State) -> None:
        """Ask again for what only seemed to be whole, unless what has come adds up to the count."""
        if not (state.early and state.idle):
            return
        early, state.early = state.early, []
        if state.rows == state.promised:
            return
        state.wary = True
        for outcome in early:
            state.drop(outcome)
            pool = state.pooled(outcome.part)
            pool.misheard()
            pool.wait(values_of(outcome.part))
            for number, ids in self._picked(state, outcome).items():
                feed = self.states[number].feed
                if feed is not None:
                    feed.expect_again(ids)

    def _fitting(self, state: State, pool: Pool) -> Part:
        """Take from a pool what fills an answer."""
        before = pool.pieces
        values, depth = pool.take()
        self._bar.grow(pool.pieces + 1 - before)
        if depth > DEEPEST or state.model is None:
            raise IncompleteResultError(gave_up(state.question))
        return part_of(state.model, values, self._session.connection.memory.peek("cap"), depth=depth)

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


def _rank(state: State) -> tuple[bool, bool]:
    """Give the key by which questions take turns.

    All are after ids of which nothing has been asked, whose answer shows how many fit; and before values that are too
    few for an answer, while others may be left over soon.
    """
    few = bool(state.pool and state.flying and state.pool.thin)
    return few, state.feed is None or bool(state.done or state.flying)


def _same_rows(state: State, other: State) -> bool:
    return other is not state and other.question.name == state.question.name


def _is_packable(state: State, outcome: Outcome) -> bool:
    part = outcome.part
    return (
        part.listed is not None
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
