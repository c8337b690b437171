"""The formats in which the skeleton service answers, all made from one ``flatdict``."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np

from cortexclient.sandbox.stores.skeleton_build import SkeletonTree

JSON = "application/json"
BYTES = "application/octet-stream"
LATEST = 4
# -1 stands for the newest, 0 for what Neuroglancer gets
VERSIONS = (-1, 0, 1, 2, 3, 4)
FORMATS = (
    "flatdict",
    "json",
    "jsoncompressed",
    "arrays",
    "arrayscompressed",
    "swc",
    "swccompressed",
    "precomputed",
)
# formats of bulk responses; each is packed, whether its name says so or not
BULK_FORMATS = ("flatdict", "json", "jsoncompressed", "swc", "swccompressed")


def real_version(version: int) -> int:
    """Number of the version that an alias stands for."""
    return {-1: LATEST, 0: 2}.get(version, version)


def precomputed_info(version: int) -> dict[str, Any]:
    """Body of ``skeleton/VERSION/info``, as Neuroglancer reads it; version 1 had points and edges only."""
    kind = "float32" if version == 2 else "uint8"
    attributes = [
        {"id": "radius", "data_type": "float32", "num_components": 1},
        {"id": "compartment", "data_type": kind, "num_components": 1},
    ]
    return {
        "@type": "neuroglancer_skeletons",
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "vertex_attributes": attributes if version > 1 else [],
    }


def flat_of_version(flat: dict[str, Any], version: int) -> dict[str, Any]:
    """The newest ``flatdict``, in the shape of an older version: no level-2 ids before 4, float compartments in 2."""
    version = real_version(version)
    shaped = {**flat, "meta": {**flat["meta"], "skeleton_version": version}}
    if version < LATEST:
        shaped.pop("lvl2_ids", None)
    if version == 2:
        shaped["compartment"] = [float(label) for label in flat["compartment"]]
    return shaped


def encode(flat: dict[str, Any], version: int, form: str, swc: str | None = None) -> tuple[bytes, str]:
    """Body and media type of one skeleton, in a version and one of :data:`FORMATS`, from its newest ``flatdict``.

    SWC is as it was recorded, where it was. Raise ValueError for an unknown format.
    """
    if form == "flatdict":
        return gzip.compress(json.dumps(flat_of_version(flat, version)).encode(), mtime=0), BYTES
    if form in {"json", "jsoncompressed"}:
        return _maybe_packed(_json_form(flat), form)
    if form in {"arrays", "arrayscompressed"}:
        properties = {"compartment": flat["compartment"], "radius": flat["radius"]}
        return _maybe_packed(
            {"vertices": flat["vertices"], "vertex_properties": properties, "edges": flat["edges"]}, form
        )
    if form in {"swc", "swccompressed"}:
        text = (swc if swc is not None else to_swc(flat)).encode()
        return (text, BYTES) if form == "swc" else (gzip.compress(text, mtime=0), BYTES)
    if form == "precomputed":
        return _precomputed(flat, version), BYTES
    raise ValueError(f"no skeleton format {form!r}")


def packed_hex(flat: dict[str, Any], version: int, form: str, swc: str | None = None) -> str:
    """One of many skeletons, in one of :data:`BULK_FORMATS`, as hexadecimal digits inside of JSON."""
    if form.startswith("swc"):  # the client does not unpack these, so the service does not pack them
        return encode(flat, version, "swc", swc)[0].hex()
    return encode(flat, version, "jsoncompressed" if form == "json" else form, swc)[0].hex()


def _maybe_packed(value: dict[str, Any], form: str) -> tuple[bytes, str]:
    body = json.dumps(value).encode()
    return (gzip.compress(body, mtime=0), BYTES) if form.endswith("compressed") else (body, JSON)


def _precomputed(flat: dict[str, Any], version: int) -> bytes:
    vertices = np.asarray(flat["vertices"], "<f4").reshape(-1, 3)
    edges = np.asarray(flat["edges"], "<u4").reshape(-1, 2)
    parts = [np.array([len(vertices), len(edges)], "<u4"), vertices, edges]
    version = real_version(version)
    if version > 1:
        # compartments twice, though the info names them once: so does the real service
        labels = np.asarray(flat["compartment"]).astype("<f4" if version == 2 else "u1")
        parts += [np.asarray(flat["radius"], "<f4"), labels, labels]
    return b"".join(part.tobytes() for part in parts)


def to_swc(flat: dict[str, Any]) -> str:
    """SWC text in um, nodes ordered by their distance from the root, no header."""
    tree = SkeletonTree(flat)
    order = np.argsort(tree.distance, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    lines = []
    for new, old in enumerate(order.tolist()):
        x, y, z = tree.vertices[old] / 1000
        parent = int(tree.parents[old])
        before = int(place[parent]) if parent >= 0 else -1
        lines.append(
            f"{new} {int(flat['compartment'][old])} {x:.3f} {y:.3f} {z:.3f} {flat['radius'][old] / 1000:.3f} {before}"
        )
    return "\n".join(lines) + "\n"


def _json_form(flat: dict[str, Any]) -> dict[str, Any]:
    tree = SkeletonTree(flat)
    count = len(tree.vertices)
    degree = tree.children + (tree.parents >= 0)
    ends = np.flatnonzero(tree.children == 0).tolist()
    branches = np.flatnonzero(tree.children > 1).tolist()
    meta = {key: value for key, value in flat["meta"].items() if key != "skeleton_version"}
    return {
        "jsonification_version": "1.0",
        "branch_points": branches,
        "branch_points_undirected": np.flatnonzero(degree > 2).tolist(),
        "distance_to_root": [float(value) for value in tree.distance.astype(np.float32)],
        "edges": flat["edges"],
        "end_points": ends,
        "end_points_undirected": np.flatnonzero(degree == 1).tolist(),
        "hops_to_root": tree.hops.tolist(),
        "indices_unmasked": list(range(count)),
        "mesh_to_skel_map": flat["mesh_to_skel_map"],
        "mesh_to_skel_map_base": flat["mesh_to_skel_map"],
        "meta": meta,
        "node_mask": [True] * count,
        "root": flat["root"],
        "root_position": flat["vertices"][int(flat["root"])],
        "segment_map": tree.segments().tolist(),
        "topo_points": [*ends, *branches, int(flat["root"])],
        "unmasked_size": count,
        "vertex_properties": {"compartment": flat["compartment"], "radius": flat["radius"]},
        "vertices": flat["vertices"],
    }
