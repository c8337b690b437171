"""Carry labels along the mesh to vertices that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.services.vertex_labels.blocks import blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["spread_labels", "touching"]


def touching(faces: NDArray[Any], marked: NDArray[np.bool_]) -> NDArray[Any]:
    """The triangles with a corner among marked vertices."""
    found = []
    for block in blocks(len(faces)):
        triangles = faces[block]
        hit = marked.take(triangles)
        found.append(triangles[hit[:, 0] | hit[:, 1] | hit[:, 2]])
    return np.concatenate(found) if found else faces


def spread_labels(
    vertices: NDArray[Any],
    faces: NDArray[Any],
    labels: NDArray[np.int32],
    on_face: NDArray[np.bool_],
    hop_limit: int | None,
    *,
    only: NDArray[np.bool_] | None = None,
    chunk: NDArray[np.int32] | None = None,
) -> NDArray[np.int64]:
    """One breadth-first search from all labelled vertices at once; fills ``labels``.

    A vertex that is reached from several at the same step takes the label of one off the chunk faces if there is one,
    because what lies on a face may be of either side; then the label at the end of its shortest edge, and of equal
    ones the smallest label, so that neither the order of vertices nor that of faces matters.

    Parameters
    ----------
    vertices : ndarray, shape (N, 3)
    faces : ndarray of int, shape (M, 3)
    labels : ndarray of int32, shape (N,)
        -1 where there is none.
    on_face : ndarray of bool, shape (N,)
        Vertices on chunk faces.
    hop_limit : int or None
        How many edges a label may travel; None for as many as there are.
    only : ndarray of bool, shape (N,), optional
        The vertices to label; default all that have no label.
    chunk : ndarray of int32, shape (N,), optional
        Chunk of each vertex; where it is given, labels stay inside their chunk.

    Returns
    -------
    ndarray of int64
        The vertices that were reached.
    """
    blank = labels < 0
    if only is not None:
        blank &= only
    if hop_limit == 0 or not blank.any() or blank.all():
        return np.empty(0, dtype=np.int64)
    a, b, c = np.ascontiguousarray(touching(faces, blank).T, dtype=np.int64)
    near = np.concatenate([a, b, c, b, c, a])
    far = np.concatenate([b, c, a, a, b, c])
    keep = blank[near] & (near != far)
    if chunk is not None:
        keep &= chunk[near] == chunk[far]
    near, far = near[keep], far[keep]
    length = ((vertices[near].astype(np.float64) - vertices[far]) ** 2).sum(axis=1)
    reached: list[NDArray[np.int64]] = []
    hops = 0
    while len(near) and (hop_limit is None or hops < hop_limit):
        ready = np.flatnonzero(labels[far] >= 0)
        if not len(ready):
            break
        order = ready[np.lexsort((labels[far[ready]], length[ready], on_face[far[ready]], near[ready]))]
        first = order[np.flatnonzero(np.diff(near[order], prepend=-1))]
        labels[near[first]] = labels[far[first]]
        reached.append(near[first])
        still = labels[near] < 0
        near, far, length = near[still], far[still], length[still]
        hops += 1
    return np.concatenate(reached) if reached else np.empty(0, dtype=np.int64)
