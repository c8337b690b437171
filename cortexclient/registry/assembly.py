"""Putting a spec together from its file, the dataset that it extends, and the volume that it shares."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cortexclient.registry.notices import SpecWarning

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.nodes import MappingNode
    from cortexclient.spec.problems import Problem

__all__ = ["Assembly", "assemble", "finished", "read", "skim"]


@dataclass(slots=True)
class Assembly:
    """A spec that was put together.

    Attributes
    ----------
    root : MappingNode or None
        The merged values, each with the file and line that it came from.
    spec : DatasetSpec or None
        None where there are errors.
    problems : list of Problem
    files : list of pathlib.Path
        Every file that took part, the dataset's own first.
    absent : list of pathlib.Path
        Files that would have taken part if they existed.
    lasting : bool
        Whether the same files give the same spec in another session, where other datasets are registered.
    """

    root: MappingNode | None = None
    spec: DatasetSpec | None = None
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    absent: list[Path] = field(default_factory=list)
    lasting: bool = True


def read(path: Path, *, layer: str | None = None) -> DatasetSpec:
    """Read a dataset's file with all that it builds on, ready for use.

    Raises
    ------
    SpecError
        With every problem of the file.
    """
    from cortexclient.registry.memory import remembered

    return remembered(path, layer)


def finished(what: Mapping[str, Any] | DatasetSpec) -> DatasetSpec:
    """Make a spec ready for use: a mapping is put together like a file.

    Raises
    ------
    SpecError
        If it has problems.
    """
    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.nodes import MappingNode, from_plain
    from cortexclient.spec.problems import raise_problems

    if isinstance(what, DatasetSpec):
        return what
    root = from_plain(what, "<mapping>")
    if not isinstance(root, MappingNode):
        raise TypeError(f"a spec is a mapping, a DatasetSpec or a path, not {type(what).__name__}")
    result = Assembly(root=root)
    _complete(result, name=None)
    raise_problems(result.problems)
    for problem in result.problems:
        warnings.warn(str(problem), SpecWarning, stacklevel=5)
    if result.spec is None:
        raise TypeError("a spec without problems is a spec")
    return result.spec


def assemble(path: Path, *, layer: str | None = None, must_match: bool = False) -> Assembly:
    """Put a dataset together from its file.

    Parameters
    ----------
    path : pathlib.Path
    layer : str, optional
        The layer that it was found in; there its name must equal the file's.
    must_match : bool
        Whether the name must equal the file's stem wherever the file lies.
    """
    from cortexclient.spec.reading import load_nodes

    root, problems = load_nodes(path)
    result = Assembly(root=root, problems=problems, files=[path])
    if root is not None:
        _complete(result, name=path.stem if layer is not None or must_match else None)
    return result


def skim(path: Path, *, layer: str, only: AbstractSet[str]) -> Assembly:
    """Put some values of a dataset together, with what it takes over for them; nothing is validated."""
    from cortexclient.registry.inheritance import build_up
    from cortexclient.spec.reading import skim_nodes

    root, problems = skim_nodes(path, {*only, "name", "schema_version", "extends"})
    result = Assembly(root=root, problems=problems, files=[path])
    if root is not None:
        result.problems += _name_problems(root, path.stem) if layer else []
        result.root = build_up(root, result)
    return result


def _complete(result: Assembly, *, name: str | None) -> None:
    from cortexclient.registry.inheritance import build_up
    from cortexclient.spec.advice import implausible
    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.problems import without_echoes
    from cortexclient.spec.reading import validate_nodes
    from cortexclient.spec.secrets import find_placeholders, find_secrets

    if result.root is None:
        return
    if name is not None:
        result.problems += _name_problems(result.root, name)
    result.root = build_up(result.root, result)
    if not result.files:
        result.problems += find_placeholders(result.root)
        result.problems += [problem for _, problem in find_secrets(result.root)]
    spec, problems = validate_nodes(result.root)
    if any(problem.code in {"CX306", "CX307"} for problem in result.problems):
        # what is missing here stands in the file that was not found: that one is the cause
        problems = [problem for problem in problems if problem.code != "CX202"]
    result.problems += without_echoes(result.problems, problems)
    if isinstance(spec, DatasetSpec):
        result.problems += implausible(spec, result.root)
    if isinstance(spec, DatasetSpec):
        spec._origin = str(result.files[0]) if result.files else None
        result.spec = spec


def _name_problems(root: MappingNode, stem: str) -> list[Problem]:
    from cortexclient.spec.nodes import ScalarNode
    from cortexclient.spec.problems import Problem

    entry = root.entries.get("name")
    if entry is None or not isinstance(entry.node, ScalarNode) or entry.node.value in {stem, None}:
        return []
    what = f"the name {entry.node.text!r} is not the file's ({stem}.yaml)"
    return [Problem(*entry.node.mark, "CX301", "name", what, f"write name: {stem}, or rename the file")]
