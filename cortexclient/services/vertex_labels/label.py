"""Label the vertices of a mesh: the public function, the object that explains its result, and the steps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from cortexclient.services.vertex_labels.chunks import (
    ChunkGrid,
    blocks,
    first_of_each,
    in_order,
    ragged,
    sort_into_chunks,
)
from cortexclient.services.vertex_labels.claims import (
    Claimants,
    claim_by_elimination,
    claim_by_enclosure,
    claim_by_lookup,
    claim_by_point,
    claim_by_proximity,
)
from cortexclient.services.vertex_labels.pieces import Pieces, cut_again, cut_into_pieces, nearest_owner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from cortexclient.services.vertex_labels.chunks import Located
    from cortexclient.services.vertex_labels.claims import Lookup

__all__ = ["Decision", "Labels", "Steps", "label_mesh", "label_vertices", "spread_labels"]


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
        If an array has the wrong shape, faces point outside the vertices or share none, ids repeat or are not of level
        2, or the info lacks what is needed.

    Examples
    --------
    >>> mesh = client.mesh.get_mesh(root_id)
    >>> l2 = client.get_l2data(client.get_l2_ids(root_id), ["rep_coord_nm"])
    >>> info = client.session.segmentation_info()
    >>> ids = label_vertices(mesh.vertices, mesh.faces, l2.index, l2.to_numpy(), info=info)
    >>> set(ids) <= {0, *l2.index}
    True
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
    points = _checked(vertices, "vertices", "(N, 3)", "fiu")
    triangles = _checked(faces, "faces", "(M, 3)", "iu")
    if triangles.size and (int(triangles.min()) < 0 or int(triangles.max()) >= len(points)):
        raise ValueError(
            f"faces point to vertices {triangles.min()}..{triangles.max()}, but there are {len(points)}"
        )
    if triangles.dtype == np.uint64:  # NumPy before 2.1 takes no unsigned numbers of 64 bits as places
        triangles = triangles.astype(np.int64)
    if (
        triangles.size > _MOST_LOOSE
        and len(points) >= triangles.size
        and np.bincount(triangles.ravel()).max() == 1
    ):
        raise ValueError(
            "no two triangles of this mesh share a vertex, so that nothing tells which belong together: merge vertices "
            "at the same place first, as trimesh does with merge_vertices() and cloud-volume with consolidate()"
        )
    ids = _checked(l2_ids, "l2_ids", "(K,)", "iu").astype(np.int64)
    known = np.full((len(ids), 3), np.nan) if l2_points is None else np.asarray(l2_points, dtype=np.float64)
    if known.shape != (len(ids), 3) and (known.size or len(ids)):
        raise ValueError(
            f"l2_points must have a row of three for each of {len(ids)} ids, not shape {known.shape}"
        )
    order = np.argsort(ids, kind="stable")
    ids, known = ids[order], known.reshape(-1, 3)[order]
    if (ids[1:] == ids[:-1]).any():
        raise ValueError(f"level-2 id {ids[1:][ids[1:] == ids[:-1]][0]} is given more than once")
    grid = ChunkGrid.from_info(info, mesh_mip=mesh_mip)
    steps = Steps(points, triangles, ids, known, grid, max_distance, ratio_better, lookup)
    steps.own_chunks()
    steps.several()
    steps.propagate(hop_limit)
    steps.assign_empty_ids()
    found = np.append(ids, 0).take(steps.labels)  # label -1 reads the appended 0
    return Labels(found, steps.decisions, steps.piece)


def _checked(values: ArrayLike, name: str, shape: str, kinds: str) -> NDArray[Any]:
    """Return an argument as an array; raise `ValueError` if its shape or its kind of numbers is another."""
    found = np.asarray(values)
    columns = (3,) if shape.endswith("3)") else ()
    if found.size == 0:
        return np.empty((0, *columns), dtype=np.float32 if "f" in kinds else np.int64)
    if found.ndim != 1 + len(columns) or found.shape[1:] != columns or found.dtype.kind not in kinds:
        numbers = "numbers" if "f" in kinds else "whole numbers"
        raise ValueError(
            f"{name} must be {numbers} of shape {shape}, not {found.dtype} of shape {found.shape}"
        )
    return found


# corners of a mesh whose triangles may all be loose: with many, every pair of them would be compared
_MOST_LOOSE = 300
# how far, in times the distance of its nearest vertex, an object without a vertex gathers the vertices around it
CRUMB_REACH = 1.5
# an object with a vertex nearer to its point than this is at the surface, so it has some of the surface
CRUMB_NM = 150.0


# -- the steps, and the arrays that they pass on to each other -------------------------------------------------


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
    """The label spread along the edges of the mesh; or none did, and it is that of the nearest piece in the chunk."""
    LOOKUP = 6
    """Voxels inside the piece were looked up in the segmentation (only with ``cloudvolume_fallback``)."""


class Steps:
    """The steps, and the arrays that they pass on to each other."""

    def __init__(
        self,
        vertices: NDArray[Any],
        faces: NDArray[Any],
        ids: NDArray[np.int64],
        points: NDArray[np.float64],
        grid: ChunkGrid,
        max_distance: float,
        ratio_better: float,
        lookup: Lookup | None,
    ) -> None:
        self.vertices, self.faces, self.ids, self.points = vertices, faces, ids, points
        self.max_distance, self.ratio_better, self.lookup = max_distance, ratio_better, lookup
        self.labels: NDArray[np.int32]
        self.decisions = np.zeros(len(vertices), dtype=np.uint8)
        self.piece = np.full(len(vertices), -1, dtype=np.int32)
        # the pieces, and which of them have an owner
        self.cut: list[tuple[Pieces, NDArray[np.bool_]]] = []
        positions, chunk_of_id = np.unique(grid.positions(ids), axis=0, return_inverse=True)
        self.chunk_of_id = chunk_of_id.reshape(-1).astype(np.int32)
        self.ids_in_chunk = np.bincount(self.chunk_of_id, minlength=len(positions))
        self.where: Located = grid.locate(vertices, faces, positions)
        self.parts = sort_into_chunks(faces, self.where, self.ids_in_chunk > 1)

    def own_chunks(self) -> None:
        """Label the vertices of chunks with one id."""
        only = np.full(len(self.ids_in_chunk) + 1, -1, dtype=np.int32)  # the last entry is for chunk -1
        only[self.chunk_of_id] = np.arange(len(self.chunk_of_id), dtype=np.int32)
        only[:-1][self.ids_in_chunk != 1] = -1
        self.labels = only.take(self.parts.home)
        np.multiply(self.labels >= 0, np.uint8(Decision.OWN_CHUNK), out=self.decisions)

    def several(self) -> None:
        """Label the pieces of chunks with several ids."""
        if not len(self.parts.vertex):
            return
        pieces = cut_into_pieces(self.vertices, self.parts, self.where.middle)
        order = np.argsort(self.chunk_of_id, kind="stable").astype(np.int32)
        order = order[(self.ids_in_chunk > 1)[self.chunk_of_id[order]]]
        claimants = Claimants(order, self.chunk_of_id[order], self.points[order])
        labels, shared = claim_by_point(pieces, claimants)
        again = np.zeros(len(self.ids_in_chunk), dtype=bool)
        again[pieces.chunk[shared]] = True
        self._label_unclaimed(pieces, claimants.select(~again[claimants.chunk]), labels, again)
        if not len(shared):
            return
        # objects that touch are often joined only by vertices on a plane: cut there, and claim again
        stitched = np.zeros(len(pieces), dtype=bool)
        stitched[shared] = True
        seam = (self.where.planes[pieces.vertex] != 0) & pieces.spread(stitched)
        self.labels[pieces.vertex[seam]] = -1
        self.decisions[pieces.vertex[seam]] = Decision.NONE
        self.parts.rim[pieces.vertex[seam]] = True
        pieces = cut_again(pieces, again, seam)
        claimants = claimants.select(again[claimants.chunk])
        labels, _ = claim_by_point(pieces, claimants)
        self._label_unclaimed(pieces, claimants, labels, np.zeros_like(again))

    def _label_unclaimed(
        self,
        pieces: Pieces,
        claimants: Claimants,
        labels: NDArray[np.int32],
        later: NDArray[np.bool_],
    ) -> None:
        """Label the pieces that no point claimed, and store all labels; chunks that come ``later`` are left alone."""
        # pieces with a label are neither free nor in anyone's way outside of their chunk
        left = pieces.spread(later[pieces.chunk])
        labels[left] = 0
        rows = np.flatnonzero(~left)
        decisions = np.where(labels >= 0, Decision.COMPONENT, Decision.NONE).astype(np.uint8)
        claimed = claim_by_elimination(pieces, claimants, labels)
        pieces.fill(decisions, claimed, Decision.ELIMINATION)
        pieces.fill(decisions, claim_by_enclosure(pieces, labels), Decision.COMPONENT)
        claimed = claim_by_proximity(
            pieces, labels, max_distance=self.max_distance, ratio_better=self.ratio_better
        )
        pieces.fill(decisions, claimed, Decision.PROXIMITY)
        if self.lookup is not None:
            claimed = claim_by_lookup(
                self.vertices, self.faces, pieces, claimants, self.ids, labels, self.lookup
            )
            pieces.fill(decisions, claimed, Decision.LOOKUP)
        vertex = pieces.vertex[rows]
        first = sum(len(each) for each, _ in self.cut)
        number = np.arange(first, first + len(pieces), dtype=np.int32)
        self.labels[vertex] = labels[rows]
        self.decisions[vertex] = decisions[rows]
        self.piece[vertex] = pieces.spread(number)[rows]
        self.cut.append((pieces, labels[pieces.start[:-1]] >= 0))

    def propagate(self, hop_limit: int | None) -> None:
        """Label what is left along the mesh.

        First what lies on upper planes, by the pieces whose triangles end there. A label that spreads from another
        chunk means that a piece continues there, but cannot be right for a chunk with ids of its own: then it is the id
        of the nearest piece of that chunk. So it is for a piece that no label reaches, if another is within
        ``max_distance``: one of the chunk's ids is right, none is not.
        """
        faces = touching(self.faces, self.labels < 0)
        spread = partial(spread_labels, self.vertices, faces, self.labels, self.where.planes != 0)
        rims = spread(None, only=self.parts.rim, chunk=self.parts.home)
        self.decisions[rims] = Decision.COMPONENT
        reached = spread(hop_limit)
        self.decisions[reached] = Decision.PROPAGATION
        reached = reached[self.piece[reached] >= 0]
        first = 0
        for pieces, owned in self.cut:
            if hop_limit is None:
                self._join_nearest(pieces, owned)
            number = self.piece[reached] - first
            self._stay_in_chunk(pieces, owned, reached[(number >= 0) & (number < len(pieces))], first)
            first += len(pieces)

    def _join_nearest(self, pieces: Pieces, owned: NDArray[np.bool_]) -> None:
        """Label pieces that no label reached as the nearest piece with an owner."""
        free = np.flatnonzero(~owned & (self.labels[pieces.vertex[pieces.start[:-1]]] < 0))
        at = nearest_owner(pieces, free, owned, self.max_distance)
        free, at = free[at >= 0], at[at >= 0]
        vertex = pieces.vertex[pieces.rows(free)]
        self.labels[vertex] = np.repeat(self.labels[pieces.vertex[at]], pieces.size[free])
        self.decisions[vertex] = Decision.PROPAGATION

    def _stay_in_chunk(
        self, pieces: Pieces, owned: NDArray[np.bool_], vertex: NDArray[np.int64], first: int
    ) -> None:
        """Label vertices of free pieces, which are numbered from ``first``, as the nearest piece with an owner."""
        free, which = np.unique(self.piece[vertex] - first, return_inverse=True)
        at = nearest_owner(pieces, free.astype(np.int64), owned)
        label = np.where(at >= 0, self.labels[pieces.vertex[at]], -1)
        known = label[which] >= 0
        self.labels[vertex[known]] = label[which[known]]

    def assign_empty_ids(self) -> None:
        """Assign vertices next to their points to ids that have no vertex yet, where no other id's claim is surer.

        An object that just reaches over a chunk face has nothing but vertices on that face, which may lie in the piece
        of another. A vertex that was decided already goes only to a point that is closer than its own id's.
        """
        found = np.zeros(len(self.points) + 1, dtype=bool)
        found[self.labels] = True
        empty = np.flatnonzero(~found[:-1] & np.isfinite(self.points).all(axis=1))
        waiting = np.append(
            np.bincount(self.chunk_of_id[empty], minlength=len(self.ids_in_chunk)) > 0, [False]
        )
        vertex = np.flatnonzero(waiting.take(self.parts.home))
        if not len(empty) or not len(vertex):
            return
        vertex = vertex[in_order(self.parts.home[vertex])]
        chunk = self.parts.home[vertex]
        first = np.searchsorted(chunk, self.chunk_of_id[empty], "left")
        count = np.searchsorted(chunk, self.chunk_of_id[empty], "right") - first
        rows, ids = ragged(first, count), np.repeat(empty, count)
        nm = self._distance(vertex[rows], ids)
        reach = np.full(len(self.points), np.inf)
        np.minimum.at(reach, ids, nm)
        near = nm <= CRUMB_REACH * reach[ids]
        rows, ids, nm = rows[near], ids[near], nm[near]
        decided = self.decisions[vertex[rows]]
        unsure = (decided == Decision.PROPAGATION) | (decided == Decision.NONE)
        own = self._distance(vertex[rows], self.labels[vertex[rows]])
        near = (unsure & (nm <= self.max_distance)) | (~unsure & (nm < own) & (reach[ids] <= CRUMB_NM))
        rows, ids, nm = rows[near], ids[near], nm[near]
        nearest = first_of_each(rows, (ids, nm))
        self.labels[vertex[rows[nearest]]] = ids[nearest]
        self.decisions[vertex[rows[nearest]]] = Decision.PROXIMITY

    def _distance(self, vertex: NDArray[np.int64], label: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distance of vertices to the points of ids in nm; infinite where there is no id or no point."""
        offset = self.vertices.take(vertex, axis=0) - self.points.take(label, axis=0)
        nm = np.sqrt(np.einsum("ij,ij->i", offset, offset))
        return np.where((label < 0) | np.isnan(nm), np.inf, nm)


