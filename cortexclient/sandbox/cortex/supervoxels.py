"""From trees to supervoxels: the voxels of each cell, the owner of a contested voxel, and the pieces within a chunk.

Nothing here is dense: a voxel is one integer, ``(y * width_x + x) * width_z + z``, so that neighbours along an axis are
a fixed number apart and slabs of depth are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from cortexclient.sandbox.arrays import Bools, Floats, Ints
from cortexclient.sandbox.cortex.anatomy import Cell
from cortexclient.sandbox.cortex.frame import Frame
from cortexclient.sandbox.cortex.sizes import AXON, CHUNK, SEGMENTATION_NM

_VOXEL_NM = np.asarray(SEGMENTATION_NM, dtype=np.float64)
_CHUNK = np.asarray(CHUNK, dtype=np.int64)
_CHUNK_BITS = np.log2(_CHUNK).astype(np.int64)
_MARGIN = 2
_THINNEST_NM = 250.0
_SAMPLE_NM = 100.0
# points of one section: about 6 um of neurite
_SECTION_POINTS = 3
# bit fields of the sort keys below
_SHARE_BITS, _SECTION_BITS, _UNIT_BITS = 8, 18, 11


@dataclass(frozen=True)
class Grid:
    """The voxel grid of the segmentation."""

    offset: Ints  # (3,): voxel of the dataset at which the segmentation begins
    chunks: Ints  # (3,): number of chunks along each axis

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
        # numpy divides by one number several times faster than it takes remainders
        nx, _, nz = self.shape
        rest = linear // nz
        y = rest // nx
        return np.column_stack([rest - y * nx, y, linear - rest * nz])

    def centres_nm(self, voxels: Ints) -> Floats:
        """Centres of voxels relative to `offset`, in nm, float64 (n, 3)."""
        return (voxels + self.offset + 0.5) * _VOXEL_NM

    def of_nm(self, points: Floats) -> Ints:
        """Voxels relative to `offset` that hold points in nm, int64 (n, 3)."""
        return np.floor(points / _VOXEL_NM).astype(np.int64) - self.offset


@dataclass(frozen=True)
class Sections:
    """Short unbranched parts of one tree; the smallest parts that the history can tell apart."""

    of_point: Ints  # (n,): section of each point of the tree
    parent: Ints  # (s,): section that each hangs on, -1 for the first
    kind: Ints  # (s,): compartment
    radius_um: Floats  # (s,): mean radius


@dataclass
class Voxels:
    """The voxels of one cell, sorted by linear index."""

    linear: Ints  # (n,)
    section: npt.NDArray[np.int32]  # (n,)
    # (n,): distance from the neurite's axis in parts of its radius, 0 to 200: who is nearer owns a contested
    # voxel
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
    first = np.diff(linear, prepend=-1) != 0
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
    """All voxels in a range of linear indices, sorted and each once, and the cell that owns each.

    It is the one whose axis is nearest.
    """
    keys = []
    for unit, voxels in enumerate(painted):
        a, b = np.searchsorted(voxels.linear, [low, high])
        share = voxels.share[a:b].astype(np.int64)
        keys.append((voxels.linear[a:b] << (_SHARE_BITS + _UNIT_BITS)) | (share << _UNIT_BITS) | unit)
    packed = np.concatenate(keys) if keys else np.empty(0, dtype=np.int64)
    packed.sort()
    linear = packed >> (_SHARE_BITS + _UNIT_BITS)
    first = np.diff(linear, prepend=-1) != 0
    return linear[first], packed[first] & ((1 << _UNIT_BITS) - 1)


def contacts(linear: Ints, owner: Ints, grid: Grid) -> tuple[Ints, Ints]:
    """Pairs of neighbouring voxels of different cells, as positions in ``linear``."""
    firsts, seconds = [], []
    for step in grid.strides:
        at = np.searchsorted(linear, linear + step)
        at[at == len(linear)] = 0
        pair = np.flatnonzero((linear[at] == linear + step) & (owner[at] != owner))
        firsts.append(pair)
        seconds.append(at[pair])
    return np.concatenate(firsts), np.concatenate(seconds)


# two letters for each of the six second moments
_MOMENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


@dataclass
class Measures:
    """Sums over the voxels of supervoxels; they add up, so any level-2 id's attributes follow from its supervoxels'."""

    voxels: Ints  # (n,)
    total: Floats  # (n, 3): sum of the voxels, relative to the grid's offset
    moments: Floats  # (n, 6): sums of xx, yy, zz, xy, xz, yz
    area_nm2: Floats  # (n,): faces that do not touch the same cell
    faces: Ints  # (n, 6): voxels in the chunk's low x, y, z and high x, y, z layers
    thickness: Floats  # (n,): sum over the voxels of the radius of the neurite, um


def merge_measures(parts: list[Measures]) -> Measures:
    """Measures of several cells, one after another."""
    return Measures(
        *(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Measures))
    )


@dataclass
class CellSupervoxels:
    """All supervoxels of one cell, ordered by chunk."""

    of_voxel: npt.NDArray[np.int32]  # (v,): supervoxel (position here) of each voxel
    section: Ints  # (n,)
    chunk: Ints  # (n, 3)
    low: Ints  # (n, 3): bounding box relative to the grid's offset, half open
    high: Ints
    middle: Ints  # (n,): linear index of the voxel nearest to the centroid
    measures: Measures
    edges: Ints  # (e, 2): pairs of supervoxels; smaller position first, each once
    edge_area: Ints  # (e,): voxel faces that the two share; 0 for an edge that bridges a gap
    # (t, 2): voxels (positions in the cell's voxel list) at which the cell's axon touches its own dendrite
    self_touch: Ints


def cut_into_supervoxels(voxels: Voxels, sections: Sections, grid: Grid) -> CellSupervoxels:
    """Cut one cell's voxels into supervoxels and join those that belong together."""
    at = grid.voxels(voxels.linear)
    chunk_xyz, local = at >> _CHUNK_BITS, at & (_CHUNK - 1)
    chunk = (chunk_xyz[:, 0] * grid.chunks[1] + chunk_xyz[:, 1]) * grid.chunks[2] + chunk_xyz[:, 2]
    pairs = _neighbours(voxels.linear, grid)
    section = voxels.section.astype(np.int64)
    inner = [(section[i] == section[j]) & (chunk[i] == chunk[j]) for i, j in pairs]
    label = components(len(section), [(i[m], j[m]) for (i, j), m in zip(pairs, inner, strict=True)])
    # numbered by chunk, then by first voxel, so that numbers depend on nothing but the shape
    first = np.empty(label.max() + 1, dtype=np.int64)
    first[label[::-1]] = np.arange(len(label))[::-1]
    rank = np.empty(len(first), dtype=np.int64)
    order = np.lexsort((first, chunk[first]))
    rank[order] = np.arange(len(first))
    supervoxel = rank[label]
    lead = first[order]
    edges, area, touch = _edges(pairs, inner, supervoxel, section, sections)
    # one number for supervoxel and voxel sorts many times faster than a stable argsort does
    grouped = np.sort(supervoxel * len(at) + np.arange(len(at))) % len(at)
    measures = _measure(at, local, supervoxel, pairs, sections.radius_um[section])
    starts = np.cumsum(measures.voxels) - measures.voxels
    centroid = measures.total / measures.voxels[:, None]
    edges, area = _bridge_gaps(edges, area, centroid * _VOXEL_NM, section[lead], sections.parent)
    at = at[grouped]
    low, high = np.minimum.reduceat(at, starts), np.maximum.reduceat(at, starts) + 1
    away = (((at - np.repeat(centroid, measures.voxels, axis=0)) * _VOXEL_NM) ** 2).sum(axis=1)
    closest = np.flatnonzero(away == np.repeat(np.minimum.reduceat(away, starts), measures.voxels))
    nearest = grouped[closest[np.searchsorted(closest, starts)]]
    return CellSupervoxels(
        supervoxel.astype(np.int32),
        section[lead],
        chunk_xyz[lead],
        low,
        high,
        voxels.linear[nearest],
        measures,
        edges,
        area,
        touch,
    )


