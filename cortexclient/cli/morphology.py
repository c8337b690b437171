"""Commands that write shapes: skeletons and meshes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import typer

from cortexclient.cli.options import Dataset, Moment, Server, Version, ids_from, open_client
from cortexclient.cli.output import error_console
from cortexclient.files import replacing, write_bytes
from cortexclient.types import TransformName

__all__ = ["register_commands"]

RootId = Annotated[str, typer.Argument(help="Root id.")]


class Transform(StrEnum):
    """Space of the coordinates."""

    none = "none"
    rigid = "rigid"
    streamline = "streamline"


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("skeleton", rich_help_panel="Shapes")(skeleton)
    app.command("mesh", rich_help_panel="Shapes")(mesh)


def skeleton(
    dataset: Dataset,
    root_id: RootId,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .swc (um) or .h5 (Meshwork, nm).")],
    transform: Annotated[
        Transform,
        typer.Option(help="none: nm as in the volume; rigid, streamline: um, y = depth below the pia."),
    ] = Transform.none,
    version: Version = None,
    timestamp: Moment = None,
    server: Server = None,
) -> None:
    """Write the skeleton of a neuron, with its synapses where the format holds them."""
    root = ids_from([root_id])[0]
    ending = out.suffix.lower()
    if ending not in {".swc", ".h5"}:
        raise typer.BadParameter(f"do not know how to write {out.name}; end it in .swc or .h5")
    client = open_client(dataset, version, timestamp, server)
    space = None if transform is Transform.none else cast("TransformName", transform.value)
    neuron = client.get_skeleton(root, synapses=ending == ".h5", transform=space)
    if ending == ".swc":
        client.save_swc(neuron, out)
    else:
        with replacing(out) as part:
            neuron.save_meshwork(str(part), overwrite=True)
    error_console().print(f"{len(neuron.skeleton.vertices):,} vertices -> {out}")


def mesh(
    dataset: Dataset,
    root_id: RootId,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .ply or .obj, in nm.")],
    server: Server = None,
) -> None:
    """Write the mesh of a neuron."""
    root = ids_from([root_id])[0]
    ending = out.suffix.lower()
    if ending not in {".ply", ".obj"}:
        raise typer.BadParameter(f"do not know how to write {out.name}; end it in .ply or .obj")
    client = open_client(dataset, server=server)
    found = client.mesh.get_mesh(root)
    data = found.to_ply() if ending == ".ply" else found.to_obj()
    write_bytes(out, bytes(data))
    error_console().print(f"{len(found.vertices):,} vertices, {len(found.faces):,} faces -> {out}")
