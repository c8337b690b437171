"""From a YAML file to a `DatasetSpec`, with every problem of the file in one error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from cortexclient.spec.dataset import DatasetSpec, VolumeSpec
from cortexclient.spec.merge import merge
from cortexclient.spec.nodes import MappingNode, from_plain, to_plain
from cortexclient.spec.problems import Problem, raise_problems
from cortexclient.spec.translate import problems_from
from cortexclient.spec.yaml_reader import read_bytes, read_nodes

__all__ = ["load_nodes", "read_spec", "spec_from_mapping", "validate_nodes"]


def load_nodes(path: Path) -> tuple[MappingNode | None, list[Problem]]:
    """Read a file into nodes, without looking at what they mean."""
    content, problems = read_bytes(path, str(path))
    return (None, problems) if problems else read_nodes(content, str(path))


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
        return None, problems_from(error, root, model)


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
    root = from_plain(values, label)
    if onto is not None:
        root = merge(from_plain(onto, label), root)
    spec, problems = validate_nodes(cast("MappingNode", root))
    raise_problems(problems)
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
        problems = problems + more
    raise_problems(problems)
    result = cast("DatasetSpec", spec)
    result._origin = str(path)
    return result
