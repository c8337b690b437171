"""The store against what else reads a synapse table: pulls it, then times look-ups and scans; prints ratios.

    python benchmarks/bench_store.py --rows 20000000 --folder /tmp/bench_store

The table is synthetic, of the columns and the skew of a real one (lognormal numbers of synapses per neuron). Each
measurement is a process of its own; times are the best of three, so with the files in the page cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from isal import igzip_threaded

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
    return int(re.search(r"rchar: (\\d+)", open("/proc/self/io").read())[1])
{setup}
best, begin = 1e9, read()
for _ in range({times}):
    start = time.perf_counter()
    rows = {call}
    best = min(best, time.perf_counter() - start)
print(json.dumps(dict(seconds=best, rows=int(rows), bytes=(read() - begin) // {times}, peak_mb=peak())))
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
                chosen[random.random(count) < 0.03] = 0
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
table = StoredTable(FolderPlace(Path({folder!r}) / "store"), "synapses")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, default=Path("bench_store"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "v1" / "synapses.csv.gz").exists():
        write_dump(folder, options.rows)
    dump = (folder / "v1" / "synapses.csv.gz").stat().st_size
    name = {"folder": str(folder)}
    parse = measure(
        folder, DUMP.format(**name), "sum(len(t) for t in export.source().batches())", imports=EXPORT, times=1
    )
    rows = parse["rows"]
    print(
        f"{rows:,} rows, {dump / 1e6:.0f} MB csv.gz, parsed in {parse['seconds']:.1f} s, {parse['peak_mb']:.0f} MB"
    )
    setup = DUMP.format(**name) + PULL.format(**name)
    pulled = measure(
        folder,
        setup,
        f"TableWriter(Path({str(folder)!r}) / 'store', work).write(source.batches).rows",
        imports=EXPORT,
        times=1,
    )
    opened = OPEN.format(**name)
    size = sum(path.stat().st_size for path in (folder / "store").rglob("*.parquet"))
    show("pull, both copies", pulled, parse, f"{pulled['seconds'] / parse['seconds']:.1f} x parse, peak")
    print(f"{'':34s} disk {size / dump:.2f} x csv.gz")

    one = measure(folder, opened, "both(roots[:1])", imports=STORE, times=5)
    hundred = measure(folder, opened, "both(roots[:100])", imports=STORE)
    three = measure(
        folder,
        opened,
        "len(pa.concat_tables(table.batches(['id', 'pre_pt_root_id', 'size'])))",
        imports=STORE,
    )
    among = measure(
        folder,
        opened,
        "table.find('pre_pt_root_id', roots[:1000], ['pre_pt_root_id', 'post_pt_root_id', 'size'])"
        ".filter(ds.field('post_pt_root_id').isin(roots[:1000])).group_by(['pre_pt_root_id', 'post_pt_root_id'])"
        ".aggregate([('size', 'sum')]).num_rows",
        imports=STORE,
    )
    polars = "import polars as pl\n"
    scan = (
        "sum(pl.scan_parquet(paths[key]).filter(pl.col(key).is_in(roots[:{n}].tolist())).collect().height"
        " for key in paths)"
    )
    dataset = "sum(ds.dataset(paths[key]).to_table(filter=ds.field(key).isin(roots[:{n}])).num_rows for key in paths)"
    setup = opened + PATHS.format()
    polars_one = measure(folder, setup, scan.format(n=1), imports=STORE + polars)
    polars_hundred = measure(folder, setup, scan.format(n=100), imports=STORE + polars)
    arrow_hundred = measure(folder, setup, dataset.format(n=100), imports=STORE, times=1)
    csv_three = measure(
        folder,
        DUMP.format(**name),
        "len(export.get_dataframe(columns=['id', 'pre_pt_root_id', 'size']))",
        imports=EXPORT,
        times=1,
    )
    assert one["rows"] == polars_one["rows"]
    assert hundred["rows"] == polars_hundred["rows"] == arrow_hundred["rows"]
    show(
        "1 root, both sides",
        one,
        polars_one,
        f"{100 * one['bytes'] / size:.3f} % of the bytes;",
        "polars' scan",
    )
    show(
        "100 roots",
        hundred,
        polars_hundred,
        f"{100 * hundred['bytes'] / size:.2f} % of the bytes;",
        "polars' scan",
    )
    show("100 roots", hundred, arrow_hundred, "", "pyarrow's isin")
    show("three columns of all rows", three, csv_three, "", "from CSV")
    part = parse["seconds"] / among["seconds"]
    print(f"{'connectivity among 1,000 neurons':34s} {among['seconds']:8.3f} s  1/{part:.0f} of a parse")


def show(label: str, ours: dict[str, float], other: dict[str, float], words: str, against: str = "") -> None:
    faster = f"{other['seconds'] / ours['seconds']:.0f} x faster than {against}"
    times = faster if against else f"{ours['peak_mb']:.0f} MB"
    print(f"{label:34s} {ours['seconds']:8.3f} s  {ours['rows']:>11,} rows  {words} {times}")


if __name__ == "__main__":
    main()
