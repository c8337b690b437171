"""Skeletons of a sandbox: those stored in the folder, and those computed from the level-2 graph when asked for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.sandbox.stores.skeleton_files import SkeletonFiles

if TYPE_CHECKING:
    from cortexclient.sandbox.world import World

__all__ = ["SkeletonError", "SkeletonStore"]

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
    """What the skeleton service keeps and makes.

    Parameters
    ----------
    world : World
        Its folder's ``skeletons`` are served as stored; other roots are skeletonized from their level-2 graph.
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

    # -- what is there -----------------------------------------------------------------------------------------------

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

        Raises
        ------
        SkeletonError
            The root is refused, unknown, or some of its level-2 ids have no attributes yet.
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

    # -- where it comes from -----------------------------------------------------------------------------------------

    def _read(self, root: int) -> dict[str, Any] | None:
        document = self._files.document(root)
        if document is None:
            return None
        if "swccompressed" in document:
            self._swc[root] = document["swccompressed"]
        flat: dict[str, Any] | None = document.get("flatdict")
        return flat

    def _compute(self, root: int) -> dict[str, Any]:
        from cortexclient.sandbox.stores.skeleton_build import skeletonize

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
    import pandas as pd

    table = world.folder.info.get("soma_table")
    path = world.folder.file("tables", f"{table}.live.parquet")
    if not table or not path.is_file():
        return None
    rows = pd.read_parquet(path)
    rows = rows[rows["deleted"].isna() & (rows["pt_supervoxel_id"].fillna(0) > 0)]
    roots = world.graph.roots(rows["pt_supervoxel_id"].to_numpy(np.int64))
    mine = rows[roots == root]
    if len(mine) != 1:
        return None
    stored = world.folder.tables["annotation_tables"]
    sizes = next(row for row in stored if row["table_name"] == table)
    return [
        float(mine[f"pt_position_{axis}"].iloc[0]) * float(sizes[f"voxel_resolution_{axis}"])
        for axis in ("x", "y", "z")
    ]
