"""A small neuron whose level-2 id is known at every vertex, made without any of the code under test.

Tubes are drawn into a voxel volume and cut into chunks; what hangs together within a chunk is a level-2 object. Each
object is meshed by itself with one voxel of overlap upward, as PyChunkedGraph's mesher does, so that neighbouring
fragments share the vertices on the chunk face; vertices are rounded to the draco grid, and the shared ones merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from skimage import measure


@dataclass
class Truth:
    vertices: np.ndarray
    faces: np.ndarray
    owner: np.ndarray  # level-2 id of each vertex; of a shared one the upper chunk's
    shared: np.ndarray  # merged from two fragments, so both are right
    l2_ids: np.ndarray
    l2_points: np.ndarray
    meshed: np.ndarray  # level-2 ids with a fragment
    info: dict[str, Any]

    @property
    def inside(self) -> np.ndarray:
        return ~self.shared


def make_info(*, chunk: int, resolution: tuple[float, ...], offset: tuple[int, ...]) -> dict[str, Any]:
    return {
        "chunks_start_at_voxel_offset": True,
        "graph": {
            "chunk_size": [chunk] * 3,
            "n_layers": 6,
            "n_bits_for_layer_id": 8,
            "cv_mip": 0,
            "spatial_bit_masks": {"1": 10, "2": 10, "3": 9, "4": 8, "5": 7, "6": 6},
        },
        "mesh_metadata": {"uniform_draco_grid_size": 21},
        "scales": [{"resolution": list(resolution), "voxel_offset": list(offset), "size": [4096] * 3}],
    }


def l2_id(position: tuple[int, ...], segment: int) -> int:
    x, y, z = position
    return (2 << 56) | (x << 46) | (y << 36) | (z << 26) | segment


def draw_tubes(
    rng: np.random.Generator, shape: tuple[int, ...], *, tubes: int, radius: tuple[float, float]
) -> np.ndarray:
    volume = np.zeros(shape, dtype=bool)
    grid = np.stack(np.meshgrid(*(np.arange(-9, 10),) * 3, indexing="ij"), axis=-1)
    far = (grid**2).sum(axis=-1)
    for _ in range(tubes):
        at = rng.uniform(0.1, 0.9, 3) * shape
        way = rng.normal(size=3)
        thick = rng.uniform(*radius)
        for _ in range(int(max(shape) * 1.2)):
            way = way / np.linalg.norm(way) + rng.normal(scale=0.18, size=3)
            at = at + way / np.linalg.norm(way)
            thick = np.clip(thick + rng.normal(scale=0.15), *radius)
            if ((at < 1) | (at >= np.array(shape) - 1)).any():
                break
            ball = grid[far <= thick**2] + at.round().astype(int)
            ball = ball[((ball >= 0) & (ball < shape)).all(axis=1)]
            volume[tuple(ball.T)] = True
    return volume


def make_truth(
    seed: int = 0,
    *,
    chunks: tuple[int, int, int] = (3, 3, 3),
    chunk: int = 28,
    resolution: tuple[float, float, float] = (36.0, 36.0, 40.0),
    offset: tuple[int, int, int] = (11, 7, 5),
    first: tuple[int, int, int] = (4, 9, 2),
    tubes: int = 14,
    radius: tuple[float, float] = (1.6, 4.5),
    draco: float = 21.0,
) -> Truth:
    rng = np.random.default_rng(seed)
    shape = tuple(n * chunk for n in chunks)
    volume = draw_tubes(rng, shape, tubes=tubes, radius=radius)
    scale = np.array(resolution)
    info = make_info(chunk=chunk, resolution=resolution, offset=offset)
    info["mesh_metadata"] = {"uniform_draco_grid_size": draco} if draco else {}
    base = (np.array(offset) + np.array(first) * chunk) * scale
    fragments, ids, points = [], [], []
    for position in np.ndindex(*chunks):
        low = np.array(position) * chunk
        inner = volume[tuple(slice(a, a + chunk) for a in low)]
        objects, count = ndimage.label(inner, np.ones((3, 3, 3)))
        if not count:
            continue
        crop = volume[tuple(slice(a, a + chunk + 1) for a in low)]
        owner = _with_overlap(crop, objects)
        for number in range(1, count + 1):
            name = l2_id(tuple(np.array(first) + position), number * 7 + int(rng.integers(5)))
            ids.append(name)
            points.append(_deepest(objects == number) * scale + base + low * scale)
            fragments.append((name, *_mesh(owner == number, low, shape, scale, base, draco)))
    return _join(fragments, np.array(ids), np.array(points), base, scale * chunk, draco, info)


def _with_overlap(crop: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Give the voxels of the overlap to the object that they touch."""
    owner = np.zeros(crop.shape, dtype=int)
    owner[tuple(slice(0, n) for n in objects.shape)] = objects
    joined, _ = ndimage.label(crop, np.ones((3, 3, 3)))
    _, (i, j, k) = ndimage.distance_transform_edt(owner == 0, return_indices=True)
    nearest = owner[i, j, k]
    present = np.unique(joined[owner > 0])
    return np.where(crop & np.isin(joined, present), nearest, 0)


def _deepest(mask: np.ndarray) -> np.ndarray:
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    return np.array(np.unravel_index(depth.argmax(), mask.shape), dtype=float)


def _mesh(
    mask: np.ndarray,
    low: np.ndarray,
    shape: tuple[int, ...],
    scale: np.ndarray,
    base: np.ndarray,
    draco: float,
) -> tuple[np.ndarray, np.ndarray]:
    # triangles look outward, as those of real meshes; closed only where the volume ends: at chunk faces a
    # fragment stays open
    pad = [(int(a == 0), int(a + n >= end)) for a, n, end in zip(low, mask.shape, shape, strict=True)]
    padded = np.pad(mask, pad).astype(np.float32)
    if not 0 < padded.mean() < 1 or min(padded.shape) < 2:
        return np.empty((0, 3)), np.empty((0, 3), dtype=int)
    found, faces, _, _ = measure.marching_cubes(padded, 0.5, gradient_direction="ascent")
    vertices = (found - [p[0] for p in pad] + low) * scale + base
    if draco:
        vertices = np.floor(vertices / draco + 0.5) * draco
    return vertices, faces


def _join(
    fragments: list[Any],
    ids: np.ndarray,
    points: np.ndarray,
    base: np.ndarray,
    size: np.ndarray,
    draco: float,
    info: Any,
) -> Truth:
    vertices = np.concatenate([f[1] for f in fragments])
    owner = np.concatenate([np.full(len(f[1]), f[0]) for f in fragments])
    starts = np.cumsum([0] + [len(f[1]) for f in fragments])
    faces = np.concatenate([f[2] + s for f, s in zip(fragments, starts[:-1], strict=True)])
    planes = base + np.round((vertices - base) / size) * size
    if draco:
        planes = np.floor(planes / draco + 0.5) * draco
    on_face = (np.abs(vertices - planes) < 1e-6).any(axis=1)
    place, inverse, counts = np.unique(vertices, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    merge = on_face & (counts[inverse] == 2)
    # the first of two copies stands for both
    number = np.arange(len(vertices))
    first = np.full(len(place), len(vertices))
    np.minimum.at(first, inverse[merge], number[merge])
    target = np.where(merge, first[inverse], number)
    upper = owner.copy()
    np.maximum.at(upper, target, owner)
    kept, new = np.unique(target, return_inverse=True)
    return Truth(
        vertices[kept].astype(np.float32),
        new.reshape(-1)[faces].astype(np.uint32),
        upper[kept],
        merge[kept],
        ids,
        points,
        np.unique(owner),
        info,
    )
