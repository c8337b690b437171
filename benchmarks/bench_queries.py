"""Queries and lookups against cortical-tools, on one sandbox, in one run: how long, how many requests, how many rows.

Run it with the interpreter of an environment in which cortical-tools is installed beside this one::

    python benchmarks/bench_queries.py --peer-python /path/to/peer/bin/python

Without ``--peer-python`` only our own numbers are printed. The peer runs in a process of its own, with a home folder of
its own; what it asked is read from the sandbox's log, like what we asked. "deep" is the longest chain of requests of
which each began after the one before had ended: the number of round trips that somebody far away waits for.

The synapse table is made for the purpose (`made_synapses`), so that 200 neurons have as many rows as is wanted: few
(``--rows``), where round trips are what takes time, and many (``--dense``). The peer cannot query its reference tables
by ids of nullable integers, which is what the services send: it fails with a TypeError. So that there is something to
compare with, its own loop is then done by hand, with plain ids, by the column that refers to synapses. Under a low cap
it loses rows; it is timed a second time with batches so small that it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from made_synapses import TABLE, TAGS, make

from cortexclient.sandbox import Sandbox

PEER = """
import contextlib, io, json, math, sys, time, warnings
warnings.simplefilter("ignore")
job = json.loads(sys.argv[1])
import numpy as np, pandas as pd
from caveclient import CAVEclient
from cortical_tools.common import DatasetClient
def make():
    cave = CAVEclient(job["datastack"], server_address=job["url"], auth_token=job["token"], write_server_cache=False)
    return DatasetClient(caveclient=cave, cell_id_lookup_view=job["view"], root_id_lookup_main_table=job["main"],
                         root_id_lookup_alt_tables=job["alternative"])
def tagged(frame):
    # what its query_synapses does with a reference table, but with ids that can be sent, and by what rows refer to
    ids = frame["id"].to_numpy(dtype="int64")
    rows = [
        client.cave.materialize.query_table(job["reference"], filter_in_dict={"target_id": batch},
                                            merge_reference=False, log_warning=False)
        for batch in np.array_split(ids, math.ceil(len(ids) / job["reference_batch"]))
    ]
    rows = pd.concat(rows, ignore_index=True).drop(columns=["id", "valid"])
    return frame.merge(rows, left_on="id", right_on="target_id", how="left")
if job["task"] != "cold":
    client = make()
    client.tables[job["main"]](id=[1]).query(log_warning=False)
note = ""
if job["reference"]:
    client.cave.materialize.query_table(job["reference"], filter_in_dict={"target_id": [1]}, merge_reference=False)
    try:
        client.query_synapses(job["roots"][:1], pre=True, reference_tables=[job["reference"]], progress=False)
    except TypeError as failure:
        note = f"its own reference_tables fails ({failure}); done by hand"
print("START", time.time())
start = time.perf_counter()
error = None
rows = more = 0
try:
    if job["task"] == "synapses":
        frame = client.query_synapses(job["roots"], pre=True, post=True, batch_size=job["batch"], progress=False)
        if job["reference"]:
            frame = tagged(frame)
            more = int(frame["tag"].notna().sum())
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
seconds = time.perf_counter() - start
print("RESULT" + json.dumps({"seconds": seconds, "rows": rows, "more": more, "error": error, "note": note}))
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
more = 0
if job["task"] == "synapses":
    frame = client.query_synapses(job["roots"], pre=True, post=True, reference_tables=job["reference"], progress=False)
    rows = len(frame)
    if job["reference"]:
        more = int(frame["tag"].notna().sum())
elif job["task"] == "cells":
    rows = int((client.root_id_to_cell_id(job["roots"])["cell_id"] > -1).sum())
else:
    rows = len(make().tables[job["main"]]().query())
seconds = time.perf_counter() - start
print("RESULT" + json.dumps({"seconds": seconds, "rows": rows, "more": more, "error": None, "note": ""}))
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
        return {
            "seconds": float("nan"),
            "rows": 0,
            "more": 0,
            "requests": 0,
            "deep": 0,
            "error": made.stderr[-300:],
        }
    began = float(next(line for line in lines if line.startswith("START")).split()[1])
    entries = [entry for entry in list(sandbox.requests)[seen:] if entry.time.timestamp() >= began]
    return {
        **json.loads(results[-1].removeprefix("RESULT")),
        "requests": len(entries),
        "deep": depth(entries),
    }


def report(title: str, found: list[tuple[str, dict]], truth: tuple[int, int] | None) -> None:
    """Print what each side needed and found; ratios are against the first, which is ours."""
    known = (
        ""
        if truth is None
        else f" (there are {truth[0]} rows" + (f", {truth[1]} tagged)" if truth[1] else ")")
    )
    print(f"\n{title}{known}")
    ours = found[0][1]
    for name, numbers in found:
        whole = truth is None or (numbers["rows"], numbers["more"]) == truth
        rows = f"{numbers['rows']:8d} rows" + (f", {numbers['more']} tagged" if truth and truth[1] else "")
        print(
            f"  {name:<34}{numbers['seconds']:8.3f} s {numbers['requests']:5d} requests {numbers['deep']:4d} deep "
            f"{rows}"
            + ("" if whole else "   !! rows are missing")
            + (f"   !! {numbers['error']}" if numbers["error"] else "")
            + (f"   ({numbers['note']})" if numbers.get("note") else "")
        )
    for name, numbers in found[1:]:
        print(f"  {'ratio to ' + name:<34}{numbers['seconds'] / ours['seconds']:8.1f} x")


