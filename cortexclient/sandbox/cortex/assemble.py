"""From a seed to a data folder, step by step."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cortexclient.sandbox.arrays import Bools, Floats, Ints
from cortexclient.sandbox.cortex.files import (
    TIME,
    Spool,
    in_two_threads,
    write_json,
    write_provenance,
    write_table,
)
from cortexclient.sandbox.cortex.frame import Frame
from cortexclient.sandbox.cortex.graph import MESH_DIR, AppliedEdit, GraphBuilder, write_graph
from cortexclient.sandbox.cortex.history import EPOCH, VERSIONS, History, Supply, plan_history
from cortexclient.sandbox.cortex.images import write_image
from cortexclient.sandbox.cortex.l2attributes import L2Table, l2_table, write_l2cache, write_recipes
from cortexclient.sandbox.cortex.segmentation import Segmentation, grow_cells, segment
from cortexclient.sandbox.cortex.sizes import CHUNK, GENERATOR_VERSION, Size
from cortexclient.sandbox.cortex.supervoxels import Voxels
from cortexclient.sandbox.cortex.synapses import Synapses, find_synapses
from cortexclient.sandbox.cortex.table_files import write_exports, write_info, write_tables
from cortexclient.sandbox.cortex.tables import Nuclei, Rows, all_tables, place_nuclei
from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.stores.graph.state import NEVER, find, to_micros
from cortexclient.sandbox.stores.voxels import VoxelFile, fragment_names, write_voxels


def _cell_ids(segmentation: Segmentation, nuclei: Nuclei) -> Ints:
    """Nucleus id of each cell, 0 for an orphan."""
    ids = np.zeros(len(segmentation.cells), dtype=np.int64)
    known = nuclei.cell >= 0
    ids[nuclei.cell[known]] = nuclei.ids[known]
    return ids


def _write_about(place: Path, size: Size, seed: int, frame: Frame) -> None:
    about = {
        "generator_version": GENERATOR_VERSION,
        "size": size.name,
        "seed": seed,
        "um_to_nm_matrix": list(frame.matrix),
        "um_to_nm_offset": list(frame.offset),
        "table_resolution_nm": list(frame.table_resolution),
    }
    write_json(place / "about.json", about)


def _write_supervoxels(place: Path, segmentation: Segmentation, history: History, cell_ids: Ints) -> None:
    columns = {
        "supervoxel_id": segmentation.ids,
        "piece": history.piece,
        "cell_id": cell_ids[segmentation.unit],
        "compartment": segmentation.compartment.astype(np.int8),
    }
    write_table(place / "supervoxels.parquet", columns)


def _write_cells(place: Path, segmentation: Segmentation, nuclei: Nuclei, cell_ids: Ints) -> None:
    neurons = [cell for cell in segmentation.cells if cell.is_neuron]
    at = np.array([int(np.flatnonzero(nuclei.cell == cell.index)[0]) for cell in neurons])
    soma_um = np.array([cell.soma_um for cell in neurons])
    soma_nm = nuclei.soma_nm[at]
    columns = {
        "cell_id": cell_ids[: len(neurons)],
        "piece": np.arange(len(neurons)),
        "kind": pa.array([cell.kind for cell in neurons], type=pa.string()),
        "cell_type": pa.array([cell.cell_type for cell in neurons], type=pa.string()),
        **{f"soma_{axis}_nm": soma_nm[:, k] for k, axis in enumerate("xyz")},
        **{f"soma_{axis}_um": soma_um[:, k] for k, axis in enumerate("xyz")},
        "soma_radius_um": np.array([cell.soma_radius_um for cell in neurons]),
        "soma_supervoxel_id": segmentation.ids[nuclei.soma_row[at]],
        "point_on_segmentation": nuclei.row[at] >= 0,
    }
    write_table(place / "cells.parquet", columns)


def _write_pieces(place: Path, history: History, piece_roots: list[tuple[int, Ints]], cell_ids: Ints) -> None:
    """Root of every piece over time, one row for each stretch in which it does not change."""
    rows: list[tuple[int, int, int, int]] = []
    for piece in range(len(history.piece_cell)):
        start, root = piece_roots[0][0], int(piece_roots[0][1][piece])
        for when, roots in piece_roots[1:]:
            if int(roots[piece]) != root:
                rows.append((piece, root, start, when))
                start, root = when, int(roots[piece])
        rows.append((piece, root, start, NEVER))
    table: Any = np.array(rows, dtype=np.int64)
    columns = {
        "piece": table[:, 0],
        "cell_id": cell_ids[history.piece_cell[table[:, 0]]],
        "root_id": table[:, 1],
        "valid_from": pa.array(table[:, 2]).cast(TIME),
        "valid_until": pa.array(table[:, 3], mask=table[:, 3] == NEVER).cast(TIME),
    }
    write_table(place / "pieces.parquet", columns)


def _write_synapses(
    place: Path, segmentation: Segmentation, history: History, synapses: Synapses, rows: Rows, cell_ids: Ints
) -> None:
    columns: dict[str, Any] = {"id": rows.ids}
    take = np.searchsorted(synapses.ids, rows.ids)
    for side, row, nm in (
        ("pre", synapses.pre_row[take], synapses.pre_nm[take]),
        ("post", synapses.post_row[take], synapses.post_nm[take]),
    ):
        hit = row >= 0
        columns[f"{side}_cell_id"] = np.where(hit, cell_ids[segmentation.unit[row]], -1)
        columns[f"{side}_piece"] = np.where(hit, history.piece[row], -1)
        columns[f"{side}_supervoxel_id"] = np.where(hit, segmentation.ids[row], 0)
        columns[f"{side}_compartment"] = np.where(hit, segmentation.compartment[row], 0).astype(np.int8)
        columns |= {f"{side}_{axis}_nm": nm[:, k] for k, axis in enumerate("xyz")}
    columns["size"] = synapses.size[take]
    columns["created"] = pa.array(rows.created).cast(TIME)
    columns["deleted"] = pa.array(rows.deleted, mask=rows.deleted == NEVER).cast(TIME)
    write_table(place / "synapses.parquet", columns)


# voxels of the segmentation that the image covers
_IMAGE_EXTENT = {"tiny": (64, 64, 32), "small": (128, 128, 64), "large": (128, 128, 64)}


def write_cortex(folder: Path, size: Size, seed: int, frame: Frame) -> None:
    """Make a cortex and write it into an empty folder, in the layout of ``docs/sandbox-data.md``."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".spool") as place:
        # the voxels of a large cortex do not fit into memory
        spool = Spool(Path(place) if size.name == "large" else None)
        _write(folder, size, seed, segment(grow_cells(seed, size), frame, spool))