def _neighbours(linear: Ints, grid: Grid) -> list[tuple[Ints, Ints]]:
    """Positions of touching voxels, for each of the three axes."""
    pairs = []
    for step in grid.strides:
        if step == 1:
            first = np.flatnonzero(np.diff(linear) == 1)
            pairs.append((first, first + 1))
            continue
        at = np.searchsorted(linear, linear + step)
        at[at == len(linear)] = 0
        first = np.flatnonzero(linear[at] == linear + step)
        pairs.append((first, at[first]))
    return pairs


def components(count: int, pairs: list[tuple[Ints, Ints]]) -> Ints:
    """Number the connected components of so many nodes from 0; shape (count,)."""
    i = np.concatenate([p[0] for p in pairs]).astype(np.int32)
    j = np.concatenate([p[1] for p in pairs]).astype(np.int32)
    graph = coo_matrix((np.ones(len(i), dtype=np.int8), (i, j)), shape=(count, count))
    # an edge given twice does no harm here, and looking for it takes as long as the components do
    graph.has_canonical_format = True
    labels: Ints = connected_components(graph.tocsr(), directed=False)[1].astype(np.int64)
    return labels


def _edges(
    pairs: list[tuple[Ints, Ints]], inner: list[Bools], supervoxel: Ints, section: Ints, sections: Sections
) -> tuple[Ints, Ints, Ints]:
    """Edges between supervoxels, the number of shared faces, and voxels where an axon touches its own dendrite."""
    keys, touches = [], []
    count = int(supervoxel.max()) + 1
    for (i, j), within in zip(pairs, inner, strict=True):
        i, j = i[~within], j[~within]  # noqa: PLW2901 - the rest of the pairs
        a, b = section[i], section[j]
        goes_on = (a == b) | (sections.parent[a] == b) | (sections.parent[b] == a)
        apart = ~goes_on & ((sections.kind[a] == AXON) != (sections.kind[b] == AXON))
        touches.append(np.column_stack([i[apart], j[apart]]))
        x, y = supervoxel[i[goes_on]], supervoxel[j[goes_on]]
        differ = x != y
        keys.append(np.minimum(x, y)[differ] * count + np.maximum(x, y)[differ])
    unique, area = np.unique(np.concatenate(keys), return_counts=True)
    return np.column_stack(np.divmod(unique, count)), area.astype(np.int64), np.concatenate(touches)


