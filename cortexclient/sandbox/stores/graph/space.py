"""Where nodes of a chunkedgraph lie, and the voxels of its volume."""

from __future__ import annotations

import gzip
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.arrays import Bools, Floats, Ids, Ints
from cortexclient.sandbox.stores import LoadedOnce
from cortexclient.sandbox.stores.graph.state import NEVER, moment

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike

    from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph.state import IdLayout


class Geometry:
    """Sizes of the volume, from the graphene info: ``resolution`` in nm, all others (3,) in voxels."""

    def __init__(self, graph: ChunkedGraph) -> None:
        scale = graph.info["scales"][int(graph.info["graph"].get("cv_mip", 0))]
        self.resolution = np.array(scale["resolution"], dtype=np.float64)
        self.offset = np.array(scale.get("voxel_offset", [0, 0, 0]), dtype=np.int64)
        self.size = np.array(scale["size"], dtype=np.int64)
        self.chunk_size = np.array(graph.info["graph"]["chunk_size"], dtype=np.int64)

    def chunk_bounds(self, bounds: Ints) -> Ints:
        """Bounds in voxels, (2, 3), as bounds in whole chunks around them."""
        chunks = (np.asarray(bounds, dtype=np.float64) - self.offset) / self.chunk_size
        return np.stack([np.floor(chunks[0]), np.ceil(chunks[1])]).astype(np.int64)

    def chunk_centres(self, chunks: Ints) -> Floats:
        """Centres of chunks in nm, (n, 3)."""
        centres: Floats = ((chunks + 0.5) * self.chunk_size + self.offset) * self.resolution
        return centres


def inside(layout: IdLayout, ids: Ids, chunks: Ints) -> Bools:
    """Whether the chunks of nodes (at their own layers) meet bounds given in chunks of layer 2."""
    scale = 2.0 ** np.maximum(layout.layers(ids) - 2, 0)[:, None]
    low, high = chunks[0] / scale, chunks[1] / scale
    own = layout.chunks(ids)
    within: Bools = ((own < high) & (own + 1 > low)).all(axis=1)
    return within


def nodes_within(graph: ChunkedGraph, nodes: Ids, layer: int, bounds: Ints | None) -> list[Ids]:
    """Descendants of each node at one layer, in bounds given in voxels.

    Bounds are coarse: whole chunks count. What lies below one level-2 node is never cut, nor is the node asked itself.
    """
    front = np.asarray(nodes, dtype=np.int64)
    near = None if bounds is None else Geometry(graph).chunk_bounds(bounds)
    ids, owner = graph.descendants(front, layer, near)
    order = np.argsort(owner, kind="stable")
    return np.split(ids[order], np.searchsorted(owner[order], np.arange(1, len(front)))) if len(front) else []


def leaves(graph: ChunkedGraph, node: int, stop_layer: int, bounds: Ints | None) -> Ids:
    """Descendants of one node at a layer, within bounds (voxels)."""
    one = np.array([node], dtype=np.int64)
    if stop_layer > 1:
        return nodes_within(graph, one, stop_layer, bounds)[0]
    return graph.state.children_of(nodes_within(graph, one, 2, bounds)[0])[0]


def l2_graph(graph: ChunkedGraph, node: int, bounds: Ints | None = None) -> Ids:
    """Level-2 graph of any node, int64 (n, 2), within bounds (voxels)."""
    root = node
    if graph.layout.layers(node) < graph.n_layers:
        # a node below the root has no graph of its own: it is part of the one of a root above it
        made = graph.created([node])
        if np.isnat(made[0]):
            return np.empty((0, 2), dtype=np.int64)
        root = int(graph.roots([node], moment(int(made.astype(np.int64)[0])))[0])
    edges = graph.l2_edges(root)
    if bounds is None and root == node:
        return edges
    ids = nodes_within(graph, np.array([node], dtype=np.int64), 2, bounds)[0]
    if graph.layout.layers(node) == 2:
        return np.empty((0, 2), dtype=np.int64)
    kept: Ids = edges[np.isin(edges, ids).all(axis=1)]
    return kept


