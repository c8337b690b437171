"""``extends`` and ``volume``: values that a file takes over from others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cortexclient.registry.finding import candidates, registered
from cortexclient.registry.layers import NAME, Layer, layers
from cortexclient.registry.shared import shared_nodes
from cortexclient.spec.merge import inherit, overlay
from cortexclient.spec.nodes import MappingNode, ScalarNode, from_plain
from cortexclient.spec.problems import Problem, close_names

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.registry.assembly import Assembly

__all__ = ["build_up"]

MOST_PARENTS = 10


class _Level(NamedTuple):
    """A file of the chain of parents; None where the parent was registered without one."""

    root: MappingNode
    path: Path | None


def build_up(root: MappingNode, result: Assembly) -> MappingNode:
    """Lay a file over its volume, and both over the dataset that it extends."""
    chain = [_Level(root, result.files[0] if result.files else None)]
    while (parent := _parent(chain, result)) is not None:
        chain.append(parent)
    merged: MappingNode | None = None
    for level in reversed(chain):
        whole = _over_volume(level, result)
        merged = whole if merged is None else inherit(merged, whole)
    return merged or root


def _name_at(root: MappingNode, key: str) -> str | None:
    """Name that a key gives; anything that is no name is the model's to complain about, and leads to no file."""
    entry = root.entries.get(key)
    if entry is None or not isinstance(entry.node, ScalarNode) or not isinstance(entry.node.value, str):
        return None
    return entry.node.value if NAME.fullmatch(entry.node.value) else None


def _complain(result: Assembly, root: MappingNode, key: str, code: str, message: str, advice: str) -> None:
    result.problems.append(Problem(*root.entries[key].node.mark, code, key, message, advice))


def _parent(chain: list[_Level], result: Assembly) -> _Level | None:
    child, here = chain[-1]
    name = _name_at(child, "extends")
    if name is None:
        return None
    if len(chain) > MOST_PARENTS:
        _complain(
            result, child, "extends", "CX306", f"there are more than {MOST_PARENTS} parents", "extend fewer"
        )
        return None
    own = name == _name_at(child, "name")
    files = _files_of(name, here, result)
    visited = {level.path.resolve() for level in chain if level.path is not None}
    fresh = [path for path in files if path.resolve() not in visited]
    # a file may extend the one of its own name that it hides; under any other name, meeting a file again is a circle
    if files and files[0].resolve() in visited and not own:
        fresh = []
    if fresh:
        root, problems = shared_nodes(fresh[0])
        result.problems += problems
        result.files.append(fresh[0])
        return None if root is None else _Level(root, fresh[0])
    spec = registered()[name].spec if name in registered() and not own and not files else None
    if spec is not None:
        root_ = from_plain(spec.as_dict(), f"<registered {name}>")
        return _Level(root_, None) if isinstance(root_, MappingNode) else None
    _complain(result, child, "extends", "CX306", *_why_no_parent(name, here, bool(files) or own))
    return None


def _files_of(name: str, here: Path | None, result: Assembly) -> list[Path]:
    """Files that a dataset's name may mean: the neighbour first, then those of the layers."""
    beside = [here.parent / f"{name}.yaml"] if here is not None else []
    found = [path for path in beside if path.is_file()]
    found += [candidate.path for candidate in candidates(name) if candidate.path is not None]
    places = [*beside, *(layer.file(name) for layer in layers())]
    result.absent += [path for path in places if path not in found]
    result.lasting &= bool(found) and name not in registered()
    return found


def _why_no_parent(name: str, here: Path | None, loops: bool) -> tuple[str, str]:
    if loops:
        return f"{name!r} extends itself, directly or through others", "break the circle"
    beside = [Layer("", here.parent)] if here is not None else []
    known = {each for layer in (*beside, *layers()) for each in layer.names()}
    known -= {here.stem} if here is not None else set()
    guesses = close_names(name, known)
    return (
        f"there is no dataset {name!r}",
        f"did you mean {' or '.join(guesses)}?" if guesses else "name a known dataset",
    )


def _over_volume(level: _Level, result: Assembly) -> MappingNode:
    root, here = level
    name = _name_at(root, "volume")
    if name is None:
        return root
    folders = [here.parent] if here is not None else []
    folders += [layer.folder for layer in reversed(layers())]
    files = [folder / "volumes" / f"{name}.yaml" for folder in folders]
    path = next((file for file in files if file.is_file()), None)
    result.absent += files if path is None else files[: files.index(path)]
    if path is None:
        known = {file.stem for folder in folders for file in (folder / "volumes").glob("*.yaml")}
        guesses = close_names(name, known)
        advice = (
            f"did you mean {' or '.join(guesses)}?"
            if guesses
            else f"write volumes/{name}.yaml beside this file"
        )
        _complain(result, root, "volume", "CX307", f"there is no volume {name!r}", advice)
        return root
    shared, problems = shared_nodes(path, volume=True)
    result.problems += problems
    result.files.append(path)
    if shared is None:
        return root
    kept = {key: entry for key, entry in shared.entries.items() if key != "title"}
    return overlay(MappingNode(kept, shared.mark), root)
