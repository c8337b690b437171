"""Results are complete although a server truncates its responses: servers of every habit, simulated row by row."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cortexclient import errors
from cortexclient.session import Follow, Query, TableInfo
from cortexclient.session.connection import Memo
from cortexclient.session.query.complete import fetch_all

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Server:
    """Rows behind a row limit; which of them it sends first is its own affair. It speaks Arrow over `send`.

    Parameters
    ----------
    columns : dict
        Name -> values of the rows.
    row_limit : int
        Most rows of one response.
    order : str
        Which rows come first: as they are, sorted by id, shuffled, or one value of ``group`` after the other.
    roots_last : bool
        Filters by ``group`` are applied after the response was truncated, as in a live query.
    """

    def __init__(self, columns, row_limit, *, order="random", roots_last=False):
        self.columns = {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
        number = len(next(iter(self.columns.values())))
        place = np.arange(number)
        if order == "sorted":
            place = np.argsort(self.columns["id"], kind="stable")
        if order == "shuffled":
            place = np.random.default_rng(0).permutation(number)
        if order == "grouped":
            place = np.argsort(self.columns["group"], kind="stable")
        self.columns = {name: values[place] for name, values in self.columns.items()}
        self.row_limit, self.roots_last = row_limit, roots_last
        self.asked: list[tuple[str, dict]] = []
        self.counted = self.truncated = 0
        self.lock = threading.Lock()

    def matching(self, filters, *, without=()):
        keep = np.ones(len(next(iter(self.columns.values()))), dtype=bool)
        tests = {
            "filter_in_dict": np.isin,
            "filter_equal_dict": np.equal,
            "filter_greater_equal_dict": np.greater_equal,
            "filter_less_dict": np.less,
        }
        for kind, tables in filters.items():
            for columns in tables.values() if kind in tests else ():
                for column, value in columns.items():
                    if column not in without:
                        keep &= tests[kind](self.columns[column], value)
        return np.flatnonzero(keep)

    def count(self, body):
        return len(self.matching(body))

    def rows(self, body):
        found = self.matching(body, without=("group",) if self.roots_last else ())
        limit = min(self.row_limit, body.get("limit", self.row_limit))
        stopped = len(found) >= limit
        found = found[:limit]
        if self.roots_last:
            found = found[np.isin(found, self.matching(body))]
        return found, limit if stopped else None

    def send(self, _service, _method, url, *, params, body, headers):
        assert headers
        with self.lock:
            self.asked.append((url, body))
        if params.get("count"):
            self.counted += 1
            return respond(url, pa.table({"count": [self.count(body)]}), None)
        found, limit = self.rows(body)
        self.truncated += limit is not None
        return respond(url, pa.table({name: values[found] for name, values in self.columns.items()}), limit)


def respond(url, table, limit):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    headers = {"Content-Type": "data.arrow"}
    if limit is not None:
        headers["Warning"] = f'201 - "Limited query to {limit} rows'
    return SimpleNamespace(status_code=200, headers=headers, content=sink.getvalue(), url=url)


def session(server, workers=4, *, cache=None):
    def pool(function, items):
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(function, items))

    return SimpleNamespace(
        max_workers=workers,
        map=pool,
        http=server,
        local_server="http://server",
        datastack="d",
        connection=SimpleNamespace(memory=Memo(), cache=cache),
    )


def table(name="t", *, kind="table"):
    return TableInfo(name, kind, "", (4.0, 4.0, 40.0), None, None, {})


def query(values=None, *, column="group", kind="table", **options):
    """Plan a query by hand: all rows, or those of a list of values."""
    filters = {} if values is None else {"in": {"t": {column: list(values)}}}
    given = {"version": 1, "filters": filters, "info": table(kind=kind), **options}
    return Query("t", kind, **given)


def ids(reply, name="id"):
    return sorted(reply.table.column(name).to_pylist())


IDS = st.one_of(
    st.lists(st.integers(1, 300), unique=True, max_size=200),
    st.lists(st.integers(864691135000000000, 864691136999999999), unique=True, max_size=120),
    st.lists(st.integers(1, 2**62), unique=True, max_size=120),
)
ORDERS = ["random", "sorted", "shuffled", "grouped"]


@settings(max_examples=100, deadline=None)
@given(IDS, st.integers(1, 60), st.sampled_from(ORDERS), st.booleans(), st.data())
def test_every_row_once(ids_there, row_limit, order, live, data):
    groups = data.draw(st.lists(st.integers(0, 6), min_size=len(ids_there), max_size=len(ids_there)))
    wanted = data.draw(st.one_of(st.none(), st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True)))
    server = Server({"id": ids_there, "group": groups}, row_limit, order=order)
    moment = {"version": None, "timestamp": NOW} if live else {}
    (reply,) = fetch_all(session(server, 1), [query(wanted, **moment)])
    keep = [
        number for number, group in zip(ids_there, groups, strict=True) if wanted is None or group in wanted
    ]
    assert ids(reply) == sorted(keep)
    assert reply.requests == len(server.asked) - server.counted * live


@settings(max_examples=60, deadline=None)
@given(IDS, st.integers(1, 40), st.sampled_from(["random", "sorted", "shuffled"]), st.integers(1, 50))
@example([1, 2**57 + 4, 2**57 + 2], 1, "random", 3)
@example([1, 2**62 + 1, 2**62], 1, "random", 3)
def test_a_wrong_estimate_costs_requests_and_no_rows(ids_there, row_limit, order, wrong):
    # of a joined table only an estimate can be counted, and it may be far too small
    class Joined(Server):
        def count(self, body):
            return super().count(body) // wrong

        def send(self, *args, **more):
            response = super().send(*args, **more)
            if more["params"].get("count"):
                return response
            rows = pa.ipc.open_stream(response.content).read_all().rename_columns(["id_ref", "group"])
            changed = respond(response.url, rows.append_column("id", rows.column(0)), None)
            changed.headers = response.headers
            return changed

    server = Joined({"id": ids_there, "group": [0] * len(ids_there)}, row_limit, order=order)
    (reply,) = fetch_all(session(server, 1), [query(base=table("b"), suffixes={"t": "_ref", "b": ""})])
    assert ids(reply, "id_ref") == sorted(ids_there)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), unique=True, max_size=150), st.integers(2, 30)
)
def test_a_view_without_an_id_is_split_by_what_differs(rows, row_limit):
    pre, post = zip(*rows, strict=True) if rows else ((), ())
    server = Server({"pre_id": pre, "post_id": post}, row_limit)
    (reply,) = fetch_all(session(server, 1), [query(kind="view")])
    found = zip(*(reply.table.column(name).to_pylist() for name in ("pre_id", "post_id")), strict=True)
    assert sorted(found) == sorted(rows)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3 * 10**7), st.integers(2, 30), st.sampled_from(["sorted", "shuffled"]))
def test_live_responses_that_show_no_row_are_completed(first, row_limit, order):
    there = range(first, first + 150)
    server = Server(
        {"id": there, "group": [number // 140 for number in range(150)]},
        row_limit,
        order=order,
        roots_last=True,
    )
    (reply,) = fetch_all(session(server, 1), [query([1], version=None, timestamp=NOW)])
    assert ids(reply) == list(there)[140:]
    assert len(server.asked) < 600


def rows_of_neurons(order, *, mean=50):
    random = np.random.default_rng(6)
    groups = np.repeat(np.arange(200), random.poisson(mean * random.lognormal(sigma=0.5, size=200)))
    return Server({"id": np.arange(len(groups)), "group": groups}, 500, order=order)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_few_requests_for_a_whole_table(order):
    server = Server({"id": range(1, 20001)}, 500, order=order)
    (reply,) = fetch_all(session(server), [query()])
    assert reply.table.num_rows == 20000
    assert len(server.asked) < 3 * 20000 / 500


@pytest.mark.parametrize("order", ["shuffled", "grouped"])
def test_few_requests_for_uneven_lists(order):
    server = rows_of_neurons(order)
    (reply,) = fetch_all(session(server, 8), [query(range(200), batch=25)])
    assert ids(reply) == list(range(len(server.columns["id"])))
    assert len(server.asked) < 2.2 * len(server.columns["id"]) / 500 + 8
    assert server.counted <= 8  # once for each batch that was truncated


def test_a_response_of_exactly_the_row_limit_is_complete():
    server = Server({"id": range(60), "group": [number % 6 for number in range(60)]}, 60)
    for asked in (query(), query(range(6))):
        (reply,) = fetch_all(session(server), [asked])
        assert reply.table.num_rows == 60
        assert reply.requests <= 3
    assert server.truncated == 2


@pytest.mark.parametrize(("most", "requests"), [(200, 1), (2000, 40)])
def test_a_users_limit_needs_no_more_than_it_says(most, requests):
    server = Server({"id": range(100_000)}, 500, order="shuffled")
    (reply,) = fetch_all(session(server), [query(most=most)])
    assert reply.table.num_rows >= most
    assert len(server.asked) <= requests


def test_a_users_limit_is_not_taken_for_the_servers():
    class FiltersAfterwards(Server):
        def rows(self, body):
            found, limit = super().rows(body)
            return found[1:], limit

    server = FiltersAfterwards({"id": range(1, 31)}, 1000)
    ours = session(server)
    (reply,) = fetch_all(ours, [query(most=6, version=None, timestamp=NOW)])
    assert len(server.asked) > 1
    assert reply.table.num_rows >= 6


def test_a_users_own_bounds_hold_where_responses_are_truncated():
    server = Server({"id": range(1, 201), "group": [number % 4 for number in range(200)]}, 20)
    bounds = {"greater_equal": {"t": {"id": 31}}, "less": {"t": {"id": 171}}}
    (reply,) = fetch_all(session(server), [query(filters=bounds)])
    assert server.truncated > 0
    assert ids(reply) == list(range(31, 171))


@pytest.mark.parametrize(
    "asked",
    [
        query(kind="view"),
        query(kind="view", filters={"equal": {"t": {"group": 0}}}),
        query(version=None, timestamp=NOW, allow_invalid_root_ids=True),
    ],
)
def test_what_cannot_be_split_raises(asked):
    server = Server({"id": [7] * 100, "group": [0] * 100}, 50)
    if not asked.live:
        del server.columns["id"]
    with pytest.raises(errors.IncompleteResultError, match="limit="):
        fetch_all(session(server), [asked])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda rows: rows[1:], errors.IncompleteResultError),
        (lambda rows: np.append(rows, rows[:1]), errors.CortexError),
    ],
    ids=["lost", "twice"],
)
def test_rows_that_do_not_add_up_raise(change, error):
    class Careless(Server):
        def rows(self, body):
            found, limit = super().rows(body)
            return (change(found), limit) if limit is None and len(found) > 3 else (found, limit)

    for asked in (query(), query(range(10))):
        server = Careless({"id": range(200), "group": [number % 10 for number in range(200)]}, 50)
        with pytest.raises(error):
            fetch_all(session(server), [asked])


@pytest.mark.parametrize(
    "wrong",
    [
        *(lambda count, by=by: max(0, count + by) for by in (-100, -1, 1, 1000, 2**62)),
        lambda _: 1999,
        lambda _: 10**9,
    ],
)
def test_a_wrong_count_raises_after_few_requests(wrong):
    class Miscounts(Server):
        def count(self, body):
            return wrong(super().count(body))

    for asked in (query(), query(range(40))):
        server = Miscounts({"id": range(2000), "group": [number % 40 for number in range(2000)]}, 100)
        with pytest.raises(errors.IncompleteResultError, match="counts"):
            fetch_all(session(server), [asked])
        assert len(server.asked) < 250


def refusing(server, refuse):
    """Make a server refuse some requests: `refuse` takes the number of the request and its list, returns a status."""
    send, lock, count = server.send, threading.Lock(), [0]

    def through(*args, **more):
        with lock:
            count[0] += 1
            number = count[0]
        status = refuse(number, more["body"].get("filter_in_dict", {}).get("t", {}).get("group", []))
        if status:
            raise errors.ServiceUnavailableError("no", status=status)
        return send(*args, **more)

    server.send = through
    return count


@pytest.mark.parametrize("error", [504, 502, "timeout"])
def test_too_heavy_requests_are_split(error):
    server = Server({"id": range(100), "group": range(100)}, 1000)
    send = server.send

    def weak(*args, **more):
        if len(more["body"]["filter_in_dict"]["t"]["group"]) > 20:
            raise (
                errors.ServiceTimeoutError("slow")
                if error == "timeout"
                else errors.ServiceUnavailableError("too much", status=error)
            )
        return send(*args, **more)

    server.send = weak
    (reply,) = fetch_all(session(server), [query(range(100))])
    assert ids(reply) == list(range(100))


@pytest.mark.parametrize("status", [429, 504])
def test_a_server_that_is_down_is_left_alone(status):
    server = Server({"id": range(100), "group": range(100)}, 1000)
    count = refusing(server, lambda *_: status)
    with pytest.raises(errors.ServiceUnavailableError):
        fetch_all(session(server), [query(range(4000))])
    assert count[0] <= 1 + 4 + 16 + 64


def test_a_server_that_is_asked_too_often_is_asked_less():
    server = Server({"id": range(100), "group": range(100)}, 1000)
    together, most, lock, send = [0], [], threading.Lock(), server.send

    def busy(*args, **more):
        with lock:
            together[0] += 1
            most.append(together[0])
            mine = len(most)
        time.sleep(0.002)
        try:
            if mine < 9:
                raise errors.ServiceUnavailableError("slow down", status=429)
            return send(*args, **more)
        finally:
            with lock:
                together[0] -= 1

    server.send = busy
    (reply,) = fetch_all(session(server, 8), [query(range(100), batch=10)])
    assert ids(reply) == list(range(100))
    assert max(most[-5:]) <= 4


class Notes(Server):
    """Synapses, and a table of notes about every second one."""

    def send(self, service, method, url, **more):
        if "/notes/" not in url:
            return super().send(service, method, url, **more)
        self.asked.append((url, more["body"]))
        wanted = more["body"].get("filter_in_dict", {}).get("notes", {}).get("target_id", [])
        found = [number for number in wanted if number % 2 == 0]
        limit = self.row_limit if len(found) >= self.row_limit else None
        if more["params"].get("count"):
            return respond(url, pa.table({"count": [len(found)]}), None)
        found = found[: self.row_limit]
        rows = pa.table({"id": pa.array(found, pa.int64()), "target_id": pa.array(found, pa.int64())})
        return respond(url, rows, limit)


def notes(size, pick=lambda _, rows: rows.column("id").to_numpy()):
    return Follow(Query("notes", "table", info=table("notes"), version=1), "target_id", size, pick)


@pytest.mark.parametrize("size", [7, 100, 5000])
def test_what_follows_is_asked_about_every_row_once(size):
    server = Notes({"id": range(400), "group": [number % 8 for number in range(400)]}, 60, order="shuffled")
    main, more = fetch_all(session(server), [query(range(8))], following=[notes(size)])
    assert ids(main) == list(range(400))
    assert ids(more) == list(range(0, 400, 2))
    lists = [body["filter_in_dict"]["notes"]["target_id"] for url, body in server.asked if "/notes/" in url]
    assert max(map(len, lists)) <= size


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target_id": [1, 5]}, "'target_id' that were not asked for"),  # the rows of another neuron
        ({"target_id": [1, None]}, "'target_id' that were not asked for"),
        ({"id": [10, None]}, "whose 'id' is missing"),
        ({"id": None}, "without column 'id'"),
        ({"target_id": None}, "without column 'target_id'"),
    ],
)
def test_rows_that_do_not_belong_to_the_query_are_refused(changed, message):
    class Mixed(Server):
        def send(self, _service, _method, url, **more):
            columns = {"id": [10, 11], "target_id": [1, 2], **changed}
            kept = {name: pa.array(values, pa.int64()) for name, values in columns.items() if values}
            return respond(url, pa.table(kept), None)

    with pytest.raises(errors.ProtocolError, match=message) as caught:
        fetch_all(session(Mixed({"id": []}, 50)), [query([1, 2], column="target_id")])
    assert caught.value.url


@pytest.mark.parametrize("missing", ["id", "id_ref"])
def test_rows_of_a_join_have_the_ids_of_both_tables(missing):
    columns = {name: [1, 2] for name in ("id", "id_ref", "group") if name != missing}
    wanted = query(base=table("b"), suffixes={"t": "_ref", "b": ""})
    with pytest.raises(errors.ProtocolError, match=f"without column '{missing}'"):
        fetch_all(session(Server(columns, 50)), [wanted])


def test_no_rows_are_followed_by_one_request_for_the_columns():
    server = Notes({"id": range(10), "group": [0] * 10}, 50)
    main, more = fetch_all(session(server), [query([7, 8])], following=[notes(5)])
    assert main.table.num_rows == more.table.num_rows == 0
    assert more.requests == 1
    assert more.table.column_names == ["id", "target_id"]


def test_with_a_cache_what_is_asked_depends_on_responses_alone():
    def asked(first=None):
        random = np.random.default_rng()
        server = Notes({"id": range(4000), "group": np.arange(4000) * 7919 % 80}, 300, order="shuffled")
        send = server.send
        server.send = lambda *args, **more: time.sleep(random.random() / 500) or send(*args, **more)
        ours = session(server, 8, cache=object())
        if first is not None:  # what was asked before makes no difference
            fetch_all(ours, [query(first)])
            server.asked.clear()
        fetch_all(ours, [query(range(80), batch=8)], following=[notes(100)])
        return sorted(map(repr, server.asked))

    assert asked() == asked() == asked(first=range(50))


def test_one_progress_bar_for_all_requests(monkeypatch, capsys):
    import tqdm

    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            bars.append(self)

        def close(self):
            self.last = (self.n, self.total)
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    server = Notes({"id": range(400), "group": [number % 8 for number in range(400)]}, 60, order="shuffled")
    fetch_all(
        session(server), [query(range(8), progress=True)], following=[notes(100)], description="synapses"
    )
    (bar,) = bars
    assert bar.last[0] == bar.last[1] == len(server.asked) - server.counted
    assert "synapses" in capsys.readouterr().err
