"""The picture of the demo and of ``cortexclient plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["neuron_figure"]

_HALF_WIDTH_UM = 40.0
"""Half the width of the view onto the mesh: in a whole neuron the pieces are too small to be seen."""


def neuron_figure(
    neuron: Any,
    *,
    layers: Iterable[Any] | None = None,
    mesh: Any = None,
    labels: NDArray[Any] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a neuron in cortical depth beside its synapses over depth and, where given, its mesh around the root.

    Parameters
    ----------
    neuron : Meshwork
        A neuron in um with y = depth below the pia.
    layers : iterable, optional
        Cortical layers.
    mesh : tuple of arrays, optional
        Vertices, in um like the neuron, and faces of its mesh.
    labels : numpy.ndarray, optional
        Level-2 id of each vertex of the mesh.
    title : str, optional
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from cortexclient.plotting import plot_neuron, plot_synapse_depths
    from cortexclient.plotting.depths import site_positions
    from cortexclient.plotting.style import pyplot

    widths = [2.4, 1.3] if mesh is None else [2.4, 1.3, 2.3]
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(widths), figsize=(2.3 * sum(widths), 6.8), layout="constrained", width_ratios=widths
    )
    layers = None if layers is None else list(layers)
    plot_neuron(neuron, layers=layers, title="Skeleton, compartments and synapses", ax=axes[0])
    pre, post = (site_positions(neuron, table) for table in ("pre_syn", "post_syn"))
    if pre is not None or post is not None:
        axes[1].sharey(axes[0])
        plot_synapse_depths(pre, post, layers=layers, title="Synapses over depth", ax=axes[1])
        axes[1].set_ylabel("")
        axes[1].tick_params(labelleft=False)
    if mesh is not None:
        _mesh_panel(axes, mesh, labels, neuron.skeleton.vertices[int(neuron.skeleton.root)])
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
