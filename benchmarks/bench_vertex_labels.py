"""Level-2 ids of mesh vertices, against cortical-tools' VertexAssigner in the same run.

    python benchmarks/bench_vertex_labels.py --peer-python PEER/bin/python [--vertices 250000 1000000] [--real FOLDER]
    python benchmarks/bench_vertex_labels.py --peer-python PEER/bin/python --vertices --seeds 5 [--kinds thin slivers]

Meshes are made with a generator that shares no code with the algorithm (tests/client/synthetic_mesh.py): tubes cut into
chunks, the level-2 id of every vertex known. The peer gets the same arrays through its own class, with a stand-in for
CloudVolume that only knows the info, because its downloads are not what is measured. `--seeds` compares the accuracy on
small meshes of many kinds, some of them mean, one line for each seed. `--real` adds the recorded cell of
`minnie65_cell` (its folder of recordings). Each measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).resolve().parent
# small meshes: how the generator is called, and which part of the level-2 ids has no representative point
KINDS: dict[str, tuple[dict[str, object], float]] = {
    "neurites": ({}, 0),
    "crowded": ({"tubes": 40}, 0),
    "thin": ({"radius": (1.2, 2.0), "tubes": 40}, 0),
    "slivers": ({"radius": (1.0, 1.5), "tubes": 60}, 0),
    "wide": ({"radius": (5.0, 8.5), "tubes": 12}, 0),
    "many ids in a chunk": ({"chunk": 56, "chunks": (2, 2, 2), "tubes": 60}, 0),
    "no draco": ({"draco": 0.0}, 0),
    "coarse draco": ({"draco": 43.0}, 0),
    "uneven voxels": ({"resolution": (30.0, 36.0, 45.0)}, 0),
    "ids without a point": ({"tubes": 30}, 0.1),
}
MEASURE = """
import json, re, sys, time
import numpy as np
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
data = np.load(sys.argv[1])
info = json.loads(open(sys.argv[2]).read())
vertices, faces, ids, points = (np.ascontiguousarray(data[k]) for k in ("vertices", "faces", "ids", "points"))
{setup}
start = peak()
seconds = []
for _ in range({repeats}):
    begin = time.perf_counter()
    labels = run()
    seconds.append(time.perf_counter() - begin)
memory = (peak() - start) / (vertices.nbytes + faces.nbytes)
np.save(sys.argv[3], labels)
print(json.dumps({{"seconds": min(seconds), "memory": memory}}))
"""
OURS = """
from cortexclient.services.vertex_labels import label_vertices
import scipy.spatial
def run():
    return label_vertices(vertices, faces, ids, points, info=info)
"""
PEER = """
import logging, types
import cloudvolume.datasource.graphene.metadata as metadata
from cortical_tools.mesh_vertex import VertexAssigner
logging.disable(logging.CRITICAL)
scale, graph = info["scales"][0], info["graph"]
bits = graph["spatial_bit_masks"]["2"]
class Meta:
    graph_chunk_size = np.array(graph["chunk_size"])
    def voxel_offset(self, mip):
        return np.array(scale["voxel_offset"])
    def get_draco_grid_size(self, level):
        return info["mesh_metadata"].get("uniform_draco_grid_size", 1)
    def decode_chunk_position(self, l2):
        return [(int(l2) >> (56 - bits * (k + 1))) & ((1 << bits) - 1) for k in range(3)]
    def decode_chunk_position_number(self, l2):
        return (int(l2) >> (56 - 3 * bits)) & ((1 << 3 * bits) - 1)
volume = types.SimpleNamespace(meta=Meta(), mip_resolution=lambda mip: np.array(scale["resolution"]))
client = types.SimpleNamespace(
    info=types.SimpleNamespace(segmentation_cloudvolume=lambda: volume),
    chunkedgraph=types.SimpleNamespace(get_root_timestamps=lambda *a, **k: [None]),
)
def run():
    return VertexAssigner(
        1, caveclient=client, vertices=vertices, faces=faces.astype(int), lvl2_ids=ids, lvl2_pts=points, lru_cache=None
    ).compute_mesh_label(max_distance=500, ratio_better=0.5)
