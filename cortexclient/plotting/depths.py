"""Cortical depths in um, out of the forms in which neurons and synapses come; anything else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.services.skeletons.shapes import VOLUME, shape_of
from cortexclient.services.space import positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.services.skeletons.shapes import Shape

__all__ = ["depths", "in_depth", "shape_in_depth", "site_positions"]

DEEPEST_UM = 10_000.0
"""No cortex is 10 mm deep, and a volume in nm or voxels is hardly ever so small."""

_MOVED = "get_skeleton(root_id, transform='rigid')"


def shape_in_depth(neuron: Any) -> Shape:
    """Read a neuron whose y is the depth below the pia in um.

    Raises
    ------
    TypeError
        If it is no neuron.
    ValueError
        If it is in another unit or space.
    """
    shape = shape_of(neuron)
    if shape.unit == "nm" or shape.space == VOLUME:
        raise ValueError(
            f"this figure shows cortical depth in um, and the neuron is in {shape.unit or 'an unknown unit'} of the "
            f"volume: fetch it with {_MOVED}"
        )
    _require_depths(shape.vertices[:, 1], "the neuron")
    return shape


def site_positions(neuron: Any, table: str) -> NDArray[np.float64] | None:
    """Return the positions of ``pre_syn`` or ``post_syn`` of a neuron, float64 (N, 3); None where it has none.

    Raises
    ------
    ValueError
        If they are not cortical depths in um.
    """
    anno = getattr(neuron, "anno", None)
    if anno is not None and table in anno.table_names:
        return in_depth(anno[table].df, column=anno[table].point_column)
    layers = getattr(neuron, "annotations", None)
    if layers is not None and table in layers.names:
        return in_depth(layers[table].vertices)
    return None


def in_depth(points: Any, *, column: str | None = None) -> NDArray[np.float64]:
    """Read positions whose y is the depth below the pia in um; missing ones are left out.

    Parameters
    ----------
    points : array_like of shape (N, 3) or pandas.DataFrame
        Positions; of a frame a position column or its split form.
    column : str, optional
        Column of a frame. Default: as for ``client.depth``.

    Raises
    ------
    ValueError
        If there are no positions, or they are not cortical depths in um.
    """
    attrs = getattr(points, "attrs", {})
    found = positions(points, column).reshape(-1, 3)
    # a frame of a query in um of the volume would look like depths
    if attrs.get("space") == VOLUME or np.max(attrs.get("dataframe_resolution") or 0) >= 100:
        raise _not_depths("the frame's positions are those of the volume")
    found = found[np.isfinite(found).all(axis=1)]
    _require_depths(found[:, 1], "a position")
    return found


def depths(data: Any, table: str) -> NDArray[np.float64]:
    """Read depths in um out of depths (N,), positions (N, 3), a frame of positions, or a neuron with synapses.

    Parameters
    ----------
    table : str
        ``"pre_syn"`` or ``"post_syn"``, of a neuron.

    Raises
    ------
    ValueError
        If they are not cortical depths in um, or the neuron has no synapses.
    """
    if hasattr(data, "skeleton") or isinstance(data, Mapping | str):
        shape_in_depth(data)
        found = site_positions(data, table)
        if found is None:
            raise ValueError(
                f"this neuron has no {table}: fetch it as a Meshwork or Cell, with synapses=True"
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
