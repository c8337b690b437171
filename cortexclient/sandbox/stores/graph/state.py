"""The arrays of a chunkedgraph at one generation, and its ids; never changed in place, an edit makes the next state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from cortexclient.sandbox.arrays import Ids

_LEAF_BITS = 10
LAYER_SHIFT = 56  # ids are 64 bits and the layer takes the top 8


@dataclass(frozen=True)
class IdLayout:
    """How the ids of one graph are put together."""

    n_layers: int  # layer of the roots
    bits: Ids  # (n_layers + 1,): bits of one chunk coordinate at each layer; entry 0 is unused

    @classmethod
    def for_chunks(cls, chunks: Ids) -> IdLayout:
        """Return the layout with the fewest layers, but at least 5, whose top chunk holds the whole volume."""
        layers = 5
        while 1 << (layers - 2) < int(chunks.max()):
            layers += 1
        upper = [max(1, _LEAF_BITS - (layer - 2)) for layer in range(2, layers + 1)]
        return cls(layers, np.array([0, _LEAF_BITS, *upper], dtype=np.int64))

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> IdLayout:
        """Read the layout from the ``graph`` part of a graphene info."""
        graph = info["graph"]
        n_layers = int(graph["n_layers"])
        masks = graph["spatial_bit_masks"]
        return cls(
            n_layers, np.array([0] + [int(masks[str(i)]) for i in range(1, n_layers + 1)], dtype=np.int64)
        )

    def layers(self, ids: ArrayLike) -> Ids:
        """Layer of each id, int64; 0 for the id 0."""
        return np.asarray(ids, dtype=np.int64) >> LAYER_SHIFT

    def _width(self, ids: Ids) -> Ids:
        # ids of no known layer decode to something harmless: they are in no table anyway
        return self.bits[np.clip(self.layers(ids), 0, self.n_layers)]

    def chunks(self, ids: ArrayLike) -> Ids:
        """Chunk coordinates of each id, int64 (n, 3), counted in chunks of the id's own layer."""
        ids = np.asarray(ids, dtype=np.int64)
        width = self._width(ids)
        mask = (np.int64(1) << width) - 1
        return np.stack([(ids >> (LAYER_SHIFT - width * axis)) & mask for axis in (1, 2, 3)], axis=-1)

    def segments(self, ids: ArrayLike) -> Ids:
        """Segment number of each id within its chunk, int64."""
        ids = np.asarray(ids, dtype=np.int64)
        numbers: Ids = ids & ((np.int64(1) << (LAYER_SHIFT - 3 * self._width(ids))) - 1)
        return numbers

    def chunk_ids(self, ids: ArrayLike) -> Ids:
        """Id of the chunk that each id lies in: the id with segment number 0."""
        ids = np.asarray(ids, dtype=np.int64)
        return ids - self.segments(ids)

    def encode(self, layer: int, chunks: ArrayLike, segments: ArrayLike) -> Ids:
        """Put ids together."""
        chunks = np.asarray(chunks, dtype=np.int64)
        width = int(self.bits[layer])
        ids: Ids = np.asarray(segments, dtype=np.int64) + (np.int64(layer) << LAYER_SHIFT)
        for axis in (1, 2, 3):
            ids = ids + (chunks[..., axis - 1] << (LAYER_SHIFT - width * axis))
        return ids

    def at_layer(self, chunks: ArrayLike, source: int, target: int) -> Ids:
        """Chunk coordinates of one layer as those of a higher layer (each layer above 2 halves them)."""
        steps = max(target, 2) - max(source, 2)
        return np.asarray(chunks, dtype=np.int64) >> steps


NEVER = np.iinfo(np.int64).max  # a time that has not come: the row is still valid
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NONE: Ids = np.empty(0, dtype=np.int64)


def aware(at: datetime | str) -> datetime:
    """Time with its zone; one that names none is UTC."""
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def to_micros(at: datetime) -> int:
    """Microseconds since 1970; a naive time is UTC."""
    gap = aware(at) - _EPOCH
    return (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds


def moment(micros: int) -> datetime:
    """Aware UTC time of a number of microseconds since 1970."""
    return datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=int(micros) % 1_000_000)


