"""Bulk jobs: what single calls return, in a folder that survives kills, by threads, processes and a Dask cluster."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import cortexclient
from cortexclient.bulk import BulkResult
from cortexclient.errors import JobError, NotConfiguredError, OutputError

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def client(tiny):
    return tiny.load(version=3)


@pytest.fixture(scope="module")
def roots(client):
    """Neurons of version 3 that have skeletons and meshes there."""
    found = client.query("nucleus_detection")["pt_root_id"].to_list()
    made = dict(client.get_skeletons([root for root in found if root > 0], output="swc", progress=False))
    assert len(made) >= 5
    return list(made)


def contents(folder) -> dict[str, object]:
    """What a job wrote, by file."""
    return {
        path.name: json.loads(path.read_bytes()) if path.suffix == ".json" else path.read_bytes()
        for path in Path(folder).iterdir()
    }


def slow_row(client, root):
    time.sleep(0.3)
    return {"root": root, "synapses": len(client.query_synapses(root, post=True, progress=False))}


def numbered(_client, root):
    return {"n": root}


def deadly(_client, root, victim):
    """End the process that works on one of the roots."""
    if root == victim:
        os._exit(1)
    return {"n": 1}


def fussy(client, root):
    """Fail for roots that a file lists."""
    if str(root) in Path(os.environ["FUSSY_ROOTS"]).read_text().split():
        raise KeyError(f"no luck with {root}")
    return pd.DataFrame({"n": [1, 2], "version": client.version})


# -- what single calls return -----------------------------------------------------------------------------------------


def test_skeletons_are_those_of_the_client(client, roots, tmp_path):
    result = client.bulk(roots[:4], batch_size=3, **QUIET).skeletons(out=tmp_path / "swc")
    assert (sorted(result.done), result.failures, result.rows) == (sorted(roots[:4]), {}, None)
    for root in roots[:4]:
        client.save_swc(root, tmp_path / "one.swc")
        assert (tmp_path / "swc" / f"{root}.swc").read_bytes() == (tmp_path / "one.swc").read_bytes()
    with pytest.raises(ValueError, match="files, one for each neuron"):
        result.dataset()


@pytest.mark.parametrize("transform", [None, "rigid"])
def test_rows_of_skeletons_are_their_vertices(client, roots, tmp_path, transform):
    result = client.bulk(roots[:3], batch_size=2, **QUIET).skeletons(
        out=tmp_path, format="parquet", transform=transform
    )
    frame = result.frame()
    assert frame.attrs == {
        "unit": "um" if transform else "nm",
        "space": transform or "volume",
        "radius_unit": "nm",
    }
    assert frame["root_id"].dtype == np.int64
    for root in roots[:3]:
        data = client.get_skeleton(root, output="dict", transform=transform)
        mine = frame[frame["root_id"] == root].set_index("vertex")
        assert np.array_equal(mine[["x", "y", "z"]], data["vertices"])
        assert np.array_equal(mine["compartment"], data["compartment"])
        assert np.array_equal(mine["radius"], data["radius"])
        below = mine[mine["parent"] >= 0]
        edges = {frozenset(pair) for pair in zip(below.index, below["parent"], strict=True)}
        assert edges == {frozenset(pair) for pair in data["edges"].tolist()}
        assert mine.index[mine["parent"] < 0].tolist() == [data["root"]]


@pytest.mark.parametrize("sides", [{}, {"post": False}, {"omit_self_synapse": False, "min_size": 500}])
def test_synapses_are_those_of_the_client(client, roots, tmp_path, sides):
    result = client.bulk(roots[:5], batch_size=2, **QUIET).synapses(out=tmp_path, **sides)
    frame = result.frame()
    assert result.rows == len(frame) == result.dataset().count_rows()
    for root in roots[:5]:
        single = client.query_synapses(root, **{"pre": True, "post": True, **sides}, progress=False)
        mine = frame[frame["root_id"] == root].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            mine.drop(columns=["root_id", "side"]), single, check_dtype=False, check_like=False
        )
        assert (mine["side"] == np.where(mine["pre_pt_root_id"] == root, "pre", "post")).all()


@pytest.mark.slow
def test_meshes_and_level2_are_those_of_the_client(client, roots, tmp_path):
    client.bulk(roots[:2], **QUIET).meshes(out=tmp_path / "meshes")
    for root in roots[:2]:
        assert (tmp_path / "meshes" / f"{root}.ply").read_bytes() == client.mesh.get_mesh(root).to_ply()
    frame = client.bulk(roots[:3], batch_size=2, **QUIET).l2(out=tmp_path / "l2").frame()
    for root in roots[:3]:
        single = client.get_l2data(client.get_l2_ids(root)).reset_index()
        mine = frame[frame["root_id"] == root].drop(columns="root_id").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, single)


def test_functions_of_ones_own(client, roots, tmp_path):
    def measure(own, root):
        if root == roots[0]:
            return None
        return {"version": own.version, "name": None if root == roots[1] else str(root)}

    floating = cortexclient.load(client.spec, server_address=client.session.connection.address_asked)
    result = floating.bulk([*roots[:4], roots[0]], batch_size=2, **QUIET).map(measure, out=tmp_path)
    frame = result.frame()
    assert frame["root_id"].tolist() == roots[1:4]
    assert frame["version"].tolist() == [floating.version] * 3
    assert frame["name"].fillna("").tolist() == ["", *map(str, roots[2:4])]
    manifest = json.loads((tmp_path / "_job.json").read_bytes())
    assert (manifest["version"], manifest["ids"], manifest["kind"]) == (floating.version, 4, "map")
    with pytest.raises(TypeError, match=r"take \(client, root_id\)"):
        client.bulk(roots).map(3, out=tmp_path / "none")


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_damaged_part_is_noticed_and_made_again(client, roots, tmp_path):
    job = client.bulk(roots, batch_size=3, **QUIET)
    expected = job.map(numbered, out=tmp_path).frame()
    part, sound = tmp_path / "part-00000.parquet", (tmp_path / "part-00000.parquet").read_bytes()
    noticed = 0
    for content in (
        b"",
        sound[:50],
        *(sound[:n] + bytes([sound[n] ^ 1]) + sound[n + 1 :] for n in range(4, 200, 7)),
    ):
        part.write_bytes(content)
        try:
            pd.testing.assert_frame_equal(BulkResult.read(tmp_path).frame(), expected)
        except JobError:
            noticed += 1
    assert noticed > 20
    (tmp_path / "_batch-00000.json").unlink()
    pd.testing.assert_frame_equal(job.map(numbered, out=tmp_path).frame(), expected)


def test_roots_that_fail_are_listed_and_tried_again(client, roots, tmp_path, monkeypatch):
    bad = tmp_path / "bad"
    monkeypatch.setenv("FUSSY_ROOTS", str(bad))
    bad.write_text(f"{roots[1]} {roots[3]}")
    job = client.bulk(roots[:5], batch_size=2, **QUIET)
    first = job.map(fussy, out=tmp_path / "out")
    assert first.failures == {root: f"KeyError: 'no luck with {root}'" for root in (roots[1], roots[3])}
    with pytest.raises(JobError, match=rf"2 of 5 neurons failed.*{roots[1]}: KeyError"):
        first.raise_for_failures()
    bad.write_text(str(roots[3]))
    left = client.bulk(roots[:5], retry_failed=False, **QUIET).map(fussy, out=tmp_path / "out")
    assert left.failures == first.failures
    assert list(job.map(fussy, out=tmp_path / "out").failures) == [roots[3]]
    bad.write_text("")
    last = job.map(fussy, out=tmp_path / "out")
    last.raise_for_failures()
    assert sorted(last.frame()["root_id"]) == sorted(roots[:5] * 2)
    again = BulkResult.read(tmp_path / "out")
    assert (again.done, again.failures) == (last.done, {})


def test_what_is_no_neuron_takes_no_other_along(client, roots, tmp_path):
    wrong = {0: "StaleRootError", 5: "StaleRootError"}
    for kind in ("skeletons", "synapses"):
        result = getattr(client.bulk([0, roots[0], 5, roots[1]], **QUIET), kind)(out=tmp_path / kind)
        assert result.done == roots[:2]
        assert {root: reason.partition(":")[0] for root, reason in result.failures.items()} == wrong
    for kind in ("l2", "meshes"):
        result = getattr(client.bulk([0, roots[0]], **QUIET), kind)(out=tmp_path / kind)
        assert (result.done, list(result.failures)) == (roots[:1], [0])
        assert result.failures[0].startswith("MissingDataError: ")


def test_a_batch_that_fails_is_done_root_by_root(relay, client, roots, tmp_path):
    through = cortexclient.load(client.spec, server_address=relay.url, version=3, retries=0, max_workers=1)
    relay.fail("/attributes", lambda _: (200, b"[1, 2]"), count=1)
    result = through.bulk(roots[:3], **QUIET).l2(out=tmp_path / "once")
    assert (result.done, result.failures) == (roots[:3], {})
    relay.fail(f"/node/{roots[1]}/leaves", lambda _: (500, b'{"message": "this one is broken"}'))
    result = through.bulk(roots[:3], **QUIET).l2(out=tmp_path / "one")
    assert (result.done, list(result.failures)) == ([roots[0], roots[2]], [roots[1]])
    assert "this one is broken" in result.failures[roots[1]]


def test_a_job_without_hope_stops(relay, client, tmp_path):
    through = cortexclient.load(client.spec, server_address=relay.url, version=3, retries=0, max_workers=1)
    through.session.info()
    relay.fail("/leaves", lambda _: (503, b"{}"))
    many = list(range(648518346341352000, 648518346341352100))
    with pytest.raises(JobError, match=r"all of the last \d+ neurons failed.*ServiceUnavailableError"):
        through.bulk(many, batch_size=10, **QUIET).l2(out=tmp_path)
    relay.recover()
    assert 20 <= len(BulkResult.read(tmp_path).failures) < 100


# -- the folder --------------------------------------------------------------------------------------------------------


def test_another_job_is_refused(client, tiny, roots, tmp_path):
    client.bulk(roots[:2], **QUIET).l2(out=tmp_path, attributes=["size_nm3"])
    for job, message in [
        (lambda: client.bulk(roots[:2]).l2(out=tmp_path), r"its attributes is \['size_nm3'\], not None"),
        (lambda: client.bulk(roots[:2]).meshes(out=tmp_path), "its kind is 'l2', not 'meshes'"),
        (lambda: client.bulk(roots[:3]).l2(out=tmp_path, attributes=["size_nm3"]), "it has 2 neurons, not 3"),
        (
            lambda: client.bulk(roots[1::-1]).l2(out=tmp_path, attributes=["size_nm3"]),
            "its root ids, or their order, are others",
        ),
        (
            lambda: tiny.load(version=2).bulk(roots[:2]).l2(out=tmp_path, attributes=["size_nm3"]),
            "its version is 3, not 2",
        ),
    ]:
        with pytest.raises(JobError, match=f"holds another job.*{message}"):
            job()
    # a client that floats continues at the job's moment, with the job's batches
    floating = tiny.load()
    result = floating.bulk(roots[:2], batch_size=1, **QUIET).l2(out=tmp_path, attributes=["size_nm3"])
    assert len(result.done) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "part-00000.parquet").write_bytes(b"precious")
    with pytest.raises(JobError, match=r"holds 'part-00000.parquet' and no bulk job"):
        client.bulk(roots[:2]).l2(out=tmp_path / "other")


def test_wrong_arguments_raise_before_anything_is_written(client, roots, tmp_path):
    out = tmp_path / "out"
    for options in ({"batch_size": 0}, {"rate": 0}, {"executor": ThreadPoolExecutor(1), "dask": "tcp://x"}):
        with pytest.raises(ValueError, match=r"batch_size|rate|executor"):
            client.bulk(roots, **options)
    for call in (
        lambda job: job.skeletons(out=out, format="obj"),
        lambda job: job.skeletons(out=out, transform="upside down"),
        lambda job: job.synapses(out=out, pre=False, post=False),
        lambda job: job.l2(out=out, attributes=["beauty"]),
    ):
        with pytest.raises(ValueError, match=r"format|transform|pre=True|beauty"):
            call(client.bulk(roots))
    bare = client.spec.with_overrides({"skeleton_version": None, "capabilities": {"skeletons": False}})
    with pytest.raises(NotConfiguredError):
        cortexclient.load(bare, version=3).bulk(roots).skeletons(out=out)
    with pytest.raises(OutputError, match="ftp"):
        client.bulk(roots).meshes(out="ftp://somewhere")
    assert not out.exists()


def test_results_without_neurons_have_their_columns(client, roots, tmp_path):
    def run(ids, out):
        job = client.bulk(ids, **QUIET)
        return [
            job.l2(out=tmp_path / f"{out}/l2", attributes="size_nm3"),
            job.synapses(out=tmp_path / f"{out}/synapses"),
            job.skeletons(out=tmp_path / f"{out}/skeletons", format="parquet", transform="rigid"),
        ]

    full = run(roots[:1], "full")
    for out, ids in (("nobody", []), ("failed", [12345])):
        for empty, other in zip(run(ids, out), full, strict=True):
            assert (empty.done, list(empty.failures)) == ([], ids)
            pd.testing.assert_frame_equal(empty.frame(), other.frame().iloc[:0])
            assert BulkResult.read(empty.out).rows == 0
            assert empty.frame().attrs == other.frame().attrs
    assert client.bulk([], **QUIET).skeletons(out=tmp_path / "files").done == []
    assert len(client.bulk([], **QUIET).map(numbered, out=tmp_path / "map").frame()) == 0


def test_a_bucket_is_written_by_cloud_files(client, roots, tmp_path):
    out = "mem://bulk/l2"
    frame = client.bulk(roots[:3], batch_size=2, **QUIET).l2(out=out).frame()
    pd.testing.assert_frame_equal(frame, client.bulk(roots[:3], **QUIET).l2(out=tmp_path).frame())
    assert len(BulkResult.read(out).done) == 3
    with pytest.raises(JobError, match="another job"):
        client.bulk(roots[:2]).l2(out=out)


# -- kills, rates and workers ------------------------------------------------------------------------------------------


def records(folder) -> list[Path]:
    return sorted(Path(folder).glob("_batch-*.json"))


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "batch"), [("skeletons", 1), ("synapses", 1), ("map", 10)])
def test_a_job_that_was_killed_at_half_is_completed(client, tiny, roots, tmp_path, kind, batch):
    ids, function = (list(range(1, 501)), (numbered,)) if kind == "map" else (roots, ())
    batches = -(-len(ids) // batch)
    script = (
        "import pickle, sys; from pathlib import Path\n"
        "client, ids, function = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        f"job = client.bulk(ids, batch_size={batch}, rate={8 * batch}, progress=False)\n"
        f"job.{kind}(*function, out=sys.argv[2])"
    )
    sent, out = tmp_path / "sent", tmp_path / "out"
    sent.write_bytes(pickle.dumps((tiny.load(version=3, max_workers=1), ids, function)))
    process = subprocess.Popen([sys.executable, "-c", script, str(sent), str(out)])
    wait_for(lambda: len(records(out)) >= batches // 2 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = records(out)
    assert batches // 2 <= len(before) < batches
    # what a kill can leave: results of a batch without its record, and a part file
    before[-1].unlink()
    (out / ".part-0123456789ab.parquet").write_bytes(b"half")
    stamps = {path: path.stat().st_mtime_ns for path in before[:-1]}
    resumed = getattr(client.bulk(ids, **QUIET), kind)(*function, out=out)
    again = client.bulk(ids, batch_size=batch, **QUIET)
    undisturbed = getattr(again, kind)(*function, out=tmp_path / "undisturbed")
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert resumed.done == undisturbed.done == ids
    assert stamps == {path: path.stat().st_mtime_ns for path in before[:-1]}


def test_what_is_left_of_a_job_that_was_killed_as_it_began(client, roots, tmp_path):
    (tmp_path / ".part-0123456789ab.json").write_bytes(b"{")
    client.bulk(roots[:1], **QUIET).map(numbered, out=tmp_path)
    assert sorted(contents(tmp_path)) == ["_batch-00000.json", "_job.json", "part-00000.parquet"]


@pytest.mark.parametrize("own", [True, False])
def test_ctrl_c_leaves_what_can_be_resumed(client, tiny, roots, tmp_path, own, request):
    # a shell ignores the signal for what it runs in the background
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def row(_client, root):
        if root == roots[2] and not interrupted:
            interrupted.append(root)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
        return {"n": 1}

    interrupted = []
    workers = {"executor": None if own else ThreadPoolExecutor(1)}
    serial = tiny.load(version=3, max_workers=1)
    with pytest.raises(KeyboardInterrupt):
        serial.bulk(roots, batch_size=1, **workers, **QUIET).map(row, out=tmp_path)
    assert 2 <= len(records(tmp_path)) < len(roots)
    result = client.bulk(roots, **QUIET).map(row, out=tmp_path)
    assert sorted(result.frame()["root_id"]) == sorted(roots)


def test_the_rate_holds_for_all_workers(client, roots, tmp_path):
    began = time.monotonic()
    result = client.bulk(roots[:5], batch_size=1, rate=10, **QUIET).map(lambda *_: {"n": 1}, out=tmp_path)
    assert time.monotonic() - began >= 0.4
    assert result.rows == 5


def test_few_batches_are_handed_out_at_a_time(client, roots, tmp_path):
    class Counting(ThreadPoolExecutor):
        most, futures = 0, ()

        def submit(self, *args, **kwargs):
            self.futures = [
                *(each for each in self.futures if not each.done()),
                super().submit(*args, **kwargs),
            ]
            self.most = max(self.most, len(self.futures))
            return self.futures[-1]

    many = list(range(1, 60))
    with Counting(2) as executor:
        job = client.bulk(many, batch_size=1, executor=executor, **QUIET)
        assert job.map(numbered, out=tmp_path).frame()["n"].tolist() == many
    assert 2 <= executor.most <= 4


def test_memory_holds_no_more_than_the_batches_under_way(tiny, tmp_path):
    started, most, arrays = [], [0, 0], []

    def row(_client, root):
        # the rows of a batch refer to the array that they were made of, as long as there are any
        array = np.full(100, root)
        arrays.append(weakref.ref(array))
        started.append(root)
        count = len(started)
        count -= sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("part-*.parquet")) // 100
        most[:] = max(most[0], count), max(most[1], sum(ref() is not None for ref in arrays))
        return pd.DataFrame({"n": array}, copy=False)

    client = tiny.load(version=3, max_workers=2)
    result = client.bulk(range(1, 61), batch_size=3, **QUIET).map(row, out=tmp_path)
    assert result.rows == 6000
    assert 3 <= most[0] <= 6  # neurons whose rows are not written yet: two batches
    assert 3 <= most[1] <= 12  # and those not freed yet


def test_processes_work(client, roots, tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        job = client.bulk(roots[:4], executor=executor, batch_size=2, **QUIET)
        with pytest.raises(ValueError, match="cannot be sent to another process"):
            job.map(lambda *_: None, out=tmp_path / "lambda")
        frame = job.synapses(out=tmp_path / "processes").frame()
    pd.testing.assert_frame_equal(
        frame, client.bulk(roots[:4], batch_size=2, **QUIET).synapses(out=tmp_path / "threads").frame()
    )


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            # without a dashboard, too, the scheduler listens for HTTP, by default on a port that others may use
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as found,
    ):
        yield found


@pytest.mark.slow
def test_dask_loses_nothing_with_a_worker(client, roots, tmp_path, cluster):
    with cluster.get_client() as dask:
        first = dask.run(os.getpid)
        killed = []

        def kill_one():
            wait_for(lambda: len(records(tmp_path / "dask")) >= 1)
            os.kill(next(iter(first.values())), signal.SIGKILL)
            killed.append(len(records(tmp_path / "dask")))

        with ThreadPoolExecutor(1) as aside:
            killer = aside.submit(kill_one)
            result = client.bulk(roots, dask=dask, batch_size=1, **QUIET).map(slow_row, out=tmp_path / "dask")
            killer.result()
        assert killed[0] < len(roots)
    assert (sorted(result.done), result.failures) == (sorted(roots), {})
    assert result.frame()["root_id"].tolist() == roots
    client.bulk(roots, batch_size=1, **QUIET).map(slow_row, out=tmp_path / "threads")
    assert contents(tmp_path / "dask") == contents(tmp_path / "threads")
    for path in (tmp_path / "dask").glob("part-*.parquet"):
        assert pq.read_metadata(path).num_rows == 1


def test_what_a_killed_worker_began_to_write_is_removed(client, roots, tmp_path):
    def begin(_client, root):
        (tmp_path / ".part-of-the-killed.json").touch()
        return {"n": root}

    assert client.bulk(roots[:2], **QUIET).map(begin, out=tmp_path).done == roots[:2]
    assert not list(tmp_path.glob(".part-*"))


@pytest.mark.slow
def test_a_neuron_that_kills_its_workers_is_a_failure_that_can_be_tried_again(
    client, roots, tmp_path, cluster
):
    job = client.bulk(roots, dask=cluster.scheduler_address, batch_size=1, **QUIET)
    result = job.map(partial(deadly, victim=roots[-1]), out=tmp_path)
    assert result.failures[roots[-1]].startswith("KilledWorker: its workers died")
    assert set(result.done) | set(result.failures) == set(roots)
    again = client.bulk(roots, batch_size=1, **QUIET).map(partial(deadly, victim=0), out=tmp_path)
    assert (sorted(again.done), again.failures) == (sorted(roots), {})


def test_an_address_without_a_scheduler(client, roots, tmp_path):
    pytest.importorskip("distributed")
    import dask

    job = client.bulk(roots, dask="tcp://127.0.0.1:1", **QUIET)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(JobError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
    ):
        job.map(numbered, out=tmp_path)


@pytest.mark.slow
def test_the_command_line_hands_the_job_to_a_cluster(client, tiny, roots, tmp_path, cluster, capsys):
    from cortexclient.cli import main

    (tmp_path / "roots.txt").write_text("\n".join(map(str, roots)))
    words = ["bulk", "skeletons", "sandbox", "--server", tiny.url, "--version", "3", "--batch-size", "1"]
    files = ["--roots", str(tmp_path / "roots.txt"), "--out", str(tmp_path / "out")]
    assert main([*words, *files, "--dask", cluster.scheduler_address]) == 0
    assert f"{len(roots)} done, 0 failed" in capsys.readouterr().out
    with cluster.get_client() as dask:
        clients = dask.run(
            lambda: import_module("cortexclient.bulk.workers")._unpickled.cache_info().currsize
        )
        assert any(clients.values())
    client.bulk(roots, batch_size=1, **QUIET).skeletons(out=tmp_path / "threads")
    assert contents(tmp_path / "out") == contents(tmp_path / "threads")


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["skeletons", "synapses", "meshes", "l2"])
def test_commands_do_the_jobs(client, tiny, roots, tmp_path, kind, capsys):
    from cortexclient.cli import main

    server = ["sandbox", "--server", tiny.url, "--version", "3", "--batch-size", "2"]
    lists = {
        "skeletons": ("roots.txt", "\n".join(map(str, roots[:2]))),
        "synapses": ("roots.csv", f"pt_root_id,n\n{roots[0]},1\n,2\n{roots[1]},3"),
        "meshes": ("roots.txt", f"{roots[0]}, {roots[1]}"),
        "l2": ("roots.parquet", ""),
    }
    name, text = lists[kind]
    file, out = tmp_path / name, tmp_path / "out"
    if text:
        file.write_text(text)
    else:
        pd.DataFrame({"root_id": pd.array([roots[0], None, roots[1]], "Int64")}).to_parquet(file)
    assert main(["bulk", kind, *server, "--roots", str(file), "--out", str(out)]) == 0
    assert "2 done, 0 failed" in capsys.readouterr().out
    assert BulkResult.read(out).done == roots[:2]


def test_commands_say_what_failed(tiny, roots, tmp_path, capsys):
    from cortexclient.cli import main

    server = ["sandbox", "--server", tiny.url, "--version", "3"]
    table = ["bulk", "l2", *server, "--table", "nucleus_detection", "--out", str(tmp_path / "table")]
    assert main(table) == 0
    assert set(roots) <= set(BulkResult.read(tmp_path / "table").done)
    (tmp_path / "roots.txt").write_text(f"{roots[0]}\n5\n")
    wrong = ["bulk", "l2", *server, "--roots", str(tmp_path / "roots.txt"), "--out", str(tmp_path / "out")]
    assert main(wrong) == 1
    said = capsys.readouterr()
    assert "5: MissingDataError" in said.err
    assert "1 done, 1 failed" in said.out
    assert main([*wrong[:-4], "--out", str(tmp_path / "out")]) == 2
    pd.DataFrame({"root_id": [float(roots[0])]}).to_parquet(tmp_path / "floats.parquet")
    (tmp_path / "floats.csv").write_text(f"root_id\n{roots[0]}.0\n")
    for name, reason in {
        "floats.parquet": "floats lose the last digits",
        "floats.csv": "is not an id",
    }.items():
        assert main([*wrong[:-4], "--roots", str(tmp_path / name), "--out", str(tmp_path / "no")]) != 0
        assert reason in " ".join(capsys.readouterr().err.split())