"""


def measure(python: str, setup: str, mesh: Path, info: Path, repeats: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "labels.npy"
        code = MEASURE.format(setup=setup, repeats=repeats)
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code, str(mesh), str(info), str(answer)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return {**json.loads(done.stdout.strip().splitlines()[-1]), "labels": np.load(answer)}


def generator() -> ModuleType:
    sys.path.insert(0, str(HERE.parent / "tests" / "client"))
    import synthetic_mesh

    return synthetic_mesh


def compare(kind: str, seed: int, programs: dict[str, tuple[str, str, int]], folder: Path) -> bool:
    """Measure both on one small mesh and print a line; False if ours is less accurate."""
    options, without = KINDS[kind]
    truth = generator().make_truth(seed, **options)
    blank = np.random.default_rng(seed).random(len(truth.l2_ids)) < without
    points = np.where(blank[:, None], np.nan, truth.l2_points)
    mesh, info = folder / "small.npz", folder / "small.json"
    np.savez(
        mesh, vertices=truth.vertices, faces=truth.faces.astype(np.uint32), ids=truth.l2_ids, points=points
    )
    info.write_text(json.dumps(truth.info))
    right, seconds, parts = {}, {}, []
    for label, (python, setup, repeats) in programs.items():
        if label == "peer" and without:
            continue  # one id without a point ends its run
        found = measure(python, setup, mesh, info, repeats)
        right[label] = float((found["labels"] == truth.owner)[truth.inside].mean())
        seconds[label] = found["seconds"]
        lost = len(np.setdiff1d(truth.meshed, found["labels"]))
        parts.append(f"{label} {right[label]:.5f} ({lost} ids lost) {found['seconds']:7.3f} s")
    if "peer" in seconds:
        parts.append(f"{seconds['peer'] / seconds['ours']:.0f}x")
    print(f"  {kind:20s} seed {seed}  {len(truth.vertices):7,} vertices   {'   '.join(parts)}", flush=True)
    return right["ours"] >= right.get("peer", 0.0)


def synthetic(count: int, seed: int, folder: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """A mesh of about this many vertices: copies of a generated block, side by side."""
    synthetic_mesh = generator()
    parts: list[tuple[np.ndarray, ...]] = []
    total = 0
    while total < count:
        block = synthetic_mesh.make_truth(
            seed * 1000 + len(parts), chunks=(4, 4, 4), first=(4 + 5 * len(parts), 9, 2), tubes=16
        )
        parts.append(
            (block.vertices, block.faces + total, block.owner, block.inside, block.l2_ids, block.l2_points)
        )
        total += len(block.vertices)
        info = block.info
    vertices, faces, owner, inside, ids, points = (
        np.concatenate(group) for group in zip(*parts, strict=True)
    )
    mesh = folder / f"mesh{count}.npz"
    np.savez(mesh, vertices=vertices, faces=faces.astype(np.uint32), ids=ids, points=points)
    path = folder / "info.json"
    path.write_text(json.dumps(info))
    return mesh, path, owner, inside


def real_cell(recordings: Path, folder: Path) -> tuple[Path, Path, np.ndarray]:
    import pandas as pd

    with tarfile.open(recordings / "minnie65_cell" / "test_cell_with_mesh.osy") as archive:
        archive.extractall(folder, filter="data")
    graph = pd.read_feather(folder / "layers/graph/nodes.feather")
    np.savez(
        folder / "real.npz",
        vertices=pd.read_feather(folder / "layers/mesh/nodes.feather").to_numpy(),
        faces=np.load(folder / "layers/mesh/faces.npz")["data"].astype(np.uint32),
        ids=graph.index.to_numpy(),
        points=graph[[f"rep_coord_nm_{axis}" for axis in "xyz"]].to_numpy(),
    )
    recorded = (
        pd.read_feather(folder / "linkage/graph/mesh/linkage.feather").sort_values("mesh")["graph"].to_numpy()
    )
    return folder / "real.npz", recordings / "minnie65_pcg" / "info.json", recorded


def report(name: str, result: dict[str, object], text: str) -> None:
    print(f"  {name:6s} {result['seconds']:8.3f} s   memory {result['memory']:5.1f} x the mesh   {text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python")
    parser.add_argument("--vertices", type=int, nargs="*", default=[250_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=0, help="small meshes of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--real", type=Path)
    options = parser.parse_args()
    programs = {"ours": (sys.executable, OURS, 3)}
    if options.peer_python:
        programs["peer"] = (options.peer_python, PEER, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in options.vertices:
            mesh, info, owner, inside = synthetic(count, options.seed, folder)
            print(f"{len(owner):,} vertices, {len(np.unique(owner)):,} level-2 ids")
            results = {}
            for label, (python, setup, repeats) in programs.items():
                found = results[label] = measure(python, setup, mesh, info, repeats)
                right = (found["labels"] == owner)[inside].mean()
                lost = len(np.setdiff1d(owner, found["labels"]))
                report(label, found, f"interior accuracy {right:.4f}, {lost} meshed ids without a vertex")
            if "peer" in results:
                print(f"  ratio  {results['peer']['seconds'] / results['ours']['seconds']:.0f}x")
        if options.seeds:
            print("interior accuracy on small meshes")
            jobs = [(kind, seed) for kind in options.kinds for seed in range(options.seeds)]
            better = [compare(kind, seed, programs, folder) for kind, seed in jobs]
            print(f"  ours is less accurate than the peer on {len(better) - sum(better)} of {len(better)}")
        if options.real:
            mesh, info, recorded = real_cell(options.real, folder)
            print(f"the recorded cell: {len(recorded):,} vertices")
            found = measure(sys.executable, OURS, mesh, info, 3)
            report(
                "ours", found, f"agrees with the recorded map on {(found['labels'] == recorded).mean():.4f}"
            )


if __name__ == "__main__":
    main()
