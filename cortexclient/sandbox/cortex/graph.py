"""The ``chunkedgraph`` folder: nodes, parents, supervoxels, level-2 graphs, lineage, edits and edges."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cortexclient.sandbox.arrays import Bools, Ints
from cortexclient.sandbox.cortex.files import TIME, times, write_json, write_table
from cortexclient.sandbox.cortex.history import History, PlannedEdit
from cortexclient.sandbox.cortex.segmentation import Segmentation
from cortexclient.sandbox.cortex.sizes import CHUNK, DRACO_GRID_NM, SEGMENTATION_NM
from cortexclient.sandbox.stores.graph.state import IdLayout

# segment numbers of roots: spread out, so that ids of different roots differ in more than the last digit
_ROOT_STRIDE = 37


@dataclass
class Level:
    """Nodes of one layer made at one time."""

    layer: int
    ids: Ints  # (n,)
    chunk: Ints  # (n, 3)
    offsets: Ints
    children: Ints  # (k,): none for supervoxels
    created: datetime


@dataclass
class Graph:
    """Everything that ever was in the graph."""

    scheme: IdLayout
    levels: list[Level] = field(default_factory=list)  # in order of creation; the first is the supervoxels
    # (node ids, parent ids, valid from) of every batch of parent links
    links: list[tuple[Ints, Ints, datetime]] = field(default_factory=list)
    closed: list[tuple[Ints, datetime]] = field(default_factory=list)  # (node ids, time) of links that ended
    superseded: dict[int, datetime] = field(default_factory=dict)  # when a node left the graph
    # (n, 2): level-2 graph of every root that ever existed
    l2_edges: dict[int, Ints] = field(default_factory=dict)
    l2_ids: dict[int, Ints] = field(default_factory=dict)  # (n,): level-2 ids of every root that ever existed
    # (rows of supervoxels, level-2 ids, valid from), in order of time
    l2_of_supervoxel: list[tuple[Ints, Ints, datetime]] = field(default_factory=list)
    # (old root, new root, time, operation id)
    lineage: list[tuple[int, int, datetime, int]] = field(default_factory=list)


class GraphBuilder:
    """Builds a `Graph`: all of it at first, then edit by edit.

    ``edges`` (e, 2) are rows of supervoxels: all edges that will ever be active.
    """

    def __init__(
        self, scheme: IdLayout, supervoxels: Ints, chunk: Ints, edges: Ints, start: datetime
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
        """Rebuild the objects that an edit touches, from the edges that are active after it.

        Return the new roots, in ascending order, of those that it replaces.
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
        for layer in range(2, self.graph.scheme.n_layers + 1):
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
            self._next_segment[cell] = number + (_ROOT_STRIDE if layer == self.graph.scheme.n_layers else 1)
        ids[new] = self.graph.scheme.encode(layer, chunk[new], segment)
        parts = [children[offsets[i] : offsets[i + 1]] for i in new]
        lengths = np.array([len(part) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self.graph.levels.append(Level(layer, ids[new], chunk[new], starts, np.concatenate(parts), when))
        for node, part in zip(ids[new].tolist(), parts, strict=True):
            self._children_of[node] = part
        return ids

    def _relink(self, nodes: Ints, parents: Ints, when: datetime) -> None:
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


MESH_DIR = "meshes"
SCALE_KEY = "_".join(str(v) for v in SEGMENTATION_NM)


class AppliedEdit:
    """An edit and the roots that it replaced and made."""

    def __init__(self, edit: PlannedEdit, old: list[int], new: list[int]) -> None:
        self.edit = edit
        self.old = old
        self.new = new


def graphene_info(segmentation: Segmentation) -> dict[str, Any]:
    """The graphene info of the segmentation."""
    grid, scheme = segmentation.grid, segmentation.scheme
    shape = [int(v) for v in grid.shape]
    bits = {str(layer): int(scheme.bits[layer]) for layer in range(1, scheme.n_layers + 1)}
    return {
        "app": {"supported_api_versions": [0, 1]},
        "chunks_start_at_voxel_offset": True,
        "data_dir": "{BASE}/precomputed/seg",
        "data_type": "uint64",
        "graph": {
            "bounding_box": shape,
            "chunk_size": list(CHUNK),
            "cv_mip": 0,
            "n_bits_for_layer_id": 8,
            "n_layers": scheme.n_layers,
            "spatial_bit_masks": bits,
        },
        "mesh": MESH_DIR,
        "mesh_metadata": {"uniform_draco_grid_size": DRACO_GRID_NM, "unsharded_mesh_dir": "dynamic"},
        "num_channels": 1,
        "scales": [
            {
                "chunk_sizes": [list(CHUNK)],
                "encoding": "raw",
                "key": SCALE_KEY,
                "resolution": list(SEGMENTATION_NM),
                "size": shape,
                "voxel_offset": [int(v) for v in grid.offset],
            }
        ],
        "sharded_mesh": False,
        "type": "segmentation",
        "verify_mesh": False,
    }


def write_graph(
    folder: Path,
    segmentation: Segmentation,
    builder: GraphBuilder,
    history: History,
    applied: list[AppliedEdit],
) -> None:
    """Write all files of the ``chunkedgraph`` folder."""
    place = folder / "chunkedgraph"
    write_json(place / "info.json", graphene_info(segmentation))
    write_nodes(place, builder.graph)
    _write_supervoxels(place, segmentation, builder)
    write_json(place / "operations.json", [_record(segmentation, history, item) for item in applied])
    write_json(place / "users.json", {"0": {"name": "A proofreader", "pi": "Sandbox"}})
    _write_edges(place, segmentation, history)
    _write_cross_edges(place, segmentation, history, builder)


def write_nodes(place: Path, graph: Graph) -> None:
    """Write which nodes there ever were, their parents, and the level-2 graphs and lineage of roots."""
    ids = np.concatenate([level.ids for level in graph.levels])
    chunk = np.concatenate([level.chunk for level in graph.levels])
    layer = np.concatenate([np.full(len(level.ids), level.layer, dtype=np.int8) for level in graph.levels])
    lengths = np.concatenate([np.diff(level.offsets) for level in graph.levels])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    children = np.concatenate([level.children for level in graph.levels])
    created = pa.concat_arrays([times(level.created, len(level.ids)) for level in graph.levels])
    order = np.argsort(ids)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(children))
    columns = {
        "node_id": ids[order],
        "layer": layer[order],
        **{f"chunk_{axis}": chunk[order, k].astype(np.int32) for k, axis in enumerate("xyz")},
        "segment_id": graph.scheme.segments(ids)[order],
        "created": created.take(pa.array(order)),
        "superseded": times([graph.superseded.get(node) for node in ids[order].tolist()]),
        "is_root": layer[order] == graph.scheme.n_layers,
        "children": lists.take(pa.array(order)),
    }
    write_table(place / "nodes.parquet", columns)
    node = np.concatenate([nodes for nodes, _, _ in graph.links])
    parent = np.concatenate([parents for _, parents, _ in graph.links])
    start = pa.concat_arrays([times(when, len(nodes)) for nodes, _, when in graph.links])
    order, until = _intervals(node, start)
    links = {
        "node_id": node[order],
        "parent_id": parent[order],
        "valid_from": start.take(pa.array(order)),
        "valid_until": until,
    }
    write_table(place / "parents.parquet", links)
    roots = sorted(graph.l2_edges)
    pairs = np.concatenate([graph.l2_edges[root] for root in roots])
    counts = [len(graph.l2_edges[root]) for root in roots]
    edges = {
        "root_id": np.repeat(np.array(roots, dtype=np.int64), counts),
        "l2_id_1": pairs[:, 0],
        "l2_id_2": pairs[:, 1],
    }
    write_table(place / "l2_edges.parquet", edges)
    lineage = {
        "parent_root": np.array([old for old, _, _, _ in graph.lineage], dtype=np.int64),
        "child_root": np.array([new for _, new, _, _ in graph.lineage], dtype=np.int64),
        "time": times([when for _, _, when, _ in graph.lineage]),
        "operation_id": np.array([number for _, _, _, number in graph.lineage], dtype=np.int64),
    }
    write_table(place / "lineage.parquet", lineage)


def _intervals(node: Ints, start: pa.Array) -> tuple[Ints, pa.Array]:
    """Order rows by node and time; each ends where the next of the same node begins."""
    micros = start.cast(pa.int64()).to_numpy()
    order = np.lexsort((micros, node))
    node, micros = node[order], micros[order]
    last = np.ones(len(node), dtype=bool)
    last[:-1] = node[1:] != node[:-1]
    until = np.concatenate([micros[1:], [0]])
    return order, pa.array(until, mask=last).cast(TIME)


def _write_supervoxels(place: Path, segmentation: Segmentation, builder: GraphBuilder) -> None:
    batches = builder.graph.l2_of_supervoxel
    row = np.concatenate([rows for rows, _, _ in batches])
    l2 = np.concatenate([ids for _, ids, _ in batches])
    start = pa.concat_arrays([times(when, len(rows)) for rows, _, when in batches])
    order, until = _intervals(row, start)
    row, l2 = row[order], l2[order]
    offset = segmentation.grid.offset
    nm = np.asarray(SEGMENTATION_NM, dtype=np.float64)
    centroid = segmentation.measures.total / segmentation.measures.voxels[:, None] + offset
    columns: dict[str, Any] = {"supervoxel_id": segmentation.ids[row]}
    columns |= {f"chunk_{axis}": segmentation.chunk[row, k] for k, axis in enumerate("xyz")}
    columns["segment_id"] = segmentation.scheme.segments(segmentation.ids)[row]
    columns |= {f"min_{axis}": (segmentation.low + offset)[row, k] for k, axis in enumerate("xyz")}
    columns |= {f"max_{axis}": (segmentation.high + offset)[row, k] for k, axis in enumerate("xyz")}
    columns |= {f"centroid_{axis}": centroid[row, k] for k, axis in enumerate("xyz")}
    columns |= {f"centroid_{axis}_nm": centroid[row, k] * nm[k] for k, axis in enumerate("xyz")}
    columns["voxels"] = segmentation.measures.voxels[row]
    columns |= {"l2_id": l2, "valid_from": start.take(pa.array(order)), "valid_until": until}
    write_table(place / "supervoxels.parquet", columns)


def _text(when: datetime) -> str:
    return when.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "000+00:00")


