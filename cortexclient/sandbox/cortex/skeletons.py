"""Skeletons of roots, worked out by pcg_skel from the level-2 graph, in the two formats of the skeleton service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cortexclient.sandbox.cortex.files import write_gzip
from cortexclient.sandbox.cortex.l2attributes import L2Table
from cortexclient.sandbox.cortex.sizes import AXON, DENDRITE, SOMA

__all__ = ["flatdict", "swc_text", "write_skeletons"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_COLLAPSE_NM = 7500
# when the skeletons claim to have been made: fixed, so that equal seeds give equal files
_MADE = datetime(2025, 9, 10, 4, 5, 6, 700000, tzinfo=UTC).timestamp()


def write_skeletons(
    place: Path, datastack: str, level2: L2Table, graphs: dict[int, Ints], somata: dict[int, Floats | None]
) -> None:
    """Write ``ROOT.json.gz`` for each of some roots.

    Parameters
    ----------
    place : Path
    datastack : str
        Named in the metadata.
    level2 : L2Table
    graphs : dict
        Root -> (n, 2) level-2 graph.
    somata : dict
        Root -> centre of its soma in nm, or None; the roots to be done.
    """
    place.mkdir(parents=True, exist_ok=True)
    for root, soma in sorted(somata.items()):
        if len(graphs[root]) == 0:
            continue
        skeleton = flatdict(root, soma, level2, graphs[root], datastack)
        document = {"flatdict": skeleton, "swccompressed": swc_text(skeleton)}
        write_gzip(place / f"{root}.json.gz", json.dumps(document).encode(), level=3)


def flatdict(root: int, soma: Floats | None, level2: L2Table, graph: Ints, datastack: str) -> dict[str, Any]:
    """Skeleton of one root as the service's ``flatdict``.

    Parameters
    ----------
    root : int
    soma : (3,) float64 or None
        nm; becomes the root vertex, and what is near is collapsed into it.
    level2 : L2Table
    graph : (n, 2) int64
        Level-2 ids.
    datastack : str
    """
    ids = np.unique(graph)
    rows = level2.rows(ids)
    vertices = level2.representative_nm[rows]
    skeleton = _skeletonize(vertices, np.searchsorted(ids, graph), soma, root)
    points = np.asarray(skeleton.vertices, dtype=np.float64)
    to_skeleton = np.asarray(skeleton.mesh_to_skel_map, dtype=np.int64)
    place = soma if soma is not None else np.array([None, None, None])
    return {
        "meta": {
            "root_id": root,
            "soma_pt_x": _number(place[0]),
            "soma_pt_y": _number(place[1]),
            "soma_pt_z": _number(place[2]),
            "soma_radius": _COLLAPSE_NM,
            "collapse_soma": soma is not None,
            "collapse_function": "sphere",
            "invalidation_d": 7500,
            "smooth_vertices": False,
            "compute_radius": False,
            "shape_function": "single",
            "smooth_iterations": 12,
            "smooth_neighborhood": 2,
            "smooth_r": 0.1,
            "cc_vertex_thresh": 0,
            "remove_zero_length_edges": True,
            "collapse_params": {},
            "timestamp": _MADE,
            "skeleton_type": "pcg_skel",
            "meta": {"datastack": datastack, "space": "l2cache"},
            "sk_dict_structure_version": 4,
            "skeleton_version": 4,
        },
        "edges": np.asarray(skeleton.edges, dtype=np.int64).tolist(),
        "mesh_to_skel_map": to_skeleton.tolist(),
        "root": int(skeleton.root),
        "vertices": points.tolist(),
        "compartment": _compartments(
            skeleton, to_skeleton, level2.compartment[rows], has_soma=soma is not None
        ).tolist(),
        "radius": _radii(skeleton, to_skeleton, level2.thickest_nm[rows]).tolist(),
        "lvl2_ids": ids.tolist(),
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _skeletonize(vertices: Floats, edges: Ints, soma: Floats | None, root: int) -> Any:
    import contextlib
    import io
    import warnings

    from pcg_skel import pcg_skel as toolkit

    # meshparty draws a progress bar that no option turns off
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return toolkit.pcg_skeleton_direct(
            vertices,
            edges,
            root_point=None if soma is None else list(soma),
            collapse_soma=soma is not None,
            collapse_radius=_COLLAPSE_NM,
            root_id=root,
        )


def _compartments(skeleton: Any, to_skeleton: Ints, kinds: Ints, *, has_soma: bool) -> Ints:
    """Axon or dendrite, by most of the level-2 ids at each vertex; the root of a cell with a soma is its soma."""
    count = len(skeleton.vertices)
    hit = to_skeleton >= 0
    axon = np.bincount(to_skeleton[hit & (kinds == AXON)], minlength=count)
    other = np.bincount(to_skeleton[hit & (kinds == DENDRITE)], minlength=count)
    result = np.where(axon > other, AXON, DENDRITE).astype(np.int64)
    if has_soma:
        result[int(skeleton.root)] = SOMA
    return result


def _radii(skeleton: Any, to_skeleton: Ints, thickness: Floats) -> Floats:
    """Mean thickness along each unbranched stretch, nm; the root has its own."""
    count = len(skeleton.vertices)
    hit = to_skeleton >= 0
    total = np.bincount(to_skeleton[hit], weights=thickness[hit], minlength=count)
    number = np.bincount(to_skeleton[hit], minlength=count)
    stretch = np.asarray(skeleton.segment_map, dtype=np.int64)
    sums = np.bincount(stretch, weights=total)
    numbers = np.maximum(np.bincount(stretch, weights=number), 1)
    radius: Floats = (sums / numbers)[stretch]
    root = int(skeleton.root)
    at_root = thickness[to_skeleton == root]
    if len(at_root):
        radius[root] = at_root.max()
    return radius


def swc_text(skeleton: dict[str, Any]) -> str:
    """SWC lines of a skeleton: id, compartment, x, y, z, radius (um), parent; parents come first."""
    edges = np.asarray(skeleton["edges"], dtype=np.int64).reshape(-1, 2)
    points = np.asarray(skeleton["vertices"]) / 1000.0
    neighbours: dict[int, list[int]] = {}
    for a, b in edges.tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    number: dict[int, int] = {}
    lines = []
    stack = [(int(skeleton["root"]), -1)]
    while stack:
        vertex, parent = stack.pop()
        if vertex in number:
            continue
        number[vertex] = len(number)
        x, y, z = points[vertex]
        radius = skeleton["radius"][vertex] / 1000.0
        kind = skeleton["compartment"][vertex]
        lines.append(f"{number[vertex]} {kind} {x:.3f} {y:.3f} {z:.3f} {radius:.3f} {parent}")
        stack += [
            (other, number[vertex])
            for other in sorted(neighbours.get(vertex, []), reverse=True)
            if other not in number
        ]
    return "\n".join(lines) + "\n"
