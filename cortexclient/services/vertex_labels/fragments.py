"""The triangles of a mesh sorted back into the chunks that they were made in.

Every chunk is meshed by itself, and where two meshes meet on a chunk plane the vertices that both have are merged. So
a triangle belongs to one chunk, while a vertex on a plane may have triangles on both sides. It is taken as a vertex of
the upper side, and the triangles of the lower side are not joined by it: objects that only meet there come apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cortexclient.services.vertex_labels.grid import Located

    Three: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]

__all__ = ["Fragments", "sort_into_chunks", "turned"]

# triangles that are worked on at once, so that what is in between stays in the processor's cache
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Fragments:
    """The parts of a mesh that lie in wanted chunks, and the chunk of every vertex.

    Attributes
    ----------
    home : ndarray of int32, shape (N,)
        Chunk of each vertex of the mesh, -1 for none. What lies on a plane counts for the upper side, unless nothing
        but triangles of the lower side hold it.
    rim : ndarray of bool, shape (N,)
        Vertices on a plane that only triangles of the lower side hold.
    vertex : ndarray of int32, shape (Q + G,)
        Mesh vertex of each node: first the Q vertices at home in a wanted chunk, then G guests: corners of triangles
        that lie on the upper plane of the triangle's chunk.
    count : int
        Q.
    corners : tuple of three ndarray of int32, shape (T,)
        Nodes of the triangles in wanted chunks; the first is never a guest.
    inner : int
        How many of the triangles, counted from the first, have no guest.
    """

    home: NDArray[np.int32]
    rim: NDArray[np.bool_]
    vertex: NDArray[np.int32]
    count: int
    corners: Three
    inner: int

    def edges(self) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Edges that join the nodes of each triangle, but for guests, in parts."""
        a, b, c = (corner[: self.inner] for corner in self.corners)
        a_, b_, c_ = (corner[self.inner :] for corner in self.corners)
        second, third = b_ < self.count, c_ < self.count
        return [(a, b), (b, c), (a_[second], b_[second]), (a_[third], c_[third])]


def sort_into_chunks(faces: NDArray[Any], where: Located, wanted: NDArray[np.bool_]) -> Fragments:
    """Find the chunk of every triangle, and of every vertex by its triangles.

    Parameters
    ----------
    faces : ndarray of int, shape (M, 3)
    where : Located
        The cells of the vertices.
    wanted : ndarray of bool, shape (C,)
        The chunks whose parts are needed.
    """
    chunk = where.row(where.cell)
    wanted = np.append(wanted, False)  # the last entry answers chunk -1
    inner, edge = _triangles(faces, where, chunk, wanted)
    home, rim = _homes(where, chunk, edge)
    vertex = np.flatnonzero(wanted[home] & ~rim).astype(np.int32)
    node = np.full(len(home), -1, dtype=np.int32)
    node[vertex] = np.arange(len(vertex), dtype=np.int32)
    keep = wanted[edge.chunk]
    corners, of = [corner[keep] for corner in edge.corners], edge.chunk[keep]
    away = [(home[corner] != of) | rim[corner] for corner in corners]
    abroad = np.zeros(len(home), dtype=bool)
    for corner, out in zip(corners, away, strict=True):
        abroad[corner[out]] = True
    guest = np.flatnonzero(abroad).astype(np.int32)
    guest_node = np.full(len(home), -1, dtype=np.int32)
    guest_node[guest] = np.arange(len(vertex), len(vertex) + len(guest), dtype=np.int32)
    outer = turned(
        [np.where(out, guest_node[corner], node[corner]) for corner, out in zip(corners, away, strict=True)],
        len(vertex),
    )
    a, b, c = (np.concatenate([node[one], two]) for one, two in zip(inner, outer, strict=True))
    return Fragments(home, rim, np.concatenate([vertex, guest]), len(vertex), (a, b, c), len(inner[0]))


def turned(corners: Sequence[NDArray[np.int32]], count: int) -> Three:
    """Turn triangles until their first corner is no guest; leave out those of guests only."""
    for _ in range(2):
        a, b, c = corners
        guest = a >= count
        corners = [np.where(guest, b, a), np.where(guest, c, b), np.where(guest, a, c)]
    keep = corners[0] < count
    a, b, c = (corner[keep] for corner in corners)
    return a, b, c


@dataclass(frozen=True)
class _Edge:
    """Triangles with a corner on a plane, by their vertices."""

    corners: Three
    cell: NDArray[Any]
    chunk: NDArray[np.int32]


def _triangles(
    faces: NDArray[Any], where: Located, chunk: NDArray[np.int32], wanted: NDArray[np.bool_]
) -> tuple[Three, _Edge]:
    """Triangles inside wanted chunks, and those at the planes of any chunk."""
    code = (chunk << 1) | (where.planes != 0)
    inner: list[Three] = []
    edge: list[tuple[NDArray[Any], ...]] = []
    for start in range(0, len(faces), _BLOCK):
        a, b, c = (faces[start : start + _BLOCK, k].astype(np.int32) for k in range(3))
        first, second, third = code[a], code[b], code[c]
        at_plane = (first != second) | (second != third) | ((first & 1) != 0)
        inside = np.flatnonzero(~at_plane & wanted[first >> 1])
        inner.append((a[inside], b[inside], c[inside]))
        rows = np.flatnonzero(at_plane)
        a, b, c = a[rows], b[rows], c[rows]
        cell = where.below((where.cell[a], where.cell[b], where.cell[c]))
        where.sink(cell, where.planes[a] & where.planes[b] & where.planes[c])
        edge.append((a, b, c, cell, where.row(cell)))
    if not inner:
        none = np.empty(0, dtype=np.int32)
        return (none, none, none), _Edge((none, none, none), where.cell[:0], none)
    x, y, z = (np.concatenate(each) for each in zip(*inner, strict=True))
    a, b, c, cell, of = (np.concatenate(each) for each in zip(*edge, strict=True))
    return (x, y, z), _Edge((a, b, c), cell, of)


def _homes(
    where: Located, chunk: NDArray[np.int32], edge: _Edge
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Chunk of each vertex: that of its own cell if a triangle is there, else the last of its triangles'."""
    held = where.planes == 0
    for corner in edge.corners:
        held[corner[where.cell[corner] == edge.cell]] = True
    rim = np.zeros_like(held)
    below = np.full(len(held), -1, dtype=np.int32)
    for corner in edge.corners:
        hanging = np.flatnonzero(~held[corner])
        np.maximum.at(below, corner[hanging], edge.chunk[hanging])
        rim[corner[hanging]] = True
    return np.where(rim, below, chunk), rim
