"""How the registry's commands write: values as YAML, tables for terminals and pipes, texts from servers on one line."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from cortexclient.cli.screen import console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

__all__ = ["as_yaml", "one_line", "print_table"]

_WIDE = 500


def print_table(table: Table) -> None:
    """Print a table, folded to the terminal; into a pipe every row stays one line, for grep and the like."""
    out = console()
    if not sys.stdout.isatty():
        out.width = _WIDE
    out.print(table)


def one_line(text: object, length: int = 2000) -> str:
    """Return a text from a server as one line without control characters."""
    shown = "".join(character if character.isprintable() else " " for character in str(text))
    return " ".join(shown.split())[:length].strip()


@cache
def _dumper() -> Any:
    import yaml

    from cortexclient.spec.yaml_reader import resolve_scalar

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines as they are, and shares nothing by anchors."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - every value is written out
            return True

    def text(dumper: Any, value: str) -> Any:
        style = None if resolve_scalar(value) == value else "'"
        if "\n" in value and value.strip() and value.strip() == value.removesuffix("\n"):
            style = "|"  # a text of several lines; odd ones are better in quotes
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def as_yaml(values: Mapping[str, Any], width: int = 110) -> str:
    """Write a map as YAML that means the same to every reader: texts that could be something else are quoted."""
    import yaml

    lines = [
        yaml.dump(
            {key: value},
            Dumper=_dumper(),
            sort_keys=False,
            allow_unicode=True,
            width=width,
            # the innermost maps and lists go on one line; a plain value must not drag its key into braces
            default_flow_style=None if isinstance(value, dict | list) else False,
        )
        for key, value in values.items()
    ]
    return "".join(lines).rstrip("\n")
