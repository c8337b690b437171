"""Commands about cells and their ids, and the synapses between them."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from cortexclient.cli.options import Dataset, Moment, Out, Server, Version, ids_from, open_client
from cortexclient.cli.output import error_console, show_frame

__all__ = ["register_commands"]

RootIds = Annotated[list[str], typer.Argument(help="Root ids, or - to read them from standard input.")]
CellIds = Annotated[list[str], typer.Argument(help="Cell ids, or - to read them from standard input.")]


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    panel = "Cells"
    app.command("cell-id-to-root-id", rich_help_panel=panel)(cell_id_to_root_id)
    app.command("root-id-to-cell-id", rich_help_panel=panel)(root_id_to_cell_id)
    app.command("latest-roots", rich_help_panel=panel)(latest_roots)
    app.command("synapses", rich_help_panel=panel)(synapses)
    app.command("l2-ids", rich_help_panel=panel)(l2_ids)


def cell_id_to_root_id(
    dataset: Dataset,
    cell_ids: CellIds,
    version: Version = None,
    timestamp: Moment = None,
    server: Server = None,
    out: Out = None,
) -> None:
    """Look up the root id of each cell id; -1 where there is none."""
    ids = ids_from(cell_ids)
    client = open_client(dataset, version, timestamp, server)
    show_frame(client.cell_id_to_root_id(ids), out, index=True)


def root_id_to_cell_id(
    dataset: Dataset,
    root_ids: RootIds,
    version: Version = None,
    timestamp: Moment = None,
    server: Server = None,
    out: Out = None,
) -> None:
    """Look up the cell id of each root id; -1 where there is none, or more than one."""
    ids = ids_from(root_ids)
    client = open_client(dataset, version, timestamp, server)
    show_frame(client.root_id_to_cell_id(ids), out, index=True)


def latest_roots(
    dataset: Dataset,
    root_ids: RootIds,
    timestamp: Moment = None,
    server: Server = None,
    out: Out = None,
) -> None:
    """Suggest for each root id the one that holds most of it at a moment, by default now; -1 where there is none."""
    client = open_client(dataset, timestamp=timestamp, server=server)
    found = client.latest_roots(ids_from(root_ids))
    show_frame(found[["latest_root_id"]].reset_index(), out)


def synapses(
    dataset: Dataset,
    root_ids: RootIds,
    pre: Annotated[
        bool, typer.Option("--pre", help="Outputs: synapses where the neurons are presynaptic.")
    ] = False,
    post: Annotated[
        bool, typer.Option("--post", help="Inputs: synapses where the neurons are postsynaptic.")
    ] = False,
    reference: Annotated[
        list[str] | None,
        typer.Option("--reference", "-r", help="Table that says more about synapses; may be repeated."),
    ] = None,
    version: Version = None,
    timestamp: Moment = None,
    server: Server = None,
    out: Out = None,
) -> None:
    """Fetch the synapses of neurons, positions in nm; both sides unless one is named."""
    ids = ids_from(root_ids)
    client = open_client(dataset, version, timestamp, server)
    both = not pre and not post
    frame = client.query_synapses(
        ids,
        pre=pre or both,
        post=post or both,
        reference_tables=reference,
        progress=out is not None,
    )
    if stale := frame.attrs["stale_root_ids"]:
        error_console().print(
            f"no synapses of {', '.join(map(str, stale))}: not valid roots at the moment asked; "
            f"`cortexclient latest-roots {dataset}` suggests others",
            highlight=False,
            soft_wrap=True,
        )
    show_frame(frame, out)


def l2_ids(
    dataset: Dataset,
    root_id: Annotated[str, typer.Argument(help="Root id.")],
    attributes: Annotated[
        bool, typer.Option("--attributes", help="With their positions, sizes and other attributes.")
    ] = False,
    server: Server = None,
    out: Out = None,
) -> None:
    """List the level-2 ids of a neuron."""
    import pandas as pd

    root = ids_from([root_id])[0]
    client = open_client(dataset, server=server)
    found = client.get_l2_ids(root)
    if attributes:
        show_frame(cast("pd.DataFrame", client.get_l2data(found)), out, index=True)
    else:
        show_frame(pd.DataFrame({"l2_id": found}), out)
