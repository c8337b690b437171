"""Attributes of level-2 ids, as the level-2 cache answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from cortexclient.sandbox.arrays import Ids, Ints
from cortexclient.sandbox.stores import LoadedOnce
from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
from cortexclient.sandbox.stores.graph.state import find


def derived(
    graph: ChunkedGraph, l2_id: int, stored: Callable[[Ids], dict[int, dict[str, Any]]]
) -> dict[str, Any]:
    """Work out attributes of a new level-2 id, as the real service does anew from the voxels.

    Sizes and areas add up, depths are the largest; the place is that of the largest piece, or where only a part of it
    is left, the middle of that part.
    """
    supervoxels = graph.children(l2_id)
    earlier = graph.state.all_parents_of(supervoxels)
    known = {piece: entry for piece, entry in stored(earlier).items() if entry}
    shares = _shares(graph, supervoxels, known)
    if not shares:
        return {}
    parts = [(known[piece], share) for piece, share in shares.items()]
    largest = max(shares, key=lambda piece: shares[piece] * float(known[piece].get("size_nm3", 1)))
    entry = dict(known[largest])
    for name in ("size_nm3", "area_nm2"):
        if name in entry:
            total = round(sum(float(part.get(name, 0)) * share for part, share in parts))
            entry[name] = np.int64(total) if name == "size_nm3" else total
    if "max_dt_nm" in entry:
        entry["max_dt_nm"] = max(part.get("max_dt_nm", 0) for part, _ in parts)
    if shares[largest] < 1 and "rep_coord_nm" in entry:
        entry["rep_coord_nm"] = _middle(graph, supervoxels, entry)
    return entry


def _shares(graph: ChunkedGraph, supervoxels: Ids, known: dict[int, dict[str, Any]]) -> dict[int, float]:
    """Pieces that hold the supervoxels, each taken once, and how much of each piece is taken."""
    left = set(supervoxels.tolist())
    held = {piece: set(graph.children(piece).tolist()) for piece in known}
    whole = {piece for piece, own in held.items() if own <= left}
    shares = {}
    # pieces that are wholly taken come first: they say most
    for piece in sorted(held, key=lambda piece: (piece not in whole, -len(held[piece]))):
        inside = left & held[piece]
        if inside:
            shares[piece] = len(inside) / len(held[piece])
            left -= inside
    return shares


def _middle(graph: ChunkedGraph, supervoxels: Ids, entry: dict[str, Any]) -> list[float]:
    """Voxel of some supervoxels that is closest to their middle, in nm, where the folder has the volume."""
    geometry = graph.volume.geometry
    low = graph.layout.chunks(supervoxels[:1])[0] * geometry.chunk_size + geometry.offset
    places = np.argwhere(np.isin(graph.volume.cutout(low, low + geometry.chunk_size), supervoxels))
    if len(places):
        far = np.linalg.norm((places - places.mean(axis=0)) * geometry.resolution, axis=1)
        entry = {"rep_coord_nm": ((places[far.argmin()] + low + 0.5) * geometry.resolution).tolist()}
    place: list[float] = entry["rep_coord_nm"]
    return place


# what the service keeps of each level-2 id, and as which type it answers it
ATTRIBUTES: dict[str, str] = {
    "area_nm2": "uint32",
    "chunk_intersect_count": "uint16",
    "max_dt_nm": "uint16",
    "mean_dt_nm": "float16",
    "pca": "float16",
    "pca_val": "float32",
    "rep_coord_nm": "uint16",
    "size_nm3": "uint32",
}
_SCALARS = ("area_nm2", "max_dt_nm", "mean_dt_nm", "size_nm3")
_SHAPES: dict[str, tuple[int, ...]] = {
    "chunk_intersect_count": (-1, 3),
    "pca": (-1, 3),
    "pca_val": (-1,),
    "rep_coord_nm": (3,),
}


class L2Cache:
    """Attributes of level-2 ids, from ``l2cache.parquet``; a folder without it has a cache that misses everything.

    New level-2 ids of an edited graph get attributes from the pieces they are made of.
    """

    def __init__(self, graph: ChunkedGraph) -> None:
        self.graph = graph

    @property
    def available(self) -> bool:
        """Whether the folder has a cache."""
        return self.graph.folder.file("l2cache.parquet").is_file()

    @LoadedOnce
    def _table(self) -> pa.Table:
        """Rows of the level-2 ids in the cache, ascending."""
        if not self.available:
            return pa.table({"l2_id": pa.array([], pa.int64())})
        table = pq.read_table(self.graph.folder.file("l2cache.parquet"))
        if "in_cache" in table.column_names:
            table = table.filter(table["in_cache"])
        return table.sort_by("l2_id").combine_chunks()

    def get(self, l2_ids: ArrayLike, attributes: Sequence[str] | None = None) -> dict[int, dict[str, Any]]:
        """Attributes of level-2 ids, all of them by default; lengths in nm, ``rep_coord_nm`` is the centre of a voxel.

        Return the attributes by id, for every id asked; an id that is not in the cache has none.
        """
        ids = np.unique(np.asarray(l2_ids, dtype=np.int64))
        found = self._stored(ids, attributes)
        for new in self.graph.made_here.intersection(i for i, entry in found.items() if not entry):
            entry = derived(self.graph, new, lambda pieces: self._stored(pieces, None))
            found[new] = {name: entry[name] for name in attributes or ATTRIBUTES if name in entry}
        return found

    def _stored(self, ids: Ints, attributes: Sequence[str] | None) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {int(i): {} for i in ids}
        rows = find(np.asarray(self._table["l2_id"]), ids)
        hit = rows >= 0
        part = self._table.take(pa.array(rows[hit]))
        names = [name for name in attributes or ATTRIBUTES if name in part.column_names]
        columns = [part[name].to_pylist() for name in names]
        for i, values in zip(ids[hit].tolist(), zip(*columns, strict=True), strict=True):
            entry = found[i]
            for name, value in zip(names, values, strict=True):
                if value is not None and (name in _SCALARS or len(value)):
                    entry[name] = _shaped(name, value)
        return found


def _shaped(name: str, value: Any) -> Any:
    if name in _SCALARS:
        # mean_dt_nm alone is no whole number; the size alone has 64 bits (it is scaled to nm by the service)
        return float(value) if name == "mean_dt_nm" else np.int64(value) if name == "size_nm3" else int(value)
    flat = np.asarray(value, dtype=np.float64).reshape(_SHAPES[name]).tolist() if _flat(value) else value
    if name == "chunk_intersect_count":
        return [[int(number) for number in row] for row in flat]
    return flat


def _flat(value: Any) -> bool:
    return not isinstance(value[0], (list, tuple, np.ndarray))
