"""The pieces that a mesh falls into when it is cut at chunk faces, and distances between pieces of one chunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.services.vertex_labels.chunks import (
    blocks,
    blocks_of_groups,
    connected,
    guests_last,
    in_order,
    ragged,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.services.vertex_labels.chunks import ChunkParts

__all__ = ["Pieces", "cut_again", "cut_into_pieces", "gaps", "nearest_owner"]

# vertex pairs that are measured together: bounds the memory, and still fills the vector units
_BLOCK = 1 << 19
# pairs of pieces with at most this many pairs of vertices are measured together
_SMALL = 4096


@dataclass(frozen=True)
class Pieces:
    """Connected pieces of the mesh inside chunks, numbered so that pieces of one chunk are neighbours."""

    vertex: NDArray[np.int32]
    """Shape (V,). Mesh vertices, sorted by piece."""
    start: NDArray[np.int64]
    """Shape (P + 1,). Where each piece begins in ``vertex``."""
    chunk: NDArray[np.int32]
    """Shape (P,). Chunk of each piece, ascending."""
    points: NDArray[np.float32]
    """Shape (V + G, 3). Positions in nm from ``origin``, those of ``vertex`` first, then those of guests: corners of
    triangles that lie on the upper plane of their chunk and count for the next. Each axis is contiguous."""
    origin: NDArray[np.float64]
    """Shape (3,). Subtracted before rounding to float32, which keeps distances exact to 0.1 nm anywhere in a volume."""
    row: NDArray[np.int32]
    """Shape (V + G,). Row of ``points`` of each node."""
    corners: NDArray[np.int32]
    """Shape (3, T). Nodes at the corners of each triangle; the first is never a guest."""

    def __len__(self) -> int:
        return len(self.chunk)

    @property
    def size(self) -> NDArray[np.int64]:
        """Vertices in each piece."""
        return np.diff(self.start)

    @cached_property
    def low(self) -> NDArray[np.float32]:
        """Lower corner of the bounding box of each piece, from ``origin``, shape (P, 3)."""
        return self._extremes(np.minimum)

    @cached_property
    def high(self) -> NDArray[np.float32]:
        """Upper corner of the bounding box of each piece, from ``origin``, shape (P, 3)."""
        return self._extremes(np.maximum)

    def _extremes(self, function: np.ufunc) -> NDArray[np.float32]:
        found = np.empty((len(self), 3), dtype=np.float32)
        for axis in range(3 if len(self) else 0):
            function.reduceat(self.points[: len(self.vertex), axis], self.start[:-1], out=found[:, axis])
        return found

    @cached_property
    def triangles(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Triangles in the order of their pieces, and where each piece's begin, shape (P + 1,)."""
        guests = len(self.points) - len(self.vertex)
        piece = np.append(self.spread(np.arange(len(self), dtype=np.int32)), np.zeros(guests, dtype=np.int32))
        owner = piece.take(self.row).take(self.corners[0])
        # a mesh is written piece after piece, more or less, so long runs of triangles move together
        run = np.concatenate([[0], np.flatnonzero(owner[1:] != owner[:-1]) + 1])[: len(owner)]
        length, owner = np.diff(run, append=len(owner)), owner.take(run)
        order = in_order(owner)
        count = np.bincount(owner, weights=length, minlength=len(self)).astype(np.int64)
        return ragged(run.take(order), length.take(order)), np.concatenate([[0], np.cumsum(count)])

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Repeat one value for each piece over the rows of ``vertex``."""
        return np.repeat(values, self.size)

    def rows(self, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of ``vertex`` of some pieces, one after the other."""
        return ragged(self.start[which], self.size[which])

    def fill(self, array: NDArray[Any], which: NDArray[np.int64], values: Any) -> None:
        """Write a value for each of some pieces into their rows of ``array``, shape (V,)."""
        array[self.rows(which)] = np.repeat(np.broadcast_to(values, len(which)), self.size[which])

    def of_chunks(self, chunk: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first piece of each of some chunks, and how many it has."""
        first = np.searchsorted(self.chunk, chunk, "left")
        return first, np.searchsorted(self.chunk, chunk, "right") - first

    def beside(self, which: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return pairs of some pieces and each other piece of their chunks."""
        first, count = self.of_chunks(self.chunk[which])
        one, other = np.repeat(which, count), ragged(first, count)
        return one[one != other], other[one != other]


def cut_into_pieces(vertices: NDArray[Any], parts: ChunkParts, origin: NDArray[np.float64]) -> Pieces:
    """Find the connected components of the parts of a mesh in chunks; ``origin`` is a place in nm near the chunks."""
    part = connected(parts.count, parts.corners)
    order, row, start, chunk = _arranged(part, parts.home[parts.vertex[: parts.count]], len(parts.vertex))
    vertex = parts.vertex[order]
    points = np.empty((3, len(vertex)), dtype=np.float32).T
    for block in blocks(len(vertex)):
        points[block] = vertices.take(vertex[block], axis=0) - origin
    return Pieces(vertex[: parts.count], start, chunk, points, origin, row, parts.corners)


def cut_again(pieces: Pieces, chunks: NDArray[np.bool_], seam: NDArray[np.bool_]) -> Pieces:
    """Cut the pieces of some ``chunks``, bool of shape (C,), along a seam; the pieces of other chunks are left out.

    ``seam``, bool of shape (V,), marks rows of ``pieces.vertex``, which are then of no piece.
    """
    guests = np.zeros(len(pieces.points) - len(pieces.vertex), dtype=bool)
    inside = np.append(pieces.spread(chunks[pieces.chunk]), guests)
    rows = np.flatnonzero(inside[pieces.row][pieces.corners[0]])
    corners = pieces.row[pieces.corners[:, rows]]
    free = inside
    free[: len(seam)] &= ~seam
    used = np.zeros_like(free)
    used[corners] = True
    order = np.concatenate([np.flatnonzero(free), np.flatnonzero(used & ~free)])
    count = int(free.sum())
    node = np.empty(len(free), dtype=np.int32)
    node[order] = np.arange(len(order), dtype=np.int32)
    corners = guests_last(node[corners], count)
    part = connected(count, corners)
    chunk = np.append(pieces.spread(pieces.chunk), np.full(len(guests), -1, dtype=np.int32))[order]
    vertex = np.append(pieces.vertex, np.full(len(guests), -1, dtype=np.int32))[order]
    into, row, start, chunk = _arranged(part, chunk[:count], len(order))
    points = np.take(pieces.points.T, order[into], axis=1).T
    return Pieces(vertex[into][:count], start, chunk, points, pieces.origin, row, corners)


def _arranged(
    part: NDArray[np.int32], chunk: NDArray[np.int32], total: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Sort nodes by their parts, and parts by their chunks; the other nodes, guests, come last.

    Returns the nodes in this order, the row of each, where each part begins, and the chunk of each.
    """
    count = len(part)
    of = np.empty(int(part.max(initial=-1)) + 1, dtype=np.int32)
    of[part] = chunk
    by_chunk = in_order(of)
    place = np.empty(len(of), dtype=np.int32)
    place[by_chunk] = np.arange(len(of), dtype=np.int32)
    part = place.take(part)
    order = np.append(in_order(part), np.arange(count, total))
    row = np.empty(total, dtype=np.int32)
    row[order] = np.arange(total, dtype=np.int32)
    start = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=len(of)))])
    return order, row, start, of[by_chunk]


def gaps(
    pieces: Pieces, one: NDArray[np.int64], other: NDArray[np.int64], limit: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the smallest distance in nm between the vertices of two pieces, for many pairs of pieces.

    ``one`` and ``other``, int64 of shape (Q,), are the pairs. Distances above ``limit`` are returned as infinity; with
    each comes the row of ``pieces.vertex`` where the other piece is nearest, its first row for infinity.
    """
    distance = np.full(len(one), np.inf)
    nearest = pieces.start[other].copy()
    near = _between_boxes(pieces, one, other) <= limit
    small = pieces.size[one] * pieces.size[other] <= _SMALL
    batch = np.flatnonzero(near & small)
    distance[batch], nearest[batch] = _small_gaps(pieces, one[batch], other[batch])
    for pair in np.flatnonzero(near & ~small):
        nm, row = _gap(pieces, int(one[pair]), int(other[pair]), limit)
        if nm <= limit:
            distance[pair], nearest[pair] = nm, row
    distance[distance > limit] = np.inf
    return distance, nearest


def _small_gaps(
    pieces: Pieces, one: NDArray[np.int64], other: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Measure gaps of many pairs of small pieces together; the first of equally near vertices counts."""
    size = pieces.size
    distance, nearest = np.empty(len(one)), np.empty(len(one), dtype=np.int64)
    for pairs in blocks_of_groups(size[one] * size[other], _BLOCK):
        a, b = one[pairs], other[pairs]
        # every vertex of the other piece beside every vertex of the first
        near = ragged(pieces.start[a], size[a])
        count = np.repeat(size[b], size[a])
        far = ragged(np.repeat(pieces.start[b], size[a]), count)
        square = np.zeros(len(far), dtype=np.float32)
        for axis in range(3):
            difference = pieces.points[far, axis] - np.repeat(pieces.points[near, axis], count)
            square += difference * difference
        begin = np.concatenate([[0], np.cumsum(size[a] * size[b])])
        least = np.minimum.reduceat(square, begin[:-1])
        hits = np.flatnonzero(square == np.repeat(least, np.diff(begin)))
        distance[pairs] = np.sqrt(least)
        nearest[pairs] = far[hits[np.searchsorted(hits, begin[:-1])]]
    return distance, nearest


def nearest_owner(
    pieces: Pieces, free: NDArray[np.int64], owned: NDArray[np.bool_], limit: float = np.inf
) -> NDArray[np.int64]:
    """Return for each free piece the row of ``pieces.vertex`` of the nearest owned piece in its chunk; -1 for none.

    ``free``, int64 of shape (F,), are pieces; ``owned``, bool of shape (P,), marks the pieces that count, and only
    those nearer than ``limit`` nm do.
    """
    found = np.full(len(free), -1, dtype=np.int64)
    for place, piece in enumerate(free.tolist()):
        first, last = np.searchsorted(pieces.chunk, pieces.chunk[piece] + np.arange(2))
        others = first + np.flatnonzero(owned[first:last])
        apart = _between_boxes(pieces, np.array([piece]), others)
        best = limit
        for other in np.argsort(apart, kind="stable"):
            if apart[other] >= best:
                break
            nm, row = _gap(pieces, piece, int(others[other]), best)
            if nm < best:
                best, found[place] = nm, row
    return found


def _between_boxes(pieces: Pieces, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distance of the bounding boxes of two pieces, which their vertices cannot come below."""
    apart = np.maximum(pieces.low[one] - pieces.high[other], pieces.low[other] - pieces.high[one])
    return np.asarray(np.linalg.norm(np.maximum(apart, 0), axis=1).astype(np.float64))


def _gap(pieces: Pieces, one: int, other: int, limit: float) -> tuple[float, int]:
    a = pieces.points[pieces.start[one] : pieces.start[one + 1]]
    rows = np.arange(pieces.start[other], pieces.start[other + 1])
    if len(a) * len(rows) > _BLOCK // 16:
        # only what lies near the other's box can be the closest
        a = a[_near_box(a, pieces.low[other], pieces.high[other], limit)]
        rows = rows[_near_box(pieces.points[rows], pieces.low[one], pieces.high[one], limit)]
    if not len(a) or not len(rows):
        return np.inf, -1
    b = pieces.points[rows]
    if len(a) * len(b) > _BLOCK:
        from scipy.spatial import cKDTree

        found, where = cKDTree(b).query(a)
        best = int(found.argmin())
        return float(found[best]), int(rows[where[best]])
    square = np.zeros((len(a), len(b)), dtype=np.float32)
    for axis in range(3):
        difference = a[:, axis, None] - b[None, :, axis]
        square += difference * difference
    best = int(square.argmin())
    return float(np.sqrt(square.flat[best])), int(rows[best % len(b)])


def _near_box(
    points: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32], limit: float
) -> NDArray[np.bool_]:
    reach = np.float32(limit + 1)
    return np.asarray(((points >= low - reach) & (points <= high + reach)).all(axis=1))
