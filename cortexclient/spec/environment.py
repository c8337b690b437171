"""``${env:NAME}`` and ``${env:NAME:-default}``: values that a machine, not a file, decides."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from cortexclient.spec.nodes import Entry, MappingNode, Node, ScalarNode, SequenceNode
from cortexclient.spec.problems import Problem, dotted
from cortexclient.spec.secrets import looks_secret, names_a_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["fill_in", "has_placeholder"]

_PLACEHOLDER = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^${}]*))?\}")
_ALLOWED = {("server_address",), ("datastack",), ("exports", "path"), ("exports", "mirrors", 0)}
_ADVICE = "only server_address, datastack, exports.path and exports.mirrors may be left to the environment"


def has_placeholder(text: str) -> bool:
    """Whether a text asks for an environment variable, rightly or wrongly written."""
    return "${" in text


class _Filler:
    """Replaces placeholders in a tree of nodes, collecting what is wrong and which variables were read."""

    def __init__(self, environ: Mapping[str, str], *, strict: bool) -> None:
        self.environ, self.strict = environ, strict
        self.problems: list[Problem] = []
        self.used: dict[str, str | None] = {}

    def node(self, node: Node, path: tuple[str | int, ...]) -> Node:
        if path and isinstance(path[0], str) and path[0].startswith("x-"):
            return node
        if isinstance(node, MappingNode):
            entries = {
                key: Entry(mark, self.node(child, (*path, key)))
                for key, (mark, child) in node.entries.items()
            }
            return MappingNode(entries, node.mark)
        if isinstance(node, SequenceNode):
            return SequenceNode(
                [self.node(child, (*path, i)) for i, child in enumerate(node.items)], node.mark
            )
        if not isinstance(node.value, str) or not has_placeholder(node.value):
            return node
        return self.scalar(node, path)

    def scalar(self, node: ScalarNode, path: tuple[str | int, ...]) -> ScalarNode:
        def refuse(code: str, message: str, advice: str) -> None:
            self.problems.append(Problem(*node.mark, code, dotted(path), message, advice))

        if tuple(0 if isinstance(part, int) else part for part in path) not in _ALLOWED:
            if "${env:" in node.value:
                refuse("CX403", "this field does not depend on the environment", _ADVICE)
            return node
        if "${" in _PLACEHOLDER.sub("", node.value):
            refuse(
                "CX403",
                "a placeholder is not written as it should be",
                "write ${env:NAME} or ${env:NAME:-default}",
            )
            return node

        def value_of(match: re.Match[str]) -> str:
            value, problem = self.value(match.group(1), match.group(2))
            if problem is not None:
                refuse(*problem)
            return match.group() if value is None else value

        text = _PLACEHOLDER.sub(value_of, node.value)
        return ScalarNode(text, node.mark, text)

    def value(self, name: str, default: str | None) -> tuple[str | None, tuple[str, str, str] | None]:
        """Give what stands for a variable, or None for its placeholder itself; and what is wrong with it."""
        if names_a_secret(name):
            # a stranger's spec must not be able to read a secret from the environment into an address
            what = f"the variable {name} may hold a secret"
            return None, ("CX403", what, "use another name for what is not one")
        value = self.environ.get(name) or default
        self.used[name] = self.environ.get(name)
        if value is None:
            advice = f"set it, or write ${{env:{name}:-default}}"
            missing = ("CX404", f"the environment variable {name} is not set", advice)
            return None, missing if self.strict else None
        for code, wrong, what in (
            ("CX403", has_placeholder, "a placeholder itself"),
            ("CX401", looks_secret, "what looks like a secret"),
        ):
            if wrong(value):
                return None, (code, f"the variable {name} holds {what}", "set it to an address or a name")
        return value, None


def _any_placeholder(node: Node) -> bool:
    if isinstance(node, ScalarNode):
        return "${" in node.text
    if isinstance(node, MappingNode):
        return any(_any_placeholder(entry.node) for entry in node.entries.values())
    return any(_any_placeholder(item) for item in node.items)


def fill_in(
    root: MappingNode, *, environ: Mapping[str, str] | None = None, strict: bool = True
) -> tuple[MappingNode, list[Problem], dict[str, str | None]]:
    """Replace the placeholders of a spec by the values of environment variables.

    Parameters
    ----------
    root : MappingNode
    environ : mapping, optional
        By default `os.environ`.
    strict : bool
        Whether an unset variable without a default is a problem; if not, its placeholder stays.

    Returns
    -------
    root : MappingNode
    problems : list of Problem
    used : dict
        The variables that were asked for, with their values.
    """
    if not _any_placeholder(root):
        return root, [], {}
    filler = _Filler(os.environ if environ is None else environ, strict=strict)
    filled = filler.node(root, ())
    return (filled if isinstance(filled, MappingNode) else root), filler.problems, filler.used
