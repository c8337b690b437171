"""One pool of workers: order, bounds, failures, nesting, interrupts."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
import time

import pytest

from cortexclient.sandbox.faults import Fault
from cortexclient.session import Prefetch, pause, progress_bar, run_all, within_worker
from cortexclient.session.workers import Cancelled
from cortexclient.session.workers import run as run_items


def test_results_come_in_order():
    def slow(number):
        time.sleep(0.001 * (20 - number))
        return number * number

    assert run_items(slow, range(20), workers=8) == [number * number for number in range(20)]
    assert run_items(slow, [], workers=8) == []
    assert run_items(str, [1], workers=8) == ["1"]
    assert run_items(str, [1, 2], workers=1) == ["1", "2"]


def workers_alive() -> int:
    """Threads of pools; those of a sandbox that an earlier test used come and go."""
    return sum(thread.name.startswith("cortexclient") for thread in threading.enumerate())


def test_the_first_failure_stops_the_rest():
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.01)
        if number == 3:
            raise ValueError("three")
        return number

    threads = workers_alive()
    with pytest.raises(ValueError, match="three"):
        run_items(work, range(1000), workers=4)
    assert len(begun) < 50
    assert workers_alive() == threads


def test_whoever_waits_is_cancelled_at_the_first_failure():
    asked, cancelled = threading.Event(), threading.Event()

    def waits():
        asked.set()
        try:
            pause(60)
        except Cancelled:
            cancelled.set()
            raise

    def fails():
        asked.wait(30)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_all([waits, fails], workers=2)
    assert cancelled.wait(30)


@pytest.mark.parametrize("most", [1, 2])
def test_fewer_threads_than_wanted_do_the_work(monkeypatch, most):
    begin, begun = threading.Thread.start, []

    def start(thread):
        if thread.name.startswith("cortexclient-") and len(begun) >= most:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    nested = run_items(lambda n: run_items(lambda m: (n, m), range(3), workers=4), range(5), workers=4)
    assert nested == [[(n, m) for m in range(3)] for n in range(5)]


def test_nested_calls_share_one_pool():
    """Two of each job's own items are on their way at once, and never more than there are workers."""
    pairs = [threading.Barrier(2, timeout=30) for _ in range(2)]
    lock, running, most = threading.Lock(), [], []

    def wait(job, number):
        with lock:
            running.append(number)
            most.append(len(running))
        pairs[job].wait()
        time.sleep(0.01)
        with lock:
            running.pop()
        return 10 * job + number

    jobs = [lambda job=job: run_items(lambda n: wait(job, n), range(6), workers=9) for job in range(2)]
    assert run_all(jobs, workers=4) == [list(range(6)), list(range(10, 16))]
    assert max(most) <= 4

    # however deep, even with fewer workers than levels
    def deep(depth):
        return sum(run_items(lambda _: deep(depth - 1) + 1, range(2), workers=2)) if depth else 0

    assert run_items(deep, [4, 4, 4], workers=2) == [30, 30, 30]


def test_a_nested_failure_can_be_handled_and_cancels_its_siblings_only():
    begun, threads = [], workers_alive()

    def nested(number):
        if number == 1:
            raise LookupError(number)
        begun.append(number)
        pause(30)

    def careful():
        start = time.monotonic()
        try:
            run_items(nested, range(8), workers=4)
        except LookupError:
            return time.monotonic() - start < 10

    def steady():
        return [run_items(abs, [-1, -2], workers=4) for _ in range(50)][-1]

    assert run_all([careful, steady], workers=4) == [True, [1, 2]]
    assert workers_alive() == threads


def test_a_nested_failure_wakes_a_sibling_that_waits_for_the_network(toy_server, toy_session):
    session = toy_session(timeout=30)
    url, asked, ended = f"{session.local_server}/info/version", threading.Event(), []

    def work(number):
        if number == 0:
            asked.set()
            try:
                session.http.get_json("info", url)
            except BaseException as error:
                ended.append(type(error))
                raise
        asked.wait(30)
        raise LookupError(number)

    toy_server.inject(Fault("hang", route="/info/version", count=None, seconds=3600))
    try:
        with pytest.raises(LookupError):
            run_all([lambda: run_items(work, range(2), workers=4), lambda: asked.wait(30)], workers=4)
    finally:
        toy_server.clear_faults()
    assert ended == [Cancelled]  # and not a timeout


