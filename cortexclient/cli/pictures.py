"""Commands that show: Neuroglancer links and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cortexclient.cli.options import Dataset, Moment, Server, Version, ids_from, open_client
from cortexclient.cli.output import console, error_console, say
from cortexclient.files import replacing

__all__ = ["register_commands"]


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("link", rich_help_panel="Pictures")(link)
    app.command("plot", rich_help_panel="Pictures")(plot)


def link(
    dataset: Dataset,
    root_ids: Annotated[list[str] | None, typer.Argument(help="Root ids to select.")] = None,
    synapses: Annotated[
        bool, typer.Option("--synapses", help="Show the neurons' synapses as points.")
    ] = False,
    shorten: Annotated[bool, typer.Option("--shorten", help="Store the state in the state service.")] = False,
    site: Annotated[
        str | None,
        typer.Option("--site", help="Neuroglancer site to use instead of the dataset's.", show_default=False),
    ] = None,
    version: Version = None,
    timestamp: Moment = None,
    server: Server = None,
) -> None:
    """Print a Neuroglancer link to a dataset."""
    roots = ids_from(root_ids or [])
    client = open_client(dataset, version, timestamp, server)
    points = client.query_synapses(roots, pre=True, post=True, progress=False) if synapses and roots else None
    say(client.neuroglancer_url(site, root_ids=roots, annotations=points, shorten=shorten))
    address = urlsplit(server or client.spec.server_address)
    if address.scheme == "sandbox" and address.port is None:
        error_console().print(
            "the sandbox that this link leads to has ended with this command; for one that stays run "
            "`cortexclient sandbox serve`, and give --server the address that it prints",
            highlight=False,
            soft_wrap=True,
        )


def plot(
    dataset: Dataset,
    root_id: Annotated[str, typer.Argument(help="Root id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write: .png, .pdf or .svg.")] = Path(
        "neuron.png"
    ),
    streamline: Annotated[
        bool, typer.Option("--streamline", help="Straighten the neuron along cortical streamlines.")
    ] = False,
    version: Version = None,
    timestamp: Moment = None,
    server: Server = None,
) -> None:
    """Draw a neuron in cortical depth, with its synapses and their histogram over depth."""
    from cortexclient.cli.figure import neuron_figure

    root = ids_from([root_id])[0]
    client = open_client(dataset, version, timestamp, server)
    with error_console().status(f"fetching neuron {root} ..."):
        neuron = client.get_skeleton(root, transform="streamline" if streamline else "rigid")
    figure = neuron_figure(
        neuron, layers=client.spec.layers or None, title=f"{client.spec.title}\nneuron {root}"
    )
    with replacing(out) as part:
        figure.savefig(part, dpi=200)
    console().print(f"picture -> {out}")