def ragged(starts: Ids, lengths: Ids) -> Ids:
    """Return the indices of several slices one after another: ``concat(arange(s, s + n))``, int64."""
    total = int(lengths.sum())
    if total == 0:
        return _NONE
    shift = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    rows: Ids = np.arange(total, dtype=np.int64) + shift
    return rows


@dataclass(frozen=True)
class GraphState:
    """All nodes that ever existed and who was whose parent when."""

    nodes: Ids  # node ids
    created: Ids  # microseconds since 1970; `superseded` is `NEVER` for a node still in use
    superseded: Ids
    child_start: Ids  # slice of `children` that belongs to each node
    child_count: Ids
    children: Ids
    # parent history, sorted by node, then time; a parent holds from `link_from` until the node's next row
    link_node: Ids
    link_parent: Ids
    link_from: Ids
    edge_root: Ids  # sorted roots and their slice of `edges`
    edge_start: Ids
    edge_count: Ids
    edges: Ids  # (n, 2): level-2 graphs, one root after another

    def find(self, ids: ArrayLike) -> Ids:
        """Row of each id in `nodes`, -1 where there is none."""
        return find(self.nodes, np.asarray(ids, dtype=np.int64))

    def children_of(self, ids: ArrayLike) -> tuple[Ids, Ids]:
        """Children of all ids in order, and for each child the position of its parent in `ids`."""
        rows = self.find(ids)
        known = np.flatnonzero(rows >= 0)
        rows = rows[known]
        counts = self.child_count[rows]
        return self.children[ragged(self.child_start[rows], counts)], np.repeat(known, counts)

    def parents_of(self, ids: ArrayLike, at: int = NEVER) -> Ids:
        """Parent of each id at a time (microseconds), 0 where there is none."""
        ids = np.asarray(ids, dtype=np.int64)
        low = np.searchsorted(self.link_node, ids, side="left")
        row = np.searchsorted(self.link_node, ids, side="right") - 1
        # few nodes have many parents, so stepping back from the newest is quick
        late = (
            (row >= low) & (self.link_from[row] > at)
            if len(self.link_from)
            else np.zeros(len(ids), dtype=bool)
        )
        while late.any():
            row = row - late
            late &= row >= low
            late[late] = self.link_from[row[late]] > at
        found = row >= low
        parents = np.zeros(len(ids), dtype=np.int64)
        parents[found] = self.link_parent[row[found]]
        return parents

    def all_parents_of(self, ids: ArrayLike) -> Ids:
        """Every parent that any of the ids ever had, int64, sorted."""
        ids = np.asarray(ids, dtype=np.int64)
        low = np.searchsorted(self.link_node, ids, side="left").astype(np.int64)
        high = np.searchsorted(self.link_node, ids, side="right").astype(np.int64)
        return np.unique(self.link_parent[ragged(low, high - low)])

    def edges_of(self, root: int) -> Ids:
        """Level-2 graph of a root as stored, int64 (n, 2); empty for a root without one."""
        row = int(find(self.edge_root, np.array([root], dtype=np.int64))[0])
        if row < 0:
            return np.empty((0, 2), dtype=np.int64)
        start = int(self.edge_start[row])
        return self.edges[start : start + int(self.edge_count[row])]


def find(sorted_ids: Ids, ids: Ids) -> Ids:
    """Row of each id among sorted ones, -1 where there is none."""
    if len(sorted_ids) == 0:
        return np.full(ids.shape, -1, dtype=np.int64)
    rows = np.searchsorted(sorted_ids, ids)
    rows[rows == len(sorted_ids)] = 0
    return np.where(sorted_ids[rows] == ids, rows, -1)


def _ids(table: pa.Table, name: str) -> Ids:
    return np.asarray(
        table[name].combine_chunks().cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64
    )


def _times(table: pa.Table, name: str, *, missing: int) -> Ids:
    column = table[name].combine_chunks().cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(pc.fill_null(column, missing).to_numpy(zero_copy_only=False), dtype=np.int64)


def _groups(sorted_keys: Ids) -> tuple[Ids, Ids, Ids]:
    keys, starts, counts = np.unique(sorted_keys, return_index=True, return_counts=True)
    return keys, starts.astype(np.int64), counts.astype(np.int64)


