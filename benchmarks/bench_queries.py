"""Queries and lookups against cortical-tools, on one sandbox, in one run: how long, how many requests, how many rows.

Run it with the interpreter of an environment in which cortical-tools is installed beside this one::

    python benchmarks/bench_queries.py --peer-python /path/to/peer/bin/python

Without ``--peer-python`` only our own numbers are printed. The peer runs in a process of its own, with a home folder of
its own; what it asked is read from the sandbox's log, like what we asked. "deep" is the longest chain of requests of
which each began after the one before had ended: the number of round trips that somebody far away waits for.

The neurons of the synthetic cortex have thousands of synapses each, and moving them takes the server longer than the
latency that is to be measured. So the synapse table is thinned (``--thin``) to about as many rows as the peer's batches
of ten neurons need to be just above the row cap. The peer cannot query its reference tables by ids of nullable
integers, which is what the services send; it is timed up to where it fails.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from cortexclient.sandbox import Sandbox

PEER = """
import contextlib, io, json, sys, time, warnings
warnings.simplefilter("ignore")
job = json.loads(sys.argv[1])
from caveclient import CAVEclient
from cortical_tools.common import DatasetClient
def make():
    cave = CAVEclient(job["datastack"], server_address=job["url"], auth_token=job["token"], write_server_cache=False)
    return DatasetClient(caveclient=cave, cell_id_lookup_view=job["view"], root_id_lookup_main_table=job["main"],
                         root_id_lookup_alt_tables=job["alternative"])
if job["task"] != "cold":
    client = make()
    client.tables[job["main"]](id=[1]).query(log_warning=False)
print("START", time.time())
start = time.perf_counter()
error = None
rows = 0
try:
    if job["task"] == "synapses":
        frame = client.query_synapses(job["roots"], pre=True, post=True, reference_tables=job["reference"],
                                      progress=False)
        rows = len(frame)
    elif job["task"] == "cells":
        # its lookups make clients of their own, unless they are given one
        series = client.root_id_to_cell_id(job["roots"], client=client.cave)
        rows = int((series > -1).sum())
    else:
        client = make()
        rows = len(client.tables[job["main"]]().query(log_warning=False))
except Exception as failure:
    error = f"{type(failure).__name__}: {failure}"[:200]
print("RESULT" + json.dumps({"seconds": time.perf_counter() - start, "rows": rows, "error": error}))
"""


OURS = """
import json, sys, time
job = json.loads(sys.argv[1])
import cortexclient, pandas, pyarrow, requests
from cortexclient.session import Endpoint
from cortexclient.spec import DatasetSpec
def make():
    return cortexclient.load(DatasetSpec.model_validate(job["spec"]), endpoint=Endpoint(job["url"], job["token"]))
if job["task"] != "cold":
    client = make()
    client.tables[job["main"]](id=[1]).query()
print("START", time.time())
start = time.perf_counter()
if job["task"] == "synapses":
    rows = len(client.query_synapses(job["roots"], pre=True, post=True, reference_tables=job["reference"] or None,
                                     progress=False))
elif job["task"] == "cells":
    rows = int((client.root_id_to_cell_id(job["roots"])["cell_id"] > -1).sum())
else:
    rows = len(make().tables[job["main"]]().query())
