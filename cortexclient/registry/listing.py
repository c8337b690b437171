"""What datasets there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

from cortexclient.errors import CortexError
from cortexclient.registry.finding import Candidate, candidates, registered
from cortexclient.registry.layers import layers

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
    stage : str
        ``current``, ``deprecated``, ``refused`` or ``removed``.
    problem : str or None
        Why it cannot be loaded; the other fields are then empty.
    """

    name: str
    title: str = ""
    layer: str = ""
    path: Path | None = None
    access: str = "unknown"
    aliases: tuple[str, ...] = ()
    shadows: tuple[str, ...] = ()
    stage: str = "current"
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
        Read every file and say more than names.

    Returns
    -------
    list of str or list of DatasetInfo
        In the order of their names. Without `details` no file is opened.
    """
    folders = layers()
    names = sorted({*registered(), *(name for layer in folders for name in layer.names())})
    if not details:
        return names
    # a file may be gone again by now
    return [_info(found) for name in names if (found := candidates(name, folders))]


def _info(found: list[Candidate]) -> DatasetInfo:
    from cortexclient.registry.assembly import finished, read
    from cortexclient.registry.retirement import stage

    winner, *hidden = found
    shadows = tuple(candidate.layer for candidate in hidden)
    try:
        if winner.spec is not None:
            spec = finished(winner.spec)
        elif winner.path is not None:
            spec = read(winner.path, layer=winner.layer)
        else:
            return DatasetInfo(winner.name, layer=winner.layer)
    except CortexError as error:
        return DatasetInfo(
            winner.name, layer=winner.layer, path=winner.path, shadows=shadows, problem=str(error)
        )
    return DatasetInfo(
        name=winner.name,
        title=spec.title,
        layer=winner.layer,
        path=winner.path,
        access=spec.access.level if spec.access else "unknown",
        aliases=spec.aliases,
        shadows=shadows,
        stage=stage(spec),
    )
