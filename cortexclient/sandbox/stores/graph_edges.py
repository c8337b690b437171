"""Edges between supervoxels: what the segmentation knows, and which of those across chunks are in use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from cortexclient.sandbox.stores.graph_space import leaves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.sandbox.stores.graph import ChunkedGraph
    from cortexclient.sandbox.stores.graph_state import GraphState, Ids

__all__ = ["EdgeStore", "Edges", "edge_layers", "read_edges", "subgraph"]

# affinity and area of an edge that a person added where the segmentation has none: next to nothing, but not 0
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Edges:
    """Edges between supervoxels.

    Parameters
    ----------
    pairs : ndarray of int64, shape (n, 2)
    affinities : ndarray of float32, shape (n,)
    areas : ndarray of int64 or float32, shape (n,)
    """

    pairs: Ids
    affinities: NDArray[np.float32]
    areas: NDArray[np.int64] | NDArray[np.float32]

    def __getitem__(self, rows: NDArray[np.bool_] | Ids) -> Edges:
        return Edges(self.pairs[rows], self.affinities[rows], self.areas[rows])

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True)
class EdgeStore:
    """All edges of a graph at one generation.

    Parameters
    ----------
    edges : Edges
        Edges of the segmentation, those across chunks from both sides.
    chunk : ndarray of int64, shape (n,)
        Chunk (id of layer 1) that each edge is stored with.
    cross_l2 : ndarray of int64, sorted
        Level-2 ids.
    cross_pairs : ndarray of int64, shape (m, 2)
        Edges in use that leave those ids: own supervoxel, other supervoxel.
    added : ndarray of int64, shape (k, 2)
        Edges that people added.
    """

    edges: Edges
    chunk: Ids
    cross_l2: Ids
    cross_pairs: Ids
    added: Ids

    def leaving(self, l2_ids: Ids) -> Ids:
        """Edges in use across chunks that start in these level-2 ids, int64 (n, 2)."""
        from cortexclient.sandbox.stores.graph_state import ragged

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

    def touching(self, chunks: Ids, layout_chunks: Ids) -> Edges:
        """Edges stored with some chunks, and those added by hand there (given the chunks of their first ends)."""
        stored = self.edges[np.isin(self.chunk, chunks)]
        both = np.concatenate([self.added, self.added[:, ::-1]])
        extra = both[np.isin(layout_chunks, chunks)]
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


def subgraph(
    graph: ChunkedGraph, node: int, bounds: NDArray[np.int64] | None, *, internal: bool = True
) -> Edges:
    """Edges of the supervoxels of a node within bounds (voxels), in the service's order.

    Parameters
    ----------
    internal : bool
        Leave out edges to supervoxels that are not of the node or not within the bounds.

    Raises
    ------
    IndexError
        Where there is nothing within the bounds, with the text of the service's own failure.
    """
    l2_ids = leaves(graph, node, 2, bounds)
    if not len(l2_ids):
        raise IndexError("index 0 is out of bounds for axis 0 with size 0")
    store = graph.edges
    supervoxels, owner = graph.state.children_of(l2_ids)
    both = np.concatenate([store.added, store.added[:, ::-1]])
    chunks = np.unique(graph.layout.chunk_ids(supervoxels))
    found = store.touching(chunks, graph.layout.chunk_ids(both[:, 0]))
    order = np.argsort(supervoxels)
    rows = np.searchsorted(supervoxels[order], found.pairs)
    rows[rows == len(order)] = 0
    known = supervoxels[order][rows] == found.pairs
    parents = np.where(known, l2_ids[owner[order]][rows], 0)
    keep = known.all(axis=1) if internal else known[:, 0]
    within = keep & known[:, 1] & (parents[:, 0] == parents[:, 1])
    across = edge_layers(graph, found.pairs) > 1
    parts = [np.flatnonzero(mask) for mask in (within, keep & ~within & ~across, keep & ~within & across)]
    return found[np.concatenate(parts)]
