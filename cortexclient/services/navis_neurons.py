"""Neurons as objects of navis.

navis is licensed under GPL-3, and this package is not: it is an extra, and imported in these functions only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import MissingExtraError
from cortexclient.services.space import stack_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from cortexclient.types import FloatArray, IdArray

__all__ = ["make_mesh_neuron", "make_tree_neuron", "require_navis"]

# the service's numbers are SWC's
_COMPARTMENTS = ("undefined", "soma", "axon", "dendrite")
_UNITS = {"nm": "1 nanometer", "um": "1 micrometer"}
# columns of both ends of a synapse: a connector says in its own what matters of them
_ENDS = ("pre_pt_", "post_pt_", "ctr_pt_")


def require_navis() -> Any:
    """Import navis, or raise `MissingExtraError`."""
    try:
        import navis
    except ImportError as error:
        raise MissingExtraError.of("output='navis' needs", "navis", "navis") from error
    return navis


def make_tree_neuron(
    root_id: int,
    data: Mapping[str, Any],
    *,
    parents: IdArray,
    synapses: Mapping[str, pd.DataFrame],
    position: str,
    move: Callable[[Any], FloatArray] | None,
    space: str,
) -> Any:
    """Make a navis TreeNeuron of a skeleton and its synapses.

    ``data`` is the skeleton in nm as ``parse_skeleton`` returns it; ``parents``, int64 of shape (N,), has -1 for none;
    ``synapses`` maps ``"pre"`` and ``"post"`` to rows with the level-2 id of the side's point (empty for a neuron
    without synapses), whose place is the column ``position``; ``move`` moves positions in nm into ``space``, where the
    unit is um.
    """
    import pandas as pd

    vertices = np.asarray(data["vertices"], dtype=np.float64)
    count = len(vertices)
    labels = data.get("compartment")
    kinds = np.zeros(count, dtype=np.int64) if labels is None else np.asarray(labels, dtype=np.int64)
    radius = data.get("radius")
    in_nm = np.zeros(count) if radius is None else np.nan_to_num(np.asarray(radius, dtype=np.float64))
    places = vertices if move is None else move(vertices)
    nodes = pd.DataFrame(
        {
            "node_id": np.arange(count),
            "label": kinds,
            **{axis: places[:, number] for number, axis in enumerate("xyz")},
            "radius": in_nm if move is None else in_nm / 1000,
            "parent_id": parents,
            "compartment": pd.Categorical.from_codes(
                np.where((kinds >= 0) & (kinds < len(_COMPARTMENTS)), kinds, 0),
                categories=pd.Index(_COMPARTMENTS),
            ),
        }
    )
    root = int(data["root"])
    bodies = [root] if 0 <= root < count and kinds[root] == 1 else np.flatnonzero(kinds == 1).tolist()
    return require_navis().TreeNeuron(
        nodes,
        units=_UNITS["nm" if move is None else "um"],
        id=root_id,
        name=str(root_id),
        soma=bodies[0] if bodies else None,
        connectors=_connectors(data, synapses, position, move) if synapses else None,
        space=space,
    )


def _connectors(
    data: Mapping[str, Any], synapses: Mapping[str, pd.DataFrame], position: str, move: Any
) -> pd.DataFrame:
    import pandas as pd

    sides = []
    for side, rows in synapses.items():
        points = stack_points(rows[position])
        frame = pd.DataFrame(
            {
                "connector_id": rows["id"].to_numpy(),
                "node_id": _nodes(data, rows[f"{side}_pt_level2_id"].to_numpy(dtype=np.int64), points),
                "type": side,
                "partner_id": rows["post_pt_root_id" if side == "pre" else "pre_pt_root_id"].to_numpy(),
            }
        )
        places = move(points) if move is not None and len(points) else points
        frame[["x", "y", "z"]] = places
        others = [
            name
            for name in rows.columns
            if name != "id" and not (name.startswith(_ENDS) or "_position" in name)
        ]
        sides.append(pd.concat([frame, rows[others].reset_index(drop=True)], axis=1))
    return pd.concat(sides, ignore_index=True)


def _nodes(data: Mapping[str, Any], pieces: IdArray, points: FloatArray) -> IdArray:
    """Return the node of each synapse: that of its level-2 id, else the nearest one."""
    import pandas as pd
    from scipy.spatial import cKDTree

    nodes = np.full(len(pieces), -1, dtype=np.int64)
    if data.get("lvl2_ids") is not None and data.get("mesh_to_skel_map") is not None:
        at = pd.Index(data["lvl2_ids"]).get_indexer(pd.Index(pieces))
        nodes[at >= 0] = np.asarray(data["mesh_to_skel_map"])[at[at >= 0]]
    lost = nodes < 0
    if lost.any():
        # a synapse without a position is put on a node, too, because navis knows no other connectors
        nodes[lost] = cKDTree(data["vertices"]).query(np.nan_to_num(points[lost]))[1]
    return nodes


def make_mesh_neuron(root_id: int, mesh: Any) -> Any:
    """Make a navis MeshNeuron in nm of a mesh; its vertices stay as they are."""
    return require_navis().MeshNeuron(
        (np.asarray(mesh.vertices), np.asarray(mesh.faces)),
        units=_UNITS["nm"],
        process=False,
        id=root_id,
        name=str(root_id),
    )
