"""Reading a chunkedgraph from a folder: its nodes, and the edges between supervoxels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from cortexclient.sandbox.arrays import Bools, Ids, Ints
from cortexclient.sandbox.stores.graph.space import leaves
from cortexclient.sandbox.stores.graph.state import NEVER, find, ragged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph.state import GraphState, IdLayout

# affinity and area of an edge that a person added where the segmentation has none: next to nothing, but not 0
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Edges:
    """Edges between supervoxels."""

    pairs: Ids  # (n, 2)
    affinities: NDArray[np.float32]  # (n,)
    areas: Ints | NDArray[np.float32]  # (n,)

    def __getitem__(self, rows: Bools | Ids) -> Edges:
        return Edges(self.pairs[rows], self.affinities[rows], self.areas[rows])

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True)
class EdgeStore:
    """All edges of a graph at one generation."""

    edges: Edges  # edges of the segmentation, those across chunks from both sides
    chunk: Ids  # (n,): chunk (id of layer 1) that each edge is stored with
    cross_l2: Ids  # level-2 ids
    cross_pairs: Ids  # (m, 2): edges in use that leave those ids: own supervoxel, other supervoxel
    added: Ids  # (k, 2): edges that people added

    def leaving(self, l2_ids: Ids) -> Ids:
        """Edges in use across chunks that start in these level-2 ids, int64 (n, 2)."""
        low = np.searchsorted(self.cross_l2, l2_ids, side="left")
        high = np.searchsorted(self.cross_l2, l2_ids, side="right")
        return self.cross_pairs[ragged(low.astype(np.int64), (high - low).astype(np.int64))]

    def with_cross(self, l2_ids: Ids, pairs: Ids, added: Ids) -> EdgeStore:
        """Store the edges in use of new level-2 ids, and remember which were added by hand."""
        order = np.argsort(l2_ids, kind="stable")
        place = np.searchsorted(self.cross_l2, l2_ids[order])
        return replace(
            self,
            cross_l2=np.insert(self.cross_l2, place, l2_ids[order]),
            cross_pairs=np.insert(self.cross_pairs, place, pairs[order], axis=0),
            added=np.concatenate([self.added, added.reshape(-1, 2)]),
        )

    def around(self, supervoxels: Ids, layout: IdLayout) -> Edges:
        """Edges stored with the chunks of some supervoxels, and those added by hand there."""
        chunks = np.unique(layout.chunk_ids(supervoxels))
        stored = self.edges[np.isin(self.chunk, chunks)]
        both = np.concatenate([self.added, self.added[:, ::-1]])
        extra = both[np.isin(layout.chunk_ids(both[:, 0]), chunks)]
        tiny = np.full(len(extra), _TINY, dtype=np.float32)
        areas = stored.areas if not len(extra) else np.concatenate([stored.areas.astype(np.float32), tiny])
        return Edges(np.concatenate([stored.pairs, extra]), np.concatenate([stored.affinities, tiny]), areas)


def read_edges(graph: ChunkedGraph) -> EdgeStore:
    """Read ``edges`` and ``l2_cross_edges`` of a folder; what is absent is made up from what is there.

    Without ``edges.parquet`` the supervoxels of a level-2 id form a chain, and its edges in use are all there are.
    Without ``l2_cross_edges.parquet`` two level-2 ids that touch do so through their first supervoxels.
    """
    cross_l2, cross_pairs = _read_cross(graph)
    edges = _read_file(graph)
    if edges is None:
        edges = _made_up(graph.state, graph, cross_pairs)
    order = np.argsort(cross_l2, kind="stable")
    return EdgeStore(
        edges=edges,
        chunk=graph.layout.chunk_ids(edges.pairs[:, 0]),
        cross_l2=cross_l2[order],
        cross_pairs=cross_pairs[order],
        added=np.empty((0, 2), dtype=np.int64),
    )


def _read_file(graph: ChunkedGraph) -> Edges | None:
    path = graph.folder.file("chunkedgraph", "edges.parquet")
    if not path.is_file():
        return None
    table = pq.read_table(path, columns=["supervoxel_1", "supervoxel_2", "affinity", "area"])
    pairs = np.stack(
        [np.asarray(table[name], dtype=np.int64) for name in ("supervoxel_1", "supervoxel_2")], axis=1
    )
    return Edges(
        pairs, np.asarray(table["affinity"], dtype=np.float32), np.asarray(table["area"], dtype=np.int64)
    )


def _read_cross(graph: ChunkedGraph) -> tuple[Ids, Ids]:
    path = graph.folder.file("chunkedgraph", "l2_cross_edges.parquet")
    if path.is_file():
        table = pq.read_table(path, columns=["l2_id", "supervoxel_1", "supervoxel_2"])
        columns = [np.asarray(table[name], dtype=np.int64) for name in table.column_names]
        return columns[0], np.stack(columns[1:], axis=1)
    state = graph.state
    both = np.unique(np.sort(state.edges, axis=1), axis=0)
    both = np.concatenate([both, both[:, ::-1]])
    kids, owner = state.children_of(both.reshape(-1))
    first = kids[np.searchsorted(owner, np.arange(both.size))] if len(kids) else np.empty(0, dtype=np.int64)
    return both[:, 0], first.reshape(-1, 2)


def _made_up(state: GraphState, graph: ChunkedGraph, cross_pairs: Ids) -> Edges:
    """Make edges up: supervoxels of one level-2 id in a row, and the edges in use across chunks."""
    l2_ids = state.nodes[graph.layout.layers(state.nodes) == 2]
    kids, owner = state.children_of(l2_ids)
    same = owner[1:] == owner[:-1]
    chain = (
        np.stack([kids[:-1][same], kids[1:][same]], axis=1) if len(kids) else np.empty((0, 2), dtype=np.int64)
    )
    pairs = np.concatenate([np.unique(np.sort(chain, axis=1), axis=0), np.unique(cross_pairs, axis=0)])
    return Edges(pairs, np.ones(len(pairs), dtype=np.float32), np.ones(len(pairs), dtype=np.int64))


def edge_layers(graph: ChunkedGraph, pairs: Ids) -> Ids:
    """Highest layer at which the two ends of each edge lie in different chunks; 1 for edges within a chunk."""
    layers = np.ones(len(pairs), dtype=np.int64)
    ends = graph.layout.chunks(pairs)
    for layer in range(2, graph.n_layers):
        apart = ((ends[:, 0] >> (layer - 2)) != (ends[:, 1] >> (layer - 2))).any(axis=1)
        layers[apart] = layer
    return layers


def subgraph(graph: ChunkedGraph, node: int, bounds: Ints | None, *, internal: bool = True) -> Edges:
    """Edges of the supervoxels of a node within bounds (voxels), in the service's order.

    ``internal`` leaves out edges to supervoxels that are not of the node or not within the bounds. Raise IndexError
    where there is nothing within the bounds, with the text of the service's own failure.
    """
    l2_ids = leaves(graph, node, 2, bounds)
    if not len(l2_ids):
        raise IndexError("index 0 is out of bounds for axis 0 with size 0")
    supervoxels, owner = graph.state.children_of(l2_ids)
    found = graph.edges.around(supervoxels, graph.layout)
    order = np.argsort(supervoxels)
    rows = find(supervoxels[order], found.pairs)
    known = rows >= 0
    parents = np.where(known, l2_ids[owner[order]][rows], 0)
    keep = known.all(axis=1) if internal else known[:, 0]
    within = keep & known[:, 1] & (parents[:, 0] == parents[:, 1])
    across = edge_layers(graph, found.pairs) > 1
    parts = [np.flatnonzero(mask) for mask in (within, keep & ~within & ~across, keep & ~within & across)]
    return found[np.concatenate(parts)]


class Plan:
    """An edit being worked out for a time (microseconds); the graph itself is not touched.

    ``retired`` are the nodes that it makes an end of, ``children`` those of each new node, lower nodes first, and
    ``cross`` the edges in use that leave each new level-2 id.
    """

    def __init__(self, graph: ChunkedGraph, micros: int) -> None:
        self.graph = graph
        self.micros = micros
        self.retired: set[int] = set()
        self.children: dict[int, Ids] = {}
        self.cross: dict[int, Ids] = {}
        self.new_roots: Ids = np.empty(0, dtype=np.int64)
        self._next: dict[int, int] = {}

    @property
    def new_l2_ids(self) -> Ids:
        """Level-2 ids that the edit makes, int64."""
        return np.array(sorted(self.cross), dtype=np.int64)

    def new_node(self, layer: int, chunk: Ids, children: Ids) -> int:
        """Make a node in a chunk; ids within a chunk are counted up."""
        layout = self.graph.layout
        first = int(layout.encode(layer, chunk[None], np.zeros(1, dtype=np.int64))[0])
        if first not in self._next:
            limit = first + (1 << (56 - 3 * int(layout.bits[layer])))
            nodes = self.graph.state.nodes
            low, high = np.searchsorted(nodes, [first, limit])
            self._next[first] = int(nodes[high - 1]) + 1 if high > low else first + 1
        node = self._next[first]
        self._next[first] += 1
        self.children[node] = children
        return node

    def join(self, edges: Ids) -> None:
        """Put edges to use: level-2 ids of one chunk become one, those of different chunks get the edge."""
        l2_pairs = self.graph.state.parents_of(edges.reshape(-1)).reshape(-1, 2)
        within = edge_layers(self.graph, edges) == 1
        touched = np.unique(l2_pairs)
        both = np.concatenate([edges[~within], edges[~within][:, ::-1]])
        owners = np.concatenate([l2_pairs[~within, 0], l2_pairs[~within, 1]])
        for group in components(l2_pairs[within], touched):
            supervoxels = self.graph.state.children_of(group)[0]
            pairs = np.concatenate([self.graph.edges.leaving(group), both[np.isin(owners, group)]])
            self._replace_l2(supervoxels, np.unique(pairs, axis=0))
        self.retired |= set(touched.tolist())

    def separate(self, edges: Ids, inner: Callable[[Sequence[int]], Edges]) -> None:
        """Stop using edges: level-2 ids that hold them fall into what is still connected."""
        touched = np.unique(self.graph.state.parents_of(edges.reshape(-1)))
        banned = set(map(tuple, np.sort(edges, axis=1).tolist()))
        held = inner(touched.tolist()).pairs
        held = held[[pair not in banned for pair in map(tuple, np.sort(held, axis=1).tolist())]]
        supervoxels = self.graph.state.children_of(touched)[0]
        leaving = self.graph.edges.leaving(touched)
        leaving = leaving[[pair not in banned for pair in map(tuple, np.sort(leaving, axis=1).tolist())]]
        for group in components(held, supervoxels):
            self._replace_l2(group, leaving[np.isin(leaving[:, 0], group)])
        self.retired |= set(touched.tolist())

    def _replace_l2(self, supervoxels: Ids, pairs: Ids) -> None:
        node = self.new_node(2, self.graph.layout.chunks(supervoxels[:1])[0], supervoxels)
        self.cross[node] = pairs.reshape(-1, 2)

    def edges(self, made_up: Ids) -> EdgeStore:
        """Edges after the edit."""
        owners = [np.full(len(pairs), node, dtype=np.int64) for node, pairs in self.cross.items()]
        empty: Ids = np.empty((0, 2), dtype=np.int64)
        return self.graph.edges.with_cross(
            np.concatenate([*owners, empty[:, 0]]), np.concatenate([*self.cross.values(), empty]), made_up
        )


def rebuild(plan: Plan, old_roots: Ids) -> None:
    """Put new parents above what is left of some objects, layer by layer, up to new roots.

    All ancestors of a changed level-2 id retire. Their other children are kept as they are, and nodes are joined at
    the layer below which an edge in use between them lies within one chunk; a node without such an edge goes on to
    the next layer where it has one.
    """
    graph = plan.graph
    front = _front(plan, old_roots)
    pairs, layers, owner_of = _links(plan, front)
    for layer in range(2, graph.n_layers):
        ends = owner_of(pairs)
        apart = ends[:, 0] != ends[:, 1]
        pairs, layers, ends = pairs[apart], layers[apart], ends[apart]
        here = np.maximum(layers, graph.layout.layers(ends).max(axis=1, initial=0)) == layer
        front = _lift(plan, front, np.unique(ends[here]), layer)
        ends = owner_of(pairs[here])
        for group in components(ends, np.unique(ends)):
            chunk = graph.layout.chunks(group[:1])[0] >> 1
            if layer + 1 == graph.n_layers:
                chunk = np.zeros(3, dtype=np.int64)
            parent = plan.new_node(layer + 1, chunk, group)
            front = np.append(front[~np.isin(front, group)], parent)
    roots = []
    for node in np.sort(front).tolist():
        top = np.zeros(3, dtype=np.int64)
        done = int(graph.layout.layers(node)) == graph.n_layers
        roots.append(node if done else plan.new_node(graph.n_layers, top, np.array([node], dtype=np.int64)))
    plan.new_roots = np.array(roots, dtype=np.int64)


def _front(plan: Plan, old_roots: Ids) -> Ids:
    """Retire everything above the changed level-2 ids; return the topmost nodes that stay, and the new ones."""
    state = plan.graph.state
    changed = np.array(sorted(plan.retired), dtype=np.int64)
    above = changed
    while True:
        above = np.unique(state.parents_of(above))
        above = above[above != 0]
        if not len(above):
            break
        plan.retired |= set(above.tolist())
    plan.retired |= set(old_roots.tolist())
    retired = np.array(sorted(plan.retired), dtype=np.int64)
    kids = state.children_of(retired[plan.graph.layout.layers(retired) > 2])[0]
    kept = kids[~np.isin(kids, retired)]
    return np.concatenate([kept, plan.new_l2_ids])


def _links(plan: Plan, front: Ids) -> tuple[Ids, Ids, Callable[[Ids], Ids]]:
    """Edges in use between different nodes of the front, their layers, and a look-up of who holds their ends.

    The look-up follows nodes made later, so it stays right while the front grows upwards.
    """
    graph = plan.graph
    old = front[~np.isin(front, plan.new_l2_ids)]
    l2_ids, owner = graph.descendants(old, 2)
    pairs = np.concatenate(
        [graph.edges.leaving(np.sort(l2_ids)), *plan.cross.values(), np.empty((0, 2), np.int64)]
    )
    pairs = np.unique(np.sort(pairs.astype(np.int64), axis=1), axis=0)
    kids, position = graph.state.children_of(l2_ids)
    new = [(plan.children[node], node) for node in plan.cross]
    supervoxels = np.concatenate([kids, *(ids for ids, _ in new)]).astype(np.int64)
    holder = np.concatenate([old[owner][position], *(np.full(len(ids), node) for ids, node in new)]).astype(
        np.int64
    )
    order = np.argsort(supervoxels)
    supervoxels, holder = supervoxels[order], holder[order]

    def held(pairs: Ids) -> Ids:
        rows = find(supervoxels, pairs)
        return np.where(rows >= 0, holder[rows], 0)

    ends = held(pairs)
    pairs = pairs[(ends[:, 0] != ends[:, 1]) & (ends != 0).all(axis=1)]
    layers = np.maximum(edge_layers(graph, pairs), 2)

    def owner_of(some: Ids) -> Ids:
        nodes = held(some)
        above = {int(child): node for node, ids in plan.children.items() for child in ids.tolist()}
        current = np.unique(nodes)
        climbed = []
        for node in current.tolist():
            top = node
            while top in above:
                top = above[top]
            climbed.append(top)
        return np.array(climbed, dtype=np.int64)[np.searchsorted(current, nodes)] if len(current) else nodes

    return pairs, layers, owner_of


def _lift(plan: Plan, front: Ids, nodes: Ids, layer: int) -> Ids:
    """Give nodes of lower layers a parent of their own at this one, where they meet others."""
    layout = plan.graph.layout
    for node in nodes[layout.layers(nodes) < layer].tolist():
        low = int(layout.layers(node))
        chunk = layout.at_layer(layout.chunks(np.array([node]))[0], low, layer)
        parent = plan.new_node(layer, chunk, np.array([node], dtype=np.int64))
        front = np.append(front[front != node], parent)
    return front


def next_state(plan: Plan) -> GraphState:
    """Arrays after an edit."""
    state = plan.graph.state
    added = np.array(sorted(plan.children), dtype=np.int64)
    kids = [plan.children[node] for node in added.tolist()]
    counts = np.array([len(ids) for ids in kids], dtype=np.int64)
    starts = len(state.children) + np.cumsum(counts) - counts
    children = np.concatenate([state.children, *kids])
    place = np.searchsorted(state.nodes, added)
    superseded = state.superseded.copy()
    superseded[state.find(np.array(sorted(plan.retired), dtype=np.int64))] = plan.micros
    link_node = np.concatenate(kids)
    link_parent = np.repeat(added, counts)
    after = np.searchsorted(state.link_node, link_node, side="right")
    # several new links of different nodes may go to one place: keep those sorted by node
    order = np.lexsort((link_node, after))
    after, link_node, link_parent = after[order], link_node[order], link_parent[order]
    graphs = _root_graphs(plan)
    roots = np.array(sorted(graphs), dtype=np.int64)
    edges = [graphs[root] for root in roots.tolist()]
    edge_counts = np.array([len(pairs) for pairs in edges], dtype=np.int64)
    edge_starts = len(state.edges) + np.cumsum(edge_counts) - edge_counts
    row = np.searchsorted(state.edge_root, roots)
    return replace(
        state,
        nodes=np.insert(state.nodes, place, added),
        created=np.insert(state.created, place, plan.micros),
        superseded=np.insert(superseded, place, NEVER),
        child_start=np.insert(state.child_start, place, starts),
        child_count=np.insert(state.child_count, place, counts),
        children=children,
        link_node=np.insert(state.link_node, after, link_node),
        link_parent=np.insert(state.link_parent, after, link_parent),
        link_from=np.insert(state.link_from, after, plan.micros),
        edge_root=np.insert(state.edge_root, row, roots),
        edge_start=np.insert(state.edge_start, row, edge_starts),
        edge_count=np.insert(state.edge_count, row, edge_counts),
        edges=np.concatenate([state.edges, *edges]),
    )


def _root_graphs(plan: Plan) -> dict[int, Ids]:
    """Level-2 graph of every new root, from the edges in use of its level-2 ids."""
    graph = plan.graph
    l2_ids, roots = _l2_under(plan)
    old = np.sort(l2_ids[~np.isin(l2_ids, plan.new_l2_ids)])
    pairs = np.concatenate([graph.edges.leaving(old), *plan.cross.values(), np.empty((0, 2), np.int64)])
    pairs = pairs.astype(np.int64)
    parents = graph.state.parents_of(pairs.reshape(-1))
    new = [(plan.children[node], node) for node in plan.cross]
    moved = np.concatenate([ids for ids, _ in new])
    target = np.concatenate([np.full(len(ids), node, dtype=np.int64) for ids, node in new])
    order = np.argsort(moved)
    rows = find(moved[order], pairs.reshape(-1))
    l2_pairs = np.where(rows >= 0, target[order][rows], parents).reshape(-1, 2)
    l2_pairs = np.unique(np.sort(l2_pairs, axis=1), axis=0)
    by_l2 = np.argsort(l2_ids)
    rows = find(l2_ids[by_l2], l2_pairs)
    known = (rows >= 0).all(axis=1) & (l2_pairs[:, 0] != l2_pairs[:, 1])
    l2_pairs, owner = l2_pairs[known], roots[by_l2][rows[known, 0]]
    return {int(root): l2_pairs[owner == root] for root in plan.new_roots}


def _l2_under(plan: Plan) -> tuple[Ids, Ids]:
    """Level-2 ids of the new roots, and which root each one is of."""
    graph = plan.graph
    found: list[tuple[Ids, int]] = []
    for root in plan.new_roots.tolist():
        stack, kept, new = [root], [], []
        while stack:
            node = stack.pop()
            if node in plan.cross:
                new.append(node)
            elif node in plan.children:
                stack += plan.children[node].tolist()
            else:
                kept.append(node)
        old = graph.descendants(np.array(kept, dtype=np.int64), 2)[0]
        found.append((np.concatenate([old, np.array(new, dtype=np.int64)]), root))
    ids = np.concatenate([part for part, _ in found])
    return ids, np.concatenate([np.full(len(part), root, dtype=np.int64) for part, root in found])


def components(pairs: Ids, nodes: Ids) -> list[Ids]:
    """Nodes of each connected component, sorted."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = np.unique(nodes)
    if not len(nodes):
        return []
    ends = np.searchsorted(nodes, pairs)
    matrix = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    number = connected_components(matrix, directed=False)[1]
    order = np.argsort(number, kind="stable")
    return np.split(nodes[order], np.flatnonzero(np.diff(number[order])) + 1)
