"""Which level-2 id owns each piece of a chunk that holds several.

Points claim the pieces that they lie in, by distances and winding numbers; other pieces are claimed by
elimination, enclosure, proximity or, where the segmentation may be queried, by what lies just inside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cortexclient.services.vertex_labels.chunks import blocks_of_groups, first_of_each, ragged
from cortexclient.services.vertex_labels.pieces import Pieces, gaps

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Lookup: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.int64]]

__all__ = [
    "Claimants",
    "Lookup",
    "claim_by_elimination",
    "claim_by_enclosure",
    "claim_by_lookup",
    "claim_by_point",
    "claim_by_proximity",
]

# pieces within this many times the distance of the nearest one, and this many nm more, are about as near
_ABOUT_AS_NEAR = 2.0
_ABOUT_AS_NEAR_NM = 100.0
# a point inside a wide trunk sees little of its surface, most is cut away at the chunk faces: 0.1 is already inside
_INSIDE = 0.1
# what a second point must have to be let into a piece that another one owns
_SURELY_INSIDE = 0.3
# how far outside the box of a piece a point may be, and still be inside the piece that simplification shrank
_BOX_SLACK_NM = 64.0
# a piece around which another winds this often lies within it: the wall of a hole
_ENCLOSED = 0.5
# smaller pieces are crumbs of a surface that simplification broke off, not holes
_SMALLEST_HOLE = 4


@dataclass(frozen=True)
class Claimants:
    """The level-2 ids of the chunks that hold several, sorted by chunk, then by id.

    ``label``, int32 of shape (R,), is the index in the caller's sorted ids; ``chunk`` is int32 of shape (R,);
    ``point``, float64 of shape (R, 3), the representative points in nm, NaN where there is none.
    """

    label: NDArray[np.int32]
    chunk: NDArray[np.int32]
    point: NDArray[np.float64]

    def select(self, keep: NDArray[np.bool_]) -> Claimants:
        """Return some of the claimants, by a mask of shape (R,)."""
        return Claimants(self.label[keep], self.chunk[keep], self.point[keep])

    @property
    def has_point(self) -> NDArray[np.bool_]:
        """Which of them have a representative point."""
        return np.asarray(np.isfinite(self.point).all(axis=1))


@dataclass(frozen=True)
class _Distances:
    """The distance of every point to every piece of its chunk."""

    claimant: NDArray[np.int64]
    piece: NDArray[np.int64]
    nm: NDArray[np.float32]


def claim_by_point(pieces: Pieces, claimants: Claimants) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Assign each piece to the representative point that it encloses.

    A point inside an object meets the object's own surface first, whichever way it goes, so its nearest vertex is
    one of its own. That fails where the object's own surface is cut away at a chunk face and another is nearer, so
    winding numbers decide wherever several pieces are about as near, or several points have the same one. A point
    that goes away empty takes a piece that nobody has: one that winds around it, else one about as near. Two points
    inside one piece mean that their objects touch: each vertex goes to the nearer point.

    Returns the label of each row of ``pieces.vertex``, shape (V,), -1 for none; and the pieces that several points lie
    in, ascending.
    """
    table = _distances(pieces, claimants)
    owner = np.full(len(pieces), -1, dtype=np.int64)
    if not len(table.nm):
        return np.full(len(pieces.vertex), -1, dtype=np.int32), np.empty(0, dtype=np.int64)
    inside = np.zeros(len(table.nm))
    doubtful = _doubtful(pieces, claimants.point, table)
    inside[doubtful] = winding_numbers(
        pieces, table.piece[doubtful], claimants.point[table.claimant[doubtful]]
    )
    # winding numbers below the limit mean little, so there the distance decides; ties go to the smaller id
    rank = np.where(inside > _INSIDE, -inside, 0.0)
    pick = first_of_each(table.claimant, (table.piece, table.nm, rank))
    claimant, piece, nm = table.claimant[pick], table.piece[pick], table.nm[pick]
    first = first_of_each(piece, (claimant, nm, rank[pick]))
    owner[piece[first]] = claimant[first]
    lost = np.ones(len(pick), dtype=bool)
    lost[first] = False
    # a point that surely is inside the piece that it lost does not take one that is merely near
    within = inside[pick][lost] > _SURELY_INSIDE
    moved = _second_choice(pieces, claimants, table, owner, claimant[lost], np.where(within, -1, nm[lost]))
    labels = pieces.spread(np.where(owner >= 0, claimants.label[owner], -1).astype(np.int32))
    sharing = lost & ~moved[claimant] & (inside[pick] > _SURELY_INSIDE)
    _share(pieces, claimants, labels, owner, claimant[sharing], piece[sharing])
    return labels, np.unique(piece[sharing])


