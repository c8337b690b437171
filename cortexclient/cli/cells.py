"""Commands about cells and their ids, and the synapses between them."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from cortexclient.cli.options import Client, Live, Out, complete_table, dataset_command, ids_from
from cortexclient.cli.output import show_frame
from cortexclient.cli.screen import note

__all__ = ["register_commands"]

PANEL = "Cells"
RootIds = Annotated[list[str], typer.Argument(help="Root ids, or - to read them from standard input.")]
CellIds = Annotated[list[str], typer.Argument(help="Cell ids, or - to read them from standard input.")]


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dataset_command(app, "cell-id-to-root-id", panel=PANEL)(cell_id_to_root_id)
    dataset_command(app, "root-id-to-cell-id", panel=PANEL)(root_id_to_cell_id)
    dataset_command(app, "latest-roots", panel=PANEL)(latest_roots)
    dataset_command(app, "synapses", panel=PANEL)(synapses)
    dataset_command(app, "l2-ids", panel=PANEL, moment=False)(l2_ids)


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
    """Say why roots have no synapses, and what to do: newer than the version, edited since, or no roots at all."""
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
