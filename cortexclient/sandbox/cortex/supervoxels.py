"""Supervoxels: the connected voxels of one section in one chunk; and the edges between them.

Edges join supervoxels of one cell only where the tree goes on (same section, or a section and the one it hangs on), so
two branches of a neuron that merely touch do not short-circuit its level-2 graph.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from cortexclient.sandbox.cortex.sizes import AXON, CHUNK, SEGMENTATION_NM
from cortexclient.sandbox.cortex.volume import Grid, Sections, Voxels

__all__ = ["CellSupervoxels", "Measures", "cut_into_supervoxels", "merge_measures"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_VOXEL_NM = np.asarray(SEGMENTATION_NM, dtype=np.float64)
_CHUNK = np.asarray(CHUNK, dtype=np.int64)
# two letters for each of the six second moments
_MOMENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


@dataclass
class Measures:
    """Sums over the voxels of supervoxels; they add up, so any level-2 id's attributes follow from its supervoxels'.

    Parameters
    ----------
    voxels : (n,) int64
    total : (n, 3) float64
        Sum of the voxels, relative to the grid's offset.
    moments : (n, 6) float64
        Sums of xx, yy, zz, xy, xz, yz.
    area_nm2 : (n,) float64
        Faces that do not touch the same cell.
    faces : (n, 6) int64
        Voxels in the chunk's low x, y, z and high x, y, z layers.
    thickness : (n,) float64
        Sum over the voxels of the radius of the neurite, um.
    """

    voxels: Ints
    total: Floats
    moments: Floats
    area_nm2: Floats
    faces: Ints
    thickness: Floats


def merge_measures(parts: list[Measures]) -> Measures:
    """Measures of several cells, one after another."""
    return Measures(
        *(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Measures))
    )


@dataclass
class CellSupervoxels:
    """All supervoxels of one cell, ordered by chunk.

    Parameters
    ----------
    of_voxel : (v,) int32
        Supervoxel (position here) of each voxel.
    section : (n,) int64
    chunk : (n, 3) int64
    low, high : (n, 3) int64
        Bounding box relative to the grid's offset, half open.
    middle : (n,) int64
        Linear index of the voxel nearest to the centroid.
    measures : Measures
    edges : (e, 2) int64
        Pairs of supervoxels; smaller position first, each once.
    edge_area : (e,) int64
        Voxel faces that the two share; 0 for an edge that bridges a gap.
    self_touch : (t, 2) int64
        Voxels (positions in the cell's voxel list) at which the cell's axon touches its own dendrite.
    """

    of_voxel: npt.NDArray[np.int32]
    section: Ints
    chunk: Ints
    low: Ints
    high: Ints
    middle: Ints
    measures: Measures
    edges: Ints
    edge_area: Ints
    self_touch: Ints


def cut_into_supervoxels(voxels: Voxels, sections: Sections, grid: Grid) -> CellSupervoxels:
    """Cut one cell's voxels into supervoxels and join those that belong together."""
    at = grid.voxels(voxels.linear)
    chunk_xyz, local = np.divmod(at, _CHUNK)
    chunk = (chunk_xyz[:, 0] * grid.chunks[1] + chunk_xyz[:, 1]) * grid.chunks[2] + chunk_xyz[:, 2]
    pairs = _neighbours(voxels.linear, grid)
    section = voxels.section.astype(np.int64)
    inner = [(section[i] == section[j]) & (chunk[i] == chunk[j]) for i, j in pairs]
    label = _components(len(section), [(i[m], j[m]) for (i, j), m in zip(pairs, inner, strict=True)])
    # numbered by chunk, then by first voxel, so that numbers depend on nothing but the shape
    first = np.full(label.max() + 1, len(label), dtype=np.int64)
    np.minimum.at(first, label, np.arange(len(label)))
    rank = np.empty(len(first), dtype=np.int64)
    order = np.lexsort((first, chunk[first]))
    rank[order] = np.arange(len(first))
    supervoxel = rank[label]
    lead = first[order]
    edges, area, touch = _edges(pairs, inner, supervoxel, section, sections)
    grouped = np.argsort(supervoxel, kind="stable")
    starts = np.searchsorted(supervoxel[grouped], np.arange(len(lead)))
    measures = _measure(at, local, supervoxel, pairs, sections.radius_um[section])
    centroid = measures.total / measures.voxels[:, None]
    edges, area = _bridge_gaps(edges, area, centroid * _VOXEL_NM, section[lead], sections.parent)
    low = np.column_stack([np.minimum.reduceat(at[grouped, k], starts) for k in range(3)])
    high = np.column_stack([np.maximum.reduceat(at[grouped, k], starts) for k in range(3)]) + 1
    away = (((at - centroid[supervoxel]) * _VOXEL_NM) ** 2).sum(axis=1)
    nearest = np.lexsort((away, supervoxel))[starts]
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


def _components(count: int, pairs: list[tuple[Ints, Ints]]) -> Ints:
    i = np.concatenate([p[0] for p in pairs]).astype(np.int32)
    j = np.concatenate([p[1] for p in pairs]).astype(np.int32)
    graph = coo_matrix((np.ones(len(i), dtype=np.int8), (i, j)), shape=(count, count)).tocsr()
    labels: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _edges(
    pairs: list[tuple[Ints, Ints]],
    inner: list[npt.NDArray[np.bool_]],
    supervoxel: Ints,
    section: Ints,
    sections: Sections,
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
    label = _components(len(section), [(edges[:, 0], edges[:, 1])])
    if label.max() == 0:
        return edges, area
    pairs = _along_tree(section, parent)
    pairs = pairs[label[pairs[:, 0]] != label[pairs[:, 1]]]
    edges, area = _add_shortest(edges, area, centroid_nm, label, pairs)
    while True:
        label = _components(len(section), [(edges[:, 0], edges[:, 1])])
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
    first = np.ones(len(ends), dtype=bool)
    first[1:] = (ends[1:] != ends[:-1]).any(axis=1)
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
