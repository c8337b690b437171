"""The chunkedgraph and its history: level-2 ids, the nodes above them, roots, and what each edit replaced.

A node of layer ``l`` joins the nodes below it that lie in its chunk and hang together by edges whose ends first share
a chunk at that layer. An edit changes edges within one chunk, so one level-2 node and its ancestors are replaced; what
keeps its children keeps its id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cortexclient.sandbox.cortex.ids import IdScheme

__all__ = ["Graph", "GraphBuilder", "Level"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# segment numbers of roots: spread out, so that ids of different roots differ in more than the last digit
_ROOT_STRIDE = 37


@dataclass
class Level:
    """Nodes of one layer made at one time.

    Parameters
    ----------
    layer : int
    ids : (n,) int64
    chunk : (n, 3) int64
    children : list of (k,) int64, or None
        None for supervoxels.
    created : datetime
    """

    layer: int
    ids: Ints
    chunk: Ints
    offsets: Ints
    children: Ints
    created: datetime


@dataclass
class Graph:
    """Everything that ever was in the graph.

    Parameters
    ----------
    scheme : IdScheme
    levels : list of Level
        In order of creation; the first is the supervoxels.
    links : list of tuple
        (node ids, parent ids, valid from) of every batch of parent links.
    closed : list of tuple
        (node ids, time) of links that ended.
    superseded : dict of int to datetime
        When a node left the graph.
    l2_edges : dict of int to (n, 2) int64
        Level-2 graph of every root that ever existed.
    l2_ids : dict of int to (n,) int64
        Level-2 ids of every root that ever existed.
    l2_of_supervoxel : list of tuple
        (rows of supervoxels, level-2 ids, valid from), in order of time.
    lineage : list of tuple
        (old root, new root, time, operation id).
    """

    scheme: IdScheme
    levels: list[Level] = field(default_factory=list)
    links: list[tuple[Ints, Ints, datetime]] = field(default_factory=list)
    closed: list[tuple[Ints, datetime]] = field(default_factory=list)
    superseded: dict[int, datetime] = field(default_factory=dict)
    l2_edges: dict[int, Ints] = field(default_factory=dict)
    l2_ids: dict[int, Ints] = field(default_factory=dict)
    l2_of_supervoxel: list[tuple[Ints, Ints, datetime]] = field(default_factory=list)
    lineage: list[tuple[int, int, datetime, int]] = field(default_factory=list)


class GraphBuilder:
    """Builds a `Graph`: all of it at first, then edit by edit.

    Parameters
    ----------
    scheme : IdScheme
    supervoxels : (n,) int64
        Ids.
    chunk : (n, 3) int64
        Chunk of each supervoxel.
    edges : (e, 2) int64
        Rows of supervoxels; all edges that will ever be active.
    start : datetime
        Time of the first graph.
    """

    def __init__(
        self, scheme: IdScheme, supervoxels: Ints, chunk: Ints, edges: Ints, start: datetime
    ) -> None:
        self.graph = Graph(scheme)
        self.supervoxels = supervoxels
        self._chunk = chunk
        self._edges = edges
        self._start = start
        different = chunk[edges[:, 0]] ^ chunk[edges[:, 1]]
        height = different.max(axis=1)
        # lowest layer at which both ends lie in one chunk
        self._edge_layer = np.where(height == 0, 2, 2 + np.ceil(np.log2(height + 1.0)).astype(np.int64))
        self._next_segment: dict[tuple[int, int, int, int], int] = {}
        self._parent_of: dict[int, int] = {}
        self._children_of: dict[int, Ints] = {}
        self.root_of = np.zeros(len(supervoxels), dtype=np.int64)
        self.l2_of = np.zeros(len(supervoxels), dtype=np.int64)

    def build(self, active: Bools) -> None:
        """Make the first graph from the edges that are active at the start."""
        count = len(self.supervoxels)
        nothing = np.empty(0, dtype=np.int64)
        self.graph.levels.append(
            Level(1, self.supervoxels, self._chunk, np.zeros(count + 1, dtype=np.int64), nothing, self._start)
        )
        self._make(np.arange(count), active, self._start, frozenset())

    def edit(self, active: Bools, roots: list[int], when: datetime, operation: int) -> list[int]:
        """Rebuild the objects that an edit touches.

        Parameters
        ----------
        active : (e,) bool
            Edges that are active after the edit.
        roots : list of int
            Roots that the edit replaces.
        when : datetime
        operation : int

        Returns
        -------
        list of int
            New roots, in ascending order.
        """
        rows = np.flatnonzero(np.isin(self.root_of, roots))
        alive = self._alive_under(rows)
        kept = self._make(rows, active, when, frozenset(alive))
        for node in sorted(alive - kept):
            self.graph.superseded[node] = when
        new = sorted({int(r) for r in self.root_of[rows]})
        self.graph.lineage += [(old, root, when, operation) for root in new for old in sorted(roots)]
        return new

    def _alive_under(self, rows: Ints) -> set[int]:
        """All nodes above some supervoxels."""
        alive: set[int] = set()
        for node in {int(n) for n in self.l2_of[rows]}:
            current = node
            while current and current not in alive:
                alive.add(current)
                current = self._parent_of.get(current, 0)
        return alive

    def _make(self, rows: Ints, active: Bools, when: datetime, alive: frozenset[int]) -> set[int]:
        """Build all levels over some supervoxels; nodes with unchanged children are used again and returned."""
        place = np.full(len(self.supervoxels), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        use = active & (place[self._edges[:, 0]] >= 0) & (place[self._edges[:, 1]] >= 0)
        ends, layers = place[self._edges[use]], self._edge_layer[use]
        below_ids, below_chunk = self.supervoxels[rows], self._chunk[rows]
        up = np.arange(len(rows))
        known = {self._key(self._children_of[node]): node for node in alive}
        reused: set[int] = set()
        for layer in range(2, self.graph.scheme.layers + 1):
            here = layers == layer
            parent = _group(len(below_ids), up[ends[here, 0]], up[ends[here, 1]])
            chunk = np.zeros((int(parent.max()) + 1, 3), dtype=np.int64)
            chunk[parent] = below_chunk if layer == 2 else below_chunk >> 1
            ids = self._name(layer, parent, chunk, below_ids, known, reused, when)
            self._relink(below_ids, ids[parent], when)
            up = parent[up]
            if layer == 2:
                changed = self.l2_of[rows] != ids[up]
                self.graph.l2_of_supervoxel.append((rows[changed], ids[up][changed], when))
                self.l2_of[rows] = ids[up]
            below_ids, below_chunk = ids, chunk
        self.root_of[rows] = below_ids[up]
        self._store_level2(rows, rows[ends[layers > 2]], below_ids)
        return reused

    @staticmethod
    def _key(children: Ints) -> bytes:
        return np.sort(children).tobytes()

    def _name(
        self,
        layer: int,
        parent: Ints,
        chunk: Ints,
        below: Ints,
        known: dict[bytes, int],
        reused: set[int],
        when: datetime,
    ) -> Ints:
        """Give ids to the nodes of one level: the old one where the children are unchanged."""
        order = np.lexsort((below, parent))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(parent, minlength=len(chunk)))])
        children = below[order]
        ids = np.zeros(len(chunk), dtype=np.int64)
        if known:
            for i in range(len(chunk)):
                ids[i] = known.get(children[offsets[i] : offsets[i + 1]].tobytes(), 0)
            reused.update(int(n) for n in ids[ids != 0])
        new = np.flatnonzero(ids == 0)
        if len(new) == 0:
            return ids
        # named in the order of their chunk and first child
        new = new[np.lexsort((children[offsets[new]], chunk[new, 2], chunk[new, 1], chunk[new, 0]))]
        segment = np.empty(len(new), dtype=np.int64)
        for k, row in enumerate(new):
            cell = (layer, int(chunk[row, 0]), int(chunk[row, 1]), int(chunk[row, 2]))
            number = self._next_segment.get(cell, 1)
            segment[k] = number
            self._next_segment[cell] = number + (_ROOT_STRIDE if layer == self.graph.scheme.layers else 1)
        ids[new] = self.graph.scheme.encode(layer, chunk[new], segment)
        parts = [children[offsets[i] : offsets[i + 1]] for i in new]
        lengths = np.array([len(part) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self.graph.levels.append(Level(layer, ids[new], chunk[new], starts, np.concatenate(parts), when))
        for node, part in zip(ids[new].tolist(), parts, strict=True):
            self._children_of[node] = part
        return ids

    def _relink(self, nodes: Ints, parents: Ints, when: datetime) -> None:
        """Note the parents that changed."""
        old = np.array([self._parent_of.get(n, 0) for n in nodes.tolist()], dtype=np.int64)
        changed = old != parents
        gone = changed & (old != 0)
        if gone.any():
            self.graph.closed.append((nodes[gone], when))
        if changed.any():
            self.graph.links.append((nodes[changed], parents[changed], when))
        self._parent_of.update(zip(nodes[changed].tolist(), parents[changed].tolist(), strict=True))

    def _store_level2(self, rows: Ints, pairs: Ints, roots: Ints) -> None:
        """Level-2 ids and graph of each root, from edges between supervoxels of different chunks."""
        edges = np.unique(
            np.column_stack([self.root_of[pairs[:, 0]], np.sort(self.l2_of[pairs], axis=1)]), axis=0
        )
        nodes = np.unique(np.column_stack([self.root_of[rows], self.l2_of[rows]]), axis=0)
        for root in roots.tolist():
            if root in self.graph.l2_edges:
                continue
            a, b = np.searchsorted(edges[:, 0], [root, root + 1])
            self.graph.l2_edges[root] = edges[a:b, 1:]
            a, b = np.searchsorted(nodes[:, 0], [root, root + 1])
            self.graph.l2_ids[root] = nodes[a:b, 1]


def _group(count: int, i: Ints, j: Ints) -> Ints:
    """Connected components, numbered by their first member."""
    graph = coo_matrix((np.ones(len(i), dtype=np.int8), (i, j)), shape=(count, count)).tocsr()
    label = connected_components(graph, directed=False)[1].astype(np.int64)
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
