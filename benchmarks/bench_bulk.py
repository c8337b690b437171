"""Skeletons with synapses of many neurons, written to files: a loop, threads, processes and Dask in the same run.

    python benchmarks/bench_bulk.py [--count 1000] [--latency 0.05] [--workers 2] [--size small] [--ways loop threads]

A sandbox in a process of its own delays every request. It has as many neurons as asked for, under root ids of their
own: copies of those of the cortex (`made_neurons`). Then the peak memory of two processes is compared that do all of
the neurons, and a tenth of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from made_neurons import make

import cortexclient
from cortexclient import registry
from cortexclient.bulk import BulkResult
from cortexclient.sandbox.build import build_cortex


def loop(client: Any, roots: list[int], folder: Path) -> None:
    folder.mkdir()
    for root in roots:
        client.save_swc(root, folder / f"{root}.swc")
        client.query_synapses(root, pre=True, post=True, progress=False).to_parquet(
            folder / f"{root}.parquet"
        )


def jobs(client: Any, roots: list[int], folder: Path, batch_size: int = 50, **workers: Any) -> None:
    job = client.bulk(roots, batch_size=min(batch_size, max(1, len(roots) // 4)), progress=False, **workers)
    job.skeletons(out=folder / "skeletons").raise_for_failures()
    job.synapses(out=folder / "synapses").raise_for_failures()
    assert len(BulkResult.read(folder / "synapses").done) == len(roots)


ALONE = """
import pickle, re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import bench_bulk
bench_bulk.jobs(*pickle.loads(Path(sys.argv[2]).read_bytes()))
status = Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024)
"""


def alone(sent: Path, *arguments: Any) -> subprocess.Popen[str]:
    """Start a process that does the jobs with threads, and prints its peak memory in MB."""
    sent.write_bytes(pickle.dumps(arguments))
    words = [sys.executable, "-c", ALONE, str(Path(__file__).parent), str(sent)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def peaks(client: Any, roots: list[int], folder: Path) -> None:
    """Compare the peak memory of a job, and of one with a tenth of the neurons; both keep all workers busy."""
    peak = {}
    for count in (0, len(roots) // 10, len(roots)):
        process = alone(folder / "sent", client, roots[:count], folder / str(count), 10)
        peak[count] = float(process.communicate()[0])
        assert process.returncode == 0
    few, many = len(roots) // 10, len(roots)
    print(
        f"peak memory of {few} neurons {peak[few]:.0f} MB, of {many} {peak[many]:.0f} MB, "
        f"of none (imports) {peak[0]:.0f} MB"
    )


def killed_at_half(client: Any, roots: list[int], folder: Path) -> None:
    """Kill a process that does the jobs when half of its batches are done, do the rest, and compare all files."""
    begin = time.perf_counter()
    jobs(client, roots, folder / "undisturbed")
    undisturbed = time.perf_counter() - begin
    expected = contents(folder / "undisturbed")
    batches = sum("_batch-" in name for name in expected)
    process = alone(folder / "sent", client, roots, folder / "killed")
    while process.poll() is None and len(list(folder.glob("killed/*/_batch-*"))) < batches // 2:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    left = batches - len(list(folder.glob("killed/*/_batch-*")))
    begin = time.perf_counter()
    jobs(client, roots, folder / "killed")
    rest = time.perf_counter() - begin
    same = contents(folder / "killed") == expected
    print(
        f"killed with {left} of {batches} batches left; the rest took {rest / undisturbed:.2f} of an undisturbed "
        f"run; {len(expected)} files {'are equal' if same else 'DIFFER'}"
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
                n_workers=number,
                threads_per_worker=1,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            ) as cluster,
            distributed.Client(cluster) as dask,
        ):
            yield {"dask": dask}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", default="small")
    parser.add_argument("--ways", nargs="*", default=["loop", "threads", "processes", "dask"])
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cortex = build_cortex(registry.get_spec("sandbox"), size=options.size)
        roots, models = make(cortex, data, neurons=options.count)
        words = [
            "sandbox",
            "serve",
            "--spec",
            "sandbox",
            "--data",
            str(data),
            "--latency",
            str(options.latency),
        ]
        server = subprocess.Popen(
            [sys.executable, "-m", "cortexclient", *words], stdout=subprocess.PIPE, text=True
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        assert server.stdout is not None
        address = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
        client = cortexclient.load("sandbox", server_address=address, version=3)
        print(f"{len(roots)} neurons, copies of {models}; {1000 * options.latency:g} ms a request")
        # the server reads its files once
        jobs(client, roots, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        first = None
        for way in options.ways:
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ours:
                folder = Path(name)
                if way == "loop":
                    begin = time.perf_counter()
                    loop(client, roots, folder / "loop")
                else:
                    workers = ours.enter_context(workers_of(way, options.workers))
                    # processes start, and load what they need
                    jobs(client, roots[:8], folder / "warm", **workers)
                    begin = time.perf_counter()
                    jobs(client, roots, folder, **workers)
                each = (time.perf_counter() - begin) / len(roots)
            first = first or each
            print(
                f"{way:10} {1000 * each:8.1f} ms a neuron, {1 / each:7.1f} neurons/s, {first / each:5.1f} x "
                f"(load {load:.1f} before)",
                flush=True,
            )
        for measure in (peaks, killed_at_half):
            with tempfile.TemporaryDirectory() as name:
                measure(client, roots, Path(name))


if __name__ == "__main__":
    main()
