"""Reading recorded cells: ossify's ``.osy`` files and answers of the skeleton service."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cortexclient.sandbox.arrays import Ints
from cortexclient.sandbox.stores.skeleton_build import skeleton_meta

SIDES = ("pre", "post")
AXES = ("x", "y", "z")


@dataclass(frozen=True)
class RecordedCell:
    """Everything that was recorded about one cell."""

    root_id: int
    timestamp: datetime  # when it was asked for, UTC
    datastack: str
    # index: level-2 ids. Columns of the level-2 cache, vectors spread (``rep_coord_nm_x``, ``pca_0_x``, ...)
    l2: pd.DataFrame
    l2_edges: Ints  # (m, 2)
    # index: ids. Positions in nm; ``SIDE_pt_supervoxel_id``, ``SIDE_pt_root_id`` (0: not recorded),
    # ``SIDE_pt_l2_id`` (0: not of this cell), ``size``, ``created``
    synapses: pd.DataFrame
    skeleton: dict[str, Any]  # ``flatdict`` of the skeleton service
    vertices: NDArray[np.float32] | None = None  # (n, 3): the mesh, nm
    faces: Ints | None = None
    # (n,): level-2 id of each vertex as some earlier mapper saw it; 0 where it gave none
    vertex_l2: Ints | None = None


def read_cell(source: Path, graph: Path | None = None) -> RecordedCell:
    """Read a recorded cell; ``graph`` is a second ``.osy`` file to take the level-2 edges from."""
    if source.is_dir():
        return _read_service(source)
    cell = _read_osy(source)
    if graph is None or len(cell.l2_edges):
        return cell
    other = _read_osy(graph)
    if other.root_id != cell.root_id or set(other.l2.index) != set(cell.l2.index):
        raise ValueError(f"{graph} holds another cell ({other.root_id}) than {source} ({cell.root_id})")
    return RecordedCell(**{**vars(cell), "l2_edges": other.l2_edges})


class _Archive:
    """Members of an ``.osy`` file."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as archive:
            self._files = {
                member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
                for member in archive.getmembers()
                if member.isfile()
            }

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def json(self, name: str) -> Any:
        return json.loads(self._files[name])

    def frame(self, name: str) -> pd.DataFrame:
        return pd.read_feather(io.BytesIO(self._files[name]))

    def array(self, name: str) -> NDArray[Any]:
        with np.load(io.BytesIO(self._files[name]), allow_pickle=False) as arrays:
            found: NDArray[Any] = arrays["data"]
        return found


def _read_osy(path: Path) -> RecordedCell:
    archive = _Archive(path)
    about = archive.json("metadata.json")
    root, meta = int(about["name"]), about["meta"]
    l2 = archive.frame("layers/graph/nodes.feather")
    edges = archive.array("layers/graph/edges.npz")
    edges = edges.astype(np.int64).reshape(-1, 2) if edges.size else np.empty((0, 2), np.int64)
    if len(edges) and int(edges.max()) < len(l2):  # positions in the table of nodes, not ids
        edges = l2.index.to_numpy(np.int64)[edges]
    parts: dict[str, Any] = {}
    if "layers/mesh/nodes.feather" in archive:
        parts["vertices"] = archive.frame("layers/mesh/nodes.feather")[list(AXES)].to_numpy(np.float32)
        parts["faces"] = archive.array("layers/mesh/faces.npz").astype(np.int64)
        links = archive.frame("linkage/graph/mesh/linkage.feather").sort_values("mesh")
        parts["vertex_l2"] = links["graph"].to_numpy(np.int64)
    sides = {side: archive.frame(f"annotations/{side}_syn/nodes.feather") for side in SIDES}
    datastack = meta.get("datastack", "minnie65_phase3_v1")
    timestamp = datetime.fromisoformat(meta["timestamp"]).astimezone(UTC)
    return RecordedCell(
        root_id=root,
        timestamp=timestamp,
        datastack=datastack,
        l2=l2,
        l2_edges=edges,
        synapses=_synapses(root, sides),
        skeleton=_skeleton(archive, root, l2, datastack, timestamp),
        **parts,
    )


def _skeleton(
    archive: _Archive, root: int, l2: pd.DataFrame, datastack: str, timestamp: datetime
) -> dict[str, Any]:
    nodes = archive.frame("layers/skeleton/nodes.feather")
    top = int(archive.json("layers/skeleton/meta.json")["root"])
    links = archive.frame("linkage/graph/skeleton/linkage.feather").set_index("graph")["skeleton"]
    vertices = nodes[list(AXES)].to_numpy(np.float64)
    return {
        "meta": skeleton_meta(root, vertices[top].tolist(), datastack, timestamp.timestamp()),
        "edges": archive.array("layers/skeleton/edges.npz").astype(np.int64).tolist(),
        "mesh_to_skel_map": links.loc[l2.index].astype(np.int64).tolist(),
        "root": top,
        "vertices": vertices.tolist(),
        "compartment": nodes["compartment"].astype(np.int64).tolist(),
        "radius": nodes["radius"].astype(np.float64).tolist(),
        "lvl2_ids": [int(number) for number in l2.index],
    }


def _read_service(folder: Path) -> RecordedCell:
    skeleton = json.loads(gzip.decompress((folder / "skel.json.gz").read_bytes()))
    root = int(json.loads((folder / "root_id.json").read_text(encoding="utf-8")))
    edges = json.loads(gzip.decompress((folder / "l2graph.json.gz").read_bytes()))
    l2 = pd.read_feather(folder / "l2properties.feather")
    if l2.index.name != "l2_id":
        l2 = l2.set_index("l2_id")
    sides = {side: pd.read_feather(folder / f"{side}_l2.feather").set_index("id") for side in SIDES}
    return RecordedCell(
        root_id=root,
        timestamp=datetime.fromtimestamp(skeleton["meta"]["timestamp"], UTC),
        datastack=skeleton["meta"]["meta"]["datastack"],
        l2=l2,
        l2_edges=np.asarray(edges, np.int64).reshape(-1, 2),
        synapses=_synapses(root, sides),
        skeleton=skeleton,
    )


def _synapses(root: int, sides: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One table out of the outgoing and the incoming synapses; an autapse is in both."""
    parts = []
    for side, frame in sides.items():
        part = frame.copy()
        for each in SIDES:
            for name in (f"{each}_pt_root_id", f"{each}_pt_l2_id"):
                if name not in part:
                    part[name] = 0
                part[name] = part[name].astype(np.int64)
        if not (part[f"{side}_pt_root_id"] == root).all():
            raise ValueError(f"some {side}synaptic rows do not belong to root {root}")
        parts.append(part)
    merged = pd.concat(parts)
    twice = merged.index.duplicated(keep=False)
    if twice.any():  # each copy knows its own side
        known = merged.loc[twice, [f"{side}_pt_{what}" for side in SIDES for what in ("root_id", "l2_id")]]
        best = known.groupby(level=0).max()
        merged = merged[~merged.index.duplicated()]
        merged.loc[best.index, best.columns] = best
    return merged.sort_index()
