"""The list of datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

from cortexclient.errors import CortexError
from cortexclient.registry.assembly import read
from cortexclient.registry.folders import layers
from cortexclient.registry.lookup import Candidate, registered
from cortexclient.registry.specs import is_deprecated

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DatasetInfo", "list_datasets"]


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
    """
    known: dict[str, list[Candidate]] = {name: [candidate] for name, candidate in registered().items()}
    for layer in reversed(layers()):
        for name in layer.names():
            known.setdefault(name, []).append(Candidate(name, layer.name, layer.file(name)))
    return [_describe(known[name]) for name in sorted(known)] if details else sorted(known)


def _describe(found: list[Candidate]) -> DatasetInfo:
    import warnings

    winner, *hidden = found
    shadows = tuple(candidate.layer for candidate in hidden)
    spec = winner.spec
    try:
        if spec is None and winner.path is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are shown when the dataset is loaded or validated
                spec = read(winner.path, layer=winner.layer)
    except CortexError as error:
        return DatasetInfo(
            winner.name, layer=winner.layer, path=winner.path, shadows=shadows, problem=str(error)
        )
    if spec is None:
        return DatasetInfo(winner.name, layer=winner.layer)
    return DatasetInfo(
        name=winner.name,
        title=spec.title,
        layer=winner.layer,
        path=winner.path,
        access=spec.access.level if spec.access else "unknown",
        aliases=spec.aliases,
        shadows=shadows,
        deprecated=is_deprecated(spec),
    )
