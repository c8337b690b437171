"""The disk cache: one analysis without it, filling it, from it, and offline; requests counted by the sandbox's log.

    python benchmarks/bench_cache.py [--latency 0.05] [--neurons 10]

The analysis is pinned to a version: tables, cells, synapses, level-2 attributes, skeletons and a mesh. Each run has a
client of its own, so nothing is remembered in memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from cortexclient.sandbox import Sandbox

# what describes a version rather than its rows; asked again online because it may change
METADATA = (
    "/info/",
    "/segmentation/table/",
    "/metadata",
    "/versions",
    "/views",
    "/version",
    "/types_all",
    "/table_mapping",
)


def analysis(client: Any, cell_ids: list[int]) -> float:
    started = time.perf_counter()
    client.tables[client.spec.cell_ids.main_table]().query()
    roots = client.cell_id_to_root_id(cell_ids)["root_id"].to_numpy()
    client.root_id_to_cell_id(roots)
    client.query_synapses(roots, pre=True, post=True, progress=False)
    for root in roots:
        client.get_l2data(client.get_l2_ids(root))
        client.get_skeleton(root)
    client.mesh.get_mesh(int(roots[0]))
    return time.perf_counter() - started


def cells_with_skeletons(client: Any, most: int) -> list[int]:
    cells = client.tables[client.spec.cell_ids.main_table]().query()["id"]
    roots = client.cell_id_to_root_id(cells)["root_id"]
    roots = roots[roots > 0].drop_duplicates()
    there = client.skeletons_exist(root_ids=roots.to_numpy())
    return [int(cell) for cell, root in roots.items() if there[root]][:most]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--neurons", type=int, default=10)
    options = parser.parse_args()
    with Sandbox(size="tiny", latency=options.latency) as sandbox, tempfile.TemporaryDirectory() as folder:
        runs: dict[str, dict[str, Any]] = {
            "no cache": {},
            "filling the cache": {"cache": folder},
            "from the cache": {"cache": folder},
            "offline": {"cache": folder, "offline": True},
        }
        first = 0.0
        cell_ids = cells_with_skeletons(sandbox.load(version=3), options.neurons)
        for name, how in runs.items():
            sandbox.requests.clear()
            seconds = analysis(sandbox.load(version=3, **how), cell_ids)
            first = first or seconds
            routes = [str(record.path) for record in sandbox.requests]
            data = [route for route in routes if not any(part in route for part in METADATA)]
            print(
                f"{name:18s} {seconds:7.2f} s  {len(routes):4d} requests, {len(data):4d} for data"
                f"  ratio {first / seconds:5.1f}x"
            )


if __name__ == "__main__":
    main()
