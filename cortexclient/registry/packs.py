"""Spec packs: installed packages that bring YAML files, announced by entry points ``cortexclient.datasets``.

The entry point's value is the package that holds the files, for example ``lab_specs = "lab_package.specs"``. Its code
is not run: only its folder is looked up.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cortexclient.registry.layers import Layer

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "forget_packs", "pack_layers"]

GROUP = "cortexclient.datasets"
_log = logging.getLogger(__name__)


@cache
def pack_layers() -> tuple[Layer, ...]:
    """Return the folders of all installed packs, in the order of their names; looked up once per process."""
    from importlib.metadata import entry_points

    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    return tuple(layer for point in points if (layer := _layer(point)) is not None)


def forget_packs() -> None:
    """Look the packs up anew at the next question (after an installation, say)."""
    pack_layers.cache_clear()


def _layer(point: EntryPoint) -> Layer | None:
    package = point.value.partition(":")[0].strip()
    folder = _folder_of(package)
    if folder is None:
        _log.warning("the spec pack %s names the package %s, which is not installed", point.name, package)
        return None
    return Layer(f"pack {point.name}", folder)


def _folder_of(package: str) -> Path | None:
    # find_spec on a dotted name imports the parents; walking down from the top-level package runs no code at all
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    for place in spec.submodule_search_locations:
        folder = Path(place).joinpath(*rest)
        if folder.is_dir():
            return folder
    return None
