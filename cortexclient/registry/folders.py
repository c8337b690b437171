"""The folders in which specs are looked for, and which of them wins."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cortexclient.settings import config_dir

__all__ = [
    "BUILT_IN",
    "NAME",
    "PACKS",
    "Layer",
    "broken_packs",
    "builtin_folder",
    "forget_packs",
    "layers",
    "user_folder",
]

BUILT_IN = "built-in"
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
PACKS = "cortexclient.datasets"
"""Group of the entry points by which installed packages announce their folders of YAML files."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A folder of spec files and the name of the layer that it belongs to.

    Attributes
    ----------
    name : str
        ``built-in``, ``pack NAME``, ``user`` or ``CORTEXCLIENT_PATH``.
    folder : pathlib.Path
        It may not exist.
    """

    name: str
    folder: Path

    def file(self, dataset: str) -> Path:
        """Path at which this layer has a dataset, if it does."""
        return self.folder / f"{dataset}.yaml"

    def names(self) -> list[str]:
        """Names of the datasets in this folder, from the file names alone."""
        try:
            with os.scandir(self.folder) as entries:
                stems = [
                    entry.name[:-5] for entry in entries if entry.name.endswith(".yaml") and _is_file(entry)
                ]
        except OSError:
            return []
        return sorted(stem for stem in stems if NAME.fullmatch(stem))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads back to itself must not hide its neighbours
        return False


@cache
def builtin_folder() -> Path:
    """Folder of the specs that come with cortexclient.

    In a wheel that is ``cortexclient/_specs``; in a checkout ``datasets/`` beside ``pyproject.toml``. The latter file
    is asked for because ``site-packages/datasets`` may well be somebody else's package.
    """
    package = Path(__file__).resolve().parents[1]
    packed = package / "_specs"
    if packed.is_dir() or not (package.parent / "pyproject.toml").is_file():
        return packed
    return package.parent / "datasets"


def user_folder() -> Path:
    """Folder for the user's own specs; it is not created here."""
    return config_dir() / "datasets"


def layers() -> list[Layer]:
    """Return all folders, from the one that loses to the one that wins.

    As in any search path, the first folder of ``CORTEXCLIENT_PATH`` wins over the ones behind it.
    """
    parts = os.environ.get("CORTEXCLIENT_PATH", "").split(os.pathsep)
    path = [Path(part).expanduser() for part in parts if part.strip()]
    return [
        Layer(BUILT_IN, builtin_folder()),
        *_packs()[0],
        Layer("user", user_folder()),
        *(Layer("CORTEXCLIENT_PATH", folder) for folder in reversed(path)),
    ]


# --------------------------------------------------------------------------------------------------------------- packs
def broken_packs() -> tuple[str, ...]:
    """Return one sentence for every installed pack whose folder cannot be found."""
    return _packs()[1]


def forget_packs() -> None:
    """Look for installed packs again (after an installation, for example)."""
    _packs.cache_clear()


@cache
def _packs() -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Folders of all packs in the order of their names, and what is wrong with others; looked up once per process."""
    from importlib.metadata import entry_points

    found: list[Layer] = []
    broken: list[str] = []
    for point in sorted(entry_points(group=PACKS), key=lambda point: (point.name, point.value)):
        package = point.value.partition(":")[0].strip()
        folder = _folder_of(package)
        if folder is None:
            distribution = f" of {point.dist.name}" if point.dist is not None else ""
            broken.append(
                f"the pack {point.name}{distribution} names {package}, but there is no such folder; "
                f"correct the entry point {PACKS} in its pyproject.toml, and check that its YAML files are installed"
            )
        else:
            found.append(Layer(f"pack {point.name}", folder))
    return tuple(found), tuple(broken)


def _folder_of(package: str) -> Path | None:
    # find_spec on a dotted name imports the parents; walking down from the top-level package runs no code at all
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(place).joinpath(*rest)
        if folder.is_dir():
            return folder
    return None
