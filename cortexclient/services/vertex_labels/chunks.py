"""Where the chunks of a chunked graph lie in space, and which of them a triangle was made in.

Every chunk is meshed by itself, and where two meshes meet on a chunk plane the vertices that both have are merged. So
a triangle belongs to one chunk, while a vertex on a plane may have triangles on both sides. It is taken as a vertex of
the upper side, and the triangles of the lower side are not joined by it: objects that only meet there come apart.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = [
    "BLOCK",
    "ChunkGrid",
    "ChunkParts",
    "Located",
    "blocks",
    "blocks_of_groups",
    "connected",
    "first_of_each",
    "guests_last",
    "in_order",
    "ragged",
    "sort_into_chunks",
]

# what a decoded coordinate may be off: float32 holds 0.06 nm at one millimetre
_FLOAT_SLACK_NM = 0.12
# how many triangles are looked at to find the mip whose offset the mesher used
_SAMPLE = 60_000
_MAX_INT32 = 1 << 31


@dataclass(frozen=True)
class Located:
    """The grid cell of every vertex, and which cells are the wanted chunks."""

    cell: NDArray[Any]
    """Shape (N,), int32 or int64. The cell of each vertex. Cells are half open: a vertex on the plane between two
    is in the upper one. All that lies further out than the chunks' neighbours is in the outermost cells."""
    planes: NDArray[np.uint8]
    """Shape (N,). Bit 0, 1, 2: the vertex lies on the lower plane of its cell in x, y, z, so the mesh of the cell below
    may have it too. Bit 3, 4, 5: and rounding brings vertices into that plane from below."""
    extent: NDArray[np.int64]
    """Shape (3,). Cells along each axis; ``cell`` counts z first, then y, then x."""
    middle: NDArray[np.float64]
    """Shape (3,). Middle of the wanted chunks, rounded to nm."""
    wanted: pd.Index[int]
    """Shape (C,). The cells that are the wanted chunks, in their order."""

    def row(self, cell: NDArray[Any]) -> NDArray[np.int32]:
        """Return the row in the wanted chunks of each of an array of cells, -1 for none."""
        return self.wanted.get_indexer(pd.Index(cell)).astype(np.int32)

    def below(self, corners: NDArray[Any]) -> NDArray[Any]:
        """Return the cell whose mesh a triangle belongs to: on each axis the lowest one of its corners' cells, (3, T).

        A corner on a plane is in the cell above it, also where the triangle hangs below.
        """
        low = corners[0].copy()
        apart = np.flatnonzero((corners[0] != corners[1]) | (corners[1] != corners[2]))
        rest = corners.take(apart, axis=1)
        low[apart] = 0
        for stride in _strides(self.extent).tolist():
            along, rest = np.divmod(rest, stride)
            low[apart] += along.min(axis=0) * stride
        return np.asarray(low)

    def sink(self, cell: NDArray[Any], shared: NDArray[np.uint8]) -> None:
        """Move triangles that lie flat in a plane to the cell below it where they come from there; fills ``cell``.

        A plane that rounding moves downward is nearer to what lies below it, and nothing from above is rounded into it.
        ``shared`` are the bits of ``planes`` that all corners of a triangle have.
        """
        flat = np.flatnonzero(shared)
        for axis, stride in enumerate(_strides(self.extent).tolist()):
            down = flat[(shared[flat] >> (3 + axis)) & (shared[flat] >> axis) & 1 != 0]
            cell[down] -= stride


