"""The triangles of a mesh sorted back into the chunks that they were made in.

Every chunk is meshed by itself, and where two meshes meet on a chunk plane the vertices that both have are merged. So
a triangle belongs to one chunk, while a vertex on a plane may have triangles on both sides. It is taken as a vertex of
the upper side, and the triangles of the lower side are not joined by it: objects that only meet there come apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cortexclient.services.vertex_labels.arrays import blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.services.vertex_labels.grid import Located

    Three: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]

__all__ = ["ChunkParts", "sort_into_chunks", "turned"]


@dataclass(frozen=True)
class ChunkParts:
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
        """Return the edges that join the nodes of each triangle, but for guests, in parts."""
        a, b, c = (corner[: self.inner] for corner in self.corners)
        a_, b_, c_ = (corner[self.inner :] for corner in self.corners)
        second, third = b_ < self.count, c_ < self.count
        return [(a, b), (b, c), (a_[second], b_[second]), (a_[third], c_[third])]


def sort_into_chunks(faces: NDArray[Any], where: Located, wanted: NDArray[np.bool_]) -> ChunkParts:
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
    parts, edge = _triangles(faces, where, chunk, wanted)
    home, rim = _homes(where, chunk, edge)
    vertex = np.flatnonzero(wanted.take(home) & ~rim).astype(np.int32)
    node = np.full(len(home), -1, dtype=np.int32)
    node[vertex] = np.arange(len(vertex), dtype=np.int32)
    corners, guest = _with_guests(edge, np.flatnonzero(wanted.take(edge.chunk)), home, rim, node, len(vertex))
    inner = sum(part.shape[1] for part in parts)
    nodes = np.empty((3, inner + corners.shape[1]), dtype=np.int32)
    nodes[:, inner:] = corners
    end = 0
    for part in parts:
        start, end = end, end + part.shape[1]
        nodes[:, start:end] = node.take(part)
    a, b, c = nodes
    return ChunkParts(home, rim, np.concatenate([vertex, guest]), len(vertex), (a, b, c), inner)


def _with_guests(
    edge: _Edge,
    keep: NDArray[np.int64],
    home: NDArray[np.int32],
    rim: NDArray[np.bool_],
    node: NDArray[np.int32],
    count: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the nodes of some of the triangles at planes, shape (3, T), and the vertices that are guests there."""
    corners, chunk = edge.corners.take(keep, axis=1), edge.chunk.take(keep)
    away = np.empty(corners.shape, dtype=bool)
    for block in blocks(len(keep)):
        part = corners[:, block]
        away[:, block] = (home.take(part) != chunk[block]) | rim.take(part)
    guest_node = np.full(len(home), -1, dtype=np.int32)
    guest_node[corners.ravel().take(np.flatnonzero(away))] = 0
    guest = np.flatnonzero(guest_node >= 0).astype(np.int32)
    guest_node[guest] = np.arange(count, count + len(guest), dtype=np.int32)
    found = [np.empty((3, 0), dtype=np.int32)]
    for block in blocks(len(keep)):
        part = corners[:, block]
        found.append(turned(np.where(away[:, block], guest_node.take(part), node.take(part)), count))
    return np.concatenate(found, axis=1), guest


def turned(corners: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Rotate triangles, shape (3, T), until their first corner is no guest; leave out those of guests only."""
    for _ in range(2):
        guest = corners[0] >= count
        corners = np.where(guest, corners[[1, 2, 0]], corners)
    return corners.compress(corners[0] < count, axis=1)


@dataclass(frozen=True)
class _Edge:
    """Triangles with a corner on a plane, by their vertices.

    Attributes
    ----------
    corners : ndarray of int32, shape (3, T)
    own : ndarray of bool, shape (3, T)
        Corners that lie in the triangle's cell.
    chunk : ndarray of int32, shape (T,)
    """

    corners: NDArray[np.int32]
    own: NDArray[np.bool_]
    chunk: NDArray[np.int32]


def _triangles(
    faces: NDArray[Any], where: Located, chunk: NDArray[np.int32], wanted: NDArray[np.bool_]
) -> tuple[list[NDArray[np.int32]], _Edge]:
    """Return the corners of triangles inside wanted chunks, in parts, and the triangles at the planes of any chunk."""
    numbers = np.arange(len(wanted), dtype=np.int32)
    numbers[-1] = -1
    code = ((numbers << 2) | (wanted << 1)).astype(np.int32).take(chunk)
    code |= where.planes != 0
    inner: list[NDArray[np.int32]] = []
    found = [(np.empty((3, 0), dtype=np.int32), np.empty((3, 0), dtype=bool), np.empty(0, dtype=np.int32))]
    for block in blocks(len(faces)):
        corner = np.ascontiguousarray(faces[block].T, dtype=np.intp)
        first, second, third = code.take(corner)
        at_plane = (first != second) | (second != third) | ((first & 1) != 0)
        inside = np.flatnonzero(~at_plane & ((first & 2) != 0))
        inner.append(corner.take(inside, axis=1).astype(np.int32))
        corner = corner.take(np.flatnonzero(at_plane), axis=1)
        a, b, c = cells = where.cell.take(corner)
        cell = where.below((a, b, c))
        where.sink(cell, np.bitwise_and.reduce(where.planes.take(corner), axis=0))
        found.append((corner.astype(np.int32), cells == cell, where.row(cell)))
    corners, own, of = zip(*found, strict=True)
    return inner, _Edge(np.concatenate(corners, axis=1), np.concatenate(own, axis=1), np.concatenate(of))


def _homes(
    where: Located, chunk: NDArray[np.int32], edge: _Edge
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return the chunk of each vertex: that of its own cell if a triangle is there, else the last of its triangles'."""
    held = where.planes == 0
    own, corner = edge.own.ravel(), edge.corners.ravel()
    held[corner.take(np.flatnonzero(own))] = True
    rim = np.zeros_like(held)
    home = chunk.copy()
    away = np.flatnonzero(~own)
    hanging = away.take(np.flatnonzero(~held.take(corner.take(away))))
    vertex = corner.take(hanging)
    rim[vertex] = True
    home[vertex] = -1
    np.maximum.at(home, vertex, edge.chunk.take(hanging % max(len(edge.chunk), 1)))
    return home, rim
