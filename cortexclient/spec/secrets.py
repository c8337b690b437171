"""Finding tokens and passwords that somebody wrote into a spec by mistake.

A spec is a public file. What is found here is never repeated in a message.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cortexclient.spec.nodes import MappingNode, Mark, ScalarNode, walk
from cortexclient.spec.problems import Problem, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["find_placeholders", "find_secrets", "find_secrets_in_text"]

_NAMES = re.compile(
    r"(?:^|[_\W])(?:auth|access|api|bearer|secret|private|middle_auth)?[_-]?"
    r"(?:tokens?|passwords?|passwd|passphrase|pwd|secrets?|credentials?|api_?keys?|access_?keys?|private_?keys?|bearer)(?:$|[_\W])",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"(?<![0-9A-Za-z])(?:"
    r"(?=[0-9]*[a-fA-F])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{32,}"  # what a CAVE token looks like
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{15,}"
    r"|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}|ya29\.[0-9A-Za-z_-]{15,}|xox[abprs]-[0-9A-Za-z-]{10,}|sk-[A-Za-z0-9_-]{20,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}"
    r")(?![0-9A-Za-z])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?:token|password|passwd|secret|api_?key|bearer)['\"]?\s*[=:]\s*['\"]?[^\s'\"<>{}]{8,}"
    r"|bearer\s+[A-Za-z0-9._~+/-]{16,}",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\$\{\s*[A-Za-z_]")
_ADVICE = "remove it and revoke it if it was published; tokens are stored for a server, never in a spec"


def _looks_secret(text: str) -> bool:
    """Whether a text holds something shaped like a token, a key or a password."""
    return _SHAPES.search(text) is not None


def _names_a_secret(key: str) -> bool:
    """Whether a key or the name of a variable announces a secret."""
    return _NAMES.search(key) is not None


def find_secrets(root: MappingNode) -> Iterator[tuple[tuple[str | int, ...], Problem]]:
    """Find values that look like secrets, and keys that announce one."""
    for path, mark, node in walk(root):
        key = path[-1]
        if isinstance(key, str) and _names_a_secret(key) and not _is_harmless(node):
            message = f"{key[:60]} announces a token or a password"
            yield path, Problem(*mark, "CX401", dotted(path), message, _ADVICE)
        elif isinstance(node, ScalarNode) and isinstance(node.value, str) and _looks_secret(node.value):
            message = "this looks like a token or a password (it is not repeated here)"
            yield path, Problem(*node.mark, "CX401", dotted(path), message, _ADVICE)
        elif isinstance(key, str) and _looks_secret(key):
            message = "this key looks like a token (it is not repeated here)"
            yield path[:-1], Problem(*mark, "CX401", dotted(path[:-1]), message, _ADVICE)


def find_placeholders(root: MappingNode) -> Iterator[Problem]:
    """Find ``${...}``: a spec means the same on every machine, and reads nothing from the environment."""
    for path, _, node in walk(root):
        if (
            not isinstance(node, ScalarNode)
            or not isinstance(node.value, str)
            or str(path[0]).startswith("x-")
        ):
            continue
        if _PLACEHOLDER.search(node.value):
            message = "${...} is not filled in, because a spec means the same on every machine"
            yield Problem(*node.mark, "CX403", dotted(path), message, "write the value itself")


def _is_harmless(node: object) -> bool:
    """Nothing is kept secret by null, by a truth value, or by the address of a page."""
    if not isinstance(node, ScalarNode):
        return False
    if node.value is None or isinstance(node.value, bool):
        return True
    return isinstance(node.value, str) and node.value.startswith("https://") and not _looks_secret(node.value)


def find_secrets_in_text(content: bytes, file: str) -> Iterator[Problem]:
    """Find secrets anywhere in a file, comments included."""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        match = _SHAPES.search(line[:20_000])
        if match is not None:
            message = "this line holds what looks like a token or a password (it is not repeated here)"
            yield Problem(*Mark(file, number, match.start() + 1), "CX401", "", message, _ADVICE)