def read_state(folder: Path) -> GraphState:
    """Read ``nodes``, ``parents``, ``supervoxels`` and ``l2_edges`` of a ``chunkedgraph`` folder.

    Supervoxels may be left out of ``nodes`` and ``parents`` where ``supervoxels.parquet`` says the same.
    """
    nodes = pq.read_table(folder / "nodes.parquet", columns=["node_id", "created", "superseded", "children"])
    node_ids = _ids(nodes, "node_id")
    order = np.argsort(node_ids, kind="stable")
    lists = nodes["children"].combine_chunks()
    counts = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)
    values = np.asarray(lists.flatten().cast(pa.int64()), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    links = _read_links(folder)
    edges = _read_edges(folder)
    keys, edge_start, edge_count = _groups(edges[:, 0])
    state = GraphState(
        nodes=node_ids[order],
        created=_times(nodes, "created", missing=0)[order],
        superseded=_times(nodes, "superseded", missing=NEVER)[order],
        child_start=starts[order],
        child_count=counts[order],
        children=values,
        link_node=links[0],
        link_parent=links[1],
        link_from=links[2],
        edge_root=keys,
        edge_start=edge_start,
        edge_count=edge_count,
        edges=np.ascontiguousarray(edges[:, 1:]),
    )
    return _with_supervoxels(state)


def _read_links(folder: Path) -> tuple[Ids, Ids, Ids]:
    columns = ["node_id", "parent_id", "valid_from"]
    table = pq.read_table(folder / "parents.parquet", columns=columns)
    links = _sorted(_ids(table, "node_id"), _ids(table, "parent_id"), _times(table, "valid_from", missing=0))
    path = folder / "supervoxels.parquet"
    if path.is_file():
        table = pq.read_table(path, columns=["supervoxel_id", "l2_id", "valid_from"])
        ids = _ids(table, "supervoxel_id")
        new = find(links[0], ids) < 0
        if new.any():
            more = (ids[new], _ids(table, "l2_id")[new], _times(table, "valid_from", missing=0)[new])
            links = _sorted(*(np.concatenate(pair) for pair in zip(links, more, strict=True)))
    return links


def _sorted(node: Ids, parent: Ids, since: Ids) -> tuple[Ids, Ids, Ids]:
    """Order parent history by node, then time; files are mostly in that order already."""
    if ((node[1:] > node[:-1]) | ((node[1:] == node[:-1]) & (since[1:] >= since[:-1]))).all():
        return node, parent, since
    order = np.lexsort((since, node))
    return node[order], parent[order], since[order]


def _read_edges(folder: Path) -> Ids:
    path = folder / "l2_edges.parquet"
    if not path.is_file():
        return np.empty((0, 3), dtype=np.int64)
    table = pq.read_table(path, columns=["root_id", "l2_id_1", "l2_id_2"])
    rows = np.stack([_ids(table, name) for name in ("root_id", "l2_id_1", "l2_id_2")], axis=1)
    return rows[np.argsort(rows[:, 0], kind="stable")]


def _with_supervoxels(state: GraphState) -> GraphState:
    """Add supervoxels that only the parent history knows to the nodes, and to their parents' children."""
    first = np.flatnonzero(np.diff(state.link_node, prepend=-1))
    known = state.link_node[first]
    new = state.find(known) < 0
    if not new.any():
        return state
    since = state.link_from[first[new]]
    ids = known[new]
    nodes = np.concatenate([state.nodes, ids])
    order = np.argsort(nodes, kind="stable")
    zeros = np.zeros(len(ids), dtype=np.int64)
    count = np.concatenate([state.child_count, zeros])[order]
    start = np.concatenate([state.child_start, zeros])[order]
    nodes = nodes[order]
    children = state.children
    linked = np.isin(state.link_node, ids)
    parents, kids = state.link_parent[linked], state.link_node[linked]
    by_parent = np.argsort(parents, kind="stable")
    keys, starts, counts = _groups(parents[by_parent])
    rows = find(nodes, keys)
    childless = (rows >= 0) & (count[rows] == 0)
    start[rows[childless]] = starts[childless] + len(children)
    count[rows[childless]] = counts[childless]
    return replace(
        state,
        nodes=nodes,
        created=np.concatenate([state.created, since])[order],
        superseded=np.concatenate([state.superseded, np.full(len(ids), NEVER)])[order],
        child_start=start,
        child_count=count,
        children=np.concatenate([children, kids[by_parent]]),
    )
