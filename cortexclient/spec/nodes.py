"""YAML values that remember where they stand.

A spec is read into these nodes first: inheritance merges them, so that after any number of files every value still
knows the line that it came from. Nodes are shared between specs and never changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "MAX_DEPTH",
    "NOT_INHERITED",
    "Lookalike",
    "MapEntry",
    "MappingNode",
    "Mark",
    "Node",
    "ScalarNode",
    "SequenceNode",
    "find",
    "from_plain",
    "inherit",
    "merge",
    "overlay",
    "parts_of",
    "to_plain",
    "walk",
]

Path: TypeAlias = tuple[str | int, ...]

MAX_DEPTH = 20
"""How deep lists and maps may be nested; specs are nearly flat."""


class Mark(NamedTuple):
    """A place in a file; line and column count from 1, and are 0 where there is no text."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Lookalike:
    """An unquoted value that different YAML readers take for different things (``no``, ``012``, ``12:30``)."""

    text: str
    taken_for: str


@dataclass(slots=True)
class ScalarNode:
    """A single value."""

    value: Any
    mark: Mark
    text: str = ""


@dataclass(slots=True)
class SequenceNode:
    """A list."""

    items: list[Node]
    mark: Mark


class MapEntry(NamedTuple):
    """A key's place, and its value."""

    key_mark: Mark
    node: Node


@dataclass(slots=True)
class MappingNode:
    """A map whose keys are text."""

    entries: dict[str, MapEntry]
    mark: Mark = field(default=Mark("<nowhere>", 0, 0))

    def value(self, key: str) -> Any:
        """Return the single value of a key, or None where there is none."""
        entry = self.entries.get(key)
        return entry.node.value if entry is not None and isinstance(entry.node, ScalarNode) else None


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode


def to_plain(node: Node, *, private: bool = False) -> Any:
    """Return the Python values of a node; under private keys a look-alike is simply its text."""
    if isinstance(node, ScalarNode):
        return node.value.text if private and isinstance(node.value, Lookalike) else node.value
    if isinstance(node, SequenceNode):
        return [to_plain(item, private=private) for item in node.items]
    return {
        key: to_plain(entry.node, private=private or key.startswith("x-"))
        for key, entry in node.entries.items()
    }


def from_plain(value: Any, label: str, depth: int = 1) -> Node:
    """Return nodes for Python values, all of them marked with the same label instead of a place.

    Raise RecursionError where they are nested more than `MAX_DEPTH` levels deep, as what contains itself is.
    """
    mark = Mark(label, 0, 0)
    if type(value).__module__ == "numpy":
        value = value.tolist()  # plain numbers, or lists of them
    if isinstance(value, Mapping | list | tuple) and depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, Mapping):
        return MappingNode(
            {str(key): MapEntry(mark, from_plain(item, label, depth + 1)) for key, item in value.items()},
            mark,
        )
    if isinstance(value, list | tuple):
        return SequenceNode([from_plain(item, label, depth + 1) for item in value], mark)
    return ScalarNode(value, mark, str(value))


def parts_of(path: str) -> list[str]:
    """Split a dotted path such as ``versions[2].timestamp`` into its parts."""
    return path.replace("[", ".").replace("]", "").split(".")


def find(root: Node, path: Path) -> tuple[Node, Mark, Path]:
    """Follow a path as far as it goes.

    Returns the last node that exists, its place (of the key for an entry of a map, of the value for an item of a list),
    and the part of `path` that was followed.
    """
    node, mark = root, root.mark
    followed: list[str | int] = []
    for part in path:
        if isinstance(node, MappingNode) and part in node.entries:
            mark, node = node.entries[str(part)]
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            mark = node.mark
        else:
            # pydantic's locations also name branches of unions; those stand in no file
            continue
        followed.append(part)
    return node, mark, tuple(followed)


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Mark, Node]]:
    """Yield every node below one, with its path and the mark of its key or item, in the order of the file."""
    if isinstance(node, MappingNode):
        for key, entry in node.entries.items():
            yield (*path, key), entry.key_mark, entry.node
            yield from walk(entry.node, (*path, key))
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.items):
            yield (*path, index), item.mark, item
            yield from walk(item, (*path, index))


# -- merging: maps merge by key, lists and values replace, null clears -----------------------------------------


# what makes an entry itself: a child that took these over would be found by its parent's names
NOT_INHERITED = frozenset({"schema_version", "name", "aliases", "class_name", "extends", "deprecation"})


def merge(below: Node, above: Node) -> Node:
    """Merge `above` onto `below`; every value keeps the place that it came from."""
    if not isinstance(above, MappingNode):
        return above
    if isinstance(below, ScalarNode) and isinstance(below.value, str) and "steps" not in above.entries:
        # the short form of a transform: `transform: minnie65`
        below = MappingNode({"dataset": MapEntry(below.mark, below)}, below.mark)
    if not isinstance(below, MappingNode):
        return above
    entries = dict(below.entries)
    for key, entry in above.entries.items():
        beneath = entries.get(key)
        entries[key] = entry if beneath is None else MapEntry(entry.key_mark, merge(beneath.node, entry.node))
    return MappingNode(entries, above.mark)


def overlay(below: MappingNode, above: MappingNode) -> MappingNode:
    """Merge one spec onto another; sources of values that are cleared or replaced are dropped."""
    merged = merge(below, above)
    if not isinstance(merged, MappingNode):  # a map laid over a map is a map
        raise TypeError("specs are maps")
    sources, own = (node.entries.get("sources") for node in (merged, above))
    if sources is None or not isinstance(sources.node, MappingNode):
        return merged
    stated = own.node.entries if own is not None and isinstance(own.node, MappingNode) else {}
    kept = {
        path: entry
        for path, entry in sources.node.entries.items()
        if path in stated or _is_same(_node_at(below, path), _node_at(merged, path))
    }
    kept_node = MappingNode(kept, sources.node.mark)
    return MappingNode({**merged.entries, "sources": MapEntry(sources.key_mark, kept_node)}, merged.mark)


def _node_at(node: Node, path: str) -> Node | None:
    for part in parts_of(path):
        if isinstance(node, MappingNode) and part in node.entries:
            node = node.entries[part].node
        elif isinstance(node, SequenceNode) and part.isdecimal() and int(part) < len(node.items):
            node = node.items[int(part)]
        else:
            # a short form (`transform: minnie65`) may well hold it
            return node if isinstance(node, ScalarNode) else None
    return node


def _is_same(before: Node | None, now: Node | None) -> bool:
    """Whether a value is still the one that it was: nodes are shared, and adding to a map replaces nothing."""
    if isinstance(before, MappingNode):
        return isinstance(now, MappingNode)
    return now is before and before is not None and getattr(now, "value", "") is not None


def inherit(parent: MappingNode, child: MappingNode) -> MappingNode:
    """Merge a file onto the one that it extends; names and the like are not inherited."""
    kept = {key: entry for key, entry in parent.entries.items() if key not in NOT_INHERITED}
    return overlay(MappingNode(kept, parent.mark), child)
