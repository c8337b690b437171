"""From tables of points to annotation layers of a Neuroglancer state."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cortexclient.ids import as_ids
from cortexclient.services.positions import positions

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Annotations: TypeAlias = pd.DataFrame | NDArray[Any] | Sequence[Sequence[float]] | Mapping[str, Any]

__all__ = ["COLORS", "Layer", "annotation_layers", "frame_resolution", "voxel_size"]

log = logging.getLogger(__name__)

# where a synapse or a nucleus is said to be; the first one that a table has is shown
POSITION_COLUMNS = ("ctr_pt_position", "pt_position", "position", "post_pt_position", "pre_pt_position")
# segments that a row belongs to: Neuroglancer can filter by them and select them
SEGMENT_COLUMNS = ("pre_pt_root_id", "post_pt_root_id", "pt_root_id")
PRESYNAPTIC, POSTSYNAPTIC = "presynaptic sites", "postsynaptic sites"
# Okabe and Ito's colours, told apart by colour-blind readers; the same as in cortexclient.plotting
COLORS = {PRESYNAPTIC: "#e69f00", POSTSYNAPTIC: "#56b4e9"}
DEFAULT_COLOR = "#f0e442"


@dataclass(frozen=True)
class Layer:
    """Points that are shown together.

    Parameters
    ----------
    name : str
        Name of the layer.
    points : numpy.ndarray
        Positions, float64 of shape (n, 3), in units of ``resolution``.
    resolution : tuple of float
        Size of one unit of ``points`` in nm.
    segments : list of list of int
        Root ids that belong to each point; empty lists where unknown.
    descriptions : list of str or None
        Text shown for each point.
    color : str
        Hexadecimal colour.
    """

    name: str
    points: NDArray[np.float64]
    resolution: tuple[float, float, float]
    segments: list[list[int]] = field(default_factory=list)
    descriptions: list[str | None] = field(default_factory=list)
    color: str = DEFAULT_COLOR


def annotation_layers(
    annotations: Annotations,
    *,
    root_ids: Iterable[int] = (),
    resolution: Sequence[float] | None = None,
    prefer: str | None = None,
) -> list[Layer]:
    """Sort tables of points into layers.

    Parameters
    ----------
    annotations : pandas.DataFrame, array of shape (n, 3), or dict of them
        A dict names the layers. A table of synapses is divided into pre- and postsynaptic sites of ``root_ids``.
    root_ids : iterable of int
        Neurons that the synapses are seen from; none: synapses stay in one layer.
    resolution : three floats, optional
        Size in nm of one unit of the positions. Default: what the table says of itself
        (``attrs["dataframe_resolution"]``, written by queries), else nm.
    prefer : str, optional
        Column of positions that is shown if a table has it. What a table says of itself (``attrs["position_column"]``,
        written by queries) comes first, the usual names last.

    Returns
    -------
    list of Layer

    Raises
    ------
    ValueError
        If a table has no column of positions, positions are not three numbers each, or the resolution is not.
    TypeError
        If a table has root ids as floats.

    Notes
    -----
    Rows without a position are left out, and counted in the log: a viewer cannot open a state with them.
    """
    if isinstance(annotations, Mapping):
        return [
            layer if layer.name == name else replace(layer, name=f"{name} ({layer.name})")
            for name, part in annotations.items()
            for layer in _layers(part, str(name), root_ids, resolution, prefer)
        ]
    return _layers(annotations, "annotations", root_ids, resolution, prefer)


def _layers(
    data: Any,
    name: str,
    root_ids: Iterable[int],
    resolution: Sequence[float] | None,
    prefer: str | None,
) -> list[Layer]:
    if not hasattr(data, "columns"):
        size = voxel_size(resolution if resolution is not None else (1, 1, 1))
        return [_placed(Layer(name, _points(np.asarray(data)), size))]
    seen_from = np.fromiter((int(root) for root in root_ids), dtype=np.int64)
    if {"pre_pt_root_id", "post_pt_root_id"} <= set(data.columns) and len(seen_from):
        sides = {
            PRESYNAPTIC: data["pre_pt_root_id"].isin(seen_from),
            POSTSYNAPTIC: data["post_pt_root_id"].isin(seen_from),
        }
        layers = [
            _table_layer(data[rows], side, resolution, prefer) for side, rows in sides.items() if rows.any()
        ]
        rest = data[~(sides[PRESYNAPTIC] | sides[POSTSYNAPTIC])]
        return layers + ([_table_layer(rest, "other synapses", resolution, prefer)] if len(rest) else [])
    return [_table_layer(data, name, resolution, prefer)]


def _table_layer(
    table: pd.DataFrame, name: str, resolution: Sequence[float] | None, prefer: str | None
) -> Layer:
    columns = [column for column in SEGMENT_COLUMNS if column in table.columns]
    # column by column: one frame-wide array would turn ids into floats if any column were one
    ids = [as_ids(table[column].where(table[column].notna(), 0), column).tolist() for column in columns]
    segments = [[root for root in row if root > 0] for row in zip(*ids, strict=True)] if ids else []
    descriptions: list[str | None] = []
    if "id" in table.columns:
        descriptions = [f"id {value}" for value in table["id"].array]
    return _placed(
        Layer(
            name,
            _positions(table, prefer),
            voxel_size(resolution) if resolution is not None else frame_resolution(table),
            segments or [[]] * len(table),
            descriptions or [None] * len(table),
            COLORS.get(name, DEFAULT_COLOR),
        )
    )


def _placed(layer: Layer) -> Layer:
    """Leave out what has no position."""
    there: NDArray[np.bool_] = np.asarray(np.isfinite(layer.points).all(axis=1))
    if there.all():
        return layer
    log.warning(
        "%d of %d points of %r have no position and are not shown", (~there).sum(), len(there), layer.name
    )
    kept = np.flatnonzero(there).tolist()
    return replace(
        layer,
        points=layer.points[there],
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
        return _points(table[["x", "y", "z"]].to_numpy(dtype=np.float64, na_value=np.nan))
    raise ValueError(
        f"no column of positions among {list(table.columns)}; expected one of {list(POSITION_COLUMNS)}, "
        "whole or split into _x, _y, _z, or the columns x, y, z"
    )


def _points(values: NDArray[Any]) -> NDArray[np.float64]:
    points = np.asarray(values, dtype=np.float64)
    if points.size == 0:
        return points.reshape(0, 3)
    if points.ndim == 1:
        points = points[None]
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"positions have the shape {points.shape}; expected (n, 3)")
    return points


def frame_resolution(table: pd.DataFrame) -> tuple[float, float, float]:
    """Size in nm of one unit of a table's positions: what the query wrote into its ``attrs``, else 1 nm."""
    known = table.attrs.get("dataframe_resolution")
    if known is None or isinstance(known, str):
        return (1.0, 1.0, 1.0)
    return voxel_size(known)


def voxel_size(values: Sequence[float]) -> tuple[float, float, float]:
    """Give a resolution as three numbers.

    Raises
    ------
    ValueError
        If it is not three positive numbers.
    """
    size = np.asarray(values, dtype=np.float64)
    if size.shape != (3,) or not (np.isfinite(size) & (size > 0)).all():
        raise ValueError(f"resolution must be three sizes in nm, such as (4, 4, 40), not {values!r}")
    x, y, z = size.tolist()
    return (x, y, z)
