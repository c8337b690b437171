"""Connected components and minimum cuts of small graphs of supervoxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cortexclient.sandbox.stores.graph_edges import Edges
    from cortexclient.sandbox.stores.graph_state import Ids

__all__ = ["components", "cut", "labels"]

# capacities are 32-bit integers; an affinity of 1 becomes this
_UNIT = 10_000


def labels(pairs: Ids, nodes: Ids) -> Ids:
    """Return the number of the connected component of each node (nodes sorted, unique), int64 (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(nodes):
        return np.empty(0, dtype=np.int64)
    ends = np.searchsorted(nodes, pairs)
    matrix = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(nodes), len(nodes)))
    return np.asarray(connected_components(matrix, directed=False)[1], dtype=np.int64)


def components(pairs: Ids, nodes: Ids) -> list[Ids]:
    """Nodes of each connected component, sorted."""
    nodes = np.unique(nodes)
    number = labels(pairs, nodes)
    order = np.argsort(number, kind="stable")
    if not len(nodes):
        return []
    return np.split(nodes[order], np.flatnonzero(np.diff(number[order])) + 1)


def cut(edges: Edges, sources: Ids, sinks: Ids) -> Ids:
    """Weakest edges that separate sources from sinks, int64 (n, 2); none if they are apart already.

    Raises
    ------
    EditError
        If a source is a sink too, or a mark is on no edge.
    """
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    from cortexclient.sandbox.stores.graph_edits import EditError

    if np.isin(sources, sinks).any():
        raise EditError("One or more supervoxel exists as both, sink and source.")
    nodes = np.unique(edges.pairs)
    if not np.isin(np.concatenate([sources, sinks]), nodes).all():
        raise EditError(
            "Sinks and sources are not connected through the local graph. "
            "Please try a different set of vertices to perform the mincut."
        )
    ends = np.searchsorted(nodes, edges.pairs)
    weight = np.maximum(np.round(np.minimum(edges.affinities, 1.0) * _UNIT), 1).astype(np.int32)
    start, stop = len(nodes), len(nodes) + 1
    marks = [np.searchsorted(nodes, side) for side in (sources, sinks)]
    # one more node ahead of all sources and one behind all sinks, on edges that are never worth cutting
    rows = np.concatenate([ends[:, 0], ends[:, 1], np.full(len(marks[0]), start), marks[1]])
    columns = np.concatenate([ends[:, 1], ends[:, 0], marks[0], np.full(len(marks[1]), stop)])
    endless = np.full(len(marks[0]) + len(marks[1]), np.iinfo(np.int32).max // 4, dtype=np.int32)
    capacity = csr_array(
        coo_array((np.concatenate([weight, weight, endless]), (rows, columns)), shape=(stop + 1,) * 2)
    )
    flow = maximum_flow(capacity, start, stop).flow
    rest = csr_array(capacity - flow)
    rest.eliminate_zeros()
    reached = np.zeros(stop + 1, dtype=bool)
    reached[breadth_first_order(rest, start, return_predecessors=False)] = True
    crossing = reached[ends[:, 0]] != reached[ends[:, 1]]
    weakest: Ids = edges.pairs[crossing]
    return weakest
