"""The common parts of all figures: colours, axes, layer lines, and matplotlib imported late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortexclient.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.axes import Axes

__all__ = ["COMPARTMENTS", "PALETTE", "Compartment", "depth_axis", "draw_layers", "new_axes", "pyplot"]

PALETTE: Mapping[str, str] = {
    "black": "#000000",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "green": "#009e73",
    "yellow": "#f0e442",
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "purple": "#cc79a7",
    "grey": "#767676",
}
"""Okabe and Ito's palette, distinct with every common kind of colour vision (https://jfly.uni-koeln.de/color/)."""

PRESYNAPTIC = PALETTE["orange"]
POSTSYNAPTIC = PALETTE["sky"]


@dataclass(frozen=True)
class Compartment:
    """How a compartment of a neuron is called and drawn: legend, hexadecimal colour, line width in points."""

    name: str
    color: str
    width: float


COMPARTMENTS: Mapping[int, Compartment] = {
    0: Compartment("undefined", PALETTE["grey"], 0.7),
    1: Compartment("soma", PALETTE["black"], 1.2),
    2: Compartment("axon", PALETTE["blue"], 0.7),
    3: Compartment("dendrite", PALETTE["vermillion"], 1.1),
    4: Compartment("apical dendrite", PALETTE["purple"], 1.1),
}
"""Compartments by their SWC number (http://www.neuronland.org/NLMorphologyConverter/MorphologyFormats/SWC/Spec.html)."""


def pyplot() -> Any:
    """Import ``matplotlib.pyplot``, or raise `MissingExtraError`."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError.of("figures need", "matplotlib", "plot") from error
    return plt


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Any:
    """Return the axes to draw into: the caller's, or those of a new figure of ``size`` inches."""
    plt = pyplot()
    if ax is not None:
        return ax
    _, made = plt.subplots(figsize=size, layout="constrained")
    return made


def depth_axis(ax: Any, *, label: str = "Cortical depth (µm)") -> None:
    """Let depth, or y of the volume, grow downwards, and hide the frame's upper and right line."""
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    ax.set_ylabel(label)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def draw_layers(ax: Any, layers: Iterable[Any], *, names: bool = True) -> None:
    """Draw the borders of cortical layers as lines across axes with depth in um on y.

    ``layers`` go from the pia down, each with ``name``, ``top_um`` and ``bottom_um`` (as in a dataset's spec), or each
    a tuple of the three. ``names`` writes them at the right border, with the pia above the first and the white matter
    (WM) below the last.
    """
    bounds = sorted((_bounds(layer) for layer in layers), key=lambda layer: layer[1])
    edges = sorted({edge for _, top, bottom in bounds for edge in (top, bottom)})
    for edge in edges:
        ax.axhline(edge, color=PALETTE["grey"], linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    if names and bounds:
        places = [
            (name.removeprefix("layer ").removeprefix("Layer "), (top + bottom) / 2, "center")
            for name, top, bottom in bounds
        ]
        if bounds[0][1] == 0:
            places.append(("pia", 0.0, "bottom"))
        if not bounds[-1][0].lower().startswith(("wm", "white")):
            places.append(("WM", bounds[-1][2], "top"))
        for name, depth, side in places:
            ax.annotate(
                name,
                xy=(1.0, depth),
                xycoords=ax.get_yaxis_transform(),
                xytext=(4, 0),
                textcoords="offset points",
                ha="left",
                va=side,
                fontsize="small",
                color=PALETTE["grey"],
                annotation_clip=True,
            )


def _bounds(layer: Any) -> tuple[str, float, float]:
    if hasattr(layer, "top_um"):
        return str(layer.name), float(layer.top_um), float(layer.bottom_um)
    name, top, bottom = layer
    return str(name), float(top), float(bottom)
