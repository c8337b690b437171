"""Decide pieces of a mesh by asking the segmentation which object lies just inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cortexclient.services.vertex_labels.components import Pieces, ragged

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cortexclient.services.vertex_labels.claims import Claimants

    Lookup: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.int64]]

__all__ = ["claim_by_lookup"]

# vertices of a piece whose surroundings are looked up, and how far from the surface, in nm and on both sides,
# because not every mesh is oriented the same way
_VERTICES = 24
_STEPS_NM = (12.0, 40.0, 90.0)


def claim_by_lookup(
    vertices: NDArray[Any],
    faces: NDArray[Any],
    pieces: Pieces,
    claimants: Claimants,
    ids: NDArray[np.int64],
    labels: NDArray[np.int32],
    lookup: Lookup,
) -> NDArray[np.int64]:
    """Give free pieces to the level-2 id of their chunk that most points beside their surface belong to.

    The same points are asked every time: vertices spread evenly over each piece, and all pieces in one question.

    Parameters
    ----------
    ids : ndarray of int64, shape (K,)
        The level-2 ids, sorted.
    labels : ndarray of int32, shape (V,)
        Filled where a piece finds its owner.
    lookup : callable
        Gives the level-2 id at each of many positions in nm.

    Returns
    -------
    ndarray of int64
        The pieces that found an owner.
    """
    free = np.flatnonzero(labels[pieces.start[:-1]] < 0)
    if not len(free):
        return free
    size = pieces.size[free]
    taken = np.minimum(size, _VERTICES)
    place = ragged(np.zeros(len(free), dtype=np.int64), taken)
    rows = np.repeat(pieces.start[free], taken) + place * np.repeat(size, taken) // np.repeat(taken, taken)
    chosen = pieces.vertex[rows]
    normals = _normals(vertices, faces, chosen)
    steps = np.array([sign * step for step in _STEPS_NM for sign in (1, -1)])
    points = vertices[chosen].astype(np.float64)[:, None] + normals[:, None] * steps[None, :, None]
    found = np.asarray(lookup(points.reshape(-1, 3)), dtype=np.int64)
    owner = np.repeat(np.repeat(free, taken), len(steps))
    # only ids of the piece's own chunk count
    index = np.searchsorted(ids, found).clip(max=len(ids) - 1)
    chunk_of = np.full(len(ids), -1, dtype=np.int64)
    chunk_of[claimants.label] = claimants.chunk
    good = (ids[index] == found) & (chunk_of[index] == pieces.chunk[owner])
    pairs, votes = np.unique(np.stack([owner[good], index[good]]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -votes, pairs[0]))
    first = order[np.flatnonzero(np.diff(pairs[0][order], prepend=-1))]
    decided, label = pairs[0][first], pairs[1][first]
    lengths = pieces.size[decided]
    labels[ragged(pieces.start[decided], lengths)] = np.repeat(label.astype(np.int32), lengths)
    return np.asarray(decided, dtype=np.int64)


def _normals(vertices: NDArray[Any], faces: NDArray[Any], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    number = np.full(len(vertices), -1, dtype=np.int64)
    number[chosen] = np.arange(len(chosen))
    touching = faces[(number[faces] >= 0).any(axis=1)]
    a, b, c = (vertices[touching[:, k]].astype(np.float64) for k in range(3))
    across = np.cross(b - a, c - a)
    total = np.zeros((len(chosen), 3))
    for k in range(3):
        at = number[touching[:, k]]
        np.add.at(total, at[at >= 0], across[at >= 0])
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.asarray(np.divide(total, length, out=np.zeros_like(total), where=length > 0))
