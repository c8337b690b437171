"""Merging of specs: maps merge by key, lists and values replace, null clears."""

from __future__ import annotations

from cortexclient.spec.nodes import Entry, MappingNode, Node, ScalarNode, SequenceNode, parts_of

__all__ = ["NOT_INHERITED", "inherit", "merge", "overlay"]

# what makes an entry itself: a child that took these over would answer to its parent's names
NOT_INHERITED = frozenset({"schema_version", "name", "aliases", "class_name", "extends", "deprecation"})


def merge(below: Node, above: Node) -> Node:
    """Merge `above` onto `below`; every value keeps the place that it came from."""
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
        if path in stated or (_is_there(merged, path) and not _is_replaced(above, path))
    }
    kept_node = MappingNode(kept, sources.node.mark)
    return MappingNode({**merged.entries, "sources": Entry(sources.key_mark, kept_node)}, merged.mark)


def _is_there(node: Node, path: str) -> bool:
    for part in parts_of(path):
        if isinstance(node, MappingNode) and part in node.entries:
            node = node.entries[part].node
        elif isinstance(node, SequenceNode) and part.isdecimal() and int(part) < len(node.items):
            node = node.items[int(part)]
        else:
            # a short form (`transform: minnie65`) may well hold it
            return isinstance(node, ScalarNode) and node.value is not None
    return not (isinstance(node, ScalarNode) and node.value is None)


def _is_replaced(node: Node, path: str) -> bool:
    """Whether a layer replaces the value at a path, or a list or value around it; adding to a map replaces nothing."""
    for part in parts_of(path):
        if not isinstance(node, MappingNode):
            return True
        if part not in node.entries:
            return False
        node = node.entries[part].node
    return not isinstance(node, MappingNode)


def inherit(parent: MappingNode, child: MappingNode) -> MappingNode:
    """Merge a file onto the one that it extends; names and the like are not inherited."""
    kept = {key: entry for key, entry in parent.entries.items() if key not in NOT_INHERITED}
    return overlay(MappingNode(kept, parent.mark), child)
