"""Writing a recorded cell as a data folder."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cortexclient.sandbox.arrays import Ids, Ints
from cortexclient.sandbox.convert.readers import SIDES, RecordedCell
from cortexclient.sandbox.cortex.files import times, write_json
from cortexclient.sandbox.cortex.graph import Graph, Level, write_nodes
from cortexclient.sandbox.cortex.table_files import datastack_info, stamp
from cortexclient.sandbox.layout import DataFolder, keep_file
from cortexclient.sandbox.stores.graph.state import LAYER_SHIFT, IdLayout
from cortexclient.sandbox.stores.tables.model import annotation_row, segmentation_row
from cortexclient.sandbox.stores.tables.schemas import all_schemas
from cortexclient.sandbox.stores.tables.versions import version_row

# a recording has no history: everything was always there, from the time the real graph gives its first state
BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
AXES = ("x", "y", "z")


def write_graph(cell: RecordedCell, folder: Path, info: dict[str, Any]) -> None:
    """Write the ``chunkedgraph`` part of a folder."""
    layout = IdLayout.from_info(info)
    supervoxels, parents = _supervoxels(cell)
    links = [(supervoxels, parents)]
    level = np.sort(cell.l2.index.to_numpy(np.int64))
    if not (level >> 56 == 2).all():
        raise ValueError(f"some level-2 ids of {cell.root_id} are not of layer 2")
    for layer in range(3, layout.n_layers):
        chunks = layout.chunks(level) >> 1
        # one node for each chunk: what connects inside a chunk was not recorded, only that it is one cell
        above = layout.encode(layer, chunks, 1)
        links.append((level, above))
        level = np.unique(above)
    links.append((level, np.full(len(level), cell.root_id, np.int64)))
    nodes = np.concatenate([part for part, _ in links])
    above = np.concatenate([part for _, part in links])
    out = folder / "chunkedgraph"
    body = {**info, "data_dir": "{BASE}/precomputed/seg", "sharded_mesh": False, "scales": _raw_scales(info)}
    write_json(out / "info.json", body)
    graph = Graph(layout, links=[(nodes, above, BEGINNING)], l2_edges={cell.root_id: cell.l2_edges})
    order = np.lexsort((nodes, above))
    everything = np.unique(np.concatenate([nodes, above]))
    for layer in range(1, layout.n_layers + 1):
        ids = everything[layout.layers(everything) == layer]
        bounds = np.searchsorted(above[order], np.append(ids, np.int64(layer + 1) << LAYER_SHIFT))
        children = nodes[order][bounds[0] : bounds[-1]]
        offsets = bounds - bounds[0]
        graph.levels.append(Level(layer, ids, layout.chunks(ids), offsets, children, BEGINNING))
    write_nodes(out, graph)
    _write_supervoxels(out, layout, supervoxels, parents)
    write_json(out / "operations.json", [])


def _raw_scales(info: dict[str, Any]) -> list[dict[str, Any]]:
    """Scales without the compression of their chunks, of which a recording has none."""
    drop = {"compressed_segmentation_block_size", "locked"}
    return [
        {**{k: v for k, v in scale.items() if k not in drop}, "encoding": "raw"} for scale in info["scales"]
    ]


def _supervoxels(cell: RecordedCell) -> tuple[Ids, Ids]:
    """Supervoxels that synapses name, and what lies above each: a level-2 id of the cell, or the partner's root."""
    rows = cell.synapses
    supervoxels = np.concatenate([rows[f"{side}_pt_supervoxel_id"].to_numpy(np.int64) for side in SIDES])
    above = np.concatenate(
        [
            np.where(
                rows[f"{side}_pt_l2_id"] > 0, rows[f"{side}_pt_l2_id"], rows[f"{side}_pt_root_id"]
            ).astype(np.int64)
            for side in SIDES
        ]
    )
    known = (supervoxels > 0) & (above > 0)
    supervoxels, above = supervoxels[known], above[known]
    # a level-2 id sorts before a root: the cell's own knowledge wins
    order = np.lexsort((above, supervoxels))
    supervoxels, above = supervoxels[order], above[order]
    first = np.diff(supervoxels, prepend=-1) != 0
    clash = ~first & (above != above[np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))])
    if clash.any() and (above[clash] >> 56 == 2).any():
        raise ValueError(f"supervoxel {supervoxels[clash][0]} of {cell.root_id} has two level-2 ids")
    return supervoxels[first], above[first]


