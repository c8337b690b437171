"""Skeletons as SWC text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cortexclient.types import PathLike

__all__ = ["save_swc", "to_swc"]

_LONGEST_STEP_UM = 30.0

# the service's compartments are SWC's own: 1 soma, 2 axon, 3 basal dendrite; 0 is undefined


def to_swc(data: Mapping[str, Any], *, in_um: bool = False) -> str:
    """Write a skeleton as SWC: ``id type x y z radius parent``, parents before children, in um.

    Pieces that do not hang together with the root follow it, each with a beginning of its own (parent -1).

    Parameters
    ----------
    data : mapping
        ``vertices`` (N, 3), ``edges`` (M, 2), ``root``; ``radius`` in nm and ``compartment`` where they are known.
    in_um : bool
        The vertices are um already; otherwise they are nm.
    """
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    vertices = np.asarray(data["vertices"], dtype=np.float64) / (1 if in_um else 1000)
    edges = np.asarray(data["edges"], dtype=np.int64).reshape(-1, 2)
    count = len(vertices)
    radius = data.get("radius")
    radius = np.zeros(count) if radius is None else np.asarray(radius, dtype=np.float64) / 1000
    kind = data.get("compartment")
    kind = np.zeros(count, dtype=int) if kind is None else np.asarray(kind, dtype=int)
    graph = csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    order, before = breadth_first_order(graph, int(data["root"]), directed=False)
    while len(order) < count:
        rest = np.setdiff1d(np.arange(count), order)
        further, their = breadth_first_order(graph, rest[0], directed=False)
        before[further] = their[further]
        order = np.concatenate([order, further])
    number = np.full(count, -1)
    number[order] = np.arange(1, len(order) + 1)
    lines = []
    for at in order.tolist():
        x, y, z = vertices[at]
        parent = number[before[at]] if before[at] >= 0 else -1
        lines.append(f"{number[at]} {kind[at]} {x:.6f} {y:.6f} {z:.6f} {radius[at]:.6f} {parent}\n")
    return "".join(lines)


def save_swc(neuron: Any, path: PathLike, *, in_um: bool | None = None) -> None:
    """Save a neuron's skeleton as an SWC file in um.

    Parameters
    ----------
    neuron : Meshwork or mapping
        From ``get_skeleton``, or a skeleton dict.
    path : path
        File to write.
    in_um : bool or None
        Whether the neuron is in um, because it was transformed; None judges by the lengths of its edges.
    """
    import numpy as np

    data = neuron if hasattr(neuron, "keys") else _as_data(neuron)
    if in_um is None:
        points = np.asarray(data["vertices"], dtype=np.float64)
        ends = points[np.asarray(data["edges"], dtype=np.int64).reshape(-1, 2)]
        steps = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
        steps = steps[steps > 0]
        # a step goes from chunk to chunk, which is about a micrometre
        in_um = bool(len(steps)) and bool(np.median(steps) < _LONGEST_STEP_UM)
    write_text(path, to_swc(data, in_um=in_um))


def _as_data(neuron: Any) -> dict[str, Any]:
    import numpy as np

    skeleton = neuron.skeleton
    data = {
        "vertices": skeleton.vertices,
        "edges": skeleton.edges,
        "root": int(skeleton.root),
        "radius": skeleton.radius,
    }
    if "compartment" in neuron.anno.table_names:
        rows = neuron.anno.compartment.df
        kind = np.zeros(len(skeleton.vertices), dtype=int)
        kind[skeleton.mesh_to_skel_map[rows["mesh_ind"].to_numpy()]] = rows["compartment"].to_numpy()
        data["compartment"] = kind
    return data
