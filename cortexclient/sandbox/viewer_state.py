"""Neuroglancer states of a sandbox's neurons: image, segmentation, mesh and synapses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.sandbox.world import World

__all__ = ["example_roots", "neuron_state"]

MAX_SYNAPSES = 2000
MAX_EXAMPLES = 50
# how wide a voxel of the segmentation is drawn
PIXELS_PER_VOXEL = 8
SIDES = {"pre": "#33c1ff", "post": "#ff5533"}


def example_roots(world: World, count: int = 5) -> list[int]:
    """Find some neurons worth looking at: current roots of the soma table, or simply current roots."""
    if not world.graph.available:
        return []
    roots = world.graph.alive()
    rows = _live(world, world.folder.info.get("soma_table"))
    if rows is not None and "pt_supervoxel_id" in rows:
        supervoxels = rows["pt_supervoxel_id"].fillna(0).to_numpy(np.int64)
        somas = world.graph.roots(supervoxels[supervoxels > 0])
        roots = somas[somas > 0] if (somas > 0).any() else roots
    found = list(dict.fromkeys(roots.tolist()))[:MAX_EXAMPLES]
    # those that the image shows come first
    return sorted(found, key=lambda root: not _imaged(world, _points(world, root)).any())[:count]


def neuron_state(world: World, root: int) -> dict[str, Any]:
    """State that shows one neuron.

    Parameters
    ----------
    world : World
    root : int
        Root id.

    Returns
    -------
    dict
        A Neuroglancer state; ids are strings, positions are voxels of the viewer's resolution.
    """
    info = world.folder.info
    resolution = np.array([float(info[f"viewer_resolution_{axis}"]) for axis in ("x", "y", "z")])
    synapses = _synapses(world, root, resolution)
    position, extent = _frame(world, root, resolution, [place for _, _, place in synapses])
    layers: list[dict[str, Any]] = []
    if world.folder.file("precomputed", "img", "info").is_file():
        layers.append({"type": "image", "name": "image", "source": world.image_source})
    layers.append(
        {
            "type": "segmentation",
            "name": "segmentation",
            "source": world.segmentation_source,
            "segments": [str(root)],
            "segmentColors": {str(root): "#ffd24a"},
        }
    )
    layers += [
        _annotations(side, synapses, resolution) for side in SIDES if any(s == side for s, _, _ in synapses)
    ]
    return {
        "dimensions": {axis: [float(size) * 1e-9, "m"] for axis, size in zip("xyz", resolution, strict=True)},
        "position": position,
        "crossSectionScale": _voxel(world) / PIXELS_PER_VOXEL / float(resolution[0]),
        "projectionScale": extent,
        "layout": "xy-3d",
        "showSlices": False,
        "showDefaultAnnotations": False,
        "layers": layers,
        "selectedLayer": {"layer": "segmentation", "visible": False},
    }


def _annotations(
    side: str, synapses: list[tuple[str, int, list[float]]], resolution: NDArray[np.float64]
) -> dict[str, Any]:
    dimensions = {axis: [float(size) * 1e-9, "m"] for axis, size in zip("xyz", resolution, strict=True)}
    return {
        "type": "annotation",
        "name": f"{side}synaptic sites",
        "source": {"url": "local://annotations", "transform": {"outputDimensions": dimensions}},
        "annotationColor": SIDES[side],
        "shader": "void main() { setColor(defaultColor()); setPointMarkerSize(8.0); }",
        "annotations": [
            {"type": "point", "id": str(number), "point": position}
            for which, number, position in synapses
            if which == side
        ],
    }


def _live(world: World, table: str | None) -> pd.DataFrame | None:
    path = world.folder.file("tables", f"{table}.live.parquet")
    if not table or not path.is_file():
        return None
    rows = pd.read_parquet(path)
    return rows[rows["deleted"].isna()]


def _synapses(world: World, root: int, resolution: NDArray[np.float64]) -> list[tuple[str, int, list[float]]]:
    table = world.folder.info.get("synapse_table")
    rows = _live(world, table)
    if rows is None or "ctr_pt_position_x" not in rows:
        return []
    mine = np.sort(np.asarray(world.graph.supervoxels(root), np.int64))
    stored = next(row for row in world.folder.tables["annotation_tables"] if row["table_name"] == table)
    scale = np.array([float(stored[f"voxel_resolution_{axis}"]) for axis in ("x", "y", "z")]) / resolution
    found: list[tuple[str, int, list[float]]] = []
    for side in SIDES:
        part = rows[np.isin(rows[f"{side}_pt_supervoxel_id"].fillna(0).to_numpy(np.int64), mine)].head(
            MAX_SYNAPSES
        )
        places = part[[f"ctr_pt_position_{axis}" for axis in ("x", "y", "z")]].to_numpy(np.float64) * scale
        found += [
            (side, int(number), place.tolist()) for number, place in zip(part["id"], places, strict=True)
        ]
    return found


def _voxel(world: World) -> float:
    """Width of a voxel of the segmentation, nm."""
    return float(world.graph.info["scales"][0]["resolution"][0])


def _image_box(world: World) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Corners of the image volume, nm: it may be much smaller than the segmentation."""
    info = world.folder.json("precomputed", "img", "info")
    if not info:
        return None
    scale = info["scales"][0]
    low = np.array(scale["voxel_offset"], np.float64)
    size = np.array(scale["resolution"], np.float64)
    return low * size, (low + np.array(scale["size"], np.float64)) * size


def _points(world: World, root: int) -> NDArray[np.float64]:
    """Representative points of a root's level-2 ids, nm (n, 3)."""
    attributes = world.l2cache.get(world.graph.l2_ids(root), ["rep_coord_nm"]).values()
    return np.array([row["rep_coord_nm"] for row in attributes if "rep_coord_nm" in row], np.float64).reshape(
        -1, 3
    )


def _imaged(world: World, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points lie well inside the image volume."""
    box = _image_box(world)
    if box is None:
        return np.zeros(len(points), bool)
    margin = (box[1] - box[0]) / 8
    return np.asarray(((points > box[0] + margin) & (points < box[1] - margin)).all(axis=1), bool)


def _frame(
    world: World, root: int, resolution: NDArray[np.float64], places: list[list[float]]
) -> tuple[list[float], float]:
    """Where to look, and how far the view must reach: a point of the neuron, in the image if possible."""
    points = _points(world, root)
    if not len(points):
        points = np.array(places, np.float64).reshape(-1, 3) * resolution
    if not len(points):
        return [0.0, 0.0, 0.0], 1000.0
    inside = _imaged(world, points)
    candidates = points[inside] if inside.any() else points
    middle = (candidates.min(axis=0) + candidates.max(axis=0)) / 2
    nearest = candidates[np.argmin(np.linalg.norm(candidates - middle, axis=1))]
    reach = float(np.abs(points - nearest).max() / resolution[0])
    return (nearest / resolution).tolist(), 2.2 * max(reach, 100.0)
