"""A neuron in cortical depth, or in the axes of the imagery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cortexclient.plotting.depths import (
    in_depth,
    in_volume,
    shape_in_depth,
    shape_in_volume,
    site_positions,
)
from cortexclient.plotting.style import (
    COMPARTMENTS,
    PALETTE,
    POSTSYNAPTIC,
    PRESYNAPTIC,
    depth_axis,
    draw_layers,
    new_axes,
)
from cortexclient.session import as_choice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from cortexclient.services.skeletons.shapes import NeuronShape

__all__ = ["plot_neuron"]

COLUMNS = {"x": 0, "z": 2}
# how the neuron and its sites are read, and what stands on the axes: which of the body's axes x and z are depends on
# the dataset, that they run along the pia does not
SPACES = {
    "depth": (shape_in_depth, in_depth, "Cortical depth (µm)", ", along the pia"),
    "volume": (shape_in_volume, in_volume, "y (µm)", ""),
}


def plot_neuron(
    neuron: Any,
    *,
    pre: Any = None,
    post: Any = None,
    synapses: bool = True,
    compartments: NDArray[Any] | None = None,
    layers: Iterable[Any] | None = None,
    across: Literal["x", "z"] = "x",
    space: Literal["depth", "volume"] = "depth",
    site_size: float | None = None,
    legend: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a neuron seen from the side, with the pia on top, or without a transform in the axes of the imagery.

    Parameters
    ----------
    neuron : Meshwork, ossify Cell, navis TreeNeuron, Skeleton, dict, str or tuple
        Any output of ``get_skeleton(root_id, transform="rigid")``, masked or not; a MeshParty skeleton; SWC text; or a
        tuple of vertices (n, 3) and edges (m, 2). Lengths in um, y = depth below the pia.
    pre, post : pandas.DataFrame or array of shape (n, 3), optional
        Pre- and postsynaptic sites in um; missing positions are left out. Default: those that the neuron has.
    synapses : bool
        Whether to draw synapses at all.
    compartments : numpy.ndarray, optional
        SWC number of every skeleton vertex (1 soma, 2 axon, 3 dendrite, 4 apical dendrite). Default: what the neuron
        carries; one colour where it carries none.
    layers : iterable, optional
        Cortical layers (``name``, ``top_um``, ``bottom_um``), such as ``client.spec.layers``.
    across : "x" or "z"
        Which coordinate runs across the page.
    space : "depth" or "volume"
        What the axes are. ``"volume"`` draws a neuron that was fetched without a transform, in um along the axes of
        the imagery, y downwards: for datasets without a cortical space. Lengths are in nm then, of a frame of sites in
        the voxels that it states, of SWC text in um; there are no layers.
    site_size : float
        Area of a synapse's marker in points squared. Default: smaller the more there are.
    legend : bool
        Whether to explain the colours.
    title : str, optional
        Title; default: the root id where it is known.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into; a new figure if none is given.

    Returns
    -------
    matplotlib.axes.Axes
        With equal scales on both axes.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    TypeError
        If ``neuron`` is no neuron.
    ValueError
        If the neuron or the synapses are not in cortical depth (um), as without a transform; for ``"volume"`` if they
        were transformed, or layers are given.

    Examples
    --------
    >>> import cortexclient
    >>> from cortexclient.plotting import plot_neuron
    >>> client = cortexclient.load("sandbox")
    >>> cells = client.tables.nucleus_detection().query(limit=1)
    >>> root_id = int(client.cell_id_to_root_id(cells["id"])["root_id"].iloc[0])
    >>> neuron = client.get_skeleton(root_id, transform="rigid")
    >>> axes = plot_neuron(neuron, layers=client.spec.layers)
    """
    as_choice(space, "space", tuple(SPACES))
    as_choice(across, "across", tuple(COLUMNS))
    if layers is not None and space == "volume":
        raise ValueError(
            "layers are depths below the pia, which space='volume' does not show; leave layers= out"
        )
    read_shape, read, down, along = SPACES[space]
    shape = read_shape(neuron)
    labels = _labels(shape, compartments)
    column = COLUMNS[across]
    ax = new_axes(ax, (5.2, 6.4))
    _draw_skeleton(ax, shape, labels, column)
    if synapses:
        for given, table, color, marker in (
            (pre, "pre_syn", PRESYNAPTIC, "^"),
            (post, "post_syn", POSTSYNAPTIC, "o"),
        ):
            sites = site_positions(neuron, table, read) if given is None else read(given)
            if sites is not None and len(sites):
                _draw_sites(
                    ax, sites, column, site_size, color, marker, table.replace("_syn", "synaptic sites")
                )
    if shape.soma is not None:
        across_um, depth_um = shape.soma[[column, 1]]
        black = PALETTE["black"]
        ax.scatter(
            across_um, depth_um, s=90, c=black, edgecolors="white", linewidths=0.8, zorder=5, label="soma"
        )
    ax.set_aspect("equal", adjustable="datalim")
    ax.autoscale_view()
    depth_axis(ax, label=down)
    ax.set_xlabel(f"{across}{along} (µm)")
    if layers is not None:
        draw_layers(ax, layers)
    if title is None and shape.root_id is not None:
        title = f"Neuron {shape.root_id}"
    if title:
        ax.set_title(title)
    if legend and ax.get_legend_handles_labels()[0]:
        _legend(ax)
    return ax


def _labels(shape: NeuronShape, given: NDArray[Any] | None) -> NDArray[np.int64] | None:
    labels = shape.compartments if given is None else np.asarray(given, dtype=np.int64)
    if labels is not None and len(labels) != len(shape.vertices):
        raise ValueError(f"{len(labels)} compartment labels for {len(shape.vertices)} skeleton vertices")
    return labels


def _draw_skeleton(ax: Any, shape: NeuronShape, labels: NDArray[np.int64] | None, column: int) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    flat = shape.vertices[:, [column, 1]]
    segments = flat[shape.edges]
    # an edge belongs to the compartment of its far end; at the soma the neurite counts, not the cell body
    ends = (
        np.zeros(len(segments), dtype=np.int64)
        if labels is None
        else labels[shape.edges].max(axis=1, initial=0)
    )
    for number in np.unique(ends):
        kind = COMPARTMENTS.get(int(number), COMPARTMENTS[0])
        color = PALETTE["black"] if labels is None else kind.color
        ax.add_collection(
            LineCollection(
                list(segments[ends == number]),
                colors=color,
                linewidths=kind.width,
                capstyle="round",
                zorder=2,
            )
        )
        if labels is not None and number != 1:
            # collections with thousands of parts make poor legend keys
            ax.add_line(Line2D([], [], color=color, linewidth=2, label=kind.name))


def _draw_sites(
    ax: Any,
    points: NDArray[np.float64],
    column: int,
    size: float | None,
    color: str,
    marker: str,
    name: str,
) -> None:
    size = float(np.clip(9_000 / len(points), 5, 12)) if size is None else size
    ax.scatter(
        points[:, column],
        points[:, 1],
        s=size,
        c=color,
        marker=marker,
        edgecolors=PALETTE["black"],
        # many sites lie under the neurites as a coloured seam, few lie on them, each with an outline
        linewidths=0.25 if size > 5 else 0,
        zorder=3 if size > 5 else 1,
        label=f"{name} ({len(points):,})",
    )


def _legend(ax: Any) -> None:
    # neurites and soma in the first column, synapses in the second
    handles, names = zip(
        *sorted(zip(*ax.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1].endswith(")")),
        strict=True,
    )
    legend = ax.legend(
        handles,
        names,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=2,
        frameon=False,
        fontsize="small",
    )
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([28])
