"""Bringing files of older schema versions up to date, with a warning that says what to change.

Version 0 is the flat list of names that cortical-tools takes as arguments of its client, written down as YAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.spec.nodes import Entry, MappingNode, Node, ScalarNode
from cortexclient.spec.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CURRENT_SCHEMA", "migrate"]

CURRENT_SCHEMA = 1

_MOVED_IN_1: dict[str, tuple[str, ...]] = {
    "datastack_name": ("datastack",),
    "materialization_version": ("default_version",),
    "cell_id_lookup_view": ("cell_ids", "lookup_view"),
    "root_id_lookup_main_table": ("cell_ids", "main_table"),
    "root_id_lookup_alt_tables": ("cell_ids", "alternative_tables"),
    "dataset_transform": ("transform",),
    "static_table_cloudpath": ("exports", "path"),
}


def migrate(root: MappingNode) -> tuple[MappingNode, list[Problem]]:
    """Bring a file up to date.

    Returns
    -------
    root : MappingNode
        In the current form; unchanged where the version is current, unknown or not a number.
    problems : list of Problem
        A warning for a file that was old.
    """
    entry = root.entries.get("schema_version")
    if entry is None or not isinstance(entry.node, ScalarNode):
        return root, []
    version = entry.node.value
    if isinstance(version, bool) or not isinstance(version, int) or version not in _STEPS:
        return root, []
    moved: list[str] = []
    for step in range(version, CURRENT_SCHEMA):
        root, names = _STEPS[step](root)
        moved += names
    changes = f"; {', '.join(moved)}" if moved else ""
    message = f"schema version {version} is old{changes}"
    advice = f"write the new names and schema_version: {CURRENT_SCHEMA}"
    return root, [Problem(*entry.node.mark, "CX501", "schema_version", message, advice, severity="warning")]


def _from_0(root: MappingNode) -> tuple[MappingNode, list[str]]:
    entries = dict(root.entries)
    moved = []
    for old, path in _MOVED_IN_1.items():
        entry = entries.pop(old, None)
        if entry is not None:
            _put(entries, path, entry)
            moved.append(f"{old} is now {'.'.join(path)}")
    mark, node = entries["schema_version"]
    entries["schema_version"] = Entry(mark, ScalarNode(1, node.mark, "1"))
    return MappingNode(entries, root.mark), moved


def _put(entries: dict[str, Entry], path: tuple[str, ...], entry: Entry) -> None:
    first, *rest = path
    if not rest:
        entries.setdefault(first, entry)
        return
    beneath: Node | None = entries[first].node if first in entries else None
    inner = dict(beneath.entries) if isinstance(beneath, MappingNode) else {}
    _put(inner, tuple(rest), entry)
    entries[first] = Entry(entry.key_mark, MappingNode(inner, entry.key_mark))


_STEPS: dict[int, Callable[[MappingNode], tuple[MappingNode, list[str]]]] = {0: _from_0}
