"""A MeshParty Meshwork from what the services answered; asks nothing itself."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cortexclient.errors import MissingDataError, ProtocolError
from cortexclient.services.skeleton_quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.types import IdArray

__all__ = ["PROPERTIES", "add_properties", "add_synapses", "make_meshwork", "move_meshwork"]

log = logging.getLogger(__name__)

PROPERTIES = ("area_nm2", "max_dt_nm", "mean_dt_nm", "size_nm3")
"""Attributes of level-2 ids that ``restore_properties`` adds."""

_AXON = 2


def make_meshwork(
    root_id: int,
    data: Mapping[str, Any],
    *,
    edges: IdArray | None = None,
    points: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """Make the neuron without synapses and properties.

    Parameters
    ----------
    data : mapping
        The skeleton, as :func:`parse_skeleton` gives it.
    edges : ndarray of int64, shape (E, 2), or None
        Level-2 graph, for a neuron whose graph is restored.
    points : mapping or None
        Level-2 id as text -> its attributes, with ``rep_coord_nm``; needed with ``edges``.

    Raises
    ------
    MissingDataError
        If the skeleton has no level-2 ids, or the level-2 graph has others than the skeleton.
    """
    from pcg_skel.service import rebuild_meshwork

    if data.get("lvl2_ids") is None or data.get("mesh_to_skel_map") is None:
        raise MissingDataError(
            f"the skeleton of {root_id} has no level-2 ids, which a Meshwork needs; use skeleton_version=4",
            service="skeleton",
        )
    source = _prefetched(root_id, data, edges, points) if edges is not None and len(edges) else None
    with quiet(DeprecationWarning, FutureWarning):
        neuron = rebuild_meshwork(
            root_id=root_id,
            sk_verts=data["vertices"],
            sk_edges=data["edges"],
            root=int(data["root"]),
            mesh_to_skel_map=data["mesh_to_skel_map"],
            lvl2_ids=data["lvl2_ids"],
            metadata=data.get("meta") or {},
            radius=data.get("radius"),
            compartments=data.get("compartment"),
            client=source,
            restore_graph=source is not None,
            is_axon=False,  # the library looks for it by a query in text, which takes longer than all the rest
        )
        neuron.anno.add_annotations("is_axon", _on_axon(data), mask=True)
        return neuron


def _on_axon(data: Mapping[str, Any]) -> Any:
    """Rows of level-2 ids on the axon; none where the service knows no compartments."""
    import numpy as np

    kind = data.get("compartment")
    if kind is None or _AXON not in kind:
        return []
    return np.flatnonzero(np.asarray(kind)[data["mesh_to_skel_map"]] == _AXON)


def _prefetched(root_id: int, data: Mapping[str, Any], edges: IdArray, points: Any) -> Any:
    """Let pcg_skel find the answers where it would ask."""
    import numpy as np

    strangers = np.setdiff1d(edges, data["lvl2_ids"])
    if len(strangers):
        raise MissingDataError(
            f"the level-2 graph of {root_id} has {len(strangers)} ids that its skeleton does not know (the first is "
            f"{strangers[0]}); get it with restore_graph=False",
            service="skeleton",
        )
    fallback = data["vertices"][data["mesh_to_skel_map"]]
    known = points or {}
    located = {
        str(l2_id): {"rep_coord_nm": (known.get(str(l2_id)) or {}).get("rep_coord_nm") or place.tolist()}
        for l2_id, place in zip(data["lvl2_ids"].tolist(), fallback, strict=True)
    }
    return SimpleNamespace(
        chunkedgraph=SimpleNamespace(level2_chunk_graph=lambda _: edges),
        l2cache=SimpleNamespace(get_l2data=lambda *_, **__: located),
    )


def add_synapses(
    neuron: Any, lvl2_ids: IdArray, synapses: Mapping[str, pd.DataFrame], *, position: str = "ctr_pt_position"
) -> None:
    """Add the tables ``pre_syn`` and ``post_syn``, each synapse on the row of its level-2 id and at its ``position``.

    A synapse on a level-2 id that the skeleton does not know is put on the nearest one that it does know.
    """
    import numpy as np
    import pandas as pd

    index = pd.Index(lvl2_ids)
    for side, rows in synapses.items():
        partner = "post" if side == "pre" else "pre"
        frame = rows.drop(columns=[f"{partner}_pt_root_id"], errors="ignore").copy()
        at = index.get_indexer(pd.Index(frame[f"{side}_pt_level2_id"].to_numpy(dtype=np.int64)))
        lost = np.flatnonzero(at < 0)
        if len(lost):
            log.warning(
                "%d of %d %s synapses of %s lie on level-2 ids that its skeleton does not know; put on the nearest",
                len(lost),
                len(frame),
                side,
                neuron.seg_id,
            )
            at[lost] = _nearest(neuron, np.stack(frame[position].iloc[lost].tolist()))
        frame[f"{side}_pt_mesh_ind"] = at
        neuron.anno.add_annotations(
            f"{side}_syn",
            frame,
            index_column=f"{side}_pt_mesh_ind",
            point_column=position,
            voxel_resolution=[1, 1, 1],
        )


def _nearest(neuron: Any, points: NDArray[np.float64]) -> NDArray[np.intp]:
    from scipy.spatial import cKDTree

    found: NDArray[np.intp] = cKDTree(neuron.mesh.vertices).query(points)[1]
    return found


def add_properties(neuron: Any, lvl2_ids: IdArray, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the tables ``vol_prop`` and ``segment_properties``; level-2 ids that the cache does not know get NaN."""
    import numpy as np
    import pandas as pd

    from cortexclient.services.skeleton_properties import segment_properties

    columns: dict[str, Any] = {"mesh_ind": np.arange(len(lvl2_ids))}
    rows = [attributes.get(key) or {} for key in map(str, lvl2_ids.tolist())]
    for name in PROPERTIES:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = _numbers(values, whole=name != "mean_dt_nm")
        except (TypeError, ValueError) as error:
            raise ProtocolError(
                f"the level-2 cache gave {name} that is no number: {error}", service="l2cache"
            ) from error
    neuron.anno.add_annotations("vol_prop", pd.DataFrame(columns), index_column="mesh_ind")
    neuron.anno.add_annotations(
        "segment_properties",
        segment_properties(neuron.skeleton, columns["size_nm3"], columns["area_nm2"]),
        index_column="mesh_ind",
    )


def _numbers(values: list[Any], *, whole: bool) -> NDArray[Any]:
    import numpy as np

    numbers = np.array(values, dtype=np.float64)  # None becomes NaN
    return numbers.astype(np.int64) if whole and np.isfinite(numbers).all() else numbers


def move_meshwork(neuron: Any, move: Callable[[Any], NDArray[np.float64]]) -> None:
    """Move a neuron into another space: skeleton, mesh and every position of every annotation alike."""
    import numpy as np

    neuron.mesh.vertices = move(np.asarray(neuron.mesh.vertices))
    neuron.skeleton.vertices = move(np.asarray(neuron.skeleton.vertices))
    for table in neuron.anno.table_names:
        frame = neuron.anno[table]._data
        for column in [name for name in frame.columns if "_position" in str(name)]:
            points = frame[column]
            if not len(points):
                continue
            nan = np.full(3, np.nan)
            stacked = np.stack([np.asarray(p, dtype=float) if np.size(p) == 3 else nan for p in points])
            moved = frame[column].copy()
            moved[:] = list(move(stacked))
            frame[column] = moved
