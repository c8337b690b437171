"""Under which names a data folder is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.sandbox.world import Names

if TYPE_CHECKING:
    from cortexclient.sandbox.layout import DataFolder
    from cortexclient.spec import DatasetSpec

__all__ = ["names_for", "own_names"]


def names_for(folder: DataFolder, spec: DatasetSpec | None) -> Names:
    """Names for a folder that is served for a spec.

    A synthetic cortex takes every name from the spec. Recorded data keep their own table names, which mean what they
    meant where they were recorded; only the datastack is called as the spec calls it.
    """
    own = own_names(folder)
    if spec is None:
        return own
    if is_cortex(folder):
        from cortexclient.sandbox.build import default_names

        return default_names(spec)
    return Names(
        datastack=spec.datastack, aligned_volume=own.aligned_volume, pcg_table=own.pcg_table, tables=own.tables
    )


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
