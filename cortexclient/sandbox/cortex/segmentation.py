"""All cells cut into supervoxels with ids, and the places where different cells touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cortexclient.sandbox.arrays import Ints
from cortexclient.sandbox.cortex.anatomy import Cell, grow_axons, grow_dendrites, make_orphans, place_somata
from cortexclient.sandbox.cortex.files import Spool, in_two_threads
from cortexclient.sandbox.cortex.frame import Frame
from cortexclient.sandbox.cortex.sizes import CHUNK, Size
from cortexclient.sandbox.cortex.supervoxels import (
    CellSupervoxels,
    Grid,
    Measures,
    Sections,
    Voxels,
    contacts,
    cut_into_sections,
    cut_into_supervoxels,
    grid_around,
    merge_measures,
    owners,
    paint,
)
from cortexclient.sandbox.stores.graph.state import IdLayout, find

# chunk rows along the depth that are resolved in one pass: bounds the memory of large volumes
_SLAB_CHUNKS = 8


@dataclass(frozen=True)
class Contacts:
    """Pairs of touching voxels of different cells, or of the axon and a dendrite of one cell."""

    linear: Ints  # (n, 2): linear indices of the voxels
    unit: Ints  # (n, 2): cells
    row: Ints  # (n, 2): rows of the supervoxels


@dataclass
class Segmentation:
    """The segmented cortex before any history."""

    cells: list[Cell]  # neurons, then orphans
    sections: list[Sections]
    frame: Frame
    grid: Grid
    scheme: IdLayout
    voxels: list[Voxels]  # of each cell
    voxel_rows: list[Ints]  # row of the supervoxel of each voxel, by cell
    ids: Ints  # (n,): supervoxel ids, ascending by chunk
    unit: Ints  # (n,)
    section: Ints  # (n,)
    chunk: Ints  # (n, 3)
    low: Ints  # (n, 3)
    high: Ints  # (n, 3)
    middle: Ints  # (n,): linear index of a voxel in the middle of each supervoxel
    measures: Measures
    edges: Ints  # (e, 2): rows; within cells
    edge_area: Ints  # (e,)
    contacts: Contacts

    @property
    def compartment(self) -> Ints:
        """Compartment of each supervoxel, int64 (n,)."""
        kinds = np.concatenate([part.kind for part in self.sections])
        starts = np.cumsum([0, *(len(part.kind) for part in self.sections[:-1])])
        return kinds[starts[self.unit] + self.section]

    def rows_at(self, linear: Ints) -> Ints:
        """Row of the supervoxel at each linear index, -1 where nothing is."""
        found = np.full(len(linear), -1, dtype=np.int64)
        for voxels, rows in zip(self.voxels, self.voxel_rows, strict=True):
            at = find(voxels.linear, linear)
            found[at >= 0] = rows[at[at >= 0]]
        return found


def grow_cells(seed: int, size: Size) -> list[Cell]:
    """All cells of a cortex: neurons with all their neurites, then orphans."""
    cells = place_somata(seed, size)
    for cell in cells:
        grow_dendrites(seed, cell, size.extent)
    grow_axons(seed, cells, size)
    return [*cells, *make_orphans(seed, cells, size)]


def segment(cells: list[Cell], frame: Frame, spool: Spool | None = None) -> Segmentation:
    """Turn cells into supervoxels with ids; the spool holds the voxels of a cortex that is too large for memory."""
    spool = spool or Spool()
    grid = grid_around(cells, frame)
    scheme = IdLayout.for_chunks(grid.chunks)
    sections = [cut_into_sections(cell) for cell in cells]
    alone = in_two_threads(lambda i: paint(cells[i], sections[i], grid, frame), range(len(cells)))
    painted = [_spooled(spool, voxels) for voxels in alone]
    owned = [np.zeros(len(voxels.linear), dtype=bool) for voxels in painted]
    touching = []
    for linear, owner, first, second, fresh in _slabs(painted, grid):
        # two bytes are sorted by counting
        order = np.argsort(owner[:fresh].astype(np.uint16), kind="stable")
        stops = np.searchsorted(owner[:fresh][order], np.arange(len(cells) + 1))
        for unit, voxels in enumerate(painted):
            mine = linear[:fresh][order[stops[unit] : stops[unit + 1]]]
            owned[unit][np.searchsorted(voxels.linear, mine)] = True
        touching.append(
            (np.column_stack([linear[first], linear[second]]), np.column_stack([owner[first], owner[second]]))
        )
    kept = [
        _spooled(spool, Voxels(voxels.linear[keep], voxels.section[keep], voxels.share[keep]))
        for voxels, keep in zip(painted, owned, strict=True)
    ]
    cut = []
    for supervoxels in in_two_threads(
        lambda i: cut_into_supervoxels(kept[i], sections[i], grid), range(len(cells))
    ):
        supervoxels.of_voxel = spool.keep(supervoxels.of_voxel)
        cut.append(supervoxels)
    result = _join(cells, sections, frame, grid, scheme, kept, cut, spool)
    result.contacts = _contact_rows(result, cut, touching)
    return result


def _spooled(spool: Spool, voxels: Voxels) -> Voxels:
    return Voxels(spool.keep(voxels.linear), spool.keep(voxels.section), spool.keep(voxels.share))


def _slabs(painted: list[Voxels], grid: Grid) -> Iterator[tuple[Ints, Ints, Ints, Ints, int]]:
    """Slabs of depth: voxels and owners (with one layer more), touching pairs, and how many voxels are its own."""
    layer = int(grid.strides[1])

    def slab(top: int) -> tuple[Ints, Ints, Ints, Ints, int]:
        low = top * CHUNK[1] * layer
        high = low + _SLAB_CHUNKS * CHUNK[1] * layer
        linear, owner = owners(painted, low, high + layer)
        fresh = int(np.searchsorted(linear, high))
        first, second = contacts(linear, owner, grid)
        # a pair belongs to the slab of its first voxel, so that none is met twice
        mine = first < fresh
        return linear, owner, first[mine], second[mine], fresh

    return in_two_threads(slab, range(0, int(grid.chunks[1]), _SLAB_CHUNKS))


def _join(
    cells: list[Cell],
    sections: list[Sections],
    frame: Frame,
    grid: Grid,
    scheme: IdLayout,
    voxels: list[Voxels],
    cut: list[CellSupervoxels],
    spool: Spool,
) -> Segmentation:
    """Number the supervoxels of all cells within each chunk."""
    starts = np.cumsum([0, *(len(part.section) for part in cut)])
    unit = np.repeat(np.arange(len(cells)), [len(part.section) for part in cut])
    chunk = np.concatenate([part.chunk for part in cut])
    order = np.lexsort((np.arange(len(unit)), chunk[:, 2], chunk[:, 1], chunk[:, 0]))
    row_of = np.empty(len(order), dtype=np.int64)
    row_of[order] = np.arange(len(order))
    chunk = chunk[order]
    first = np.flatnonzero(np.diff(chunk, axis=0, prepend=-1).any(axis=1))
    segment_number = np.arange(len(chunk)) - np.repeat(first, np.diff([*first, len(chunk)])) + 1
    measures = merge_measures([part.measures for part in cut])
    voxel_rows = [spool.keep(row_of[starts[i] + part.of_voxel]) for i, part in enumerate(cut)]
    edges = np.sort(np.concatenate([row_of[starts[i] + part.edges] for i, part in enumerate(cut)]), axis=1)
    return Segmentation(
        cells=cells,
        sections=sections,
        frame=frame,
        grid=grid,
        scheme=scheme,
        voxels=voxels,
        voxel_rows=voxel_rows,
        ids=scheme.encode(1, chunk, segment_number),
        unit=unit[order],
        section=np.concatenate([part.section for part in cut])[order],
        chunk=chunk,
        low=np.concatenate([part.low for part in cut])[order],
        high=np.concatenate([part.high for part in cut])[order],
        middle=np.concatenate([part.middle for part in cut])[order],
        measures=Measures(*(getattr(measures, name)[order] for name in Measures.__dataclass_fields__)),
        edges=edges,
        edge_area=np.concatenate([part.edge_area for part in cut]),
        contacts=Contacts(*(np.empty((0, 2), dtype=np.int64) for _ in range(3))),
    )


def _contact_rows(
    result: Segmentation, cut: list[CellSupervoxels], touching: list[tuple[Ints, Ints]]
) -> Contacts:
    """Supervoxels of all touching voxels, those within one cell last."""
    linear = [pair for pair, _ in touching]
    unit = [pair for _, pair in touching]
    for index, part in enumerate(cut):
        linear.append(result.voxels[index].linear[part.self_touch])
        unit.append(np.full(part.self_touch.shape, index, dtype=np.int64))
    voxels, owner = np.concatenate(linear), np.concatenate(unit)
    rows = np.empty_like(voxels)
    for index in range(len(result.cells)):
        mine = owner == index
        rows[mine] = result.voxel_rows[index][np.searchsorted(result.voxels[index].linear, voxels[mine])]
    return Contacts(voxels, owner, rows)