def _record(segmentation: Segmentation, history: History, item: AppliedEdit) -> dict[str, Any]:
    """One edit as ``operations.json`` stores it."""
    edit = item.edit

    def coordinates(row: int) -> list[list[int]]:
        voxel = segmentation.grid.voxels(segmentation.middle[[row]])[0] + segmentation.grid.offset
        return [[int(v) for v in voxel]]

    pairs = [[int(a), int(b)] for a, b in segmentation.ids[history.edges[edit.edges]]]
    merge = edit.kind == "merge"
    return {
        "operation_id": edit.operation,
        "kind": edit.kind,
        "time": _text(edit.time),
        "finished": (edit.time + timedelta(milliseconds=281)).isoformat(timespec="microseconds"),
        "status_code": 0,
        "user": "0",
        "old_roots": item.old,
        "new_roots": item.new,
        "source_coords_voxel": coordinates(edit.source),
        "sink_coords_voxel": coordinates(edit.sink),
        "source_supervoxels": None if merge else [int(segmentation.ids[edit.source])],
        "sink_supervoxels": None if merge else [int(segmentation.ids[edit.sink])],
        "added_edges": pairs if merge else None,
        "removed_edges": None if merge else pairs,
        "bounding_box_offset_voxel": None if merge else [240, 240, 24],
    }


