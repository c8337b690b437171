"""Putting a spec together from its file, the dataset that it extends, and the volume that it shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.nodes import MappingNode
    from cortexclient.spec.problems import Problem

__all__ = ["Assembly", "assemble", "finished", "read"]

MOST_PARENTS = 10


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
    """

    root: MappingNode | None = None
    spec: DatasetSpec | None = None
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


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


def _complete(result: Assembly, *, name: str | None) -> None:
    from cortexclient.registry.inheritance import build_up
    from cortexclient.spec.reading import validate_nodes

    if result.root is None:
        return
    if name is not None:
        result.problems += _name_problems(result.root, name)
    result.root = build_up(result.root, result)
    spec, problems = validate_nodes(result.root)
    result.problems += problems
    if spec is not None and result.files:
        spec._origin = str(result.files[0])
    result.spec = spec  # type: ignore[assignment]


def _name_problems(root: MappingNode, stem: str) -> list[Problem]:
    from cortexclient.spec.nodes import ScalarNode
    from cortexclient.spec.problems import Problem

    entry = root.entries.get("name")
    if entry is None or not isinstance(entry.node, ScalarNode) or entry.node.value in {stem, None}:
        return []
    what = f"the name {entry.node.text!r} is not the file's ({stem}.yaml)"
    return [Problem(*entry.node.mark, "CX301", "name", what, f"write name: {stem}, or rename the file")]
