"""The fragments in which a mesh is stored: their names, reading, checking and joining them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cortexclient.errors import MissingDataError, ProtocolError
from cortexclient.services.vertex_labels.chunks import ChunkGrid
from cortexclient.session import forget

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from requests import Response

    from cortexclient.session import Session
    from cortexclient.types import IdArray

__all__ = ["Fragment", "fetch_fragments", "join_fragments"]

_INITIAL = re.compile(r"~(?P<layer>\d+)/(?P<shard>[^:]+):(?P<start>\d{1,15}):(?P<size>\d{1,12})")


@dataclass(frozen=True)
class Fragment:
    """One stored piece of a mesh: ``vertices`` in nm, float32 of shape (N, 3), and ``faces``, uint32 of shape (M, 3).

    Vertices that are stored as ``draco`` lie on the draco grid.
    """

    name: str
    vertices: NDArray[np.float32]
    faces: NDArray[np.uint32]
    draco: bool


def fetch_fragments(
    session: Session, node_id: int, *, bounds: IdArray | None = None, allow_missing: bool = False
) -> list[Fragment]:
    """Fetch all fragments of a root or another node, concurrently, in the order of their names.

    ``bounds``, shape (2, 3), are corners of a box in voxels of the chunkedgraph near which fragments are wanted;
    ``allow_missing`` leaves out fragments that the manifest names but the bucket does not have. Raises
    `MissingDataError` if the node has no mesh, or a fragment is missing.
    """
    names, url, manifest = _manifest(session, node_id, bounds)
    if not names:
        raise MissingDataError(
            f"{node_id} has no mesh in {session.label}: is it a root id, and has it been meshed yet?",
            service="meshing",
            url=url,
        )
    found = _fragments(session, names)
    missing = [name for name in names if name not in found]
    if missing:
        forget(manifest)  # a name may be damaged, or the bucket not be complete yet
    if missing and not allow_missing:
        raise MissingDataError(
            f"{len(missing)} of {len(names)} mesh fragments of {node_id} are not in the bucket, the first is "
            f"{missing[0]!r}; pass allow_missing=True to do without them",
            service="meshing",
            url=url,
        )
    if not found:
        raise MissingDataError(
            f"none of the mesh fragments of {node_id} is in the bucket", service="meshing", url=url
        )
    return list(found.values())


def _manifest(session: Session, node_id: int, bounds: IdArray | None) -> tuple[list[str], str, Response]:
    """Return the names of a node's fragments, sorted, each once, and the address and response that they are from."""
    info = session.segmentation_info()
    layer = node_id >> (64 - int(info["graph"].get("n_bits_for_layer_id", 8)))
    highest = (info.get("mesh_metadata") or {}).get("max_meshed_layer")
    if bounds is not None:
        layer = 2
    if highest is not None:
        layer = min(layer, int(highest))
    params = {"verify": "True", "return_seg_ids": "1"}
    if bounds is not None:
        params["bounds"] = "_".join(f"{low}-{high}" for low, high in bounds.T)
    table = session.connection.segmentation_table
    url = f"{session.local_server}/meshing/api/v1/table/{table}/manifest/{node_id}:0"
    response = session.http.send("meshing", "GET", url, params=params, body={"start_layer": layer})
    names = session.http.read_json("meshing", response, keys=("fragments",))["fragments"]
    wrong = [name for name in names if name and not _is_name(name)] if isinstance(names, list) else [names]
    if wrong:
        forget(response)
        raise ProtocolError(
            f"the meshing service named a fragment {wrong[0]!r:.80} of {node_id}, which is no name of one; try again",
            service="meshing",
            status=response.status_code,
            url=url,
        )
    return sorted(set(filter(None, names))), url, response


def _is_name(name: Any) -> bool:
    """Return whether a fragment's name can be one: it becomes part of an address, and must not lead anywhere else."""
    if not isinstance(name, str) or not name.isprintable():
        return False
    if name.startswith("~"):
        return _INITIAL.fullmatch(name) is not None and ".." not in name
    return not name.startswith("/") and not {"..", "."} & set(name.split("/")) and "//" not in name


def _fragments(session: Session, names: Sequence[str]) -> dict[str, Fragment]:
    """Return the fragments that exist, by name. They are cached as one entry if all exist and can be decoded."""
    cache = session.connection.cache
    if cache is None:
        return _decoded(_from_bucket(session, names), _folder(session))
    name = "\n".join([str(session.segmentation_info().get("mesh")), *names])
    cached: dict[str, Fragment] | None = cache.read_bytes("mesh fragments", name, _parse)
    if cached is not None:
        return cached
    if cache.offline:
        raise cache.offline_error(
            f"the mesh of fragment {names[0]!r} and {len(names) - 1} others",
            service="meshing",
            url=session.connection.url_of("meshing"),
        )
    contents = {
        name: content for name, content in _from_bucket(session, names).items() if content is not None
    }
    found = _decoded(contents, _folder(session))
    if len(found) == len(names):
        sizes = json.dumps({name: len(content) for name, content in contents.items()})
        cache.store_bytes("mesh fragments", name, b"\n".join([sizes.encode(), b"".join(contents.values())]))
    return found


def _parse(cached: bytes) -> dict[str, Fragment]:
    sizes, _, rest = cached.partition(b"\n")
    contents, start = {}, 0
    for name, size in json.loads(sizes).items():
        contents[name] = rest[start : start + size]
        start += size
    return _decoded(contents)


def _decoded(contents: Mapping[str, bytes | None], folder: str = "") -> dict[str, Fragment]:
    return {
        name: _decode(name, content, folder)
        for name, content in sorted(contents.items())
        if content is not None
    }


