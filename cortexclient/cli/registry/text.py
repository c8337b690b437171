"""What the registry's commands write: specs as YAML with comments, as a person would write them; and tables."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from cortexclient.cli.output import console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

__all__ = ["SpecText", "as_yaml", "one_line", "print_table"]

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


class SpecText:
    """A spec file under construction: keys in the order in which they are added, each with its comment.

    What is added may come from a server, so the result is read back: a value that a spec cannot hold becomes a comment.
    """

    def __init__(self, name: str, *, schema: str = "./dataset.schema.json") -> None:
        self._head = [f"# yaml-language-server: $schema={schema}", "schema_version: 1", f"name: {name}"]
        self._parts: list[str | tuple[str, Any, str | None]] = []

    def comment(self, text: str) -> None:
        """Add a line of explanation."""
        self._parts += [f"# {one_line(line)}" for line in text.splitlines()]

    def blank(self) -> None:
        """Add an empty line."""
        self._parts.append("")

    def add(self, key: str, value: Any, comment: str | None = None) -> None:
        """Add a key, with an explanation above it; a key without a value is left as a comment to fill in."""
        self._parts.append((key, value, comment))

    def __str__(self) -> str:
        lines = [*self._head]
        for part in self._parts:
            if isinstance(part, str):
                lines.append(part)
                continue
            key, value, comment = part
            if comment:
                lines += [f"# {one_line(line)}" for line in comment.splitlines()]
            empty = value is None or value in ("", {}, [])
            lines.append(f"# {key}:" if empty else as_yaml({key: value}))
        return "\n".join(lines) + "\n"

    def finished(self) -> str:
        """Return the file. It can be loaded: a value that a spec refuses is left out, with a comment that says why."""
        for _ in range(len(self._parts)):
            refused = {
                problem.path.partition(".")[0].partition("[")[0]: problem.message
                for problem in _errors(str(self))
            }
            if not refused:
                break
            self._parts = [self._without(part, refused) for part in self._parts]
        return str(self)

    def _without(self, part: str | tuple[str, Any, str | None], refused: dict[str, str]) -> Any:
        if isinstance(part, str):
            return part if not part.startswith("#") or "" not in refused else "#"
        key, value, comment = part
        if key == "sources" and key not in refused and isinstance(value, dict):
            return (
                key,
                {path: fact for path, fact in value.items() if path.partition(".")[0] not in refused},
                comment,
            )
        if key not in refused:
            return part
        return key, None, f"What the server says cannot stand in a spec: {refused[key]}"


def _errors(text: str) -> list[Any]:
    """Problems of a spec's text that would keep it from being loaded."""
    from cortexclient.spec.reading import read_text

    return [problem for problem in read_text(text)[1] if problem.severity == "error"]


@cache
def _dumper() -> Any:
    import yaml

    from cortexclient.spec.scalars import resolve

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines as they are, and shares nothing by anchors."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - every value is written out
            return True

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None if resolve(value) == value else "'"
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
