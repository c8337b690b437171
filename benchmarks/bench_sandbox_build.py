"""Time and peak memory of building the synthetic cortex, and time of starting on it, each size in a process of its own.

    python benchmarks/bench_sandbox_build.py [tiny] [small] [large]

Without arguments: tiny and small. Nothing is read from or left in the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BUILD = """
import json, resource, sys, time
from pathlib import Path
from cortexclient import registry
from cortexclient.sandbox.build import build_cortex

spec = registry.get_spec("sandbox")
started = time.perf_counter()
folder = build_cortex(spec, size=sys.argv[1], cache=Path(sys.argv[2]))
seconds = time.perf_counter() - started
# kilobytes on Linux, bytes on macOS
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"path": str(folder.path), "seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak": peak}))
"""


START = """
import json, sys, time

times = [time.perf_counter()]
from cortexclient.sandbox import Sandbox

times.append(time.perf_counter())
for _ in range(2):
    with Sandbox(size=sys.argv[1]):
        times.append(time.perf_counter())
print(json.dumps([later - earlier for earlier, later in zip(times, times[1:])]))
"""


def started(size: str, cache: str) -> dict[str, float]:
    """Seconds that starting takes in a fresh process: the import, the first sandbox, and a second one."""
    command = [sys.executable, "-c", START, size]
    environment = {**os.environ, "CORTEXCLIENT_CACHE_DIR": cache}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return dict(zip(("import_s", "first_start_s", "second_start_s"), json.loads(answer), strict=True))


def measure(size: str) -> dict[str, float]:
    """Build one size from nothing and count what it holds."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as place:
        # where a sandbox without a spec of its own looks for its cortex
        command = [sys.executable, "-c", BUILD, size, f"{place}/sandbox"]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        folder = Path(answer["path"])
        files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        nodes = pq.read_table(folder / "chunkedgraph" / "nodes.parquet", columns=["layer"])[
            "layer"
        ].to_numpy()
        return {
            "seconds": answer["seconds"],
            "cpu_seconds": answer["cpu"],
            "peak_gb": answer["peak"] / 1e9,
            "neurons": pq.read_metadata(folder / "truth" / "cells.parquet").num_rows,
            "synapses": pq.read_metadata(folder / "tables" / "synapses.v3.parquet").num_rows,
            "supervoxels": int((nodes == 1).sum()),
            "level2_ids": int((nodes == 2).sum()),
            "files": len(files),
            "megabytes": sum(files) / 1e6,
            **started(size, place),
        }


def main() -> None:
    sizes = sys.argv[1:] or ["tiny", "small"]
    results = {size: measure(size) for size in sizes}
    print(f"{'':16}" + "".join(f"{size:>14}" for size in sizes))
    for name in next(iter(results.values())):
        print(f"{name:16}" + "".join(f"{results[size][name]:14,.2f}" for size in sizes))


if __name__ == "__main__":
    main()
