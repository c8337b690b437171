"""Cortical depths in um, out of the forms in which neurons and synapses come, and histograms of synapses over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.plotting.style import POSTSYNAPTIC, PRESYNAPTIC, depth_axis, draw_layers, new_axes
from cortexclient.services.skeletons.shapes import VOLUME, shape_of
from cortexclient.services.space import as_pandas, positions, positions_nm, stated_resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from cortexclient.services.skeletons.shapes import NeuronShape

__all__ = [
    "depths",
    "in_depth",
    "in_volume",
    "plot_synapse_depths",
    "shape_in_depth",
    "shape_in_volume",
    "site_positions",
]

DEEPEST_UM = 10_000.0
"""No cortex is 10 mm deep, and a volume in nm or voxels is hardly ever so small."""

_MOVED = "get_skeleton(root_id, transform='rigid')"


def shape_in_depth(neuron: Any) -> NeuronShape:
    """Read a neuron whose y is the depth below the pia in um; raise `ValueError` for another unit or space."""
    shape = shape_of(neuron)
    if shape.unit == "nm" or shape.space == VOLUME:
        raise ValueError(
            f"this figure shows cortical depth in um, and the neuron is in {shape.unit or 'an unknown unit'} of the "
            f"volume: fetch it with {_MOVED}, or draw it as it is with plot_neuron(neuron, space='volume')"
        )
    _require_depths(shape.vertices[:, 1], "the neuron")
    return shape


def shape_in_volume(neuron: Any) -> NeuronShape:
    """Read a neuron in the axes of the imagery, its vertices in um; raise `ValueError` for a transformed one."""
    shape = shape_of(neuron)
    if shape.space not in {VOLUME, None}:
        raise ValueError(
            f"space='volume' draws the axes of the imagery, and this neuron is in the space {shape.space!r}: fetch it "
            "without transform=, or draw it with space='depth'"
        )
    return replace(shape, vertices=shape.vertices * (1.0 if shape.unit == "um" else 1e-3), unit="um")


def in_depth(points: Any, *, column: str | None = None) -> NDArray[np.float64]:
    """Read positions whose y is the depth below the pia in um; missing ones are left out.

    ``points`` have the shape (N, 3), or are a frame, of which ``column`` is the position column (default: as for
    ``client.depth``). Raises `ValueError` for anything but cortical depths in um.
    """
    points = as_pandas(points)
    space = getattr(points, "attrs", {}).get("space")
    found = positions(points, column).reshape(-1, 3)
    # a frame of a query in um of the volume would look like depths
    if space == VOLUME or (space is None and max(stated_resolution(points)) >= 100):
        raise _not_depths("the frame's positions are those of the volume")
    found = found[np.isfinite(found).all(axis=1)]
    _require_depths(found[:, 1], "a position")
    return found


def in_volume(points: Any, *, column: str | None = None) -> NDArray[np.float64]:
    """Read positions in nm, or the voxels that a frame states, as um; missing ones are left out."""
    found = positions_nm(points, column).reshape(-1, 3) / 1000
    return found[np.isfinite(found).all(axis=1)]


def site_positions(
    neuron: Any, table: str, read: Callable[..., NDArray[np.float64]] = in_depth
) -> NDArray[np.float64] | None:
    """Return the positions of ``pre_syn`` or ``post_syn`` of a neuron, float64 (N, 3); None where it has none.

    ``read`` is `in_depth` or `in_volume`.
    """
    anno = getattr(neuron, "anno", None)
    if anno is not None and table in anno.table_names:
        return read(anno[table].df, column=anno[table].point_column)
    layers = getattr(neuron, "annotations", None)
    if layers is not None and table in layers.names:
        return read(layers[table].vertices)
    connectors = getattr(neuron, "connectors", None)  # of a navis TreeNeuron, in its own unit
    if connectors is not None:
        points = connectors.loc[connectors["type"] == table.removesuffix("_syn"), list("xyz")].to_numpy(
            np.float64
        )
        in_nm = read is in_volume and not neuron.units.dimensionless
        return read(points * neuron.units.to("nm").magnitude if in_nm else points)
    return None


def depths(data: Any, table: str) -> NDArray[np.float64]:
    """Read depths in um out of depths (N,), positions (N, 3), a frame of positions, or a neuron with synapses.

    ``table`` is ``"pre_syn"`` or ``"post_syn"``, of a neuron.
    """
    if hasattr(data, "skeleton") or hasattr(data, "connectors") or isinstance(data, Mapping | str):
        shape_in_depth(data)
        found = site_positions(data, table)
        if found is None:
            raise ValueError(
                f"this neuron has no {table}: fetch it as a Meshwork, Cell or TreeNeuron, with synapses=True"
            )
        return found[:, 1]
    if not hasattr(data, "columns") and np.ndim(next(iter(data), 0.0)) == 0:
        flat = np.asarray(data, dtype=np.float64).reshape(-1)
        flat = flat[np.isfinite(flat)]
        _require_depths(flat, "a depth")
        return flat
    return in_depth(data)[:, 1]


def _require_depths(values: NDArray[np.float64], what: str) -> None:
    deepest = np.max(np.abs(values), initial=0.0, where=np.isfinite(values))
    if deepest > DEEPEST_UM:
        raise _not_depths(f"{what} is {deepest:,.0f} deep")


def _not_depths(why: str) -> ValueError:
    return ValueError(
        f"this figure shows cortical depth in um, and {why}: give client.depth(frame), or what {_MOVED} returns"
    )


# -- histograms ------------------------------------------------------------------------------------------------


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
    layers, legend, title, ax
        As for `plot_neuron`; no title by default.

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
