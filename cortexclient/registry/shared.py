"""Files that many datasets build on, parsed once: volumes and parents."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from cortexclient.spec.reading import load_nodes, validate_nodes
from cortexclient.spec.volume import VolumeSpec

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.spec.nodes import MappingNode
    from cortexclient.spec.problems import Problem

__all__ = ["shared_nodes"]


def shared_nodes(path: Path, *, volume: bool = False) -> tuple[MappingNode | None, list[Problem]]:
    """Read a file that others build on, unless it was read before and has not changed; a volume is validated, too.

    Returns
    -------
    root : MappingNode or None
        Nodes are never changed, so sharing them is safe.
    problems : list of Problem
    """
    status = path.stat()
    root, problems = _read(path, volume, status.st_mtime_ns, status.st_size, status.st_ino)
    return root, list(problems)


@lru_cache(maxsize=64)
def _read(
    path: Path, volume: bool, _time: int, _size: int, _inode: int
) -> tuple[MappingNode | None, tuple[Problem, ...]]:
    root, problems = load_nodes(path)
    if volume and root is not None:
        problems += validate_nodes(root, VolumeSpec)[1]
    return root, tuple(problems)