@dataclass(frozen=True)
class ChunkGrid:
    """The grid of level-2 chunks that a graphene info describes."""

    offsets: NDArray[np.float64]
    """Shape (S, 3). Corner of chunk (0, 0, 0) in nm, one row for each mip that the mesher may have worked at; the first
    is the segmentation's own."""
    size: NDArray[np.float64]
    """Shape (3,). Edge lengths of a chunk in nm."""
    bits: int
    """Bits of one chunk coordinate in a level-2 id."""
    layer_bits: int
    """Bits of the layer in an id."""
    draco: float
    """Cell of the grid that mesh vertices were rounded to, in nm; 0 if they were not."""

    @classmethod
    def from_info(cls, info: Mapping[str, Any], *, mesh_mip: int | None = None) -> ChunkGrid:
        """Read the grid from a graphene info, the JSON that a chunkedgraph serves at ``/segmentation/table/NAME/info``.

        ``mesh_mip`` is the mip at which the meshes were made, where it is known (from the info of the mesh folder). The
        voxel offsets of coarser mips are rounded down, so chunk faces in the mesh can lie a few nm beside those of the
        segmentation: 8 nm in minnie65. None tries every scale of the info on the vertices. Raises `ValueError` if a key
        that is needed is missing or has another shape.
        """
        try:
            graph = info["graph"]
            mip = int(graph.get("cv_mip", 0))
            scales = info["scales"]
            resolution = np.asarray(scales[mip]["resolution"], dtype=np.float64)
            size = np.asarray(graph["chunk_size"], dtype=np.float64) * resolution
            layer_bits = int(graph.get("n_bits_for_layer_id", 8))
            bits = int(graph["spatial_bit_masks"]["2"])
            first = [_corner(scales[mip])]
            used = scales if mesh_mip is None else [scales[mesh_mip]]
            others = [_corner(scale) for scale in used]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"this is no graphene info: {type(error).__name__} {error}; give the dict that "
                "segmentation_info() returns, with 'graph' (chunk_size, spatial_bit_masks) and 'scales'"
            ) from error
        if size.shape != (3,) or not (size > 0).all():
            raise ValueError(
                f"graph.chunk_size times the resolution must be three positive lengths, not {size}"
            )
        corners = first + others if mesh_mip is None else others
        if not info.get("chunks_start_at_voxel_offset", False):
            corners = [np.zeros(3)]  # as cloud-volume reads a missing or false flag
        # an offset further off than the coarsest rounding is another volume's; a chunk is far more than that
        near = [c for c in corners if (np.abs(c - corners[0]) < size / 4).all()]
        offsets = np.asarray(list(dict.fromkeys(tuple(c) for c in near)), dtype=np.float64)
        return cls(offsets, size, bits, layer_bits, _draco_cell(info.get("mesh_metadata") or {}))

    def positions(self, l2_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the chunk position of each level-2 id, shape (K, 3); raise `ValueError` for ids of another layer."""
        layer = l2_ids >> (64 - self.layer_bits)
        if (layer != 2).any():
            bad = l2_ids[layer != 2]
            raise ValueError(f"{len(bad)} of {len(l2_ids)} ids are not level-2 ids, the first is {bad[0]}")
        mask = (1 << self.bits) - 1
        shifts = 64 - self.layer_bits - self.bits * np.arange(1, 4)
        return (l2_ids[:, None] >> shifts) & mask

    @property
    def slack(self) -> float:
        """How far below a face, in nm, a vertex still counts as lying on it."""
        return max(self.draco / 4, _FLOAT_SLACK_NM)

    def faces(self, axis: int, count: int, offset: float, *, first: int = 0) -> NDArray[np.float64]:
        """Return the coordinates in nm of the lower faces of chunks along an axis, as they appear in a mesh."""
        return self._rounded(offset + np.arange(first, first + count) * self.size[axis])

    def _rounded(self, planes: NDArray[np.float64]) -> NDArray[np.float64]:
        # draco rounds to the nearest cell, halves upward, so the face itself moves to the nearest cell
        return np.floor(planes / self.draco + 0.5) * self.draco if self.draco else planes

    def best_offset(self, vertices: NDArray[Any], faces: NDArray[Any]) -> NDArray[np.float64]:
        """Choose the corner among the possible ones under which the fewest triangles cross a chunk face.

        Every chunk is meshed by itself, so under the right corner no triangle reaches from one into another.
        """
        best = self.offsets[0].copy()
        if len(self.offsets) == 1 or len(faces) == 0:
            return np.asarray(best)
        corners = vertices[faces[:: max(1, len(faces) // _SAMPLE)]].astype(np.float64)
        for axis in range(3):
            values = list(dict.fromkeys(self.offsets[:, axis]))
            if len(values) == 1:
                continue
            low, high = corners[:, :, axis].min(axis=1), corners[:, :, axis].max(axis=1)
            crossing = [self._crossing(low, high, axis, value) for value in values]
            # the segmentation's own offset stays unless another is clearly better
            if 2 * min(crossing) + 2 < crossing[0]:
                best[axis] = values[int(np.argmin(crossing))]
        return np.asarray(best)

    def _crossing(self, low: NDArray[np.float64], high: NDArray[np.float64], axis: int, offset: float) -> int:
        index = np.round(((low + high) / 2 - offset) / self.size[axis])
        plane = self._rounded(offset + index * self.size[axis])
        return int(((low < plane - self.slack) & (high > plane + self.slack)).sum())

    def locate(self, vertices: NDArray[Any], faces: NDArray[Any], positions: NDArray[np.int64]) -> Located:
        """Find the cell of every vertex on a grid that holds the chunks at the given positions.

        ``vertices`` are in nm, shape (N, 3); ``faces``, shape (M, 3), are rows of them; ``positions`` of chunks, int64
        of shape (C, 3), do not repeat. Raises `ValueError` if a coordinate is not a number.
        """
        # one more cell on each side, for what lies outside and for what hangs below a plane
        low = positions.min(axis=0) - 1 if len(positions) else np.zeros(3, dtype=np.int64)
        extent = positions.max(axis=0) - low + 2 if len(positions) else np.ones(3, dtype=np.int64)
        total = int(np.prod(extent, dtype=object))
        cell: NDArray[Any] = np.zeros(len(vertices), dtype=np.int32 if total < _MAX_INT32 else np.int64)
        planes = np.zeros(len(vertices), dtype=np.uint8)
        offset = self.best_offset(vertices, faces)
        axes = []
        for axis in range(3):
            lower = self.faces(axis, int(extent[axis]), float(offset[axis]), first=int(low[axis]))
            exact = float(offset[axis]) + np.arange(low[axis], low[axis] + extent[axis]) * self.size[axis]
            # halves are rounded upward, so a plane that stays is reached from below too
            from_below = lower <= exact if self.draco else np.zeros(len(lower), dtype=bool)
            axes.append((lower, np.where(from_below, np.uint8(9), np.uint8(1)) << np.uint8(axis)))

        for block in blocks(len(vertices)):
            for axis, (lower, marks) in enumerate(axes):
                values = vertices[block, axis].astype(np.float64)
                at = self._cells(values, lower, float(self.size[axis]))
                cell[block] *= cell.dtype.type(extent[axis])
                cell[block] += at
                # the distance from the plane is left in ``values``
                on = np.flatnonzero(np.abs(values, out=values) <= self.slack)
                planes[block][on] |= marks.take(at.take(on))

        middle = np.asarray(np.round(offset + (low + extent / 2) * self.size), dtype=np.float64)
        return Located(cell, planes, extent, middle, pd.Index((positions - low) @ _strides(extent)))

    def _cells(
        self, values: NDArray[np.float64], lower: NDArray[np.float64], size: float
    ) -> NDArray[np.int32]:
        """Return each coordinate's cell by the cells' lower planes; turns coordinates into distances from the plane."""
        # a plane moves by at most half a draco cell, so this is the right cell or the one after it
        at = values - (lower[0] - self.draco - self.slack)
        at *= 1 / size
        if not np.isfinite(at).all():
            raise ValueError("vertices hold a coordinate that is not a number; drop those vertices first")
        np.clip(at, 0, len(lower) - 1, out=at)
        cell: NDArray[np.int32] = at.astype(np.int32)
        values -= lower.take(cell)
        under = np.flatnonzero((values < -self.slack) & (cell > 0))
        values[under] += lower[cell[under]] - lower[cell[under] - 1]
        cell[under] -= 1
        return cell


def _corner(scale: Mapping[str, Any]) -> NDArray[np.float64]:
    resolution = np.asarray(scale["resolution"], dtype=np.float64)
    return np.asarray(scale.get("voxel_offset", (0, 0, 0)), dtype=np.float64) * resolution


def _draco_cell(metadata: Mapping[str, Any]) -> float:
    if metadata.get("uniform_draco_grid_size"):
        return float(metadata["uniform_draco_grid_size"])
    # level-2 fragments are rounded on the grid of level 2; without an entry the meshes are not draco
    sizes = metadata.get("draco_grid_sizes") or {}
    return float(sizes.get("2", sizes.get(2, 0)) or 0)


def _strides(extent: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([extent[1] * extent[2], extent[2], 1])


# -- triangles and vertices by chunk -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkParts:
    """The parts of a mesh that lie in wanted chunks, and the chunk of every vertex."""

    home: NDArray[np.int32]
    """Shape (N,). Chunk of each vertex of the mesh, -1 for none. What lies on a plane counts for the upper side, unless
    nothing but triangles of the lower side hold it."""
    rim: NDArray[np.bool_]
    """Shape (N,). Vertices on a plane that only triangles of the lower side hold."""
    vertex: NDArray[np.int32]
    """Shape (Q + G,). Mesh vertex of each node: first the Q vertices at home in a wanted chunk, then G guests: corners
    of triangles that lie on the upper plane of the triangle's chunk."""
    count: int
    """Number of nodes that are no guests, Q."""
    corners: NDArray[np.int32]
    """Shape (3, T). Nodes of the triangles in wanted chunks; the first is never a guest."""


def sort_into_chunks(faces: NDArray[Any], where: Located, wanted: NDArray[np.bool_]) -> ChunkParts:
    """Find the chunk of every triangle, and of every vertex by its triangles.

    ``where`` has the cells of the vertices; ``wanted``, bool of shape (C,), the chunks whose parts are needed.
    """
    chunk = where.row(where.cell)
    wanted = np.append(wanted, False)  # the last entry is for chunk -1
    inner, edge = _triangles(faces, where, chunk, wanted)
    home, rim = _homes(where, chunk, edge)
    vertex = np.flatnonzero(wanted.take(home) & ~rim).astype(np.int32)
    node = np.full(len(home), -1, dtype=np.int32)
    node[vertex] = np.arange(len(vertex), dtype=np.int32)
    # corners that do not live in the chunk of their triangle are guests in it
    keep = np.flatnonzero(wanted.take(edge.chunk))
    at_plane = edge.corners.take(keep, axis=1)
    away = (home.take(at_plane) != edge.chunk.take(keep)) | rim.take(at_plane)
    guest_node = np.full(len(home), -1, dtype=np.int32)
    guest_node[at_plane[away]] = 0
    guest = np.flatnonzero(guest_node >= 0).astype(np.int32)
    guest_node[guest] = np.arange(len(vertex), len(vertex) + len(guest), dtype=np.int32)
    outer = guests_last(np.where(away, guest_node.take(at_plane), node.take(at_plane)), len(vertex))
    corners = np.concatenate([*(node.take(part) for part in inner), outer], axis=1)
    return ChunkParts(home, rim, np.concatenate([vertex, guest]), len(vertex), corners)


def guests_last(corners: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Rotate triangles, shape (3, T), until their first corner is no guest; leave out those of guests only."""
    for _ in range(2):
        guest = corners[0] >= count
        corners = np.where(guest, corners[[1, 2, 0]], corners)
    return corners.compress(corners[0] < count, axis=1)


@dataclass(frozen=True)
class _Edge:
    """Triangles with a corner on a plane.

    ``corners``, int32 of shape (3, T), are their vertices; ``own``, bool of shape (3, T), marks the corners that lie in
    the triangle's cell; ``chunk`` is int32 of shape (T,).
    """

    corners: NDArray[np.int32]
    own: NDArray[np.bool_]
    chunk: NDArray[np.int32]


def _triangles(
    faces: NDArray[Any], where: Located, chunk: NDArray[np.int32], wanted: NDArray[np.bool_]
) -> tuple[list[NDArray[np.int32]], _Edge]:
    """Return the corners of triangles inside wanted chunks, in parts, and the triangles at the planes of any chunk."""
    numbers = np.arange(len(wanted), dtype=np.int32)
    numbers[-1] = -1
    code = ((numbers << 2) | (wanted << 1)).astype(np.int32).take(chunk)
    code |= where.planes != 0
    inner: list[NDArray[np.int32]] = []
    found = [(np.empty((3, 0), dtype=np.int32), np.empty((3, 0), dtype=bool), np.empty(0, dtype=np.int32))]
    for block in blocks(len(faces)):
        corner = np.ascontiguousarray(faces[block].T, dtype=np.intp)
        first, second, third = code.take(corner)
        at_plane = (first != second) | (second != third) | ((first & 1) != 0)
        inside = np.flatnonzero(~at_plane & ((first & 2) != 0))
        inner.append(corner.take(inside, axis=1).astype(np.int32))
        corner = corner.take(np.flatnonzero(at_plane), axis=1)
        cells = where.cell.take(corner)
        cell = where.below(cells)
        where.sink(cell, np.bitwise_and.reduce(where.planes.take(corner), axis=0))
        found.append((corner.astype(np.int32), cells == cell, where.row(cell)))
    corners, own, of = zip(*found, strict=True)
    return inner, _Edge(np.concatenate(corners, axis=1), np.concatenate(own, axis=1), np.concatenate(of))


def _homes(
    where: Located, chunk: NDArray[np.int32], edge: _Edge
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return the chunk of each vertex: that of its own cell if a triangle is there, else the last of its triangles'."""
    held = where.planes == 0
    own, corner = edge.own.ravel(), edge.corners.ravel()
    held[corner.take(np.flatnonzero(own))] = True
    rim = np.zeros_like(held)
    home = chunk.copy()
    away = np.flatnonzero(~own)
    hanging = away.take(np.flatnonzero(~held.take(corner.take(away))))
    vertex = corner.take(hanging)
    rim[vertex] = True
    home[vertex] = -1
    np.maximum.at(home, vertex, edge.chunk.take(hanging % max(len(edge.chunk), 1)))
    return home, rim


# -- array operations that NumPy does not have -------------------------------------------------------------------------

# rows of a block, so that it stays in the processor's cache; half or twice as many take about as long
BLOCK = 1 << 15


def blocks(count: int) -> Iterator[slice]:
    """Cut ``count`` rows into slices of at most ``BLOCK``."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def blocks_of_groups(lengths: NDArray[np.int64], size: int = BLOCK) -> Iterator[slice]:
    """Cut groups of rows, given by their lengths, into slices of groups with about ``size`` rows together."""
    ends = np.searchsorted(np.cumsum(lengths), np.arange(0, int(lengths.sum()) + size, size))
    for low, high in itertools.pairwise(ends.tolist()):
        if low < high:
            yield slice(low, high)


def in_order(values: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return a stable ``argsort`` of numbers that are not negative.

    numpy sorts 16 bits by counting, which is several times faster than comparing; two passes sort 32.
    """
    order = np.argsort(values.astype(np.uint16), kind="stable")
    if int(values.max(initial=0)) < 1 << 16:
        return order
    upper = (values >> 16).astype(np.uint16)[order]
    return np.asarray(order[np.argsort(upper, kind="stable")])


def ragged(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate the ranges ``[start, start + length)``."""
    total = int(lengths.sum())
    if not total:
        return np.empty(0, dtype=np.int64)
    ends = np.cumsum(lengths)
    return np.asarray(np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths))


def first_of_each(group: NDArray[Any], keys: tuple[NDArray[Any], ...]) -> NDArray[np.int64]:
    """Return the row of the first member of each group, by keys of which the last counts most."""
    order = np.lexsort((*keys, group))
    return np.asarray(order[np.flatnonzero(np.diff(group[order], prepend=-1))])


def connected(count: int, corners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the number of the component of each of ``count`` nodes; components are numbered by their smallest nodes.

    ``corners``, shape (3, T), are triangles that join nodes; the first of each is below ``count``, and others that are
    not join nothing.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    tails, heads = np.tile(corners[0], 2), corners[1:].ravel()
    own = heads < count
    graph = csr_array((np.ones(own.sum()), (tails[own], heads[own])), shape=(count, count))
    found: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return found
