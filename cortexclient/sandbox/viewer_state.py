"""Neuroglancer states of a sandbox's neurons: image, segmentation, mesh and synapses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from cortexclient.sandbox.world import World

__all__ = ["example_roots", "neuron_state"]

MAX_SYNAPSES = 2000
SIDES = {"pre": "#33c1ff", "post": "#ff5533"}


def example_roots(world: World, count: int = 5) -> list[int]:
    """Some neurons worth looking at: current roots of the soma table, or simply current roots."""
    if not world.graph.available:
        return []
    rows = _live(world, world.folder.info.get("soma_table"))
    if rows is not None and "pt_supervoxel_id" in rows:
        supervoxels = rows["pt_supervoxel_id"].fillna(0).to_numpy(np.int64)
        roots = world.graph.roots(supervoxels[supervoxels > 0])
        roots = roots[roots > 0]
        if len(roots):
            return [int(root) for root in dict.fromkeys(roots.tolist())][:count]
    return [int(root) for root in world.graph.alive()[:count]]


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
    points = [position for _, _, position in synapses] or _representative(world, root, resolution)
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
        "position": np.mean(points, axis=0).round(1).tolist() if points else [0, 0, 0],
        "crossSectionScale": 1,
        "projectionScale": 20000,
        "layout": "xy-3d",
        "showSlices": False,
        "layers": layers,
        "selectedLayer": {"layer": "segmentation", "visible": False},
    }


def _annotations(side: str, synapses: list[tuple[str, int, list[float]]], resolution: Any) -> dict[str, Any]:
    dimensions = {axis: [float(size) * 1e-9, "m"] for axis, size in zip("xyz", resolution, strict=True)}
    return {
        "type": "annotation",
        "name": f"{side}synaptic sites",
        "source": {"url": "local://annotations", "transform": {"outputDimensions": dimensions}},
        "annotationColor": SIDES[side],
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


def _synapses(world: World, root: int, resolution: Any) -> list[tuple[str, int, list[float]]]:
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


def _representative(world: World, root: int, resolution: Any) -> list[list[float]]:
    ids = world.graph.l2_ids(root)
    attributes = world.l2cache.get(ids, ["rep_coord_nm"]).values()
    return [
        (np.array(row["rep_coord_nm"], np.float64) / resolution).tolist()
        for row in attributes
        if "rep_coord_nm" in row
    ]
