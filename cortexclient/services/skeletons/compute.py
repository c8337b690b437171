"""Skeletons computed from the level-2 graph, for neurons of which the skeleton service has none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import MissingDataError, ProtocolError
from cortexclient.services.level2 import Level2Service
from cortexclient.session import forget, graph_url, ids_in

if TYPE_CHECKING:
    from cortexclient.session import Session
    from cortexclient.types import IdArray

__all__ = ["COMPUTED", "compute_skeleton", "level2_graph"]

COMPUTED = "computed from the level-2 graph"
"""The ``skeleton_type`` in ``meta`` of such a skeleton."""

_CELL_BODY_NM = 2500.0
"""Thickness (largest distance to the surface) that only a cell body reaches: dendrites stay below 2 um."""


def level2_graph(session: Session, root: int) -> IdArray:
    """Fetch the pairs of level-2 ids of a neuron that touch, int64, shape (E, 2).

    Raises
    ------
    ProtocolError
        If the response holds anything else.
    """
    url = graph_url(session, f"node/{root}/lvl2_graph")
    response = session.http.send("chunkedgraph", "GET", url)
    edges = ids_in(
        response, session.http.read_json("chunkedgraph", response, keys=("edge_graph",))["edge_graph"]
    )
    if edges.size and (edges.ndim != 2 or edges.shape[1] != 2):
        forget(response)
        raise ProtocolError(
            f"the level-2 graph of {root} came as an array of shape {edges.shape} instead of pairs; try again",
            service="chunkedgraph",
            status=200,
            url=url,
        )
    return edges.reshape(-1, 2)


def compute_skeleton(session: Session, root: int) -> dict[str, Any]:
    """Skeletonize a neuron by ``pcg_skel`` on its level-2 graph.

    Its root is the thickest place. Where that is a cell body, everything within 7.5 um that belongs to it becomes one
    vertex, as in the service's skeletons. There are neither radii nor compartments.

    Returns
    -------
    dict
        As :func:`parse_skeleton` returns it; ``meta["skeleton_type"]`` says that it was computed.

    Raises
    ------
    MissingDataError
        If the neuron has a single level-2 id, or no representative points are known.
    """
    edges = level2_graph(session, root)
    ids = np.unique(edges)
    if len(ids) < 2:
        raise session.error(
            MissingDataError,
            "chunkedgraph",
            f"{root} lies in one chunk: a single level-2 id has no shape to skeletonize",
        )
    known: Any = Level2Service(session).get_l2data(ids, ["rep_coord_nm", "max_dt_nm"], as_dataframe=False)
    rows = [known.get(str(number)) or {} for number in ids.tolist()]
    placed = [row.get("rep_coord_nm") is not None for row in rows]
    if not any(placed):
        raise session.error(
            MissingDataError,
            "l2cache",
            f"the level-2 cache knows no representative points of {root}, which a skeleton needs",
        )
    width = np.array(
        [row.get("max_dt_nm") or 0.0 if there else -1.0 for row, there in zip(rows, placed, strict=True)]
    )
    thickest = int(width.argmax())
    skeleton = _skeletonize(
        session,
        root,
        edges,
        known,
        rows[thickest]["rep_coord_nm"],
        body=bool(width[thickest] >= _CELL_BODY_NM),
    )
    return _as_data(session, root, skeleton, ids)


def _skeletonize(session: Session, root: int, edges: IdArray, known: Any, at: Any, *, body: bool) -> Any:
    from pcg_skel import pcg_skeleton

    from cortexclient.services.skeletons.build import without_warnings

    prefetched = SimpleNamespace(  # gives pcg_skel the responses where it would send requests
        datastack_name=f"{session.datastack}@{session.local_server}",
        l2cache=SimpleNamespace(
            has_cache=lambda: True,
            get_l2data=lambda ids, **_: {str(number): known.get(str(number)) or {} for number in ids},
        ),
    )
    try:
        with without_warnings(Warning):
            if body:
                return pcg_skeleton(
                    root,
                    client=prefetched,
                    level2_graph=edges,
                    root_point=at,
                    root_point_resolution=(1, 1, 1),
                    collapse_soma=True,
                )
            skeleton = pcg_skeleton(root, client=prefetched, level2_graph=edges)
            # given a root point without a cell body, the library fails on numpy 2.4
            away = np.linalg.norm(np.asarray(skeleton.vertices) - np.asarray(at), axis=1)
            skeleton.reroot(int(away.argmin()))
            return skeleton
    except Exception as error:  # the library raises whatever it likes
        raise session.error(
            MissingDataError,
            "chunkedgraph",
            f"no skeleton of {root} can be computed from its level-2 graph: {type(error).__name__}: {error}",
        ) from error


def _as_data(session: Session, root: int, skeleton: Any, ids: IdArray) -> dict[str, Any]:
    return {
        "vertices": np.asarray(skeleton.vertices, dtype=np.float64),
        "edges": np.asarray(skeleton.edges, dtype=np.int64),
        "root": int(skeleton.root),
        "mesh_to_skel_map": np.asarray(skeleton.mesh_to_skel_map, dtype=np.int64),
        "lvl2_ids": ids,
        "radius": None,
        "compartment": None,
        "meta": {
            "root_id": root,
            "skeleton_type": COMPUTED,
            "meta": {"space": "l2cache", "datastack": session.datastack, "source": COMPUTED},
        },
    }
