"""The volume of a synthetic cortex in one file, from which chunk files and mesh fragments are made when asked for.

A cortex of 34 neurons has 5,700 chunks and 17,900 mesh fragments, of which most are never read: writing all of them
took two thirds of a build. What is made here is the same to the byte each time, and is kept in the folder.

As in production, a fragment reaches from the centre of the chunk's first voxel layer to that of the next chunk's, a
voxel ``i`` lies at ``i`` times the voxel size, and vertices are rounded to a grid that all fragments share. So the
border vertices of neighbours are equal to the bit, and are found on the chunk planes where cloud-volume looks for them.
"""

from __future__ import annotations

import re
import zlib
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cortexclient.sandbox.arrays import Bools, Floats, Ints
from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.stores.graph.state import IdLayout

VOXELS, JOINED = "voxels.arrow", "joined.parquet"
# name of a mesh fragment: whose it is, and the box of its chunk in voxels
FRAGMENT = re.compile(r"(\d+):\d+:\d+-\d+_\d+-\d+_\d+-\d+")
_CHUNK = re.compile(r"(\d+)-(\d+)_(\d+)-(\d+)_(\d+)-(\d+)")
_COMPRESSION = 1


def write_voxels(
    folder: Path, supervoxels: Ints, cells: Ints, row: Ints, place: NDArray[np.uint16], joined: Ints
) -> None:
    """Write the voxels of a cortex: ids (n,) of supervoxels, ascending, and the cell that each belongs to.

    ``row`` (m,) is the supervoxel of each voxel, ascending, ``place`` its position in the chunk, where x runs fastest.
    ``joined`` (k, 2) are ids of supervoxels that edits joined without an edge of the segmentation.
    """
    offsets = np.searchsorted(row, np.arange(len(supervoxels) + 1))
    table = pa.table(
        {
            "supervoxel_id": supervoxels,
            "cell": cells.astype(np.int32),
            "places": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(place)),
        }
    )
    # uncompressed, so that it can be mapped into memory
    with pa.OSFile(str(folder / VOXELS), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    pairs = {"supervoxel_1": joined[:, 0], "supervoxel_2": joined[:, 1]}
    pq.write_table(pa.table(pairs), folder / JOINED, compression="zstd")


def fragment_names(layout: IdLayout, chunk_size: Ints, l2_ids: Ints) -> list[str]:
    """Return the names of level-2 ids' fragments: the id and its chunk in voxels, without the volume's offset."""
    low = layout.chunks(l2_ids) * chunk_size
    boxes = zip(l2_ids.tolist(), low.tolist(), (low + chunk_size).tolist(), strict=True)
    return [f"{l2_id}:0:{a}-{d}_{b}-{e}_{c}-{f}" for l2_id, (a, b, c), (d, e, f) in boxes]


class VoxelFile:
    """Chunks and mesh fragments of a folder whose voxels are in one file."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        info = folder.json("chunkedgraph", "info.json")
        scale = info["scales"][0]
        self.layout = IdLayout.from_info(info)
        self._size = np.array(scale["chunk_sizes"][0], dtype=np.int64)
        self._offset = np.array(scale["voxel_offset"], dtype=np.int64)
        self._nm = np.array(scale["resolution"], dtype=np.int64)
        self._draco_grid = int(info["mesh_metadata"]["uniform_draco_grid_size"])
        self._places = {
            "seg/" + str(scale["key"]): self._chunk_file,
            "seg/" + str(info["mesh"]): self._fragment_file,
        }
        self._around = lru_cache(maxsize=64)(self._read_around)

    def file(self, name: str) -> tuple[bytes, bool] | None:
        """Make a file of the volume; its name is the path below ``precomputed``, without ``.gz``.

        Return the contents, and whether they are gzipped; None where the volume has no such file.
        """
        place, _, last = name.rpartition("/")
        make = self._places.get(place)
        return None if make is None else make(last)

    def _chunk_file(self, name: str) -> tuple[bytes, bool] | None:
        match = _CHUNK.fullmatch(name)
        if match is None:
            return None
        low, high = (np.array([int(match[k]) for k in range(first, 7, 2)]) for first in (1, 2))
        chunk, rest = np.divmod(low - self._offset, self._size)
        dense = None if rest.any() or (high - low != self._size).any() else self.chunk(chunk)
        if dense is None:
            return None
        # the default header of zlib's gzip has no time stamp, so equal chunks are equal files
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(dense.astype("<u8").tobytes(order="F")) + packer.flush(), True

    def _fragment_file(self, name: str) -> tuple[bytes, bool] | None:
        match = FRAGMENT.fullmatch(name)
        l2_id = int(match[1]) if match is not None else 0
        if l2_id not in self._members or [name] != fragment_names(self.layout, self._size, np.array([l2_id])):
            return None
        made = self.fragment(l2_id)
        return None if made is None else (made, False)

    @cached_property
    def _table(self) -> tuple[Ints, NDArray[np.int32], Ints, NDArray[np.uint16]]:
        """Supervoxel ids, their cells, and the bounds of each one's places."""
        source = pa.memory_map(str(self._folder.file("chunkedgraph", VOXELS)))
        batch = pa.ipc.open_file(source).get_batch(0)
        places = batch.column("places")
        return (
            batch.column("supervoxel_id").to_numpy(),
            batch.column("cell").to_numpy(),
            places.offsets.to_numpy(),
            places.values.to_numpy(),
        )

    def _rows(self, chunk: Ints) -> tuple[int, int]:
        """Rows of the supervoxels of a chunk: first, and one past the last."""
        if (chunk < 0).any() or (chunk >= 1 << int(self.layout.bits[1])).any():
            return 0, 0
        first = int(self.layout.encode(1, chunk[None], [0])[0])
        space = 1 << (56 - 3 * int(self.layout.bits[1]))
        low, high = np.searchsorted(self._table[0], [first, first + space])
        return int(low), int(high)

    def chunk(self, chunk: Ints) -> Ints | None:
        """Supervoxel id of each voxel of a chunk, int64 (x, y, z); None for a chunk that is empty."""
        low, high = self._rows(chunk)
        if low == high:
            return None
        ids, _, offsets, places = self._table
        flat = np.zeros(int(np.prod(self._size)), dtype=np.int64)
        flat[places[offsets[low] : offsets[high]]] = np.repeat(
            ids[low:high], np.diff(offsets[low : high + 1])
        )
        return flat.reshape(self._size, order="F")

    def _read_around(self, chunk: tuple[int, int, int]) -> tuple[Ints, Ints, NDArray[np.int32]]:
        """Voxels of a chunk and of the first layers of the next ones: places within it (n, 3), supervoxels, cells."""
        ids, cells, offsets, places = self._table
        size = self._size
        locals_, owners, units = [], [], []
        for shift in np.array(list(product((0, 1), repeat=3))):
            low, high = self._rows(np.array(chunk) + shift)
            flat = places[offsets[low] : offsets[high]].astype(np.int64)
            rest, x = np.divmod(flat, size[0])
            z, y = np.divmod(rest, size[1])
            local = np.column_stack([x, y, z])
            here = ((local == 0) | (shift == 0)).all(axis=1)
            count = np.diff(offsets[low : high + 1])
            locals_.append(local[here] + shift * size)
            owners.append(np.repeat(ids[low:high], count)[here])
            units.append(np.repeat(cells[low:high], count)[here])
        return np.concatenate(locals_), np.concatenate(owners), np.concatenate(units)

    @cached_property
    def _members(self) -> dict[int, list[int]]:
        """Supervoxels of every level-2 id that the folder knows."""
        path = self._folder.file("chunkedgraph", "nodes.parquet")
        table = pq.read_table(path, columns=["node_id", "children"], filters=[("layer", "=", 2)])
        return dict(zip(table["node_id"].to_pylist(), table["children"].to_pylist(), strict=True))

    @cached_property
    def _joined(self) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        for name in ("edges.parquet", JOINED):
            path = self._folder.file("chunkedgraph", name)
            table = pq.read_table(path, columns=["supervoxel_1", "supervoxel_2"])
            for one, other in zip(*(table[column].to_pylist() for column in table.column_names), strict=True):
                found.setdefault(one, set()).add(other)
                found.setdefault(other, set()).add(one)
        return found

    def fragment(self, l2_id: int) -> bytes | None:
        """Mesh of a level-2 id, draco; None if it has no surface within its chunk."""
        members = np.array(self._members[l2_id], dtype=np.int64)
        local, owner, cell = self._around(tuple(self.layout.chunks(np.array([l2_id]))[0].tolist()))
        mine = np.zeros(len(local), dtype=bool)
        # cells that touch without being joined must not be taken for one
        for unit in np.unique(cell[np.isin(owner, members)]):
            of_cell = cell == unit
            mine[of_cell] = self._pick(members, local[of_cell], owner[of_cell])
        chunk = self.layout.chunks(np.array([l2_id]))[0]
        corner = ((self._offset + chunk * self._size) * self._nm).astype(np.float64)
        return surface(local[mine], self._size, corner, self._nm.astype(np.float64), self._draco_grid)

    def _pick(self, members: Ints, local: Ints, owner: Ints) -> Bools:
        """Voxels of some supervoxels, with those of the next chunks that continue them."""
        inside = (local < self._size).all(axis=1)
        own: Bools = inside & (owner == members[0] if len(members) == 1 else np.isin(owner, members))
        beyond = set(np.unique(owner[~inside]).tolist())
        if not beyond or not own.any():
            return own
        joined = set().union(*(self._joined.get(one, ()) for one in members.tolist()))
        if beyond <= joined:
            return own | ~inside
        # some lie beyond an edge or corner of the chunk, and are joined by way of others if at all
        part = _parts(local)
        foreign = np.unique(part[inside & ~own])
        reached = np.setdiff1d(part[own], foreign)
        return own | (~inside & (np.isin(part, reached) | np.isin(owner, list(joined))))


def surface(local: Ints, size: Ints, corner: Floats, resolution: Floats, grid: float) -> bytes | None:
    """Surface of some voxels of a chunk in draco, in nm; None where they have none.

    ``local`` (n, 3) are places in the chunk of ``size`` voxels whose corner lies at ``corner`` (nm), and in the first
    layers of the next ones. Vertices are rounded to the grid that all fragments share, or neighbours would not meet.
    """
    import DracoPy
    from skimage.measure import marching_cubes

    if not len(local):
        return None
    # one empty layer around the voxels, except where the chunk ends: there the mesh stays open
    low = np.maximum(local.min(axis=0) - 1, 0)
    high = np.minimum(local.max(axis=0) + 1, size)
    dense = np.zeros(high - low + 1, dtype=np.float32)
    dense[tuple((local - low).T)] = 1.0
    if min(dense.shape) < 2 or dense.min() == 1.0:
        return None
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]
        dense, 0.5, gradient_direction="ascent"
    )
    points = np.floor(((vertices.astype(np.float64) + low) * resolution + corner) / grid + 0.5) * grid
    bits = min(30, int(np.ceil(np.log2((size * resolution).max() / grid + 4))))
    encoded: bytes = DracoPy.encode(
        points.astype(np.float32),
        faces.astype(np.uint32),
        quantization_bits=bits,
        quantization_range=float(grid * (2**bits - 1)),
        quantization_origin=np.floor(corner / grid) * grid - grid,
        compression_level=_COMPRESSION,
        create_metadata=True,
    )
    return encoded


def _parts(local: Ints) -> Ints:
    """Connected parts of some voxels, by number."""
    from scipy import ndimage

    low = local.min(axis=0)
    dense = np.zeros(local.max(axis=0) - low + 1, dtype=bool)
    at = tuple((local - low).T)
    dense[at] = True
    labels: Ints = ndimage.label(dense)[0][at].astype(np.int64)
    return labels
