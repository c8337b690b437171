"""What the generator knows and no service tells: written for tests, read by ``cortexclient.sandbox.truth``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cortexclient.sandbox.cortex.files import TIME, write_json, write_table
from cortexclient.sandbox.cortex.history import History
from cortexclient.sandbox.cortex.rows import NEVER, Rows
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import GENERATOR_VERSION, Size
from cortexclient.sandbox.cortex.synapses import Synapses
from cortexclient.sandbox.cortex.tables import Nuclei

__all__ = ["write_truth"]

Ints = npt.NDArray[np.int64]


def write_truth(
    folder: Path,
    *,
    size: Size,
    seed: int,
    segmentation: Segmentation,
    history: History,
    piece_roots: list[tuple[int, Ints]],
    nuclei: Nuclei,
    synapses: Synapses,
    synapse_rows: Rows,
) -> None:
    """Write the ``truth`` folder."""
    place = folder / "truth"
    frame = segmentation.frame
    write_json(
        place / "about.json",
        {
            "generator_version": GENERATOR_VERSION,
            "size": size.name,
            "seed": seed,
            "um_to_nm_matrix": list(frame.matrix),
            "um_to_nm_offset": list(frame.offset),
            "table_resolution_nm": list(frame.table_resolution),
        },
    )
    cell_ids = _cell_ids(segmentation, nuclei)
    _write_cells(place, segmentation, nuclei, cell_ids)
    _write_pieces(place, history, piece_roots, cell_ids)
    write_table(
        place / "supervoxels.parquet",
        {
            "supervoxel_id": segmentation.ids,
            "piece": history.piece,
            "cell_id": cell_ids[segmentation.unit],
            "compartment": segmentation.compartment.astype(np.int8),
        },
    )
    _write_synapses(place, segmentation, history, synapses, synapse_rows, cell_ids)


def _cell_ids(segmentation: Segmentation, nuclei: Nuclei) -> Ints:
    """Nucleus id of each cell, 0 for an orphan."""
    ids = np.zeros(len(segmentation.cells), dtype=np.int64)
    known = nuclei.cell >= 0
    ids[nuclei.cell[known]] = nuclei.ids[known]
    return ids


def _write_cells(place: Path, segmentation: Segmentation, nuclei: Nuclei, cell_ids: Ints) -> None:
    neurons = [cell for cell in segmentation.cells if cell.is_neuron]
    at = np.array([int(np.flatnonzero(nuclei.cell == cell.index)[0]) for cell in neurons])
    soma_um = np.array([cell.soma_um for cell in neurons])
    soma_nm = nuclei.soma_nm[at]
    write_table(
        place / "cells.parquet",
        {
            "cell_id": cell_ids[: len(neurons)],
            "piece": np.arange(len(neurons)),
            "kind": pa.array([cell.kind for cell in neurons], type=pa.string()),
            "cell_type": pa.array([cell.cell_type for cell in neurons], type=pa.string()),
            **{f"soma_{axis}_nm": soma_nm[:, k] for k, axis in enumerate("xyz")},
            **{f"soma_{axis}_um": soma_um[:, k] for k, axis in enumerate("xyz")},
            "soma_radius_um": np.array([cell.soma_radius_um for cell in neurons]),
            "soma_supervoxel_id": segmentation.ids[nuclei.soma_row[at]],
            "point_on_segmentation": nuclei.row[at] >= 0,
        },
    )


def _write_pieces(place: Path, history: History, piece_roots: list[tuple[int, Ints]], cell_ids: Ints) -> None:
    """Root of every piece over time, one row for each stretch in which it does not change."""
    rows: list[tuple[int, int, int, int]] = []
    for piece in range(len(history.piece_cell)):
        start, root = piece_roots[0][0], int(piece_roots[0][1][piece])
        for when, roots in piece_roots[1:]:
            if int(roots[piece]) != root:
                rows.append((piece, root, start, when))
                start, root = when, int(roots[piece])
        rows.append((piece, root, start, NEVER))
    table: Any = np.array(rows, dtype=np.int64)
    write_table(
        place / "pieces.parquet",
        {
            "piece": table[:, 0],
            "cell_id": cell_ids[history.piece_cell[table[:, 0]]],
            "root_id": table[:, 1],
            "valid_from": pa.array(table[:, 2]).cast(TIME),
            "valid_until": pa.array(table[:, 3], mask=table[:, 3] == NEVER).cast(TIME),
        },
    )


def _write_synapses(
    place: Path, segmentation: Segmentation, history: History, synapses: Synapses, rows: Rows, cell_ids: Ints
) -> None:
    columns: dict[str, Any] = {"id": rows.ids}
    take = np.searchsorted(synapses.ids, rows.ids)
    for side, row, nm in (
        ("pre", synapses.pre_row[take], synapses.pre_nm[take]),
        ("post", synapses.post_row[take], synapses.post_nm[take]),
    ):
        hit = row >= 0
        columns[f"{side}_cell_id"] = np.where(hit, cell_ids[segmentation.unit[row]], -1)
        columns[f"{side}_piece"] = np.where(hit, history.piece[row], -1)
        columns[f"{side}_supervoxel_id"] = np.where(hit, segmentation.ids[row], 0)
        columns[f"{side}_compartment"] = np.where(hit, segmentation.compartment[row], 0).astype(np.int8)
        columns |= {f"{side}_{axis}_nm": nm[:, k] for k, axis in enumerate("xyz")}
    columns["size"] = synapses.size[take]
    columns["created"] = pa.array(rows.created).cast(TIME)
    columns["deleted"] = pa.array(rows.deleted, mask=rows.deleted == NEVER).cast(TIME)
    write_table(place / "synapses.parquet", columns)
