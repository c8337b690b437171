"""A skeleton as a rooted tree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Tree"]


class Tree:
    """A skeleton as a rooted tree: parent of each vertex, and distances from the root."""

    def __init__(self, flat: dict[str, Any]) -> None:
        self.vertices = np.asarray(flat["vertices"], np.float64).reshape(-1, 3)
        edges = np.asarray(flat["edges"], np.int64).reshape(-1, 2)
        self.root = int(flat["root"])
        self.parents = np.full(len(self.vertices), -1, np.int64)
        self.parents[edges[:, 0]] = edges[:, 1]
        self.order = self._from_root()
        self.distance = np.zeros(len(self.vertices))
        self.hops = np.zeros(len(self.vertices))
        for vertex in self.order:
            parent = self.parents[vertex]
            if parent >= 0:
                self.distance[vertex] = self.distance[parent] + np.linalg.norm(
                    self.vertices[vertex] - self.vertices[parent]
                )
                self.hops[vertex] = self.hops[parent] + 1
        self.children = np.bincount(self.parents[self.parents >= 0], minlength=len(self.vertices))

    def _from_root(self) -> list[int]:
        below: dict[int, list[int]] = {}
        for vertex, parent in enumerate(self.parents.tolist()):
            below.setdefault(parent, []).append(vertex)
        order: list[int] = []
        stack = below.get(-1, [])[::-1]
        while stack:
            vertex = stack.pop()
            order.append(vertex)
            stack.extend(below.get(vertex, ())[::-1])
        return order

    def segments(self) -> NDArray[np.int64]:
        """Number of the unbranched stretch that each vertex belongs to, from the tips inwards."""
        labels = np.full(len(self.vertices), -1, np.int64)
        ends = np.flatnonzero(self.children != 1)
        ends = ends[np.argsort(-self.distance[ends], kind="stable")]
        for number, end in enumerate(ends.tolist()):
            vertex = end
            while vertex >= 0 and labels[vertex] < 0 and (vertex == end or self.children[vertex] == 1):
                labels[vertex] = number
                vertex = int(self.parents[vertex])
        return labels
