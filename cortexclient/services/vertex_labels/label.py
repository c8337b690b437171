"""The public function, and the object that explains its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from cortexclient.services.vertex_labels.grid import ChunkGrid
from cortexclient.services.vertex_labels.steps import Decision, Steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from cortexclient.services.vertex_labels.claims import Lookup

__all__ = ["Decision", "Labels", "label_mesh", "label_vertices"]


@dataclass(frozen=True)
class Labels:
    """Level-2 ids of mesh vertices, and how each was decided.

    Attributes
    ----------
    l2_ids : ndarray of int64, shape (N,)
        Level-2 id of each vertex, 0 where there is none.
    decisions : ndarray of uint8, shape (N,)
        A :class:`Decision` for each vertex.
    pieces : ndarray of int32, shape (N,)
        Number of the connected piece that the vertex was decided with, -1 where the piece played no part.
    """

    l2_ids: NDArray[np.int64]
    decisions: NDArray[np.uint8]
    pieces: NDArray[np.int32]

    def counts(self) -> dict[str, int]:
        """Count the vertices of each kind of decision, by name."""
        found = np.bincount(self.decisions, minlength=len(Decision))
        return {decision.name.lower(): int(found[decision]) for decision in Decision}


@overload
def label_vertices(
    vertices: ArrayLike,
    faces: ArrayLike,
    l2_ids: ArrayLike,
    l2_points: ArrayLike | None = None,
    *,
    info: Mapping[str, Any],
    max_distance: float = 500,
    ratio_better: float = 0.5,
    hop_limit: int | None = None,
    mesh_mip: int | None = None,
    explain: Literal[False] = False,
) -> NDArray[np.int64]: ...


@overload
def label_vertices(
    vertices: ArrayLike,
    faces: ArrayLike,
    l2_ids: ArrayLike,
    l2_points: ArrayLike | None = None,
    *,
    info: Mapping[str, Any],
    max_distance: float = 500,
    ratio_better: float = 0.5,
    hop_limit: int | None = None,
    mesh_mip: int | None = None,
    explain: Literal[True],
) -> Labels: ...


def label_vertices(
    vertices: ArrayLike,
    faces: ArrayLike,
    l2_ids: ArrayLike,
    l2_points: ArrayLike | None = None,
    *,
    info: Mapping[str, Any],
    max_distance: float = 500,
    ratio_better: float = 0.5,
    hop_limit: int | None = None,
    mesh_mip: int | None = None,
    explain: bool = False,
) -> NDArray[np.int64] | Labels:
    """Find the level-2 id of every vertex of a neuron's mesh.

    The result depends neither on the order of the level-2 ids nor on that of the faces.

    1. Every triangle is put into its chunk, and every vertex into that of its triangles; on a chunk face the upper
       side counts, if there is a triangle. Chunk faces are moved to the nearest cell of the grid on which draco rounded
       the vertices. Where the chunk holds one level-2 id, that is the result.
    2. In the other chunks the triangles fall into connected pieces. A piece belongs to the level-2 id whose
       representative point it encloses; the largest piece that encloses none to an id without a point.
    3. A piece that encloses no point belongs to the nearest piece that has an owner, if that is nearer than
       ``max_distance`` and clearly nearer than every other owner's.
    4. What is left takes the label of its neighbours along the mesh, or, where it has none or they lie in another chunk
       than itself and its own has ids, that of the nearest piece there.

    Parameters
    ----------
    vertices : array_like of float, shape (N, 3)
        Positions in nm.
    faces : array_like of int, shape (M, 3)
        Rows of ``vertices``.
    l2_ids : array_like of int, shape (K,)
        The level-2 ids of the root.
    l2_points : array_like of float, shape (K, 3), or None
        Representative point of each id in nm (``rep_coord_nm`` of the L2 cache); a row of NaN where there is none.
    info : mapping
        The graphene info, as ``segmentation_info`` returns it.
    max_distance : float
        Greatest distance in nm over which a piece without a point joins another.
    ratio_better : float
        The nearest owner must be closer than this fraction of the distance to the next one; above 0, at most 1.
    hop_limit : int or None
        How many mesh edges a label may travel in the last step; None for no limit, 0 to leave the step out.
        With a limit, what no label reaches stays without one.
    mesh_mip : int or None
        The mip at which the meshes were made, where it is known; None finds out from the vertices.
    explain : bool
        Return how each vertex was decided, too.

    Returns
    -------
    ndarray of int64, shape (N,), or Labels
        The level-2 id of each vertex, 0 where there is none; with ``explain`` a :class:`Labels`.

    Raises
    ------
    ValueError
        If an array has the wrong shape, faces point outside the vertices, ids repeat or are not of level 2, or the
        info lacks what is needed.

    Examples
    --------
    >>> mesh = client.mesh.get_mesh(root_id)                                    # doctest: +SKIP
    >>> l2 = client.get_l2data(client.get_l2_ids(root_id), ["rep_coord_nm"])    # doctest: +SKIP
    >>> ids = label_vertices(mesh.vertices, mesh.faces, l2.index, l2.to_numpy(), info=info)  # doctest: +SKIP
    """
    labels = label_mesh(
        vertices,
        faces,
        l2_ids,
        l2_points,
        info=info,
        max_distance=max_distance,
        ratio_better=ratio_better,
        hop_limit=hop_limit,
        mesh_mip=mesh_mip,
    )
    return labels if explain else labels.l2_ids


def label_mesh(
    vertices: ArrayLike,
    faces: ArrayLike,
    l2_ids: ArrayLike,
    l2_points: ArrayLike | None,
    *,
    info: Mapping[str, Any],
    max_distance: float,
    ratio_better: float,
    hop_limit: int | None,
    mesh_mip: int | None,
    lookup: Lookup | None = None,
) -> Labels:
    """Label vertices as :func:`label_vertices` does; with ``lookup``, pieces that stay undecided are looked up."""
    if max_distance < 0 or not 0 < ratio_better <= 1:
        raise ValueError(
            "max_distance must not be negative, and ratio_better must lie above 0 and not above 1"
        )
    if hop_limit is not None and hop_limit < 0:
        raise ValueError("hop_limit must not be negative; 0 leaves the last step out, None sets no limit")
    points = _check_points(vertices)
    triangles = _check_faces(faces, len(points))
    ids, representatives = _check_ids(l2_ids, l2_points)
    grid = ChunkGrid.from_info(info, mesh_mip=mesh_mip)
    steps = Steps(points, triangles, ids, representatives, grid)
    steps.own_chunks()
    steps.several(max_distance, ratio_better, lookup)
    steps.propagate(hop_limit, max_distance)
    steps.crumbs(max_distance)
    found = np.append(ids, 0).take(steps.labels)  # label -1 reads the appended 0
    return Labels(found, steps.decisions, steps.piece)


def _check_points(vertices: ArrayLike) -> NDArray[Any]:
    points = np.asarray(vertices)
    if points.size == 0:
        return np.empty((0, 3), dtype=np.float32)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise ValueError(
            f"vertices must be numbers of shape (N, 3), not {points.dtype} of shape {points.shape}"
        )
    return points


def _check_faces(faces: ArrayLike, count: int) -> NDArray[Any]:
    triangles = np.asarray(faces)
    if triangles.size == 0:
        return np.empty((0, 3), dtype=np.int64)
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise ValueError(
            f"faces must be whole numbers of shape (M, 3), not {triangles.dtype} of shape {triangles.shape}"
        )
    signed = triangles.dtype.kind == "i"
    if (signed and int(triangles.min()) < 0) or int(triangles.max()) >= count:
        raise ValueError(
            f"faces point to vertices {triangles.min()}..{triangles.max()}, but there are {count}"
        )
    # NumPy before 2.1 takes no unsigned numbers of 64 bits as places
    return triangles.astype(np.int64) if triangles.dtype == np.uint64 else triangles


def _check_ids(
    l2_ids: ArrayLike, l2_points: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    given = np.asarray(l2_ids)
    if given.size == 0:
        given = np.empty(0, dtype=np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(
            f"l2_ids must be whole numbers of shape (K,), not {given.dtype} of shape {given.shape}"
        )
    ids = given.astype(np.int64)
    if l2_points is None:
        points = np.full((len(ids), 3), np.nan)
    else:
        points = np.asarray(l2_points, dtype=np.float64)
        points = points.reshape(0, 3) if points.size == 0 else points
    if points.shape != (len(ids), 3):
        raise ValueError(
            f"l2_points must have a row of three for each of {len(ids)} ids, not shape {points.shape}"
        )
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (ids[1:] == ids[:-1]).any():
        raise ValueError(f"level-2 id {ids[1:][ids[1:] == ids[:-1]][0]} is given more than once")
    return ids, points[order]
