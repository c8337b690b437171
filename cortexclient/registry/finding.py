"""From a name, a path or a mapping to one `DatasetSpec`."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.errors import UnknownDatasetError
from cortexclient.forking import ForkSafeLock
from cortexclient.registry.layers import BUILT_IN, NAME, REGISTERED, layers
from cortexclient.registry.notices import SpecWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cortexclient.spec import DatasetSpec

__all__ = [
    "Candidate",
    "candidates",
    "exists",
    "get_spec",
    "nothing_found",
    "register",
    "registered",
    "resolve",
    "unregister",
]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place that has a dataset of a name: a file of a layer, or a spec registered in this session."""

    name: str
    layer: str
    path: Path | None = None
    spec: DatasetSpec | None = None


_lock = ForkSafeLock()
_registered: dict[str, Candidate] = {}
_told: set[tuple[str, str]] = set()


# --------------------------------------------------------------------------------------------------------- registering
def register(spec: str | Path | Mapping[str, Any] | DatasetSpec) -> DatasetSpec:
    """Make a dataset known in this session, under its own name and its aliases.

    Parameters
    ----------
    spec : path, mapping or DatasetSpec
        A YAML file, the same as a mapping, or a finished spec. A dataset of that name that was registered before is
        replaced; one from a file is hidden.

    Returns
    -------
    DatasetSpec

    Raises
    ------
    SpecError
        With every problem of the file.
    """
    from cortexclient.registry.assembly import finished, read

    path: Path | None = None
    if isinstance(spec, str | Path):
        path = Path(spec).expanduser().absolute()
        made = read(path)
    else:
        made = finished(spec)
    with _lock:
        _registered[made.name] = Candidate(made.name, REGISTERED, path, made)
    return made


def unregister(name: str) -> None:
    """Forget a dataset that was registered in this session.

    Raises
    ------
    UnknownDatasetError
        If it was not.
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


# ------------------------------------------------------------------------------------------------------------- finding
def candidates(name: str) -> list[Candidate]:
    """Every place that has a dataset of exactly this name, the one that wins first."""
    found: list[Candidate] = []
    with _lock:
        if name in _registered:
            found.append(_registered[name])
    if NAME.fullmatch(name):
        for layer in reversed(layers()):
            path = layer.file(name)
            if path.is_file():
                found.append(Candidate(name, layer.name, path))
    return found


def exists(name: str) -> bool:
    """Whether a name or alias leads to a dataset; its file is not validated."""
    from cortexclient.registry.aliases import owner_of_alias

    return bool(candidates(name)) or owner_of_alias(name) is not None


def get_spec(name: str | os.PathLike[str] | Mapping[str, Any] | DatasetSpec) -> DatasetSpec:
    """Return the spec of a dataset.

    Parameters
    ----------
    name : str, path, mapping or DatasetSpec
        As for `resolve`.

    Raises
    ------
    UnknownDatasetError
        If nothing has that name; the message lists close names and every place that was searched.
    SpecError
        If its file has mistakes.
    """
    return resolve(name)[0]


def resolve(what: str | os.PathLike[str] | Mapping[str, Any] | DatasetSpec) -> tuple[DatasetSpec, int | None]:
    """Find the spec that is meant, and the version if one was named.

    Parameters
    ----------
    what : str, path, mapping or DatasetSpec
        A name or alias (``minnie_public``), one with a version (``minnie_public@1300``), the path of a YAML file (a
        text with a slash or ending in .yaml), a mapping nested like the YAML, or a spec.

    Returns
    -------
    spec : DatasetSpec
    version : int or None

    Raises
    ------
    UnknownDatasetError
        If nothing has that name.
    SpecError
        If the file has mistakes.
    """
    from cortexclient.registry.assembly import finished, read

    if isinstance(what, os.PathLike):
        return read(Path(os.fspath(what)).expanduser()), None
    if not isinstance(what, str):
        return finished(what), None
    if what.endswith((".yaml", ".yml")) or "/" in what or os.sep in what:
        return read(Path(what).expanduser()), None
    name, version = _name_and_version(what)
    return _named(name), version


def _name_and_version(text: str) -> tuple[str, int | None]:
    name, at, version = text.partition("@")
    if not at or version == "latest":
        return name, None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise UnknownDatasetError(f"{text!r}: behind the @ stands the number of a version, as in {name}@1300")
    return name, int(version)


def _named(name: str) -> DatasetSpec:
    from cortexclient.registry.aliases import owner_of_alias
    from cortexclient.registry.assembly import finished, read
    from cortexclient.registry.retirement import heed_deprecation

    found = candidates(name)
    if not found:
        owner = owner_of_alias(name)
        found = candidates(owner) if owner is not None else []
    if not found:
        raise UnknownDatasetError(nothing_found(name))
    winner = found[0]
    _tell_about_shadows(found)
    if winner.spec is not None:
        spec = finished(winner.spec)
    elif winner.path is not None:
        spec = read(winner.path, layer=winner.layer)
    else:  # a candidate has one or the other
        raise UnknownDatasetError(nothing_found(name))
    heed_deprecation(spec)
    return spec


def _tell_about_shadows(found: list[Candidate]) -> None:
    """Say once that a file of the user's hides a dataset that comes with cortexclient."""
    winner, *hidden = found
    if winner.layer == BUILT_IN or not any(candidate.layer == BUILT_IN for candidate in hidden):
        return
    where = str(winner.path or "a spec registered in this session")
    with _lock:
        if (winner.name, where) in _told:
            return
        _told.add((winner.name, where))
    warnings.warn(
        f"{winner.name} comes from {where} ({winner.layer}), which hides the built-in dataset of that name",
        SpecWarning,
        stacklevel=5,
    )


def nothing_found(name: str) -> str:
    """Say that no dataset has a name: close names, and every place that was searched."""
    from cortexclient.registry.aliases import all_aliases
    from cortexclient.spec.problems import close_names

    folders = layers()
    known = sorted({*registered(), *(each for layer in folders for each in layer.names())})
    guesses = close_names(name, [*known, *all_aliases()])
    lines = [
        f"there is no dataset {name[:80]!r}" + (f"; did you mean {' or '.join(guesses)}?" if guesses else ".")
    ]
    lines.append(
        f"Known: {', '.join(known[:20])}" + (f" and {len(known) - 20} more." if len(known) > 20 else ".")
    )
    lines.append("Searched, in this order:")
    lines.append(f"  register(): {len(registered())} dataset(s) in this session")
    for layer in reversed(folders):
        state = f"{len(layer.names())} dataset(s)" if layer.folder.is_dir() else "no such folder"
        lines.append(f"  {layer.name}: {layer.folder} ({state})")
    for layer in folders:
        near = layer.folder / f"{name}.yml"
        if NAME.fullmatch(name) and near.is_file():
            lines.append(f"{near} ends in .yml: rename it to {name}.yaml.")
    lines.append("Give the path of a YAML file, or put it into one of these folders.")
    return "\n".join(lines)
