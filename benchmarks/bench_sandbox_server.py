"""How fast the sandbox answers: one keep-alive connection, and 64 clients at once.

Run ``python benchmarks/bench_sandbox_server.py``; it prints medians, 99th percentiles and requests per second.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from cortexclient.sandbox import Sandbox


def timed(http: requests.Session, method: str, url: str, body: object, repeat: int) -> list[float]:
    """Milliseconds of each of some requests over one connection."""
    spent = []
    for _ in range(repeat):
        started = time.perf_counter()
        http.request(method, url, json=body).raise_for_status()
        spent.append((time.perf_counter() - started) * 1000)
    return spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--repeat", type=int, default=300)
    options = parser.parse_args()
    with Sandbox(size=options.size) as sandbox:
        names = sandbox.world.names
        synapses = names.public(str(sandbox.folder.info["synapse_table"]))
        root = int(sandbox.world.graph.alive()[0])
        base = f"{sandbox.url}/materialize/api/v3/datastack/{names.datastack}"
        query = f"{base}/version/3/table/{synapses}/query?return_pyarrow=True&arrow_format=True&direct_sql_pandas=True"
        work = {
            "info": ("GET", f"{sandbox.url}/info/api/v2/datastack/full/{names.datastack}", None),
            "is_latest_roots": (
                "POST",
                f"{sandbox.url}/segmentation/api/v1/table/{names.pcg_table}/is_latest_roots",
                {"node_ids": [root]},
            ),
            "frozen query, 10 rows": ("POST", query, {"limit": 10}),
            "synapses of a root": (
                "POST",
                query,
                {"filter_equal_dict": {synapses: {"pre_pt_root_id": root}}},
            ),
        }
        for name, (method, url, body) in work.items():
            with requests.Session() as http:
                timed(http, method, url, body, 5)
                one = timed(http, method, url, body, options.repeat)

            def many(_: int, method: str = method, url: str = url, body: object = body) -> list[float]:
                with requests.Session() as http:
                    return timed(http, method, url, body, 10)

            started = time.perf_counter()
            with ThreadPoolExecutor(64) as pool:
                crowd = [spent for part in pool.map(many, range(64)) for spent in part]
            rate = len(crowd) / (time.perf_counter() - started)
            slow = sorted(one)[int(len(one) * 0.99)]
            print(
                f"{name:24s} one connection {statistics.median(one):6.2f} ms, p99 {slow:6.2f} ms"
                f" | 64 clients {rate:7.0f} requests/s, slowest {max(crowd):7.1f} ms"
            )


if __name__ == "__main__":
    main()
