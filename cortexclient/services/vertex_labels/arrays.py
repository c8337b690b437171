"""Array operations that NumPy does not have: blocks, ranges, orders and the components of a graph."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Ends: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32]]

__all__ = ["BLOCK", "blocks", "blocks_of_groups", "connected", "in_order", "ragged"]

# rows of a block, so that it stays in the processor's cache; half or twice as many take about as long
BLOCK = 1 << 15


def blocks(count: int) -> Iterator[slice]:
    """Cut ``count`` rows into slices of at most ``BLOCK``."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def blocks_of_groups(lengths: NDArray[np.int64], size: int = BLOCK) -> Iterator[slice]:
    """Cut groups of rows, given by their lengths, into slices of groups with about ``size`` rows together."""
    ends = np.searchsorted(np.cumsum(lengths), np.arange(0, int(lengths.sum()) + size, size))
    for low, high in itertools.pairwise(ends.tolist()):
        if low < high:
            yield slice(low, high)


def in_order(values: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return a stable ``argsort`` of numbers that are not negative.

    numpy sorts 16 bits by counting, which is several times faster than comparing; two passes sort 32.
    """
    order = np.argsort(values.astype(np.uint16), kind="stable")
    if int(values.max(initial=0)) < 1 << 16:
        return order
    upper = (values >> 16).astype(np.uint16)[order]
    return np.asarray(order[np.argsort(upper, kind="stable")])


def ragged(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate the ranges ``[start, start + length)``."""
    total = int(lengths.sum())
    if not total:
        return np.empty(0, dtype=np.int64)
    ends = np.cumsum(lengths)
    return np.asarray(np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths))


# -- connected components ----------------------------------------------------------------------------------------------


def connected(count: int, edges: Sequence[Ends]) -> NDArray[np.int32]:
    """Return the number of the component of each of ``count`` nodes; components are numbered by their smallest nodes.

    Every node hooks onto a smaller neighbour, what hangs together shrinks to one node, and again, until no edge is
    left. Each round leaves a small part of the nodes; scipy's connected_components takes longer to build its matrix.

    Parameters
    ----------
    count : int
    edges : sequence of pairs of ndarray of int32
        The nodes at both ends of edges, in any number of parts.
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
    """Return the smallest node of the tree that each node is in when every node hooks onto a smaller neighbour."""
    parent = np.arange(count, dtype=np.int32)
    for tails, heads in _in_blocks(edges):
        # of several hooks of one node any may win: the others stay in the list for the next round
        parent[np.maximum(tails, heads)] = np.minimum(tails, heads)
    for block in blocks(count):
        # parents are smaller, so those in the blocks before are the ends of their trees already
        part = parent[block]
        while True:
            shorter = parent.take(part)
            if np.array_equal(shorter, part):
                break
            part[:] = shorter
    return parent


def _still_open(edges: Sequence[Ends], parent: NDArray[np.int32]) -> Ends:
    """Return the edges between trees, by the numbers of the trees."""
    left = []
    for tails, heads in _in_blocks(edges):
        one, other = parent.take(tails), parent.take(heads)
        keep = np.flatnonzero(one != other)
        left.append((one.take(keep), other.take(keep)))
    tails, heads = (np.concatenate(ends) for ends in zip(*left, strict=True))
    return tails, heads


def _in_blocks(edges: Sequence[Ends]) -> Iterator[Ends]:
    for tails, heads in edges:
        for block in blocks(len(tails)):
            yield tails[block], heads[block]
