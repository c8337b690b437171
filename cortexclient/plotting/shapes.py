"""What figures need to know of a neuron, out of the forms in which neurons come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Shape", "positions", "shape_of", "synapse_positions"]

POSITION_COLUMNS = ("ctr_pt_position", "pt_position", "position")


@dataclass(frozen=True)
class Shape:
    """A skeleton as arrays.

    Parameters
    ----------
    vertices : numpy.ndarray
        float64 of shape (n, 3).
    edges : numpy.ndarray
        int64 of shape (m, 2).
    compartments : numpy.ndarray or None
        SWC number of each vertex, int64 of shape (n,).
    soma : numpy.ndarray or None
        Position of the soma, or None where the skeleton has none.
    root_id : int or None
        The neuron, where the form says it.
    """

    vertices: NDArray[np.float64]
    edges: NDArray[np.int64]
    compartments: NDArray[np.int64] | None = None
    soma: NDArray[np.float64] | None = None
    root_id: int | None = None


def shape_of(neuron: Any) -> Shape:
    """Read a skeleton out of a Meshwork, a Skeleton, a skeleton service's dict, or a tuple (vertices, edges).

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if hasattr(neuron, "skeleton") and hasattr(neuron, "anno"):
        return _of_meshwork(neuron)
    if isinstance(neuron, Mapping):
        root_id = neuron.get("meta", {}).get("root_id") if isinstance(neuron.get("meta"), Mapping) else None
        return _shape(
            neuron["vertices"], neuron["edges"], neuron.get("compartment"), neuron.get("root"), root_id
        )
    if hasattr(neuron, "vertices") and hasattr(neuron, "edges"):
        return _shape(neuron.vertices, neuron.edges, None, getattr(neuron, "root", None), None)
    if isinstance(neuron, tuple) and len(neuron) == 2:
        return _shape(neuron[0], neuron[1], None, None, None)
    raise TypeError(
        f"cannot draw a {type(neuron).__name__}; give a Meshwork (get_skeleton), a skeleton with vertices and edges, "
        "the dict of the skeleton service, or a tuple (vertices, edges)"
    )


def _shape(vertices: Any, edges: Any, compartments: Any, root: Any, root_id: Any) -> Shape:
    points = np.asarray(vertices, dtype=np.float64).reshape(-1, 3)
    labels = None if compartments is None else np.asarray(compartments, dtype=np.int64)
    soma = None
    if labels is not None and (labels == 1).any():
        soma = points[labels == 1].mean(axis=0)
    elif labels is None and root is not None and len(points):
        soma = points[int(root)]
    links = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    return Shape(points, links, labels, soma, None if root_id is None else int(root_id))


def _of_meshwork(neuron: Any) -> Shape:
    skeleton = neuron.skeleton
    labels = None
    if "compartment" in neuron.anno.table_names:
        table = neuron.anno["compartment"].df
        # the labels lie on the level-2 vertices; those of one skeleton vertex agree
        labels = np.zeros(len(skeleton.vertices), dtype=np.int64)
        where = np.asarray(skeleton.mesh_to_skel_map)[table["mesh_ind"].to_numpy(dtype=np.int64)]
        known = where >= 0
        labels[where[known]] = table["compartment"].to_numpy(dtype=np.int64)[known]
    return _shape(skeleton.vertices, skeleton.edges, labels, skeleton.root, getattr(neuron, "seg_id", None))


def synapse_positions(neuron: Any, table: str) -> NDArray[np.float64] | None:
    """Positions of ``pre_syn`` or ``post_syn`` in a Meshwork, float64 (n, 3); None where it has none."""
    anno = getattr(neuron, "anno", None)
    if anno is None or table not in anno.table_names:
        return None
    return positions(anno[table].df, column=anno[table].point_column)


def positions(points: Any, *, column: str | None = None) -> NDArray[np.float64]:
    """Read positions out of an array of shape (n, 3) or a table with a column of positions, whole or split in x, y, z.

    Parameters
    ----------
    column : str, optional
        Column of a table. Default: the one that its query names (``attrs["position_column"]``), else a usual name.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not hasattr(points, "columns"):
        array = np.asarray(points, dtype=np.float64)
        if array.size == 0:
            return array.reshape(0, 3)
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"positions have the shape {array.shape}; expected (n, 3)")
        return array
    stated = (column, points.attrs.get("position_column"))
    for name in (*(each for each in stated if each), *POSITION_COLUMNS):
        if name in points.columns:
            return np.array(points[name].tolist(), dtype=np.float64).reshape(-1, 3)
        split = [f"{name}_{axis}" for axis in "xyz"]
        if set(split) <= set(points.columns):
            return np.asarray(points[split].to_numpy(dtype=np.float64))
    raise ValueError(
        f"no column of positions among {list(points.columns)}; expected one of {list(POSITION_COLUMNS)}, whole "
        "or split into _x, _y, _z"
    )
