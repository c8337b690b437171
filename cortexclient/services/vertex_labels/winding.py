"""Whether a point lies inside a piece of a mesh that is open where chunks were cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cortexclient.services.vertex_labels.blocks import blocks_of_groups
from cortexclient.services.vertex_labels.components import Pieces, ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    # x, y and z of many vectors
    Vectors: TypeAlias = list[NDArray[Any]]

__all__ = ["winding_numbers"]

# triangles seen from points, measured at once: some twenty arrays of them
_BLOCK = 1 << 14
# triangles that are looked at to tell which way the mesh is turned
_ENOUGH = 20_000


def winding_numbers(
    pieces: Pieces, piece: NDArray[np.int64], point: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How often a piece winds around a point: 1 inside a closed surface, 0 outside, in between near a cut.

    Outside, in front of the wall of a piece that is open behind, it is negative. Inside a large body it is positive
    also far from the patch of its surface that lies in the chunk.

    The sum of the solid angles of the triangles, by A. van Oosterom and J. Strackee, IEEE Trans. Biomed. Eng. 30
    (1983) 125, over 4 pi.

    Parameters
    ----------
    piece : ndarray of int64, shape (Q,)
        Piece of each pair.
    point : ndarray of float64, shape (Q, 3)
        Point of each pair in nm.

    Returns
    -------
    ndarray of float64, shape (Q,)
        Positive inside, whichever way the triangles of the mesh are turned.
    """
    if not len(piece):
        return np.zeros(0)
    seen_from = (point - pieces.origin).astype(np.float32)
    order, begin = pieces.triangles
    count = np.diff(begin)[piece]
    total = np.zeros(len(piece))
    for pairs in blocks_of_groups(count, _BLOCK):
        each = count[pairs]
        rows = order.take(ragged(begin[piece[pairs]], each))
        a, b, c = (
            [along - np.repeat(seen_from[pairs, axis], each) for axis, along in enumerate(corner)]
            for corner in _corners(pieces, rows)
        )
        pair = np.repeat(np.arange(len(each)), each)
        total[pairs] = np.bincount(pair, weights=_solid_angles(a, b, c), minlength=len(each))
    return total * (_turn(pieces) / (4 * np.pi))


def _corners(pieces: Pieces, triangles: NDArray[np.int64]) -> list[Vectors]:
    """Positions of the corners of triangles: for each corner x, y and z."""
    rows = [pieces.row.take(corner.take(triangles)) for corner in pieces.corners]
    return [[pieces.points[:, axis].take(row) for axis in range(3)] for row in rows]


def _turn(pieces: Pieces) -> float:
    """1 if triangles look outward as they are written, -1 if inward: most look away from the middle of their piece."""
    order, begin = pieces.triangles
    begin = begin[: int(np.searchsorted(begin, _ENOUGH)) + 1]
    if begin[-1] == 0:
        return 1.0
    a, b, c = ([x.astype(np.float64) for x in corner] for corner in _corners(pieces, order[: begin[-1]]))
    count = np.diff(begin)
    there = count > 0
    away, ab, ac = [], [], []
    for x, y, z in zip(a, b, c, strict=True):
        middle = (x + y + z) / 3
        own = np.add.reduceat(middle, begin[:-1][there]) / count[there]
        away.append(middle - np.repeat(own, count[there]))
        ab.append(y - x)
        ac.append(z - x)
    return -1.0 if float(_triple(away, ab, ac).sum()) < 0 else 1.0


def _triple(a: Vectors, b: Vectors, c: Vectors) -> NDArray[Any]:
    """Volume of the boxes that three vectors span."""
    result = a[0] * (b[1] * c[2] - b[2] * c[1])
    result += a[1] * (b[2] * c[0] - b[0] * c[2])
    result += a[2] * (b[0] * c[1] - b[1] * c[0])
    return np.asarray(result)


def _dot(a: Vectors, b: Vectors) -> NDArray[Any]:
    result = a[0] * b[0]
    result += a[1] * b[1]
    result += a[2] * b[2]
    return np.asarray(result)


def _solid_angles(a: Vectors, b: Vectors, c: Vectors) -> NDArray[Any]:
    la, lb, lc = (np.sqrt(_dot(x, x)) for x in (a, b, c))
    below = la * lb
    below += _dot(a, b)
    below *= lc
    below += _dot(b, c) * la
    below += _dot(c, a) * lb
    angle = np.arctan2(_triple(a, b, c), below)
    angle *= 2
    return np.asarray(angle)
