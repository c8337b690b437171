"""Validation of spec files without loading them: every problem of every file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cortexclient.registry.assembly import assemble
from cortexclient.registry.lookup import candidates, exists, layers, names_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cortexclient.registry.assembly import Assembly
    from cortexclient.spec.problems import Problem

__all__ = ["Checked", "all_folders", "spec_files", "validate"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that was checked, and its errors and warnings in the order of the file."""

    path: Path
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the dataset can be loaded; warnings do not keep it from that."""
        return all(problem.severity != "error" for problem in self.problems)


def all_folders() -> list[Path]:
    """Return every folder that specs are looked for in and that exists."""
    return [layer.folder for layer in layers() if layer.folder.is_dir()]


def spec_files(path: Path) -> list[Path]:
    """Return the files meant by a path: the file itself, or the ``*.yaml`` of a folder."""
    return sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]


def validate(paths: Iterable[Path]) -> list[Checked]:
    """Check spec files and folders of them.

    Each file is checked by itself and against the others that are given and those beside it.
    """
    files = list(dict.fromkeys(file for path in paths for file in spec_files(Path(path))))
    return [Checked(file, tuple(sorted(_problems(file)))) for file in files]


def _problems(file: Path) -> Iterator[Problem]:
    from cortexclient.spec.problems import Problem, warnings_for

    if file.suffix != ".yaml":
        message, advice = "only files ending in .yaml are found by name", f"rename it to {file.stem}.yaml"
        yield Problem(str(file), 1, 1, "CX301", "", message, advice)
    assembly = assemble(file, must_match=True)
    yield from assembly.problems
    if assembly.spec is not None and assembly.root is not None:
        yield from warnings_for(assembly.spec, assembly.root)
        yield from _successor(assembly)
    yield from _aliases(file, assembly)


def _successor(assembly: Assembly) -> Iterator[Problem]:
    """Complain if a deprecation names a successor that does not exist."""
    from cortexclient.spec.nodes import find
    from cortexclient.spec.problems import Problem

    successor = assembly.spec.deprecation.replaced_by if assembly.spec and assembly.spec.deprecation else None
    if successor is None or assembly.root is None or exists(successor):
        return
    if not (assembly.files[0].parent / f"{successor}.yaml").is_file():
        node, _, _ = find(assembly.root, ("deprecation", "replaced_by"))
        message = f"there is no dataset {successor!r}"
        yield Problem(*node.mark, "CX311", "deprecation.replaced_by", message, "name an existing one")


def _aliases(file: Path, assembly: Assembly) -> Iterator[Problem]:
    """Complain about aliases that lead to another dataset.

    In the same folder it is an error, because the alias is ambiguous. A dataset of that very name
    elsewhere goes first, which is a warning.
    """
    from cortexclient.spec.nodes import ScalarNode, SequenceNode
    from cortexclient.spec.problems import Problem

    entry = assembly.root.entries.get("aliases") if assembly.root is not None else None
    if entry is None or not isinstance(entry.node, SequenceNode):
        return
    taken = names_in([other for other in spec_files(file.parent) if other != file and other.is_file()])
    for index, node in enumerate(entry.node.items):
        if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
            continue
        place = (*node.mark, "CX302", f"aliases[{index}]")
        owner = taken.get(node.value)
        if owner is not None and (owner.stem == node.value or owner < file):
            message = f"{node.value!r} belongs to {owner.name} already"
            yield Problem(*place, message, "remove it from one of the two files")
            continue
        others = [
            each for each in candidates(node.value) if each.path is None or each.path.parent != file.parent
        ]
        if others and owner is None and assembly.spec is not None:
            message = f"{node.value!r} is the name of another dataset ({others[0].layer}), which goes first"
            yield Problem(*place, message, "choose another alias", severity="warning")
