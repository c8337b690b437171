"""Whether a point lies inside a piece of a mesh that is open where chunks were cut."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.services.vertex_labels.components import Pieces, in_order, ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.services.vertex_labels.fragments import Three

__all__ = ["winding_numbers"]

# triangles seen from points, measured at once
_BLOCK = 1 << 16
# triangles that are looked at to tell which way the mesh is turned
_ENOUGH = 50_000


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
    total = np.zeros(len(piece))
    if not len(piece):
        return total
    seen_from = (point - pieces.origin).astype(np.float32)
    wanted, place = np.unique(piece, return_inverse=True)
    corners, begin = _triangles(pieces, wanted)
    count = np.diff(begin)[place]
    blocks = np.searchsorted(np.cumsum(count), np.arange(0, count.sum() + _BLOCK, _BLOCK))
    for low, high in itertools.pairwise(blocks):
        span = slice(int(low), int(high))
        rows = ragged(begin[place[span]], count[span])
        if not len(rows):
            continue
        pair = np.repeat(np.arange(low, high), count[span])
        origin = seen_from[pair]
        a, b, c = (pieces.points[corner[rows]] - origin for corner in corners)
        total += np.bincount(pair, weights=_solid_angles(a, b, c), minlength=len(piece))
    return total * (_turn(pieces, corners, begin) / (4 * np.pi))


def _turn(pieces: Pieces, corners: Three, begin: NDArray[np.int64]) -> float:
    """1 if triangles look outward as they are written, -1 if inward: most look away from the middle of their piece."""
    last = int(np.searchsorted(begin, _ENOUGH))
    begin = begin[: last + 1]
    if begin[-1] == 0:
        return 1.0
    a, b, c = (pieces.points[corner[: begin[-1]]].astype(np.float64) for corner in corners)
    middle = (a + b + c) / 3
    count = np.diff(begin)
    there = count > 0
    own = np.add.reduceat(middle, begin[:-1][there], axis=0) / count[there][:, None]
    away = middle - np.repeat(own, count[there], axis=0)
    return -1.0 if float(_triple(away, b - a, c - a).sum()) < 0 else 1.0


def _triple(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    """Volume of the box that three vectors span."""
    result = a[:, 0] * (b[:, 1] * c[:, 2] - b[:, 2] * c[:, 1])
    result += a[:, 1] * (b[:, 2] * c[:, 0] - b[:, 0] * c[:, 2])
    result += a[:, 2] * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    return np.asarray(result)


def _solid_angles(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    la, lb, lc = (np.sqrt(np.einsum("ij,ij->i", x, x)) for x in (a, b, c))
    below = la * lb * lc
    below += np.einsum("ij,ij->i", a, b) * lc
    below += np.einsum("ij,ij->i", b, c) * la
    below += np.einsum("ij,ij->i", c, a) * lb
    return np.asarray(2 * np.arctan2(_triple(a, b, c), below))


def _triangles(pieces: Pieces, wanted: NDArray[np.int64]) -> tuple[Three, NDArray[np.int64]]:
    """Corners of the triangles of each wanted piece, and where each piece's begin."""
    number = np.full(len(pieces), -1, dtype=np.int32)
    number[wanted] = np.arange(len(wanted), dtype=np.int32)
    owner = pieces.spread(number)[pieces.corners[0]]
    rows = np.flatnonzero(owner >= 0)
    owner = owner[rows]
    begin = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(wanted)))])
    rows = rows[in_order(owner)]
    a, b, c = (corner[rows] for corner in pieces.corners)
    return (a, b, c), begin
