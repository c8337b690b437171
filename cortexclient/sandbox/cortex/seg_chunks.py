"""The segmentation volume: one file of supervoxel ids for each chunk that is not empty."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cortexclient.sandbox.cortex.files import write_json
from cortexclient.sandbox.cortex.graph_files import SCALE_KEY
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import CHUNK

__all__ = ["write_segmentation"]

Ints = npt.NDArray[np.int64]

_CHUNK = np.asarray(CHUNK, dtype=np.int64)
# chunk rows along the depth that are put together at once
_SLAB_CHUNKS = 8


def write_segmentation(place: Path, segmentation: Segmentation) -> None:
    """Write all chunks as gzipped raw data, and the provenance.

    Parameters
    ----------
    place : Path
        Folder that ``data_dir`` of the graphene info stands for.
    segmentation : Segmentation
    """
    folder = place / SCALE_KEY
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        place / "provenance",
        {
            "sources": [],
            "owners": [],
            "processing": [],
            "description": "A synthetic cortex, made from a seed.",
        },
    )
    with ThreadPoolExecutor(max_workers=2) as pool:
        for slab in range(0, int(segmentation.grid.chunks[1]), _SLAB_CHUNKS):
            # consume: an error in a thread must not pass unseen
            list(pool.map(lambda item: _write(folder, segmentation, *item), _chunks(segmentation, slab)))


def _chunks(segmentation: Segmentation, first: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Chunks of a slab: (chunk, positions within the file, supervoxel ids)."""
    grid = segmentation.grid
    layer = int(grid.strides[1]) * CHUNK[1]
    keys, places, ids = [], [], []
    for voxels, rows in zip(segmentation.voxels, segmentation.voxel_rows, strict=True):
        a, b = np.searchsorted(voxels.linear, [first * layer, (first + _SLAB_CHUNKS) * layer])
        chunk, local = np.divmod(grid.voxels(voxels.linear[a:b]), _CHUNK)
        keys.append((chunk[:, 0] * grid.chunks[1] + chunk[:, 1]) * grid.chunks[2] + chunk[:, 2])
        # Fortran order: x runs fastest
        places.append(local[:, 0] + CHUNK[0] * (local[:, 1] + CHUNK[1] * local[:, 2]))
        ids.append(segmentation.ids[rows[a:b]])
    key, place, value = np.concatenate(keys), np.concatenate(places), np.concatenate(ids)
    order = np.argsort(key, kind="stable")
    key, place, value = key[order], place[order], value[order]
    starts = (
        np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        if len(key)
        else np.empty(0, dtype=np.int64)
    )
    for a, b in zip(starts, [*starts[1:], len(key)], strict=True):
        rest, z = divmod(int(key[a]), int(grid.chunks[2]))
        x, y = divmod(rest, int(grid.chunks[1]))
        yield np.array([x, y, z]), place[a:b], value[a:b]


def _write(folder: Path, segmentation: Segmentation, chunk: Ints, place: Ints, value: Ints) -> None:
    dense = np.zeros(int(np.prod(_CHUNK)), dtype=np.uint64)
    dense[place] = value.astype(np.uint64)
    low = segmentation.grid.offset + chunk * _CHUNK
    high = low + _CHUNK
    name = "_".join(f"{a}-{b}" for a, b in zip(low.tolist(), high.tolist(), strict=True))
    # the default header of zlib's gzip has no time stamp, so equal chunks are equal files
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    (folder / f"{name}.gz").write_bytes(packer.compress(dense.tobytes()) + packer.flush())
