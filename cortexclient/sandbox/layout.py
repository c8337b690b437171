"""The data folder of the sandbox: where each file lies, and reading its JSON.

The layout itself is documented in ``docs/sandbox-data.md``.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from cortexclient.sandbox.stores.voxels import VoxelFile

__all__ = ["DataFolder", "DataFolderError", "keep_file", "path_inside"]

# the recording of a real datastack names the same rows by where they were seen
_RECORDED_KEYS = {
    "annotation_tables": "stored: annotation_table_metadata",
    "segmentation_tables": "stored: segmentation_table_metadata",
    "frozen": "row counts recorded at freezing",
    "frozen_metadata": "materialize: metadata of one table by version",
}


def path_inside(root: Path, name: str) -> Path | None:
    """Resolve a name that a client sent; None where it leads out of the folder or no file can be called so."""
    try:
        path = (root / name).resolve()
        path.is_file()
    except (OSError, ValueError):  # too long, or it holds a NUL
        return None
    return path if path.is_relative_to(root) else None


def keep_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: others may read meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as part:
        part.write(content)
    Path(part.name).replace(path)


def voxel_nm(row: dict[str, Any]) -> tuple[float, float, float]:
    """Size of a voxel, nm, by the metadata of a table or view."""
    x, y, z = (float(row[f"voxel_resolution_{axis}"]) for axis in "xyz")
    return x, y, z


class DataFolderError(ValueError):
    """A folder that the sandbox cannot serve."""


@dataclass(frozen=True)
class DataFolder:
    """A folder in the sandbox's layout."""

    path: Path  # the folder. It must hold ``datastack_info.json``; everything else is optional

    @classmethod
    def open(cls, path: str | Path) -> DataFolder:
        """Check that a folder can be served.

        Raise DataFolderError if there is no ``datastack_info.json`` in it.
        """
        folder = cls(Path(path))
        if not (folder.path / "datastack_info.json").is_file():
            raise DataFolderError(
                f"{folder.path} has no datastack_info.json, so it is no sandbox data folder; "
                "docs/sandbox-data.md describes the layout"
            )
        return folder

    def file(self, *parts: str) -> Path:
        """Path of a file inside the folder."""
        return self.path.joinpath(*parts)

    def json(self, *parts: str, default: Any = None) -> Any:
        """Contents of a JSON file, or ``default`` where it is absent."""
        path = self.file(*parts)
        if not path.is_file():
            return default
        return json.loads(path.read_text(encoding="utf-8"))

    @cached_property
    def voxels(self) -> VoxelFile | None:
        """The volume in one file, where the folder has it so."""
        from cortexclient.sandbox.stores.voxels import VOXELS, VoxelFile

        return VoxelFile(self) if self.file("chunkedgraph", VOXELS).is_file() else None

    def content(self, name: str) -> tuple[bytes, bool] | None:
        """Read a file below ``precomputed``; one that can be made from the voxels is, and is kept.

        Return the contents, and whether they are gzipped; None where there is no such file.
        """
        path = path_inside(self.file("precomputed").resolve(), name)
        twin = path_inside(self.file("precomputed").resolve(), f"{name}.gz")
        if path is None or twin is None:
            return None
        for place, packed in ((path, False), (twin, True)):
            if place.is_file():
                return place.read_bytes(), packed
        made = None if self.voxels is None else self.voxels.file(name)
        if made is not None:
            # a folder that cannot be written to makes it again the next time
            with contextlib.suppress(OSError):
                keep_file(twin if made[1] else path, made[0])
        return made

    @cached_property
    def info(self) -> dict[str, Any]:
        """Body of the info service, with stand-in addresses."""
        body: dict[str, Any] = self.json("datastack_info.json")
        return body

    @cached_property
    def versions(self) -> list[dict[str, Any]]:
        """Materialized versions as stored, oldest first; versions are listed once each."""
        document = self.json("versions.json", default={"versions": []})
        rows: list[dict[str, Any]] = document.get("as_stored") or document["versions"]
        return sorted(rows, key=lambda row: int(row["version"]))

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Stored table metadata, in the keys of ``docs/sandbox-data.md``."""
        document = self.json("tables", "tables.json", default={})
        tables: dict[str, Any] = {
            key: document.get(key, document.get(old, {})) for key, old in _RECORDED_KEYS.items()
        }
        tables["frozen"] = {
            str(key).removeprefix("v"): value for key, value in (tables["frozen"] or {}).items()
        }
        return tables

    def live_rows(self, table: str | None) -> pd.DataFrame | None:
        """Rows of a table that nobody deleted; None where there is no such table."""
        import pandas as pd

        path = self.file("tables", f"{table}.live.parquet")
        if not table or not path.is_file():
            return None
        rows = pd.read_parquet(path)
        return rows[rows["deleted"].isna()]

    def voxel_nm(self, table: str | None) -> tuple[float, float, float]:
        """Size of a voxel of a table's positions, nm; that of the first table where it has no such one."""
        rows = [*(self.tables["annotation_tables"] or ())]
        row = next((each for each in rows if each["table_name"] == table), rows[0])
        return voxel_nm(row)

    @cached_property
    def pcg_table(self) -> str:
        """Name of the chunkedgraph table: the last part of the segmentation source."""
        return str(self.info["segmentation_source"]).rstrip("/").rsplit("/", 1)[-1]