def _doubtful(pieces: Pieces, points: NDArray[np.float64], table: _Distances) -> NDArray[np.int64]:
    """Return pairs that distances alone do not settle: points near several pieces, and pieces near several points."""
    nearest = np.full(int(table.claimant.max()) + 1, np.inf)
    np.minimum.at(nearest, table.claimant, table.nm)
    candidate = np.flatnonzero(table.nm <= _ABOUT_AS_NEAR * nearest[table.claimant] + _ABOUT_AS_NEAR_NM)
    claimant, piece = table.claimant[candidate], table.piece[candidate]
    doubtful = np.zeros(len(table.nm), dtype=bool)
    doubtful[candidate] = (np.bincount(claimant)[claimant] > 1) | (np.bincount(piece)[piece] > 1)
    # a point outside the box of its nearest piece is not inside that piece: look at all of its chunk
    first = first_of_each(table.claimant, (table.piece, table.nm))
    point = (points[table.claimant[first]] - pieces.origin).astype(np.float32)
    low, high = pieces.low[table.piece[first]], pieces.high[table.piece[first]]
    outside = ((point < low - _BOX_SLACK_NM) | (point > high + _BOX_SLACK_NM)).any(axis=1)
    astray = np.zeros(len(nearest), dtype=bool)
    astray[table.claimant[first[outside]]] = True
    return np.flatnonzero(doubtful | astray[table.claimant])


def _distances(pieces: Pieces, claimants: Claimants) -> _Distances:
    rows = np.flatnonzero(claimants.has_point)
    first, count = pieces.of_chunks(claimants.chunk[rows])
    rows, first, count = rows[count > 0], first[count > 0], count[count > 0]
    points = (claimants.point[rows] - pieces.origin).astype(np.float32)
    begin, end = pieces.start[first], pieces.start[first + count]
    nearest = []
    for span in blocks_of_groups(end - begin):
        length = end[span] - begin[span]
        row = ragged(begin[span], length)
        square = np.zeros(len(row), dtype=np.float32)
        for axis in range(3):
            difference = pieces.points[:, axis].take(row)
            difference -= np.repeat(points[span, axis], length)
            difference *= difference
            square += difference
        cuts = np.concatenate([[0], np.cumsum(pieces.size[ragged(first[span], count[span])])[:-1]])
        nearest.append(np.sqrt(np.minimum.reduceat(square, cuts)))
    nm = np.concatenate(nearest) if nearest else np.empty(0, dtype=np.float32)
    return _Distances(np.repeat(rows, count), ragged(first, count), nm)


