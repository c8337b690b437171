"""A little chunkedgraph of blocks, small enough to be checked by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import DracoPy
import numpy as np
import pandas as pd
import pytest

from cortexclient.sandbox.stores.graph.state import IdLayout

START = datetime(2020, 1, 1, tzinfo=UTC)
CHUNK = 24
CHUNKS = (4, 2, 1)
RESOLUTION = np.array([8, 8, 40])
DATASTACK = {
    "aligned_volume": {
        "id": 1,
        "name": "blocks",
        "image_source": "stand-in",
        "display_name": "",
        "description": "",
    },
    "segmentation_source": "graphene://http://stand-in/segmentation/table/blocks",
    "local_server": "http://stand-in",
    "viewer_site": "http://stand-in",
    "viewer_resolution_x": 8.0,
    "viewer_resolution_y": 8.0,
    "viewer_resolution_z": 40.0,
    "skeleton_source": None,
    "analysis_database": None,
    "synapse_table": None,
    "soma_table": None,
    "description": "blocks",
}
INFO = {
    "app": {"supported_api_versions": [0, 1]},
    "data_dir": "stand-in",
    "data_type": "uint64",
    "type": "segmentation",
    "num_channels": 1,
    "chunks_start_at_voxel_offset": True,
    "sharded_mesh": True,
    "verify_mesh": False,
    "mesh": "meshes",
    "mesh_metadata": {"uniform_draco_grid_size": 21.0, "unsharded_mesh_dir": "dynamic"},
    "graph": {
        "chunk_size": [CHUNK] * 3,
        "n_layers": 4,
        "n_bits_for_layer_id": 8,
        "cv_mip": 0,
        "bounding_box": [CHUNK * size for size in CHUNKS],
        "spatial_bit_masks": {"1": 10, "2": 10, "3": 2, "4": 1},
    },
    "scales": [
        {
            "key": "8_8_40",
            "resolution": [8, 8, 40],
            "size": [CHUNK * size for size in CHUNKS],
            "voxel_offset": [0, 0, 0],
            "chunk_sizes": [[CHUNK] * 3],
            "encoding": "raw",
        }
    ],
}


@pytest.fixture(scope="session")
def block_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder: 4 x 2 x 1 chunks, each cut into 4 supervoxels in y and z; 8 objects run along x.

    Neighbours in a chunk touch weakly, neighbours along x strongly. Nothing was edited yet. Every level-2 id has a
    draco mesh fragment (a box) and attributes in the cache.
    """
    folder = tmp_path_factory.mktemp("blocks")
    graph = folder / "chunkedgraph"
    graph.mkdir()
    (graph / "info.json").write_text(json.dumps(INFO))
    (graph / "operations.json").write_text("[]")
    (graph / "users.json").write_text('{"0": {"name": "Ann", "pi": "Bo"}}')
    (folder / "datastack_info.json").write_text(json.dumps(DATASTACK))
    _write(graph, IdLayout.from_info(INFO))
    return folder


def _write(graph: Path, layout: IdLayout) -> None:
    nodes: list[dict[str, object]] = []
    links: list[dict[str, object]] = []

    def node(layer: int, chunk: tuple[int, int, int], segment: int, children: list[int]) -> int:
        made = int(layout.encode(layer, np.array([chunk]), np.array([segment]))[0])
        place = dict(zip(("chunk_x", "chunk_y", "chunk_z"), chunk, strict=True))
        nodes.append({"node_id": made, "layer": layer, **place, "segment_id": segment, "children": children})
        links.extend({"node_id": child, "parent_id": made} for child in children)
        return made

    supervoxels = np.zeros((*CHUNKS, 4), dtype=np.int64)
    l2_edges, edges, cross = [], [], []
    for y in range(CHUNKS[1]):
        for row in range(4):
            l2_ids = []
            for x in range(CHUNKS[0]):
                supervoxels[x, y, 0, row] = node(1, (x, y, 0), row + 1, [])
                l2_ids.append(node(2, (x, y, 0), row + 1, [int(supervoxels[x, y, 0, row])]))
            halves = [
                node(3, (half, 0, 0), 4 * y + row + 1, l2_ids[2 * half : 2 * half + 2]) for half in (0, 1)
            ]
            root = node(4, (0, 0, 0), 4 * y + row + 1, halves)
            l2_edges += [(root, a, b) for a, b in pairwise(l2_ids)]
            for x in range(CHUNKS[0] - 1):
                pair = supervoxels[x : x + 2, y, 0, row].tolist()
                for ends, owner in ((pair, l2_ids[x]), (pair[::-1], l2_ids[x + 1])):
                    edges.append((*ends, 0.9, 16))
                    cross.append((owner, *ends))
    for x, y in np.ndindex(*CHUNKS[:2]):
        own = supervoxels[x, y, 0].tolist()
        edges += [(own[a], own[b], 0.1, 4) for a, b in ((0, 1), (2, 3), (0, 2), (1, 3))]

    frame = pd.DataFrame(nodes).assign(created=START, is_root=lambda table: table["layer"] == 4)
    frame["created"] = frame["created"].astype("datetime64[us, UTC]")
    frame["superseded"] = frame["created"].mask(frame["created"].notna())
    frame.to_parquet(graph / "nodes.parquet")
    history = pd.DataFrame(links).assign(valid_from=frame["created"].iloc[0])
    history["valid_until"] = history["valid_from"].mask(history["valid_from"].notna())
    history.to_parquet(graph / "parents.parquet")
    pd.DataFrame(l2_edges, columns=["root_id", "l2_id_1", "l2_id_2"]).to_parquet(graph / "l2_edges.parquet")
    pd.DataFrame(edges, columns=["supervoxel_1", "supervoxel_2", "affinity", "area"]).to_parquet(
        graph / "edges.parquet"
    )
    pd.DataFrame(cross, columns=["l2_id", "supervoxel_1", "supervoxel_2"]).to_parquet(
        graph / "l2_cross_edges.parquet"
    )
    volume = _volume(supervoxels)
    np.savez(graph / "watershed.npz", watershed=volume)
    _write_pieces(graph.parent, frame, volume)


