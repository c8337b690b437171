"""Synapses over cortical depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.plotting.shapes import positions
from cortexclient.plotting.style import POSTSYNAPTIC, PRESYNAPTIC, depth_axis, draw_layers, new_axes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["plot_synapse_depths"]


def plot_synapse_depths(
    pre: Any = None,
    post: Any = None,
    *,
    bin_um: float = 20.0,
    range_um: tuple[float, float] | None = None,
    layers: Iterable[Any] | None = None,
    legend: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw histograms of synapses over cortical depth: presynaptic sites to the left, postsynaptic ones to the right.

    Parameters
    ----------
    pre, post : pandas.DataFrame, or array of shape (n,) or (n, 3), optional
        Depths in um, or positions in um with y = depth below the pia (``anno.pre_syn.df`` of a transformed neuron).
    bin_um : float
        Height of a bin in um.
    range_um : tuple of float, optional
        Depths to show. Default: all that there are, in whole bins.
    layers : iterable, optional
        Cortical layers (``name``, ``top_um``, ``bottom_um``), such as ``client.spec.layers``.
    legend : bool
        Whether to explain the colours.
    title : str, optional
        Title of the axes.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into; a new figure if none is given.

    Returns
    -------
    matplotlib.axes.Axes
        Counts across, depth downwards.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    ValueError
        If neither side is given, or ``bin_um`` is not positive.
    """
    if pre is None and post is None:
        raise ValueError("nothing to draw; give pre=, post=, or both")
    if not bin_um > 0:
        raise ValueError(f"bin_um={bin_um} is not a height; give a positive number of um")
    sides = [
        (depths(data), sign, name, color)
        for data, sign, name, color in (
            (pre, -1, "presynaptic", PRESYNAPTIC),
            (post, 1, "postsynaptic", POSTSYNAPTIC),
        )
        if data is not None
    ]
    everything = np.concatenate([found for found, *_ in sides])
    low, high = range_um or (
        (float(everything.min()), float(everything.max())) if len(everything) else (0.0, bin_um)
    )
    first = np.floor(low / bin_um)
    count = max(1, int(np.ceil(high / bin_um) - first))
    edges = (first + np.arange(count + 1)) * bin_um
    ax = new_axes(ax, (3.4, 6.4))
    largest = 1
    for found, sign, name, color in sides:
        counts, _ = np.histogram(found, edges)
        largest = max(largest, int(counts.max(initial=0)))
        ax.barh(
            edges[:-1],
            sign * counts,
            height=bin_um,
            align="edge",
            color=color,
            edgecolor="white",
            linewidth=0.4,
            label=f"{name} ({len(found):,})",
        )
    ax.axvline(0, color="black", linewidth=0.8)
    both = len(sides) == 2
    ax.set_xlim(-1.08 * largest if sides[0][1] < 0 else 0, 1.08 * largest if sides[-1][1] > 0 else 0)
    # counts have no sign: the left side only looks the other way
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    ax.locator_params(axis="x", integer=True, nbins=5 if both else 4)
    depth_axis(ax)
    ax.set_xlabel(f"Synapses per {bin_um:g} µm")
    if layers is not None:
        draw_layers(ax, layers)
    if title:
        ax.set_title(title)
    if legend:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, fontsize="small")
    return ax


def depths(data: Any) -> NDArray[np.float64]:
    """Depths in um out of depths, positions or a table of positions."""
    if not hasattr(data, "columns"):
        array = np.asarray(data, dtype=np.float64)
        if array.ndim <= 1:
            return array.reshape(-1)
    return positions(data)[:, 1]
