"""Commands that write or show shapes: skeletons, meshes, figures and Neuroglancer links."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

import typer

from cortexclient.cli.options import Client, dataset_command, ids_from
from cortexclient.cli.output import error_console, note, say
from cortexclient.files import replacing, write_bytes
from cortexclient.settings import expanded
from cortexclient.types import TransformName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["known_picture", "neuron_figure", "register_commands"]

PANEL = "Shapes and pictures"
RootId = Annotated[str, typer.Argument(help="Root id.")]


def known_picture(ctx: typer.Context, out: Path) -> Path:
    """Refuse a picture that cannot be written, before anything is fetched for it."""
    if ctx.resilient_parsing:  # the shell completes a line, and should not wait for matplotlib
        return out
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        return out  # what draws it says which extra is missing

    if out.suffix.lower().removeprefix(".") not in FigureCanvasBase.get_supported_filetypes():
        raise typer.BadParameter(f"do not know how to draw {out.name}; end it in .png, .pdf or .svg")
    folder = expanded(out).resolve().parent
    if not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"cannot write {out.name} into {folder}; name a folder where you may write")
    return out


_HALF_WIDTH_UM = 40.0
"""Half the width of the view onto the mesh: in a complete neuron the pieces are too small to be seen."""


class Transform(StrEnum):
    """Space of the coordinates."""

    none = "none"
    rigid = "rigid"
    streamline = "streamline"


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dataset_command(app, "skeleton", panel=PANEL)(skeleton)
    dataset_command(app, "mesh", panel=PANEL, moment=False)(mesh)
    dataset_command(app, "link", panel=PANEL)(link)
    dataset_command(app, "plot", panel=PANEL)(plot)


def skeleton(
    client: Client,
    root_id: RootId,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .swc (um) or .h5 (Meshwork, nm).")],
    transform: Annotated[
        Transform,
        typer.Option(help="none: nm as in the volume; rigid, streamline: um, y = depth below the pia."),
    ] = Transform.none,
) -> None:
    """Write the skeleton of a neuron to a file.

    With its synapses, where the format holds them.
    """
    root = ids_from([root_id])[0]
    ending = out.suffix.lower()
    if ending not in {".swc", ".h5"}:
        raise typer.BadParameter(f"do not know how to write {out.name}; end it in .swc or .h5")
    space = None if transform is Transform.none else cast("TransformName", transform.value)
    neuron = client.get_skeleton(root, synapses=ending == ".h5", transform=space)
    if ending == ".swc":
        client.save_swc(neuron, out)
    else:
        with replacing(out) as part:
            neuron.save_meshwork(str(part), overwrite=True)
    note(f"{len(neuron.skeleton.vertices):,} vertices -> {out}")


def mesh(
    client: Client,
    root_id: RootId,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .ply or .obj, in nm.")],
) -> None:
    """Write the mesh of a neuron to a file."""
    root = ids_from([root_id])[0]
    ending = out.suffix.lower()
    if ending not in {".ply", ".obj"}:
        raise typer.BadParameter(f"do not know how to write {out.name}; end it in .ply or .obj")
    found = client.mesh.get_mesh(root)
    data = found.to_ply() if ending == ".ply" else found.to_obj()
    write_bytes(out, bytes(data))
    note(f"{len(found.vertices):,} vertices, {len(found.faces):,} faces -> {out}")


def link(
    client: Client,
    root_ids: Annotated[list[str] | None, typer.Argument(help="Root ids to select.")] = None,
    synapses: Annotated[
        bool, typer.Option("--synapses", help="Show the neurons' synapses as points.")
    ] = False,
    shorten: Annotated[bool, typer.Option("--shorten", help="Store the state in the state service.")] = False,
    site: Annotated[
        str | None,
        typer.Option("--site", help="Neuroglancer site to use instead of the dataset's."),
    ] = None,
) -> None:
    """Print a Neuroglancer link to a dataset."""
    roots = ids_from(root_ids or [])
    points = client.query_synapses(roots, pre=True, post=True, progress=False) if synapses and roots else None
    say(client.neuroglancer_url(site, root_ids=roots, annotations=points, shorten=shorten))
    address = urlsplit(client.session.connection.address_asked)
    if address.scheme == "sandbox" and address.port is None:  # started by this command, and stopped with it
        note(
            "the sandbox of this link has stopped with this command; for one that keeps running, start `cortexclient "
            "sandbox serve` and give --server the address that it prints"
        )


def plot(
    client: Client,
    root_id: RootId,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Picture to write: .png, .pdf or .svg.", callback=known_picture),
    ] = Path("neuron.png"),
    streamline: Annotated[
        bool, typer.Option("--streamline", help="Straighten the neuron along cortical streamlines.")
    ] = False,
) -> None:
    """Draw a neuron in cortical depth.

    With its synapses, and their histogram over depth. A dataset without a cortical space is drawn along the axes of the
    imagery, without the histogram.
    """
    root = ids_from([root_id])[0]
    with error_console().status(f"fetching neuron {root} ..."):
        neuron = client.get_skeleton(
            root, transform="streamline" if streamline else "rigid" if client.spec.transform else None
        )
    figure = neuron_figure(
        neuron, layers=client.spec.layers or None, title=f"{client.spec.title}\nneuron {root}"
    )
    with replacing(out) as part:
        figure.savefig(part, dpi=200)
    say(f"picture -> {out}")


# -- the figure of `plot` and `demo` --------------------------------------------------------------------------


def neuron_figure(
    neuron: Any,
    *,
    layers: Iterable[Any] | None = None,
    mesh: Any = None,
    labels: NDArray[Any] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a neuron in cortical depth beside its synapses over depth and, where given, its mesh around the root.

    ``neuron`` is a Meshwork in um with y = depth below the pia, ``mesh`` its vertices in um and faces, ``labels`` the
    level-2 id of each vertex of the mesh. A Meshwork in nm of the volume has no depths, and its synapses no histogram.
    """
    from cortexclient.plotting import plot_neuron, plot_synapse_depths
    from cortexclient.plotting.depths import site_positions
    from cortexclient.plotting.style import pyplot

    in_cortex = neuron.space != "volume"
    widths = [2.4, *([1.3] if in_cortex else []), *([] if mesh is None else [2.3])]
    plt = pyplot()
    figure, grid = plt.subplots(
        1,
        len(widths),
        figsize=(2.3 * sum(widths), 6.8),
        layout="constrained",
        width_ratios=widths,
        squeeze=False,
    )
    axes = grid[0]
    what = "Skeleton, compartments and synapses"
    if in_cortex:
        layers = None if layers is None else list(layers)
        plot_neuron(neuron, layers=layers, title=what, ax=axes[0])
    else:
        plot_neuron(neuron, space="volume", title=what, ax=axes[0])
    pre, post = (site_positions(neuron, table) if in_cortex else None for table in ("pre_syn", "post_syn"))
    if pre is not None or post is not None:
        axes[1].sharey(axes[0])
        plot_synapse_depths(pre, post, layers=layers, title="Synapses over depth", ax=axes[1])
        axes[1].set_ylabel("")
        axes[1].tick_params(labelleft=False)
    if mesh is not None:
        middle = neuron.skeleton.vertices[int(neuron.skeleton.root)]
        _mesh_panel(axes, mesh, labels, middle if in_cortex else middle / 1000)
    if title:
        figure.suptitle(title)
    return figure  # type: ignore[no-any-return]


