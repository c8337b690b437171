"""Attributes of level-2 ids, as the level-2 cache stores them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cortexclient.sandbox.arrays import Bools, Floats, Ints
from cortexclient.sandbox.cortex.files import lists, write_json, write_table
from cortexclient.sandbox.cortex.graph import GraphBuilder
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import SEGMENTATION_NM

_NM = np.asarray(SEGMENTATION_NM, dtype=np.float64)


@dataclass
class L2Table:
    """Every level-2 id that ever existed and its attributes."""

    ids: Ints  # (n,): ascending
    member: Ints  # (m,): rows of supervoxels, those of the first id first
    owner: Ints  # (m,): position in ``ids`` of each member
    representative_nm: Floats  # (n, 3): a voxel of the id, as index times size
    voxels: Ints  # (n,)
    area_nm2: Floats  # (n,)
    thickest_nm: Floats  # (n,)
    mean_thickness_nm: Floats  # (n,)
    axes: Floats  # (n, 3, 3): principal directions, longest first
    spread: Floats  # (n, 3): singular values, nm
    faces: Floats  # (n, 2, 3): voxels in the chunk's low and high layers along x, y, z
    compartment: Ints  # (n,): of most of its voxels

    def rows(self, ids: Ints) -> Ints:
        """Positions of level-2 ids that are all here."""
        return np.searchsorted(self.ids, ids)


def l2_table(segmentation: Segmentation, builder: GraphBuilder) -> L2Table:
    """Attributes of every level-2 id that ever existed, from the sums over its supervoxels."""
    levels = [level for level in builder.graph.levels if level.layer == 2]
    ids = np.concatenate([level.ids for level in levels])
    sizes = np.concatenate([np.diff(level.offsets) for level in levels])
    owner = np.repeat(np.arange(len(ids)), sizes)
    member = np.searchsorted(segmentation.ids, np.concatenate([level.children for level in levels]))
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.argsort(ids)] = np.arange(len(ids))
    ids, owner = np.sort(ids), rank[owner]
    order = np.argsort(owner, kind="stable")
    owner, member = owner[order], member[order]
    measures = segmentation.measures

    def added(values: npt.NDArray[np.generic]) -> Floats:
        taken = values[member].astype(np.float64)
        if taken.ndim == 1:
            return np.bincount(owner, weights=taken, minlength=len(ids)).astype(np.float64)
        return np.column_stack([np.bincount(owner, weights=column, minlength=len(ids)) for column in taken.T])

    voxels = added(measures.voxels)
    centroid = added(measures.total) / voxels[:, None]
    middle = segmentation.grid.voxels(segmentation.middle)
    away = (((middle[member] - centroid[owner]) * _NM) ** 2).sum(axis=1)
    first = np.searchsorted(owner, np.arange(len(ids)))
    nearest = member[np.lexsort((away, owner))[first]]
    axes, spread = _principal(added(measures.moments), centroid, voxels)
    thickness = measures.thickness / measures.voxels
    faces = added(measures.faces).reshape(-1, 2, 3)
    parts = np.column_stack(
        [added(np.where(segmentation.compartment == k, measures.voxels, 0)) for k in (1, 2, 3)]
    )
    return L2Table(
        ids=ids,
        member=member,
        owner=owner,
        # the real cache gives a voxel's index times its size, as the mesher does, not the voxel's centre
        representative_nm=segmentation.grid.centres_nm(middle[nearest]) - 0.5 * _NM,
        voxels=voxels.astype(np.int64),
        area_nm2=added(measures.area_nm2),
        thickest_nm=1000.0 * np.maximum.reduceat(thickness[member], first),
        mean_thickness_nm=550.0 * added(measures.thickness) / voxels,
        axes=axes,
        spread=spread,
        faces=faces,
        compartment=parts.argmax(axis=1) + 1,
    )


def _principal(moments: Floats, centroid: Floats, voxels: Floats) -> tuple[Floats, Floats]:
    """Principal directions and singular values of the voxels of each id, in nm."""
    scatter = np.empty((len(voxels), 3, 3))
    for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))):
        value = (moments[:, k] - voxels * centroid[:, a] * centroid[:, b]) * _NM[a] * _NM[b]
        scatter[:, a, b] = value
        scatter[:, b, a] = value
    values, vectors = np.linalg.eigh(scatter)
    directions = np.swapaxes(vectors[:, :, ::-1], 1, 2)
    # the sign of a direction is arbitrary: the largest component is made positive
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=2)[..., None], axis=2)
    return directions * np.where(largest < 0, -1.0, 1.0), np.sqrt(np.maximum(values[:, ::-1], 0.0))


def write_l2cache(folder: Path, table: L2Table, cached: Bools) -> None:
    """Write ``l2cache.parquet``; an id that is not cached has nulls."""
    missing = ~cached

    def number(values: npt.NDArray[np.generic]) -> pa.Array:
        return pa.array(values, mask=missing)

    def nested(values: Floats) -> pa.Array:
        array = lists(values)
        return pc.if_else(pa.array(cached), array, pa.scalar(None, type=array.type))

    nm3 = int(np.prod(SEGMENTATION_NM))
    columns = {
        "l2_id": table.ids,
        "in_cache": cached,
        "rep_coord_nm": nested(table.representative_nm),
        "size_nm3": number(table.voxels * nm3),
        "area_nm2": number(np.round(table.area_nm2).astype(np.int64)),
        "max_dt_nm": number(np.round(table.thickest_nm).astype(np.int64)),
        "mean_dt_nm": number(table.mean_thickness_nm.astype(np.float16).astype(np.float64)),
        "pca": nested(table.axes.astype(np.float16).astype(np.float64)),
        "pca_val": nested(table.spread.astype(np.float32).astype(np.float64)),
        "chunk_intersect_count": nested(table.faces),
    }
    write_table(folder / "l2cache.parquet", columns)


def write_recipes(
    place: Path, level2: L2Table, graphs: dict[int, Ints], somata: dict[int, Floats | None]
) -> None:
    """Write what the skeletons of a cortex are made of, and for which roots there are any.

    ``graphs`` are the level-2 graphs (n, 2) by root, ``somata`` the centres (nm) of somata by root, or None.
    """
    columns = {
        "l2_id": level2.ids,
        "compartment": level2.compartment.astype(np.int8),
        "thickest_nm": level2.thickest_nm,
        **{f"{axis}_nm": level2.representative_nm[:, k] for k, axis in enumerate("xyz")},
    }
    write_table(place / "level2.parquet", columns)
    roots = {
        str(root): None if soma is None else soma.tolist()
        for root, soma in sorted(somata.items())
        if len(graphs[root])
    }
    write_json(place / "roots.json", roots)
