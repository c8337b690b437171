"""The pieces that a mesh falls into when it is cut at chunk faces, and distances between pieces of one chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pieces", "cut_into_pieces", "find_loose", "gaps", "ragged"]

# how many vertex pairs are measured at once: bounds the memory, and still fills the vector units
_BLOCK = 1 << 19


@dataclass(frozen=True)
class Pieces:
    """Connected pieces of the mesh inside chunks, numbered so that pieces of one chunk are neighbours.

    Attributes
    ----------
    vertex : ndarray of int64, shape (V,)
        Mesh vertices, those of one piece side by side.
    start : ndarray of int64, shape (P + 1,)
        Where each piece begins in ``vertex``.
    chunk : ndarray of int32, shape (P,)
        Chunk of each piece, ascending.
    points : ndarray of float32, shape (V, 3)
        Positions of ``vertex`` in nm from ``origin``.
    origin : ndarray of float64, shape (3,)
        Subtracted before rounding to float32, which keeps distances exact to 0.1 nm anywhere in a volume.
    low, high : ndarray of float32, shape (P, 3)
        Bounding box of each piece, from ``origin``.
    """

    vertex: NDArray[np.int64]
    start: NDArray[np.int64]
    chunk: NDArray[np.int32]
    points: NDArray[np.float32]
    origin: NDArray[np.float64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.chunk)

    @property
    def size(self) -> NDArray[np.int64]:
        """Vertices in each piece."""
        return np.diff(self.start)

    def select(self, keep: NDArray[np.bool_]) -> Pieces:
        """Some of the pieces, by a mask of shape (P,)."""
        rows = np.repeat(keep, self.size)
        start = np.concatenate([[0], np.cumsum(self.size[keep])])
        return Pieces(
            self.vertex[rows],
            start,
            self.chunk[keep],
            self.points[rows],
            self.origin,
            self.low[keep],
            self.high[keep],
        )

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Repeat one value for each piece over the rows of ``vertex``."""
        return np.repeat(values, self.size)


def find_loose(
    faces: NDArray[Any], chunk: NDArray[np.int32], on_face: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Vertices on a chunk face that touch nothing inside their own chunk: they are the rim of the chunk below.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    loose = on_face.copy()
    touching = faces[on_face[faces[:, 0]] | on_face[faces[:, 1]] | on_face[faces[:, 2]]]
    for a, b in ((0, 1), (1, 2), (2, 0)):
        for near, far in ((touching[:, a], touching[:, b]), (touching[:, b], touching[:, a])):
            loose[near[~on_face[far] & (chunk[near] == chunk[far])]] = False
    return loose


def cut_into_pieces(
    vertices: NDArray[Any], faces: NDArray[Any], chunk: NDArray[np.int32], wanted: NDArray[np.bool_]
) -> Pieces:
    """Find the connected components of the wanted vertices over the edges that stay inside one chunk.

    Parameters
    ----------
    vertices : ndarray, shape (N, 3)
    faces : ndarray of int, shape (M, 3)
    chunk : ndarray of int32, shape (N,)
    wanted : ndarray of bool, shape (N,)
    """
    member = np.flatnonzero(wanted)
    root = _roots(faces, chunk, wanted, member)
    # one sort puts chunks together, and in each chunk the vertices of a component
    key = chunk[member].astype(np.int64) * max(1, len(member)) + root
    order = np.argsort(key, kind="stable")
    member, key = member[order], key[order]
    begins = (
        np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        if len(key)
        else np.empty(0, dtype=np.int64)
    )
    start = np.concatenate([begins, [len(member)]]).astype(np.int64)
    positions = vertices[member]
    origin = positions.mean(axis=0, dtype=np.float64).round() if len(member) else np.zeros(3)
    points = (positions.astype(np.float64) - origin).astype(np.float32)
    if len(begins):
        low = np.minimum.reduceat(points, begins, axis=0)
        high = np.maximum.reduceat(points, begins, axis=0)
    else:
        low = high = np.empty((0, 3), dtype=np.float32)
    return Pieces(member, start, chunk[member[begins]], points, origin, low, high)


def _roots(
    faces: NDArray[Any], chunk: NDArray[np.int32], wanted: NDArray[np.bool_], member: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Component of each member, named by its first member: hooking and pointer jumping on whole arrays.

    Measured against scipy's connected_components: as fast, without building the matrix, which costs as much again.
    """
    number = np.full(len(wanted), -1, dtype=np.int32)
    number[member] = np.arange(len(member), dtype=np.int32)
    tails, heads = _inner_edges(faces, chunk, number)
    del number
    parent = np.arange(len(member), dtype=np.int32)
    while len(tails):
        # of several hooks on one root any may win: the others stay in the list for the next round
        parent[np.maximum(tails, heads)] = np.minimum(tails, heads)
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter
        tails, heads = parent[tails], parent[heads]
        open_edges = tails != heads
        tails, heads = tails[open_edges], heads[open_edges]
    return parent


def _inner_edges(
    faces: NDArray[Any], chunk: NDArray[np.int32], number: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Edges between wanted vertices of one chunk; of a triangle inside one chunk two edges are enough."""
    a, b, c = (number[faces[:, i]] for i in range(3))
    ca, cb, cc = (chunk[faces[:, i]] for i in range(3))
    ab = (a >= 0) & (b >= 0) & (ca == cb)
    bc = (b >= 0) & (c >= 0) & (cb == cc)
    del cb
    only = (a >= 0) & (c >= 0) & (ca == cc) & ~(ab & bc)
    tails = np.concatenate([a[ab], b[bc], a[only]])
    heads = np.concatenate([b[ab], c[bc], c[only]])
    return tails, heads


def ragged(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate the ranges ``[start, start + length)``."""
    total = int(lengths.sum())
    if not total:
        return np.empty(0, dtype=np.int64)
    ends = np.cumsum(lengths)
    return np.asarray(np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths))


def gaps(
    pieces: Pieces, one: NDArray[np.int64], other: NDArray[np.int64], limit: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Smallest distance between the vertices of two pieces, for many pairs of pieces.

    Parameters
    ----------
    one, other : ndarray of int64, shape (Q,)
        The pairs.
    limit : float
        Distances above this many nm need not be known; they come back as infinity.

    Returns
    -------
    distance : ndarray of float64, shape (Q,)
    nearest : ndarray of int64, shape (Q,)
        Row of ``pieces.vertex`` where the other piece is nearest; its first row where the distance is infinite.
    """
    distance = np.full(len(one), np.inf)
    nearest = pieces.start[other].copy()
    apart = np.maximum(
        0, np.maximum(pieces.low[one] - pieces.high[other], pieces.low[other] - pieces.high[one])
    )
    for pair in np.flatnonzero((apart.astype(np.float64) ** 2).sum(axis=1) <= limit * limit):
        nm, row = _gap(pieces, int(one[pair]), int(other[pair]), limit)
        if nm <= limit:
            distance[pair], nearest[pair] = nm, row
    return distance, nearest


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
    reach = np.float32(limit)
    return np.asarray(((points >= low - reach) & (points <= high + reach)).all(axis=1))
