"""Skeletons that a folder has: files of the skeleton service, and for a cortex, what they are made of by pcg_skel."""

from __future__ import annotations

import contextlib
import gzip
import json
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cortexclient.sandbox.cortex.files import write_json, write_table
from cortexclient.sandbox.cortex.sizes import AXON, DENDRITE, SOMA
from cortexclient.sandbox.layout import keep_file

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.sandbox.cortex.l2attributes import L2Table
    from cortexclient.sandbox.layout import DataFolder

__all__ = ["SkeletonFiles", "flatdict", "swc_text", "write_recipes"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_COLLAPSE_NM = 7500
# when the skeletons claim to have been made: fixed, so that equal seeds give equal files
_MADE = datetime(2025, 9, 10, 4, 5, 6, 700000, tzinfo=UTC).timestamp()


def write_recipes(
    place: Path, level2: L2Table, graphs: dict[int, Ints], somata: dict[int, Floats | None]
) -> None:
    """Write what the skeletons of a cortex are made of, and for which roots there are any.

    Parameters
    ----------
    place : pathlib.Path
    level2 : L2Table
    graphs : dict
        Root -> (n, 2) level-2 graph.
    somata : dict
        Root -> centre of its soma in nm, or None.
    """
    columns = {
        "l2_id": level2.ids,
        "compartment": level2.compartment.astype(np.int8),
        "thickest_nm": level2.thickest_nm,
        **{f"{axis}_nm": level2.representative_nm[:, k] for k, axis in enumerate("xyz")},
    }
    write_table(place / "level2.parquet", columns)
    roots = {
        str(root): None if soma is None else soma.tolist()
        for root, soma in sorted(somata.items())
        if len(graphs[root])
    }
    write_json(place / "roots.json", roots)


class SkeletonFiles:
    """The skeletons of a folder: files, and those of a synthetic cortex that are made when first asked for and kept.

    Parameters
    ----------
    folder : DataFolder
    """

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder

    @cached_property
    def _recipes(self) -> dict[int, list[float] | None]:
        document = self._folder.json("skeletons", "roots.json", default={})
        return {int(root): soma for root, soma in document.items()}

    @cached_property
    def _level2(self) -> pa.Table:
        return pq.read_table(self._folder.file("skeletons", "level2.parquet"))

    def roots(self) -> list[int]:
        """Return the roots that have a skeleton, as a file or to be made, ascending."""
        names = (path.name.split(".")[0] for path in self._folder.file("skeletons").glob("*.json.gz"))
        files = {int(name) for name in names if name.isdigit()} - set(self._recipes)
        # a recording may hold a failure
        return sorted(
            {*(root for root in files if "flatdict" in (self.document(root) or {})), *self._recipes}
        )

    def document(self, root: int) -> dict[str, Any] | None:
        """Return the stored document of a root; None where there is none."""
        path = self._folder.file("skeletons", f"{root}.json.gz")
        if path.is_file():
            stored: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
            if "answers" in stored:  # a recording of the real service: one entry for each format
                given = (answer for answer in stored["answers"] if answer["status"] == 200)
                stored = {answer["format"]: answer["body"]["value"] for answer in given}
            return stored
        if root not in self._recipes:
            return None
        skeleton = self._made(root)
        document = {"flatdict": skeleton, "swccompressed": swc_text(skeleton)}
        with contextlib.suppress(OSError):  # a folder that cannot be written to
            keep_file(path, gzip.compress(json.dumps(document).encode(), 3, mtime=0))
        return document

    def _made(self, root: int) -> dict[str, Any]:
        path = self._folder.file("chunkedgraph", "l2_edges.parquet")
        edges = pq.read_table(path, filters=[("root_id", "=", root)])
        graph = np.column_stack([np.asarray(edges["l2_id_1"]), np.asarray(edges["l2_id_2"])])
        ids = np.unique(graph)
        rows = pa.array(np.searchsorted(np.asarray(self._level2["l2_id"]), ids))
        parts = self._level2.take(rows)
        soma = self._recipes[root]
        return flatdict(
            root,
            None if soma is None else np.array(soma),
            np.searchsorted(ids, graph),
            ids=ids,
            vertices=np.column_stack([np.asarray(parts[f"{axis}_nm"]) for axis in "xyz"]),
            compartment=np.asarray(parts["compartment"], dtype=np.int64),
            thickness=np.asarray(parts["thickest_nm"]),
            datastack=str(self._folder.versions[0]["datastack"]),
        )


def flatdict(
    root: int,
    soma: Floats | None,
    graph: Ints,
    *,
    ids: Ints,
    vertices: Floats,
    compartment: Ints,
    thickness: Floats,
    datastack: str,
) -> dict[str, Any]:
    """Skeleton of one root as the service's ``flatdict``.

    Parameters
    ----------
    root : int
    soma : (3,) float64 or None
        nm; becomes the root vertex, and what is near is collapsed into it.
    graph : (m, 2) int64
        Rows of level-2 ids that touch.
    ids : (n,) int64
        Level-2 ids.
    vertices : (n, 3) float64
        Their representative points, nm.
    compartment : (n,) int64
    thickness : (n,) float64
        nm.
    datastack : str
        Named in the metadata.
    """
    skeleton = _skeletonize(vertices, graph, soma, root)
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
        "compartment": _compartments(skeleton, to_skeleton, compartment, has_soma=soma is not None).tolist(),
        "radius": _radii(skeleton, to_skeleton, thickness).tolist(),
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
