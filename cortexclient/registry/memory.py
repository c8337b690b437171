"""Specs that were read already, until one of their files changes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cortexclient.forking import ForkSafeLock
from cortexclient.registry.index import Stamp, stamp
from cortexclient.registry.notices import SpecWarning

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.spec.dataset import DatasetSpec

__all__ = ["forget", "remembered"]

MOST_SPECS = 256


@dataclass(frozen=True, slots=True)
class _Memory:
    spec: DatasetSpec
    stamps: dict[Path, Stamp | None]

    def holds(self) -> bool:
        """Whether no file has changed."""
        return all(stamp(file) == then for file, then in self.stamps.items())


_lock = ForkSafeLock()
_memories: dict[tuple[Path, str | None], _Memory] = {}


def remembered(path: Path, layer: str | None) -> DatasetSpec:
    """Read a spec, or return the one that was read before if none of its files has changed.

    Raises
    ------
    SpecError
        If its file has mistakes.
    """
    from cortexclient.registry.assembly import assemble
    from cortexclient.spec.problems import raise_problems

    path = path.absolute()
    with _lock:
        memory = _memories.get((path, layer))
    if memory is not None and memory.holds():
        return memory.spec
    result = assemble(path, layer=layer)
    raise_problems(result.problems)
    for problem in result.problems:
        warnings.warn(str(problem), SpecWarning, stacklevel=6)
    if result.spec is None:
        raise TypeError("a spec without problems is a spec")
    if not result.lasting:
        return result.spec
    stamps = {file: stamp(file) for file in (*result.files, *result.absent)}
    with _lock:
        _memories[path, layer] = _Memory(result.spec, stamps)
        while len(_memories) > MOST_SPECS:
            _memories.pop(next(iter(_memories)))
    return result.spec


def forget() -> None:
    """Read every file anew at the next question."""
    with _lock:
        _memories.clear()