def _write_edges(place: Path, segmentation: Segmentation, history: History) -> None:
    """Edges between supervoxels that touch: within cells strong, between cells weak."""
    ends = history.edges
    within = len(segmentation.edges)
    area = np.ones(len(ends), dtype=np.int64)
    area[:within] = segmentation.edge_area
    # an edge that only an edit adds was never seen by the segmentation
    seen = np.ones(len(ends), dtype=bool)
    seen[within:] = history.active[within:]
    seen[:within] = segmentation.edge_area > 0
    near = (segmentation.chunk[ends[:, 0]] == segmentation.chunk[ends[:, 1]]).all(axis=1)
    same = segmentation.section[ends[:, 0]] == segmentation.section[ends[:, 1]]
    kind = np.where(near, "in", np.where(same, "cross", "between"))
    affinity = np.where(same & ~near, np.inf, np.clip(0.5 + 0.05 * area, 0.5, 0.99))
    affinity[within:] = 0.3
    affinity[~history.active] = 0.05
    rows = np.flatnonzero(seen)
    columns = {
        **{f"chunk_{axis}": segmentation.chunk[ends[rows, 0], k] for k, axis in enumerate("xyz")},
        "kind": pa.array(kind[rows].tolist(), type=pa.string()),
        "supervoxel_1": segmentation.ids[ends[rows, 0]],
        "supervoxel_2": segmentation.ids[ends[rows, 1]],
        "affinity": affinity[rows],
        "area": area[rows],
    }
    write_table(place / "edges.parquet", columns)


def _write_cross_edges(
    place: Path, segmentation: Segmentation, history: History, builder: GraphBuilder
) -> None:
    """Edges that leave each level-2 node that ever existed, from both sides."""
    ends = history.edges
    height = (segmentation.chunk[ends[:, 0]] ^ segmentation.chunk[ends[:, 1]]).max(axis=1)
    across = np.flatnonzero(height > 0)
    layer = 1 + np.ceil(np.log2(height[across] + 1.0)).astype(np.int64)
    both = np.concatenate([ends[across], ends[across][:, ::-1]])
    layers = np.concatenate([layer, layer])
    order = np.argsort(both[:, 0], kind="stable")
    both, layers = both[order], layers[order]
    parts: list[tuple[Ints, Ints, Ints, pa.Array]] = []
    for rows, l2, when in builder.graph.l2_of_supervoxel:
        low = np.searchsorted(both[:, 0], rows, side="left")
        count = np.searchsorted(both[:, 0], rows, side="right") - low
        at = np.repeat(low - np.cumsum(count) + count, count) + np.arange(count.sum())
        parts.append((np.repeat(l2, count), layers[at], segmentation.ids[both[at]], times(when, len(at))))
    l2 = np.concatenate([part[0] for part in parts])
    pairs = np.concatenate([part[2] for part in parts])
    order = np.lexsort((pairs[:, 1], pairs[:, 0], l2))
    columns = {
        "l2_id": l2[order],
        "layer": np.concatenate([part[1] for part in parts])[order].astype(np.int8),
        "supervoxel_1": pairs[order, 0],
        "supervoxel_2": pairs[order, 1],
        "valid_from": pa.concat_arrays([part[3] for part in parts]).take(pa.array(order)),
    }
    write_table(place / "l2_cross_edges.parquet", columns)
