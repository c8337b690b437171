"""Reading a static export, against cortical-tools in the same run.

    python benchmarks/bench_exports.py --peer-python /path/to/an/environment/with/cortical-tools/bin/python

Makes a synapse-like table (5,000,000 rows of 8 columns), serves it on loopback, and reads it in fresh processes: into
Arrow, which is what the store is made of, and into pandas.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

HEADER = ["id", "pre_pt_root_id", "post_pt_root_id", "x", "y", "z", "size", "target_id"]

MEASURE = """
import json, re, time
def peak():
    # ru_maxrss is inherited from the parent process, this is not
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
{setup}
start = peak()
begin, busy = time.perf_counter(), time.process_time()
df = {read}
seconds, busy = time.perf_counter() - begin, time.process_time() - busy
print(json.dumps({{"seconds": seconds, "processor": busy, "rows": len(df), "peak_mb": peak() - start}}))
"""

OURS = """
import pandas, pyarrow.csv, pyarrow.parquet, isal.igzip_threaded
import cortexclient
client = cortexclient.load("sandbox", version=1, cache={cache!r})
client.set_export_cloudpath("{folder}")
client = client.exports
client.available_files
"""

PEER = """
import cloudfiles, pandas
from cortical_tools.files import CloudFileViewExport
file = CloudFileViewExport("t", 0, 1, "v1/t", cloudfiles.CloudFiles("{url}", progress=False))
"""


def write_table(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(1)
    roots = rng.integers(864691134884745210, 864691136884745210, size=rows // 50 + 1)
    table = pa.table(
        {
            "id": np.arange(rows),
            "pre_pt_root_id": rng.choice(roots, rows),
            "post_pt_root_id": rng.choice(roots, rows),
            **{axis: rng.integers(0, 300_000, rows) for axis in "xyz"},
            "size": rng.integers(100, 30_000, rows),
            "target_id": rng.integers(1, rows, rows),
        }
    )
    sink = pa.BufferOutputStream()
    arrow_csv.write_csv(table, sink, arrow_csv.WriteOptions(include_header=False))
    (folder / "v1").mkdir()
    (folder / "v1" / "t.csv.gz").write_bytes(gzip.compress(sink.getvalue().to_pybytes(), compresslevel=4))
    (folder / "v1" / "t_header.csv").write_text("".join(f"{name},bigint\n" for name in HEADER))


def measure(python: str, setup: str, read: str) -> dict[str, float]:
    code = MEASURE.format(setup=setup, read=read)
    done = subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--peer-python")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "exports"
        folder.mkdir()
        write_table(folder, options.rows)
        print(f"{options.rows:,} rows, {(folder / 'v1' / 't.csv.gz').stat().st_size / 1e6:.0f} MB gz")
        read, three = "client.get_table('t', 1)", "client.get_table('t', 1, columns=['id', 'x', 'size'])"
        plain = OURS.format(folder=folder, cache=False)
        cached = OURS.format(folder=folder, cache=str(Path(name) / "cache"))
        arrow = "__import__('pyarrow').concat_tables(client.find('t', 1).source().batches())"
        results = {
            "into Arrow": measure(sys.executable, plain, arrow),
            "into pandas": measure(sys.executable, plain, read),
        }
        measure(sys.executable, cached, read)
        results["cached"] = measure(sys.executable, cached, read)
        results["cached, 3 columns"] = measure(sys.executable, cached, three)
        if options.peer_python:
            server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            setup = PEER.format(url=f"http://127.0.0.1:{server.server_port}")
            results["cortical-tools"] = measure(
                options.peer_python, setup, "file.get_dataframe(1, verbose=False)"
            )
            server.shutdown()
        for label, result in results.items():
            ratio = ""
            if peer := results.get("cortical-tools"):
                faster, less = (peer[name] / result[name] for name in ("seconds", "peak_mb"))
                ratio = f"  {faster:5.1f}x faster, {less:.1f}x less memory"
            print(
                f"{label:26s} {result['seconds']:7.3f} s ({result['processor']:.2f} s of processor) "
                f"{result['peak_mb']:7.0f} MB  {result['rows']:>9,} rows{ratio}"
            )


if __name__ == "__main__":
    main()
