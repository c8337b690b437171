"""The public function, and the object that explains its answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from cortexclient.services.vertex_labels.claims import (
    Claimants,
    claim_by_elimination,
    claim_by_enclosure,
    claim_by_point,
    claim_by_proximity,
)
from cortexclient.services.vertex_labels.components import Pieces, cut_into_pieces, find_loose, ragged
from cortexclient.services.vertex_labels.grid import ChunkGrid, Located
from cortexclient.services.vertex_labels.lookup import claim_by_lookup
from cortexclient.services.vertex_labels.spread import spread_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from cortexclient.services.vertex_labels.lookup import Lookup

__all__ = ["Decision", "Labels", "label_mesh", "label_vertices"]

# how far, in times the distance of its nearest vertex, an object without a vertex gathers the vertices around it
CRUMB_REACH = 1.5


class Decision(IntEnum):
    """How a vertex got its level-2 id, from the surest to the least sure."""

    NONE = 0
    """No level-2 id was found."""
    OWN_CHUNK = 1
    """The vertex's chunk holds a single level-2 id of this root."""
    COMPONENT = 2
    """The vertex's piece of the mesh encloses the representative point of that id."""
    ELIMINATION = 3
    """The piece encloses no point, and the id has none: it was the only one left for the piece."""
    PROXIMITY = 4
    """The piece encloses no point; a piece of that id is clearly the nearest one in the chunk."""
    PROPAGATION = 5
    """The label came along the edges of the mesh."""
    LOOKUP = 6
    """Voxels inside the piece were looked up in the segmentation (only with ``cloudvolume_fallback``)."""


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
    """Level-2 id of every vertex of a neuron's mesh.

    One pass over whole arrays; the answer depends neither on the order of the level-2 ids nor on that of the faces.

    1. Every vertex is put into its chunk. Chunk faces are moved to the nearest cell of the grid on which draco
       rounded the vertices. Where the chunk holds one level-2 id, that is the answer.
    2. In the other chunks the mesh is cut at the chunk faces into connected pieces. A piece belongs to the level-2 id
       whose representative point it encloses; the largest piece that encloses none to an id without a point.
    3. A piece that encloses no point belongs to the nearest piece that has an owner, if that is nearer than
       ``max_distance`` and clearly nearer than every other owner's.
    4. What is left takes the label of its neighbours along the mesh.

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
    """Do the work of :func:`label_vertices`; with ``lookup``, ask the segmentation about pieces that stay undecided."""
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
    work = _Work(points, triangles, ids, representatives, grid)
    work.own_chunks()
    work.several(max_distance, ratio_better, lookup)
    work.propagate(hop_limit)
    work.crumbs(max_distance)
    found = np.append(ids, 0)[work.labels]  # label -1 reads the appended 0
    return Labels(found, work.decisions, work.piece)


class _Work:
    """The arrays that the steps hand on to each other."""

    def __init__(
        self,
        vertices: NDArray[Any],
        faces: NDArray[Any],
        ids: NDArray[np.int64],
        points: NDArray[np.float64],
        grid: ChunkGrid,
    ) -> None:
        self.vertices, self.faces, self.ids, self.points = vertices, faces, ids, points
        self.labels = np.full(len(vertices), -1, dtype=np.int32)
        self.decisions = np.zeros(len(vertices), dtype=np.uint8)
        self.piece = np.full(len(vertices), -1, dtype=np.int32)
        positions, chunk_of_id = np.unique(grid.positions(ids), axis=0, return_inverse=True)
        self.chunk_of_id = chunk_of_id.reshape(-1).astype(np.int32)
        self.ids_in_chunk = np.bincount(self.chunk_of_id, minlength=len(positions))
        self.where: Located = grid.locate(vertices, faces, positions)
        self.loose = find_loose(faces, self.where.chunk, self.where.on_face)

    def own_chunks(self) -> None:
        """Label the vertices of chunks with one id."""
        only = np.full(len(self.ids_in_chunk) + 1, -1, dtype=np.int32)  # the last entry answers chunk -1
        only[self.chunk_of_id] = np.arange(len(self.chunk_of_id), dtype=np.int32)
        only[:-1][self.ids_in_chunk != 1] = -1
        self.labels[:] = only[self.where.chunk]
        self.labels[self.loose] = -1
        self.decisions[self.labels >= 0] = Decision.OWN_CHUNK

    def several(self, max_distance: float, ratio_better: float, lookup: Lookup | None) -> None:
        """Label the pieces of chunks with several ids."""
        many = np.append(self.ids_in_chunk > 1, False)  # the last entry answers chunk -1
        wanted = many[self.where.chunk] & ~self.loose
        if not wanted.any():
            return
        pieces = cut_into_pieces(self.vertices, self.faces, self.where.chunk, wanted)
        order = np.argsort(self.chunk_of_id, kind="stable").astype(np.int32)
        order = order[many[self.chunk_of_id[order]]]
        claimants = Claimants(order, self.chunk_of_id[order], self.points[order])
        labels = claim_by_point(self.vertices, self.faces, pieces, claimants)
        decisions = np.where(labels >= 0, Decision.COMPONENT, Decision.NONE).astype(np.uint8)
        _mark(pieces, decisions, claim_by_elimination(pieces, claimants, labels), Decision.ELIMINATION)
        within = claim_by_enclosure(self.vertices, self.faces, pieces, labels)
        _mark(pieces, decisions, within, Decision.COMPONENT)
        near = claim_by_proximity(pieces, labels, max_distance=max_distance, ratio_better=ratio_better)
        _mark(pieces, decisions, near, Decision.PROXIMITY)
        if lookup is not None:
            asked = claim_by_lookup(self.vertices, self.faces, pieces, claimants, self.ids, labels, lookup)
            _mark(pieces, decisions, asked, Decision.LOOKUP)
        self.labels[pieces.vertex] = labels
        self.decisions[pieces.vertex] = decisions
        self.piece[pieces.vertex] = pieces.spread(np.arange(len(pieces), dtype=np.int32))

    def propagate(self, hop_limit: int | None) -> None:
        """Label what is left along the mesh."""
        reached = spread_labels(self.vertices, self.faces, self.labels, self.where.on_face, hop_limit)
        self.decisions[reached] = Decision.PROPAGATION

    def crumbs(self, max_distance: float) -> None:
        """Give the ids that have no vertex yet those that no other id of their chunk has a surer claim to.

        An object that just reaches over a chunk face has nothing but vertices on that face.
        """
        found = np.zeros(len(self.points) + 1, dtype=bool)
        found[self.labels] = True
        empty = np.flatnonzero(~found[:-1] & np.isfinite(self.points).all(axis=1))
        unsure = (self.decisions == Decision.PROPAGATION) | (self.decisions == Decision.NONE)
        waiting = np.append(
            np.bincount(self.chunk_of_id[empty], minlength=len(self.ids_in_chunk)) > 0, [False]
        )
        vertex = np.flatnonzero(unsure & waiting[self.where.chunk])
        if not len(empty) or not len(vertex):
            return
        order = np.argsort(self.where.chunk[vertex], kind="stable")
        vertex = vertex[order]
        chunk = self.where.chunk[vertex]
        first = np.searchsorted(chunk, self.chunk_of_id[empty], "left")
        count = np.searchsorted(chunk, self.chunk_of_id[empty], "right") - first
        rows, ids = ragged(first, count), np.repeat(empty, count)
        nm = np.sqrt(((self.vertices[vertex[rows]].astype(np.float64) - self.points[ids]) ** 2).sum(axis=1))
        reach = np.full(len(self.points), np.inf)
        np.minimum.at(reach, ids, nm)
        near = (nm <= max_distance) & (nm <= CRUMB_REACH * reach[ids])
        rows, ids, nm = rows[near], ids[near], nm[near]
        order = np.lexsort((ids, nm, rows))
        nearest = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
        self.labels[vertex[rows[nearest]]] = ids[nearest]
        self.decisions[vertex[rows[nearest]]] = Decision.PROXIMITY


def _mark(pieces: Pieces, decisions: NDArray[np.uint8], which: NDArray[np.int64], as_: Decision) -> None:
    decisions[ragged(pieces.start[which], pieces.size[which])] = as_


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
    if int(triangles.min()) < 0 or int(triangles.max()) >= count:
        raise ValueError(
            f"faces point to vertices {triangles.min()}..{triangles.max()}, but there are {count}"
        )
    return triangles


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