# -- along the mesh ----------------------------------------------------------------------------------------------------


def touching(faces: NDArray[Any], marked: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the triangles with a corner among marked vertices."""
    found = []
    for block in blocks(len(faces)):
        triangles = faces[block]
        hit = marked.take(triangles)
        found.append(triangles[hit.any(axis=1)])
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
    """Spread labels by one breadth-first search from all labelled vertices together; return the vertices reached.

    A vertex that is reached from several at the same step takes the label of one off the chunk faces if there is one,
    because what lies on a face may be of either side; then the label at the end of its shortest edge, and of equal
    ones the smallest label, so that neither the order of vertices nor that of faces matters.

    Fills ``labels``, int32 of shape (N,), -1 where there is none. ``on_face`` marks the vertices on chunk faces.
    ``hop_limit`` is the largest number of edges that a label may travel, None for no limit. With ``only``, bool of
    shape (N,), other vertices stay as they are; with ``chunk``, int32 of shape (N,), labels stay inside their chunk.
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
        first = ready[first_of_each(near[ready], (labels[far[ready]], length[ready], on_face[far[ready]]))]
        labels[near[first]] = labels[far[first]]
        reached.append(near[first])
        still = labels[near] < 0
        near, far, length = near[still], far[still], length[still]
        hops += 1
    return np.concatenate(reached) if reached else np.empty(0, dtype=np.int64)
