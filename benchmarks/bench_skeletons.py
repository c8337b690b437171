"""Skeletons with synapses and properties, many at a time, against the peer's loop in the same run.

    python benchmarks/bench_skeletons.py --peer-python PEER/bin/python [--latency 0.05] [--count 200]

Serves the sandbox's synthetic cortex with a delay on every request. Where it has fewer neurons than asked for, roots
of its edit history fill up; the peer reads `--peer-count` of them, and its time is scaled to the same number.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time

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
    options = parser.parse_args()
    with Sandbox(size=options.size) as plain:
        roots = roots_of(plain, options.count)
    with Sandbox(size=options.size, latency=options.latency) as sandbox:
        client = sandbox.load()
        client.get_skeleton(roots[0])
        before, begin = len(sandbox.requests), time.perf_counter()
        found = _read(client, roots)
        seconds = (time.perf_counter() - begin) / len(roots)
        requests = (len(sandbox.requests) - before) / len(roots)
        print(f"{found} neurons, {options.latency * 1000:.0f} ms latency")
        print(f"ours  {seconds * 1000:8.1f} ms and {requests:5.2f} requests for each neuron")
        if options.peer_python:
            some = roots[: options.peer_count]
            arguments = [sandbox.url, sandbox.datastack, sandbox.token, json.dumps(some)]
            before = len(sandbox.requests)
            done = subprocess.run(
                [options.peer_python, "-W", "ignore", "-c", PEER, *arguments],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            peer = json.loads(done.stdout.strip().splitlines()[-1])
            each = (len(sandbox.requests) - before) / (len(some) + 1)
            print(f"peer  {peer * 1000:8.1f} ms and {each:5.2f} requests for each neuron")
            print(f"ratio {peer / seconds:.1f}x")


def _read(client: object, roots: list[int]) -> int:
    from cortexclient.services.skeletons import SkeletonsService

    batches = SkeletonsService(client.session).get_skeletons(roots, batch_size=100, progress=False)
    return sum(1 for _ in batches)


if __name__ == "__main__":
    main()