def _write(folder: Path, size: Size, seed: int, segmentation: Segmentation) -> None:
    with ThreadPoolExecutor(1, "cortex-image") as pool:
        # the image needs nothing of what follows: a second core draws it
        image = pool.submit(
            write_image, folder / "precomputed" / "img", seed, segmentation, 0, _IMAGE_EXTENT[size.name]
        )
        _write_graph_and_tables(folder, size, seed, segmentation)
        image.result()


def _write_graph_and_tables(folder: Path, size: Size, seed: int, segmentation: Segmentation) -> None:
    history = plan_history(seed, _supply(segmentation))
    builder, applied, roots, piece_roots = _replay(segmentation, history)
    nuclei = place_nuclei(seed, segmentation, size.off_segmentation)
    synapses = find_synapses(seed, segmentation, size.synapse_spacing_voxels)
    tables = all_tables(seed, segmentation, nuclei, synapses, roots)
    level2 = l2_table(segmentation, builder)
    write_info(folder, segmentation.frame.table_resolution)
    write_graph(folder, segmentation, builder, history, applied)
    cached = _cached(builder, level2, nuclei, roots)
    write_l2cache(folder, level2, cached)
    write_exports(folder, write_tables(folder, seed, tables, segmentation, roots))
    somata = _to_skeletonize(builder, level2, cached, nuclei, roots)
    write_recipes(folder / "skeletons", level2, builder.graph.l2_edges, somata)
    truth, cell_ids = folder / "truth", _cell_ids(segmentation, nuclei)
    _write_about(truth, size, seed, segmentation.frame)
    _write_cells(truth, segmentation, nuclei, cell_ids)
    _write_pieces(truth, history, piece_roots, cell_ids)
    _write_supervoxels(truth, segmentation, history, cell_ids)
    _write_synapses(truth, segmentation, history, synapses, tables[0], cell_ids)
    _write_volume(folder, segmentation, builder, level2, history)


def _supply(segmentation: Segmentation) -> Supply:
    contacts = segmentation.contacts
    here = (contacts.unit[:, 0] != contacts.unit[:, 1]) & (
        segmentation.chunk[contacts.row[:, 0]] == segmentation.chunk[contacts.row[:, 1]]
    ).all(axis=1)
    # one number for a pair sorts many times faster than two columns do
    count = len(segmentation.ids)
    pairs = np.unique(contacts.row[here, 0] * count + contacts.row[here, 1])
    return Supply(
        segmentation.cells,
        segmentation.sections,
        segmentation.unit,
        segmentation.section,
        segmentation.chunk,
        segmentation.edges,
        np.column_stack(np.divmod(pairs, count)),
    )


