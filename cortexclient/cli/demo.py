"""``cortexclient demo``: the whole job on one neuron."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cortexclient.cli.options import Server, Version, ids_from, open_client
from cortexclient.cli.output import console, error_console
from cortexclient.errors import MissingDataError, NotConfiguredError

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["register_commands"]


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("demo", rich_help_panel="Start here")(demo)


def demo(
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Dataset to work on.")] = "sandbox",
    root_id: Annotated[
        str | None,
        typer.Option("--root-id", "-r", help="Neuron to show. Default: an example.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write.")] = Path("demo.png"),
    version: Version = None,
    server: Server = None,
) -> None:
    """Do the whole job on one neuron: ids, synapses, skeleton, mesh, export, link, picture.

    On the sandbox it needs no account and no network; on a real dataset it needs your token.
    """
    from cortexclient.cli.tour import Tour

    began = time.perf_counter()
    client = open_client(dataset, version, server=server)
    tour = Tour(client, None if root_id is None else ids_from([root_id])[0], out)
    steps: list[tuple[str, str, Callable[[], list[str]]]] = [
        ("connect", "starting the server" if dataset == "sandbox" else "connecting", tour.connect),
        ("tables", "listing tables", tour.tables),
        ("cells", "mapping cell ids to root ids and back", tour.cells),
        ("synapses", "querying synapses with a reference table", tour.synapses),
        ("skeleton", "fetching the skeleton in cortical depth", tour.skeleton),
        ("mesh", "fetching the mesh and its level-2 ids", tour.mesh),
        ("export", "reading a static export", tour.export),
        ("link", "making a Neuroglancer link", tour.link),
        ("picture", "drawing", tour.picture),
    ]
    show = console()
    for number, (name, doing, step) in enumerate(steps, start=1):
        lines = _run(name, f"[{number}/{len(steps)}] {doing} ...", step)
        for row, line in enumerate(lines):
            show.print(f"[bold]{name if row == 0 else '':<9}[/] {line}")
    show.print(f"[bold]{'done':<9}[/] in {time.perf_counter() - began:.1f} s")


def _run(name: str, doing: str, step: Callable[[], list[str]]) -> list[str]:
    """Run one step behind a spinner; what a dataset does not offer is said and passed over."""
    errors = error_console()
    with errors.status(doing):
        try:
            return step()
        except (NotConfiguredError, MissingDataError) as missing:
            # the neuron itself is needed for everything that follows
            if name in {"connect", "cells"}:
                raise
            return [f"[dim]not available here: {missing}[/]"]