def roots_of_all_times(folder: Path, number: int) -> list[int]:
    """Choose roots: first all that were retired, then those that are valid."""
    nodes = pd.read_parquet(folder / "chunkedgraph" / "nodes.parquet")
    nodes = nodes[nodes["is_root"]]
    ended = nodes[nodes["superseded"].notna()]["node_id"]
    others = nodes.sort_values("created")["node_id"]
    picked = pd.concat([ended, others[~others.isin(ended)]]).drop_duplicates().iloc[:number].tolist()
    print(f"{len(picked)} roots of which {ended.isin(picked).sum()} are retired")
    return picked


def job_for(sandbox, spec) -> dict:
    """Give what both sides must know about a server."""
    return {
        "spec": spec.model_dump(mode="json", exclude_none=True)
        | {"datastack": sandbox.datastack, "synapse_table": TABLE, "synapses": None},
        "datastack": sandbox.datastack,
        "url": sandbox.url,
        "token": sandbox.token,
        "view": spec.cell_ids.lookup_view,
        "main": spec.cell_ids.main_table,
        "alternative": list(spec.cell_ids.alternative_tables),
        "batch": 10,
        "reference": None,
        "reference_batch": 5000,
    }


def compare(sandbox, job: dict, arguments, title: str, truth=None, careful: dict | None = None) -> None:
    """Do one task on each side; where the peer would lose rows, also with batches so small that it does not."""
    # the server loads tables and graph when first asked: nobody is timed doing that
    measured(sandbox, sys.executable, OURS, job)
    found = [("cortexclient", measured(sandbox, sys.executable, OURS, job))]
    if arguments.peer_python:
        found.append(("cortical-tools 1.1.0", measured(sandbox, arguments.peer_python, PEER, job)))
        if careful:
            name = f"the same, {careful['batch']} neurons at a time"
            found.append((name, measured(sandbox, arguments.peer_python, PEER, job | careful)))
    report(title, found, truth)


def synapses(cortex, arguments, rows: int, row_limit: int | None) -> None:
    """Synapses of the neurons, with and without a reference table."""
    options = {} if row_limit is None else {"row_limit": row_limit}
    with tempfile.TemporaryDirectory() as scratch:
        made = make(cortex.folder.path, Path(scratch), neurons=arguments.neurons, rows=rows)
        truth = made.of_neurons()
        tagged = int(truth["id"].isin(made.tags["target_id"]).sum())
        most = "the usual cap" if row_limit is None else f"at most {row_limit} rows an answer"
        print(f"\n== {len(made.neurons)} neurons with about {rows} synapses on each side, {most}")
        careful = None
        if row_limit is not None and (batch := made.safe_batch(row_limit)) < 10:
            careful = {"batch": batch, "reference_batch": row_limit - 1} if batch else None
        with Sandbox(data=Path(scratch), latency=arguments.latency, **options) as sandbox:
            job = job_for(sandbox, cortex.spec) | {"task": "synapses", "roots": made.neurons}
            compare(sandbox, job, arguments, "synapses, both sides", (len(truth), 0), careful)
            job["reference"] = TAGS
            compare(
                sandbox, job, arguments, "the same with one reference table", (len(truth), tagged), careful
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", help="interpreter of an environment with cortical-tools")
    parser.add_argument("--size", default="small", help="size of the synthetic cortex")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds added to each answer")
    parser.add_argument("--row-limit", type=int, default=500, help="most rows of one answer, where it is low")
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument(
        "--rows", type=int, default=50, help="synapses on each side of a neuron, on the average"
    )
    parser.add_argument(
        "--dense", type=int, default=1000, help="the same where rows weigh more than round trips"
    )
    parser.add_argument("--roots", type=int, default=100)
    arguments = parser.parse_args()
    print(f"{arguments.latency * 1000:.0f} ms latency")
    with Sandbox(size=arguments.size, latency=arguments.latency) as cortex:
        synapses(cortex, arguments, arguments.rows, None)
        synapses(cortex, arguments, arguments.rows, arguments.row_limit)
        synapses(cortex, arguments, arguments.dense, None)
        print("\n== cells and cold starts")
        job = job_for(cortex, cortex.spec)
        roots = roots_of_all_times(cortex.folder.path, arguments.roots)
        compare(
            cortex, job | {"task": "cells", "roots": roots}, arguments, "roots of mixed times to cell ids"
        )
        compare(cortex, job | {"task": "cold", "roots": []}, arguments, "cold load to first rows")


if __name__ == "__main__":
    main()