def children_in_chunk(graph: ChunkedGraph, chunk: int, at: int = NEVER) -> dict[int, Ids]:
    """Supervoxels of every level-2 id that was made in a chunk until a time (microseconds)."""
    state, layout = graph.state, graph.layout
    limit = 1 << (56 - 3 * int(layout.bits[2]))
    low, high = np.searchsorted(state.nodes, [chunk, chunk + limit])
    ids = state.nodes[low:high]
    ids = ids[state.created[low:high] <= at]
    kids, owner = state.children_of(ids)
    return dict(
        zip(ids.tolist(), np.split(kids, np.searchsorted(owner, np.arange(1, len(ids)))), strict=False)
    )


def covering_nodes(graph: ChunkedGraph, ids: Ids, at: int) -> Ids:
    """Fewest nodes that hold exactly the given ones.

    Raise ValueError where nothing is left below the roots, with the text of the service's own failure.
    """
    layers = graph.layout.layers(ids)
    lowest = int(layers.min())
    wanted = np.unique(graph.descendants(np.unique(ids), lowest)[0])
    waiting: dict[int, set[int]] = {layer: set() for layer in range(graph.n_layers + 2)}
    for node, layer in zip(ids.tolist(), layers.tolist(), strict=True):
        waiting[layer].add(node)
    kept: dict[int, list[int]] = {}
    for layer in range(lowest, graph.n_layers):
        if not waiting[layer]:
            continue
        parents = np.unique(graph.climb(np.array(sorted(waiting[layer]), dtype=np.int64), at, layer + 1))
        below, owner = graph.descendants(parents, lowest)
        partial = np.bincount(owner[~np.isin(below, wanted)], minlength=len(parents)) > 0
        for parent, incomplete in zip(parents.tolist(), partial.tolist(), strict=True):
            if not incomplete:
                waiting[int(graph.layout.layers(parent))].add(parent)
                continue
            for child in graph.children(parent).tolist():
                level = int(graph.layout.layers(child))
                if child in waiting[level]:
                    kept.setdefault(level, []).append(child)
        waiting[layer].clear()
    if not kept:
        raise ValueError("need at least one array to concatenate")
    return np.array([node for nodes in kept.values() for node in dict.fromkeys(nodes)], dtype=np.int64)


def shortest_path(edges: Ids, source: int, target: int) -> Ids:
    """Path of fewest steps through an undirected graph, int64 (n,), both ends included; empty if there is none."""
    nodes, flat = np.unique(edges, return_inverse=True)
    ends = [int(np.flatnonzero(nodes == end)[0]) for end in (source, target)]
    pairs = flat.reshape(-1, 2)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    starts = np.searchsorted(both[:, 0], np.arange(len(nodes) + 1))
    came = {ends[0]: -1}
    queue = deque([ends[0]])
    while queue and ends[1] not in came:
        here = queue.popleft()
        for there in both[starts[here] : starts[here + 1], 1].tolist():
            if there not in came:
                came[there] = here
                queue.append(there)
    if ends[1] not in came:
        return np.empty(0, dtype=np.int64)
    path = [ends[1]]
    while came[path[-1]] >= 0:
        path.append(came[path[-1]])
    return np.asarray(nodes[path[::-1]], dtype=np.int64)


