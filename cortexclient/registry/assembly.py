"""From a file to a spec: the file is merged onto the dataset that it extends, then validated."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cortexclient.registry.lookup import NAME, SpecFolder, candidates, layers, registered

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.nodes import MappingNode
    from cortexclient.spec.problems import Problem

__all__ = ["Assembly", "SpecWarning", "assemble", "finished", "forget", "read"]

MAX_PARENTS = 10
MAX_REMEMBERED = 256

Stamp = tuple[int, int, int] | None


class SpecWarning(UserWarning):
    """Something about a spec that the user should know: it is deprecated, implausible, or hides a built-in one."""


@dataclass(slots=True)
class Assembly:
    """A spec assembled from its files."""

    root: MappingNode | None = None
    """The merged values, each with the file and line that it came from."""
    spec: DatasetSpec | None = None
    """None where there are errors."""
    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """Every file that was read, the dataset's own first."""
    stamps: dict[Path, Stamp] = field(default_factory=dict)
    """State of these files, and of those that would have been read if they existed."""
    lasting: bool = True
    """Whether the same files always give the same spec: not if a registered spec is involved."""

    def load(self, path: Path) -> MappingNode | None:
        """Read one of the files."""
        from cortexclient.spec.reading import load_nodes

        self.stamps[path] = _stamp(path)
        self.files.append(path)
        root, problems = load_nodes(path)
        self.problems += problems
        return root

    def complain(self, root: MappingNode, key: str, code: str, message: str, advice: str) -> None:
        """Add a problem at the value of a key."""
        from cortexclient.spec.problems import Problem

        self.problems.append(Problem(*root.entries[key].node.mark, code, key, message, advice))


# ------------------------------------------------------------------------------------------------------------- reading
_remembered: dict[tuple[Path, str | None], tuple[DatasetSpec, dict[Path, Stamp]]] = {}


def read(path: Path, *, layer: str | None = None) -> DatasetSpec:
    """Read a dataset's file with all that it extends, or return the same spec again while no file has changed."""
    key = (path.absolute(), layer)
    spec, stamps = _remembered.get(key, (None, {}))
    if spec is not None and all(_stamp(file) == then for file, then in stamps.items()):
        return spec
    result = assemble(key[0], layer=layer)
    spec = _usable(result)
    if result.lasting:
        if len(_remembered) >= MAX_REMEMBERED:
            forget()
        _remembered[key] = spec, result.stamps
    return spec


def forget() -> None:
    """Forget what was read, so that every file is read again."""
    _remembered.clear()


def finished(what: Mapping[str, Any] | DatasetSpec) -> DatasetSpec:
    """Assemble a spec from a mapping; a spec is returned as it is, unless it still has a parent to inherit from."""
    from collections.abc import Mapping

    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.reading import nodes_of_mapping

    if isinstance(what, DatasetSpec):
        if what.extends is None:
            return what
        what = what.as_dict()
    if not isinstance(what, Mapping):
        raise TypeError(f"a spec is a mapping, a DatasetSpec or a path, not {type(what).__name__}")
    root, problems = nodes_of_mapping(what, "<mapping>")
    return _usable(_complete(Assembly(root=root, problems=problems)))


def _usable(result: Assembly) -> DatasetSpec:
    from cortexclient.spec.problems import raise_problems

    raise_problems(result.problems)
    for problem in result.problems:
        warnings.warn(str(problem), SpecWarning, stacklevel=6)
    if result.spec is None:
        raise TypeError("a spec without problems is a spec")
    return result.spec


def _stamp(file: Path) -> Stamp:
    """Time, size and number of a file, which change when it does; None where there is none."""
    try:
        status = file.stat()
    except (OSError, ValueError):  # of a name that no file can have
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