def _folder(session: Session) -> str:
    """Return the address of the mesh folder."""
    meta = session.segmentation_cloudvolume().mesh.meta
    return str(meta.join(meta.cloudpath, meta.mesh_path))


def _from_bucket(session: Session, names: Sequence[str]) -> dict[str, bytes | None]:
    """Read the content of fragments; None for those that the mesh folder does not have."""
    source = session.segmentation_cloudvolume().mesh
    folder, meta = _folder(session), source.meta
    sharded = hasattr(source, "readers")
    plain: dict[str, Any] = {name: name for name in names if not name.startswith("~")}
    ranges: dict[str, Any] = {}
    for name in names:
        match = _INITIAL.fullmatch(name)
        if match is not None:
            start = int(match["start"])
            ranges[name] = (f"{match['layer']}/{match['shard']}", start, start + int(match["size"]))
    contents: dict[str, bytes | None] = {}
    for files, subfolder in (
        (plain, "unsharded_mesh_dir" if sharded else None),
        (ranges, "sharded_mesh_dir"),
    ):
        if files:
            where = meta.join(folder, getattr(meta, subfolder)) if subfolder else folder
            found = session.read_files(where, list(files.values()), service="meshing")
            contents |= dict(zip(files, found, strict=True))
    return contents


def _decode(name: str, content: bytes, folder: str) -> Fragment:
    """Decode a fragment; raise `ProtocolError` if it is damaged or its parts do not fit each other."""
    from cloudvolume.mesh import Mesh

    draco = content[:5] == b"DRACO"
    try:
        mesh = Mesh.from_draco(content) if draco else Mesh.from_precomputed(content)
        vertices, faces = mesh.vertices.reshape(-1, 3), mesh.faces.reshape(-1, 3)
    except Exception as error:  # decoders raise whatever they like
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise _damaged(name, f"its {len(content)} bytes cannot be decoded ({reason})", folder) from error
    if not len(vertices) or not len(faces):
        raise _damaged(name, f"it has {len(vertices)} vertices and {len(faces)} faces", folder)
    if not draco and len(content) != 4 + 12 * (len(vertices) + len(faces)):
        raise _damaged(name, f"its {len(content)} bytes end within a face", folder)
    if int(faces.max()) >= len(vertices):
        raise _damaged(name, f"a face names vertex {int(faces.max())} of {len(vertices)}", folder)
    if not np.isfinite(vertices).all():
        raise _damaged(name, "a vertex is not finite", folder)
    return Fragment(name, vertices, faces, draco)


def _damaged(name: str, why: str, folder: str) -> ProtocolError:
    return ProtocolError(
        f"the mesh fragment {name!r} is damaged: {why}; try again, and report it if it stays so",
        service="meshing",
        status=200,
        url=f"{folder}/{name}",
    )


def join_fragments(
    fragments: Sequence[Fragment], info: dict[str, Any], *, mesh_mip: int | None = None, merge: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Join fragments, and merge the copies of a vertex that several of them have on a chunk face.

    A copy is merged only with copies of *other* fragments: where a fragment has two vertices at one place, its surface
    touches itself there, and which of them continues on the other side is not known. ``info`` is the graphene info,
    ``mesh_mip`` the mip of the meshes (None finds out); ``merge=False`` leaves all copies. Returns vertices, shape
    (N, 3), and faces, shape (M, 3).
    """
    vertices = np.concatenate([fragment.vertices for fragment in fragments])
    counts = np.array([len(fragment.vertices) for fragment in fragments])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    faces = np.concatenate(
        [fragment.faces + np.uint32(start) for fragment, start in zip(fragments, starts, strict=True)]
    ).astype(np.uint32)
    if not merge or len(fragments) == 1:
        return vertices, faces
    draco = any(fragment.draco for fragment in fragments)
    grid = ChunkGrid.from_info(info if draco else {**info, "mesh_metadata": {}}, mesh_mip=mesh_mip)
    candidates = np.flatnonzero(_on_faces(grid, vertices, faces))
    owner = np.repeat(np.arange(len(fragments)), counts)[candidates]
    target = _first_copies(vertices[candidates], owner)
    number = np.arange(len(vertices))
    number[candidates] = candidates[target]
    kept, new = np.unique(number, return_inverse=True)
    return vertices[kept], new.reshape(-1).astype(np.uint32)[faces]


def _on_faces(grid: ChunkGrid, vertices: NDArray[np.float32], faces: NDArray[np.uint32]) -> NDArray[np.bool_]:
    offset = grid.best_offset(vertices, faces)
    near = np.zeros(len(vertices), dtype=bool)
    for axis in range(3):
        values = vertices[:, axis].astype(np.float64)
        planes = offset[axis] + np.round((values - offset[axis]) / grid.size[axis]) * grid.size[axis]
        # half a cell, as in cloud-volume: draco rounds the face and the vertices on it alike
        near |= np.abs(values - planes) <= max(grid.draco / 2, grid.slack)
    return near


def _first_copies(points: NDArray[np.float32], owner: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each point the first one at its place, if all points there are of different fragments; else itself.

    Owners are in ascending order, so it is that of the first fragment in the list.
    """
    place = pd.DataFrame(points).groupby([0, 1, 2], sort=False).ngroup().to_numpy()
    twice = pd.DataFrame({"place": place, "owner": owner}).duplicated()
    ambiguous = np.bincount(place, weights=twice) > 0
    first = np.unique(place, return_index=True)[1]
    return np.where(ambiguous[place], np.arange(len(points)), first[place])
