"""Putting a spec together from its file, the dataset that it extends, and the volume that it shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    variables : dict
        Environment variables that it asked for, and what they held.
    """

    root: MappingNode | None = None
    spec: DatasetSpec | None = None
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    absent: list[Path] = field(default_factory=list)
    lasting: bool = True
    variables: dict[str, str | None] = field(default_factory=dict)


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
    from cortexclient.spec.environment import has_placeholder
    from cortexclient.spec.nodes import MappingNode, from_plain
    from cortexclient.spec.problems import raise_problems

    if isinstance(what, DatasetSpec):
        exports = what.exports.path + "".join(what.exports.mirrors) if what.exports else ""
        if not has_placeholder(what.server_address + what.datastack + exports):
            return what
        what = what.as_dict()
    root = from_plain(what, "<mapping>")
    if not isinstance(root, MappingNode):
        raise TypeError(f"a spec is a mapping, a DatasetSpec or a path, not {type(what).__name__}")
    result = Assembly(root=root)
    _complete(result, name=None)
    raise_problems(result.problems)
    if result.spec is None:
        raise TypeError("a spec without problems is a spec")
    return result.spec


def assemble(
    path: Path, *, layer: str | None = None, must_match: bool = False, strict: bool = True
) -> Assembly:
    """Put a dataset together from its file.

    Parameters
    ----------
    path : pathlib.Path
    layer : str, optional
        The layer that it was found in; there its name must equal the file's.
    must_match : bool
        Whether the name must equal the file's stem wherever the file lies.
    strict : bool
        Whether an environment variable that is not set is a problem.
    """
    from cortexclient.spec.reading import load_nodes

    root, problems = load_nodes(path)
    result = Assembly(root=root, problems=problems, files=[path])
    if root is not None:
        _complete(result, name=path.stem if layer is not None or must_match else None, strict=strict)
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


def _complete(result: Assembly, *, name: str | None, strict: bool = True) -> None:
    from cortexclient.registry.inheritance import build_up
    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.environment import fill_in
    from cortexclient.spec.problems import without_echoes
    from cortexclient.spec.reading import validate_nodes
    from cortexclient.spec.secrets import find_secrets

    if result.root is None:
        return
    if name is not None:
        result.problems += _name_problems(result.root, name)
    merged = build_up(result.root, result)
    result.root, problems, result.variables = fill_in(merged, strict=strict)
    result.problems += problems
    if not result.files:
        result.problems += [problem for _, problem in find_secrets(result.root)]
    spec, problems = validate_nodes(result.root)
    result.problems += without_echoes(result.problems, problems)
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
