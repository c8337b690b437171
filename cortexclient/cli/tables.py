"""Commands about tables: list, query, static exports, versions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cortexclient.cli.options import AsJson, Client, Live, Out, Table, dataset_command, filters_from
from cortexclient.cli.output import say, show_frame
from cortexclient.cli.screen import note

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["register_commands"]

PANEL = "Tables"


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dataset_command(app, "tables", panel=PANEL)(tables)
    dataset_command(app, "query", panel=PANEL)(query)
    dataset_command(app, "versions", panel=PANEL, moment=False)(versions)
    dataset_command(app, "exports", panel=PANEL, moment=False)(exports)
    dataset_command(app, "export", panel=PANEL, moment=False)(export)


def tables(client: Client, as_json: AsJson = False, out: Out = None) -> None:
    """List the tables and views of a dataset."""
    rows: list[dict[str, object]] = [
        {"name": info.name, "kind": info.kind, "description": info.description}
        for names in (client.tables, client.views)
        for info in (names[name].info for name in names)
    ]
    _show_rows(rows, ["name", "kind", "description"], as_json=as_json, out=out)


def query(
    client: Client,
    table: Table,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            metavar="FILTER",
            help="COLUMN=VALUE, or COLUMN=VALUE,VALUE for any of them; may be repeated.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Stop after this many rows.", show_default=False)] = None,
    voxels: Annotated[
        bool, typer.Option("--voxels", help="Positions in the table's voxels instead of nm.")
    ] = False,
    live: Live = False,
    out: Out = None,
) -> None:
    """Query a table or view.

    Positions come in nm, one column per axis.
    """
    filters = filters_from(where or [])
    source = client.views if table in list(client.views) else client.tables
    frame: pd.DataFrame = source[table](**filters).query(
        split_positions=True,
        desired_resolution=None if voxels else [1, 1, 1],
        limit=limit,
        timestamp=(client.timestamp or client.now()) if live else None,
    )
    show_frame(frame, out)


def versions(client: Client, as_json: AsJson = False, out: Out = None) -> None:
    """List the materialized versions of a dataset."""
    newest = client.most_recent_materialization_version()
    rows: list[dict[str, object]] = [
        {
            "version": number,
            "timestamp": record.timestamp.isoformat(),
            "state": "current" if number == newest else "available" if record.valid else "expired",
        }
        for number, record in client.session.versions().items()
    ]
    _show_rows(rows, ["version", "timestamp", "state"], as_json=as_json, out=out)


def exports(client: Client, out: Out = None) -> None:
    """List the static exports of a dataset."""
    listed = client.exports.available_data_df().drop(columns="size")  # the same as `bytes`, in GiB
    show_frame(listed, out, rows=None)


def export(
    client: Client,
    table: Annotated[str, typer.Argument(help="Table; `cortexclient exports DATASET` lists them.")],
    version: Annotated[int, typer.Argument(help="Version.")],
    out: Out = None,
) -> None:
    """Fetch a static export as a table."""
    note(f"reading {table} of version {version} ...")
    show_frame(client.exports.get_table(table, version), out)


def _show_rows(rows: list[dict[str, object]], columns: list[str], *, as_json: bool, out: Out) -> None:
    import pandas as pd

    if as_json:
        say(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        show_frame(pd.DataFrame(rows, columns=columns), out, rows=None)