print("RESULT" + json.dumps({"seconds": time.perf_counter() - start, "rows": rows, "error": None}))
"""


def depth(entries) -> int:
    """Longest chain of requests of which each began when the one before had ended."""
    spans = sorted((entry.time.timestamp(), entry.time.timestamp() + entry.seconds) for entry in entries)
    chain: list[tuple[float, int]] = []
    for begin, end in spans:
        before = [length for ended, length in chain if ended <= begin + 0.001]
        chain.append((end, max(before, default=0) + 1))
    return max((length for _, length in chain), default=0)


def measured(sandbox, python: str, code: str, job: dict) -> dict:
    """Do a job in a process of its own, with a home of its own, and read from the log what it asked."""
    seen = len(sandbox.requests)
    with tempfile.TemporaryDirectory() as home:
        secrets = Path(home) / ".cloudvolume" / "secrets"
        secrets.mkdir(parents=True)
        host = sandbox.url.removeprefix("http://")
        (secrets / f"{host}-cave-secret.json").write_text(json.dumps({"token": sandbox.token}))
        made = subprocess.run(
            [python, "-c", code, json.dumps(job)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env={**os.environ, "HOME": home},
        )
    lines = made.stdout.splitlines()
    results = [line for line in lines if line.startswith("RESULT")]
    if not results:
        return {"seconds": float("nan"), "rows": 0, "requests": 0, "deep": 0, "error": made.stderr[-300:]}
    began = float(next(line for line in lines if line.startswith("START")).split()[1])
    entries = [entry for entry in list(sandbox.requests)[seen:] if entry.time.timestamp() >= began]
    return {
        **json.loads(results[-1].removeprefix("RESULT")),
        "requests": len(entries),
        "deep": depth(entries),
    }


def report(title: str, ours: dict, theirs: dict | None, truth: int | None) -> None:
    print(f"\n{title}" + (f" (there are {truth} rows)" if truth is not None else ""))
    for name, numbers in (("cortexclient", ours), ("cortical-tools 1.1.0", theirs)):
        if numbers is None:
            continue
        print(
            f"  {name:<22}{numbers['seconds']:8.3f} s {numbers['requests']:5d} requests {numbers['deep']:4d} deep "
            f"{numbers['rows']:8d} rows" + (f"   !! {numbers['error']}" if numbers["error"] else "")
        )
    if theirs is not None and theirs["seconds"] == theirs["seconds"]:
        print(f"  ratio                 {theirs['seconds'] / ours['seconds']:8.1f} x")


def thinned(folder: Path, target: Path, every: int) -> None:
    """Link a data folder, with only one synapse in so many."""
    for source in folder.iterdir():
        if source.name != "tables":
            (target / source.name).symlink_to(source)
    (target / "tables").mkdir()
    for source in (folder / "tables").iterdir():
        place = target / "tables" / source.name
        if every > 1 and source.name.startswith("synapses.") and source.suffix == ".parquet":
            rows = pd.read_parquet(source)
            rows[rows["id"] % every == 0].to_parquet(place, index=False)
        else:
            place.symlink_to(source)


def memory() -> None:
    """Peak memory of a million rows, in a process of its own, against the size of the frame that it gives."""
    code = """
import json, resource, sys
import numpy as np, pyarrow as pa
from cortexclient.session.query.frames import combine, to_pandas
rows = 1_000_000
parts = []
for start in range(0, rows, 100_000):
    ids = np.arange(start, start + 100_000, dtype=np.int64)
    columns = {"id": ids, "valid": np.ones(len(ids), dtype=bool)}
    for point in ("pre_pt", "post_pt", "ctr_pt"):
        for axis in "xyz":
            columns[f"{point}_position_{axis}"] = ids.astype(np.int32)
        if point != "ctr_pt":
            columns[f"{point}_supervoxel_id"] = ids
            columns[f"{point}_root_id"] = ids
    columns["size"] = ids.astype(np.float32)
    parts.append(pa.table(columns))
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
table = combine(parts)
frame = to_pandas(table)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
size = int(frame.memory_usage(deep=True).sum())
arrow = sum(part.nbytes for part in parts)
print(json.dumps({"frame": size, "extra": peak - base + arrow}))
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    numbers = json.loads(made.stdout)
    print(
        f"\n1,000,000 synapse rows from 10 parts: frame {numbers['frame'] / 2**20:.0f} MiB, "
        f"peak {numbers['extra'] / 2**20:.0f} MiB = {numbers['extra'] / numbers['frame']:.2f} x the frame"
    )


