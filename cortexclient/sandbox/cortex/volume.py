"""From trees to voxels: each cell's voxels, who owns a voxel that two cells want, and where cells touch.

Nothing here is dense: a voxel is one integer, ``(y * width_x + x) * width_z + z``, so that neighbours along an axis are
a fixed number apart and slabs of depth are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cortexclient.sandbox.cortex.anatomy import Cell
from cortexclient.sandbox.cortex.frame import Frame
from cortexclient.sandbox.cortex.sizes import CHUNK, SEGMENTATION_NM

__all__ = [
    "Grid",
    "Sections",
    "Voxels",
    "contacts",
    "cut_into_sections",
    "grid_around",
    "owners",
    "paint",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_VOXEL_NM = np.asarray(SEGMENTATION_NM, dtype=np.float64)
_CHUNK = np.asarray(CHUNK, dtype=np.int64)
_MARGIN = 2
_THINNEST_NM = 250.0
_SAMPLE_NM = 100.0
# points of one section: about 6 um of neurite
_SECTION_POINTS = 3
# bit fields of the sort keys below
_SHARE_BITS, _SECTION_BITS, _UNIT_BITS = 8, 18, 11


@dataclass(frozen=True)
class Grid:
    """The voxel grid of the segmentation.

    Parameters
    ----------
    offset : (3,) int64
        Voxel of the dataset at which the segmentation begins.
    chunks : (3,) int64
        Number of chunks along each axis.
    """

    offset: Ints
    chunks: Ints

    @property
    def shape(self) -> Ints:
        """Voxels along each axis, int64 (3,)."""
        return self.chunks * _CHUNK

    @property
    def strides(self) -> Ints:
        """What one step along x, y, z adds to a linear index, int64 (3,)."""
        _, _, nz = self.shape
        return np.array([nz, self.shape[0] * nz, 1], dtype=np.int64)

    def linear(self, voxels: Ints) -> Ints:
        """Linear indices of voxels relative to `offset`, int64 (n,)."""
        return voxels @ self.strides

    def voxels(self, linear: Ints) -> Ints:
        """Voxels relative to `offset` of linear indices, int64 (n, 3)."""
        rest, z = np.divmod(linear, self.shape[2])
        y, x = np.divmod(rest, self.shape[0])
        return np.column_stack([x, y, z])

    def centres_nm(self, voxels: Ints) -> Floats:
        """Centres of voxels relative to `offset`, in nm, float64 (n, 3)."""
        return (voxels + self.offset + 0.5) * _VOXEL_NM

    def of_nm(self, points: Floats) -> Ints:
        """Voxels relative to `offset` that hold points in nm, int64 (n, 3)."""
        return np.floor(points / _VOXEL_NM).astype(np.int64) - self.offset


@dataclass(frozen=True)
class Sections:
    """Short unbranched parts of one tree; the smallest parts that the history can tell apart.

    Parameters
    ----------
    of_point : (n,) int64
        Section of each point of the tree.
    parent : (s,) int64
        Section that each hangs on, -1 for the first.
    kind : (s,) int64
        Compartment.
    radius_um : (s,) float64
        Mean radius.
    """

    of_point: Ints
    parent: Ints
    kind: Ints
    radius_um: Floats


@dataclass
class Voxels:
    """The voxels of one cell, sorted by linear index.

    Parameters
    ----------
    linear : (n,) int64
    section : (n,) int32
    share : (n,) uint8
        Distance from the neurite's axis in parts of its radius, 0 to 200: who is nearer owns a contested voxel.
    """

    linear: Ints
    section: npt.NDArray[np.int32]
    share: npt.NDArray[np.uint8]


def cut_into_sections(cell: Cell) -> Sections:
    """Cut a tree where it branches, where its compartment changes, and every few points."""
    parents, kinds = cell.tree.parents, cell.tree.kinds
    children = np.bincount([p for p in parents if p >= 0], minlength=len(parents))
    of_point = np.zeros(len(parents), dtype=np.int64)
    parent_section, kind, length = [-1], [kinds[0]], [1]
    for i in range(1, len(parents)):
        p = parents[i]
        above = int(of_point[p])
        same = p > 0 or not cell.is_neuron
        if same and children[p] == 1 and kinds[p] == kinds[i] and length[above] < _SECTION_POINTS:
            of_point[i] = above
            length[above] += 1
        else:
            of_point[i] = len(length)
            parent_section.append(above)
            kind.append(kinds[i])
            length.append(1)
    radius = np.bincount(of_point, weights=cell.tree.radius_array()) / np.bincount(of_point)
    return Sections(of_point, np.asarray(parent_section), np.asarray(kind), radius)


def grid_around(cells: list[Cell], frame: Frame) -> Grid:
    """Smallest grid of whole chunks that holds all cells."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for cell in cells:
        points = frame.to_nm(cell.tree.xyz())
        reach = 1000.0 * cell.tree.radius_array()[:, None] + _THINNEST_NM
        low = np.minimum(low, (points - reach).min(axis=0))
        high = np.maximum(high, (points + reach).max(axis=0))
    offset = np.floor(low / _VOXEL_NM).astype(np.int64) - _MARGIN
    voxels = np.ceil(high / _VOXEL_NM).astype(np.int64) + _MARGIN - offset
    return Grid(offset, -(-voxels // _CHUNK))


def paint(cell: Cell, sections: Sections, grid: Grid, frame: Frame) -> Voxels:
    """Voxels of one cell, as if it were alone."""
    centres, radii, section = _samples(cell, sections, frame)
    keys = [_soma_keys(cell, grid, frame)] if cell.is_neuron else []
    # few different radii, so that the ball around a sample is one of few fixed lists of offsets
    classes = np.maximum(np.round(radii / 50.0) * 50.0, _THINNEST_NM)
    at = grid.linear(grid.of_nm(centres))
    for radius in np.unique(classes):
        mine = classes == radius
        places, sections_here = np.divmod(
            np.unique((at[mine] << _SECTION_BITS) | section[mine]), 1 << _SECTION_BITS
        )
        offsets, share = _ball(float(radius), grid)
        linear = places[None, :] + offsets[:, None]
        keys.append(_pack(linear, share[:, None], sections_here[None, :]).ravel())
    packed = np.concatenate(keys)
    packed.sort()
    linear = packed >> (_SHARE_BITS + _SECTION_BITS)
    first = np.ones(len(linear), dtype=bool)
    first[1:] = linear[1:] != linear[:-1]
    packed, linear = packed[first], linear[first]
    return Voxels(
        linear,
        (packed & ((1 << _SECTION_BITS) - 1)).astype(np.int32),
        ((packed >> _SECTION_BITS) & ((1 << _SHARE_BITS) - 1)).astype(np.uint8),
    )


def _pack(linear: Ints, share: Ints, section: Ints | np.int64) -> Ints:
    return (linear << (_SHARE_BITS + _SECTION_BITS)) | (share << _SECTION_BITS) | section


def _samples(cell: Cell, sections: Sections, frame: Frame) -> tuple[Floats, Floats, Ints]:
    """Points along all neurites, closer than a voxel: nm, radius (nm), section."""
    points = frame.to_nm(cell.tree.xyz())
    radii = 1000.0 * cell.tree.radius_array()
    child = np.arange(len(points))[1:]
    parent = cell.tree.parent_array()[1:]
    if cell.is_neuron:
        child, parent = child[parent > 0], parent[parent > 0]
    length = np.linalg.norm(points[child] - points[parent], axis=1)
    count = np.ceil(length / _SAMPLE_NM).astype(np.int64) + 1
    edge = np.repeat(np.arange(len(child)), count)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    share = (step / np.maximum(count[edge] - 1, 1))[:, None]
    centres = points[parent[edge]] * (1 - share) + points[child[edge]] * share
    radius = radii[parent[edge]] * (1 - share[:, 0]) + radii[child[edge]] * share[:, 0]
    return centres, radius, sections.of_point[child[edge]]


def _ball(radius_nm: float, grid: Grid) -> tuple[Ints, Ints]:
    """Offsets of the voxels around a sample, as linear steps, and their distance in parts of the radius (0 to 200)."""
    reach = np.floor(radius_nm / _VOXEL_NM).astype(int)
    axes = [np.arange(-n, n + 1) for n in reach]
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.linalg.norm(steps * _VOXEL_NM, axis=1)
    inside = distance <= radius_nm
    share = np.round(200.0 * distance[inside] / radius_nm).astype(np.int64)
    return grid.linear(steps[inside].astype(np.int64)), share


def _soma_keys(cell: Cell, grid: Grid, frame: Frame) -> Ints:
    """Keys of the voxels of a soma: a ball, slightly drawn out along the depth."""
    centre = frame.to_nm(cell.soma_um[None])[0]
    radius = 1000.0 * cell.soma_radius_um
    low = grid.of_nm((centre - 1.15 * radius)[None])[0]
    high = grid.of_nm((centre + 1.15 * radius)[None])[0] + 1
    axes = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    offset = (grid.centres_nm(voxels) - centre) * np.array([1.05, 0.92, 1.05])
    share = np.linalg.norm(offset, axis=1) / radius
    inside = share <= 1.0
    # half: the beginning of a neurite inside the soma belongs to the soma
    return _pack(grid.linear(voxels[inside]), np.round(100.0 * share[inside]).astype(np.int64), np.int64(0))


def owners(painted: list[Voxels], low: int, high: int) -> tuple[Ints, Ints]:
    """All voxels in a range of linear indices and the cell that owns each: the one whose axis is nearest.

    Returns
    -------
    linear : (n,) int64
        Sorted, each once.
    owner : (n,) int64
        Index of the cell.
    """
    keys = []
    for unit, voxels in enumerate(painted):
        a, b = np.searchsorted(voxels.linear, [low, high])
        share = voxels.share[a:b].astype(np.int64)
        keys.append((voxels.linear[a:b] << (_SHARE_BITS + _UNIT_BITS)) | (share << _UNIT_BITS) | unit)
    packed = np.concatenate(keys) if keys else np.empty(0, dtype=np.int64)
    packed.sort()
    linear = packed >> (_SHARE_BITS + _UNIT_BITS)
    first = np.ones(len(linear), dtype=bool)
    first[1:] = linear[1:] != linear[:-1]
    return linear[first], packed[first] & ((1 << _UNIT_BITS) - 1)


def contacts(linear: Ints, owner: Ints, grid: Grid) -> tuple[Ints, Ints]:
    """Pairs of neighbouring voxels of different cells.

    Returns
    -------
    first, second : (n,) int64
        Positions in ``linear``.
    """
    firsts, seconds = [], []
    for step in grid.strides:
        at = np.searchsorted(linear, linear + step)
        at[at == len(linear)] = 0
        pair = np.flatnonzero((linear[at] == linear + step) & (owner[at] != owner))
        firsts.append(pair)
        seconds.append(at[pair])
    return np.concatenate(firsts), np.concatenate(seconds)