def test_a_failing_job_cancels_the_nested_calls_of_the_others():
    begun, threads = [], workers_alive()

    def step(number):
        begun.append(number)
        time.sleep(0.01)

    def fail():
        time.sleep(0.05)
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        run_all([lambda: run_items(step, range(2000), workers=4), fail], workers=4)
    assert len(begun) < 1000
    assert workers_alive() == threads


def test_workers_see_what_their_caller_set():
    said = contextvars.ContextVar("said", default=0)
    said.set(5)

    def work(number):
        said.set(said.get() + number)
        return said.get()

    assert run_items(work, range(10), workers=4) == [5 + number for number in range(10)]
    assert said.get() == 5
    assert not within_worker()
    assert all(run_items(lambda _: within_worker(), range(3), workers=2))


@pytest.mark.parametrize("inside", [False, True])
def test_a_job_in_the_background(inside):
    def scene():
        job = Prefetch(lambda: run_items(str, range(3), workers=2), workers=2)
        job.start()
        assert job.result() == ["0", "1", "2"]
        failing = Prefetch(lambda: 1 / 0, workers=2)
        failing.start()
        with pytest.raises(ZeroDivisionError):
            failing.result()
        unwanted = Prefetch(lambda: pause(60), workers=2)
        unwanted.start()
        start = time.monotonic()
        unwanted.cancel()
        assert time.monotonic() - start < 10
        Prefetch(lambda: 1, workers=2).cancel()  # never begun
        return True

    threads = workers_alive()
    assert all(run_items(lambda _: scene(), range(2), workers=2)) if inside else scene()
    assert workers_alive() == threads


def test_one_bar(capsys):
    assert run_items(abs, range(5), workers=2, progress=True, description="steps") == list(range(5))
    run_all([lambda: run_items(abs, range(3), workers=2, progress=True, description="inner")] * 2, workers=2)
    with progress_bar(2, "more", show=True) as bar:
        bar.step()
        bar.grow(3)
    with progress_bar(2, "silent", show=False) as bar:
        bar.step()
        bar.grow(3)
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("steps", "inner", "more", "/5"))
    assert "silent" not in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "work"),
    [
        (
            "/info/version",
            'session.map(lambda n: session.http.get_json("info", session.server_address + "/info/version"), range(16))',
        ),
        (
            "/materialize",
            "SynapsesService(session).query_synapses(range(1, 17), pre=True, post=True, batch_size=1, progress=False)",
        ),
        ("lineage|root_timestamps", "CellsService(session).root_id_to_cell_id(range(1, 17))"),
    ],
)
def test_an_interrupt_stops_at_once_and_leaves_no_thread(toy_server, route, work):
    code = f"""
import os, signal, sys, threading, time
from cortexclient.session import Endpoint, Session
from cortexclient.spec import DatasetSpec
from cortexclient.services.cells import CellsService
from cortexclient.services.synapses import SynapsesService
from cortexclient.services.tables import TablesService
spec = DatasetSpec(name="toy", title="t", server_address="https://x.invalid", datastack="toy",
                   synapse_table="synapses_toy", cell_ids={{"main_table": "nucleus_toy"}})
session = Session(spec, endpoint=Endpoint({toy_server.url!r}, {toy_server.token!r}), version=2)
TablesService(session).nucleus_toy().query()
print("ready", flush=True)
sys.stdin.readline()
# a job in the background of a shell is told to ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
# while threads begin, while they connect, while they wait for the answer
for delay in (0.0, 0.003, 0.007, 0.012, 0.02, 0.4):
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        {work}
    except KeyboardInterrupt:
        # one that Ctrl-C met while it was started may have ended, and still be listed by Python
        while any(t.name[:12] == "cortexclient" and t.ident in sys._current_frames() for t in threading.enumerate()):
            time.sleep(0.05)
        print("stopped")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    ) as made:
        assert made.stdout.readline() == "ready\n"
        # neither an answer nor a timeout of the client comes while this process waits
        toy_server.inject(Fault("hang", route=route, count=None, seconds=3600))
        try:
            out, error = made.communicate("go\n", timeout=60)
        finally:
            made.kill()
            toy_server.clear_faults()
    assert out.split() == ["stopped"] * 6, out + error
