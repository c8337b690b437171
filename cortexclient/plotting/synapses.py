"""Synapses over cortical depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.plotting.depths import depths
from cortexclient.plotting.style import POSTSYNAPTIC, PRESYNAPTIC, depth_axis, draw_layers, new_axes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes

__all__ = ["plot_synapse_depths"]

_MOST_BINS = 2000


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
    pre, post : array of shape (n,) or (n, 3), pandas.DataFrame, or neuron, optional
        Depths in um (``client.depth(frame)``), positions in um with y = depth below the pia, or a transformed neuron,
        whose synapses of that side are taken. Missing ones are left out.
    bin_um : float
        Height of a bin in um; at most 2,000 bins are drawn.
    range_um : tuple of float, optional
        Depths to show. Default: from the smallest to the largest, in full bins.
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
        If neither side is given, ``bin_um`` is not positive or too small, or what is given are not depths in um.
    """
    if pre is None and post is None:
        raise ValueError("nothing to draw; give pre=, post=, or both")
    if not 0 < bin_um < np.inf:
        raise ValueError(f"bin_um={bin_um} is not a height; give a positive number of um")
    if range_um is not None and not (np.isfinite(range_um).all() and range_um[0] < range_um[1]):
        raise ValueError(f"range_um={range_um} is no range; give two depths in um, the upper one first")
    sides = [
        (depths(data, table), sign, name, color)
        for data, table, sign, name, color in (
            (pre, "pre_syn", -1, "presynaptic", PRESYNAPTIC),
            (post, "post_syn", 1, "postsynaptic", POSTSYNAPTIC),
        )
        if data is not None
    ]
    everything = np.concatenate([found for found, *_ in sides])
    low, high = range_um or (
        (float(everything.min()), float(everything.max())) if len(everything) else (0.0, bin_um)
    )
    first = np.floor(low / bin_um)
    count = max(1, int(np.ceil(high / bin_um) - first))
    if count > _MOST_BINS:
        raise ValueError(
            f"bin_um={bin_um:g} makes {count:,} bins between {low:,.0f} and {high:,.0f} um, more than {_MOST_BINS:,}; "
            "give a larger one"
        )
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
