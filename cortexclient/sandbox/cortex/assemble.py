"""From a seed to a data folder, step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cortexclient.sandbox.cortex.frame import Frame
from cortexclient.sandbox.cortex.graph import GraphBuilder
from cortexclient.sandbox.cortex.graph_files import AppliedEdit, write_graph
from cortexclient.sandbox.cortex.history import EPOCH, VERSIONS, History, Supply, plan_history
from cortexclient.sandbox.cortex.l2attributes import l2_table, write_l2cache
from cortexclient.sandbox.cortex.names import Spares
from cortexclient.sandbox.cortex.segmentation import Segmentation, grow_cells, segment
from cortexclient.sandbox.cortex.sizes import Size
from cortexclient.sandbox.cortex.synapses import find_synapses
from cortexclient.sandbox.cortex.table_files import write_info, write_tables
from cortexclient.sandbox.cortex.tables import all_tables, place_nuclei

__all__ = ["write_cortex"]

Ints = npt.NDArray[np.int64]


def write_cortex(folder: Path, size: Size, seed: int, frame: Frame, spares: Spares) -> None:
    """Make a cortex and write it into a folder in the layout of ``docs/sandbox-data.md``.

    Parameters
    ----------
    folder : Path
        Existing, empty.
    size : Size
    seed : int
    frame : Frame
    spares : Spares
        Tables and views that a spec asks for beyond the usual ones.
    """
    segmentation = segment(grow_cells(seed, size), frame)
    history = plan_history(seed, _supply(segmentation))
    builder, applied, roots, piece_roots = _replay(segmentation, history)
    write_info(folder, frame.table_resolution)
    write_graph(folder, segmentation, builder, history, applied)
    level2 = l2_table(segmentation, builder)
    cached = np.ones(len(level2.ids), dtype=bool)
    write_l2cache(folder, level2, cached)
    nuclei = place_nuclei(seed, segmentation, size.off_segmentation)
    synapses = find_synapses(seed, segmentation, size.synapse_spacing_voxels)
    tables = all_tables(seed, segmentation, nuclei, synapses, roots, spares)
    write_tables(folder, seed, tables, segmentation, roots, spares)


def _supply(segmentation: Segmentation) -> Supply:
    contacts = segmentation.contacts
    here = (contacts.unit[:, 0] != contacts.unit[:, 1]) & (
        segmentation.chunk[contacts.row[:, 0]] == segmentation.chunk[contacts.row[:, 1]]
    ).all(axis=1)
    return Supply(
        segmentation.cells,
        segmentation.sections,
        segmentation.unit,
        segmentation.section,
        segmentation.chunk,
        segmentation.edges,
        np.unique(contacts.row[here], axis=0),
    )


def _replay(
    segmentation: Segmentation, history: History
) -> tuple[GraphBuilder, list[AppliedEdit], dict[int, Ints], list[tuple[int, Ints]]]:
    """Build the first graph and apply all edits.

    Returns
    -------
    builder : GraphBuilder
    applied : list of AppliedEdit
    roots : dict
        Version -> root of each supervoxel at its time; 0 for now.
    piece_roots : list of tuple
        (microseconds, root of each piece) at the start and after each edit.
    """
    builder = GraphBuilder(segmentation.scheme, segmentation.ids, segmentation.chunk, history.edges, EPOCH)
    active = history.active.copy()
    builder.build(active)
    _, example = np.unique(history.piece, return_index=True)
    snapshots = [(int(EPOCH.timestamp() * 1e6), builder.root_of[example].copy())]
    applied: list[AppliedEdit] = []
    roots: dict[int, Ints] = {}
    pending = list(VERSIONS)
    for edit in history.edits:
        while pending and pending[0].time < edit.time:
            roots[pending.pop(0).number] = builder.root_of.copy()
        old = sorted({int(builder.root_of[edit.source]), int(builder.root_of[edit.sink])})
        active[edit.edges] = edit.kind == "merge"
        new = builder.edit(active, old, edit.time, edit.operation)
        applied.append(AppliedEdit(edit, old, new))
        snapshots.append((int(edit.time.timestamp() * 1e6), builder.root_of[example].copy()))
    for version in pending:
        roots[version.number] = builder.root_of.copy()
    roots[0] = builder.root_of.copy()
    return builder, applied, roots, snapshots
