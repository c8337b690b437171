"""Commands about tables: list, query, static exports, versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cortexclient.cli.options import Dataset, Moment, Out, Server, Version, filters_from, open_client
from cortexclient.cli.output import error_console, show_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["register_commands"]


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("tables", rich_help_panel="Tables")(tables)
    app.command("query", rich_help_panel="Tables")(query)
    app.command("versions", rich_help_panel="Tables")(versions)
    app.command("exports", rich_help_panel="Tables")(exports)
    app.command("export", rich_help_panel="Tables")(export)


def tables(
    dataset: Dataset,
    version: Version = None,
    timestamp: Moment = None,
    server: Server = None,
    out: Out = None,
) -> None:
    """List the tables and views of a dataset, with what they say about themselves."""
    import pandas as pd

    client = open_client(dataset, version, timestamp, server)
    rows = [
        (info.name, info.kind, info.description)
        for names in (client.tables, client.views)
        for info in (names[name].info for name in names)
    ]
    show_frame(pd.DataFrame(rows, columns=["name", "kind", "description"]), out, rows=None)


def query(
    dataset: Dataset,
    table: Annotated[str, typer.Argument(help="Table or view; `cortexclient tables DATASET` shows them.")],
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", "-w", help="COLUMN=VALUE, or COLUMN=VALUE,VALUE for any of them; may be repeated."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Stop after this many rows.", show_default=False)] = None,
    voxels: Annotated[
        bool, typer.Option("--voxels", help="Positions in the table's voxels instead of nm.")
    ] = False,
    version: Version = None,
    timestamp: Moment = None,
    server: Server = None,
    out: Out = None,
) -> None:
    """Query a table or view; positions come in nm, one column per axis."""
    filters = filters_from(where or [])
    client = open_client(dataset, version, timestamp, server)
    source = client.views if table in list(client.views) else client.tables
    question = getattr(source, table)(**filters)
    frame: pd.DataFrame = question.query(
        split_positions=True, desired_resolution=None if voxels else [1, 1, 1], limit=limit
    )
    show_frame(frame, out)


def versions(dataset: Dataset, server: Server = None, out: Out = None) -> None:
    """List the materialized versions of a dataset."""
    import pandas as pd

    client = open_client(dataset, server=server)
    newest = client.most_recent_materialization_version()
    rows = [
        (
            number,
            record.timestamp.isoformat(),
            "current" if number == newest else "available" if record.valid else "expired",
        )
        for number, record in client.session.versions().items()
    ]
    show_frame(pd.DataFrame(rows, columns=["version", "timestamp", "state"]), out, rows=None)


def exports(dataset: Dataset, server: Server = None, out: Out = None) -> None:
    """List the static exports of a dataset: tables, versions, sizes."""
    client = open_client(dataset, server=server)
    listed = client.exports.available_data_df().drop(columns="size")  # the same as `bytes`, in GiB
    show_frame(listed, out, rows=None)


def export(
    dataset: Dataset,
    table: Annotated[str, typer.Argument(help="Table; `cortexclient exports DATASET` shows them.")],
    version: Annotated[int, typer.Argument(help="Version.")],
    server: Server = None,
    out: Out = None,
) -> None:
    """Fetch a static export as a table."""
    client = open_client(dataset, server=server)
    error_console().print(f"reading {table} of version {version} ...")
    show_frame(client.exports.get_table(table, version), out)
