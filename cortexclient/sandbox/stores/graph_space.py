"""Where nodes lie and how they touch: bounds, level-2 graphs, supervoxel edges, paths and supervoxels at points."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.stores.graph_state import NEVER, moment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.sandbox.stores.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph_state import Ids

__all__ = [
    "Geometry",
    "both_ends",
    "children_in_chunk",
    "covering_nodes",
    "find_path",
    "l2_graph",
    "leaves",
    "nodes_within",
    "shortest_path",
]


class Geometry:
    """Sizes of the volume, from the graphene info.

    Parameters
    ----------
    graph : ChunkedGraph

    Attributes
    ----------
    resolution : ndarray of float64, shape (3,)
        Voxel size in nm.
    offset, size, chunk_size : ndarray of int64, shape (3,)
        In voxels.
    """

    def __init__(self, graph: ChunkedGraph) -> None:
        scale = graph.info["scales"][int(graph.info["graph"].get("cv_mip", 0))]
        self.resolution = np.array(scale["resolution"], dtype=np.float64)
        self.offset = np.array(scale.get("voxel_offset", [0, 0, 0]), dtype=np.int64)
        self.size = np.array(scale["size"], dtype=np.int64)
        self.chunk_size = np.array(graph.info["graph"]["chunk_size"], dtype=np.int64)

    def chunk_bounds(self, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bounds in voxels, (2, 3), as bounds in whole chunks around them."""
        chunks = (np.asarray(bounds, dtype=np.float64) - self.offset) / self.chunk_size
        return np.stack([np.floor(chunks[0]), np.ceil(chunks[1])]).astype(np.int64)

    def chunk_centres(self, chunks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Centres of chunks in nm, (n, 3)."""
        centres: NDArray[np.float64] = ((chunks + 0.5) * self.chunk_size + self.offset) * self.resolution
        return centres


def _inside(graph: ChunkedGraph, ids: Ids, chunks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the chunks of nodes (at their own layers) meet bounds given in chunks of layer 2."""
    if not len(ids):
        return np.zeros(0, dtype=bool)
    scale = 2.0 ** np.maximum(graph.layout.layers(ids) - 2, 0)[:, None]
    low, high = chunks[0] / scale, chunks[1] / scale
    own = graph.layout.chunks(ids)
    within: NDArray[np.bool_] = ((own < high) & (own + 1 > low)).all(axis=1)
    return within


def nodes_within(graph: ChunkedGraph, nodes: Ids, layer: int, bounds: NDArray[np.int64] | None) -> list[Ids]:
    """Descendants of each node at one layer, in bounds given in voxels.

    Bounds are coarse: whole chunks count. What lies below one level-2 node is never cut, nor is the node asked itself.
    """
    front = np.asarray(nodes, dtype=np.int64)
    if bounds is None:
        ids, owner = graph.descendants(front, layer)
    else:
        ids, owner = _descend(graph, front, layer, Geometry(graph).chunk_bounds(bounds))
    order = np.argsort(owner, kind="stable")
    return np.split(ids[order], np.searchsorted(owner[order], np.arange(1, len(front)))) if len(front) else []


def _descend(graph: ChunkedGraph, front: Ids, layer: int, chunks: NDArray[np.int64]) -> tuple[Ids, Ids]:
    state, layers = graph.state, graph.layout.layers
    owner = np.arange(len(front), dtype=np.int64)
    found, owners = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    while len(front):
        here = layers(front) == layer
        found.append(front[here])
        owners.append(owner[here])
        parents = front[layers(front) > layer]
        owner = owner[layers(front) > layer]
        front, position = state.children_of(parents)
        keep = (layers(parents)[position] == 2) | _inside(graph, front, chunks)
        front, owner = front[keep], owner[position][keep]
    return np.concatenate(found), np.concatenate(owners)


def leaves(graph: ChunkedGraph, node: int, stop_layer: int, bounds: NDArray[np.int64] | None) -> Ids:
    """Descendants of one node at a layer, within bounds (voxels)."""
    one = np.array([node], dtype=np.int64)
    if stop_layer > 1:
        return nodes_within(graph, one, stop_layer, bounds)[0]
    return graph.state.children_of(nodes_within(graph, one, 2, bounds)[0])[0]


def l2_graph(graph: ChunkedGraph, node: int, bounds: NDArray[np.int64] | None = None) -> Ids:
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

    Raises
    ------
    ValueError
        Where nothing is left below the roots, with the text of the service's own failure.
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
    """Path of fewest steps through an undirected graph, int64 (n,), both ends included; empty if there is none.

    Raises
    ------
    IndexError
        For an end that no edge has, with numpy's text.
    """
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

    Raises
    ------
    TypeError
        Where they have none at `at` (microseconds), with the text of the service's own failure.
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