# ------------------------------------------------------------------------------------------------------------ assembly
def assemble(path: Path, *, layer: str | None = None, must_match: bool = False) -> Assembly:
    """Assemble a spec from its file, with every problem of all files involved.

    In a ``layer`` its name must equal the file's; with ``must_match`` wherever the file lies.
    """
    result = Assembly()
    result.root = root = result.load(path)
    if root is not None and (layer is not None or must_match):
        name = root.value("name")
        if isinstance(name, str) and name != path.stem:
            message = f"the name {name[:80]!r} is not the file's ({path.stem}.yaml)"
            advice = f"write name: {path.stem}, or rename the file"
            result.complain(root, "name", "CX301", message, advice)
    return _complete(result)


def _complete(result: Assembly) -> Assembly:
    from cortexclient.spec.dataset import DatasetSpec
    from cortexclient.spec.problems import implausible, without_repeats
    from cortexclient.spec.reading import validate_nodes

    if result.root is None:
        return result
    result.root = _inherit(result.root, result)
    spec, problems = validate_nodes(result.root, DatasetSpec)
    if any(problem.code == "CX306" for problem in result.problems):
        # these values may be in the parent that was not found, which is the cause
        problems = [problem for problem in problems if problem.code != "CX202"]
    result.problems += without_repeats(result.problems, problems)
    if spec is not None:
        result.problems += implausible(spec, result.root)
        spec._origin = str(result.files[0]) if result.files else None
        result.spec = spec
    return result


def _inherit(root: MappingNode, result: Assembly) -> MappingNode:
    """Merge a file onto the dataset that it extends, which is merged onto its own parent first."""
    from cortexclient.spec.nodes import MappingNode, inherit

    parent = _parent(root, result)
    if parent is None:
        return root
    merged = inherit(_inherit(parent, result), root)
    # the parent's values are merged in, so the result no longer needs it
    kept = {key: entry for key, entry in merged.entries.items() if key != "extends"}
    return MappingNode(kept, merged.mark)


def _parent(child: MappingNode, result: Assembly) -> MappingNode | None:
    from cortexclient.spec.reading import nodes_of_mapping

    name = child.value("extends")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return None  # what is no name is the model's to complain about, and leads to no file
    if len(result.files) > MAX_PARENTS:
        message = f"there are more than {MAX_PARENTS} parents"
        result.complain(child, "extends", "CX306", message, "extend fewer")
        return None
    here = result.files[-1] if result.files else None
    files = _files_of(name, here, result)
    visited = {path.resolve() for path in result.files}
    # a file may extend the one of its own name that it hides; under any other name, meeting a file again is a circle
    own = name == child.value("name")
    fresh = next((path for path in files if path.resolve() not in visited), None)
    circle = bool(files) and files[0].resolve() in visited and not own
    if fresh is not None and not circle:
        return result.load(fresh)
    spec = registered()[name].spec if name in registered() and not own and not files else None
    if spec is not None:
        return nodes_of_mapping(spec.as_dict(), f"<registered {name}>")[0]
    result.complain(child, "extends", "CX306", *_why_no_parent(name, here, circle or bool(files) or own))
    return None


def _files_of(name: str, here: Path | None, result: Assembly) -> list[Path]:
    """Return the files that a dataset's name may mean: the neighbour first, then those of the layers."""
    beside = [here.parent / f"{name}.yaml"] if here is not None else []
    places = [*beside, *(layer.file(name) for layer in reversed(layers()))]
    found = [path for path in beside if path.is_file()]
    found += [candidate.path for candidate in candidates(name) if candidate.path is not None]
    result.stamps.update((path, None) for path in places if path not in found)
    result.lasting &= bool(found) and name not in registered()
    return found


def _why_no_parent(name: str, here: Path | None, circle: bool) -> tuple[str, str]:
    from cortexclient.spec.problems import did_you_mean

    if circle:
        return f"{name!r} extends itself, directly or through others", "break the circle"
    beside = [SpecFolder("", here.parent)] if here is not None else []
    known = {each for layer in (*beside, *layers()) for each in layer.names()}
    known -= {here.stem} if here is not None else set()
    return f"there is no dataset {name!r}", did_you_mean(name, known, "name a known dataset")
