"""Peak memory of a million rows of synapses, downloaded from a sandbox by a process of its own.

Run it::

    python benchmarks/bench_memory.py

The process loads the client and asks a few rows first. What it grows by from there to its peak is compared with the
frame that it ends up with; the server, which cuts answers at its usual 200,000 rows, runs in another process. Linux
only, as other systems do not tell the peak of one process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from made_synapses import TABLE, make

from cortexclient.sandbox import Sandbox

DOWNLOAD = """
import json, sys, time
job = json.loads(sys.argv[1])
import cortexclient
from cortexclient.session import Endpoint
from cortexclient.spec import DatasetSpec
client = cortexclient.load(DatasetSpec.model_validate(job["spec"]), endpoint=Endpoint(job["url"], job["token"]))
client.query_synapses(job["neurons"][:2], pre=True, progress=False)
def memory(name):
    # not getrusage: its peak is inherited from the process that started this one
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))
before, start = memory("VmRSS"), time.perf_counter()
if job["task"] == "table":
    frame = client.query(job["table"], split_positions=True)
else:
    frame = client.query_synapses(job["neurons"], pre=True, post=True, progress=False)
print("RESULT" + json.dumps({
    "seconds": time.perf_counter() - start, "rows": len(frame), "frame": int(frame.memory_usage(deep=True).sum()),
    "extra": memory("VmHWM") - before, "requests": frame.attrs["requests"], "distinct": int(frame["id"].nunique())}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument("--rows", type=int, default=3500, help="synapses that a neuron makes, on the average")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Sandbox(size="tiny") as cortex:
        made = make(cortex.folder.path, Path(scratch), neurons=arguments.neurons, rows=arguments.rows)
        with Sandbox(data=Path(scratch)) as sandbox:
            spec = cortex.spec.model_dump(mode="json", exclude_none=True)
            spec |= {"datastack": sandbox.datastack, "synapse_table": TABLE, "synapses": None}
            for task, truth in (("table", made.synapses), ("neurons", made.of_neurons())):
                job = {
                    "task": task,
                    "table": TABLE,
                    "spec": spec,
                    "url": sandbox.url,
                    "token": sandbox.token,
                    "neurons": made.neurons,
                }
                seen = len(sandbox.requests)
                done = subprocess.run(
                    [sys.executable, "-c", DOWNLOAD, json.dumps(job)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
                numbers = json.loads(line.removeprefix("RESULT"))
                whole = "complete" if numbers["rows"] == numbers["distinct"] == len(truth) else "NOT COMPLETE"
                print(
                    f"{task:<8} {numbers['rows']:>9,} rows ({whole}) in {numbers['seconds']:.1f} s and "
                    f"{len(sandbox.requests) - seen} requests: frame {numbers['frame'] / 2**20:.0f} MiB, peak "
                    f"{numbers['extra'] / 2**20:.0f} MiB above the start = "
                    f"{numbers['extra'] / numbers['frame']:.2f} x the frame"
                )


if __name__ == "__main__":
    main()
