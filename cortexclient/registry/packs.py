"""Spec packs: installed packages that bring YAML files, announced by entry points ``cortexclient.datasets``.

The entry point's value is the package that holds the files, for example ``lab_specs = "lab_package.specs"``. Its code
is not run: only its folder is looked up.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from cortexclient.registry.layers import Layer

__all__ = ["GROUP", "broken_packs", "forget_packs", "pack_layers"]

GROUP = "cortexclient.datasets"


def pack_layers() -> tuple[Layer, ...]:
    """Return the folders of all installed packs, in the order of their names; looked up once per process."""
    return _packs()[0]


def broken_packs() -> tuple[str, ...]:
    """Say of every pack whose folder cannot be found what it names, one sentence each."""
    return _packs()[1]


@cache
def _packs() -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    from importlib.metadata import entry_points

    found: list[Layer] = []
    broken: list[str] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        package = point.value.partition(":")[0].strip()
        folder = _folder_of(package)
        if folder is None:
            where = f" of {point.dist.name}" if point.dist is not None else ""
            broken.append(
                f"the pack {point.name}{where} names {package}, but there is no such folder; correct the entry point "
                f"{GROUP} in its pyproject.toml, and check that its YAML files are installed"
            )
        else:
            found.append(Layer(f"pack {point.name}", folder))
    return tuple(found), tuple(broken)


def forget_packs() -> None:
    """Look the packs up anew at the next question (after an installation, say)."""
    _packs.cache_clear()


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