def _write_supervoxels(out: Path, layout: IdLayout, supervoxels: Ids, above: Ids) -> None:
    mine = above >> 56 == 2
    supervoxels, above = supervoxels[mine], above[mine]
    chunks = layout.chunks(supervoxels)
    if not np.array_equal(chunks, layout.chunks(above)):
        raise ValueError("some supervoxels lie in another chunk than their level-2 ids")
    count = len(supervoxels)
    unknown = pa.nulls(count, pa.int64())
    columns = {
        "supervoxel_id": supervoxels,
        **{f"chunk_{axis}": chunks[:, i] for i, axis in enumerate(AXES)},
        "segment_id": layout.segments(supervoxels),
        **{f"{end}_{axis}": unknown for end in ("min", "max") for axis in AXES},
        **{f"centroid_{axis}{unit}": pa.nulls(count, pa.float64()) for unit in ("", "_nm") for axis in AXES},
        "voxels": unknown,
        "l2_id": above,
        "valid_from": times(BEGINNING, count),
        "valid_until": pa.nulls(count, pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), out / "supervoxels.parquet")


TABLE = "synapses_pni_2"
VOXEL_NM = (4.0, 4.0, 40.0)
PCG_TABLE = "minnie3_v1"
VERSION = 1
POINTS = ("pre_pt", "post_pt", "ctr_pt")
# positions of MICrONS meshes lie on this grid; it is what makes draco lossless
DRACO_BITS = 15


def write_cell(cell: RecordedCell, destination: Path, info: dict[str, Any]) -> DataFolder:
    """Write a cell into a folder; see :func:`cortexclient.sandbox.convert.convert_cell`."""
    layers = int(info["graph"]["n_layers"])
    if cell.root_id >> 56 != layers:
        raise ValueError(
            f"root {cell.root_id} is of layer {cell.root_id >> 56}, but the info has {layers} layers"
        )
    destination.mkdir(parents=True, exist_ok=True)
    _write_info(cell, destination)
    _write_tables(cell, destination)
    write_graph(cell, destination, info)
    _write_l2cache(cell, destination)
    _write_skeleton(cell, destination)
    if cell.vertices is not None and cell.faces is not None:
        _write_mesh(cell, cell.vertices, cell.faces, destination, info)
    return DataFolder.open(destination)


def _write_info(cell: RecordedCell, folder: Path) -> None:
    volume = {
        "id": 1,
        "name": "minnie65_phase3",
        "display_name": "minnie65_phase3",
        "description": "One recorded cell; there is no image.",
        "image_source": "precomputed://{BASE}/precomputed/img",
    }
    info = datastack_info(
        VOXEL_NM,
        datastack=cell.datastack,
        aligned_volume=volume,
        segmentation_source=f"graphene://{{BASE}}/segmentation/table/{PCG_TABLE}",
        viewer_site="{BASE}/v/sandbox",
        synapse_table=TABLE,
        soma_table=None,
        description=f"Recording of cell {cell.root_id}.",
        proofreading_status_table=None,
        cell_identification_table=None,
    )
    write_json(folder / "datastack_info.json", info)
    far = datetime(2121, 1, 1, tzinfo=UTC)
    version = version_row(VERSION, cell.datastack, VERSION, cell.timestamp, expires=far)
    write_json(folder / "versions.json", {"versions": [version]})


def _voxels(cell: RecordedCell) -> dict[str, NDArray[np.int32]]:
    columns = {}
    for point in POINTS:
        for axis, size in zip(AXES, VOXEL_NM, strict=True):
            name = f"{point}_position_{axis}"
            exact = cell.synapses[name].to_numpy(np.float64) / size
            if not (exact == np.round(exact)).all():
                raise ValueError(f"{name}: some positions of {cell.root_id} are no multiple of {size} nm")
            columns[name] = exact.astype(np.int32)
    return columns


