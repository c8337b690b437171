"""Skeletons with synapses of many neurons, written to files: a loop, threads, processes and Dask in the same run.

    python benchmarks/bench_bulk.py [--count 1000] [--latency 0.05] [--workers 2] [--size small] [--ways loop threads]

A sandbox in a process of its own delays every request. Where the cortex has fewer neurons than asked for, jobs over all
of them are repeated, each into a folder of its own; the loop does `--loop-count` neurons, and its time is scaled.
"""

from __future__ import annotations

import argparse
import contextlib
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
                f"{way:10} {1000 * each:8.1f} ms a neuron, {1 / each:7.1f} neurons/s, {first / each:5.1f} x"
            )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
