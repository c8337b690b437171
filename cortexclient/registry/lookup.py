"""From a name or alias to the places that have a dataset of that name; no spec is validated here."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cortexclient.errors import UnknownDatasetError
from cortexclient.registry.folders import NAME, layers

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.spec import DatasetSpec

__all__ = [
    "REGISTERED",
    "Candidate",
    "add",
    "candidates",
    "exists",
    "find",
    "nothing_found",
    "registered",
    "remove",
]

REGISTERED = "registered"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place that has a dataset of a name: a file of a layer, or a spec registered in this session."""

    name: str
    layer: str
    path: Path | None = None
    spec: DatasetSpec | None = None


_lock = threading.RLock()
_registered: dict[str, Candidate] = {}


def add(spec: DatasetSpec, path: Path | None) -> None:
    """Register a spec in this session, in place of one of the same name."""
    with _lock:
        _registered[spec.name] = Candidate(spec.name, REGISTERED, path, spec)


def remove(name: str) -> None:
    """Remove a registered spec.

    Raises
    ------
    UnknownDatasetError
        If there is none.
    """
    with _lock:
        if _registered.pop(name, None) is None:
            raise UnknownDatasetError(
                f"{name!r} was not registered in this session, so it cannot be unregistered"
            )


def registered() -> dict[str, Candidate]:
    """Return what was registered in this session, by name."""
    with _lock:
        return dict(_registered)


def candidates(name: str) -> list[Candidate]:
    """Return every place that has a dataset of exactly this name, the one that wins first."""
    found = [_registered[name]] if name in registered() else []
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
    word = re.compile(rb"\b" + alias.encode() + rb"\b")
    for layer in reversed(layers()):
        for name in layer.names():
            # a file that does not contain the word is not parsed
            if alias in _aliases_in(layer.file(name), word):
                return name
    return None


def _aliases_in(path: Path, word: re.Pattern[bytes] | None = None) -> list[str]:
    """Return the aliases that a file lists; none where it cannot be read, or does not hold the word at all."""
    from cortexclient.spec.nodes import to_plain
    from cortexclient.spec.yaml_reader import read_bytes, read_nodes

    content, _ = read_bytes(path, str(path))
    if b"aliases" not in content or (word is not None and word.search(content) is None):
        return []
    root, _ = read_nodes(content, str(path))
    entry = root.entries.get("aliases") if root is not None else None
    listed = to_plain(entry.node) if entry is not None else None
    return [alias for alias in listed if isinstance(alias, str)] if isinstance(listed, list) else []


def names_in(layer_files: list[Path]) -> dict[str, Path]:
    """Return the names and aliases that files answer to, the names first."""
    names = {path.stem: path for path in layer_files}
    for path in layer_files:
        for alias in _aliases_in(path):
            names.setdefault(alias, path)
    return names


def nothing_found(name: str) -> str:
    """Return the message for an unknown name: similar names, and every place that was searched."""
    from cortexclient.spec.problems import did_you_mean

    folders = layers()
    known = sorted({*registered(), *(each for layer in folders for each in layer.names())})
    aliases = {
        alias for each in registered().values() if each.spec is not None for alias in each.spec.aliases
    }
    aliases |= {
        alias for layer in folders for each in layer.names() for alias in _aliases_in(layer.file(each))
    }
    hint = did_you_mean(name, [*known, *sorted(aliases)], "")
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
