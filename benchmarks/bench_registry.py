"""How long it takes to load one dataset, and to list all, with 5 and 100 specs in a folder.

Run: python benchmarks/bench_registry.py [count ...]

Every figure is from a fresh process (files in the page cache), the median of a few runs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 3
PROGRAM = """
import json, sys, time
begin = time.perf_counter()
import cortexclient.registry as registry
imported = time.perf_counter()
{statement}
done = time.perf_counter()
print(json.dumps([imported - begin, done - imported]))
"""
STATEMENTS = {
    "load one by name": "registry.get_spec('dataset_00003')",
    "load one by alias": "registry.get_spec('nickname_00003')",
    "a name that is not there": "\ntry:\n    registry.get_spec('datasset_00003')\nexcept LookupError:\n    pass\n",
    "list the names": "registry.list_datasets()",
    "list with details": "registry.list_datasets(details=True)",
}


def write_specs(folder: Path, count: int) -> None:
    """Write copies of a realistic entry (minnie_public) under other names."""
    text = (Path(__file__).resolve().parents[1] / "datasets" / "minnie_public.yaml").read_text(
        encoding="utf-8"
    )
    for number in range(count):
        own = text.replace("name: minnie_public", f"name: dataset_{number:05}")
        own = own.replace("aliases: [microns_public, minnie65_public]", f"aliases: [nickname_{number:05}]")
        (folder / f"dataset_{number:05}.yaml").write_text(own, encoding="utf-8")


def seconds(folder: Path, statement: str) -> float:
    """Median time of a statement in a fresh process, importing the registry apart."""
    environment = {
        **os.environ,
        "CORTEXCLIENT_PATH": str(folder),
        "CORTEXCLIENT_CONFIG_DIR": str(folder / "none"),
    }
    program = PROGRAM.format(statement=statement)
    times = []
    for _ in range(RUNS):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True
        )
        times.append(json.loads(done.stdout)[1])
    return statistics.median(times)


if __name__ == "__main__":
    counts = [int(word) for word in sys.argv[1:]] or [5, 100]
    print(f"{'specs':>28}" + "".join(f"{count:>12,}" for count in counts))
    with tempfile.TemporaryDirectory() as root:
        folders = {count: Path(root) / str(count) for count in counts}
        for count, folder in folders.items():
            folder.mkdir()
            write_specs(folder, count)
        for name, statement in STATEMENTS.items():
            figures = [seconds(folders[count], statement) for count in counts]
            print(f"{name:>28}" + "".join(f"{1000 * figure:>9.0f} ms" for figure in figures), flush=True)
