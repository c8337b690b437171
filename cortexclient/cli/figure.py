"""The picture of the demo and of ``cortexclient plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["neuron_figure"]


def neuron_figure(
    neuron: Any,
    *,
    layers: Iterable[Any] | None = None,
    mesh: Any = None,
    labels: NDArray[Any] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a neuron in cortical depth beside its synapses over depth and, where given, its mesh.

    Parameters
    ----------
    neuron : Meshwork
        A neuron in um with y = depth below the pia.
    layers : iterable, optional
        Cortical layers.
    mesh : object, optional
        The neuron's mesh in nm.
    labels : numpy.ndarray, optional
        Level-2 id of each vertex of the mesh.
    title : str, optional
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from cortexclient.plotting import plot_mesh, plot_neuron, plot_synapse_depths
    from cortexclient.plotting.shapes import synapse_positions
    from cortexclient.plotting.style import pyplot

    widths = [2.4, 1.3] if mesh is None else [2.4, 1.3, 2.1]
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(widths), figsize=(2.3 * sum(widths), 6.8), layout="constrained", width_ratios=widths
    )
    layers = None if layers is None else list(layers)
    plot_neuron(neuron, layers=layers, title="Skeleton, compartments and synapses", ax=axes[0])
    pre, post = (synapse_positions(neuron, table) for table in ("pre_syn", "post_syn"))
    if pre is not None or post is not None:
        axes[1].sharey(axes[0])
        plot_synapse_depths(pre, post, layers=layers, title="Synapses over depth", ax=axes[1])
        axes[1].set_ylabel("")
        axes[1].tick_params(labelleft=False)
    if mesh is not None:
        name = "Mesh" if labels is None else "Mesh, one colour per level-2 id"
        plot_mesh(mesh, labels=labels, title=name, ax=axes[2])
    if title:
        figure.suptitle(title)
    return figure  # type: ignore[no-any-return]
