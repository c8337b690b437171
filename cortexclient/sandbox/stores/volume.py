"""Voxels of the supervoxel volume: from ``watershed.npz`` or from precomputed chunks."""

from __future__ import annotations

import gzip
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cortexclient.sandbox.stores.graph_space import Geometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from cortexclient.sandbox.stores.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph_state import Ids

__all__ = ["Volume"]

# how far the service looks for an object around a point, in multiples of the mean voxel size
_SEARCH_STEPS = (4, 8, 14, 28)


class Volume:
    """The supervoxel volume of a graph.

    Parameters
    ----------
    graph : ChunkedGraph
    """

    def __init__(self, graph: ChunkedGraph) -> None:
        self.graph = graph
        self.geometry = Geometry(graph)
        self._lock = threading.Lock()
        self._whole: NDArray[np.int64] | None = None
        self._chunk = lru_cache(maxsize=256)(self._read_chunk)

    @property
    def available(self) -> bool:
        """Whether the folder has the volume in either form."""
        voxels = self.graph.folder.voxels
        return voxels is not None or self._npz().is_file() or self._scale_folder().is_dir()

    def _npz(self) -> Path:
        return self.graph.folder.file("chunkedgraph", "watershed.npz")

    def _scale_folder(self) -> Path:
        return self.graph.folder.file("precomputed", "seg", str(self.graph.info["scales"][0]["key"]))

    def cutout(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
        """Supervoxel ids of a box in voxels, int64 (x, y, z); 0 outside of the volume and where nothing is stored."""
        box = np.zeros(high - low, dtype=np.int64)
        start = np.maximum(low, self.geometry.offset)
        stop = np.minimum(high, self.geometry.offset + self.geometry.size)
        if (start >= stop).any():
            return box
        if self._npz().is_file():
            part = self._load()[tuple(map(slice, start - self.geometry.offset, stop - self.geometry.offset))]
            box[tuple(map(slice, start - low, start - low + part.shape))] = part
            return box
        size = np.array(self.graph.info["scales"][0]["chunk_sizes"][0], dtype=np.int64)
        first, last = (start - self.geometry.offset) // size, (stop - 1 - self.geometry.offset) // size
        for index in np.ndindex(*(last - first + 1)):
            self._paste(box, low, start, stop, first + index, size)
        return box

    def _paste(
        self,
        box: NDArray[np.int64],
        low: NDArray[np.int64],
        start: NDArray[np.int64],
        stop: NDArray[np.int64],
        chunk: NDArray[np.int64],
        size: NDArray[np.int64],
    ) -> None:
        begin = chunk * size + self.geometry.offset
        end = np.minimum(begin + size, self.geometry.offset + self.geometry.size)
        block = self._chunk(tuple(begin.tolist()), tuple(end.tolist()))
        if block is None:
            return
        inner, outer = np.maximum(begin, start), np.minimum(end, stop)
        box[tuple(map(slice, inner - low, outer - low))] = block[
            tuple(map(slice, inner - begin, outer - begin))
        ]

    def _load(self) -> NDArray[np.int64]:
        if self._whole is None:
            with self._lock, np.load(self._npz()) as archive:
                self._whole = archive["watershed"].astype(np.int64)
        assert self._whole is not None
        return self._whole

    def _read_chunk(self, begin: tuple[int, ...], end: tuple[int, ...]) -> NDArray[np.int64] | None:
        voxels = self.graph.folder.voxels
        if voxels is not None:
            low, high = np.array(begin, dtype=np.int64), np.array(end, dtype=np.int64)
            chunk = (low - self.geometry.offset) // (high - low)
            return voxels.chunk(chunk)
        name = "_".join(f"{first}-{last}" for first, last in zip(begin, end, strict=True))
        path = self._scale_folder() / name
        packed = path.with_name(name + ".gz")
        if path.is_file():
            data = path.read_bytes()
        elif packed.is_file():
            data = gzip.decompress(packed.read_bytes())
        else:
            return None
        shape = [last - first for first, last in zip(begin, end, strict=True)]
        return np.frombuffer(data, dtype="<u8").astype(np.int64).reshape(shape, order="F")

    def supervoxel_at(self, points_vx: ArrayLike) -> Ids:
        """Supervoxel at each point.

        Parameters
        ----------
        points_vx : array_like of float, shape (n, 3)
            Points in voxels of the segmentation.

        Returns
        -------
        ndarray of int64, shape (n,)
            0 where there is none.
        """
        points = np.floor(np.asarray(points_vx, dtype=np.float64).reshape(-1, 3)).astype(np.int64)
        found = np.zeros(len(points), dtype=np.int64)
        if not self.available or not len(points):
            return found
        inside = (
            (points >= self.geometry.offset) & (points < self.geometry.offset + self.geometry.size)
        ).all(axis=1)
        size = np.array(self.graph.info["scales"][0]["chunk_sizes"][0], dtype=np.int64)
        chunks = (points - self.geometry.offset) // size
        # points of one chunk together, so that each chunk is read once
        for chunk in np.unique(chunks[inside], axis=0):
            rows = np.flatnonzero(inside & (chunks == chunk).all(axis=1))
            begin = chunk * size + self.geometry.offset
            block = self.cutout(begin, begin + size)
            found[rows] = block[tuple((points[rows] - begin).T)]
        return found

    def nearest_of(self, node: int, points_vx: NDArray[np.int64], at: int) -> Ids:
        """Supervoxels of a node that lie closest to points, as the service finds them for an edit.

        Parameters
        ----------
        node : int
            Root or any node; a supervoxel is its own answer.
        points_vx : ndarray of int64, shape (n, 3)
        at : int
            Time (microseconds) at which supervoxels belong to the node.

        Raises
        ------
        IndexError
            Where the search leaves the volume, with the text of the service's own failure.
        LookupError
            Where no supervoxel of the node is near enough.
        """
        layer = int(self.graph.layout.layers(node))
        if layer == 1:
            return np.full(len(points_vx), node, dtype=np.int64)
        return np.array([self._nearest(node, layer, point, at) for point in points_vx], dtype=np.int64)

    def _nearest(self, node: int, layer: int, point: NDArray[np.int64], at: int) -> int:
        resolution = self.geometry.resolution
        for steps in _SEARCH_STEPS:
            reach = steps * resolution.mean()
            width = np.ceil(reach / resolution).astype(np.int64)
            low, high = point - width, point + width + 1
            self._check(low, high)
            block = self.cutout(low, high)
            ids, inverse = np.unique(block, return_inverse=True)
            own = self.graph.climb(ids, at, layer) == node
            place = np.argwhere(own[inverse.reshape(block.shape)])
            if not len(place):
                continue
            distance = np.linalg.norm((place + low - point) * resolution, axis=1)
            best = int(distance.argmin())
            if distance[best] <= reach:
                return int(block[tuple(place[best])])
        raise LookupError(f"Could not determine supervoxel ID for coordinates {point} - Lookup stage.")

    def _check(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        first, last = self.geometry.offset, self.geometry.offset + self.geometry.size
        for axis in range(3):
            for value in (low[axis], high[axis]):
                if not first[axis] <= value <= last[axis]:
                    text = f"Value {value} cannot be outside of inclusive range {first[axis]} to {last[axis]}"
                    raise IndexError(text)
