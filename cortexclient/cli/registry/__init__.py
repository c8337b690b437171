"""Commands about specs: what datasets there are, whether a file is right, and how to write a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.cli.registry import files, looking, writing

if TYPE_CHECKING:
    import typer

__all__ = ["register_commands"]

_PANEL = "Datasets"


def register_commands(app: typer.Typer) -> None:
    """Add the commands about specs."""
    for name, command in (
        ("list", looking.list_command),
        ("show", looking.show),
        ("where", looking.where),
        ("cite", looking.cite),
        ("validate", files.validate),
        ("schema", files.schema),
        ("trust", files.trust),
        ("new", writing.new),
        ("check", writing.check),
        ("diff", writing.diff),
        ("import-cave-diver", writing.import_cave_diver),
    ):
        app.command(name, rich_help_panel=_PANEL)(command)
