"""``extends`` and ``volume``: values that a file takes over from others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.registry.finding import candidates
from cortexclient.registry.layers import layers
from cortexclient.registry.shared import shared_nodes
from cortexclient.spec.merge import inherit, merge
from cortexclient.spec.nodes import MappingNode, ScalarNode, from_plain
from cortexclient.spec.problems import Problem, close_names
from cortexclient.spec.reading import validate_nodes
from cortexclient.spec.volume import VolumeSpec

if TYPE_CHECKING:
    from pathlib import Path

    from cortexclient.registry.assembly import Assembly

__all__ = ["build_up"]

MOST_PARENTS = 10


def build_up(root: MappingNode, result: Assembly) -> MappingNode:
    """Lay a file over its volume, and both over the dataset that it extends."""
    chain = [root]
    places = [result.files[0] if result.files else None]
    while (parent := _parent(chain[-1], places, result)) is not None:
        chain.append(parent[0])
        places.append(parent[1])
        if len(chain) > MOST_PARENTS:
            _complain(
                result,
                chain[0],
                "extends",
                "CX306",
                f"there are more than {MOST_PARENTS} parents",
                "extend fewer",
            )
            break
    merged: MappingNode | None = None
    for node, place in zip(reversed(chain), reversed(places), strict=True):
        level = _over_volume(node, place, result)
        merged = level if merged is None else inherit(merged, level)
    return merged or root


def _text(root: MappingNode, key: str) -> str | None:
    entry = root.entries.get(key)
    if entry is None or not isinstance(entry.node, ScalarNode) or not isinstance(entry.node.value, str):
        return None  # anything else is the model's to complain about
    return entry.node.value


def _complain(result: Assembly, root: MappingNode, key: str, code: str, message: str, advice: str) -> None:
    result.problems.append(Problem(*root.entries[key].node.mark, code, key, message, advice))


def _parent(
    child: MappingNode, places: list[Path | None], result: Assembly
) -> tuple[MappingNode, Path | None] | None:
    name = _text(child, "extends")
    if name is None:
        return None
    here = places[-1]
    found = []
    if here is not None and (here.parent / f"{name}.yaml").is_file():
        found.append(here.parent / f"{name}.yaml")
    registered = None
    for candidate in candidates(name):
        if candidate.path is not None:
            found.append(candidate.path)
        elif candidate.spec is not None:
            registered = registered or candidate.spec
    visited = {place.resolve() for place in places if place is not None}
    own_name = _text(child, "name")
    fresh = [path for path in found if path.resolve() not in visited]
    if name != own_name and len(fresh) < len(found) and found[0].resolve() in visited:
        fresh = []  # a loop through other names; only a file of the same name may mean the layer below
    if not fresh and registered is not None and name != own_name:
        root = from_plain(registered.as_dict(), f"<registered {name}>")
        return (root, None) if isinstance(root, MappingNode) else None
    if not fresh:
        _complain(result, child, "extends", "CX306", *_why_no_parent(name, bool(found)))
        return None
    root_, problems = shared_nodes(fresh[0])
    result.problems += problems
    result.files.append(fresh[0])
    return None if root_ is None else (root_, fresh[0])


def _why_no_parent(name: str, loops: bool) -> tuple[str, str]:
    if loops:
        return f"{name!r} extends itself, directly or through others", "break the circle"
    known = {each for layer in layers() for each in layer.names()}
    guesses = close_names(name, known)
    return (
        f"there is no dataset {name!r}",
        f"did you mean {' or '.join(guesses)}?" if guesses else "name a known dataset",
    )


def _over_volume(root: MappingNode, place: Path | None, result: Assembly) -> MappingNode:
    name = _text(root, "volume")
    if name is None:
        return root
    folders = [place.parent] if place is not None else []
    folders += [layer.folder for layer in reversed(layers())]
    files = [folder / "volumes" / f"{name}.yaml" for folder in folders] if name.isidentifier() else []
    path = next((file for file in files if file.is_file()), None)
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
    shared, problems = shared_nodes(path)
    result.problems += problems
    result.files.append(path)
    if shared is None:
        return root
    result.problems += validate_nodes(shared, VolumeSpec)[1]
    kept = {key: entry for key, entry in shared.entries.items() if key != "title"}
    merged = merge(MappingNode(kept, shared.mark), root)
    return merged if isinstance(merged, MappingNode) else root