def _second_choice(
    pieces: Pieces,
    claimants: Claimants,
    table: _Distances,
    owner: NDArray[np.int64],
    losers: NDArray[np.int64],
    lost_at: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Let points that lost their nearest piece take a free one; fills ``owner``, returns which points did.

    ``lost_at`` is the distance of the piece that each loser lost, negative if the loser goes only to what encloses it.
    """
    moved = np.zeros(len(claimants.label), dtype=bool)
    reach = np.full(len(moved), -1.0)
    reach[losers] = np.where(lost_at < 0, 0, _ABOUT_AS_NEAR * lost_at + _ABOUT_AS_NEAR_NM)
    pairs = np.flatnonzero((reach[table.claimant] >= 0) & (owner[table.piece] < 0))
    inside = winding_numbers(pieces, table.piece[pairs], claimants.point[table.claimant[pairs]])
    fits = (inside > _INSIDE) | (table.nm[pairs] <= reach[table.claimant[pairs]])
    pairs, rank = pairs[fits], np.where(inside > _INSIDE, -inside, 0.0)[fits]
    for pair in pairs[np.lexsort((table.piece[pairs], table.claimant[pairs], table.nm[pairs], rank))]:
        claimant, piece = table.claimant[pair], table.piece[pair]
        if not moved[claimant] and owner[piece] < 0:
            owner[piece] = claimant
            moved[claimant] = True
    return moved


def _share(
    pieces: Pieces,
    claimants: Claimants,
    labels: NDArray[np.int32],
    owner: NDArray[np.int64],
    claimant: NDArray[np.int64],
    piece: NDArray[np.int64],
) -> None:
    """Split pieces that several points claim: every vertex goes to the nearest of them; fills ``labels``."""
    for shared in np.unique(piece):
        rows = slice(int(pieces.start[shared]), int(pieces.start[shared + 1]))
        who = np.sort(np.append(claimant[piece == shared], owner[shared]))
        points = (claimants.point[who] - pieces.origin).astype(np.float32)
        square = ((pieces.points[rows, None, :] - points[None]) ** 2).sum(axis=2)
        nearest = square.argmin(axis=1)
        # each claimant keeps at least the vertex that it is nearest to
        nearest[square.argmin(axis=0)] = np.arange(len(who))
        labels[rows] = claimants.label[who[nearest]]


def claim_by_enclosure(pieces: Pieces, labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Assign free pieces to the owned piece of their chunk that they lie within; fill ``labels``, return those pieces.

    Such pieces are the walls of holes: their object is all around them, and may be far from every other surface.
    """
    free = np.flatnonzero((labels[pieces.start[:-1]] < 0) & (pieces.size >= _SMALLEST_HOLE))
    one, other = pieces.beside(free)
    within = (pieces.low[one] >= pieces.low[other]) & (pieces.high[one] <= pieces.high[other])
    keep = within.all(axis=1) & (labels[pieces.start[other]] >= 0)
    one, other = one[keep], other[keep]
    if not len(one):
        return np.asarray(one)
    middle = np.stack([_middle_vertex(pieces, int(piece)) for piece in one]) + pieces.origin
    winds = winding_numbers(pieces, other, middle)
    one, other, winds = one[winds > _ENCLOSED], other[winds > _ENCLOSED], winds[winds > _ENCLOSED]
    pick = first_of_each(one, (labels[pieces.start[other]], -winds))
    pieces.fill(labels, one[pick], labels[pieces.start[other[pick]]])
    return np.asarray(one[pick])


def _middle_vertex(pieces: Pieces, piece: int) -> NDArray[np.float64]:
    points = pieces.points[pieces.start[piece] : pieces.start[piece + 1]].astype(np.float64)
    from_middle = ((points - points.mean(axis=0)) ** 2).sum(axis=1)
    return np.asarray(points[np.lexsort((*points.T, from_middle))[0]])


def claim_by_elimination(
    pieces: Pieces, claimants: Claimants, labels: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Assign the largest free pieces of a chunk to its level-2 ids without a representative point.

    Fills ``labels`` and returns the pieces.
    """
    rows = np.flatnonzero(~claimants.has_point)
    free = np.flatnonzero(labels[pieces.start[:-1]] < 0)
    if not len(rows) or not len(free):
        return np.empty(0, dtype=np.int64)
    free = free[np.lexsort((*pieces.low[free].T, -pieces.size[free], pieces.chunk[free]))]
    place = _place_in_group(pieces.chunk[free])
    wanted = claimants.chunk[rows].astype(np.int64) << 32 | _place_in_group(claimants.chunk[rows])
    offered = pieces.chunk[free].astype(np.int64) << 32 | place
    _, to, given = np.intersect1d(wanted, offered, assume_unique=True, return_indices=True)
    taken = free[given]
    pieces.fill(labels, taken, claimants.label[rows[to]])
    return np.asarray(taken, dtype=np.int64)


def _place_in_group(groups: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the position of each element within its run of equal values."""
    begins = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(begins, np.diff(np.append(begins, len(groups))))


def claim_by_proximity(
    pieces: Pieces, labels: NDArray[np.int32], *, max_distance: float, ratio_better: float
) -> NDArray[np.int64]:
    """Assign free pieces to the nearest owned piece of their chunk, if it is clearly the nearest.

    The nearest owner must be within ``max_distance`` and closer than ``ratio_better`` times the distance of *any*
    other owner in the chunk, however far that one is. Pieces that have found an owner then count as owned for those
    that have not; all of one round are decided together, so the order of pieces does not matter. Fills ``labels`` and
    returns the pieces that found an owner.
    """
    free = np.flatnonzero(labels[pieces.start[:-1]] < 0)
    one, other = pieces.beside(free)
    # a second owner beyond this distance cannot fail the test of a first one within max_distance
    limit = max_distance / ratio_better
    nm, at = gaps(pieces, one, other, limit)
    near = np.isfinite(nm)
    one, other, nm, at = one[near], other[near], nm[near], at[near]
    # crumbs that have found an owner decide a larger piece only when nothing else does
    grown = (labels[at] >= 0) | (pieces.size[other] >= pieces.size[one])
    found: list[NDArray[np.int64]] = []
    while len(one):
        owned = (labels[at] >= 0) & grown
        winners, label = _clear_winners(one[owned], labels[at[owned]], nm[owned], max_distance, ratio_better)
        if not len(winners) and grown.all():
            break
        if not len(winners):
            grown[:] = True
            continue
        pieces.fill(labels, winners, label)
        found.append(winners)
        still = ~np.isin(one, winners)
        one, nm, at, grown = one[still], nm[still], at[still], grown[still]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _clear_winners(
    piece: NDArray[np.int64],
    label: NDArray[np.int32],
    nm: NDArray[np.float64],
    max_distance: float,
    ratio_better: float,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    # the nearest piece of each owner, then the two nearest owners of each free piece
    nearest = first_of_each(piece << 32 | label, (nm,))
    piece, label, nm = piece[nearest], label[nearest], nm[nearest]
    order = np.lexsort((label, nm, piece))
    piece, label, nm = piece[order], label[order], nm[order]
    best = np.flatnonzero(np.diff(piece, prepend=-1))
    second = np.full(len(best), np.inf)
    runner_up = best + 1
    exists = runner_up < np.append(best[1:], len(piece))
    second[exists] = nm[runner_up[exists]]
    clear = (nm[best] <= max_distance) & (nm[best] < ratio_better * second)
    return piece[best[clear]], label[best[clear]]


# -- voxels ------------------------------------------------------------------------------------------------------------

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
    """Assign free pieces to the level-2 id of their chunk that most points beside their surface belong to.

    The points are always the same: beside vertices spread evenly over each piece. All pieces are looked up together.
    Fills ``labels``, int32 of shape (V,), and returns the pieces that found an owner. ``ids`` are sorted; ``lookup``
    returns the level-2 id at each of many positions in nm.
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
    decided, label = pairs[:, first_of_each(pairs[0], (pairs[1], -votes))]
    pieces.fill(labels, decided, label)
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


# -- winding numbers ---------------------------------------------------------------------------------------------------

# pairs of triangle and point that are measured together; some twenty arrays of them are in memory
_TRIANGLES = 1 << 14
# triangles that are enough to find out which way the mesh is oriented
_ENOUGH = 20_000


def winding_numbers(
    pieces: Pieces, piece: NDArray[np.int64], point: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute how often a piece winds around a point: 1 inside a closed surface, 0 outside, in between near a cut.

    Outside, in front of the wall of a piece that is open behind, it is negative. Inside a large body it is positive
    also far from the patch of its surface that lies in the chunk. It is positive inside whichever way the triangles are
    oriented. ``piece``, shape (Q,), and ``point`` in nm, shape (Q, 3), are pairs.

    The sum of the solid angles of the triangles, by A. van Oosterom and J. Strackee, IEEE Trans. Biomed. Eng. 30
    (1983) 125, over 4 pi.
    """
    if not len(piece):
        return np.zeros(0)
    seen_from = (point - pieces.origin).astype(np.float32)
    order, begin = pieces.triangles
    count = np.diff(begin)[piece]
    total = np.zeros(len(piece))
    for pairs in blocks_of_groups(count, _TRIANGLES):
        each = count[pairs]
        rows = order.take(ragged(begin[piece[pairs]], each))
        a, b, c = _corners(pieces, rows) - np.repeat(seen_from[pairs], each, axis=0).T
        pair = np.repeat(np.arange(len(each)), each)
        total[pairs] = np.bincount(pair, weights=_solid_angles(a, b, c), minlength=len(each))
    return total * (_turn(pieces) / (4 * np.pi))


def _corners(pieces: Pieces, triangles: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the positions of the corners of triangles, shape (3, 3, T): for each corner x, y and z."""
    rows = pieces.row.take(pieces.corners.take(triangles, axis=1))
    return np.stack([pieces.points[:, axis].take(rows) for axis in range(3)], axis=1)


def _turn(pieces: Pieces) -> float:
    """Return 1 if triangles are oriented outward, -1 if inward: most face away from the middle of their piece."""
    order, begin = pieces.triangles
    begin = begin[: int(np.searchsorted(begin, _ENOUGH)) + 1]
    if begin[-1] == 0:
        return 1.0
    a, b, c = _corners(pieces, order[: begin[-1]]).astype(np.float64)
    count = np.diff(begin)
    there = count > 0
    middle = (a + b + c) / 3
    own = np.add.reduceat(middle, begin[:-1][there], axis=1) / count[there]
    away = middle - np.repeat(own, count[there], axis=1)
    return -1.0 if float(_dot(away, np.cross(b - a, c - a, axis=0)).sum()) < 0 else 1.0


def _dot(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((a * b).sum(axis=0))


def _solid_angles(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    """Return the solid angles of triangles seen from the origin, from the vectors to their corners, (3, T) each."""
    la, lb, lc = (np.sqrt(_dot(corner, corner)) for corner in (a, b, c))
    below = (la * lb + _dot(a, b)) * lc + _dot(b, c) * la + _dot(c, a) * lb
    return np.asarray(2 * np.arctan2(_dot(a, np.cross(b, c, axis=0)), below))