def prepare(sandbox, arguments) -> tuple[dict, int]:
    """Choose neurons and roots; give the job and the number of rows that there are."""
    folder = sandbox.folder.path
    version = max(
        int(path.name.split(".")[1][1:]) for path in (folder / "tables").glob("synapses.v*.parquet")
    )
    synapses = pd.read_parquet(folder / "tables" / f"synapses.v{version}.parquet")
    synapses = synapses[synapses["valid"] & (synapses["pre_pt_root_id"] != synapses["post_pt_root_id"])]
    cells = pd.read_parquet(folder / "tables" / f"nucleus_detection.v{version}.parquet")
    owners = cells["pt_root_id"]
    counts = synapses["pre_pt_root_id"].value_counts()
    neurons = counts[counts.index.isin(owners) & (counts.index > 0)].index[: arguments.neurons].tolist()
    mine = synapses["pre_pt_root_id"].isin(neurons) | synapses["post_pt_root_id"].isin(neurons)
    nodes = pd.read_parquet(folder / "chunkedgraph" / "nodes.parquet")
    nodes = nodes[nodes["is_root"] & (nodes["layer"] == nodes["layer"].max())]
    mixed = nodes.sort_values("created")["node_id"].drop_duplicates()
    ended = nodes[nodes["superseded"].notna()]["node_id"]
    picked = pd.concat([ended, mixed[~mixed.isin(ended)]]).iloc[: arguments.roots].tolist()
    print(f"{len(neurons)} neurons, {len(picked)} roots of which {ended.isin(picked).sum()} are retired")
    return {"neurons": neurons, "picked": picked}, int(mine.sum())


def compare(data: Path, spec, row_limit: int | None, arguments, chosen: dict, truth: int) -> None:
    """Do every task once on each side, on one server."""
    options = {} if row_limit is None else {"row_limit": row_limit}
    with Sandbox(data=data, latency=arguments.latency, **options) as sandbox:
        job = {
            "spec": spec.model_dump(mode="json", exclude_none=True)
            | {"datastack": sandbox.datastack, "synapse_table": "synapses", "synapses": None},
            "datastack": sandbox.datastack,
            "url": sandbox.url,
            "token": sandbox.token,
            "view": spec.cell_ids.lookup_view,
            "main": spec.cell_ids.main_table,
            "alternative": list(spec.cell_ids.alternative_tables),
        }
        tasks = [
            ("synapses of the neurons, both sides", "synapses", chosen["neurons"], [], truth),
            ("the same with one reference table", "synapses", chosen["neurons"], ["synapse_tags"], truth),
        ]
        if row_limit is None:
            tasks.append(("roots of mixed times to cell ids", "cells", chosen["picked"], [], None))
            tasks.append(("cold load to first rows", "cold", [], [], None))
        most = "the usual cap" if row_limit is None else f"at most {row_limit} rows an answer"
        print(f"\n== {arguments.latency * 1000:.0f} ms latency, {most}")
        for title, task, roots, reference, rows in tasks:
            asked = {**job, "task": task, "roots": roots, "reference": reference}
            # the server loads tables and graph when first asked: nobody is timed doing that
            measured(sandbox, sys.executable, OURS, asked)
            ours = measured(sandbox, sys.executable, OURS, asked)
            python = arguments.peer_python
            theirs = measured(sandbox, python, PEER, asked) if python else None
            report(title, ours, theirs, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="interpreter of an environment with cortical-tools")
    parser.add_argument("--size", default="large", help="size of the synthetic cortex")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds added to each answer")
    parser.add_argument(
        "--row-limit", type=int, default=500, help="most rows of one answer, in the second half"
    )
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument("--roots", type=int, default=100)
    parser.add_argument("--thin", type=int, default=100, help="keep one synapse in so many")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        with Sandbox(size=arguments.size) as whole:
            spec = whole.spec
            thinned(whole.folder.path, target, arguments.thin)
        with Sandbox(data=target) as sandbox:
            chosen, truth = prepare(sandbox, arguments)
        for row_limit in (None, arguments.row_limit):
            compare(target, spec, row_limit, arguments, chosen, truth)
    memory()
    print(
        f"\npeak of this process, sandbox included: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
