"""The chunkedgraph of a recorded cell: level-2 ids, supervoxels where a synapse names one, and what lies above."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cortexclient.sandbox.convert.readers import SIDES, Cell

__all__ = ["write_graph"]

Ids = NDArray[np.int64]
# a recording has no history: everything was always there, from the time the real graph gives its first state
BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
AXES = ("x", "y", "z")


class _Layout:
    """How ids of one graph are put together: layer, chunk, segment."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.bits = {int(layer): int(bits) for layer, bits in info["graph"]["spatial_bit_masks"].items()}
        self.layers = int(info["graph"]["n_layers"])

    def chunks(self, ids: Ids, layer: int) -> Ids:
        """Chunk coordinates, (n, 3)."""
        bits = self.bits[layer]
        shifts = 56 - bits * np.array([1, 2, 3])
        chunks: Ids = (ids[:, None] >> shifts) & ((1 << bits) - 1)
        return chunks

    def segments(self, ids: Ids, layer: int) -> Ids:
        """Segment numbers, (n,)."""
        return ids & ((1 << (56 - 3 * self.bits[layer])) - 1)

    def make(self, layer: int, chunks: Ids, segment: int) -> Ids:
        """Ids of one segment number in many chunks, (n,)."""
        bits = self.bits[layer]
        shifts = 56 - bits * np.array([1, 2, 3])
        ids: Ids = (np.int64(layer) << 56) + (chunks << shifts).sum(axis=1) + segment
        return ids


def write_graph(cell: Cell, folder: Path, info: dict[str, Any]) -> None:
    """Write the ``chunkedgraph`` part of a folder."""
    layout = _Layout(info)
    supervoxels, parents = _supervoxels(cell)
    links = [(supervoxels, parents)]
    level = np.sort(cell.l2.index.to_numpy(np.int64))
    if not (level >> 56 == 2).all():
        raise ValueError(f"some level-2 ids of {cell.root_id} are not of layer 2")
    for layer in range(3, layout.layers):
        chunks = layout.chunks(level, layer - 1) >> 1
        # one node for each chunk: what connects inside a chunk was not recorded, only that it is one cell
        above = layout.make(layer, chunks, 1)
        links.append((level, above))
        level = np.unique(above)
    links.append((level, np.full(len(level), cell.root_id, np.int64)))
    nodes = np.concatenate([part for part, _ in links])
    above = np.concatenate([part for _, part in links])
    out = folder / "chunkedgraph"
    out.mkdir(exist_ok=True)
    body = {**info, "data_dir": "{BASE}/precomputed/seg", "sharded_mesh": False, "scales": _raw_scales(info)}
    (out / "info.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
    _write_nodes(out, layout, nodes, above)
    _write_supervoxels(out, layout, supervoxels, parents)
    edges = cell.l2_edges
    columns = {
        "root_id": np.full(len(edges), cell.root_id, np.int64),
        "l2_id_1": edges[:, 0],
        "l2_id_2": edges[:, 1],
    }
    pq.write_table(pa.table(columns), out / "l2_edges.parquet")
    empty = {name: pa.array([], pa.int64()) for name in ("parent_root", "child_root", "operation_id")}
    pq.write_table(
        pa.table({**empty, "time": pa.array([], pa.timestamp("us", "UTC"))}), out / "lineage.parquet"
    )
    (out / "operations.json").write_text("[]", encoding="utf-8")


def _raw_scales(info: dict[str, Any]) -> list[dict[str, Any]]:
    """Scales without the compression of their chunks, of which a recording has none."""
    drop = {"compressed_segmentation_block_size", "locked"}
    return [
        {**{k: v for k, v in scale.items() if k not in drop}, "encoding": "raw"} for scale in info["scales"]
    ]


def _supervoxels(cell: Cell) -> tuple[Ids, Ids]:
    """Supervoxels that synapses name, and what lies above each: a level-2 id of the cell, or the partner's root."""
    rows = cell.synapses
    supervoxels = np.concatenate([rows[f"{side}_pt_supervoxel_id"].to_numpy(np.int64) for side in SIDES])
    above = np.concatenate(
        [
            np.where(
                rows[f"{side}_pt_l2_id"] > 0, rows[f"{side}_pt_l2_id"], rows[f"{side}_pt_root_id"]
            ).astype(np.int64)
            for side in SIDES
        ]
    )
    known = (supervoxels > 0) & (above > 0)
    supervoxels, above = supervoxels[known], above[known]
    order = np.lexsort(
        (above, supervoxels)
    )  # a level-2 id sorts before a root: the cell's own knowledge wins
    supervoxels, above = supervoxels[order], above[order]
    first = (
        np.concatenate([[True], supervoxels[1:] != supervoxels[:-1]])
        if len(supervoxels)
        else np.empty(0, bool)
    )
    clash = ~first & (above != above[np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))])
    if clash.any() and (above[clash] >> 56 == 2).any():
        raise ValueError(f"supervoxel {supervoxels[clash][0]} of {cell.root_id} has two level-2 ids")
    return supervoxels[first], above[first]


