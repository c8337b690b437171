"""Skeletons with synapses of many neurons, written to files: a loop, threads, processes and Dask in the same run.

    python benchmarks/bench_bulk.py [--count 1000] [--latency 0.05] [--workers 2] [--size small] [--ways loop threads]

A sandbox in a process of its own delays every request. Where the cortex has fewer neurons than asked for, jobs over all
of them are repeated, each into a folder of its own; the loop does `--loop-count` neurons, and its time is scaled.
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cortexclient
from cortexclient.bulk import BulkResult


def roots_of(client: Any) -> list[int]:
    """Neurons of the newest version that have a skeleton."""
    found = client.query("nucleus_detection")["pt_root_id"]
    exist = client.skeletons_exist(root_ids=found[found > 0])
    return [root for root, there in exist.items() if there]


def loop(client: Any, roots: list[int], folder: Path) -> None:
    folder.mkdir()
    for root in roots:
        client.save_swc(root, folder / f"{root}.swc")
        client.query_synapses(root, pre=True, post=True, progress=False).to_parquet(
            folder / f"{root}.parquet"
        )


def jobs(client: Any, roots: list[int], folder: Path, count: int, **workers: Any) -> int:
    """Do jobs until there are as many neurons as asked for; return how many there were."""
    done = number = 0
    while done < count:
        some = roots[: count - done]
        job = client.bulk(some, batch_size=max(1, min(50, len(some) // 4)), progress=False, **workers)
        job.skeletons(out=folder / f"skeletons-{number}").raise_for_failures()
        job.synapses(out=folder / f"synapses-{number}").raise_for_failures()
        assert len(BulkResult.read(folder / f"synapses-{number}").done) == len(some)
        done, number = done + len(some), number + 1
    return done


KILLED = """
import pickle, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import bench_bulk
client, roots, folder, count = pickle.loads(Path(sys.argv[2]).read_bytes())
bench_bulk.jobs(client, roots, folder, count)
"""


def killed_at_half(client: Any, roots: list[int], folder: Path, count: int) -> None:
    """Kill a process that does the jobs when half of its batches are done, do the rest, and compare all files."""
    begin = time.perf_counter()
    jobs(client, roots, folder / "undisturbed", count)
    alone = time.perf_counter() - begin
    expected = contents(folder / "undisturbed")
    batches = sum("_batch-" in name for name in expected)
    sent = folder / "sent"
    sent.write_bytes(pickle.dumps((client, roots, folder / "killed", count)))
    words = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(sent)]
    process = subprocess.Popen(words)
    while process.poll() is None and len(list(folder.glob("killed/*/_batch-*"))) < batches // 2:
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = batches - len(list(folder.glob("killed/*/_batch-*")))
    begin = time.perf_counter()
    jobs(client, roots, folder / "killed", count)
    rest = time.perf_counter() - begin
    same = contents(folder / "killed") == expected
    print(
        f"killed with {left} of {batches} batches left; the rest took {rest / alone:.2f} of an undisturbed run; "
        f"{len(expected)} files {'are equal' if same else 'DIFFER'}"
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*")}


@contextlib.contextmanager
def workers_of(way: str, number: int) -> Any:
    if way == "threads":
        yield {}
    elif way == "processes":
        with ProcessPoolExecutor(number, mp_context=get_context("spawn")) as executor:
            yield {"executor": executor}
    else:
        import distributed

        with (
            distributed.LocalCluster(
                n_workers=number, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as dask,
        ):
            yield {"dask": dask}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--loop-count", type=int, default=50)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", default="small")
    parser.add_argument("--ways", nargs="+", default=["loop", "threads", "processes", "dask"])
    options = parser.parse_args()
    words = ["sandbox", "serve", "--size", options.size, "--latency", str(options.latency)]
    server = subprocess.Popen(
        [sys.executable, "-m", "cortexclient", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
        client = cortexclient.load("sandbox", server_address=address, version=3)
        roots = roots_of(client)
        print(f"{options.count} neurons ({len(roots)} distinct), {1000 * options.latency:g} ms a request")
        first = None
        for way in options.ways:
            with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
                folder = Path(name)
                if way == "loop":
                    some = (roots * options.count)[: min(options.loop_count, options.count)]
                    loop(client, roots[:2], folder / "warm")
                    begin = time.perf_counter()
                    loop(client, some, folder / "loop")
                    each = (time.perf_counter() - begin) / len(some)
                else:
                    workers = stack.enter_context(workers_of(way, options.workers))
                    # processes start, and load what they need
                    jobs(client, roots, folder / "warm", min(8, len(roots)), **workers)
                    begin = time.perf_counter()
                    each = jobs(client, roots, folder, options.count, **workers)
                    each = (time.perf_counter() - begin) / each
            first = first or each
            print(
                f"{way:10} {1000 * each:8.1f} ms a neuron, {1 / each:7.1f} neurons/s, {first / each:5.1f} x",
                flush=True,
            )
        with tempfile.TemporaryDirectory() as name:
            killed_at_half(client, roots, Path(name), options.count)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