def _write_pieces(folder: Path, nodes: pd.DataFrame, volume: np.ndarray) -> None:
    """Write meshes, attributes and the volume of the pieces."""
    seg = folder / "precomputed" / "seg"
    (seg / "meshes" / "dynamic").mkdir(parents=True)
    (seg / "8_8_40").mkdir()
    for x, y in np.ndindex(*CHUNKS[:2]):
        name = f"{x * CHUNK}-{(x + 1) * CHUNK}_{y * CHUNK}-{(y + 1) * CHUNK}_0-{CHUNK}"
        chunk = volume[x * CHUNK : (x + 1) * CHUNK, y * CHUNK : (y + 1) * CHUNK]
        (seg / "8_8_40" / name).write_bytes(chunk.astype("<u8").tobytes(order="F"))
    mesh_info = {"@type": "neuroglancer_legacy_mesh", "mip": 0, "chunk_size": [CHUNK] * 3}
    (seg / "meshes" / "info").write_text(json.dumps(mesh_info))
    fragments, attributes = [], []
    for row in nodes[nodes["layer"] == 2].itertuples():
        places = np.argwhere(volume == row.children[0])
        low, high = places.min(axis=0), places.max(axis=0) + 1
        name = f"{row.node_id}:0:" + "_".join(f"{a}-{b}" for a, b in zip(low, high, strict=True))
        (seg / "meshes" / name).write_bytes(_box(low * RESOLUTION, high * RESOLUTION))
        fragments.append((row.node_id, name))
        middle = ((low + high) / 2 * RESOLUTION).tolist()
        size = float(len(places) * RESOLUTION.prod())
        attributes.append((row.node_id, True, middle, size, 1000.0, 32.0, 16.0))
    pd.DataFrame(fragments, columns=["node_id", "fragment"]).to_parquet(folder / "meshes.parquet")
    names = ["l2_id", "in_cache", "rep_coord_nm", "size_nm3", "area_nm2", "max_dt_nm", "mean_dt_nm"]
    pd.DataFrame(attributes, columns=names).to_parquet(folder / "l2cache.parquet")


def _box(low: np.ndarray, high: np.ndarray) -> bytes:
    """Box in nm as a draco mesh of 8 vertices and 12 triangles."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))])
    points = (low + corners * (high - low)).astype(np.float32)
    packed: bytes = DracoPy.encode(points, faces.astype(np.uint32), quantization_bits=14, preserve_order=True)
    return packed


def _volume(supervoxels: np.ndarray) -> np.ndarray:
    """Quarters of each chunk in y and z."""
    half = CHUNK // 2
    volume = np.zeros([size * CHUNK for size in CHUNKS], dtype=np.uint64)
    for x, y in np.ndindex(*CHUNKS[:2]):
        for row in range(4):
            start = y * CHUNK + half * (row % 2)
            depth = half * (row // 2)
            block = (
                slice(x * CHUNK, (x + 1) * CHUNK),
                slice(start, start + half),
                slice(depth, depth + half),
            )
            volume[block] = supervoxels[x, y, 0, row]
    return volume
