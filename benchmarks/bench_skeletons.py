"""Skeletons with synapses and properties, many at a time, against the peer's loop in the same run.

    python benchmarks/bench_skeletons.py --peer-python PEER/bin/python [--latency 0.05] [--count 200] [--size large]

Serves the sandbox's synthetic cortex with a delay on every request; each client is a process of its own. Where the
cortex has fewer neurons than asked for, roots of its edit history fill up. The peer reads `--peer-count` of them, and
its time is scaled to the same number.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import numpy as np

from cortexclient.sandbox import Sandbox

PEER = """
import json, sys, time
url, datastack, token, roots = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
import ossify
from caveclient import CAVEclient
cave = CAVEclient(datastack, server_address=url, auth_token=token, write_server_cache=False)
ossify.load_cell_from_client(roots[0], cave, synapses=True, restore_properties=True, skeleton_version=4)
begin = time.perf_counter()
for root in roots:
    ossify.load_cell_from_client(root, cave, synapses=True, restore_properties=True, skeleton_version=4)
print(json.dumps((time.perf_counter() - begin) / len(roots)))
"""


OURS = """
import json, resource, sys, time
url, datastack, token, roots = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
from cortexclient.services.skeletons import SkeletonsService
from cortexclient.session import Endpoint, Session
from cortexclient.spec import DatasetSpec
spec = DatasetSpec(name="bench", title="Benchmark", server_address=url, datastack=datastack)
service = SkeletonsService(Session(spec, endpoint=Endpoint(url, token)))
service.get_skeleton(roots[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin, processor, rows = time.perf_counter(), time.process_time(), 0
batches = service.get_skeletons(roots, batch_size=int(sys.argv[5]), progress=False)
for root, neuron in batches:
    rows += len(neuron.anno.pre_syn) + len(neuron.anno.post_syn)
assert not batches.failures, batches.failures
print(json.dumps({
    "seconds": (time.perf_counter() - begin) / len(roots),
    "processor": (time.process_time() - processor) / len(roots),
    "synapses": rows,
    "grown": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
}))
"""


def roots_of(sandbox: Sandbox, count: int) -> list[int]:
    """Roots with a skeleton: current ones first, then older ones."""
    current = np.unique(sandbox.truth.root_of_cell(sandbox.truth.cells["cell_id"].to_numpy()))
    older = sandbox.truth.history["root_id"].to_numpy()
    roots = list(dict.fromkeys([*current[current > 0].tolist(), *older.tolist()]))
    exist = sandbox.load().skeletons_exist(root_ids=roots)
    return [root for root in roots if exist[root]][:count]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python")
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--peer-count", type=int, default=10)
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch", type=int, nargs="+", default=[25, 100])
    options = parser.parse_args()
    with Sandbox(size=options.size) as plain:
        roots = roots_of(plain, options.count)
    with Sandbox(size=options.size, latency=options.latency) as sandbox:
        where = [sandbox.url, sandbox.datastack, sandbox.token]
        print(f"{len(roots)} neurons, {options.latency * 1000:.0f} ms latency")
        for size in options.batch:
            before = len(sandbox.requests)
            ours = _run(sys.executable, OURS, *where, json.dumps(roots), str(size))
            requests = (len(sandbox.requests) - before) / (len(roots) + 1)
            print(
                f"ours  {ours['seconds'] * 1000:8.1f} ms ({ours['processor'] * 1000:.1f} ms of processor) and "
                f"{requests:5.2f} requests for each neuron; {ours['synapses']} synapses; batches of {size} took "
                f"{ours['grown']:.0f} MB"
            )
        if options.peer_python:
            some = roots[: options.peer_count]
            before = len(sandbox.requests)
            peer = _run(options.peer_python, PEER, *where, json.dumps(some))
            each = (len(sandbox.requests) - before) / (len(some) + 1)
            print(f"peer  {peer * 1000:8.1f} ms and {each:5.2f} requests for each neuron")
            print(f"ratio {peer / ours['seconds']:.1f}x")


def _run(python: str, program: str, *arguments: str) -> Any:
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
