"""Attributes of level-2 ids that an edit made, from those of the ids they replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from cortexclient.sandbox.stores.graph_space import Geometry

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cortexclient.sandbox.stores.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph_state import Ids

__all__ = ["derived"]


def derived(
    graph: ChunkedGraph, l2_id: int, stored: Callable[[Ids], dict[int, dict[str, Any]]]
) -> dict[str, Any]:
    """Work out attributes of a new level-2 id, as the real service does anew from the voxels.

    Sizes and areas add up, depths are the largest; the place is that of the largest piece, or where only a part of it
    is left, the middle of that part.

    Parameters
    ----------
    graph : ChunkedGraph
    l2_id : int
    stored : callable
        Gives the stored attributes of level-2 ids.
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
    pieces = np.array(sorted(known, key=lambda piece: -len(graph.children(piece))), dtype=np.int64)
    left = set(supervoxels.tolist())
    shares = {}
    # pieces that are wholly taken come first: they tell most
    whole = [piece for piece in pieces.tolist() if left.issuperset(graph.children(piece).tolist())]
    for piece in [*whole, *(piece for piece in pieces.tolist() if piece not in whole)]:
        inside = left.intersection(graph.children(piece).tolist())
        if inside:
            shares[piece] = len(inside) / len(graph.children(piece))
            left -= inside
    return shares


def _middle(graph: ChunkedGraph, supervoxels: Ids, entry: dict[str, Any]) -> list[float]:
    """Centre of the largest of some supervoxels, in nm."""
    path = graph.folder.file("chunkedgraph", "supervoxels.parquet")
    if path.is_file():
        columns = ["supervoxel_id", "voxels", "centroid_x_nm", "centroid_y_nm", "centroid_z_nm"]
        table = pq.read_table(path, columns=columns, filters=[("supervoxel_id", "in", supervoxels.tolist())])
        if table.num_rows:
            row = int(np.argmax(np.asarray(table["voxels"])))
            return [float(table[name][row].as_py()) for name in columns[2:]]
    place = _of_voxels(graph, supervoxels)
    return entry["rep_coord_nm"] if place is None else place


def _of_voxels(graph: ChunkedGraph, supervoxels: Ids) -> list[float] | None:
    """Voxel of some supervoxels that is closest to their middle, in nm."""
    if not graph.volume.available or not len(supervoxels):
        return None
    geometry = Geometry(graph)
    low = graph.layout.chunks(supervoxels[:1])[0] * geometry.chunk_size + geometry.offset
    block = graph.volume.cutout(low, low + geometry.chunk_size)
    places: NDArray[np.int64] = np.argwhere(np.isin(block, supervoxels))
    if not len(places):
        return None
    nearest = places[np.linalg.norm((places - places.mean(axis=0)) * geometry.resolution, axis=1).argmin()]
    middle: list[float] = ((nearest + low + 0.5) * geometry.resolution).tolist()
    return middle