def _replay(
    segmentation: Segmentation, history: History
) -> tuple[GraphBuilder, list[AppliedEdit], dict[int, Ints], list[tuple[int, Ints]]]:
    """Build the first graph and apply all edits.

    Return the builder, the edits, the root of each supervoxel by version (0 for now), and the root of each piece with
    the time (microseconds) from which it holds.
    """
    builder = GraphBuilder(segmentation.scheme, segmentation.ids, segmentation.chunk, history.edges, EPOCH)
    active = history.active.copy()
    builder.build(active)
    _, example = np.unique(history.piece, return_index=True)
    snapshots = [(to_micros(EPOCH), builder.root_of[example].copy())]
    applied: list[AppliedEdit] = []
    roots: dict[int, Ints] = {}
    pending = list(VERSIONS)
    for edit in history.edits:
        while pending and pending[0].time < edit.time:
            roots[pending.pop(0).number] = builder.root_of.copy()
        old = sorted({int(builder.root_of[edit.source]), int(builder.root_of[edit.sink])})
        active[edit.edges] = edit.kind == "merge"
        new = builder.edit(active, old, edit.time, edit.operation)
        applied.append(AppliedEdit(edit, old, new))
        snapshots.append((to_micros(edit.time), builder.root_of[example].copy()))
    for version in pending:
        roots[version.number] = builder.root_of.copy()
    roots[0] = builder.root_of.copy()
    return builder, applied, roots, snapshots


def _soma_of(nuclei: Nuclei, roots: Ints) -> dict[int, Floats]:
    """Root -> centre of the first soma in it."""
    found: dict[int, Floats] = {}
    for row, place in zip(nuclei.soma_row, nuclei.soma_nm, strict=True):
        if row >= 0:
            found.setdefault(int(roots[row]), place)
    return found


def _cached(builder: GraphBuilder, level2: L2Table, nuclei: Nuclei, roots: dict[int, Ints]) -> Bools:
    """Which level-2 ids the cache knows: not those that edits replaced, and not all of two orphans."""
    cached = np.ones(len(level2.ids), dtype=bool)
    gone = [node for node in level2.ids.tolist() if node in builder.graph.superseded]
    cached[level2.rows(np.array(gone[::2], dtype=np.int64))] = False
    orphans = sorted(set(np.unique(roots[0]).tolist()) - set(_soma_of(nuclei, roots[0])))
    for root in orphans[-2:]:
        cached[level2.rows(builder.graph.l2_ids[root][::3])] = False
    return cached


def _to_skeletonize(
    builder: GraphBuilder, level2: L2Table, cached: Bools, nuclei: Nuclei, roots: dict[int, Ints]
) -> dict[int, Floats | None]:
    """Roots that get a skeleton: all of now, and those with a soma in versions; none with ids that are not cached."""
    wanted: dict[int, Floats | None] = {}
    for version in (2, 3):
        wanted |= _soma_of(nuclei, roots[version])
    wanted |= dict.fromkeys(np.unique(roots[0]).tolist()) | _soma_of(nuclei, roots[0])
    ids = builder.graph.l2_ids
    return {root: soma for root, soma in wanted.items() if cached[level2.rows(ids[root])].all()}


def _write_volume(
    folder: Path, segmentation: Segmentation, builder: GraphBuilder, level2: L2Table, history: History
) -> None:
    """Write the voxels, from which chunks and mesh fragments are made when asked for, and the list of fragments."""
    ids, size = segmentation.ids, np.asarray(CHUNK, dtype=np.int64)
    room = int(np.prod(size))

    def numbered(cell: tuple[Voxels, Ints]) -> Ints:
        """One number for supervoxel and place in the chunk, in which x runs fastest."""
        voxels, row = cell
        x, y, z = (segmentation.grid.voxels(voxels.linear) & (size - 1)).T
        number: Ints = row * room + x + size[0] * (y + size[1] * z)
        return number

    numbers = np.concatenate(
        list(in_two_threads(numbered, zip(segmentation.voxels, segmentation.voxel_rows, strict=True)))
    )
    numbers.sort()
    row = numbers // room
    seen = np.concatenate([segmentation.edge_area > 0, history.active[len(segmentation.edges) :]])
    write_voxels(
        folder / "chunkedgraph",
        ids,
        segmentation.unit,
        row,
        (numbers - row * room).astype(np.uint16),
        ids[history.edges[~seen]],
    )
    seg = folder / "precomputed" / "seg"
    write_provenance(seg, "A synthetic cortex, made from a seed.")
    mesh_info = {"@type": "neuroglancer_legacy_mesh", "mip": 0, "chunk_size": list(CHUNK)}
    write_json(seg / MESH_DIR / "info", mesh_info)
    volume = VoxelFile(DataFolder(folder))
    # what fills its chunk may have no surface in it
    full = level2.ids[level2.voxels == room].tolist()
    bare = np.array([l2_id for l2_id in full if volume.fragment(l2_id) is None], dtype=np.int64)
    meshed = level2.ids[~np.isin(level2.ids, bare)]
    names = np.array(fragment_names(volume.layout, size, meshed), dtype=object)
    node, fragment = [meshed], [names]
    for root, l2_ids in sorted(builder.graph.l2_ids.items()):
        at = find(meshed, l2_ids)
        at = at[at >= 0]
        node.append(np.full(len(at), root, dtype=np.int64))
        fragment.append(names[at])
    columns = {"node_id": np.concatenate(node), "fragment": np.concatenate(fragment).astype(str).tolist()}
    write_table(folder / "meshes.parquet", columns)
