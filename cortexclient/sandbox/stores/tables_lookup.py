"""Which supervoxel lies at a point."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cortexclient.sandbox.layout import DataFolder

__all__ = ["SupervoxelVolume"]


class SupervoxelVolume:
    """The volume of supervoxels of a data folder.

    Parameters
    ----------
    folder : DataFolder
    info : dict
        The graphene info: voxel size, chunk size and offset.
    """

    def __init__(self, folder: DataFolder, info: dict[str, Any]) -> None:
        self.folder = folder
        scale = info["scales"][int(info.get("graph", {}).get("cv_mip", 0))]
        self._key = str(scale["key"])
        self._resolution = np.asarray(scale["resolution"], dtype=float)
        self._size = np.asarray(scale["size"], dtype=np.int64)
        self._offset = np.asarray(scale["voxel_offset"], dtype=np.int64)
        self._chunk = np.asarray(scale["chunk_sizes"][0], dtype=np.int64)
        self._whole: NDArray[np.uint64] | None = None
        path = folder.file("chunkedgraph", "watershed.npz")
        if path.is_file():
            with np.load(path) as stored:
                self._whole = stored["watershed"]

    def at(self, points_nm: NDArray[np.float64]) -> NDArray[np.int64]:
        """Supervoxel of each point.

        Parameters
        ----------
        points_nm : ndarray, shape (n, 3)

        Returns
        -------
        ndarray of int64, shape (n,)
            0 outside the volume and where there is none.
        """
        voxels = np.floor(points_nm / self._resolution).astype(np.int64) - self._offset
        inside = np.all((voxels >= 0) & (voxels < self._size), axis=1)
        found = np.zeros(len(voxels), dtype=np.int64)
        if self._whole is not None:
            x, y, z = voxels[inside].T
            found[inside] = self._whole[x, y, z].astype(np.int64)
            return found
        chunks, owner = np.unique(voxels[inside] // self._chunk, axis=0, return_inverse=True)
        here = np.flatnonzero(inside)
        for number, chunk in enumerate(chunks):
            rows = here[owner.reshape(-1) == number]
            found[rows] = self._from_chunk(chunk, voxels[rows])
        return found

    def _from_chunk(self, chunk: NDArray[np.int64], voxels: NDArray[np.int64]) -> NDArray[np.int64]:
        low = chunk * self._chunk
        high = np.minimum(low + self._chunk, self._size)
        name = "_".join(f"{a}-{b}" for a, b in zip(low + self._offset, high + self._offset, strict=True))
        path = self.folder.file("precomputed", "seg", self._key, name)
        packed = path.with_name(path.name + ".gz")
        if path.is_file():
            raw = path.read_bytes()
        elif packed.is_file():
            raw = gzip.decompress(packed.read_bytes())
        else:
            return np.zeros(len(voxels), dtype=np.int64)
        volume = np.frombuffer(raw, dtype="<u8").reshape(tuple(high - low), order="F")
        x, y, z = (voxels - low).T
        found: NDArray[np.int64] = volume[x, y, z].astype(np.int64)
        return found
