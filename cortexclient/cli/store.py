"""Commands about the store: bring tables onto this disk, see, check and remove them."""

from __future__ import annotations

from typing import Annotated

import typer

from cortexclient.cli.options import Client, dataset_command
from cortexclient.cli.output import say, show_frame

__all__ = ["register_commands"]

PANEL = "Tables"


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dataset_command(app, "pull", panel=PANEL)(pull)
    store = typer.Typer(help="Tables pulled onto this disk: list, verify, remove.", no_args_is_help=True)
    for name, command in (("list", list_tables), ("verify", verify), ("remove", remove)):
        dataset_command(store, name, panel=None, moment=name == "remove")(command)
    app.add_typer(store, name="store", rich_help_panel=PANEL)


def pull(
    client: Client,
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables and views; left out: those that the spec names.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="exports or server; left out: exports where there are any.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", help="Another store than $CORTEXCLIENT_STORE or the usual one.")
    ] = None,
) -> None:
    """Bring tables of one version onto this disk, sorted for look-ups; what was interrupted goes on."""
    names = client.store.pull(tables or None, source=source, path=path)  # type: ignore[arg-type]
    say(f"{', '.join(names)} of version {client.version} in {path or client.store.path}")


def list_tables(client: Client) -> None:
    """List the tables of the store, with rows, bytes and the keys that rows are found by."""
    show_frame(client.store.tables(), rows=None)


def verify(client: Client) -> None:
    """Compare every file of the store with its checksum, and remove damaged tables; status 1 if there were any."""
    damaged = client.store.verify()
    for name, files in damaged.items():
        version, _, table = name.partition("/")
        client.store.remove(table, version=int(version[1:]))
        say(f"{name}: damaged ({', '.join(files[:3])}), removed; pull it again")
    say(f"{len(client.store.tables())} tables are sound, {len(damaged)} were damaged")
    if damaged:
        raise typer.Exit(1)


def remove(
    client: Client, table: Annotated[str, typer.Argument(help="Table; `cortexclient store list` shows them.")]
) -> None:
    """Remove a table from this disk."""
    client.store.remove(table)
    say(f"removed {table} of version {client.version}")
