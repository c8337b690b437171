"""A history for the neurons of `made_synapses`: merges and splits, as proofreading makes them.

The cortex itself was edited nine times. Here every neuron gets edits of its own, most of them merges with a fragment,
the others splits that cut a part off; proofread neurons of real datasets have some tens of them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

_FIRST_ROOT = 648518346343000000  # made_synapses numbers its roots up to here
_FIRST_EDIT = 1000
_BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
_SPLITS = 0.25


def add_history(folder: Path, target: Path, neurons: list[int], *, edits: int, seed: int = 1) -> int:
    """Give roots of a data folder that `made_synapses.make` wrote the edits that led to them.

    Parameters
    ----------
    folder : pathlib.Path
        The data folder that was linked.
    target : pathlib.Path
        The folder that was made of it.
    neurons : list of int
        Root ids; they become nodes of the graph, the newest of their history.
    edits : int
        Mean number of edits of a neuron. Neurons differ by a factor of several.
    seed : int
        Of the random numbers.

    Returns
    -------
    int
        Number of edits made.
    """
    graph = target / "chunkedgraph"
    graph.unlink()
    graph.mkdir()
    for source in (folder / "chunkedgraph").iterdir():
        if source.name not in ("nodes.parquet", "operations.json"):
            (graph / source.name).symlink_to(source)
    entries: list[dict[str, Any]] = json.loads((folder / "chunkedgraph" / "operations.json").read_text())
    merge, split = (next(entry for entry in entries if entry["kind"] == kind) for kind in ("merge", "split"))
    random = np.random.default_rng(seed)
    counts = 1 + random.poisson((edits - 1) * random.lognormal(sigma=0.7, mean=-0.245, size=len(neurons)))
    fresh = iter(range(_FIRST_ROOT, _FIRST_ROOT + 10**7))
    born: dict[int, datetime] = {}
    ended: dict[int, datetime] = {}
    made = []
    for neuron, number in zip(neurons, counts.tolist(), strict=True):
        current = next(fresh)
        born[current] = _BEGIN
        for step in range(number):
            when = _BEGIN + timedelta(days=20 + 140 * (step + 1) / number, seconds=int(random.integers(3600)))
            after, other = neuron if step == number - 1 else next(fresh), next(fresh)
            splits = random.random() < _SPLITS
            old, new = ([current], [after, other]) if splits else ([current, other], [after])
            born |= {other: _BEGIN} | dict.fromkeys(new, when)
            ended |= dict.fromkeys(old, when)
            made.append({**(split if splits else merge), "old_roots": old, "new_roots": new, "when": when})
            current = after
    made.sort(key=lambda entry: entry["when"])
    for number, entry in enumerate(made, start=_FIRST_EDIT):
        when = str(entry.pop("when"))
        entries.append({**entry, "operation_id": number, "time": when, "finished": when})
    (graph / "operations.json").write_text(json.dumps(entries))
    nodes = pq.read_table(folder / "chunkedgraph" / "nodes.parquet")
    roots = pd.DataFrame({"node_id": list(born), "created": list(born.values())})
    roots["superseded"] = roots["node_id"].map(ended)
    top = {"layer": np.int8(9), "chunk_x": 0, "chunk_y": 0, "chunk_z": 0, "segment_id": 0, "is_root": True}
    more = pa.Table.from_pandas(
        roots.assign(**top, children=[[]] * len(roots))[nodes.column_names],
        schema=nodes.schema.remove_metadata(),
        preserve_index=False,
    )
    pq.write_table(pa.concat_tables([nodes.replace_schema_metadata(), more]), graph / "nodes.parquet")
    return len(made)
