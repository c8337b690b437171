"""Whether a point lies inside a piece of a mesh that is open where chunks were cut."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.services.vertex_labels.components import Pieces, ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["winding_numbers"]

# triangles seen from points, measured at once
_BLOCK = 1 << 16
# triangles that are looked at to tell which way the mesh is turned
_ENOUGH = 50_000


def winding_numbers(
    vertices: NDArray[Any],
    faces: NDArray[Any],
    pieces: Pieces,
    piece: NDArray[np.int64],
    point: NDArray[np.float64],
) -> NDArray[np.float64]:
    """How often a piece winds around a point: 1 inside a closed surface, 0 outside, in between near a cut.

    Outside, in front of the wall of a piece that is open behind, it is negative.

    The sum of the solid angles of the triangles, by A. van Oosterom and J. Strackee, IEEE Trans. Biomed. Eng. 30
    (1983) 125, over 4 pi. Triangles that cross a chunk face count for the pieces on both sides.

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
    wanted, place = np.unique(piece, return_inverse=True)
    triangle, begin = _triangles(len(vertices), faces, pieces, wanted)
    count = np.diff(begin)[place]
    total = np.zeros(len(piece))
    corners = faces[triangle]
    seen_from = point.astype(vertices.dtype)
    blocks = np.searchsorted(np.cumsum(count), np.arange(0, count.sum() + _BLOCK, _BLOCK))
    for low, high in itertools.pairwise(blocks):
        span = slice(int(low), int(high))
        rows = ragged(begin[place[span]], count[span])
        if not len(rows):
            continue
        pair = np.repeat(np.arange(low, high), count[span])
        origin = seen_from[pair]
        a, b, c = (vertices[corners[rows, k]] - origin for k in range(3))
        total += np.bincount(pair, weights=_solid_angles(a, b, c), minlength=len(piece))
    return total * (_turn(vertices, corners, begin) / (4 * np.pi))


def _turn(vertices: NDArray[Any], corners: NDArray[Any], begin: NDArray[np.int64]) -> float:
    """1 if triangles look outward as they are written, -1 if inward: most look away from the middle of their piece."""
    last = int(np.searchsorted(begin, _ENOUGH))
    begin = begin[: last + 1]
    corners = corners[: begin[-1]]
    if not len(corners):
        return 1.0
    a, b, c = (vertices[corners[:, k]].astype(np.float64) for k in range(3))
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


def _triangles(
    count: int, faces: NDArray[Any], pieces: Pieces, wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ``faces`` with a corner in each wanted piece, and where each piece's rows begin."""
    number = np.full(count, -1, dtype=np.int32)
    size = pieces.size[wanted]
    number[pieces.vertex[ragged(pieces.start[wanted], size)]] = np.repeat(
        np.arange(len(wanted), dtype=np.int32), size
    )
    known = number >= 0
    rows = np.flatnonzero(known[faces[:, 0]] | known[faces[:, 1]] | known[faces[:, 2]])
    a, b, c = (number[faces[rows, k]] for k in range(3))
    second, third = (b >= 0) & (b != a), (c >= 0) & (c != a) & (c != b)
    first = a >= 0
    owner = np.concatenate([a[first], b[second], c[third]])
    rows = np.concatenate([rows[first], rows[second], rows[third]])
    order = np.argsort(owner, kind="stable")
    begin = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(wanted)))])
    return rows[order], begin
