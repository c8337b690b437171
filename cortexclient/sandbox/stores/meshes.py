"""Mesh fragments of nodes."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from cortexclient.sandbox.stores.graph.space import Geometry, nodes_within
from cortexclient.sandbox.stores.graph.state import ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph.state import Ids


def fragment_name(graph: ChunkedGraph, l2_id: int) -> str:
    """Name of the fragment of a level-2 id: the id and the box of its chunk in voxels, without the volume's offset."""
    low = graph.layout.chunks(np.array([l2_id]))[0] * Geometry(graph).chunk_size
    high = low + Geometry(graph).chunk_size
    return f"{l2_id}:0:" + "_".join(f"{a}-{b}" for a, b in zip(low.tolist(), high.tolist(), strict=True))


def mesh_fragment(graph: ChunkedGraph, l2_id: int) -> bytes | None:
    """Mesh of a level-2 id in draco, in nm.

    It reaches from the first voxel layer of its chunk to that of the next one and is open there where the object goes
    on, so that it fits the fragments around it.

    Give none where there are no voxels to be had, or they have no surface.
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


_OWNED = re.compile(r"(\d+):\d+:(\d+)-(\d+)_(\d+)-(\d+)_(\d+)-(\d+)")


class MeshIndex:
    """Which fragments each node has, from ``meshes.parquet`` of the folder."""

    def __init__(self, graph: ChunkedGraph) -> None:
        self.graph = graph
        self._lock = threading.Lock()
        self._loaded: tuple[Ids, list[str]] | None = None
        self._made: dict[str, bytes | None] = {}

    def _index(self) -> tuple[Ids, list[str]]:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = self._read()
        return self._loaded

    def _read(self) -> tuple[Ids, list[str]]:
        path = self.graph.folder.file("meshes.parquet")
        if not path.is_file():
            return np.empty(0, dtype=np.int64), []
        table = pq.read_table(path, columns=["node_id", "fragment"])
        nodes = np.asarray(table["node_id"], dtype=np.int64)
        order = np.argsort(nodes, kind="stable")
        names = table["fragment"].to_pylist()
        return nodes[order], [names[row] for row in order.tolist()]

    def _own(self, nodes: Ids) -> tuple[Ids, list[str], NDArray[np.bool_]]:
        """Fragments stored with nodes, whose they are, and which nodes have any."""
        keys, names = self._index()
        low = np.searchsorted(keys, nodes, side="left")
        counts = np.searchsorted(keys, nodes, side="right") - low
        rows = ragged(low.astype(np.int64), counts.astype(np.int64))
        return np.repeat(nodes, counts), [names[row] for row in rows.tolist()], counts > 0

    def fragments(
        self, node: int, *, start_layer: int = 2, bounds: NDArray[np.int64] | None = None
    ) -> tuple[Ids, list[str]]:
        """Fragments that make up a node, and whose each is; names are those of files, or ``~layer/shard:offset:size``.

        No fragment of a node above ``start_layer`` is used, unless it is the node asked for. With bounds (voxels),
        only those of whole chunks near them.
        """
        front = np.array([node], dtype=np.int64)
        found: tuple[list[Ids], list[str]] = ([], [])
        within = None
        if bounds is not None:
            within = set(nodes_within(self.graph, front, 2, bounds)[0].tolist())
        while len(front):
            layers = self.graph.layout.layers(front)
            usable = (layers <= start_layer) | (front == node)
            owners, names, has = self._own(front[usable])
            self._keep(found, owners, names, within)
            rest = np.concatenate([front[~usable], front[usable][~has]])
            layers = self.graph.layout.layers(rest)
            for l2_id in self.graph.made_here.intersection(rest[layers == 2].tolist()):
                owners, names = self._remeshed(l2_id)
                if within is None or l2_id in within:
                    found[0].append(owners)
                    found[1].extend(names)
            front = self.graph.state.children_of(rest[layers > 2])[0]
        owners = np.concatenate([*found[0], np.empty(0, dtype=np.int64)])
        return owners, found[1]

    def _keep(
        self, found: tuple[list[Ids], list[str]], owners: Ids, names: list[str], within: set[int] | None
    ) -> None:
        seg_ids = [_owner(name, int(owner)) for owner, name in zip(owners.tolist(), names, strict=True)]
        keep = [within is None or seg_id in within or self._far_up(seg_id) for seg_id in seg_ids]
        found[0].append(np.array([i for i, ok in zip(seg_ids, keep, strict=True) if ok], dtype=np.int64))
        found[1].extend(name for name, ok in zip(names, keep, strict=True) if ok)

    def _far_up(self, seg_id: int) -> bool:
        # a fragment of a node above layer 2 cannot be known to lie outside of bounds
        return int(self.graph.layout.layers(seg_id)) > 2

    def _remeshed(self, l2_id: int) -> tuple[Ids, list[str]]:
        """Fragment of a level-2 id that an edit made, or those of the ids that it was joined from."""
        name = fragment_name(self.graph, l2_id)
        if name not in self._made:
            made = mesh_fragment(self.graph, l2_id)
            with self._lock:
                self._made[name] = made
        names = self._of_pieces(l2_id) if self._made[name] is None else [name]
        return np.full(len(names), l2_id, dtype=np.int64), names

    def made(self, name: str) -> bytes | None:
        """Contents of a fragment that was made here; None for any other."""
        match = _OWNED.fullmatch(name)
        if match is None or int(match[1]) not in self.graph.made_here:
            return None
        self._remeshed(int(match[1]))
        return self._made.get(name)

    def _of_pieces(self, l2_id: int) -> list[str]:
        state = self.graph.state
        supervoxels = self.graph.children(l2_id)
        earlier = state.all_parents_of(supervoxels)
        owners, names, has = self._own(earlier)
        pieces = earlier[has]
        kids, owner = state.children_of(pieces)
        foreign = np.unique(owner[~np.isin(kids, supervoxels)])
        inside = ~np.isin(owners, pieces[foreign])
        return [name for name, ok in zip(names, inside.tolist(), strict=True) if ok]


def _owner(name: str, owner: int) -> int:
    """Node that a fragment is of: its name says so, where fragments are listed under a whole object."""
    match = _OWNED.fullmatch(name)
    return int(match[1]) if match else owner