def _bridge_gaps(
    edges: Ints, area: Ints, centroid_nm: Floats, section: Ints, parent: Ints
) -> tuple[Ints, Ints]:
    """Join what another cell's voxels cut off, as proofreaders do: by an edge between supervoxels that do not touch.

    A gap is bridged where the tree says that the neurite goes on; only where whole sections were lost, at the nearest
    place.
    """
    label = components(len(section), [(edges[:, 0], edges[:, 1])])
    if label.max() == 0:
        return edges, area
    pairs = _along_tree(section, parent)
    pairs = pairs[label[pairs[:, 0]] != label[pairs[:, 1]]]
    edges, area = _add_shortest(edges, area, centroid_nm, label, pairs)
    while True:
        label = components(len(section), [(edges[:, 0], edges[:, 1])])
        if label.max() == 0:
            return edges, area
        edges, area = _add_shortest(edges, area, centroid_nm, label, _nearest_to_smallest(centroid_nm, label))


def _along_tree(section: Ints, parent: Ints) -> Ints:
    """Pairs of supervoxels of the same section, or of a section and the one it hangs on, int64 (n, 2)."""
    order = np.argsort(section, kind="stable")
    starts = np.searchsorted(section[order], np.arange(len(parent) + 1))
    pairs = []
    for target in (section, parent[section]):
        low = starts[target]
        count = np.where(target >= 0, starts[target + 1] - low, 0)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        pairs.append(
            np.column_stack(
                [np.repeat(np.arange(len(section)), count), order[np.repeat(low, count) + within]]
            )
        )
    both = np.concatenate(pairs)
    apart: Ints = both[both[:, 0] != both[:, 1]]
    return apart


