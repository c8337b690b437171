"""Skeletons of a sandbox: files of its folder, and those made from the level-2 graph when asked for."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cortexclient.sandbox.arrays import Floats, Ints
from cortexclient.sandbox.cortex.sizes import AXON, DENDRITE, SOMA
from cortexclient.sandbox.layout import DataFolder, keep_file
from cortexclient.sandbox.stores.skeleton_build import run_pcg_skel, skeleton_meta, skeletonize
from cortexclient.sandbox.stores.skeleton_formats import to_swc
from cortexclient.sandbox.world import World

# when the skeletons claim to have been made: fixed, so that equal seeds give equal files
_MADE = datetime(2025, 9, 10, 4, 5, 6, 700000, tzinfo=UTC).timestamp()


class SkeletonFiles:
    """The skeletons of a folder: files, and those of a synthetic cortex that are made when first asked for and kept."""

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
        document = {"flatdict": skeleton, "swccompressed": to_swc(skeleton)}
        with contextlib.suppress(OSError):  # a folder that cannot be written to
            keep_file(path, gzip.compress(json.dumps(document).encode(), 3, mtime=0))
        return document

    def _made(self, root: int) -> dict[str, Any]:
        """Make a skeleton; the soma becomes its root vertex, and what is near collapses into it."""
        path = self._folder.file("chunkedgraph", "l2_edges.parquet")
        edges = pq.read_table(path, filters=[("root_id", "=", root)])
        graph = np.column_stack([np.asarray(edges["l2_id_1"]), np.asarray(edges["l2_id_2"])])
        ids = np.unique(graph)
        rows = pa.array(np.searchsorted(np.asarray(self._level2["l2_id"]), ids))
        parts = self._level2.take(rows)
        soma = self._recipes[root]
        vertices = np.column_stack([np.asarray(parts[f"{axis}_nm"]) for axis in "xyz"])
        skeleton = run_pcg_skel(vertices, np.searchsorted(ids, graph), soma)
        to_skeleton = np.asarray(skeleton.mesh_to_skel_map, dtype=np.int64)
        compartment = np.asarray(parts["compartment"], dtype=np.int64)
        meta = skeleton_meta(root, soma, str(self._folder.versions[0]["datastack"]), _MADE)
        return {
            "meta": {**meta, "collapse_soma": soma is not None, "sk_dict_structure_version": 4},
            "edges": np.asarray(skeleton.edges, dtype=np.int64).tolist(),
            "mesh_to_skel_map": to_skeleton.tolist(),
            "root": int(skeleton.root),
            "vertices": np.asarray(skeleton.vertices, dtype=np.float64).tolist(),
            "compartment": _compartments(
                skeleton, to_skeleton, compartment, has_soma=soma is not None
            ).tolist(),
            "radius": _radii(skeleton, to_skeleton, np.asarray(parts["thickest_nm"])).tolist(),
            "lvl2_ids": ids.tolist(),
        }


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


REFUSAL = "Problematic root id: {root} is in the refusal list."
LEVEL = (
    "Invalid root id: {root} "
    "(perhaps this is an id corresponding to a different level of the PCG, e.g., a supervoxel id)"
)
UNKNOWN = "Invalid root id: {root} (perhaps it doesn't exist; the error is unclear)"
NOT_READY = "Some chunk indices are not yet computed"


class SkeletonError(Exception):
    """A skeleton that the service refuses or fails to make, with the status it answers."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SkeletonStore:
    """The skeletons that the service has or can make.

    Those of the folder are served as stored; other roots are skeletonized from their level-2 graph.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._files = SkeletonFiles(world.folder)
        self._lock = threading.RLock()
        self._flat: dict[int, dict[str, Any]] = {}
        self._swc: dict[int, str] = {}
        # whatever version was asked for, the service keeps the newest and makes the others from it
        self._made: set[int] = set() if world.options.cold_skeletons else set(self._files.roots())
        refused = world.folder.json("skeletons", "refusal_list.json", default=[])
        self.refused: dict[int, None] = dict.fromkeys(int(root) for root in refused)

    def exists(self, root: int) -> bool:
        """Whether a skeleton was made."""
        return root in self._made

    def made(self) -> list[int]:
        """Roots whose skeletons were made."""
        with self._lock:
            return sorted(self._made)

    def problem(self, root: int) -> SkeletonError | None:
        """Why a root cannot have a skeleton at all; None where it can."""
        graph = self._world.graph
        if root in self.refused:
            return SkeletonError(400, REFUSAL.format(root=root))
        if root >> 56 != graph.n_layers:
            return SkeletonError(400, LEVEL.format(root=root))
        if not bool(graph.exists([root])[0]):
            return SkeletonError(400, UNKNOWN.format(root=root))
        return None

    def get(self, root: int) -> dict[str, Any]:
        """The newest ``flatdict`` of a root, made now if need be.

        Raise SkeletonError where the root is refused, unknown, or some of its level-2 ids have no attributes yet.
        """
        problem = self.problem(root)
        if problem is not None:
            raise problem
        flat = self._flat.get(root) or self._read(root) or self._compute(root)
        with self._lock:
            self._flat[root] = flat
            self._made.add(root)
        return flat

    def can_make(self, root: int) -> bool:
        """Whether a skeleton was made, or could be made now."""
        if self.exists(root) or self._read(root) is not None:
            return True
        ids = np.asarray(self._world.graph.l2_ids(root), np.int64)
        rows = self._world.l2cache.get(ids, ["rep_coord_nm"])
        return len(ids) > 0 and all("rep_coord_nm" in rows.get(number, {}) for number in ids.tolist())

    def swc(self, root: int) -> str | None:
        """SWC text of a root as it was recorded, where it was."""
        return self._swc.get(root)

    def queue(self, roots: list[int]) -> None:
        """Make skeletons in the background."""

        def work() -> None:
            for root in roots:
                if self._world.closing.wait(self._world.options.skeleton_delay):
                    return
                try:
                    self.get(root)
                except SkeletonError:
                    continue  # the real service drops it as silently

        threading.Thread(target=work, name="cortexclient-sandbox-skeletons", daemon=True).start()

    def _read(self, root: int) -> dict[str, Any] | None:
        document = self._files.document(root)
        if document is None:
            return None
        if "swccompressed" in document:
            self._swc[root] = document["swccompressed"]
        flat: dict[str, Any] | None = document.get("flatdict")
        return flat

    def _compute(self, root: int) -> dict[str, Any]:
        graph, cache = self._world.graph, self._world.l2cache
        ids = np.sort(np.asarray(graph.l2_ids(root), np.int64))
        attributes = cache.get(ids, ["rep_coord_nm", "size_nm3"])
        rows = [attributes.get(number, {}) for number in ids.tolist()]
        if not rows or any("rep_coord_nm" not in row for row in rows):
            raise SkeletonError(500, NOT_READY)
        return skeletonize(
            root=root,
            l2_ids=ids,
            points=np.array([row["rep_coord_nm"] for row in rows], np.float64),
            volumes=np.array([row.get("size_nm3", 0) for row in rows], np.float64),
            edges=np.asarray(graph.l2_edges(root), np.int64).reshape(-1, 2),
            soma=_soma(self._world, root),
            datastack=self._world.names.datastack,
            timestamp=self._world.now().timestamp(),
        )


def _soma(world: World, root: int) -> list[float] | None:
    """Place of the only soma of a root (nm), by the soma table; None where there is none or more than one."""
    table = world.folder.info.get("soma_table")
    rows = world.folder.live_rows(table)
    if rows is None:
        return None
    rows = rows[rows["pt_supervoxel_id"].fillna(0) > 0]
    mine = rows[world.graph.roots(rows["pt_supervoxel_id"].to_numpy(np.int64)) == root]
    if len(mine) != 1:
        return None
    voxels = mine[[f"pt_position_{axis}" for axis in "xyz"]].to_numpy(np.float64)[0]
    place: list[float] = (voxels * world.folder.voxel_nm(table)).tolist()
    return place