def _mesh_panel(axes: Any, mesh: Any, labels: NDArray[Any] | None, middle: NDArray[Any]) -> None:
    """Draw the mesh around a point into the last axes, and the frame of that view into the first."""
    import numpy as np
    from matplotlib.patches import Rectangle

    from cortexclient.plotting import plot_mesh

    vertices, faces = (np.asarray(part) for part in mesh)
    near = (np.abs(vertices[:, :2] - middle[:2]) <= _HALF_WIDTH_UM).all(axis=1)
    side = axes[-1]
    plot_mesh((vertices, faces[near[faces].all(axis=1)]), labels=labels, scale=1, ax=side)
    corner = middle[:2] - _HALF_WIDTH_UM
    side.set_aspect("equal", adjustable="box")
    side.set_xlim(corner[0], corner[0] + 2 * _HALF_WIDTH_UM)
    side.set_ylim(corner[1] + 2 * _HALF_WIDTH_UM, corner[1])
    side.set_xlabel(axes[0].get_xlabel())
    side.set_ylabel(axes[0].get_ylabel())
    side.set_title("Mesh in the frame" + ("" if labels is None else ", one colour per level-2 id"))
    frame = Rectangle(
        tuple(corner), 2 * _HALF_WIDTH_UM, 2 * _HALF_WIDTH_UM, fill=False, linewidth=0.8, zorder=6
    )
    axes[0].add_patch(frame)
