"""The store against what else reads a synapse table: pulls it, then times look-ups and scans; prints ratios.

    python benchmarks/bench_store.py --rows 20000000 --folder /tmp/bench_store

The table is synthetic, of the columns and the skew of a real one (lognormal numbers of synapses per neuron, a tenth
of the ends on no neuron), and a second one has a tenth of its rows. Each measurement is a process of its own; times are
the best of three, so with the files in the page cache: seconds and, in parentheses, those of processors, which depend
less on what else the machine does. A store that is there from an earlier run is used again. In the end the same files
are read from a web server on loopback, which delays every response by `--latency` and counts requests and bytes;
pyarrow reads them there if aiohttp is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from isal import igzip_threaded

if TYPE_CHECKING:
    from collections.abc import Iterator

POINTS = ("pre_pt_position", "post_pt_position", "ctr_pt_position")
COLUMNS = ("id", "pre_pt_supervoxel_id", "pre_pt_root_id", "post_pt_supervoxel_id", "post_pt_root_id", "size")

MEASURE = """
import json, re, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet, pyarrow.dataset as ds
{imports}
roots = np.load({folder!r} + "/roots.npy")
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
def read():
    return np.array([int(re.search(r"rchar: (\\d+)", open("/proc/self/io").read())[1]), 0])
{setup}
wall, busy, begin = [], [], read()
for _ in range({times}):
    start, processors = time.perf_counter(), time.process_time()
    rows = {call}
    wall.append(time.perf_counter() - start)
    busy.append(time.process_time() - processors)