def both_ends(graph: ChunkedGraph, root: int) -> tuple[Ids, Ids]:
    """Supervoxels of the two ends of an object, a third of its longest run each: marks for cutting it in the middle."""
    l2_ids, edges = graph.l2_ids(root), graph.l2_edges(root)
    if len(l2_ids) < 2:
        supervoxels = graph.supervoxels(root)
        return supervoxels[:1], supervoxels[-1:]
    first = _farthest(edges, int(l2_ids[0]))
    run = shortest_path(edges, first, _farthest(edges, first))
    third = max(1, len(run) // 3)
    state = graph.state
    return state.children_of(run[:third])[0], state.children_of(run[-third:])[0]


def _farthest(edges: Ids, start: int) -> int:
    nodes, flat = np.unique(edges, return_inverse=True)
    pairs = flat.reshape(-1, 2)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order

    matrix = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(nodes),) * 2).tocsr()
    row = int(np.searchsorted(nodes, start))
    return int(nodes[breadth_first_order(matrix, row, directed=False, return_predecessors=False)[-1]])


def find_path(graph: ChunkedGraph, source: int, target: int, at: int) -> Ids:
    """Path of level-2 ids between two supervoxels through their lowest common node.

    Raise TypeError where they have none at `at` (microseconds), with the text of the service's own failure.
    """
    state = graph.state
    ends = [
        int(state.parents_of(np.array([supervoxel], dtype=np.int64))[0]) for supervoxel in (source, target)
    ]
    above = [_ancestry(graph, end, at) for end in ends]
    shared = [node for node in above[0] if node in above[1]]
    if not shared:
        raise TypeError("'NoneType' object is not iterable")
    return shortest_path(l2_graph(graph, shared[0]), *ends)


def _ancestry(graph: ChunkedGraph, node: int, at: int) -> list[int]:
    chain = [node]
    while True:
        parent = int(graph.state.parents_of(np.array([chain[-1]], dtype=np.int64), at)[0])
        if parent == 0:
            return chain
        chain.append(parent)


def json_path(graph: ChunkedGraph, path: Ids) -> list[Any]:
    """Centres of the chunks along a path, in nm, as 32-bit floats."""
    return list(Geometry(graph).chunk_centres(graph.layout.chunks(path)).astype(np.float32))


# how far the service looks for an object around a point, in multiples of the mean voxel size
_SEARCH_STEPS = (4, 8, 14, 28)


def _slices(low: Ints, high: Ints) -> tuple[slice, ...]:
    return tuple(map(slice, low, high))


