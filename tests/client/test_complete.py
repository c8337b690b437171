"""Completing answers that are cut short, against servers of every habit, simulated row by row."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cortexclient import errors
from cortexclient.session.connection import Memo
from cortexclient.session.query import complete, divide
from cortexclient.session.query.complete import Following, fetch_all
from cortexclient.session.query.cuts import Range, blind_cuts, cut_list, cut_range, plan_cuts
from cortexclient.session.query.feed import Feed
from cortexclient.session.query.pack import Sample, pack, sample_of
from cortexclient.session.query.pool import Pool
from cortexclient.session.query.question import Question
from cortexclient.session.query.wire import Reply


class Server:
    """Rows behind a cap; which of them it gives first is its own affair."""

    def __init__(self, ids, groups, cap, *, order="random", counts=True, unique=True):
        self.rows = np.array(sorted(ids) if order == "sorted" else ids, dtype=np.int64)
        self.groups = np.array(groups, dtype=np.int64)
        self.cap = cap
        self.counts = counts
        self.asked = self.cut = self.counted = 0
        if order == "shuffled":
            mixed = np.random.default_rng(0).permutation(len(self.rows))
            self.rows, self.groups = self.rows[mixed], self.groups[mixed]
        if order in ("grouped", "deceiving"):
            by_group = np.argsort(self.groups, kind="stable")
            self.rows, self.groups = self.rows[by_group], self.groups[by_group]
        self.deceiving = order == "deceiving"

    def matching(self, question):
        keep = np.ones(len(self.rows), dtype=bool)
        for kind, tables in question.filters.items():
            for columns in tables.values():
                for column, value in columns.items():
                    values = self.rows if column == "id" else self.groups
                    keep &= {
                        "in": lambda v=values, w=value: np.isin(v, w),
                        "greater_equal": lambda v=values, w=value: v >= w,
                        "less": lambda v=values, w=value: v < w,
                    }[kind]()
        return np.flatnonzero(keep)

    def ask(self, _session, question):
        self.asked += 1
        found = self.matching(question)
        limit = min(self.cap, question.limit or self.cap)
        if self.deceiving and len(found) > limit:
            # one value after the other, as if they were whole, but they are not
            skipped = np.arange(len(found)) % 3 == 1
            found = np.concatenate([found[~skipped], found[skipped]])
            found[:limit].sort()
        cut = found[:limit]
        self.cut += len(cut) == limit
        table = pa.table({"id": self.rows[cut], "group": self.groups[cut]})
        return Reply(table, limit if len(cut) == limit else None, None)

    def count(self, _session, question):
        self.asked += 1
        self.counted += 1
        return len(self.matching(question)) if self.counts else None


def session(workers=4):
    return SimpleNamespace(max_workers=workers, connection=SimpleNamespace(memory=Memo(), cache=None))


def ids_of(harvest):
    return np.concatenate([reply.table.column("id").to_numpy() for reply in harvest.replies]).tolist()


@pytest.fixture
def on(monkeypatch):
    def use(server):
        monkeypatch.setattr(complete, "ask", server.ask)
        monkeypatch.setattr(divide, "ask_count", server.count)
        return server

    return use


IDS = st.one_of(
    st.lists(st.integers(1, 300), unique=True, max_size=200),
    st.lists(st.integers(864691135000000000, 864691136999999999), unique=True, max_size=120),
    st.lists(st.integers(1, 2**62), unique=True, max_size=120),
)

ORDERS = ["random", "sorted", "shuffled", "grouped", "deceiving"]


@settings(max_examples=60, deadline=None)
@given(IDS, st.integers(1, 60), st.sampled_from(ORDERS), st.booleans(), st.data())
def test_every_row_once(ids, cap, order, counts, data):
    groups = data.draw(st.lists(st.integers(0, 6), min_size=len(ids), max_size=len(ids)))
    wanted = data.draw(st.one_of(st.none(), st.lists(st.integers(0, 8), min_size=1, max_size=9)))
    server = Server(ids, groups, cap, order=order, counts=counts)
    filters = {} if wanted is None else {"in": {"t": {"group": wanted}}}
    question = Question(kind="table", name="t", filters=filters, version=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complete, "ask", server.ask)
        patch.setattr(divide, "ask_count", server.count)
        (harvest,) = fetch_all(session(1), [question])
    expected = server.rows[server.matching(question)].tolist()
    assert sorted(ids_of(harvest)) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(IDS, st.integers(1, 40), st.sampled_from(["random", "sorted", "shuffled"]), st.integers(1, 50))
@example([1, 2**57 + 4, 2**57 + 2], 1, "random", 3)
@example([1, 2**62 + 1, 2**62], 1, "random", 3)
def test_a_wrong_estimate_costs_requests_and_no_rows(ids, cap, order, wrong):
    # of a joined table only an estimate is to be had, and it may be far too small
    class Joined(Server):
        def count(self, session, question):
            return super().count(session, question) // wrong

        def ask(self, session, question):
            reply = super().ask(session, question)
            return Reply(reply.table.rename_columns(["id_ref", "group"]), reply.cap, None)

    server = Joined(ids, [0] * len(ids), cap, order=order)
    question = Question(kind="table", name="t", base="b", suffixes=(("t", "_ref"), ("b", "")), version=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complete, "ask", server.ask)
        patch.setattr(divide, "ask_count", server.count)
        (harvest,) = fetch_all(session(1), [question])
    found = [value for reply in harvest.replies for value in reply.table.column("id_ref").to_pylist()]
    assert sorted(found) == sorted(ids)


def test_few_requests_for_many_rows(on):
    for order in ("sorted", "shuffled"):
        server = on(Server(range(1, 20001), [0] * 20000, 500, order=order))
        (harvest,) = fetch_all(session(), [Question(kind="table", name="t", version=1)])
        assert harvest.rows == 20000
        assert server.asked < 3 * 20000 / 500


def test_an_answer_of_exactly_the_cap_is_whole(on):
    server = on(Server(range(50), [0] * 50, 50))
    (harvest,) = fetch_all(session(), [Question(kind="table", name="t", version=1)])
    assert harvest.rows == 50
    assert server.asked <= 3


def test_a_limit_of_the_user_needs_no_more_than_it_says(on):
    server = on(Server(range(100000), [0] * 100000, 500, order="shuffled"))
    (harvest,) = fetch_all(session(), [Question(kind="table", name="t", version=1, limit=200)])
    assert harvest.rows == 200
    assert server.asked == 1
    (harvest,) = fetch_all(session(), [Question(kind="table", name="t", version=1, limit=2000)])
    assert harvest.rows >= 2000
    assert server.asked < 40


def test_rows_that_cannot_be_told_apart_raise(on):
    on(Server([7] * 100, [0] * 100, 50))
    with pytest.raises(errors.IncompleteResultError, match="limit="):
        fetch_all(session(), [Question(kind="table", name="t", version=1)])


def test_a_users_own_bounds_hold_where_answers_are_cut(on):
    server = on(Server(range(1, 201), [number % 4 for number in range(200)], 20))
    bounds = {"greater_equal": {"t": {"id": 31}}, "less": {"t": {"id": 171}}}
    (harvest,) = fetch_all(session(), [Question(kind="table", name="t", version=1, filters=bounds)])
    assert server.cut > 0
    assert sorted(ids_of(harvest)) == list(range(31, 171))


@pytest.mark.parametrize(("answers", "told"), [(1, "counts 200 rows of 't' but 199 came"), (1000, "counts")])
def test_rows_lost_on_the_way_raise(on, answers, told):
    server = on(Server(range(200), [0] * 200, 50))
    original, lost = server.ask, []

    def forgetful(session, question):
        reply = original(session, question)
        if reply.cap is None and reply.table.num_rows > 3 and len(lost) < answers:
            lost.append(reply.table.column("id")[0])
            reply.table = reply.table.slice(1)
        return reply

    server.ask = forgetful
    on(server)
    with pytest.raises(errors.IncompleteResultError, match=told):
        fetch_all(session(), [Question(kind="table", name="t", version=1)])


def test_too_heavy_questions_are_made_lighter(on):
    server = on(Server(range(100), list(range(100)), 1000))
    original = server.ask

    def weak(_session, question):
        longest = question.longest_list()
        if longest is not None and len(longest[2]) > 20:
            raise errors.ServiceUnavailableError("too much", status=504)
        return original(_session, question)

    server.ask = weak
    on(server)
    question = Question(kind="table", name="t", version=1, filters={"in": {"t": {"group": list(range(100))}}})
    (harvest,) = fetch_all(session(), [question])
    assert sorted(ids_of(harvest)) == list(range(100))


class LiveServer(Server):
    """A server that cuts first and filters by roots afterwards, and cannot count."""

    def ask(self, session, question):
        wanted = question.filters.get("in", {}).get("t", {}).pop("group", None)
        reply = super().ask(session, question)
        if wanted is not None:
            question.filters["in"]["t"]["group"] = wanted
            reply.table = reply.table.filter(pa.compute.is_in(reply.table["group"], pa.array(wanted)))
        return reply


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3 * 10**7), st.integers(2, 30), st.sampled_from(["sorted", "shuffled"]))
def test_live_answers_that_show_no_row_are_completed(first, cap, order):
    ids = range(first, first + 150)
    server = LiveServer(ids, [number // 140 for number in range(150)], cap, order=order, counts=False)
    question = Question(
        kind="table",
        name="t",
        filters={"in": {"t": {"group": [1]}}},
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complete, "ask", server.ask)
        patch.setattr(divide, "ask_count", server.count)
        (harvest,) = fetch_all(session(1), [question])
    assert sorted(ids_of(harvest)) == list(ids)[140:]
    assert server.asked < 600


def test_lists_learn_how_many_rows_a_value_brings(on):
    server = on(Server(range(4000), [number % 40 for number in range(4000)], 500))
    ours = session()

    def ask(values):
        server.asked = 0
        question = Question(kind="table", name="t", version=1, filters={"in": {"t": {"group": values}}})
        (harvest,) = fetch_all(ours, [question])
        assert harvest.rows == 100 * len(values)
        return server.asked

    # one answer that is cut short, one count, five parts of four values
    assert ask(list(range(20))) == 1 + 1 + 5
    assert server.cut == server.counted == 1
    # the second time the list is cut to fit at once: nothing is cut short and nothing counted
    assert ask(list(range(20, 40))) == 7
    assert server.cut == server.counted == 1


@pytest.mark.parametrize("status", [429, 504])
def test_a_server_that_is_down_is_left_alone(on, status):
    server = on(Server(range(100), list(range(100)), 1000))
    asked = []

    def down(_session, question):
        asked.append(question)
        raise errors.ServiceUnavailableError("no", status=status)

    server.ask = down
    on(server)
    question = Question(
        kind="table", name="t", version=1, filters={"in": {"t": {"group": list(range(4000))}}}
    )
    with pytest.raises(errors.ServiceUnavailableError):
        fetch_all(session(), [question])
    assert len(asked) <= 1 + 4 + 16 + 64


def test_a_server_that_is_asked_too_often_is_asked_less(on):
    server = on(Server(range(100), list(range(100)), 1000))
    original, together, most, lock = server.ask, [], [], threading.Lock()

    def busy(_session, question):
        with lock:
            together.append(question)
            most.append(len(together))
            mine = len(most)
        time.sleep(0.002)
        try:
            if mine < 9:
                raise errors.ServiceUnavailableError("slow down", status=429)
            return original(_session, question)
        finally:
            with lock:
                together.pop()

    server.ask = busy
    on(server)
    question = Question(
        kind="table", name="t", version=1, batch=10, filters={"in": {"t": {"group": list(range(100))}}}
    )
    (harvest,) = fetch_all(session(8), [question])
    assert sorted(ids_of(harvest)) == list(range(100))
    assert max(most[-5:]) <= 4


@given(st.integers(0, 2**40) | st.none(), st.integers(1, 2**40) | st.none())
def test_blind_cuts_make_progress(low, width):
    span = Range(low, None if width is None else (low or 0) + width)
    parts = cut_range(span, blind_cuts(span))
    assert parts[0].low == span.low
    assert parts[-1].high == span.high
    assert len(parts) > 1 or span.single or span.low is None


@given(st.lists(st.integers(-100, 100)), st.integers(-120, 120), st.integers(1, 240))
def test_ranges_neither_overlap_nor_leave_gaps(cuts, low, width):
    for span in (Range(low, low + width), Range(low, None), Range(None, low), Range()):
        parts = cut_range(span, cuts)
        assert parts[0].low == span.low
        assert parts[-1].high == span.high
        for one, other in itertools.pairwise(parts):
            assert one.high == other.low
        if span.low is not None and span.high is not None and not span.single:
            assert len(parts) > 1


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 9))
def test_lists_are_cut_without_loss(values, pieces):
    question = Question(kind="table", name="t", version=1, filters={"in": {"t": {"c": values}}})
    parts = cut_list(question, pieces)
    together = [value for part in parts for value in part.filters["in"]["t"]["c"]]
    assert sorted(set(together)) == sorted(set(values))
    if len(values) > 1:
        assert len(together) == len(set(values))


def test_cuts_follow_what_was_seen():
    seen = list(range(1, 501))
    cuts = plan_cuts(seen, 500, 5000, 4500)
    assert max(cuts) >= 4500
    assert all(a < b for a, b in itertools.pairwise(cuts))
    spread = plan_cuts(list(range(0, 5000, 10)), 500, 5000, 0)
    assert len(spread) >= 11
    assert plan_cuts(seen, 500, None, None)[-1] > 10000


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 50), max_size=60), st.floats(1, 40), st.integers(1, 20))
def test_packing_loses_nothing_and_fills_up(weights, room, most):
    weighed = dict(enumerate(weights))
    groups = pack(weighed, room, most=most)
    assert sorted(itertools.chain.from_iterable(groups)) == list(weighed)
    assert all(0 < len(group) <= most for group in groups)
    assert all(sum(weighed[v] for v in group) <= room * 1.000001 for group in groups if len(group) > 1)
    # two of the lightest groups would not fit into one
    light = sorted(sum(weighed[v] for v in group) for group in groups)[:2]
    few = all(len(group) < most / 2 for group in groups)
    assert not few or len(groups) <= 1 or sum(light) > room / 2


def test_a_cut_answer_tells_which_values_are_heavy():
    pool = Pool(most=10)
    pool.cut(Sample([1, 2, 3, 4], {1: 300, 2: 100, 3: 50, 4: 50}, 500), depth=0, fitted=False)
    pool.wait([5])
    pool.counted(1250 / 5, 500)
    found = pool.weights([1, 2, 3, 4, 5])
    assert sum(found.values()) == pytest.approx(1250)
    assert found[5] == pytest.approx(250)
    assert found[1] == pytest.approx(600, rel=0.01)
    # one that gives one value after the other tells nothing
    pool = Pool(most=10)
    pool.cut(Sample([1, 2, 3, 4], {1: 499, 2: 1}, 500), depth=0, fitted=False)
    pool.counted(1000 / 4, 500)
    assert set(pool.weights([1, 2, 3, 4]).values()) == {250.0}


COUNTS = st.lists(st.integers(0, 120), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(
    COUNTS,
    st.integers(1, 100),
    st.integers(1, 30),
    st.sampled_from(["mixed", "in turn", "hidden"]),
    st.one_of(st.none(), st.floats(0, 200)),
    st.integers(0, 1000),
)
def test_a_pool_gives_every_value_until_it_fits(counts, cap, most, shown, mean, seed):
    """Whatever answers that were cut short show of their values: none is lost, and none asked about for ever."""
    rows = dict(enumerate(counts))
    pool = Pool(most=most)
    pool.wait(rows)
    random = np.random.default_rng(seed)
    if mean is not None:
        pool.counted(mean, cap)
    done, asked = [], 0
    while pool:
        values, depth = pool.take()
        asked += 1
        assert 0 < len(values) <= most
        assert depth <= asked < 20 * len(rows) + 20
        if sum(rows[value] for value in values) < cap or len(values) == 1:
            done += values
            continue
        every = [value for value in values for _ in range(rows[value])]
        if shown == "mixed":
            every = random.permutation(every).tolist()
        seen = {} if shown == "hidden" else Counter(every[:cap])
        last = every[cap - 1] if shown == "in turn" else None
        pool.cut(Sample(values, seen, cap, last), depth=depth, fitted=True)
        pool.saw(dict(enumerate(random.integers(0, 5, len(rows)).tolist())))
    assert sorted(done) == sorted(rows)


def test_values_that_were_cut_short_together_are_not_asked_about_together_again():
    pool = Pool(most=100)
    pool.wait(range(20))
    pool.counted(0.0, 50)  # a count that is far too low
    values, depth = pool.take()
    assert sorted(values) == list(range(20))
    pool.cut(Sample(values, {}, 50), depth=depth, fitted=True)
    again = []
    while pool:
        again.append(sorted(pool.take()[0]))
    assert len(again) == 2
    assert sorted(itertools.chain.from_iterable(again)) == list(range(20))


def test_values_that_come_one_after_the_other_are_known():
    pool = Pool(most=10)
    pool.cut(Sample([1, 2, 3, 4], {2: 300, 1: 150, 3: 50}, 500, 3), depth=0, fitted=False)
    pool.counted(200.0, 500)
    assert pool.weights([1, 2, 3, 4]) == {1: 150, 2: 300, 3: 200, 4: 200}


@pytest.mark.parametrize(("groups", "last"), [([7, 7, 5, 5, 9], 9), ([7, 5, 7, 5, 9], None), ([4, 4], 4)])
def test_an_answer_shows_whether_values_come_one_after_the_other(groups, last):
    question = Question(kind="table", name="t", version=1, filters={"in": {"t": {"group": [4, 5, 7, 9]}}})
    part = divide.Part(0, question, listed=("t", "group"))
    reply = Reply(pa.table({"id": range(len(groups)), "group": groups}), len(groups), None)
    assert sample_of(divide.Outcome(part, reply, [], 1, cut=True)).last == last


def test_rows_of_other_questions_tell_which_values_are_heavy():
    pool = Pool(most=100)
    pool.wait(range(10))
    pool.counted(20.0, 1000)
    pool.saw({0: 60, 1: 30, 2: 5, 3: 5})
    pool.take()
    found = pool.weights(range(10))
    assert sum(found.values()) == pytest.approx(200)
    assert found[0] > found[1] > found[2] > found[9] > 0
    assert found[0] == pytest.approx(20 * 62 / 12)


@pytest.mark.parametrize("workers", [4, 8])
def test_parts_are_asked_while_the_rows_are_counted(on, workers):
    server = on(Server(range(8000), [number % 200 for number in range(8000)], 500, order="shuffled"))
    asked, ask, count = [], server.ask, server.count
    server.ask = lambda session, question: (
        asked.append(len(question.filters["in"]["t"]["group"])),
        ask(session, question),
    )[1]
    server.count = lambda session, question: (asked.append("count"), count(session, question))[1]
    on(server)
    ours = session(workers)
    ours.connection.cache = object()  # in rounds, so that it is known what is asked when
    question = Question(
        kind="table", name="t", version=1, batch=25, filters={"in": {"t": {"group": list(range(200))}}}
    )
    (harvest,) = fetch_all(ours, [question])
    assert sorted(ids_of(harvest)) == list(range(8000))
    first, second = asked[:workers], asked[workers : 2 * workers]
    assert first == [25] * workers
    assert second.count("count") == 1
    parts = [size for size in second if size != "count"]
    assert len(parts) == workers - 1
    assert max(parts) < 25 / 2
    assert asked.count("count") == 1
    # however little those hold that were asked by a guess: ten values of forty rows fill an answer
    assert len(asked) <= workers + 1 + (workers - 1) + 200 / 10


def test_one_answer_at_the_cap_is_counted_before_it_is_divided(on):
    server = on(Server(range(60), [number % 6 for number in range(60)], 60))
    question = Question(kind="table", name="t", version=1, filters={"in": {"t": {"group": list(range(6))}}})
    (harvest,) = fetch_all(session(8), [question])
    assert harvest.rows == 60
    assert server.asked == harvest.requests == 2


def test_uneven_lists_are_whole_in_few_requests(on):
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(200), random.poisson(60 * random.lognormal(sigma=0.6, size=200)))
    mixed = random.permutation(groups)
    server = on(Server(range(len(mixed)), mixed, 500, order="shuffled"))
    question = Question(
        kind="table", name="t", version=1, batch=25, filters={"in": {"t": {"group": list(range(200))}}}
    )
    ours = session(8)
    ours.connection.cache = object()  # in rounds, so that how many are asked does not depend on the clock
    (harvest,) = fetch_all(ours, [question])
    assert sorted(ids_of(harvest)) == list(range(len(mixed)))
    assert server.counted == 1
    # eight were under way when the first came back cut short; the rest is packed to fit
    assert server.asked < 1.4 * len(mixed) / (500 * 0.85) + 9


def grouped_rows(order):
    random = np.random.default_rng(6)
    groups = np.repeat(np.arange(200), random.poisson(50 * random.lognormal(sigma=0.5, size=200)))
    return Server(range(len(groups)), groups, 500, order=order)


def in_lists_of(batch):
    return Question(
        kind="table", name="t", version=1, batch=batch, filters={"in": {"t": {"group": list(range(200))}}}
    )


def test_values_that_came_whole_in_an_answer_that_was_cut_are_not_asked_again(on):
    server = on(grouped_rows("grouped"))
    words, original = [], server.ask
    server.ask = lambda session, question: (
        words.append(question.filters["in"]["t"]["group"]),
        original(session, question),
    )[1]
    on(server)
    ours = session(8)
    ours.connection.cache = object()  # in rounds, so that how many are asked does not depend on the clock
    (harvest,) = fetch_all(ours, [in_lists_of(25)])
    assert sorted(ids_of(harvest)) == list(range(len(server.rows)))
    often = Counter(itertools.chain.from_iterable(words))
    assert sum(number == 1 for number in often.values()) > 200 / 4
    assert server.counted == 1
    server = on(grouped_rows("shuffled"))
    fetch_all(ours, [in_lists_of(25)])
    assert len(words) < server.asked


def test_values_that_only_seemed_to_have_come_whole_are_asked_again(on):
    server = on(grouped_rows("deceiving"))
    (harvest,) = fetch_all(session(8), [in_lists_of(25)])
    assert sorted(ids_of(harvest)) == list(range(len(server.rows)))
    server = on(grouped_rows("deceiving"))
    server.counts = False  # nothing can be trusted where nothing is counted
    (harvest,) = fetch_all(session(8), [in_lists_of(25)])
    assert sorted(ids_of(harvest)) == list(range(len(server.rows)))


class Sides(Server):
    """Rows that belong to one value on each of two sides."""

    def __init__(self, pre, post, cap):
        super().__init__(range(len(pre)), pre, cap)
        self.sides = {"pre": np.array(pre), "post": np.array(post)}

    def matching(self, question):
        ((side, values),) = question.filters["in"]["t"].items()
        return np.flatnonzero(np.isin(self.sides[side], values))

    def ask(self, session, question):
        reply = super().ask(session, question)
        rows = reply.table.column("id").to_numpy()
        sides = {side: pa.array(values[rows]) for side, values in self.sides.items()}
        return Reply(pa.table({"id": rows, **sides}), reply.cap, None)


def both_sides(values):
    return [
        Question(kind="table", name="t", version=1, batch=10, filters={"in": {"t": {side: list(values)}}})
        for side in ("pre", "post")
    ]


def uneven(seed):
    """Both sides of 6000 rows: who makes many receives many, and rows come in no order."""
    random = np.random.default_rng(seed)
    weights = random.lognormal(sigma=0.5, size=80)
    return random.choice(80, (2, 6000), p=weights / weights.sum())


def test_one_side_tells_of_the_other(on):
    server = on(Sides(*uneven(3), 400))
    ours = session(8)
    ours.connection.cache = object()  # in rounds, so that how many are asked does not depend on the clock
    for harvest in fetch_all(ours, both_sides(range(80))):
        assert sorted(ids_of(harvest)) == list(range(6000))
    assert server.counted == 2
    # eight were under way when the first came back cut short, and as many were asked while the rows were counted
    assert server.asked <= 8 + 2 + 2 * 6000 / (400 * 0.9) + 8


def test_two_sides_that_are_kept_are_asked_for_in_the_same_words_again(on):
    random = np.random.default_rng(1)

    def asked():
        server = Sides(*uneven(4), 400)
        words, original = [], server.ask

        def ask(session, question):
            time.sleep(random.random() / 500)
            words.append(repr(question.filters))
            return original(session, question)

        server.ask = ask
        on(server)
        ours = session(8)
        ours.connection.cache = object()
        fetch_all(ours, both_sides(range(80)))
        return sorted(words)

    assert asked() == asked() == asked()


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("order", ["shuffled", "grouped", "deceiving"])
def test_what_follows_is_asked_about_every_row_once(on, order, kept):
    server = on(Server(range(1, 3001), [number % 60 for number in range(3000)], 200, order=order))
    lists = []
    original = server.ask

    def ask(session, question):
        if question.name == "notes":
            lists.append(question.filters["in"]["notes"]["id"])
        return original(session, question)

    server.ask = ask
    on(server)
    question = Question(
        kind="table", name="t", version=1, batch=10, filters={"in": {"t": {"group": list(range(60))}}}
    )
    notes = Following(
        Question(kind="table", name="notes", version=1),
        "notes",
        "id",
        150,
        lambda _, rows: rows.column("id").to_numpy(),
    )
    ours = session(4)
    ours.connection.cache = object() if kept else None
    main, more = fetch_all(ours, [question], following=[notes])
    assert sorted(ids_of(main)) == sorted(ids_of(more)) == list(range(1, 3001))
    assert sorted(itertools.chain.from_iterable(lists)) == list(range(1, 3001))
    assert max(map(len, lists)) <= 150


def test_what_is_kept_is_asked_for_in_the_same_words_again(on):
    """Were requests to depend on which answer came first, a run without a network would miss some."""
    random = np.random.default_rng(1)

    def asked():
        server = Server(range(4000), random.permutation(np.arange(4000) % 80), 300, order="shuffled")
        server.groups = np.arange(4000) * 7919 % 80
        words, original = [], server.ask

        def ask(session, question):
            time.sleep(random.random() / 500)
            words.append(repr((question.name, question.filters)))
            return original(session, question)

        server.ask = ask
        on(server)
        question = Question(
            kind="table", name="t", version=1, batch=8, filters={"in": {"t": {"group": list(range(80))}}}
        )
        notes = Following(
            Question(kind="table", name="notes", version=1),
            "notes",
            "id",
            100,
            lambda _, rows: rows.column("id").to_numpy(),
        )
        ours = session(8)
        ours.connection.cache = object()
        fetch_all(ours, [question], following=[notes])
        return sorted(words)

    assert asked() == asked()


def test_no_rows_are_followed_by_one_question_for_the_columns(on):
    server = on(Server(range(10), [0] * 10, 50))
    server.matching = lambda question: np.arange(0)
    question = Question(kind="table", name="t", version=1, filters={"in": {"t": {"group": [7, 8]}}})
    notes = Following(
        Question(kind="table", name="notes", version=1),
        "notes",
        "id",
        5,
        lambda _, rows: rows.column("id").to_numpy(),
    )
    main, more = fetch_all(session(), [question], following=[notes])
    assert main.rows == more.rows == 0
    assert len(more.replies) == 1


def test_a_users_limit_is_not_taken_for_the_servers(on):
    class FiltersAfterwards(Server):
        def ask(self, session, question):
            reply = super().ask(session, question)
            return Reply(reply.table.slice(1), reply.cap, None)

    server = on(FiltersAfterwards(range(1, 31), [number % 3 for number in range(30)], 1000))
    ours = session()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    (harvest,) = fetch_all(ours, [Question(kind="table", name="t", limit=6, timestamp=at)])
    assert server.asked > 1
    assert harvest.rows >= 6
    assert ours.connection.memory.peek("cap") is None


def test_the_rest_of_what_follows_fits_its_requests_too():
    feed = Feed("notes", "id", size=150, pick=lambda _, rows: rows.column("id").to_numpy())
    feed.take(list(range(440)))
    assert feed.full(150) == list(range(150))
    lists = feed.rest(150)
    assert [*itertools.chain.from_iterable(lists)] == list(range(150, 440))
    assert [len(ids) for ids in lists] == [145, 145]
    assert feed.over