def _write_nodes(out: Path, layout: _Layout, nodes: Ids, above: Ids) -> None:
    tops = np.setdiff1d(above, nodes)
    everything = np.concatenate([nodes, tops])
    everything.sort()
    layer = everything >> 56
    chunks = np.zeros((len(everything), 3), np.int64)
    segments = np.zeros(len(everything), np.int64)
    for number in np.unique(layer).tolist():
        here = layer == number
        chunks[here] = layout.chunks(everything[here], number)
        segments[here] = layout.segments(everything[here], number)
    order = np.lexsort((nodes, above))
    lows = np.searchsorted(above[order], everything, side="left")
    highs = np.searchsorted(above[order], everything, side="right")
    children = [
        nodes[order][low:high].tolist() for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
    ]
    count = len(everything)
    begun = pa.array([BEGINNING] * count, pa.timestamp("us", "UTC"))
    columns = {
        "node_id": everything,
        "layer": layer.astype(np.int8),
        **{f"chunk_{axis}": chunks[:, i].astype(np.int32) for i, axis in enumerate(AXES)},
        "segment_id": segments,
        "created": begun,
        "superseded": pa.nulls(count, pa.timestamp("us", "UTC")),
        "is_root": layer == layout.layers,
        "children": pa.array(children, pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(columns), out / "nodes.parquet")
    links = {
        "node_id": nodes,
        "parent_id": above,
        "valid_from": pa.array([BEGINNING] * len(nodes), pa.timestamp("us", "UTC")),
        "valid_until": pa.nulls(len(nodes), pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(links), out / "parents.parquet")


def _write_supervoxels(out: Path, layout: _Layout, supervoxels: Ids, above: Ids) -> None:
    mine = above >> 56 == 2
    supervoxels, above = supervoxels[mine], above[mine]
    chunks = layout.chunks(supervoxels, 1)
    if not np.array_equal(chunks, layout.chunks(above, 2)):
        raise ValueError("some supervoxels lie in another chunk than their level-2 ids")
    count = len(supervoxels)
    unknown = pa.nulls(count, pa.int64())
    columns = {
        "supervoxel_id": supervoxels,
        **{f"chunk_{axis}": chunks[:, i] for i, axis in enumerate(AXES)},
        "segment_id": layout.segments(supervoxels, 1),
        **{f"{end}_{axis}": unknown for end in ("min", "max") for axis in AXES},
        **{f"centroid_{axis}{unit}": pa.nulls(count, pa.float64()) for unit in ("", "_nm") for axis in AXES},
        "voxels": unknown,
        "l2_id": above,
        "valid_from": pa.array([BEGINNING] * count, pa.timestamp("us", "UTC")),
        "valid_until": pa.nulls(count, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), out / "supervoxels.parquet")
