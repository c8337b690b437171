"""Commands about specs: what datasets there are, whether a file is right, and how to write a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.cli.registry import check, scaffold, show, validate

if TYPE_CHECKING:
    import typer

__all__ = ["register_commands"]

_PANEL = "Datasets"


def register_commands(app: typer.Typer) -> None:
    """Add the commands about specs."""
    for name, command in (
        ("list", show.list_command),
        ("show", show.show),
        ("where", show.where),
        ("cite", show.cite),
        ("validate", validate.validate),
        ("schema", validate.schema),
        ("trust", validate.trust),
        ("new", scaffold.new),
        ("check", check.check),
        ("diff", check.diff),
    ):
        app.command(name, rich_help_panel=_PANEL)(command)
