"""Meshes in shards and in the legacy format: the same surfaces for cloud-volume and for our own client."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.convert.meshes import legacy_meshes, shard_meshes


def corners(mesh: object) -> np.ndarray:
    """Triangles as sorted rows of coordinates, so that neither order nor merging of vertices matters."""
    triangles = np.asarray(mesh.vertices, dtype=np.float64)[np.asarray(mesh.faces)]
    triangles = np.sort(np.round(triangles).astype(np.int64).view("i8,i8,i8"), axis=1)
    flat = np.ascontiguousarray(triangles).view(np.int64).reshape(len(triangles), 9)
    return flat[np.lexsort(flat.T)]


@pytest.mark.slow
@pytest.mark.parametrize("convert", [shard_meshes, legacy_meshes])
def test_other_ways_to_store_meshes(tiny: Sandbox, tmp_path: Path, convert) -> None:
    cells = tiny.truth.cells
    root = int(cells["root_id"].iloc[0])
    expected = corners(tiny.load().mesh.get_mesh(root))
    folder = convert(tiny.folder, tmp_path / "other")
    with Sandbox("sandbox", data=folder.path) as sandbox:
        client = sandbox.load()
        np.testing.assert_array_equal(corners(client.mesh.get_mesh(root)), expected)
        shards = sandbox.requests.matching("/precomputed/seg/")
        assert any("/initial/2/" in record.path for record in shards) is (convert is shard_meshes)
        theirs = client.cave.info.segmentation_cloudvolume(progress=False).mesh.get(root)
        theirs = theirs[root] if isinstance(theirs, dict) else theirs
        np.testing.assert_array_equal(corners(theirs), expected)
    with pytest.raises(FileExistsError):
        convert(tiny.folder, tmp_path / "other")
