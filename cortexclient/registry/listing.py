"""What datasets there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Literal, overload

from cortexclient.errors import CortexError, SpecError
from cortexclient.registry.finding import Candidate, candidates, registered
from cortexclient.registry.index import Index, Line
from cortexclient.registry.layers import layers

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.registry.assembly import Assembly
    from cortexclient.spec import DatasetSpec

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
        Read every file and say more than names. Of files that have not changed since, what was said before is kept in
        the cache folder once there are a few hundred of them.

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
    places = [found for name in names if (found := candidates(name, folders))]
    index = Index.open()
    infos = [_info(found, index) for found in places]
    index.keep((each.path, each.layer) for found in places for each in found[:1] if each.path is not None)
    return infos


def _info(found: list[Candidate], index: Index) -> DatasetInfo:
    from cortexclient.registry.retirement import stage_on

    winner, *hidden = found
    line = _line(winner, index)
    days = [date.fromisoformat(day) if day else None for day in line.retirement or ()]
    return DatasetInfo(
        name=winner.name,
        title=line.title,
        layer=winner.layer,
        path=winner.path,
        access=line.access,
        aliases=line.aliases,
        shadows=tuple(candidate.layer for candidate in hidden),
        stage=stage_on(datetime.now(UTC).date(), *days) if days else "current",
        problem=line.problem,
    )


def _line(winner: Candidate, index: Index) -> Line:
    """What is said about the dataset that wins: from the index, else from its file."""
    from cortexclient.registry.assembly import assemble, finished

    try:
        if winner.spec is not None:
            return _line_of(finished(winner.spec))
        if winner.path is None:
            return Line()
        known = index.get(winner.path, winner.layer)
        if known is not None:
            return known
        assembly = assemble(winner.path, layer=winner.layer)
        line = _line_in(assembly)
    except CortexError as error:
        return Line(problem=str(error))
    index.put(winner.path, winner.layer, line, assembly)
    return line


def _line_in(assembly: Assembly) -> Line:
    from cortexclient.spec.problems import raise_problems

    try:
        raise_problems(assembly.problems)
    except SpecError as error:
        return Line(problem=str(error))
    return _line_of(assembly.spec) if assembly.spec is not None else Line()


def _line_of(spec: DatasetSpec) -> Line:
    plan = spec.deprecation
    days = (plan.since, plan.refused_from, plan.removed_from) if plan is not None else ()
    since, refused, removed = [day.isoformat() if day else None for day in days] or [None] * 3
    return Line(
        title=spec.title,
        access=spec.access.level if spec.access else "unknown",
        aliases=spec.aliases,
        retirement=(since, refused, removed) if plan is not None else None,
    )
