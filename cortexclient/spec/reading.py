"""From a YAML file to a `DatasetSpec`, with every problem of the file in one error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from cortexclient.spec.dataset import DatasetSpec
from cortexclient.spec.merge import overlay
from cortexclient.spec.migrate import migrate
from cortexclient.spec.nodes import MappingNode, from_plain, to_plain
from cortexclient.spec.problems import Problem, raise_problems, without_echoes
from cortexclient.spec.secrets import find_placeholders, find_secrets, find_secrets_in_text, may_hold_secrets
from cortexclient.spec.translate import problems_from
from cortexclient.spec.yaml_reader import read_bytes, read_nodes

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from cortexclient.spec.volume import VolumeSpec

__all__ = ["load_nodes", "read_spec", "skim_nodes", "spec_from_mapping", "validate_nodes"]


def skim_nodes(path: Path, only: Container[str]) -> tuple[MappingNode | None, list[Problem]]:
    """Read some keys of a file into nodes of the current schema, for what must be quick; nothing else is looked at."""
    content, problems = read_bytes(path, str(path))
    if problems:
        return None, problems
    root, problems = read_nodes(content, str(path), only=only)
    return (None, problems) if root is None else (migrate(root)[0], problems)


def load_nodes(path: Path) -> tuple[MappingNode | None, list[Problem]]:
    """Read a file into nodes of the current schema, and look for secrets in all of its text.

    Returns
    -------
    root : MappingNode or None
        None where nothing can be made of the file.
    problems : list of Problem
    """
    content, problems = read_bytes(path, str(path))
    if problems:
        return None, problems
    root, problems = read_nodes(content, str(path))
    if root is not None:
        root, more = migrate(root)
        problems += [*more, *find_placeholders(root)]
    if not may_hold_secrets(content):
        return root, problems
    if root is not None:
        problems += [problem for _, problem in find_secrets(root)]
    seen = {problem.line for problem in problems if problem.code == "CX401"}
    problems += [problem for problem in find_secrets_in_text(content, str(path)) if problem.line not in seen]
    return root, problems


def read_text(text: str, label: str = "<text>") -> tuple[DatasetSpec | None, list[Problem]]:
    """Read the text of a self-contained spec: the spec, None where there are errors, and all problems."""
    content = text.encode("utf-8", "surrogatepass")
    root, problems = read_nodes(content, label)
    if root is None:
        return None, problems
    problems += [*find_placeholders(root), *find_secrets_in_text(content, label)]
    spec, more = validate_nodes(root)
    return cast("DatasetSpec | None", spec), problems + without_echoes(problems, more)


def validate_nodes(
    root: MappingNode, model: type[VolumeSpec] = DatasetSpec
) -> tuple[VolumeSpec | None, list[Problem]]:
    """Make a spec of merged nodes.

    Returns
    -------
    spec : DatasetSpec or VolumeSpec or None
        None where there are problems.
    problems : list of Problem
    """
    try:
        return model.model_validate(to_plain(root)), []
    except ValidationError as error:
        secret = [path for path, _ in find_secrets(root)]
        return None, problems_from(error, root, model, hidden=secret)


def spec_from_mapping(
    values: Mapping[str, Any], *, onto: Mapping[str, Any] | None = None, label: str = "<mapping>"
) -> DatasetSpec:
    """Make a spec of a mapping that is nested like the YAML.

    Parameters
    ----------
    values : mapping
    onto : mapping, optional
        What `values` are merged onto: maps by key, lists replace, None clears.
    label : str
        What messages call it in place of a file name.

    Raises
    ------
    SpecError
        With all problems.
    """
    root = cast("MappingNode", from_plain(values, label))
    if onto is not None:
        root = overlay(cast("MappingNode", from_plain(onto, label)), root)
    found = [*find_placeholders(root), *(problem for _, problem in find_secrets(root))]
    spec, problems = validate_nodes(root)
    raise_problems(found + without_echoes(found, problems))
    return cast("DatasetSpec", spec)


def read_spec(path: str | Path) -> DatasetSpec:
    """Read one self-contained spec file; the registry also follows ``extends`` and ``volume``.

    Raises
    ------
    SpecError
        With all problems of the file.
    """
    root, problems = load_nodes(Path(path))
    spec: VolumeSpec | None = None
    if root is not None:
        spec, more = validate_nodes(root)
        problems += without_echoes(problems, more)
    raise_problems(problems)
    result = cast("DatasetSpec", spec)
    result._origin = str(path)
    return result