def _write_tables(cell: RecordedCell, folder: Path) -> None:
    rows, voxels = cell.synapses, _voxels(cell)
    count = len(rows)
    order = np.arange(count, dtype=np.int64)
    created = rows["created"].dt.as_unit("us")
    columns: dict[str, Any] = {"id": rows.index.to_numpy(np.int64), "valid": np.ones(count, bool)}
    for point in POINTS:
        columns |= {name: values for name, values in voxels.items() if name.startswith(point)}
        if point != "ctr_pt":
            columns |= {
                f"{point}_{what}": rows[f"{point}_{what}"].to_numpy(np.int64)
                for what in ("supervoxel_id", "root_id")
            }
    columns["size"] = rows["size"].to_numpy(np.float64)
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    pq.write_table(pa.table({**columns, "storage_order": order}), tables / f"{TABLE}.v{VERSION}.parquet")
    live = {
        "id": columns["id"],
        "created": pa.array(created, pa.timestamp("us", "UTC")),
        "deleted": pa.nulls(count, pa.timestamp("us", "UTC")),
        "superceded_id": pa.nulls(count, pa.int64()),
        **{name: values for name, values in columns.items() if name != "id"},
        "has_segmentation_row": np.ones(count, bool),
        "storage_order": order,
        "seg_storage_order": order,
    }
    pq.write_table(pa.table(live), tables / f"{TABLE}.live.parquet")
    first = created.min().to_pydatetime() - timedelta(days=1)
    start, end = stamp(first), stamp(cell.timestamp)
    text = "Synapses of the recorded cell."
    annotation = annotation_row(
        1, TABLE, "synapse", VOXEL_NM, created=start, last_modified=start, description=text
    )
    metadata = {
        "annotation_tables": [annotation],
        "segmentation_tables": [segmentation_row(1, TABLE, "synapse", PCG_TABLE, created=start, updated=end)],
        "frozen": {str(VERSION): {TABLE: count}},
    }
    write_json(tables / "tables.json", metadata)
    schemas = {"used": {"synapse": all_schemas()["synapse"]}, "all names": ["synapse"]}
    write_json(tables / "schemas.json", schemas)


def _write_l2cache(cell: RecordedCell, folder: Path) -> None:
    l2 = cell.l2
    known = l2["pca_val"].notna().to_numpy()
    axes3 = [[f"pca_{row}_{axis}" for axis in AXES] for row in range(3)]
    pca = np.stack([l2[names].to_numpy(np.float64) for names in axes3], axis=1)
    columns = {
        "l2_id": l2.index.to_numpy(np.int64),
        "in_cache": np.ones(len(l2), bool),
        "rep_coord_nm": l2[[f"rep_coord_nm_{axis}" for axis in AXES]].to_numpy(np.float64).tolist(),
        **{name: l2[name].to_numpy(np.int64) for name in ("size_nm3", "area_nm2", "max_dt_nm")},
        "mean_dt_nm": l2["mean_dt_nm"].to_numpy(np.float64),
        "pca": [value if ok else None for value, ok in zip(pca.tolist(), known, strict=True)],
        "pca_val": [
            [float(x) for x in value] if ok else None for value, ok in zip(l2["pca_val"], known, strict=True)
        ],
        "chunk_intersect_count": [
            [[float(x) for x in row] for row in value] for value in l2["chunk_intersect_count"]
        ],
    }
    pq.write_table(pa.table(columns), folder / "l2cache.parquet")


def _write_skeleton(cell: RecordedCell, folder: Path) -> None:
    body = json.dumps({"flatdict": cell.skeleton}).encode()
    keep_file(folder / "skeletons" / f"{cell.root_id}.json.gz", gzip.compress(body, mtime=0))


def _write_mesh(
    cell: RecordedCell, vertices: NDArray[np.float32], faces: Ints, folder: Path, info: dict[str, Any]
) -> None:
    """One draco fragment for the whole cell, in the order of the recording, every float32 kept."""
    import DracoPy

    grid = float(info["mesh_metadata"]["uniform_draco_grid_size"])
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    steps = 2**DRACO_BITS - 1
    if (high - low).max() > grid * steps:
        raise ValueError(f"the mesh of {cell.root_id} is larger than {steps} steps of {grid} nm")
    body = DracoPy.encode(
        vertices,
        faces.astype(np.uint32),
        quantization_bits=DRACO_BITS,
        quantization_range=grid * steps,
        quantization_origin=low.astype(np.float64),
        preserve_order=True,
    )
    back = np.asarray(DracoPy.decode(body).points, np.float32)
    if not np.array_equal(back, vertices):
        raise ValueError(f"the mesh of {cell.root_id} does not lie on the draco grid of {grid} nm")
    resolution = np.array(info["scales"][0]["resolution"], np.float64)
    box = [(int(a), int(b) + 1) for a, b in zip(low // resolution, high // resolution, strict=True)]
    name = f"{cell.root_id}:0:" + "_".join(f"{a}-{b}" for a, b in box)
    meshes = folder / "precomputed" / "seg" / str(info["mesh"])
    meshes.mkdir(parents=True, exist_ok=True)
    (meshes / name).write_bytes(body)
    mesh_info = {"@type": "neuroglancer_legacy_mesh", "mip": 0, "chunk_size": info["graph"]["chunk_size"]}
    write_json(meshes / "info", mesh_info)
    pd.DataFrame({"node_id": np.array([cell.root_id], np.int64), "fragment": [name]}).to_parquet(
        folder / "meshes.parquet", index=False
    )
    if cell.vertex_l2 is None:
        return
    truth = folder / "truth" / "mesh_vertices"
    truth.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(truth / f"{cell.root_id}.npz", l2_id=cell.vertex_l2)
