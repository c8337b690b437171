"""Laying one spec over another: maps merge by key, lists and values replace, null clears."""

from __future__ import annotations

from cortexclient.spec.nodes import Entry, MappingNode, Node, ScalarNode

__all__ = ["NOT_INHERITED", "inherit", "merge"]

# what makes an entry itself: a child that took these over would answer to its parent's names
NOT_INHERITED = frozenset({"schema_version", "name", "aliases", "class_name", "extends", "deprecation"})


def merge(below: Node, above: Node) -> Node:
    """Lay `above` over `below`; every value keeps the place that it came from."""
    if not isinstance(above, MappingNode):
        return above
    if isinstance(below, ScalarNode) and isinstance(below.value, str) and "steps" not in above.entries:
        # the short form of a transform: `transform: minnie65`
        below = MappingNode({"dataset": Entry(below.mark, below)}, below.mark)
    if not isinstance(below, MappingNode):
        return above
    entries = dict(below.entries)
    for key, entry in above.entries.items():
        beneath = entries.get(key)
        entries[key] = entry if beneath is None else Entry(entry.key_mark, merge(beneath.node, entry.node))
    return MappingNode(entries, above.mark)


def inherit(parent: MappingNode, child: MappingNode) -> MappingNode:
    """Lay a file over the one that it extends; names and the like are not inherited."""
    kept = {key: entry for key, entry in parent.entries.items() if key not in NOT_INHERITED}
    merged = merge(MappingNode(kept, parent.mark), child)
    if not isinstance(merged, MappingNode):  # a map laid over a map is a map
        raise TypeError("specs are maps")
    return merged
