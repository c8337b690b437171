"""Checking spec files before anybody loads them: every problem of every file at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cortexclient.registry.layers import Layer, layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cortexclient.registry.assembly import Assembly
    from cortexclient.spec.problems import Problem

__all__ = ["Checked", "all_folders", "spec_files", "validate"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that was checked.

    Attributes
    ----------
    path : pathlib.Path
    problems : tuple of Problem
        Errors and warnings, in the order of the file.
    """

    path: Path
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the dataset can be loaded; warnings do not keep it from that."""
        return all(problem.severity != "error" for problem in self.problems)


def spec_files(path: Path) -> list[Path]:
    """Files meant by a path: the file itself, or the ``*.yaml`` of a folder and its ``volumes``."""
    if not path.is_dir():
        return [path]
    files = [*path.glob("*.yaml"), *path.glob("*.yml"), *path.glob("volumes/*.yaml")]
    return sorted(files)


def validate(paths: Iterable[Path]) -> list[Checked]:
    """Check spec files, each by itself and against the others that are given and those beside it.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        Files, or folders of files.

    Returns
    -------
    list of Checked
        One per file.
    """
    files = list(dict.fromkeys(file for path in paths for file in spec_files(Path(path))))
    results = {file: _check(file) for file in files}
    for file, problem in _collisions(files):
        results[file].append(problem)
    return [Checked(file, tuple(sorted(problems))) for file, problems in results.items()]


def _check(file: Path) -> list[Problem]:
    from cortexclient.registry.assembly import assemble
    from cortexclient.spec.advice import warnings_for
    from cortexclient.spec.problems import Problem
    from cortexclient.spec.reading import load_nodes, validate_nodes
    from cortexclient.spec.volume import VolumeSpec

    if file.parent.name == "volumes":
        root, problems = load_nodes(file)
        return problems if root is None else problems + validate_nodes(root, VolumeSpec)[1]
    problems = []
    if file.suffix != ".yaml":
        advice = f"rename it to {file.stem}.yaml"
        problems.append(
            Problem(str(file), 1, 1, "CX301", "", "only files ending in .yaml are found by name", advice)
        )
    assembly = assemble(file, must_match=True)
    problems += assembly.problems
    if assembly.spec is not None and assembly.root is not None:
        problems += list(warnings_for(assembly.spec, assembly.root))
        problems += _successor(assembly)
        problems += _hidden_aliases(assembly)
    return problems


def _successor(assembly: Assembly) -> list[Problem]:
    """Complain if a deprecation names a successor that does not exist."""
    from cortexclient.registry.finding import exists
    from cortexclient.spec.nodes import find
    from cortexclient.spec.problems import Problem

    plan = assembly.spec.deprecation if assembly.spec else None
    if plan is None or plan.replaced_by is None or assembly.root is None or exists(plan.replaced_by):
        return []
    if (assembly.files[0].parent / f"{plan.replaced_by}.yaml").is_file():
        return []
    path = ("deprecation", "replaced_by")
    node, _, _ = find(assembly.root, path)
    what = f"there is no dataset {plan.replaced_by!r}"
    return [Problem(*node.mark, "CX311", "deprecation.replaced_by", what, "name an existing one")]


def _hidden_aliases(assembly: Assembly) -> Iterator[Problem]:
    """Warn about aliases that never lead here, because a dataset of that very name goes first."""
    from cortexclient.registry.finding import candidates
    from cortexclient.spec.nodes import find
    from cortexclient.spec.problems import Problem

    if assembly.spec is None or assembly.root is None:
        return
    own = assembly.files[0].resolve().parent
    for index, alias in enumerate(assembly.spec.aliases):
        others = [
            each for each in candidates(alias) if each.path is None or each.path.resolve().parent != own
        ]
        if others:  # in the same folder it is an error, which is reported apart
            node, _, _ = find(assembly.root, ("aliases", index))
            what = f"{alias!r} is the name of another dataset ({others[0].layer}), which goes first"
            yield Problem(
                *node.mark, "CX302", f"aliases[{index}]", what, "choose another alias", severity="warning"
            )


def _collisions(files: list[Path]) -> Iterator[tuple[Path, Problem]]:
    """Find aliases that belong to another dataset of the same folder: which of the two was meant could not be told."""
    from cortexclient.spec.nodes import MappingNode, ScalarNode, SequenceNode
    from cortexclient.spec.problems import Problem
    from cortexclient.spec.reading import load_nodes

    owners: dict[Path, dict[str, Path]] = {}
    for file in files:
        if file.parent.name == "volumes":
            continue
        taken = owners.setdefault(file.parent, _names_in(file.parent))
        root, _ = load_nodes(file)
        entry = root.entries.get("aliases") if isinstance(root, MappingNode) else None
        if entry is None or not isinstance(entry.node, SequenceNode):
            continue
        for index, node in enumerate(entry.node.items):
            if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
                continue
            owner = taken.setdefault(node.value, file)
            if owner != file:
                what = f"{node.value!r} belongs to {owner.name} already"
                yield (
                    file,
                    Problem(
                        *node.mark, "CX302", f"aliases[{index}]", what, "remove it from one of the two files"
                    ),
                )


def _names_in(folder: Path) -> dict[str, Path]:
    from cortexclient.registry.aliases import aliases_in

    layer = Layer("", folder)
    names = {name: layer.file(name) for name in layer.names()}
    for other in names.copy().values():
        for alias in aliases_in(other):
            names.setdefault(alias, other)
    return names


def all_folders() -> list[Path]:
    """Every folder that specs are looked for in and that exists."""
    return [layer.folder for layer in layers() if layer.folder.is_dir()]
