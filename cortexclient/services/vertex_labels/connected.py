"""The connected components of a graph, by whole-array steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Ends: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32]]

__all__ = ["connected"]

# edges or nodes that are worked on at once, so that what is in between stays in the processor's cache
_BLOCK = 1 << 15


def connected(count: int, edges: Sequence[Ends]) -> NDArray[np.int32]:
    """Number of the component of each of ``count`` nodes; components are numbered by their smallest nodes.

    Every node hooks onto a smaller neighbour, what hangs together shrinks to one node, and again, until no edge is
    left. Each round leaves a small part of the nodes; scipy's connected_components takes longer to build its matrix.

    Parameters
    ----------
    count : int
    edges : sequence of pairs of ndarray of int32
        The nodes at both ends of edges, in as many parts as there are at hand.
    """
    rounds = []
    while any(len(tails) for tails, _ in edges):
        parent = _hooked(count, edges)
        number = np.cumsum(parent == np.arange(count, dtype=np.int32), dtype=np.int32)
        number -= 1
        parent = number.take(parent)
        rounds.append(parent)
        count = int(number[-1]) + 1
        edges = [_still_open(edges, parent)]
    found = np.arange(count, dtype=np.int32)
    for parent in reversed(rounds):
        found = found.take(parent)
    return found


def _hooked(count: int, edges: Sequence[Ends]) -> NDArray[np.int32]:
    """Smallest node of the tree that each node is in when every node hooks onto a smaller neighbour."""
    parent = np.arange(count, dtype=np.int32)
    for tails, heads in _blocks(edges):
        # of several hooks of one node any may win: the others stay in the list for the next round
        parent[np.maximum(tails, heads)] = np.minimum(tails, heads)
    for start in range(0, count, _BLOCK):
        # parents are smaller, so those in the blocks before are the ends of their trees already
        block = parent[start : start + _BLOCK]
        while True:
            shorter = parent.take(block)
            if np.array_equal(shorter, block):
                break
            block[:] = shorter
    return parent


def _still_open(edges: Sequence[Ends], parent: NDArray[np.int32]) -> Ends:
    """Edges between trees."""
    left = []
    for tails, heads in _blocks(edges):
        one, other = parent.take(tails), parent.take(heads)
        keep = np.flatnonzero(one != other)
        left.append((one.take(keep), other.take(keep)))
    tails, heads = (np.concatenate(ends) for ends in zip(*left, strict=True))
    return tails, heads


def _blocks(edges: Sequence[Ends]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for tails, heads in edges:
        for start in range(0, len(tails), _BLOCK):
            yield tails[start : start + _BLOCK], heads[start : start + _BLOCK]
