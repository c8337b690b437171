"""From a name, a path or a mapping to one `DatasetSpec`, and the list of all datasets."""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from cortexclient.credentials import host_of, trusted_hosts
from cortexclient.errors import CortexError, UnknownDatasetError
from cortexclient.registry import lookup
from cortexclient.registry.assembly import SpecWarning, finished, read
from cortexclient.registry.lookup import BUILT_IN, Candidate, SpecFolder, builtin_folder, layers, registered
from cortexclient.settings import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cortexclient.spec import DatasetSpec

__all__ = [
    "DatasetInfo",
    "get_spec",
    "is_deprecated",
    "is_trusted",
    "list_datasets",
    "register",
    "resolve",
]

_shadows_reported: set[tuple[str, str]] = set()


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

    Examples
    --------
    >>> mine = {"name": "my_brain", "title": "Mine", "datastack": "brain"}
    >>> spec = cortexclient.register({**mine, "server_address": "https://cave.my.lab"})
    >>> cortexclient.load("my_brain").datastack_name
    'brain'
    >>> cortexclient.registry.unregister("my_brain")
    """
    path: Path | None = None
    if isinstance(spec, str | Path):
        path = expanded(spec).absolute()
        made = read(path)
    else:
        made = finished(spec)
    lookup.add(made, path)
    return made


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

    Examples
    --------
    >>> cortexclient.get_spec("minnie_public").datastack
    'minnie65_public'
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
    if isinstance(what, os.PathLike):
        return read(expanded(what)), None
    if not isinstance(what, str):
        return finished(what), None
    if what.endswith((".yaml", ".yml")) or "/" in what or os.sep in what:
        return read(expanded(what)), None
    name, at, version = what.partition("@")
    number = None
    if at and version != "latest":
        if not re.fullmatch(r"[1-9][0-9]{0,8}", version):
            raise UnknownDatasetError(
                f"{what!r}: write the number of a version behind the @, as in {name}@1300"
            )
        number = int(version)
    return _named(name), number


def _named(name: str) -> DatasetSpec:
    found = lookup.find(name)
    if not found:
        raise UnknownDatasetError(lookup.nothing_found(name))
    _warn_of_shadows(found)
    spec = _spec_at(found[0])
    if is_deprecated(spec) and spec.deprecation is not None:
        plan = spec.deprecation
        reason = f" ({plan.message.rstrip('.')})" if plan.message else ""
        instead = f"; use {plan.replaced_by} instead" if plan.replaced_by else ""
        warnings.warn(f"the dataset {spec.name} is deprecated{reason}{instead}", SpecWarning, stacklevel=5)
    return spec


def is_deprecated(spec: DatasetSpec, today: date | None = None) -> bool:
    """Whether a spec is deprecated on a day (default: today)."""
    plan = spec.deprecation
    return plan is not None and (plan.since is None or plan.since <= (today or datetime.now(UTC).date()))


def _warn_of_shadows(found: list[Candidate]) -> None:
    """Report once that a file of the user's hides a dataset that comes with cortexclient."""
    winner, *hidden = found
    if winner.layer == BUILT_IN or not any(candidate.layer == BUILT_IN for candidate in hidden):
        return
    where = str(winner.path or "a spec registered in this session")
    if (winner.name, where) in _shadows_reported:
        return
    _shadows_reported.add((winner.name, where))
    warnings.warn(
        f"{winner.name} comes from {where} ({winner.layer}), which hides the built-in dataset of that name",
        SpecWarning,
        stacklevel=6,
    )


# --------------------------------------------------------------------------------------------------------------- trust
def is_trusted(host: str) -> bool:
    """Whether the user's general token, the one that is stored without a server, may be sent to a host.

    A spec is a file that anybody can write, so no spec can make a host trusted: only the built-in datasets do,
    where the address is a verified fact, and the user (`trust`). Not even this machine is: one of its ports may be
    somebody else's. A token that is stored for a server goes to that server in any case, and to no other.

    Parameters
    ----------
    host : str
        A host name or an address (``https://cave.my.lab/info``).
    """
    name = host_of(host)
    return bool(name) and (name in trusted_hosts() or _is_builtin(name))


@lru_cache(maxsize=64)
def _is_builtin(host: str) -> bool:
    layer = SpecFolder(BUILT_IN, builtin_folder())
    for name in layer.names():
        with suppress(CortexError):
            spec = read(layer.file(name), layer=BUILT_IN)
            if spec.host == host and spec.is_verified("server_address"):
                return True
    return False


# -- the list of datasets --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One line of the list of datasets.

    Attributes
    ----------
    name, title : str
    layer : str
        Where it comes from: ``built-in``, ``pack ...``, ``user``, ``CORTEXCLIENT_PATH``, ``registered``.
    path : pathlib.Path or None
        Its file.
    access : str
        ``public``, ``login``, ``group`` or ``unknown``.
    aliases : tuple of str
    shadows : tuple of str
        Layers that have a dataset of the same name, which this one hides.
    deprecated : bool
        Whether loading it warns that another one should be used.
    problem : str or None
        Why it cannot be loaded; the other fields may then be empty.
    """

    name: str
    title: str = ""
    layer: str = ""
    path: Path | None = None
    access: str = "unknown"
    aliases: tuple[str, ...] = ()
    shadows: tuple[str, ...] = ()
    deprecated: bool = False
    problem: str | None = None


@overload
def list_datasets(*, details: Literal[False] = False) -> list[str]: ...
@overload
def list_datasets(*, details: Literal[True]) -> list[DatasetInfo]: ...
def list_datasets(*, details: bool = False) -> list[str] | list[DatasetInfo]:
    """List all datasets that can be loaded by name.

    Parameters
    ----------
    details : bool
        Read the files and return more than names. Without it no file is opened.

    Returns
    -------
    list of str or list of DatasetInfo
        In the order of their names.

    Examples
    --------
    >>> "minnie_public" in cortexclient.list_datasets()
    True
    """
    known: dict[str, list[Candidate]] = {name: [candidate] for name, candidate in registered().items()}
    for layer in reversed(layers()):
        for name in layer.names():
            known.setdefault(name, []).append(Candidate(name, layer.name, layer.file(name)))
    return [_describe(known[name]) for name in sorted(known)] if details else sorted(known)


def _describe(found: list[Candidate]) -> DatasetInfo:
    winner, *hidden = found
    shadows = tuple(candidate.layer for candidate in hidden)
    info = DatasetInfo(winner.name, layer=winner.layer, path=winner.path, shadows=shadows)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are shown when the dataset is loaded or validated
            spec = _spec_at(winner)
    except CortexError as error:
        return replace(info, problem=str(error))
    access = spec.access.level if spec.access else "unknown"
    deprecated = is_deprecated(spec)
    return replace(info, title=spec.title, access=access, aliases=spec.aliases, deprecated=deprecated)


def _spec_at(place: Candidate) -> DatasetSpec:
    if place.spec is not None:
        return place.spec
    if place.path is None:  # a place has one or the other
        raise UnknownDatasetError(lookup.nothing_found(place.name))
    return read(place.path, layer=place.layer)
