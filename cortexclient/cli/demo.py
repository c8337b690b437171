"""``cortexclient demo``: ids, synapses, skeleton, mesh, export, link and picture of one neuron. Public API only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cortexclient.cli.options import Server, Token, Version, complete_dataset, ids_from, open_client
from cortexclient.cli.output import console, error_console, escaped
from cortexclient.cli.shapes import known_picture, neuron_figure
from cortexclient.errors import MissingDataError, NotConfiguredError, UnknownTableError
from cortexclient.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console

    from cortexclient.client import DatasetClient

__all__ = ["register_commands"]

SHOWN_CELLS, SHOWN_NAMES = 20, 6


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("demo", rich_help_panel="Start here")(demo)


def demo(
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME",
            help="Dataset to work on.",
            autocompletion=complete_dataset,
        ),
    ] = "sandbox",
    root_id: Annotated[
        str | None,
        typer.Option("--root-id", "-r", help="Neuron to show. Default: an example."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Picture to write.", callback=known_picture)
    ] = Path("demo.png"),
    version: Version = None,
    server: Server = None,
    token: Token = None,
) -> None:
    """Show one neuron from every side.

    Its ids, synapses, skeleton, mesh, a static export, a link and a picture.

    On the sandbox it needs no account and no network; on a real dataset, your token.
    """
    began = time.perf_counter()
    client = open_client(dataset, version=version, server=server, token=token)
    steps_of = Demo(client, None if root_id is None else ids_from([root_id])[0], out)
    starting = client.session.connection.address_asked.startswith("sandbox://")
    steps = {
        "connect": _starting() if starting else "connecting",
        "tables": "listing tables",
        "cells": "looking up root ids of cells, and back",
        "synapses": "querying synapses with a reference table",
        "skeleton": "fetching the skeleton in cortical depth",
        "mesh": "fetching the mesh and its level-2 ids",
        "export": "reading a static export",
        "link": "making a Neuroglancer link",
        "picture": "drawing",
    }
    show = console()
    for number, (name, doing) in enumerate(steps.items(), start=1):
        lines = _run(name, f"[{number}/{len(steps)}] {doing} ...", getattr(steps_of, name))
        for row, line in enumerate(lines):
            _show(show, name if row == 0 else "", line)
    show.print(f"[bold]{'done':<9}[/] in {time.perf_counter() - began:.1f} s")


def _starting() -> str:
    from cortexclient.sandbox.build import BUILD_SECONDS

    seconds = BUILD_SECONDS["small"]
    return (
        f"starting the sandbox (the first time it builds a small cortex: about {seconds} s on two idle cores)"
    )


def _show(show: Console, name: str, line: str) -> None:
    """Print a line of a step; what does not fit a terminal goes on below itself, but for links, which stay in one."""
    if not show.is_terminal or "[link" in line:
        show.print(f"[bold]{name:<9}[/] {line}", soft_wrap=True)
        return
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9, style="bold")
    grid.add_column()
    grid.add_row(name, line)
    show.print(grid)


def _run(name: str, doing: str, step: Callable[[], Iterable[str]]) -> list[str]:
    """Run one step behind a spinner; what a dataset does not offer is reported and skipped."""
    errors = error_console()
    if not errors.is_terminal and name == "connect":
        errors.print(doing, markup=False)  # it may take some seconds, and a spinner is not shown here
    with errors.status(doing):
        try:
            return list(step())
        except (NotConfiguredError, MissingDataError) as missing:
            # everything that follows needs the neuron
            if name in {"connect", "cells"}:
                raise
            return [f"[dim]not available here: {escaped(missing)}[/]"]


class Demo:
    """The steps of the demo on one neuron; each returns a line or two about what it found.

    Without ``root_id`` it takes the spec's example, else a cell of the nucleus table.
    """

    def __init__(self, client: DatasetClient, root_id: int | None, out: Path) -> None:
        self.client = client
        self.root = root_id or 0  # not chosen yet
        self.out = out
        self.neuron: Any = None
        self.shape: Any = None
        self.labels: Any = None
        self.sites: Any = None

    def connect(self) -> Iterator[str]:
        """Ask the server for its version, and pin the client to it."""
        version = self.client.version
        # one moment for every step: a floating client would put the synapses of now on the skeleton
        self.client = client = self.client.at(version=version)
        moment = client.version_timestamp(version)
        yield escaped(f"{client.spec.title} ({client.datastack_name} at {client.server_address})")
        yield f"version {version}, frozen {moment:%Y-%m-%d %H:%M} UTC"

    def tables(self) -> Iterator[str]:
        """List tables and views."""
        tables, views = sorted(self.client.tables), sorted(self.client.views)
        names = [*tables, *views]
        shown = names if len(names) <= SHOWN_NAMES else [*names[:SHOWN_NAMES], "..."]
        yield escaped(f"{len(tables)} tables, {len(views)} views: {', '.join(shown)}")

    def cells(self) -> Iterator[str]:
        """Map cell ids to root ids and back; choose the neuron."""
        client = self.client
        ids = client.spec.cell_ids
        if ids is None or ids.main_table is None:
            self.root = self.root or self._example()
            if not self.root:
                raise NotConfiguredError(
                    f"the spec of {client.spec.name} has neither example nor nucleus table; choose a neuron: --root-id"
                )
            yield f"no cell ids in this dataset; neuron {self.root}"
            return
        nuclei = getattr(client.tables, ids.main_table)().query(limit=SHOWN_CELLS)
        roots = client.cell_id_to_root_id(nuclei["id"].to_numpy())
        found = roots[roots["root_id"] > 0]
        cells = client.root_id_to_cell_id(found["root_id"].to_numpy())
        back = int((cells["cell_id"].to_numpy() == found.index.to_numpy()).sum())
        self.root = self.root or self._example() or int(found["root_id"].iloc[0])
        own = int(client.root_id_to_cell_id([self.root])["cell_id"].iloc[0])
        yield f"{len(found)} of {len(roots)} cell ids have a root id; {back} of those root ids lead back to their cell"
        yield f"neuron {self.root} is " + (f"cell {own}" if own > 0 else "no cell with a nucleus")

    def _example(self) -> int:
        """Return the spec's example neuron at the client's moment; 0 where it has none."""
        example = self.client.spec.example_ids
        if example is not None and example.cell_id is not None:
            root = int(self.client.cell_id_to_root_id([example.cell_id])["root_id"].iloc[0])
            if root > 0:
                return root
        return 0 if example is None else example.root_id or 0

    def synapses(self) -> Iterator[str]:
        """Fetch the neuron's synapses on both sides."""
        client = self.client
        reference = _synapse_reference(client)
        frame = client.query_synapses(
            [self.root], pre=True, post=True, reference_tables=reference, progress=False
        )
        out_of = int((frame["pre_pt_root_id"] == self.root).sum())
        into = int((frame["post_pt_root_id"] == self.root).sum())
        self.sites = frame
        also = f", with the columns of {', '.join(reference)}" if reference else ""
        yield f"{out_of:,} outputs, {into:,} inputs{also}"

    def skeleton(self) -> Iterator[str]:
        """Fetch the skeleton; in a cortical space it is moved rigidly, so that y is the depth below the pia."""
        in_cortex = self.client.spec.transform is not None
        neuron = self.client.get_skeleton(self.root, transform="rigid" if in_cortex else None)
        self.neuron = neuron
        depth = neuron.skeleton.vertices[:, 1]
        length = neuron.skeleton.path_length() / (1e3 if in_cortex else 1e6)
        found = f"{len(depth):,} vertices, {length:.2f} mm of neurite"
        if in_cortex:
            soma = neuron.skeleton.vertices[int(neuron.skeleton.root), 1]
            found += f", {depth.min():.0f} to {depth.max():.0f} µm below the pia, root at {soma:.0f} µm"
        yield found

    def mesh(self) -> Iterator[str]:
        """Fetch the mesh and find the level-2 id of each of its vertices."""
        client = self.client
        self.shape = client.mesh.get_mesh(self.root)
        began = time.perf_counter()
        self.labels = client.mesh.compute_vertex_to_l2_mapping(
            self.root, vertices=self.shape.vertices, faces=self.shape.faces
        )
        took = time.perf_counter() - began
        known = self.labels[self.labels != 0]
        share = 100 * len(known) / max(1, len(self.labels))
        yield (
            f"{len(self.shape.vertices):,} vertices, {len(self.shape.faces):,} faces; {share:.1f} % of the "
            f"vertices have one of {len(set(known.tolist())):,} level-2 ids ({took:.2f} s)"
        )

    def export(self) -> Iterator[str]:
        """Read the smallest static export."""
        exports = self.client.exports
        available = exports.available_data_df()
        if not len(available):
            yield "none in the bucket"
            return
        first = available.sort_values(["bytes", "name"]).iloc[0]
        frame = exports.get_table(str(first["name"]), int(first["version"]))
        yield escaped(
            f"{len(available)} files; {first['name']} of version {first['version']}: {len(frame):,} rows x "
            f"{len(frame.columns)} columns"
        )

    def link(self) -> Iterator[str]:
        """Make a Neuroglancer link that shows the neuron and its synapses."""
        url = self.client.neuroglancer_url(root_ids=self.root, annotations=self.sites, shorten=True)
        yield f"[link={url}]{url}[/link]"
        if self.client.session.connection.address_asked.startswith("sandbox://"):  # stops with this command
            yield (
                "[dim]it opens while the sandbox runs: start one with `cortexclient sandbox serve`, then the demo "
                "with --server and its address[/]"
            )

    def picture(self) -> Iterator[str]:
        """Draw the neuron."""
        if self.neuron is None:
            raise NotConfiguredError("there is no skeleton to draw")
        mesh = None
        if self.shape is not None:
            in_cortex = self.client.spec.transform is not None
            vertices = self.shape.vertices
            vertices = self.client.space.transform_nm.apply(vertices) if in_cortex else vertices / 1000
            mesh = (vertices, self.shape.faces)
        figure = neuron_figure(
            self.neuron,
            layers=self.client.spec.layers or None,
            mesh=mesh,
            labels=self.labels,
            title=f"{self.client.spec.title}: neuron {self.root}",
        )
        with replacing(self.out) as part:
            figure.savefig(part, dpi=170)
        yield escaped(self.out.resolve())


def _synapse_reference(client: DatasetClient) -> list[str] | None:
    """Name a reference table on synapses, where the spec has one at the client's version."""
    try:
        return [client.spec.table_for("synapse_targets", client.version).name]
    except (NotConfiguredError, UnknownTableError):
        return None
