"""The commands, put together."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from cortexclient import __version__
from cortexclient.cli.output import say

__all__ = ["build_app"]

# in the order in which `cortexclient --help` shows them
MODULES = ("demo", "registry", "tables", "cells", "morphology", "pictures", "sandbox", "account", "cache")


def build_app() -> typer.Typer:
    """Make the command line out of the command modules."""
    app = typer.Typer(
        name="cortexclient",
        help="One client for every CAVE connectomics dataset. Start with: cortexclient demo",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in MODULES:
        importlib.import_module(f"cortexclient.cli.{name}").register_commands(app)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where errors come from; may stand anywhere in the line.")
    ] = False,
) -> None:
    """One client for every CAVE connectomics dataset. Start with: cortexclient demo"""  # noqa: D400 - shown as help
