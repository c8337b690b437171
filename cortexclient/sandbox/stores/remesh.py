"""Mesh fragments of level-2 ids that an edit made, from the voxels, as the real meshing workers make them later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.stores.graph_space import Geometry

if TYPE_CHECKING:
    from cortexclient.sandbox.stores.graph import ChunkedGraph

__all__ = ["fragment_name", "mesh_fragment"]


def fragment_name(graph: ChunkedGraph, l2_id: int) -> str:
    """Name of the fragment of a level-2 id: the id and the box of its chunk in voxels, without the volume's offset."""
    low = graph.layout.chunks(np.array([l2_id]))[0] * Geometry(graph).chunk_size
    high = low + Geometry(graph).chunk_size
    return f"{l2_id}:0:" + "_".join(f"{a}-{b}" for a, b in zip(low.tolist(), high.tolist(), strict=True))


def mesh_fragment(graph: ChunkedGraph, l2_id: int) -> bytes | None:
    """Mesh of a level-2 id in draco, in nm.

    It reaches from the first voxel layer of its chunk to that of the next one and is open there where the object goes
    on, so that it fits the fragments around it.

    Parameters
    ----------
    graph : ChunkedGraph
    l2_id : int

    Returns
    -------
    bytes or None
        None where there are no voxels to be had, or they have no surface.
    """
    if not graph.volume.available:
        return None
    from scipy.ndimage import label

    geometry = Geometry(graph)
    start = graph.layout.chunks(np.array([l2_id]))[0] * geometry.chunk_size + geometry.offset
    onwards = graph.edges.leaving(np.array([l2_id], dtype=np.int64))[:, 1]
    block = graph.volume.cutout(start, start + geometry.chunk_size + 1)
    own = np.isin(block, graph.children(l2_id))
    # of what goes on in the next chunks, only the voxels that touch
    parts, _ = label(own | np.isin(block, onwards))
    voxels = own | ((parts > 0) & np.isin(parts, np.unique(parts[own])))
    places = np.argwhere(voxels)
    if not len(places):
        return None
    # one empty layer around the voxels, except where the chunk ends
    low = np.maximum(places.min(axis=0) - 1, 0)
    high = np.minimum(places.max(axis=0) + 2, geometry.chunk_size + 1)
    dense = voxels[tuple(map(slice, low, high))].astype(np.float32)
    if min(dense.shape) < 2 or dense.min() == 1:
        return None
    from skimage.measure import marching_cubes

    points, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]
        dense, 0.5, gradient_direction="ascent", allow_degenerate=False
    )
    return _draco(graph, (points + low + start) * geometry.resolution, faces, start * geometry.resolution)


def _draco(graph: ChunkedGraph, points: Any, faces: Any, corner: Any) -> bytes:
    """Round vertices to the grid that all fragments share, or neighbours would not meet, and encode."""
    import DracoPy

    geometry = Geometry(graph)
    meta = graph.info.get("mesh_metadata", {})
    grid = float(meta.get("uniform_draco_grid_size") or meta.get("draco_grid_sizes", {}).get("2") or 1)
    points = np.floor(points / grid + 0.5) * grid
    width = float((geometry.chunk_size * geometry.resolution).max())
    bits = min(30, int(np.ceil(np.log2(width / grid + 4))))
    encoded: bytes = DracoPy.encode(
        points.astype(np.float32),
        faces.astype(np.uint32),
        quantization_bits=bits,
        quantization_range=grid * (2**bits - 1),
        quantization_origin=np.floor(corner / grid) * grid - grid,
        create_metadata=True,
    )
    return encoded
