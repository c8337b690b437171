"""The same meshes stored in other ways: in shards, as MICrONS and FlyWire have them, or in the legacy format.

The synthetic cortex has one draco file for each level-2 id. Clients read shards by byte ranges, and the legacy format
by another decoder; folders made here let them be tried on the same surfaces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.sandbox.layout import DataFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAYER = 2
_SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 0,
    "hash": "murmurhash3_x86_128",
    "minishard_bits": 1,
    "shard_bits": 2,
    "minishard_index_encoding": "raw",
    "data_encoding": "raw",
}


def shard_meshes(folder: DataFolder, destination: str | Path) -> DataFolder:
    """Copy a folder, with its mesh fragments in shards (``initial/2/N.shard``).

    Parameters
    ----------
    folder : DataFolder
        With draco fragments, one for each level-2 id.
    destination : str or pathlib.Path
        A new folder. Everything but the meshes is linked, not copied.

    Raises
    ------
    FileExistsError
        The destination exists.
    """
    from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

    place = _linked(folder, Path(destination))
    old, new = _mesh_folder(folder.path), _mesh_folder(place)
    contents = {name: (old / name).read_bytes() for name in _fragments(old)}
    shards = ShardingSpecification.from_dict(_SHARDING).synthesize_shards(
        {int(name.split(":")[0]): content for name, content in contents.items()}
    )
    initial = new / "initial" / str(_LAYER)
    initial.mkdir(parents=True)
    (new / "dynamic").mkdir()
    names: dict[str, str] = {}
    for shard, content in shards.items():
        (initial / shard).write_bytes(content)
    for name, content in contents.items():
        shard, start = next(
            (shard, at) for shard, whole in shards.items() if (at := whole.find(content)) >= 0
        )
        names[name] = f"~{_LAYER}/{shard}:{start}:{len(content)}"
    _write_info(new, _mesh_info(old) | {"sharding": {str(_LAYER): _SHARDING}})
    graph = json.loads((place / "chunkedgraph" / "info.json").read_text(encoding="utf-8"))
    graph["sharded_mesh"] = True
    graph["mesh_metadata"] = {**graph.get("mesh_metadata", {}), "max_meshed_layer": _LAYER}
    _replace(place / "chunkedgraph" / "info.json", json.dumps(graph))
    _rename_fragments(place, names)
    return DataFolder.open(place)


def legacy_meshes(folder: DataFolder, destination: str | Path) -> DataFolder:
    """Copy a folder, with its draco fragments in the legacy format: a count, float32 vertices in nm, uint32 triangles.

    Parameters and errors are those of :func:`shard_meshes`.
    """
    import DracoPy
    import numpy as np

    place = _linked(folder, Path(destination))
    old, new = _mesh_folder(folder.path), _mesh_folder(place)
    for name in _fragments(old):
        mesh = DracoPy.decode((old / name).read_bytes())
        points = np.asarray(mesh.points, dtype="<f4").reshape(-1, 3)
        faces = np.asarray(mesh.faces, dtype="<u4").reshape(-1, 3)
        (new / name).write_bytes(np.uint32(len(points)).tobytes() + points.tobytes() + faces.tobytes())
    _write_info(new, _mesh_info(old))
    return DataFolder.open(place)


def _linked(folder: DataFolder, place: Path) -> Path:
    """A copy of a folder in which all but the meshes and what names them is linked."""
    place.mkdir(parents=True)
    meshes = _mesh_folder(folder.path)
    for path in sorted(folder.path.rglob("*")):
        target = place / path.relative_to(folder.path)
        if path == meshes or meshes in path.parents:
            continue
        if path.is_dir():
            target.mkdir()
        else:
            target.symlink_to(path.resolve())
    _mesh_folder(place).mkdir()
    return place


def _mesh_folder(root: Path) -> Path:
    info = json.loads((root / "chunkedgraph" / "info.json").read_text(encoding="utf-8"))
    return root / "precomputed" / "seg" / str(info["mesh"])


def _fragments(meshes: Path) -> Iterator[str]:
    return (path.name for path in sorted(meshes.iterdir()) if ":" in path.name)


def _mesh_info(meshes: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((meshes / "info").read_text(encoding="utf-8"))
    return info


def _write_info(meshes: Path, info: dict[str, Any]) -> None:
    (meshes / "info").write_text(json.dumps(info), encoding="utf-8")


def _replace(path: Path, text: str) -> None:
    path.unlink()  # a link into the folder that was copied
    path.write_text(text, encoding="utf-8")


def _rename_fragments(place: Path, names: dict[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = place / "meshes.parquet"
    table = pq.read_table(path)
    column = [names.get(name, name) for name in table["fragment"].to_pylist()]
    path.unlink()  # a link into the folder that was copied
    pq.write_table(
        table.set_column(table.column_names.index("fragment"), "fragment", pa.array(column, pa.string())),
        path,
    )
