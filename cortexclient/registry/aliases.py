"""Aliases: other names of datasets, found without parsing the files that cannot hold them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cortexclient.registry.layers import NAME, layers

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["aliases_in", "all_aliases", "owner_of_alias"]

# the list of aliases as people write it, on one line or several; used to decide which files are worth parsing
_ALIASES = re.compile(
    rb"^[ \t]*[\"']?aliases[\"']?[ \t]*:[ \t]*(\[[^\]]*\]|(?:#[^\n]*)?(?:\n[ \t]*(?:-[^\n]*|#[^\n]*)?)+)",
    re.MULTILINE,
)
_WORD = re.compile(rb"[a-z][a-z0-9_]*")


def aliases_in(path: Path) -> list[str]:
    """Words that stand in a file's list of aliases, without parsing the file.

    Reading ten thousand specs takes minutes, looking for one line in each of them half a second.
    """
    try:
        content = path.read_bytes()[:1_000_000]
    except OSError:
        return []
    match = _ALIASES.search(content)
    if match is None:
        return []
    listed = re.sub(rb"#[^\n]*", b"", match.group(1))
    return [word.decode() for word in _WORD.findall(listed)]


def owner_of_alias(alias: str) -> str | None:
    """Name of the dataset that has an alias; where several have it, the one of the layer that wins."""
    from cortexclient.registry.finding import registered

    if not NAME.fullmatch(alias):
        return None
    for candidate in reversed(registered().values()):
        if candidate.spec is not None and alias in candidate.spec.aliases:
            return candidate.name
    wanted = alias.encode()
    for layer in reversed(layers()):
        for name in layer.names():
            path = layer.file(name)
            if _mentions(path, wanted) and alias in aliases_in(path):
                return name
    return None


def _mentions(path: Path, word: bytes) -> bool:
    try:
        return word in path.read_bytes()
    except OSError:
        return False


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
