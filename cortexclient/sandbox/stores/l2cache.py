"""Attributes of level-2 ids, as the level-2 cache answers them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cortexclient.sandbox.stores.l2pieces import derived

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from cortexclient.sandbox.layout import DataFolder
    from cortexclient.sandbox.stores.graph import ChunkedGraph

__all__ = ["ATTRIBUTES", "L2Cache"]

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
    """Attributes of level-2 ids.

    Parameters
    ----------
    folder : DataFolder
        Its ``l2cache.parquet`` is read when first needed; a folder without one has a cache that misses everything.
    graph : ChunkedGraph, optional
        Graph that is edited while it is served: its new level-2 ids get attributes from the pieces they are made of.
    """

    def __init__(self, folder: DataFolder, graph: ChunkedGraph | None = None) -> None:
        self.folder = folder
        self.graph = graph
        self._lock = threading.Lock()
        self._loaded: tuple[NDArray[np.int64], pa.Table | None] | None = None

    @property
    def available(self) -> bool:
        """Whether the folder has a cache."""
        return self.folder.file("l2cache.parquet").is_file()

    def _table(self) -> tuple[NDArray[np.int64], pa.Table | None]:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = self._read()
        return self._loaded

    def _read(self) -> tuple[NDArray[np.int64], pa.Table | None]:
        if not self.available:
            return np.empty(0, dtype=np.int64), None
        table = pq.read_table(self.folder.file("l2cache.parquet"))
        if "in_cache" in table.column_names:
            table = table.filter(table["in_cache"])
        table = table.sort_by("l2_id").combine_chunks()
        return np.asarray(table["l2_id"], dtype=np.int64), table

    def known(self, l2_ids: ArrayLike) -> NDArray[np.bool_]:
        """Whether each id is in the cache, bool (n,)."""
        return np.isin(np.asarray(l2_ids, dtype=np.int64), self._table()[0])

    def get(self, l2_ids: ArrayLike, attributes: Sequence[str] | None = None) -> dict[int, dict[str, Any]]:
        """Attributes of level-2 ids.

        Parameters
        ----------
        l2_ids : array_like of int
        attributes : sequence of str, optional
            Default all. Lengths are in nm; `rep_coord_nm` is the centre of a voxel.

        Returns
        -------
        dict
            Every id asked -> its attributes; an id that is not in the cache has none.
        """
        ids = np.unique(np.asarray(l2_ids, dtype=np.int64))
        found = self._stored(ids, attributes)
        if self.graph is not None and self.graph.made_here:
            for new in self.graph.made_here.intersection(i for i, entry in found.items() if not entry):
                entry = derived(self.graph, new, lambda pieces: self._stored(pieces, None))
                found[new] = {name: entry[name] for name in attributes or ATTRIBUTES if name in entry}
        return found

    def _stored(self, ids: NDArray[np.int64], attributes: Sequence[str] | None) -> dict[int, dict[str, Any]]:
        keys, table = self._table()
        found: dict[int, dict[str, Any]] = {int(i): {} for i in ids}
        if table is None or not len(keys):
            return found
        rows = np.minimum(np.searchsorted(keys, ids), len(keys) - 1)
        hit = keys[rows] == ids
        part = table.take(pa.array(rows[hit]))
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
