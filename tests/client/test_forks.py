"""A client that was used goes on in forked processes, and none of them takes the responses of another."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from multiprocessing import get_all_start_methods, get_context

import pytest

from cortexclient.forking import ForkSafeLock
from cortexclient.sandbox import Sandbox
from cortexclient.session.workers import run

pytestmark = [
    pytest.mark.skipif("fork" not in get_all_start_methods(), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def server():
    with Sandbox(size="tiny", latency=0.05) as sandbox:
        yield sandbox


@pytest.fixture
def client(server, tmp_path):
    client = server.load(version=3, timeout=10, cache=tmp_path)
    client.tables.nucleus_detection().query()  # connections are open from here on
    return client


def in_child(work, patience: float = 60.0) -> int:
    """Exit status of a child that does some work: 0, 1 where it fails, -9 where it hangs."""
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ask(job) -> list[int]:
    client, root = job
    return client.tables.nucleus_detection(pt_root_id=[root]).query().pt_root_id.tolist()


INHERITED = {}


def ask_the_inherited(root: int) -> list[int]:
    return ask((INHERITED["client"], root))


def test_workers_that_inherit_a_client_get_their_own_rows(client, truth_roots):
    INHERITED["client"] = client
    jobs = truth_roots * 4
    with get_context("fork").Pool(4) as pool:
        rows = pool.map_async(ask_the_inherited, jobs, chunksize=1)
        mine = [ask((client, root)) for root in truth_roots]  # the parent goes on meanwhile
        assert rows.get(timeout=60) == [[root] for root in jobs]
    assert mine == [[root] for root in truth_roots]


def test_a_pickled_client_still_reaches_workers(client, truth_roots):
    with get_context("fork").Pool(2) as pool:
        jobs = [(client, root) for root in truth_roots]
        assert pool.map_async(ask, jobs).get(timeout=60) == [[root] for root in truth_roots]


@pytest.mark.parametrize("cached", [False, True])
def test_the_parts_of_a_client_can_be_sent_to_workers(server, truth_roots, tmp_path, cached):
    client = server.load(version=3, cache=tmp_path if cached else False)
    root = truth_roots[0]
    client.mesh.compute_vertex_to_l2_mapping(root)
    parts = pickle.loads(
        pickle.dumps(
            (
                client.mesh.get_mesh,
                client.space,
                client.exports.get_table,
                client.store,
                client.tables.cell_types(valid=True),
            )
        )
    )
    get_mesh, space, get_table, store, table = parts
    assert len(get_mesh(root).vertices) == len(client.mesh.get_mesh(root).vertices)
    assert get_mesh.__self__.mesh_l2_mappings == {}  # 20 MB of a large neuron, with each task of a pool
    assert space.transform_nm.apply([1, 2, 3]).tolist() == client.space.transform_nm.apply([1, 2, 3]).tolist()
    assert get_table("synapses_sandbox").equals(client.exports.get_table("synapses_sandbox"))
    assert store.path == client.store.path
    assert table.query().equals(client.tables.cell_types(valid=True).query())


@pytest.fixture(scope="module")
def truth_roots(server):
    frozen = server.load(version=3).tables.nucleus_detection().query()
    return [int(root) for root in frozen["pt_root_id"] if root > 0][:4]


@pytest.mark.slow
def test_a_fork_amid_requests_of_other_threads(client, truth_roots):
    over = threading.Event()

    def keep_asking():
        while not over.is_set():
            client.session.connection.memory.forget("tables")
            ask((client, truth_roots[0]))

    def work():
        for root in truth_roots:
            assert ask((client, root)) == [root]
        assert client.session.map(lambda root: ask((client, root)), truth_roots) == [[r] for r in truth_roots]
        assert len(client.at(version=2).tables.nucleus_detection().query())

    threads = [threading.Thread(target=keep_asking, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert [in_child(work) for _ in range(4)] == [0] * 4
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert ask((client, truth_roots[1])) == [truth_roots[1]]


def test_a_lock_is_free_in_the_child():
    lock = ForkSafeLock()
    held, over = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            over.wait(60)

    def work():
        with lock, lock:
            pass

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert in_child(work, patience=10) == 0
    finally:
        over.set()
        holder.join()
    with lock:
        assert in_child(work, patience=10) == 0


def test_a_fork_inside_of_a_worker():
    """The child has none of the pool's threads, and does nested calls itself."""

    def work():
        assert run(str, range(5), workers=4) == list("01234")

    assert run(lambda _: in_child(work, patience=30), range(2), workers=2) == [0, 0]
