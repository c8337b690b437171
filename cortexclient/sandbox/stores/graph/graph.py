"""The chunkedgraph of a sandbox: which supervoxels belong together, at any time."""

from __future__ import annotations

import threading
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cortexclient.sandbox.arrays import Bools, Ids, Ints
from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.stores import LoadedOnce
from cortexclient.sandbox.stores.graph.build import EdgeStore, read_edges
from cortexclient.sandbox.stores.graph.space import Volume, inside
from cortexclient.sandbox.stores.graph.state import (
    NEVER,
    GraphState,
    IdLayout,
    aware,
    moment,
    read_state,
    to_micros,
)
from cortexclient.sandbox.stores.meshes import MeshIndex

Times = NDArray[np.datetime64]
# the real store keeps milliseconds, so that is what it compares
_MILLISECOND = 1000


class ChunkedGraph:
    """Supervoxels, nodes above them and roots, with their whole history, from the ``chunkedgraph`` part of a folder.

    All ids are int64, all times aware UTC; ``at=None`` means the newest state. Reading needs no lock: an edit replaces
    the whole (immutable) state, counts ``generation`` up and adds its new level-2 ids to ``made_here``.
    """

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.generation = 0
        self.made_here: set[int] = set()

    @cached_property
    def info(self) -> dict[str, Any]:
        """The graphene info as stored, with a stand-in ``data_dir``."""
        body: dict[str, Any] = self.folder.json("chunkedgraph", "info.json")
        return body

    @property
    def available(self) -> bool:
        """Whether the folder has a chunkedgraph at all."""
        return self.folder.file("chunkedgraph", "info.json").is_file()

    @cached_property
    def layout(self) -> IdLayout:
        """How ids are put together."""
        return IdLayout.from_info(self.info)

    @property
    def n_layers(self) -> int:
        """Layer of the roots."""
        return self.layout.n_layers

    @LoadedOnce
    def state(self) -> GraphState:
        """The arrays at the current generation."""
        return read_state(self.folder.file("chunkedgraph"))

    @LoadedOnce
    def operations(self) -> list[dict[str, Any]]:
        """Edits, oldest first, as ``operations.json`` stores them."""
        entries: list[dict[str, Any]] = self.folder.json("chunkedgraph", "operations.json", default=[])
        return entries

    @LoadedOnce
    def edges(self) -> EdgeStore:
        """Edges between supervoxels."""
        return read_edges(self)

    @cached_property
    def volume(self) -> Volume:
        """Voxels of the supervoxels."""
        return Volume(self)

    @cached_property
    def meshes(self) -> MeshIndex:
        """Mesh fragments of nodes."""
        return MeshIndex(self)

    def replace(
        self, state: GraphState, edges: EdgeStore, operation: dict[str, Any], new_l2_ids: Ids
    ) -> None:
        """Take over an edited state (the caller holds `lock`)."""
        self.made_here |= set(new_l2_ids.tolist())
        self.operations = [*self.operations, operation]
        self.edges = edges
        self.state = state
        self.generation += 1

    def exists(self, ids: ArrayLike) -> Bools:
        """Whether each id was ever a node of the graph, bool (n,)."""
        return self.state.find(ids) >= 0

    def roots(self, ids: ArrayLike, at: datetime | None = None, stop_layer: int | None = None) -> Ids:
        """Ancestor of each node at a time, by default now: the root, or the first one at a layer or above it.

        Give 0 for ids without such an ancestor; existing ids already at the layer are returned as they are.
        """
        ids = np.asarray(ids, dtype=np.int64)
        top = stop_layer or self.n_layers
        climbed = self.climb(ids, NEVER if at is None else to_micros(at), top)
        climbed[(self.layout.layers(climbed) < top) | ~self.exists(climbed)] = 0
        return climbed

    def climb(self, ids: Ids, at: int, top: int, *, complete: bool = False) -> Ids:
        """Follow parents as the real service does.

        An id without a parent becomes 0 if any other of the ids has one, and stays itself if none has.

        Raise KeyError for an id without a parent among others that have one, where `complete`.
        """
        state, layers = self.state, self.layout.layers
        nodes, inverse = np.unique(ids, return_inverse=True)
        below = (layers(nodes) < top) & (nodes != 0)
        for _ in range(top + 1):
            if not below.any():
                break
            parents = state.parents_of(nodes[below], at)
            if not parents.any():
                break
            if complete and not parents.all():
                raise KeyError(int(nodes[below][parents == 0][0]))
            nodes[below] = parents
            below = (layers(nodes) < top) & below
        return nodes[inverse.reshape(-1)]

    def children(self, node: int) -> Ids:
        """Children of one node, int64; they never change. Empty for supervoxels and unknown nodes."""
        return self.state.children_of(np.array([node], dtype=np.int64))[0]

    def descendants(self, nodes: ArrayLike, layer: int, near: Ints | None = None) -> tuple[Ids, Ids]:
        """Descendants at one layer of several nodes, and the position in ``nodes`` that each one descends from.

        ``near`` (2, 3) are bounds in chunks of layer 2: a node outside of them is left out with all that is below it,
        except for the given ones and what lies below one level-2 id.
        """
        state, layers = self.state, self.layout.layers
        front = np.asarray(nodes, dtype=np.int64)
        owner = np.arange(len(front), dtype=np.int64)
        found, owners = [front[:0]], [owner[:0]]
        while len(front):
            here, higher = layers(front) == layer, layers(front) > layer
            found.append(front[here])
            owners.append(owner[here])
            parents, owner = front[higher], owner[higher]
            front, position = state.children_of(parents)
            owner = owner[position]
            if near is not None:
                keep = (layers(parents)[position] == 2) | inside(self.layout, front, near)
                front, owner = front[keep], owner[keep]
        return np.concatenate(found), np.concatenate(owners)

    def l2_ids(self, root: int) -> Ids:
        """Level-2 ids of a node, int64."""
        return self.descendants([root], 2)[0]

    def l2_edges(self, root: int) -> Ids:
        """Level-2 graph of a root that exists or existed, int64 (n, 2)."""
        return self.state.edges_of(int(root))

    def supervoxels(self, node: int) -> Ids:
        """Supervoxels of a node, int64."""
        return self.descendants([node], 1)[0]

    def created(self, ids: ArrayLike) -> Times:
        """When each node was made, datetime64[us] UTC; NaT for unknown ids."""
        return self._when(ids, self.state.created)

    def superseded(self, ids: ArrayLike) -> Times:
        """When each node left the graph, datetime64[us] UTC; NaT while it is in it, and for unknown ids."""
        return self._when(ids, self.state.superseded)

    def _when(self, ids: ArrayLike, column: Ids) -> Times:
        rows = self.state.find(ids)
        times = column[rows].copy()
        times[(rows < 0) | (times == NEVER)] = np.iinfo(np.int64).min
        return times.view("datetime64[us]")

    def is_latest(self, root_ids: ArrayLike, at: datetime | None = None) -> Bools:
        """Whether each root is part of the graph at a time, bool (n,); False for unknown ids.

        As in the real service the comparison is made in whole milliseconds and a root is not yet there in
        the very millisecond of its making.
        """
        state = self.state
        rows = state.find(root_ids)
        when = NEVER if at is None else to_micros(at) // _MILLISECOND * _MILLISECOND
        layers = self.layout.layers(root_ids)
        made = state.created[rows] < when
        # only roots are ever marked as superseded, so any other node counts as latest (supervoxels have no mark at all)
        gone = (state.superseded[rows] < when) & (layers == self.n_layers)
        latest: Bools = (rows >= 0) & (layers > 1) & made & ~gone
        return latest

    def alive(self, at: datetime | None = None) -> Ids:
        """All roots of the graph at a time, int64, sorted."""
        state = self.state
        when = NEVER - 1 if at is None else to_micros(at)
        top = (
            (self.layout.layers(state.nodes) == self.n_layers)
            & (state.created <= when)
            & (state.superseded > when)
        )
        ids: Ids = state.nodes[top]
        return ids

    def oldest(self) -> datetime | None:
        """500 ms before the first edit, as the service answers; None before any edit."""
        if not self.operations:
            return None
        first = to_micros(operation_time(self.operations[0]))
        return moment(first - 500 * _MILLISECOND)


def operation_time(operation: dict[str, Any], key: str = "time") -> datetime:
    """Time of an edit, aware UTC."""
    return aware(str(operation[key]))
