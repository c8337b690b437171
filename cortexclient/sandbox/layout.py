"""The data folder of the sandbox: where each file lies, and reading its JSON.

The layout itself is documented in ``docs/sandbox-data.md``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["DataFolder", "DataFolderError"]

# the recording of a real datastack names the same rows by where they were seen
_RECORDED_KEYS = {
    "annotation_tables": "stored: annotation_table_metadata",
    "segmentation_tables": "stored: segmentation_table_metadata",
    "frozen": "row counts recorded at freezing",
    "frozen_metadata": "materialize: metadata of one table by version",
    "unique_string_values": "unique_string_values",
}


class DataFolderError(ValueError):
    """A folder that the sandbox cannot serve."""


@dataclass(frozen=True)
class DataFolder:
    """A folder in the sandbox's layout.

    Parameters
    ----------
    path : pathlib.Path
        The folder. It must hold ``datastack_info.json``; everything else is optional.
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> DataFolder:
        """Check that a folder can be served.

        Raises
        ------
        DataFolderError
            If there is no ``datastack_info.json`` in it.
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

    @cached_property
    def pcg_table(self) -> str:
        """Name of the chunkedgraph table: the last part of the segmentation source."""
        return str(self.info["segmentation_source"]).rstrip("/").rsplit("/", 1)[-1]
