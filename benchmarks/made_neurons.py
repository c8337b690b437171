"""A data folder with as many neurons as are wanted: copies of those of a cortex, under root ids of their own.

A copy has the skeleton of its neuron and its synapses, those with other neurons of the cortex with their copies.
Growing a cortex of 310 neurons takes minutes, and a job of many neurons does the same for copies of 30.
"""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from made_synapses import TABLE

from cortexclient.sandbox.stores.skeletons import SkeletonFiles

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.sandbox.layout import DataFolder

_FIRST_ROOT = 648518346344000000
_BEGIN = datetime(2025, 1, 1, tzinfo=UTC)


def make(cortex: DataFolder, target: Path, *, neurons: int, version: int = 3) -> tuple[list[int], int]:
    """Link a data folder of a cortex, with more neurons.

    Parameters
    ----------
    cortex : DataFolder
        Whose neurons of this version that have a skeleton are copied, each equally often.
    target : pathlib.Path
        An empty folder.
    neurons : int
        How many copies there are in the end.
    version : int
        The version at which the copies are valid, and have synapses.

    Returns
    -------
    roots : list of int
        Of the copies.
    models : int
        How many neurons they are copies of.
    """
    skeletons = SkeletonFiles(cortex)
    cells = pd.read_parquet(cortex.file("tables", f"nucleus_detection.v{version}.parquet"))
    models = sorted(set(cells["pt_root_id"].tolist()) & set(skeletons.roots()))
    rounds = -(-neurons // len(models))
    ids = _FIRST_ROOT + 13 * np.arange(rounds * len(models), dtype=np.int64).reshape(rounds, len(models))
    roots: list[int] = ids.ravel()[:neurons].tolist()
    table = f"{TABLE}.v{version}.parquet"
    made = {"tables", "chunkedgraph", "skeletons", table, "nodes.parquet"}
    for name in ("skeletons", "tables", "chunkedgraph"):
        (target / name).mkdir()
    for name in ("", "tables", "chunkedgraph"):
        for source in cortex.file(name).iterdir():
            if source.name not in made:
                (target / name / source.name).symlink_to(source)
    synapses = pd.read_parquet(cortex.file("tables", table))
    _write_synapses(synapses, target / "tables" / table, np.array(models), ids)
    _write_nodes(cortex, target, roots)
    for number, model in enumerate(models):
        document = json.dumps(skeletons.document(model))
        for root in ids[:, number].tolist():
            content = document.replace(str(model), str(root)).encode()
            (target / "skeletons" / f"{root}.json.gz").write_bytes(gzip.compress(content, 1, mtime=0))
    # so that the server need not open all files to see which skeletons there are
    (target / "skeletons" / "roots.json").write_text(json.dumps(dict.fromkeys(map(str, roots))))
    return roots, len(models)


def _write_synapses(synapses: pd.DataFrame, path: Path, models: np.ndarray, ids: np.ndarray) -> None:
    mine = synapses[synapses["pre_pt_root_id"].isin(models) | synapses["post_pt_root_id"].isin(models)]
    parts = [synapses]
    for step, row in enumerate(ids, start=1):
        copies = dict(zip(models.tolist(), row.tolist(), strict=True))
        sides = {name: mine[name].replace(copies) for name in ("pre_pt_root_id", "post_pt_root_id")}
        parts.append(mine.assign(id=mine["id"] + step * 10**6, **sides))
    rows = pd.concat(parts, ignore_index=True)
    rows.assign(storage_order=np.arange(len(rows))).to_parquet(path, index=False)


def _write_nodes(cortex: DataFolder, target: Path, roots: list[int]) -> None:
    nodes = pq.read_table(cortex.file("chunkedgraph", "nodes.parquet")).replace_schema_metadata(None)
    columns = {
        "node_id": roots,
        "layer": np.int8(9),
        **dict.fromkeys(("chunk_x", "chunk_y", "chunk_z", "segment_id"), 0),
        "created": _BEGIN,
        "superseded": pd.NaT,
        "is_root": True,
        "children": [[]] * len(roots),
    }
    more = pa.Table.from_pandas(
        pd.DataFrame(columns)[nodes.column_names], schema=nodes.schema, preserve_index=False
    )
    pq.write_table(pa.concat_tables([nodes, more]), target / "chunkedgraph" / "nodes.parquet")
