"""What datasets there are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal, overload

from cortexclient.errors import CortexError, SpecError
from cortexclient.registry.finding import Candidate, registered
from cortexclient.registry.index import Index, Line, Read, stamp
from cortexclient.registry.layers import layers

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.registry.assembly import Assembly
    from cortexclient.spec import DatasetSpec
    from cortexclient.spec.listed import ListedSpec

__all__ = ["MOST_READ_IN_FULL", "DatasetInfo", "list_datasets", "read_line"]

MOST_READ_IN_FULL = 500
"""New files that the list reads in full without being told to: about a second."""


@dataclass(frozen=True)
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
    checked : bool
        Whether its file was read in full. If not, the other fields hold all the same.
    problem : str or None
        Why it cannot be loaded; the other fields may then be empty. Of a file that was not read in full, it is looked
        for when it is asked for.
    """

    name: str
    title: str = ""
    layer: str = ""
    path: Path | None = None
    access: str = "unknown"
    aliases: tuple[str, ...] = ()
    shadows: tuple[str, ...] = ()
    stage: str = "current"
    checked: bool = True
    _problem: str | None = field(default=None, repr=False)

    @cached_property
    def problem(self) -> str | None:
        """Why the dataset cannot be loaded."""
        if self.checked or self.path is None:
            return self._problem
        return read_line(self.path, self.layer).line.problem


@overload
def list_datasets(*, details: Literal[False] = False, check: bool | None = None) -> list[str]: ...
@overload
def list_datasets(*, details: Literal[True], check: bool | None = None) -> list[DatasetInfo]: ...
def list_datasets(*, details: bool = False, check: bool | None = None) -> list[str] | list[DatasetInfo]:
    """List all datasets that can be loaded by name.

    Parameters
    ----------
    details : bool
        Say more than names. Of files that have not changed since, what was said before is kept in the cache folder once
        there are a few hundred of them.
    check : bool, optional
        Read every file in full, with all that it builds on, to say which cannot be loaded; or only as far as the
        details need, which is several times faster. Default: in full, unless more than 500 files are new. What is
        loaded is always read in full.

    Returns
    -------
    list of str or list of DatasetInfo
        In the order of their names. Without `details` no file is opened.
    """
    known: dict[str, list[Candidate]] = {name: [candidate] for name, candidate in registered().items()}
    for layer in reversed(layers()):
        for name in layer.names():
            known.setdefault(name, []).append(Candidate(name, layer.name, layer.file(name)))
    if not details:
        return sorted(known)
    places = [known[name] for name in sorted(known)]
    lines = _lines([found[0] for found in places], check)
    return [_info(found, lines[number]) for number, found in enumerate(places)]


def _info(found: list[Candidate], line: Line) -> DatasetInfo:
    from cortexclient.registry.retirement import stage_on

    winner, *hidden = found
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
        checked=line.checked,
        _problem=line.problem,
    )


def _lines(winners: list[Candidate], check: bool | None) -> list[Line]:
    """What is said about the datasets that win: from the index, else from their files."""
    index = Index.open()
    places = [(each.path, each.layer) for each in winners if each.spec is None and each.path is not None]
    known = {place: line for place in places if (line := index.get(*place)) is not None}
    if check:
        known = {place: line for place, line in known.items() if line.checked}
    unread = [place for place in places if place not in known]
    in_full = len(unread) <= MOST_READ_IN_FULL if check is None else check
    for place in unread:
        read = read_line(*place) if in_full else _skim_line(*place) or read_line(*place)
        index.put(*place, read)
        known[place] = read.line
    index.keep(places)
    return [
        _of_session(each) if each.spec is not None or each.path is None else known[each.path, each.layer]
        for each in winners
    ]


def _of_session(winner: Candidate) -> Line:
    from cortexclient.registry.assembly import finished

    try:
        return _line_of(finished(winner.spec)) if winner.spec is not None else Line()
    except CortexError as error:
        return Line(problem=str(error))


def read_line(file: Path, layer: str) -> Read:
    """Read a dataset's file in full, with all that it builds on, and say what the list says about it."""
    from cortexclient.registry.assembly import assemble

    try:
        made_of = assemble(file, layer=layer)
    except CortexError as error:
        return Read(Line(problem=str(error)), lasting=False)
    files = (*made_of.files, *made_of.absent)
    stamps = {str(name): stamp(name) for name in files}
    return Read(_line_in(made_of), stamps, made_of.lasting)


def _skim_line(file: Path, layer: str) -> Read | None:
    """Read a file only as far as the list needs; None where something is not as it should be, for a closer look."""
    from pydantic import ValidationError

    from cortexclient.registry.assembly import skim
    from cortexclient.spec.listed import LISTED, ListedSpec
    from cortexclient.spec.nodes import to_plain

    made_of = skim(file, layer=layer, only=LISTED)
    if made_of.root is None or made_of.problems:
        return None
    values = to_plain(made_of.root)
    try:
        shown = ListedSpec.model_validate({key: values[key] for key in LISTED if key in values})
    except ValidationError:
        return None
    stamps = {str(name): stamp(name) for name in (*made_of.files, *made_of.absent)}
    return Read(replace(_line_of(shown), checked=False), stamps, made_of.lasting)


def _line_in(assembly: Assembly) -> Line:
    from cortexclient.spec.problems import raise_problems

    try:
        raise_problems(assembly.problems)
    except SpecError as error:
        return Line(problem=str(error))
    return _line_of(assembly.spec) if assembly.spec is not None else Line()


def _line_of(spec: DatasetSpec | ListedSpec) -> Line:
    plan = spec.deprecation
    days = (plan.since, plan.refused_from, plan.removed_from) if plan is not None else ()
    since, refused, removed = [day.isoformat() if day else None for day in days] or [None] * 3
    return Line(
        title=spec.title,
        access=spec.access.level if spec.access else "unknown",
        aliases=spec.aliases,
        retirement=(since, refused, removed) if plan is not None else None,
    )
