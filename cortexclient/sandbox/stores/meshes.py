"""Mesh fragments of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from cortexclient.sandbox.arrays import Bools, Ids, Ints
from cortexclient.sandbox.stores import LoadedOnce
from cortexclient.sandbox.stores.graph.space import Geometry, nodes_within
from cortexclient.sandbox.stores.graph.state import LAYER_SHIFT, ragged
from cortexclient.sandbox.stores.voxels import FRAGMENT, fragment_names, surface

if TYPE_CHECKING:
    from cortexclient.sandbox.stores.graph.graph import ChunkedGraph


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
    places = np.argwhere(own | ((parts > 0) & np.isin(parts, np.unique(parts[own]))))
    meta = graph.info.get("mesh_metadata", {})
    grid = float(meta.get("uniform_draco_grid_size") or meta.get("draco_grid_sizes", {}).get("2") or 1)
    corner = start * geometry.resolution
    return surface(places, geometry.chunk_size, corner, geometry.resolution, grid)


class MeshIndex:
    """Which fragments each node has, from ``meshes.parquet`` of the folder."""

    def __init__(self, graph: ChunkedGraph) -> None:
        self.graph = graph
        self._made: dict[str, bytes | None] = {}

    @LoadedOnce
    def _index(self) -> tuple[Ids, list[str]]:
        path = self.graph.folder.file("meshes.parquet")
        if not path.is_file():
            return np.empty(0, dtype=np.int64), []
        table = pq.read_table(path, columns=["node_id", "fragment"])
        nodes = np.asarray(table["node_id"], dtype=np.int64)
        order = np.argsort(nodes, kind="stable")
        names = table["fragment"].to_pylist()
        return nodes[order], [names[row] for row in order.tolist()]

    def _own(self, nodes: Ids) -> tuple[Ids, list[str], Bools]:
        """Fragments stored with nodes, whose they are, and which nodes have any."""
        keys, names = self._index
        low = np.searchsorted(keys, nodes, side="left")
        counts = np.searchsorted(keys, nodes, side="right") - low
        rows = ragged(low.astype(np.int64), counts.astype(np.int64))
        return np.repeat(nodes, counts), [names[row] for row in rows.tolist()], counts > 0

    def fragments(
        self, node: int, *, start_layer: int = 2, bounds: Ints | None = None
    ) -> tuple[Ids, list[str]]:
        """Fragments that make up a node, and whose each is; names are those of files, or ``~layer/shard:offset:size``.

        No fragment of a node above ``start_layer`` is used, unless it is the node asked for. With bounds (voxels),
        only those of whole chunks near them.
        """
        front = np.array([node], dtype=np.int64)
        within = None
        if bounds is not None:
            within = set(nodes_within(self.graph, front, 2, bounds)[0].tolist())
        found: list[tuple[int, str]] = []
        while len(front):
            layers = self.graph.layout.layers(front)
            usable = (layers <= start_layer) | (front == node)
            owners, names, has = self._own(front[usable])
            found += [(_owner(name, owner), name) for owner, name in zip(owners.tolist(), names, strict=True)]
            rest = np.concatenate([front[~usable], front[usable][~has]])
            layers = self.graph.layout.layers(rest)
            for l2_id in self.graph.made_here.intersection(rest[layers == 2].tolist()):
                found += [(l2_id, name) for name in self._remeshed(l2_id)]
            front = self.graph.state.children_of(rest[layers > 2])[0]
        if within is not None:
            # a fragment of a node above layer 2 cannot be known to lie outside of bounds
            found = [entry for entry in found if entry[0] in within or entry[0] >> LAYER_SHIFT > 2]
        return np.array([owner for owner, _ in found], dtype=np.int64), [name for _, name in found]

    def _remeshed(self, l2_id: int) -> list[str]:
        """Fragment of a level-2 id that an edit made, or those of the ids that it was joined from."""
        (name,) = fragment_names(self.graph.layout, Geometry(self.graph).chunk_size, np.array([l2_id]))
        if name not in self._made:
            self._made[name] = mesh_fragment(self.graph, l2_id)
        return self._of_pieces(l2_id) if self._made[name] is None else [name]

    def made(self, name: str) -> bytes | None:
        """Contents of a fragment that was made here; None for any other."""
        match = FRAGMENT.fullmatch(name)
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
    match = FRAGMENT.fullmatch(name)
    return int(match[1]) if match else owner
