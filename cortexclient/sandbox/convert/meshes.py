"""The same meshes stored in other ways: in shards, as MICrONS and FlyWire have them, or in the legacy format.

The synthetic cortex has one draco file for each level-2 id. Clients read shards by byte ranges, and the legacy format
by another decoder; folders made here let them be tried on the same surfaces.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cortexclient.sandbox.cortex.files import write_json
from cortexclient.sandbox.layout import DataFolder

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
    import pandas as pd
    from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

    copy, old, new = _linked(folder, destination)
    contents = {path.name: path.read_bytes() for path in sorted(old.glob("*:*"))}
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
    info = copy.json("precomputed", "seg", new.name, "info")
    write_json(new / "info", info | {"sharding": {str(_LAYER): _SHARDING}})
    graph = copy.json("chunkedgraph", "info.json")
    graph["sharded_mesh"] = True
    graph["mesh_metadata"] = {**graph.get("mesh_metadata", {}), "max_meshed_layer": _LAYER}
    table = pd.read_parquet(copy.file("meshes.parquet"))
    for name in ("chunkedgraph/info.json", "meshes.parquet"):
        copy.file(name).unlink()  # a link into the folder that was copied
    write_json(copy.file("chunkedgraph", "info.json"), graph)
    table.assign(fragment=table["fragment"].replace(names)).to_parquet(
        copy.file("meshes.parquet"), index=False
    )
    return copy


def legacy_meshes(folder: DataFolder, destination: str | Path) -> DataFolder:
    """Copy a folder, with its draco fragments in the legacy format: a count, float32 vertices in nm, uint32 triangles.

    Parameters and errors are those of :func:`shard_meshes`.
    """
    import DracoPy
    import numpy as np

    copy, old, new = _linked(folder, destination)
    for path in old.glob("*:*"):
        mesh = DracoPy.decode(path.read_bytes())
        points = np.asarray(mesh.points, dtype="<f4").reshape(-1, 3)
        faces = np.asarray(mesh.faces, dtype="<u4").reshape(-1, 3)
        (new / path.name).write_bytes(np.uint32(len(points)).tobytes() + points.tobytes() + faces.tobytes())
    return copy


def _linked(folder: DataFolder, destination: str | Path) -> tuple[DataFolder, Path, Path]:
    """A copy of a folder in which all files but the meshes are links, and where the meshes were and shall be."""
    meshes = Path("precomputed", "seg", str(folder.json("chunkedgraph", "info.json")["mesh"]))
    source, place = folder.path.resolve(), Path(destination)

    def left_out(parent: str, names: list[str]) -> list[str]:
        return names if Path(parent) == source / meshes else []

    shutil.copytree(source, place, ignore=left_out, copy_function=os.symlink)
    shutil.copy(source / meshes / "info", place / meshes)
    return DataFolder.open(place), source / meshes, place / meshes
