"""Where the chunks of a chunked graph lie in space, and which of them a mesh vertex belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["ChunkGrid", "Located"]

# what a decoded coordinate may be off: float32 holds 0.06 nm at one millimetre
_FLOAT_SLACK_NM = 0.12
# how many triangles are looked at to find the mip whose offset the mesher used
_SAMPLE = 200_000
# a table from chunk position to chunk is made when it has at most this many cells
_MAX_TABLE = 1 << 24


@dataclass(frozen=True)
class Located:
    """The chunk of every vertex.

    Attributes
    ----------
    chunk : ndarray of int32, shape (N,)
        Row of the vertex's chunk in the chunks that were asked for; -1 for a vertex in none of them.
    on_face : ndarray of bool, shape (N,)
        The vertex lies on the lower face of its chunk, so the chunk below has a copy of it too.
    """

    chunk: NDArray[np.int32]
    on_face: NDArray[np.bool_]


@dataclass(frozen=True)
class ChunkGrid:
    """The grid of level-2 chunks that a graphene info describes.

    Attributes
    ----------
    offsets : ndarray of float64, shape (S, 3)
        Corner of chunk (0, 0, 0) in nm, one row for each mip that the mesher may have worked at; the first is the
        segmentation's own.
    size : ndarray of float64, shape (3,)
        Edge lengths of a chunk in nm.
    bits : int
        Bits of one chunk coordinate in a level-2 id.
    layer_bits : int
        Bits of the layer in an id.
    draco : float
        Cell of the grid that mesh vertices were rounded to, in nm; 0 if they were not.
    """

    offsets: NDArray[np.float64]
    size: NDArray[np.float64]
    bits: int
    layer_bits: int
    draco: float

    @classmethod
    def from_info(cls, info: Mapping[str, Any], *, mesh_mip: int | None = None) -> ChunkGrid:
        """Read the grid from a graphene info.

        Parameters
        ----------
        info : mapping
            The JSON that a chunkedgraph serves at ``/segmentation/table/NAME/info``.
        mesh_mip : int or None
            The mip at which the meshes were made, where it is known (it stands in the info of the mesh folder).
            The voxel offsets of coarser mips are rounded down, so chunk faces in the mesh can lie a few nm beside
            those of the segmentation: 8 nm in minnie65. None tries every scale of the info on the vertices.

        Raises
        ------
        ValueError
            If a key that is needed is missing or has another shape.
        """
        try:
            graph = info["graph"]
            mip = int(graph.get("cv_mip", 0))
            scales = info["scales"]
            resolution = np.asarray(scales[mip]["resolution"], dtype=np.float64)
            size = np.asarray(graph["chunk_size"], dtype=np.float64) * resolution
            layer_bits = int(graph.get("n_bits_for_layer_id", 8))
            bits = int(graph["spatial_bit_masks"]["2"])
            first = [_corner(scales[mip])]
            used = scales if mesh_mip is None else [scales[mesh_mip]]
            others = [_corner(scale) for scale in used]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"this is no graphene info: {type(error).__name__} {error}; give the dict that "
                "segmentation_info() returns, with 'graph' (chunk_size, spatial_bit_masks) and 'scales'"
            ) from error
        if size.shape != (3,) or not (size > 0).all():
            raise ValueError(
                f"graph.chunk_size times the resolution must be three positive lengths, not {size}"
            )
        corners = first + others if mesh_mip is None else others
        if not info.get("chunks_start_at_voxel_offset", False):
            corners = [np.zeros(3)]  # as cloud-volume reads a missing or false flag
        # an offset further off than the coarsest rounding is another volume's; a chunk is far more than that
        near = [c for c in corners if (np.abs(c - corners[0]) < size / 4).all()]
        offsets = np.asarray(list(dict.fromkeys(tuple(c) for c in near)), dtype=np.float64)
        return cls(offsets, size, bits, layer_bits, _draco_cell(info.get("mesh_metadata") or {}))

    def positions(self, l2_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Chunk position of each level-2 id, shape (K, 3).

        Raises
        ------
        ValueError
            If an id is not of layer 2.
        """
        layer = l2_ids >> (64 - self.layer_bits)
        if (layer != 2).any():
            bad = l2_ids[layer != 2]
            raise ValueError(f"{len(bad)} of {len(l2_ids)} ids are not level-2 ids, the first is {bad[0]}")
        mask = (1 << self.bits) - 1
        shifts = 64 - self.layer_bits - self.bits * np.arange(1, 4)
        return (l2_ids[:, None] >> shifts) & mask

    @property
    def slack(self) -> float:
        """How far below a face, in nm, a vertex still counts as lying on it."""
        return max(self.draco / 4, _FLOAT_SLACK_NM)

    def faces(self, axis: int, count: int, offset: float) -> NDArray[np.float64]:
        """Coordinates in nm of the lower faces of chunks 0..count-1 along an axis, as they appear in a mesh."""
        planes = offset + np.arange(count) * self.size[axis]
        if self.draco:
            # draco rounds to the nearest cell, halves upward, so the face itself moves to the nearest cell
            planes = np.floor(planes / self.draco + 0.5) * self.draco
        return np.asarray(planes)

    def best_offset(self, vertices: NDArray[Any], faces: NDArray[Any]) -> NDArray[np.float64]:
        """Choose the corner among the possible ones under which the fewest triangles cross a chunk face.

        Every chunk is meshed by itself, so under the right corner no triangle reaches from one into another.
        """
        best = self.offsets[0].copy()
        if len(self.offsets) == 1 or len(faces) == 0:
            return np.asarray(best)
        sample = faces[:: max(1, len(faces) // _SAMPLE)]
        for axis in range(3):
            values = list(dict.fromkeys(self.offsets[:, axis]))
            if len(values) == 1:
                continue
            along = vertices[:, axis][sample].astype(np.float64)
            low, high = along.min(axis=1), along.max(axis=1)
            crossing = [self._crossing(low, high, axis, value) for value in values]
            # the segmentation's own offset stays unless another is clearly better
            if 2 * min(crossing) + 2 < crossing[0]:
                best[axis] = values[int(np.argmin(crossing))]
        return np.asarray(best)

    def _crossing(self, low: NDArray[np.float64], high: NDArray[np.float64], axis: int, offset: float) -> int:
        index = np.round(((low + high) / 2 - offset) / self.size[axis])
        plane = offset + index * self.size[axis]
        if self.draco:
            plane = np.floor(plane / self.draco + 0.5) * self.draco
        return int(((low < plane - self.slack) & (high > plane + self.slack)).sum())

    def locate(self, vertices: NDArray[Any], faces: NDArray[Any], positions: NDArray[np.int64]) -> Located:
        """Find the chunk of every vertex among those at the given positions.

        Boxes are half open: a vertex on the face between two chunks is in the upper one.

        Parameters
        ----------
        vertices : ndarray, shape (N, 3)
            Positions in nm.
        faces : ndarray of int, shape (M, 3)
            Rows of ``vertices``.
        positions : ndarray of int64, shape (C, 3)
            Chunk positions, without repeats.
        """
        count = len(vertices)
        on_face = np.zeros(count, dtype=bool)
        if not len(positions) or not count:
            return Located(np.full(count, -1, dtype=np.int32), on_face)
        low = positions.min(axis=0)
        extent = positions.max(axis=0) - low + 1
        key = np.zeros(count, dtype=np.int64)
        outside = np.zeros(count, dtype=bool)
        offset = self.best_offset(vertices, faces)
        for axis in range(3):
            cell = self._cells(vertices[:, axis], axis, float(offset[axis]), on_face)
            cell -= int(low[axis])
            outside |= (cell < 0) | (cell >= extent[axis])
            key *= int(extent[axis])
            key += cell
        chunk = _rows_of(key, outside, ((positions - low) @ _strides(extent)), int(np.prod(extent)))
        return Located(chunk, on_face)

    def _cells(
        self, column: NDArray[Any], axis: int, offset: float, on_face: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        size = float(self.size[axis])
        half = self.draco / 2
        values = column.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("vertices hold a coordinate that is not a number; drop those vertices first")
        # a face moves by at most half a draco cell, so this is the right cell or the one after it
        cell = np.floor((values - offset + half + self.slack) / size)
        planes = cell * size + offset
        if self.draco:
            planes /= self.draco
            planes += 0.5
            np.floor(planes, out=planes)
            planes *= self.draco
        values -= planes
        below = values < -self.slack
        np.logical_or(on_face, np.abs(values) <= self.slack, out=on_face)
        result = cell.astype(np.int64)
        result -= below
        return result


def _corner(scale: Mapping[str, Any]) -> NDArray[np.float64]:
    resolution = np.asarray(scale["resolution"], dtype=np.float64)
    return np.asarray(scale.get("voxel_offset", (0, 0, 0)), dtype=np.float64) * resolution


def _draco_cell(metadata: Mapping[str, Any]) -> float:
    if metadata.get("uniform_draco_grid_size"):
        return float(metadata["uniform_draco_grid_size"])
    # level-2 fragments are rounded on the grid of level 2; without an entry the meshes are not draco
    sizes = metadata.get("draco_grid_sizes") or {}
    return float(sizes.get("2", sizes.get(2, 0)) or 0)


def _strides(extent: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([int(extent[1]) * int(extent[2]), int(extent[2]), 1], dtype=np.int64)


def _rows_of(
    key: NDArray[np.int64], outside: NDArray[np.bool_], wanted: NDArray[np.int64], cells: int
) -> NDArray[np.int32]:
    key[outside] = -1
    if cells <= _MAX_TABLE:
        table = np.full(cells + 1, -1, dtype=np.int32)  # the last cell answers key -1
        table[wanted] = np.arange(len(wanted), dtype=np.int32)
        return table[key]
    order = np.argsort(wanted)
    place = np.searchsorted(wanted, key, sorter=order).clip(max=len(wanted) - 1)
    rows = order[place].astype(np.int32)
    rows[wanted[rows] != key] = -1
    return np.asarray(rows)
