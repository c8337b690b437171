"""Annotation layers of a Neuroglancer state, made from tables of points."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cortexclient.ids import as_ids
from cortexclient.services.space import as_pandas, positions, stated_resolution, voxel_size

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Annotations: TypeAlias = pd.DataFrame | NDArray[Any] | Sequence[Sequence[float]] | Mapping[str, Any]
    Color: TypeAlias = str | Sequence[float]
    Colors: TypeAlias = Color | Sequence[Color] | Mapping[str, Color]

__all__ = ["COLOR_CYCLE", "PointLayer", "annotation_layers"]

log = logging.getLogger(__name__)

# position columns of synapses and nuclei; the first one that a table has is shown
POSITION_COLUMNS = ("ctr_pt_position", "pt_position", "position", "post_pt_position", "pre_pt_position")
# segments that a row belongs to: Neuroglancer can filter by them and select them
SEGMENT_COLUMNS = ("pre_pt_root_id", "post_pt_root_id", "pt_root_id")
PRESYNAPTIC, POSTSYNAPTIC, OTHER = "presynaptic sites", "postsynaptic sites", "other synapses"
# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/): distinct with every common kind of colour vision; as in
# cortexclient.plotting, where presynaptic sites are orange and postsynaptic sites are sky blue too
COLOR_CYCLE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
SIDE_COLORS = {PRESYNAPTIC: COLOR_CYCLE[0], POSTSYNAPTIC: COLOR_CYCLE[1]}
DEFAULT_COLOR = "#f0e442"


@dataclass(frozen=True)
class PointLayer:
    """Points that are shown together.

    ``points``, float64 of shape (n, 3), are in units of ``resolution`` (nm); ``segments`` are the root ids that belong
    to each point, ``descriptions`` the text of each; ``color`` is ``"#rrggbb"``, a CSS colour name, or red, green and
    blue.
    """

    name: str
    points: NDArray[np.float64]
    resolution: tuple[float, float, float]
    segments: list[list[int]] = field(default_factory=list)
    descriptions: list[str | None] = field(default_factory=list)
    color: Color = DEFAULT_COLOR


def annotation_layers(
    annotations: Annotations,
    *,
    root_ids: Iterable[int] = (),
    resolution: Sequence[float] | None = None,
    prefer: str | None = None,
    colors: Colors | None = None,
) -> list[PointLayer]:
    """Sort tables of points into layers; the arguments are those of `LinksService.neuroglancer_viewer`.

    Without ``root_ids`` a table of synapses stays one layer. ``prefer`` is the column of positions to show if a table
    has it: the table's ``attrs["position_column"]``, which queries write, goes first, the usual names go last.
    """
    if isinstance(annotations, Mapping):
        layers = [
            replace(_layer(as_pandas(data), str(name), resolution, prefer), color=_cycle_color(number))
            for number, (name, data) in enumerate(annotations.items())
        ]
    else:
        layers = _sides(as_pandas(annotations), root_ids, resolution, prefer)
    return _colored(layers, colors)


def _sides(
    data: Any, root_ids: Iterable[int], resolution: Sequence[float] | None, prefer: str | None
) -> list[PointLayer]:
    """Split a table of synapses by the side on which the neurons are; anything else is one layer."""
    roots = np.fromiter((int(root) for root in root_ids), dtype=np.int64)
    if not len(roots) or not {"pre_pt_root_id", "post_pt_root_id"} <= set(getattr(data, "columns", ())):
        return [_layer(data, "annotations", resolution, prefer)]
    pre, post = data["pre_pt_root_id"].isin(roots), data["post_pt_root_id"].isin(roots)
    parts = {PRESYNAPTIC: data[pre], POSTSYNAPTIC: data[post], OTHER: data[~(pre | post)]}
    layers = [
        replace(_layer(rows, side, resolution, prefer), color=SIDE_COLORS.get(side, DEFAULT_COLOR))
        for side, rows in parts.items()
        if len(rows)
    ]
    # a query without synapses becomes an empty layer, not none
    return layers or [_layer(data, "annotations", resolution, prefer)]


def _layer(data: Any, name: str, resolution: Sequence[float] | None, prefer: str | None) -> PointLayer:
    size = stated_resolution(data) if resolution is None else voxel_size(resolution)
    if not hasattr(data, "columns"):
        return _without_missing(PointLayer(name, _points(data), size))
    columns = [column for column in SEGMENT_COLUMNS if column in data.columns]
    # column by column: one array of the entire frame would turn ids into floats if any column were one
    ids = [as_ids(data[column].where(data[column].notna(), 0), column).tolist() for column in columns]
    segments = [[root for root in row if root > 0] for row in zip(*ids, strict=True)]
    descriptions = [f"id {value}" for value in data["id"].array] if "id" in data.columns else []
    return _without_missing(PointLayer(name, _positions(data, prefer), size, segments, [*descriptions]))


def _without_missing(layer: PointLayer) -> PointLayer:
    """Leave out the rows that have no position."""
    present: NDArray[np.bool_] = np.asarray(np.isfinite(layer.points).all(axis=1))
    if present.all():
        return layer
    log.warning(
        "%d of %d points of %r have no position and are not shown",
        (~present).sum(),
        len(present),
        layer.name,
    )
    kept = np.flatnonzero(present).tolist()
    return replace(
        layer,
        points=layer.points[present],
        segments=[layer.segments[row] for row in kept] if layer.segments else [],
        descriptions=[layer.descriptions[row] for row in kept] if layer.descriptions else [],
    )


def _positions(table: pd.DataFrame, prefer: str | None) -> NDArray[np.float64]:
    stated = (table.attrs.get("position_column"), prefer)
    for column in (*(name for name in stated if name), *POSITION_COLUMNS):
        split = {f"{column}_{axis}" for axis in "xyz"}
        if column in table.columns or split <= set(table.columns):
            return positions(table, column)
    if {"x", "y", "z"} <= set(table.columns):
        return positions(table[["x", "y", "z"]], None)
    raise ValueError(
        f"no column of positions among {list(table.columns)}; expected one of {list(POSITION_COLUMNS)}, "
        "as one column or split into _x, _y, _z, or the columns x, y, z"
    )


def _points(values: Any) -> NDArray[np.float64]:
    points = positions(values, None)
    if points.ndim == 1:
        points = points[None]
    if points.ndim != 2:
        raise ValueError(f"positions have the shape {points.shape}; expected (n, 3)")
    return points


# -- colours


def _cycle_color(number: int) -> Color:
    """Return the colour of an entry of a dict; from the eighth on, the cycle is mixed with white to stay distinct."""
    color = COLOR_CYCLE[number % len(COLOR_CYCLE)]
    if number % (2 * len(COLOR_CYCLE)) < len(COLOR_CYCLE):
        return color
    return "#" + "".join(f"{(int(color[at : at + 2], 16) + 255) // 2:02x}" for at in (1, 3, 5))


def _colored(layers: list[PointLayer], colors: Colors | None) -> list[PointLayer]:
    """Set the colours that the caller chose for layers."""
    if colors is None:
        return layers
    if isinstance(colors, Mapping):
        names = [layer.name for layer in layers]
        if unknown := [name for name in colors if str(name) not in names]:
            raise ValueError(
                f"colors names the layer {unknown[0]!r}, which is not shown; the layers are {names}"
            )
        chosen = {str(name): color for name, color in colors.items()}
        return [replace(layer, color=chosen.get(layer.name, layer.color)) for layer in layers]
    one = isinstance(colors, str) or (len(colors) == 3 and all(isinstance(part, Real) for part in colors))
    palette: list[Any] = [colors] if one else list(colors)
    if not palette:
        raise ValueError("colors is empty; leave it out for the usual colours")
    return [replace(layer, color=palette[number % len(palette)]) for number, layer in enumerate(layers)]
