"""Synapses: where the axon of one cell touches a dendrite or soma."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cortexclient.sandbox.arrays import Bools, Floats, Ints
from cortexclient.sandbox.cortex.anatomy import random_for
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import AXON, DENDRITE

_FIRST_ID = 20_000_001
_AUTAPSES_PER_CELL = 2
_UNSEGMENTED_SHARE = 0.004


@dataclass
class Synapses:
    """All synapses."""

    ids: Ints  # (n,): ascending, with gaps
    pre_nm: Floats  # (n, 3): centres of the voxels on both sides
    post_nm: Floats
    pre_row: Ints  # (n,): rows of supervoxels, -1 where the point misses the segmentation
    post_row: Ints
    size: Floats  # (n,)

    @property
    def centre_nm(self) -> Floats:
        """Points halfway between the two sides, float64 (n, 3)."""
        return (self.pre_nm + self.post_nm) / 2


def find_synapses(seed: int, segmentation: Segmentation, spacing: int) -> Synapses:
    """One synapse for each block of ``spacing`` voxels in which an axon touches a dendrite or soma of another cell.

    A few axons also meet their own dendrites, and a few synapses have a partner that was never segmented.
    """
    random = random_for(seed, 6)
    contacts = segmentation.contacts
    compartment = segmentation.compartment[contacts.row]
    axonal = compartment == AXON
    usable = np.flatnonzero(axonal[:, 0] != axonal[:, 1])
    first = np.where(axonal[usable, 0], 0, 1)
    linear = np.column_stack([contacts.linear[usable, first], contacts.linear[usable, 1 - first]])
    row = np.column_stack([contacts.row[usable, first], contacts.row[usable, 1 - first]])
    unit = np.column_stack([contacts.unit[usable, first], contacts.unit[usable, 1 - first]])
    # a cell's own soma is touched wherever its axon begins: that is no synapse
    own = unit[:, 0] == unit[:, 1]
    keep = ~own | (segmentation.compartment[row[:, 1]] == DENDRITE)
    linear, row, unit, own = linear[keep], row[keep], unit[keep], own[keep]
    chosen, area = _one_per_block(segmentation, linear, unit, spacing)
    chosen, area = _few_autapses(chosen, area, unit, own)
    linear, row = linear[chosen], row[chosen]
    size = np.round(area * random.lognormal(5.2, 0.7, len(area)) + 50.0)
    voxels = segmentation.grid.voxels(linear.ravel())
    points = segmentation.grid.centres_nm(voxels).reshape(-1, 2, 3)
    synapses = Synapses(np.empty(0, dtype=np.int64), points[:, 0], points[:, 1], row[:, 0], row[:, 1], size)
    _lose_partners(random, segmentation, synapses)
    order = random.permutation(len(size))
    gaps = random.integers(1, 9, len(size))
    return Synapses(
        _FIRST_ID + np.cumsum(gaps),
        synapses.pre_nm[order],
        synapses.post_nm[order],
        synapses.pre_row[order],
        synapses.post_row[order],
        size[order],
    )


def _one_per_block(segmentation: Segmentation, linear: Ints, unit: Ints, spacing: int) -> tuple[Ints, Ints]:
    """Middle one of the touching voxel pairs of each two cells in each block, and how many pairs there are."""
    block = segmentation.grid.voxels(linear[:, 0]) // spacing
    order = np.lexsort(
        (linear[:, 1], linear[:, 0], block[:, 2], block[:, 1], block[:, 0], unit[:, 1], unit[:, 0])
    )
    key = np.column_stack([unit, block])[order]
    starts = np.flatnonzero(np.diff(key, axis=0, prepend=-1).any(axis=1))
    count = np.diff([*starts, len(key)])
    return order[starts + count // 2], count


def _few_autapses(chosen: Ints, area: Ints, unit: Ints, own: Bools) -> tuple[Ints, Ints]:
    """Keep a few of the places at which a cell meets itself, in every third such cell."""
    selfish = own[chosen]
    keep = ~selfish
    cells = np.unique(unit[chosen[selfish], 0])
    for cell in cells[::3]:
        mine = np.flatnonzero(selfish & (unit[chosen, 0] == cell))
        keep[mine[np.argsort(-area[mine], kind="stable")[:_AUTAPSES_PER_CELL]]] = True
    return chosen[keep], area[keep]


def _lose_partners(random: np.random.Generator, segmentation: Segmentation, synapses: Synapses) -> None:
    """Move one side of a few synapses to where nothing is segmented."""
    count = max(2, round(_UNSEGMENTED_SHARE * len(synapses.size)))
    picked = random.choice(len(synapses.size), size=count, replace=False)
    pre, post = (synapses.pre_nm, synapses.pre_row), (synapses.post_nm, synapses.post_row)
    for side, ((point, row), (other, _)) in enumerate(((pre, post), (post, pre))):
        mine = picked[side::2]
        aside = random.choice([-900.0, 900.0], size=(len(mine), 3))
        away = np.sign(point[mine] - other[mine]) * 1400.0 + aside
        moved = other[mine] + away
        linear = segmentation.grid.linear(segmentation.grid.of_nm(moved))
        free = segmentation.rows_at(linear) < 0
        point[mine[free]] = segmentation.grid.centres_nm(segmentation.grid.of_nm(moved[free]))
        row[mine[free]] = -1
