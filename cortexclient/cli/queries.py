"""Commands that print rows: of tables, static exports and versions, of cells and their ids, of synapses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from cortexclient.cli.options import (
    AsJson,
    Client,
    Live,
    Out,
    Table,
    complete_table,
    dataset_command,
    filters_from,
    ids_from,
)
from cortexclient.cli.output import note, say_json, show_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["register_commands"]

TABLES, CELLS = "Tables", "Cells"
RootIds = Annotated[list[str], typer.Argument(help="Root ids, or - to read them from standard input.")]
CellIds = Annotated[list[str], typer.Argument(help="Cell ids, or - to read them from standard input.")]


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dataset_command(app, "tables", panel=TABLES)(tables)
    dataset_command(app, "query", panel=TABLES)(query)
    dataset_command(app, "versions", panel=TABLES, moment=False)(versions)
    dataset_command(app, "exports", panel=TABLES, moment=False)(exports)
    dataset_command(app, "export", panel=TABLES, moment=False)(export)
    dataset_command(app, "cell-id-to-root-id", panel=CELLS)(cell_id_to_root_id)
    dataset_command(app, "root-id-to-cell-id", panel=CELLS)(root_id_to_cell_id)
    dataset_command(app, "latest-roots", panel=CELLS)(latest_roots)
    dataset_command(app, "synapses", panel=CELLS)(synapses)
    dataset_command(app, "l2-ids", panel=CELLS, moment=False)(l2_ids)


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
    limit: Annotated[int | None, typer.Option(help="Stop after this many rows.")] = None,
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
        say_json(rows)
    else:
        show_frame(pd.DataFrame(rows, columns=columns), out, rows=None)


# -- cells and synapses -----------------------------------------------------------------------------------------


def cell_id_to_root_id(client: Client, cell_ids: CellIds, live: Live = False, out: Out = None) -> None:
    """Look up the root id of each cell id.

    -1 where there is none. Without --version, --timestamp or --live, the newest version is queried.
    """
    show_frame(client.cell_id_to_root_id(ids_from(cell_ids), live=live), out, index=True)


def root_id_to_cell_id(client: Client, root_ids: RootIds, out: Out = None) -> None:
    """Look up the cell id of each root id.

    -1 where there is none, or more than one.
    """
    frame = client.root_id_to_cell_id(ids_from(root_ids))
    if failed := frame.attrs["failed_root_ids"]:
        note(f"could not look up {_listed(failed)}: the server did not give the history of these roots")
    show_frame(frame, out, index=True)


def latest_roots(client: Client, root_ids: RootIds, out: Out = None) -> None:
    """Suggest the successor of each root id.

    That is the root which holds most of it at a time, by default now; -1 where there is none.
    """
    found = client.latest_roots(ids_from(root_ids))
    show_frame(found[["latest_root_id"]].reset_index(), out)


def synapses(
    client: Client,
    root_ids: RootIds,
    pre: Annotated[
        bool, typer.Option("--pre", help="Outputs: synapses where the neurons are presynaptic.")
    ] = False,
    post: Annotated[
        bool, typer.Option("--post", help="Inputs: synapses where the neurons are postsynaptic.")
    ] = False,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="TABLE",
            help="Table that annotates synapses; may be repeated.",
            autocompletion=complete_table,
        ),
    ] = None,
    live: Live = False,
    out: Out = None,
) -> None:
    """Fetch the synapses of neurons.

    Both sides, unless one is named. Positions come in nm, one column per axis.
    """
    both = not pre and not post
    frame = client.query_synapses(
        ids_from(root_ids),
        pre=pre or both,
        post=post or both,
        reference_tables=reference,
        live=live,
        progress=out is not None,
    )
    if stale := frame.attrs["stale_root_ids"]:
        _explain_stale(client, stale)
    show_frame(frame, out)


def _explain_stale(client: Client, stale: list[int]) -> None:
    """Explain why roots have no synapses: newer than the version, edited since, or no roots at all."""
    floating = client.timestamp is None and not client.session.pinned
    newer = [
        root for root, now in zip(stale, client.is_latest_roots(stale, client.now()), strict=True) if now
    ]
    if newer:
        way = "add --live" if floating else "leave out the version or time, and add --live"
        note(f"no synapses of {_listed(newer)}: newer than what was queried; {way}")
    if older := [root for root in stale if root not in newer]:
        name = client.spec.name
        note(
            f"no synapses of {_listed(older)}: not valid roots at the time of the query; `cortexclient latest-roots "
            f"{name} ID` suggests their successors"
        )


def l2_ids(
    client: Client,
    root_id: Annotated[str, typer.Argument(help="Root id.")],
    attributes: Annotated[
        bool, typer.Option("--attributes", help="With their positions, sizes and other attributes.")
    ] = False,
    out: Out = None,
) -> None:
    """List the level-2 ids of a neuron."""
    import pandas as pd

    found = client.get_l2_ids(ids_from([root_id])[0])
    if attributes:
        show_frame(cast("pd.DataFrame", client.get_l2data(found)), out, index=True)
    else:
        show_frame(pd.DataFrame({"l2_id": found}), out)


def _listed(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