bytes, requests = ((read() - begin) // {times}).tolist()
found = dict(seconds=min(wall), busy=min(busy), rows=int(rows), bytes=bytes, requests=requests, peak_mb=peak())
print(json.dumps(found))
"""


def measure(folder: Path, setup: str, call: str, *, imports: str = "", times: int = 3) -> dict[str, float]:
    code = MEASURE.format(folder=str(folder), setup=setup, call=call, imports=imports, times=times)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def write_dump(folder: Path, rows: int) -> None:
    """Write the table as CAVE's exporter does, a million rows at a time."""
    random = np.random.default_rng(1)
    neurons = max(20, rows // 2500)
    roots = 864691128455135232 + random.choice(2**38, neurons, replace=False).astype(np.int64) * 2
    weights = np.cumsum(random.lognormal(0, 1.2, neurons))
    weights /= weights[-1]
    np.save(folder / "roots.npy", roots)
    (folder / "v1").mkdir(exist_ok=True)
    names = [*COLUMNS, *(f"{point}_{axis}" for point in POINTS for axis in "xyz")]
    header = [
        f"{name},{'real' if name == 'size' else 'integer' if name[-2] == '_' else 'bigint'}" for name in names
    ]
    (folder / "v1" / "synapses_header.csv").write_text("\n".join(header) + "\n")
    options = pa_csv.WriteOptions(include_header=False)
    with igzip_threaded.open(folder / "v1" / "synapses.csv.gz", "wb") as file:
        for start in range(0, rows, 1_000_000):
            count = min(1_000_000, rows - start)
            sides = {}
            for side in ("pre", "post"):
                chosen = roots[np.searchsorted(weights, random.random(count)).clip(max=neurons - 1)]
                kind = random.random(count)
                chosen[kind < 0.03] = 0
                pieces = (kind > 0.93).sum()
                chosen[kind > 0.93] = 864691128455135233 + 2 * random.integers(0, 20 * rows, pieces)
                sides[side] = chosen
            table = {
                "id": start + np.arange(count),
                "pre_pt_supervoxel_id": random.integers(2**56, 2**57, count),
                "pre_pt_root_id": sides["pre"],
                "post_pt_supervoxel_id": random.integers(2**56, 2**57, count),
                "post_pt_root_id": sides["post"],
                "size": random.lognormal(6, 1, count).astype(np.int64),
                **{f"{p}_{a}": random.integers(0, 350_000, count) for p in POINTS for a in "xyz"},
            }
            pa_csv.write_csv(pa.table(table), file, options)


EXPORT = "from cortexclient.services.exports import TableExportClient\n"
DUMP = 'export = TableExportClient({folder!r}).find("synapses", 1)'
STORE = """from cortexclient.store.places import FolderPlace
from cortexclient.store.tables import StoredTable
"""
OPEN = """
from pathlib import Path
store = Path({folder!r}) / "store"
table = StoredTable(FolderPlace(store), "synapses", (store / "_table.json").read_bytes())
def both(ids, columns=None):
    return sum(len(table.find(key, ids, columns)) for key in ("pre_pt_root_id", "post_pt_root_id"))
"""
PULL = """
from pathlib import Path
from cortexclient.store.writer import TableWriter, Work
import shutil
shutil.rmtree({folder!r} + "/store", ignore_errors=True)
source = export.source()
work = Work("d", 1, "synapses", "table", source.names(), ["pre_pt_root_id", "post_pt_root_id"], "dump")
"""
PATHS = "paths = {{key: table.paths(key) for key in ('pre_pt_root_id', 'post_pt_root_id')}}\n"


DASK = """
import dask.dataframe as frames
from cortexclient.store.tables import open_with
keys = ("pre_pt_root_id", "post_pt_root_id")
def by_store(key):
    return open_with("dask", table, key, roots[:100])
def by_filters(key):
    return frames.read_parquet(table.paths(key), filters=[(key, "in", roots[:100].tolist())])
def count(read):
    return sum(len(read(key).compute(scheduler="sync")) for key in keys)
"""


REMOTE = """
from urllib.request import urlopen
def read():
    return np.array(json.load(urlopen({address!r} + "/sent")))
keys = ("pre_pt_root_id", "post_pt_root_id")
files = {{key: sorted(Path({folder!r}, "store", key).glob("part-*")) for key in keys}}
parts = {{key: [f"{address}/{{key}}/{{path.name}}" for path in files[key]] for key in keys}}
def fresh():
    place = open_place({address!r})
    return StoredTable(place, "synapses", place.read("_table.json"))
def both(table, ids):
    return sum(len(table.find(key, ids)) for key in keys)
"""
POLARS = """
import polars as pl
def asked(key, ids):
    return pl.scan_parquet(parts[key]).filter(pl.col(key).is_in(ids.tolist())).collect().height
"""
ARROW = """
import fsspec
from pyarrow.fs import FSSpecHandler, PyFileSystem
web = PyFileSystem(FSSpecHandler(fsspec.filesystem("http")))
def asked(key, ids):
    return ds.dataset(parts[key], filesystem=web).to_table(filter=ds.field(key).isin(ids)).num_rows
"""


class _Web(SimpleHTTPRequestHandler):
    """A web server that knows ranges, takes its time, and counts what it sends."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, *args: object, latency: float, sent: list[int], **options: object) -> None:
        self.latency, self.sent = latency, sent
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._send(head=True)

    def do_GET(self) -> None:
        if self.path == "/sent":
            content = json.dumps(self.sent).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self._send(head=False)

    def _send(self, *, head: bool) -> None:
        time.sleep(self.latency)
        self.sent[1] += 1
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        start, end = 0, size - 1
        asked = self.headers.get("Range", "")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first) if first else size - int(last)
            end = min(int(last), end) if first and last else end
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.send_header("Content-Length", str(end - start + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.end_headers()
        if not head:
            self.sent[0] += end - start + 1
            with path.open("rb") as file, contextlib.suppress(ConnectionError):
                file.seek(start)
                self.wfile.write(file.read(end - start + 1))


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # polars connects as often at a time


@contextlib.contextmanager
def web_of(folder: Path, latency: float) -> Iterator[str]:
    handler = partial(_Web, latency=latency, sent=[0, 0], directory=str(folder))
    with _Server(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def remote(folder: Path, latency: float) -> None:
    """Look up neurons in the store on a web server."""
    imports = f"{STORE}from cortexclient.store.places import open_place\nfrom pathlib import Path\n"
    with web_of(folder / "store", latency) as address:
        setup = REMOTE.format(address=address, folder=str(folder))
        known = f"{setup}table = fresh()\nboth(table, roots[-100:])\n"
        others = {"polars": POLARS}
        if importlib.util.find_spec("aiohttp"):
            others["pyarrow, by fsspec"] = ARROW
        for n in (1, 100):
            print(f"{n} root{'s' * (n > 1)}, both sides, from a web server {1000 * latency:g} ms away")
            first = measure(folder, setup, f"both(fresh(), roots[:{n}])", imports=imports, times=1)
            ours = measure(folder, known, f"both(table, roots[:{n}])", imports=imports, times=1)
            show("   the first look-up of a client", first, ours, "as long" + sent(first))
            show("   each further one", ours, words=sent(ours)[2:])
            for name, functions in others.items():
                call = f"sum(asked(key, roots[:{n}]) for key in keys)"
                other = measure(folder, setup + functions, call, imports=imports, times=1)
                assert other["rows"] == ours["rows"]
                show(f"   {name}", other, ours, "as long" + sent(other))


def sent(found: dict[str, float]) -> str:
    return f", {found['requests']} requests, {found['bytes'] / 1e6:.2f} MB"


def parsed(folder: Path) -> dict[str, float]:
    call = "sum(len(t) for t in export.source().batches())"
    return measure(folder, DUMP.format(folder=str(folder)), call, imports=EXPORT, times=1)


def pulled(folder: Path) -> dict[str, float] | None:
    if (folder / "store" / "_table.json").exists():
        return None
    setup = DUMP.format(folder=str(folder)) + PULL.format(folder=str(folder))
    call = f"TableWriter(Path({str(folder)!r}) / 'store', work).write(source.batches).rows"
    return measure(folder, setup, call, imports=EXPORT, times=1)


def roots_alike(folder: Path, tenth: Path) -> list[int]:
    """Choose 100 roots of the large table that make about as many synapses as the first 100 of the small one."""
    counts = {}
    for place in (folder, tenth):
        key = "pre_pt_root_id"
        made = np.sort(pq.read_table(place / "store" / key, columns=[key]).column(key).to_numpy())
        roots = np.load(place / "roots.npy")
        counts[place] = roots, np.searchsorted(made, roots, "right") - np.searchsorted(made, roots)
    roots, made = counts[folder]
    chosen: dict[int, None] = {}
    for number in counts[tenth][1][:100]:
        nearest = np.argsort(np.abs(made - number), kind="stable")
        chosen[next(int(root) for root in roots[nearest] if int(root) not in chosen)] = None
    return list(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, default=Path("bench_store"))
    parser.add_argument("--latency", type=float, default=0.02)
    options = parser.parse_args()
    folder = options.folder.resolve()
    for place, rows in ((folder, options.rows), (folder / "tenth", options.rows // 10)):
        if not (place / "v1" / "synapses.csv.gz").exists():
            place.mkdir(parents=True, exist_ok=True)
            write_dump(place, rows)
    dump = (folder / "v1" / "synapses.csv.gz").stat().st_size
    parse = parsed(folder)
    print(f"{parse['rows']:,} rows, {dump / 1e6:.0f} MB csv.gz")
    show("a bare parse of the CSV", parse, peak=True)
    if copies := pulled(folder):
        show("pull, both copies", copies, parse, "as long as the parse", peak=True)
    pulled(folder / "tenth")
    size = sum(path.stat().st_size for path in (folder / "store").rglob("*.parquet"))
    print(f"{'both copies on disk':36s} {size / dump:.2f} x the csv.gz")

    opened = OPEN.format(folder=str(folder))
    setup = opened + PATHS.format()
    polars, imports = "import polars as pl\n", STORE
    scan = (
        "sum(pl.scan_parquet(paths[key], use_statistics={used}).filter(pl.col(key).is_in(roots[:{n}].tolist()))"
        ".collect().height for key in paths)"
    )
    dataset = "sum(ds.dataset(paths[key]).to_table(filter=ds.field(key).isin(roots[:100])).num_rows for key in paths)"
    for label, n in (("1 root, both sides", 1), ("100 roots, both sides", 100)):
        ours = measure(folder, opened, f"both(roots[:{n}])", imports=imports, times=9 if n == 1 else 3)
        show(label, ours, words=f"{100 * ours['bytes'] / size:.3f} % of the bytes, the first time included")
        for used, name in ((False, "polars' scan"), (True, "polars by statistics")):
            other = measure(folder, setup, scan.format(n=n, used=used), imports=imports + polars)
            assert other["rows"] == ours["rows"]
            show(f"   {name}", other, ours, "as long")
    arrow = measure(folder, setup, dataset, imports=imports, times=1)
    show("   pyarrow's isin", arrow, ours, "as long")
    tenth = folder / "tenth"
    small = measure(tenth, OPEN.format(folder=str(tenth)), "both(roots[:100])", imports=imports)
    alike = f"both({roots_alike(folder, tenth)})"
    large = measure(folder, opened, alike, imports=imports)
    show("100 others, with as many synapses", large)
    show("   as these in a tenth of the table", small)
    show("   so with ten times the table", large, small, "as long")

    columns = "['id', 'pre_pt_root_id', 'size']"
    three = measure(folder, opened, f"len(table.filtered(None, {columns}, {columns}))", imports=imports)
    csv_setup = DUMP.format(folder=str(folder))
    from_csv = measure(
        folder, csv_setup, f"len(export.get_dataframe(columns={columns}))", imports=EXPORT, times=1
    )
    show("three columns of all rows", three)
    show("   from the CSV", from_csv, three, "as long")
    among = measure(
        folder,
        opened,
        "table.find('pre_pt_root_id', roots[:1000], ['pre_pt_root_id', 'post_pt_root_id', 'size'])"
        ".filter(ds.field('post_pt_root_id').isin(roots[:1000])).group_by(['pre_pt_root_id', 'post_pt_root_id'])"
        ".aggregate([('size', 'sum')]).num_rows",
        imports=imports,
    )
    show("connectivity among 1,000 neurons", among, parse, "of a parse")

    ours = measure(folder, opened + DASK, "count(by_store)", imports=imports)
    other = measure(folder, opened + DASK, "count(by_filters)", imports=imports, times=1)
    assert other["rows"] == ours["rows"]
    show("100 roots by Dask, one worker", ours)
    show("   read_parquet(filters=)", other, ours, "as long")
    remote(folder, options.latency)


def show(
    label: str,
    found: dict[str, float],
    other: dict[str, float] | None = None,
    words: str = "",
    *,
    peak: bool = False,
) -> None:
    ratios = ""
    if other is not None:
        wall, busy = (found[name] / other[name] for name in ("seconds", "busy"))
        ratios = f"{wall:.3g} x ({busy:.3g} x) "
    memory = f", peak {found['peak_mb']:.0f} MB" if peak else ""
    times = f"{found['seconds']:9.4f} s ({found['busy']:8.4f})"
    print(f"{label:36s} {times} {found['rows']:>11,} rows  {ratios}{words}{memory}", flush=True)


if __name__ == "__main__":
    main()
