"""What a sandbox serves: the spec and the data folder that its arguments stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cortexclient.sandbox.layout import DataFolder

if TYPE_CHECKING:
    from cortexclient.sandbox.sandbox import Sandbox
    from cortexclient.spec import DatasetSpec

__all__ = ["find_folder", "plain_spec", "resolve_spec"]


def resolve_spec(spec: str | Path | DatasetSpec | None, data: object) -> DatasetSpec | None:
    """Spec of a name, a file or a spec; None where a folder is served under its own names."""
    if spec is None:
        if data is not None:
            return None
        spec = "sandbox"
    from cortexclient import registry

    resolved, _ = registry.resolve(spec)
    return resolved


def find_folder(
    spec: DatasetSpec | None, data: str | Path | DataFolder | None, size: str, seed: int | None
) -> DataFolder:
    """Folder to serve: the one that is given, or the synthetic cortex of a size, built where it is not in the cache."""
    if isinstance(data, DataFolder):
        return data
    if data is not None:
        return DataFolder.open(data)
    from cortexclient.sandbox.build import DEFAULT_SEED, SIZES, build_cortex

    for known in SIZES:
        if known == size:
            return build_cortex(spec, size=known, seed=DEFAULT_SEED if seed is None else seed)
    raise ValueError(f"unknown size {size!r}; choose one of {', '.join(SIZES)}")


def plain_spec(sandbox: Sandbox) -> DatasetSpec:
    """Spec with the least in it, for a folder that was served under its own names."""
    from cortexclient.spec import DatasetSpec

    name = "".join(letter if letter.isalnum() else "_" for letter in sandbox.datastack.lower())
    return DatasetSpec.model_validate(
        {
            "name": name,
            "title": f"Data folder {sandbox.folder.path.name}",
            "server_address": sandbox.url,
            "datastack": sandbox.datastack,
        }
    )