def _nearest_to_smallest(centroid_nm: Floats, label: Ints) -> Ints:
    """The nearest pair between the smallest part and all others."""
    smallest = int(np.bincount(label).argmin())
    inside, outside = np.flatnonzero(label == smallest), np.flatnonzero(label != smallest)
    distance, nearest = cKDTree(centroid_nm[outside]).query(centroid_nm[inside])
    pick = int(distance.argmin())
    return np.array([[inside[pick], outside[nearest[pick]]]])


def _add_shortest(
    edges: Ints, area: Ints, centroid_nm: Floats, label: Ints, pairs: Ints
) -> tuple[Ints, Ints]:
    """Add the shortest pairs that join as many parts as the pairs can."""
    length = np.linalg.norm(centroid_nm[pairs[:, 0]] - centroid_nm[pairs[:, 1]], axis=1) + 1.0
    ends = np.sort(label[pairs], axis=1)
    # the shortest pair of every two parts, then a spanning tree of the parts
    order = np.lexsort((pairs[:, 1], pairs[:, 0], length, ends[:, 1], ends[:, 0]))
    ends, length, pairs = ends[order], length[order], pairs[order]
    first = np.diff(ends, axis=0, prepend=-1).any(axis=1)
    ends, length, pairs = ends[first], length[first], pairs[first]
    count = int(label.max()) + 1
    tree = minimum_spanning_tree(
        coo_matrix((length, (ends[:, 0], ends[:, 1])), shape=(count, count)).tocsr()
    ).tocoo()
    at = {(int(a), int(b)): k for k, (a, b) in enumerate(ends)}
    chosen = np.sort(
        np.array([at[int(a), int(b)] for a, b in zip(tree.row, tree.col, strict=True)], dtype=np.int64)
    )
    new = np.sort(pairs[chosen], axis=1)
    return np.concatenate([edges, new]), np.concatenate([area, np.zeros(len(new), dtype=np.int64)])


def _measure(
    at: Ints, local: Ints, supervoxel: Ints, pairs: list[tuple[Ints, Ints]], radius_um: Floats
) -> Measures:
    count = int(supervoxel.max()) + 1
    voxels = np.bincount(supervoxel, minlength=count)

    def sums(weights: Floats) -> Floats:
        return np.bincount(supervoxel, weights=weights, minlength=count).astype(np.float64)

    xyz = at.astype(np.float64)
    total = np.column_stack([sums(xyz[:, k]) for k in range(3)])
    moments = np.column_stack([sums(xyz[:, a] * xyz[:, b]) for a, b in _MOMENTS])
    face_nm2 = [_VOXEL_NM[1] * _VOXEL_NM[2], _VOXEL_NM[0] * _VOXEL_NM[2], _VOXEL_NM[0] * _VOXEL_NM[1]]
    area = np.zeros(count)
    for (i, j), face in zip(pairs, face_nm2, strict=True):
        covered = np.bincount(supervoxel[i], minlength=count) + np.bincount(supervoxel[j], minlength=count)
        area += face * (2 * voxels - covered)
    layers = [local[:, k] == 0 for k in range(3)] + [local[:, k] == CHUNK[k] - 1 for k in range(3)]
    faces = np.column_stack([np.bincount(supervoxel[layer], minlength=count) for layer in layers])
    return Measures(voxels, total, moments, area, faces, sums(radius_um))
