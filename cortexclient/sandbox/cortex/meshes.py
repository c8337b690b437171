"""Mesh fragments: one for each level-2 id, cut at the planes of its chunk, so that neighbours share border vertices.

As in production, a fragment reaches from the centre of the chunk's first voxel layer to that of the next chunk's, a
voxel ``i`` lies at ``i`` times the voxel size, and vertices are rounded to a grid that all fragments share. So the
border vertices of neighbours are equal to the bit, and are found on the chunk planes where cloud-volume looks for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cortexclient.sandbox.cortex.l2attributes import L2Table
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import CHUNK, DRACO_GRID_NM, SEGMENTATION_NM

__all__ = ["fragment_names", "write_fragments"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_CHUNK = np.asarray(CHUNK, dtype=np.int64)
_NM = np.asarray(SEGMENTATION_NM, dtype=np.int64)
_COMPRESSION = 1


def fragment_names(segmentation: Segmentation, l2_ids: Ints) -> list[str]:
    """Names of the fragments of level-2 ids: the id and the box of its chunk in voxels, without the volume's offset."""
    low = segmentation.scheme.chunk(l2_ids) * _CHUNK
    high = low + _CHUNK
    return [
        f"{node}:0:{a[0]}-{b[0]}_{a[1]}-{b[1]}_{a[2]}-{b[2]}"
        for node, a, b in zip(l2_ids.tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def write_fragments(place: Path, segmentation: Segmentation, level2: L2Table, edges: Ints) -> Ints:
    """Write the mesh fragment of every level-2 id that ever existed and has a surface.

    Parameters
    ----------
    place : Path
        The mesh folder.
    segmentation : Segmentation
    level2 : L2Table
    edges : (e, 2) int64
        Edges between supervoxels that were ever active.

    Returns
    -------
    (n,) int64
        The level-2 ids that have a fragment, ascending.
    """
    place.mkdir(parents=True, exist_ok=True)
    plan = _Plan.of(segmentation, level2, edges)
    written: list[int] = []
    shared: dict[int, list[tuple[Ints, Ints]]] = {}
    names = fragment_names(segmentation, level2.ids)
    writer = _Writer(place)
    with writer:
        for unit in range(len(segmentation.cells)):
            for chunk, local, rows in _chunks_of(segmentation, unit):
                inside = np.asarray((local < _CHUNK).all(axis=1))
                for l2 in plan.ids_over(rows[inside]):
                    mine = plan.pick(l2, local, rows, inside)
                    if plan.cells[l2] > 1:
                        # an object that spans cells by mistake: put together when all of them have been seen
                        shared.setdefault(l2, []).append((chunk, local[mine]))
                    elif writer.put(names[l2], _fragment(segmentation, chunk, local[mine])):
                        written.append(l2)
        for l2, parts in sorted(shared.items()):
            everything = np.concatenate([local for _, local in parts])
            if writer.put(names[l2], _fragment(segmentation, parts[0][0], everything)):
                written.append(l2)
    return level2.ids[np.sort(np.asarray(written, dtype=np.int64))]


class _Writer:
    """Writes files from another thread: making a file costs as much time as making its mesh."""

    _BATCH = 64

    def __init__(self, place: Path) -> None:
        self._place = place
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._batch: list[tuple[str, bytes]] = []
        self._under_way: deque[Future[None]] = deque()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self._send()
        self._pool.shutdown()
        for future in self._under_way:
            future.result()

    def put(self, name: str, content: bytes | None) -> bool:
        """Write a file; False if there is nothing to write."""
        if content is None:
            return False
        self._batch.append((name, content))
        if len(self._batch) >= self._BATCH:
            self._send()
        return True

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        self._under_way.append(self._pool.submit(self._write, batch))
        while len(self._under_way) > self._BATCH:
            self._under_way.popleft().result()

    def _write(self, batch: list[tuple[str, bytes]]) -> None:
        for name, content in batch:
            (self._place / name).write_bytes(content)


def _chunks_of(segmentation: Segmentation, unit: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Chunks of one cell: (chunk, voxels within it, rows of supervoxels).

    The voxels include the first layers of the next chunks, at 32.
    """
    grid = segmentation.grid
    chunk, local = np.divmod(grid.voxels(segmentation.voxels[unit].linear), _CHUNK)
    rows = segmentation.voxel_rows[unit]
    chunks, locals_, all_rows = [chunk], [local], [rows]
    for shift in np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)][1:]):
        low = ((local == 0) & (chunk > 0)) | (shift == 0)
        also = low.all(axis=1)
        chunks.append(chunk[also] - shift)
        locals_.append(local[also] + shift * _CHUNK)
        all_rows.append(rows[also])
    chunk, local, rows = np.concatenate(chunks), np.concatenate(locals_), np.concatenate(all_rows)
    key = (chunk[:, 0] * grid.chunks[1] + chunk[:, 1]) * grid.chunks[2] + chunk[:, 2]
    order = np.argsort(key, kind="stable")
    key, local, rows = key[order], local[order], rows[order]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    for a, b in zip(starts, [*starts[1:], len(key)], strict=True):
        rest, z = divmod(int(key[a]), int(grid.chunks[2]))
        x, y = divmod(rest, int(grid.chunks[1]))
        yield np.array([x, y, z]), local[a:b], rows[a:b]


@dataclass
class _Plan:
    """Which supervoxels each level-2 id has, and which supervoxels are joined."""

    member: Ints
    starts: Ints
    by_row: Ints
    by_row_starts: Ints
    cells: Ints
    joined: Ints
    joined_starts: Ints

    @classmethod
    def of(cls, segmentation: Segmentation, level2: L2Table, edges: Ints) -> _Plan:
        count = len(segmentation.ids)
        starts = np.searchsorted(level2.owner, np.arange(len(level2.ids) + 1))
        order = np.argsort(level2.member, kind="stable")
        unit = segmentation.unit[level2.member]
        first = unit[starts[:-1]]
        mixed = np.zeros(len(level2.ids), dtype=np.int64)
        np.maximum.at(mixed, level2.owner, (unit != first[level2.owner]).astype(np.int64))
        both = np.concatenate([edges, edges[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        return cls(
            member=level2.member,
            starts=starts,
            by_row=level2.owner[order],
            by_row_starts=np.searchsorted(level2.member[order], np.arange(count + 1)),
            cells=1 + mixed,
            joined=both[:, 1],
            joined_starts=np.searchsorted(both[:, 0], np.arange(count + 1)),
        )

    def ids_over(self, rows: Ints) -> list[int]:
        """Positions of the level-2 ids that ever held any of some supervoxels."""
        found: set[int] = set()
        for row in set(rows.tolist()):
            found.update(self.by_row[self.by_row_starts[row] : self.by_row_starts[row + 1]].tolist())
        return sorted(found)

    def pick(self, l2: int, local: Ints, rows: Ints, inside: Bools) -> Bools:
        """Voxels of a level-2 id, with those of the next chunks that continue it."""
        members = self.member[self.starts[l2] : self.starts[l2 + 1]]
        own: Bools = inside & (rows == members[0] if len(members) == 1 else np.isin(rows, members))
        beyond = set(rows[~inside].tolist())
        if not beyond or not own.any():
            return own
        joined: set[int] = set()
        for row in members.tolist():
            joined.update(self.joined[self.joined_starts[row] : self.joined_starts[row + 1]].tolist())
        if beyond <= joined:
            return own | ~inside
        # some lie beyond an edge or corner of the chunk, and are joined by way of others if at all
        part = _parts(local)
        foreign = np.unique(part[inside & ~own])
        reached = np.setdiff1d(part[own], foreign)
        return own | (~inside & (np.isin(part, reached) | np.isin(rows, list(joined))))


def _parts(local: Ints) -> Ints:
    """Connected parts of some voxels, by number."""
    low = local.min(axis=0)
    dense = np.zeros(local.max(axis=0) - low + 1, dtype=bool)
    at = tuple((local - low).T)
    dense[at] = True
    labels: Ints = ndimage.label(dense)[0][at].astype(np.int64)
    return labels


def _fragment(segmentation: Segmentation, chunk: Ints, local: Ints) -> bytes | None:
    """Mesh of voxels of one chunk, draco; None if they have no surface within the chunk."""
    import DracoPy
    from skimage.measure import marching_cubes

    # one empty layer around the voxels, except where the chunk ends: there the mesh stays open
    low = np.maximum(local.min(axis=0) - 1, 0)
    high = np.minimum(local.max(axis=0) + 1, _CHUNK)
    dense = np.zeros(high - low + 1, dtype=np.float32)
    dense[tuple((local - low).T)] = 1.0
    if min(dense.shape) < 2 or dense.min() == 1.0:
        return None
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]
        dense, 0.5, gradient_direction="ascent"
    )
    corner = (segmentation.grid.offset + chunk * _CHUNK) * _NM
    points = (vertices.astype(np.float64) + low) * _NM + corner
    grid = DRACO_GRID_NM
    points = np.floor(points / grid + 0.5) * grid
    origin = corner // grid * grid - grid
    bits = int(np.ceil(np.log2((_CHUNK * _NM).max() / grid + 4)))
    encoded: bytes = DracoPy.encode(
        points.astype(np.float32),
        faces.astype(np.uint32),
        quantization_bits=bits,
        quantization_range=float(grid * (2**bits - 1)),
        quantization_origin=origin.astype(np.float64),
        compression_level=_COMPRESSION,
        create_metadata=True,
    )
    return encoded
