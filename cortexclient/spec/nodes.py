"""YAML values that remember where they stand.

A spec is read into these nodes first: inheritance merges them, so that after any number of files every value still
knows the line that it came from. Nodes are shared between specs and never changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "Entry",
    "Lookalike",
    "MappingNode",
    "Mark",
    "Node",
    "ScalarNode",
    "SequenceNode",
    "find",
    "from_plain",
    "parts_of",
    "to_plain",
    "walk",
]

Path: TypeAlias = tuple[str | int, ...]


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


class Entry(NamedTuple):
    """A key's place, and its value."""

    key_mark: Mark
    node: Node


@dataclass(slots=True)
class MappingNode:
    """A map whose keys are text."""

    entries: dict[str, Entry]
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


def from_plain(value: Any, label: str) -> Node:
    """Return nodes for Python values, all of them marked with the same label instead of a place."""
    mark = Mark(label, 0, 0)
    if isinstance(value, Mapping):
        return MappingNode(
            {str(key): Entry(mark, from_plain(item, label)) for key, item in value.items()}, mark
        )
    if isinstance(value, list | tuple):
        return SequenceNode([from_plain(item, label) for item in value], mark)
    return ScalarNode(value, mark, str(value))


def parts_of(path: str) -> list[str]:
    """Split a dotted path such as ``versions[2].timestamp`` into its parts."""
    return path.replace("[", ".").replace("]", "").split(".")


def find(root: Node, path: Path) -> tuple[Node, Mark, Path]:
    """Follow a path as far as it goes.

    Returns
    -------
    node : Node
        The last node on the path that exists.
    mark : Mark
        Its place: of the key for an entry of a map, of the value for an item of a list.
    path : tuple
        The part of `path` that was followed.
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
