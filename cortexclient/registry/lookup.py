"""From a name or alias to the places that have a dataset of it: folders of files, and what this session registered."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cortexclient.errors import UnknownDatasetError
from cortexclient.settings import config_dir, expanded

if TYPE_CHECKING:
    from cortexclient.spec import DatasetSpec

__all__ = [
    "BUILT_IN",
    "NAME",
    "PACKS",
    "REGISTERED",
    "Candidate",
    "SpecFolder",
    "add",
    "broken_packs",
    "builtin_folder",
    "candidates",
    "exists",
    "find",
    "forget_packs",
    "layers",
    "nothing_found",
    "registered",
    "unregister",
    "user_folder",
]

BUILT_IN = "built-in"
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
PACKS = "cortexclient.datasets"
"""Group of the entry points by which installed packages announce their folders of YAML files."""


@dataclass(frozen=True, slots=True)
class SpecFolder:
    """A folder of spec files, which may not exist; ``built-in``, ``pack NAME``, ``user`` or ``CORTEXCLIENT_PATH``."""

    name: str
    folder: Path

    def file(self, dataset: str) -> Path:
        """Path at which this layer has a dataset, if it does."""
        return self.folder / f"{dataset}.yaml"

    def names(self) -> list[str]:
        """Names of the datasets in this folder, from the file names alone."""
        files = [path for path in self.folder.glob("*.yaml") if NAME.fullmatch(path.stem)]
        return sorted(path.stem for path in files if path.is_file())


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


def layers() -> list[SpecFolder]:
    """Return all folders, from the one that loses to the one that wins.

    As in any search path, the first folder of ``CORTEXCLIENT_PATH`` wins over the ones behind it.
    """
    parts = os.environ.get("CORTEXCLIENT_PATH", "").split(os.pathsep)
    path = [expanded(part) for part in parts if part.strip()]
    return [
        SpecFolder(BUILT_IN, builtin_folder()),
        *_packs()[0],
        SpecFolder("user", user_folder()),
        *(SpecFolder("CORTEXCLIENT_PATH", folder) for folder in reversed(path)),
    ]


# --------------------------------------------------------------------------------------------------------------- packs
def broken_packs() -> tuple[str, ...]:
    """Return one sentence for every installed pack whose folder cannot be found."""
    return _packs()[1]


def forget_packs() -> None:
    """Look for installed packs again (after an installation, for example)."""
    _packs.cache_clear()


@cache
def _packs() -> tuple[tuple[SpecFolder, ...], tuple[str, ...]]:
    """Folders of all packs in the order of their names, and what is wrong with others; looked up once per process."""
    from importlib.metadata import entry_points

    found: list[SpecFolder] = []
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
            found.append(SpecFolder(f"pack {point.name}", folder))
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


# -- names -----------------------------------------------------------------------------------------------------


REGISTERED = "registered"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place that has a dataset of a name: a file of a layer, or a spec registered in this session."""

    name: str
    layer: str
    path: Path | None = None
    spec: DatasetSpec | None = None


_registered: dict[str, Candidate] = {}


def add(spec: DatasetSpec, path: Path | None) -> None:
    """Register a spec in this session, in place of one of the same name."""
    _registered[spec.name] = Candidate(spec.name, REGISTERED, path, spec)


def unregister(name: str) -> None:
    """Forget a dataset that was registered in this session.

    Raises
    ------
    UnknownDatasetError
        If it was not.
    """
    if _registered.pop(name, None) is None:
        raise UnknownDatasetError(
            f"{name!r} was not registered in this session, so it cannot be unregistered"
        )


def registered() -> dict[str, Candidate]:
    """Return what was registered in this session, by name."""
    return dict(_registered)


def candidates(name: str) -> list[Candidate]:
    """Return every place that has a dataset of exactly this name, the one that wins first."""
    own = _registered.get(name)
    found = [own] if own is not None else []
    for layer in reversed(layers()) if NAME.fullmatch(name) else ():
        path = layer.file(name)
        if path.is_file():
            found.append(Candidate(name, layer.name, path))
    return found


def find(name: str) -> list[Candidate]:
    """Do the same for a name or an alias; exact names come first."""
    found = candidates(name)
    if not found:
        owner = _owner_of(name)
        found = candidates(owner) if owner is not None else []
    return found


def exists(name: str) -> bool:
    """Whether a name or alias leads to a dataset; its file is not validated."""
    return bool(find(name))


def _owner_of(alias: str) -> str | None:
    """Return the name of the dataset that has an alias; where several have it, the one of the layer that wins."""
    if not NAME.fullmatch(alias):
        return None
    for candidate in reversed(registered().values()):
        if candidate.spec is not None and alias in candidate.spec.aliases:
            return candidate.name
    for layer in reversed(layers()):
        for name in layer.names():
            if alias in _aliases_in(layer.file(name), among=alias):
                return name
    return None


def _aliases_in(path: Path, among: str = "") -> list[str]:
    """Return the aliases that a file lists; none where it cannot be read, or does not contain a word."""
    from cortexclient.spec.nodes import to_plain
    from cortexclient.spec.yaml_reader import read_bytes, read_nodes

    content, _ = read_bytes(path, str(path))
    if b"aliases" not in content or among.encode() not in content:
        return []
    root, _ = read_nodes(content, str(path))
    entry = root.entries.get("aliases") if root is not None else None
    listed = to_plain(entry.node) if entry is not None else None
    return [alias for alias in listed if isinstance(alias, str)] if isinstance(listed, list) else []


def names_in(files: list[Path]) -> dict[str, Path]:
    """Return the names and aliases of files, the names first."""
    names = {path.stem: path for path in files}
    for path in files:
        for alias in _aliases_in(path):
            names.setdefault(alias, path)
    return names


def nothing_found(name: str) -> str:
    """Return the message for an unknown name: similar names, and every place that was searched."""
    from cortexclient.spec.problems import did_you_mean

    folders = layers()
    known = sorted({*registered(), *(each for layer in folders for each in layer.names())})
    aliases = [
        alias for each in registered().values() if each.spec is not None for alias in each.spec.aliases
    ]
    written = names_in([layer.file(each) for layer in folders for each in layer.names()])
    hint = did_you_mean(name, [*known, *aliases, *written], "")
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    lines = [
        f"there is no dataset {name[:80]!r}" + (f"; {hint}" if hint else "."),
        f"Known: {', '.join(known[:20])}{more}.",
        "Searched, in this order:",
        f"  register(): {len(registered())} dataset(s) in this session",
    ]
    for layer in reversed(folders):
        state = f"{len(layer.names())} dataset(s)" if layer.folder.is_dir() else "no such folder"
        lines.append(f"  {layer.name}: {layer.folder} ({state})")
    for layer in folders:
        near = layer.folder / f"{name}.yml"
        if NAME.fullmatch(name) and near.is_file():
            lines.append(f"{near} ends in .yml: rename it to {name}.yaml.")
    lines.append("Give the path of a YAML file, or put it into one of these folders.")
    return "\n".join(lines)