class Volume:
    """The supervoxel volume of a graph."""

    def __init__(self, graph: ChunkedGraph) -> None:
        self.graph = graph
        self.geometry = Geometry(graph)
        self._chunk = lru_cache(maxsize=256)(self._read_chunk)

    @property
    def available(self) -> bool:
        """Whether the folder has the volume in either form."""
        voxels = self.graph.folder.voxels
        return voxels is not None or self._npz().is_file() or self._scale_folder().is_dir()

    def _npz(self) -> Path:
        return self.graph.folder.file("chunkedgraph", "watershed.npz")

    def _scale_folder(self) -> Path:
        return self.graph.folder.file("precomputed", "seg", str(self.graph.info["scales"][0]["key"]))

    def cutout(self, low: Ints, high: Ints) -> Ints:
        """Supervoxel ids of a box in voxels, int64 (x, y, z); 0 outside of the volume and where nothing is stored."""
        box = np.zeros(high - low, dtype=np.int64)
        start = np.maximum(low, self.geometry.offset)
        stop = np.minimum(high, self.geometry.offset + self.geometry.size)
        if (start >= stop).any():
            return box
        offset = self.geometry.offset
        if self._npz().is_file():
            box[_slices(start - low, stop - low)] = self._whole[_slices(start - offset, stop - offset)]
            return box
        size = np.array(self.graph.info["scales"][0]["chunk_sizes"][0], dtype=np.int64)
        first, last = (start - offset) // size, (stop - 1 - offset) // size
        for index in np.ndindex(*(last - first + 1)):
            begin = (first + index) * size + offset
            end = np.minimum(begin + size, offset + self.geometry.size)
            block = self._chunk(tuple(begin.tolist()), tuple(end.tolist()))
            if block is not None:
                inner, outer = np.maximum(begin, start), np.minimum(end, stop)
                box[_slices(inner - low, outer - low)] = block[_slices(inner - begin, outer - begin)]
        return box

    @LoadedOnce
    def _whole(self) -> Ids:
        with np.load(self._npz()) as archive:
            return np.asarray(archive["watershed"], dtype=np.int64)

    def _read_chunk(self, begin: tuple[int, ...], end: tuple[int, ...]) -> Ints | None:
        voxels = self.graph.folder.voxels
        if voxels is not None:
            low, high = np.array(begin, dtype=np.int64), np.array(end, dtype=np.int64)
            chunk = (low - self.geometry.offset) // (high - low)
            return voxels.chunk(chunk)
        name = "_".join(f"{first}-{last}" for first, last in zip(begin, end, strict=True))
        found = self.graph.folder.content(f"seg/{self._scale_folder().name}/{name}")
        if found is None:
            return None
        data = gzip.decompress(found[0]) if found[1] else found[0]
        shape = [last - first for first, last in zip(begin, end, strict=True)]
        return np.frombuffer(data, dtype="<u8").astype(np.int64).reshape(shape, order="F")

    def supervoxel_at(self, points_vx: ArrayLike) -> Ids:
        """Supervoxel at each point given in voxels of the segmentation, int64 (n,); 0 where there is none."""
        points = np.floor(np.asarray(points_vx, dtype=np.float64).reshape(-1, 3)).astype(np.int64)
        found = np.zeros(len(points), dtype=np.int64)
        if not self.available or not len(points):
            return found
        inside = (
            (points >= self.geometry.offset) & (points < self.geometry.offset + self.geometry.size)
        ).all(axis=1)
        size = np.array(self.graph.info["scales"][0]["chunk_sizes"][0], dtype=np.int64)
        chunks = (points - self.geometry.offset) // size
        # points of one chunk together, so that each chunk is read once
        for chunk in np.unique(chunks[inside], axis=0):
            rows = np.flatnonzero(inside & (chunks == chunk).all(axis=1))
            begin = chunk * size + self.geometry.offset
            block = self.cutout(begin, begin + size)
            found[rows] = block[tuple((points[rows] - begin).T)]
        return found

    def nearest_of(self, node: int, points_vx: Ints, at: int) -> Ids:
        """Supervoxels of a node that lie closest to points (voxels), as the service finds them for an edit.

        They belong to the node at a time (microseconds); a supervoxel is its own answer. Raise IndexError where the
        search leaves the volume, with the text of the service's own failure, and LookupError where none of the node is
        near enough.
        """
        layer = int(self.graph.layout.layers(node))
        if layer == 1:
            return np.full(len(points_vx), node, dtype=np.int64)
        return np.array([self._nearest(node, layer, point, at) for point in points_vx], dtype=np.int64)

    def _nearest(self, node: int, layer: int, point: Ints, at: int) -> int:
        resolution = self.geometry.resolution
        for steps in _SEARCH_STEPS:
            reach = steps * resolution.mean()
            width = np.ceil(reach / resolution).astype(np.int64)
            low, high = point - width, point + width + 1
            self._check(low, high)
            block = self.cutout(low, high)
            ids, inverse = np.unique(block, return_inverse=True)
            own = self.graph.climb(ids, at, layer) == node
            place = np.argwhere(own[inverse.reshape(block.shape)])
            if not len(place):
                continue
            distance = np.linalg.norm((place + low - point) * resolution, axis=1)
            best = int(distance.argmin())
            if distance[best] <= reach:
                return int(block[tuple(place[best])])
        raise LookupError(f"Could not determine supervoxel ID for coordinates {point} - Lookup stage.")

    def _check(self, low: Ints, high: Ints) -> None:
        first, last = self.geometry.offset, self.geometry.offset + self.geometry.size
        for axis in range(3):
            for value in (low[axis], high[axis]):
                if not first[axis] <= value <= last[axis]:
                    text = f"Value {value} cannot be outside of inclusive range {first[axis]} to {last[axis]}"
                    raise IndexError(text)
