"""Making a skeleton out of a level-2 graph, as the skeleton service does: with pcg_skel."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np

from cortexclient.sandbox.arrays import Floats, Ints


class SkeletonTree:
    """A skeleton as a rooted tree: parent of each vertex, and distances from the root."""

    def __init__(self, flat: dict[str, Any]) -> None:
        self.vertices = np.asarray(flat["vertices"], np.float64).reshape(-1, 3)
        edges = np.asarray(flat["edges"], np.int64).reshape(-1, 2)
        self.root = int(flat["root"])
        self.parents = np.full(len(self.vertices), -1, np.int64)
        self.parents[edges[:, 0]] = edges[:, 1]
        self.order = self._from_root()
        self.distance = np.zeros(len(self.vertices))
        self.hops = np.zeros(len(self.vertices))
        for vertex in self.order:
            parent = self.parents[vertex]
            if parent >= 0:
                self.distance[vertex] = self.distance[parent] + np.linalg.norm(
                    self.vertices[vertex] - self.vertices[parent]
                )
                self.hops[vertex] = self.hops[parent] + 1
        self.children = np.bincount(self.parents[self.parents >= 0], minlength=len(self.vertices))

    def _from_root(self) -> list[int]:
        below: dict[int, list[int]] = {}
        for vertex, parent in enumerate(self.parents.tolist()):
            below.setdefault(parent, []).append(vertex)
        order: list[int] = []
        stack = below.get(-1, [])[::-1]
        while stack:
            vertex = stack.pop()
            order.append(vertex)
            stack.extend(below.get(vertex, ())[::-1])
        return order

    def segments(self) -> Ints:
        """Number of the unbranched stretch that each vertex belongs to, from the tips inwards."""
        labels = np.full(len(self.vertices), -1, np.int64)
        ends = np.flatnonzero(self.children != 1)
        ends = ends[np.argsort(-self.distance[ends], kind="stable")]
        for number, end in enumerate(ends.tolist()):
            vertex = end
            while vertex >= 0 and labels[vertex] < 0 and (vertex == end or self.children[vertex] == 1):
                labels[vertex] = number
                vertex = int(self.parents[vertex])
        return labels


_WARNING_FILTERS = threading.Lock()
SOMA, DENDRITE = 1, 3
# how the service makes skeletons, as their metadata say
_HOW: dict[str, Any] = {
    "soma_radius": 7500,
    "collapse_soma": True,
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
    "skeleton_type": "pcg_skel",
    "skeleton_version": 4,
}


def skeletonize(
    *,
    root: int,
    l2_ids: Ints,
    points: Floats,
    volumes: Floats,
    edges: Ints,
    soma: list[float] | None,
    datastack: str,
    timestamp: float,
) -> dict[str, Any]:
    """Skeleton of one root as a ``flatdict``, in the keys of the skeleton service.

    ``points`` (n, 3, nm) and ``volumes`` (n, nm^3) are those of its level-2 ids, ``edges`` (m, 2) ids that touch. The
    soma (nm) becomes the root of the tree, and what lies around it collapses into it.
    """
    order = np.argsort(l2_ids)
    index = order[np.searchsorted(l2_ids[order], edges)] if len(edges) else edges
    if len(l2_ids) == 1 or not len(edges):
        vertices, tree, mapping, top = points[:1], edges[:0], np.zeros(len(l2_ids), np.int64), 0
    else:
        skeleton = run_pcg_skel(points, index, soma)
        vertices, top = np.asarray(skeleton.vertices, np.float64), int(skeleton.root)
        tree, mapping = (np.asarray(each, np.int64) for each in (skeleton.edges, skeleton.mesh_to_skel_map))
    compartment = np.full(len(vertices), DENDRITE, np.int64)
    if soma is not None:
        compartment[top] = SOMA
    return {
        "meta": skeleton_meta(root, soma, datastack, timestamp),
        "edges": tree.tolist(),
        "mesh_to_skel_map": mapping.tolist(),
        "root": top,
        "vertices": vertices.tolist(),
        "compartment": compartment.tolist(),
        "radius": _radius(vertices, tree, top, mapping, volumes).tolist(),
        "lvl2_ids": [int(number) for number in l2_ids],
    }


def run_pcg_skel(points: Floats, edges: Ints, soma: list[float] | None) -> Any:
    """Skeleton of a level-2 graph; what lies around its soma collapses into the root."""
    from pcg_skel import pcg_skeleton_direct

    # what is shown of warnings belongs to the whole process, as streams do: one thread changes it at a time
    with _WARNING_FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pcg_skeleton_direct(
            points,
            edges,
            invalidation_d=_HOW["invalidation_d"],
            root_point=soma,
            collapse_soma=soma is not None,
            collapse_radius=_HOW["soma_radius"],
        )


def _radius(vertices: Floats, tree: Ints, top: int, mapping: Ints, volumes: Floats) -> Floats:
    """Radius of each unbranched stretch, nm: that of a cylinder of its volume and length, of a sphere at the root.

    This is what ``pcg_skel.features.add_segment_properties`` does, whose ``r_eff`` the service answers.
    """
    shape = SkeletonTree({"vertices": vertices, "edges": tree, "root": top})
    labels = shape.segments()
    count = int(labels.max()) + 1
    known = mapping >= 0
    volume = np.bincount(labels[mapping[known]], volumes[known], minlength=count)
    inward = np.flatnonzero(shape.parents >= 0)
    steps = np.linalg.norm(vertices[inward] - vertices[shape.parents[inward]], axis=1)
    length = np.bincount(labels[inward], steps, minlength=count)
    radius = np.sqrt(volume / (np.pi * np.maximum(length, 1.0)))
    radius[labels[top]] = (3 * volume[labels[top]] / (4 * np.pi)) ** (1 / 3)
    return np.asarray(radius[labels], np.float64)


def skeleton_meta(root: int, soma: list[float] | None, datastack: str, timestamp: float) -> dict[str, Any]:
    """Metadata of a ``flatdict``."""
    place = dict(zip(("soma_pt_x", "soma_pt_y", "soma_pt_z"), soma or (None,) * 3, strict=True))
    about = {"datastack": datastack, "space": "l2cache"}
    return {"root_id": root, **place, **_HOW, "timestamp": timestamp, "meta": about}
