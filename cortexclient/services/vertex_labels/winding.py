"""Whether a point lies inside a piece of a mesh that is open where chunks were cut."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cortexclient.services.vertex_labels.blocks import side_by_side
from cortexclient.services.vertex_labels.components import Pieces, in_order, ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.services.vertex_labels.fragments import Three

    # x, y and z of many vectors
    Vectors: TypeAlias = list[NDArray[Any]]

__all__ = ["winding_numbers"]

# triangles seen from points, measured at once
_BLOCK = 1 << 14
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
    if not len(piece):
        return np.zeros(0)
    seen_from = (point - pieces.origin).astype(np.float32)
    wanted, place = np.unique(piece, return_inverse=True)
    corners, begin = _triangles(pieces, wanted)
    count = np.diff(begin)[place]
    total = np.zeros(len(piece))
    blocks = np.searchsorted(np.cumsum(count), np.arange(0, count.sum() + _BLOCK, _BLOCK))

    def measure(pairs: slice) -> None:
        rows = ragged(begin[place[pairs]], count[pairs])
        if not len(rows):
            return
        a, b, c = (
            [
                pieces.points[:, axis].take(at) - np.repeat(seen_from[pairs, axis], count[pairs])
                for axis in range(3)
            ]
            for at in (corner.take(rows) for corner in corners)
        )
        pair = np.repeat(np.arange(pairs.stop - pairs.start), count[pairs])
        total[pairs] = np.bincount(pair, weights=_solid_angles(a, b, c), minlength=pairs.stop - pairs.start)

    side_by_side(measure, [slice(*ends) for ends in itertools.pairwise(blocks.tolist())])
    return total * (_turn(pieces, corners, begin) / (4 * np.pi))


def _turn(pieces: Pieces, corners: Three, begin: NDArray[np.int64]) -> float:
    """1 if triangles look outward as they are written, -1 if inward: most look away from the middle of their piece."""
    last = int(np.searchsorted(begin, _ENOUGH))
    begin = begin[: last + 1]
    if begin[-1] == 0:
        return 1.0
    a, b, c = (
        [pieces.points[:, axis][corner[: begin[-1]]].astype(np.float64) for axis in range(3)]
        for corner in corners
    )
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


def _triangles(pieces: Pieces, wanted: NDArray[np.int64]) -> tuple[Three, NDArray[np.int64]]:
    """Rows of the corners of the triangles of each wanted piece, and where each piece's begin."""
    number = np.full(len(pieces), -1, dtype=np.int32)
    number[wanted] = np.arange(len(wanted), dtype=np.int32)
    guests = np.full(len(pieces.points) - len(pieces.vertex), -1, dtype=np.int32)
    of_node = np.append(pieces.spread(number), guests).take(pieces.row)
    owner = of_node.take(pieces.corners[0])
    rows = np.flatnonzero(owner >= 0)
    owner = owner.take(rows)
    begin = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(wanted)))])
    rows = rows.take(in_order(owner))
    a, b, c = (pieces.row.take(corner.take(rows)) for corner in pieces.corners)
    return (a, b, c), begin
