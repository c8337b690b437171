"""Aliases: other names of datasets, found without parsing the files that cannot hold them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cortexclient.registry.layers import NAME, layers

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["aliases_in", "all_aliases", "owner_of_alias"]

# the list of aliases as nearly everybody writes it, on one line or several
_ALIASES = re.compile(
    rb"^[\"']?aliases[\"']?[ \t]*:[ \t]*(\[[^\]]*\]|(?:#[^\n]*)?(?:\n[ \t]*(?:-[^\n]*|#[^\n]*)?)+)",
    re.MULTILINE,
)
_WORD = re.compile(rb"[a-z][a-z0-9_]*")


def aliases_in(path: Path) -> list[str]:
    """Words that stand in a file's list of aliases, as far as that can be seen without parsing the file.

    Parsing ten thousand specs takes half a minute, looking for one line in each of them half a second. Good enough to
    guess what somebody meant; to decide it, the file is parsed.
    """
    match = _ALIASES.search(_content(path))
    if match is None:
        return []
    listed = re.sub(rb"#[^\n]*", b"", match.group(1))
    return [word.decode() for word in _WORD.findall(listed)]


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(1_000_000)
    except OSError:
        return b""


def owner_of_alias(alias: str) -> str | None:
    """Name of the dataset that has an alias; where several have it, the one of the layer that wins.

    Only files in which the word stands at all are parsed.
    """
    from cortexclient.registry.finding import registered

    if not NAME.fullmatch(alias):
        return None
    for candidate in reversed(registered().values()):
        if candidate.spec is not None and alias in candidate.spec.aliases:
            return candidate.name
    word = re.compile(rb"\b" + alias.encode() + rb"\b")
    for layer in reversed(layers()):
        for name in layer.names():
            content = _content(layer.file(name))
            if b"aliases" in content and word.search(content) and alias in _parsed(content):
                return name
    return None


def _parsed(content: bytes) -> list[object]:
    from cortexclient.spec.nodes import to_plain
    from cortexclient.spec.yaml_reader import read_nodes

    root, _ = read_nodes(content, "")
    entry = root.entries.get("aliases") if root is not None else None
    listed = to_plain(entry.node) if entry is not None else None
    return listed if isinstance(listed, list) else []


def all_aliases() -> list[str]:
    """Every alias of every dataset (for did-you-mean)."""
    from cortexclient.registry.finding import registered

    found = {
        alias for candidate in registered().values() if candidate.spec for alias in candidate.spec.aliases
    }
    for layer in layers():
        for name in layer.names():
            found.update(aliases_in(layer.file(name)))
    return sorted(found)
