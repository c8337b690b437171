"""Under which names a data folder is served."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from cortexclient.sandbox.world import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cortexclient.sandbox.layout import DataFolder
    from cortexclient.spec import DatasetSpec

__all__ = ["RenamedExports", "names_for", "own_names"]


def names_for(folder: DataFolder, spec: DatasetSpec | None) -> Names:
    """Names for a folder that is served for a spec.

    A synthetic cortex takes every name from the spec. Recorded data keep their own table names, which mean what they
    meant where they were recorded; only the datastack is called as the spec calls it.
    """
    own = own_names(folder)
    if spec is None:
        return own
    tables: Mapping[str, str] = own.tables
    versions: Mapping[int, int] = own.versions
    if is_cortex(folder):
        from cortexclient.sandbox.build import default_names

        tables, versions = default_names(spec), _version_numbers(folder, spec)
    return Names(
        datastack=spec.datastack,
        aligned_volume=own.aligned_volume,
        pcg_table=own.pcg_table,
        tables=tables,
        versions=versions,
    )


def _version_numbers(folder: DataFolder, spec: DatasetSpec) -> dict[int, int]:
    """Numbers that a spec's own versions have, for those of a folder: the newest becomes the spec's default or newest.

    So a default version, and tables that live from one version to another, mean on the sandbox what they mean in
    production. A spec without versions leaves the folder's numbers as they are.
    """
    declared = {entry.version: entry.status == "expired" for entry in spec.versions}
    if isinstance(spec.default_version, int):
        declared.setdefault(spec.default_version, False)
        declared = {number: gone for number, gone in declared.items() if number <= int(spec.default_version)}
    numbers: dict[int, int] = {}
    below = max(declared, default=0) + 1
    for row in reversed(folder.versions) if declared else ():
        fitting = [
            number for number, gone in declared.items() if number < below and gone != bool(row["valid"])
        ]
        below = max(fitting, default=below - 1)
        if below < 1:
            return {}
        numbers[int(row["version"])] = below
    return numbers


def own_names(folder: DataFolder) -> Names:
    """Names that stand in the folder itself."""
    versions = folder.versions
    datastack = folder.info.get("datastack") or (versions[0]["datastack"] if versions else folder.path.name)
    return Names(
        datastack=str(datastack),
        aligned_volume=str(folder.info["aligned_volume"]["name"]),
        pcg_table=folder.pcg_table,
    )


def is_cortex(folder: DataFolder) -> bool:
    """Whether a folder holds a synthetic cortex, whose names are ours to give."""
    return folder.file("truth", "cells.parquet").is_file()


class RenamedExports:
    """The static exports of a folder under the names that a spec uses: a folder of links, for as long as it is served.

    Exports are files that clients read by themselves, so no server can rename them on the way.
    """

    _PARTS = re.compile(r"^(?P<table>.+?)(?P<rest>(?:_merged)?(?:_header)?\.csv(?:\.gz)?)$")

    _FOLDER = re.compile(r"^v(?P<number>\d+)")

    def __init__(self, folder: DataFolder, names: Names) -> None:
        exports = folder.file("exports")
        self.path: str | None = f"file://{exports.resolve()}" if exports.is_dir() else None
        self.close: Callable[[], object] = lambda: None
        if self.path is None or not (names.tables or names.versions):
            return
        links = Path(tempfile.mkdtemp(prefix="cortexclient-exports-"))
        self.close = weakref.finalize(self, _remove, links, os.getpid())
        for file in exports.rglob("*"):
            match = self._PARTS.match(file.name)
            if file.is_file():
                link = links / self._FOLDER.sub(
                    lambda found: f"v{names.public_version(int(found['number']))}",
                    str(file.parent.relative_to(exports)),
                )
                link.mkdir(parents=True, exist_ok=True)
                name = names.public(match["table"]) + match["rest"] if match else file.name
                (link / name).symlink_to(file.resolve())
        self.path = f"file://{links}"


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that ends must leave its parent's links alone
        shutil.rmtree(folder, ignore_errors=True)
