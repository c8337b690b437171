"""What the registry's commands write: specs as YAML with comments, as a person would; and tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cortexclient.cli.output import console

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["SpecText", "print_table"]

_WIDE = 500


def print_table(table: Table) -> None:
    """Print a table, folded to the terminal; into a pipe every row stays one line, for grep and the like."""
    out = console()
    if not sys.stdout.isatty():
        out.width = _WIDE
    out.print(table)


class SpecText:
    """A spec file under construction: lines in the order in which they are added."""

    def __init__(self, name: str, *, schema: str = "./dataset.schema.json") -> None:
        self._lines = [f"# yaml-language-server: $schema={schema}", "schema_version: 1", f"name: {name}"]

    def comment(self, text: str) -> None:
        """Add a line of explanation."""
        self._lines += [f"# {line}" for line in text.splitlines()]

    def blank(self) -> None:
        """Add an empty line."""
        self._lines.append("")

    def add(self, key: str, value: Any, comment: str | None = None) -> None:
        """Add a key, with an explanation above it; a key without a value is left as a comment to fill in."""
        if comment:
            self.comment(comment)
        if value is None or value == "":
            self._lines.append(f"# {key}:")
            return
        if not isinstance(value, dict | list):
            self._lines.append(_dump({key: value}, flow=False))
            return
        lines = _dump(value, flow=None).split("\n")
        if len(lines) == 1:
            self._lines.append(f"{key}: {lines[0]}")
        else:
            self._lines += [f"{key}:", *(f"  {line}" for line in lines)]

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def _dump(value: Any, *, flow: bool | None) -> str:
    import yaml

    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110, default_flow_style=flow)
    return str(text).rstrip("\n")
