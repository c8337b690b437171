"""Neurons as objects of other libraries, made from the responses of the services; nothing is requested here."""

from __future__ import annotations

import contextlib
import logging
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cortexclient.errors import MissingDataError, MissingExtraError, ProtocolError
from cortexclient.forking import ForkSafeLock
from cortexclient.services.skeletons.shapes import VOLUME, state_unit
from cortexclient.services.space import stack_points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from numpy.typing import NDArray

    from cortexclient.services.skeletons.neuron import Neuron
    from cortexclient.session import Session
    from cortexclient.types import FloatArray, IdArray

__all__ = [
    "PROPERTIES",
    "add_properties",
    "add_synapses",
    "make_cell",
    "make_meshwork",
    "require_ossify",
    "segment_properties",
    "without_warnings",
]

log = logging.getLogger(__name__)

PROPERTIES = ("area_nm2", "max_dt_nm", "mean_dt_nm", "size_nm3")
"""Attributes of level-2 ids that ``restore_properties`` adds."""

_AXES = ("x", "y", "z")
_AXON = 2

# the list of warning filters belongs to the entire process: two threads that change it concurrently would each restore
# the other's state
_WARNING_FILTERS = ForkSafeLock()


@contextlib.contextmanager
def without_warnings(*kinds: type[Warning]) -> Iterator[None]:
    """Hide warnings that libraries raise about their own use of other libraries; one thread enters at a time."""
    with _WARNING_FILTERS, warnings.catch_warnings():
        for kind in kinds:
            warnings.simplefilter("ignore", kind)
        yield


# -- a Meshwork --------------------------------------------------------------------------------------------------------


def make_meshwork(
    root_id: int,
    data: Mapping[str, Any],
    *,
    edges: IdArray | None = None,
    points: Mapping[str, Mapping[str, Any]] | None = None,
    url: str = "",
) -> Neuron:
    """Make the neuron, in nm, without synapses and properties.

    ``data`` is the skeleton as :func:`parse_skeleton` returns it. For a neuron whose graph is restored, ``edges`` is
    the level-2 graph, int64 of shape (E, 2), and ``points`` maps level-2 ids as text to attributes with
    ``rep_coord_nm``. Raises `MissingDataError` for a skeleton without level-2 ids, or if the graph has others.
    """
    from pcg_skel.service import rebuild_meshwork

    from cortexclient.services.skeletons.neuron import Neuron

    _require_level2(root_id, data, "a Meshwork", url)
    source = _prefetched(root_id, data, edges, points, url) if edges is not None and len(edges) else None
    with without_warnings(DeprecationWarning, FutureWarning):
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
            is_axon=False,  # the library finds it by a text query, which takes longer than everything else
        )
        neuron.anno.add_annotations("is_axon", _on_axon(data), mask=True)
    neuron.__class__ = Neuron  # the library does not let its caller choose the class
    # MeshParty takes the positions of annotations for voxels of (4, 4, 40) nm by default
    neuron.anno.voxel_resolution = [1, 1, 1]
    state_unit(neuron.skeleton, "nm", VOLUME)
    made: Neuron = neuron
    return made


def _require_level2(root_id: int, data: Mapping[str, Any], what: str, url: str) -> None:
    if data.get("lvl2_ids") is None or data.get("mesh_to_skel_map") is None:
        raise MissingDataError(
            f"the skeleton of {root_id} has no level-2 ids, which {what} needs; use skeleton_version=4",
            service="skeleton",
            url=url,
        )


def _on_axon(data: Mapping[str, Any]) -> Any:
    """Return the rows of level-2 ids on the axon; none where the service knows no compartments."""
    kind = data.get("compartment")
    if kind is None or _AXON not in kind:
        return []
    return np.flatnonzero(np.asarray(kind)[data["mesh_to_skel_map"]] == _AXON)


def _prefetched(root_id: int, data: Mapping[str, Any], edges: IdArray, points: Any, url: str) -> Any:
    """Return an object that gives pcg_skel the responses where it would send requests."""
    strangers = np.setdiff1d(edges, data["lvl2_ids"])
    if len(strangers):
        raise MissingDataError(
            f"the level-2 graph of {root_id} has {len(strangers)} ids that its skeleton does not know (the first is "
            f"{strangers[0]}); get it with restore_graph=False",
            service="skeleton",
            url=url,
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
            at[lost] = _nearest(neuron, stack_points(frame[position].iloc[lost]))
        frame[f"{side}_pt_mesh_ind"] = at
        frame.attrs.update(unit="nm", space=VOLUME, position_column=position)
        neuron.anno.add_annotations(
            f"{side}_syn",
            frame,
            index_column=f"{side}_pt_mesh_ind",
            point_column=position,
            voxel_resolution=[1, 1, 1],
        )


def _nearest(neuron: Any, points: NDArray[np.float64]) -> NDArray[np.intp]:
    from scipy.spatial import cKDTree

    # a synapse without a position is put on the first level-2 id
    found: NDArray[np.intp] = cKDTree(neuron.mesh.vertices).query(np.nan_to_num(points))[1]
    return found


def add_properties(
    neuron: Any, lvl2_ids: IdArray, attributes: Mapping[str, Mapping[str, Any]], *, url: str = ""
) -> None:
    """Add the tables ``vol_prop`` and ``segment_properties``; level-2 ids that the cache does not know get NaN.

    Raises `ProtocolError` if an attribute is no number.
    """
    columns: dict[str, Any] = {"mesh_ind": np.arange(len(lvl2_ids))}
    rows = [attributes.get(key) or {} for key in map(str, lvl2_ids.tolist())]
    for name in PROPERTIES:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = _numbers(values, integers=name != "mean_dt_nm")
        except (TypeError, ValueError) as error:
            raise ProtocolError(
                f"the level-2 cache returned {name} that is no number: {error}",
                service="l2cache",
                status=200,
                url=url,
            ) from error
    neuron.anno.add_annotations("vol_prop", pd.DataFrame(columns), index_column="mesh_ind")
    neuron.anno.add_annotations(
        "segment_properties",
        segment_properties(neuron.skeleton, columns["size_nm3"], columns["area_nm2"]),
        index_column="mesh_ind",
    )


def _numbers(values: list[Any], *, integers: bool) -> NDArray[Any]:
    numbers = np.array(values, dtype=np.float64)  # None becomes NaN
    return numbers.astype(np.int64) if integers and np.isfinite(numbers).all() else numbers


# -- an ossify Cell ----------------------------------------------------------------------------------------------------


def require_ossify() -> Any:
    """Import ossify, or raise `MissingExtraError`."""
    try:
        import ossify
    except ImportError as error:
        raise MissingExtraError.of("output='cell' needs", "ossify", "ossify") from error
    return ossify


def make_cell(
    session: Session,
    root: int,
    data: Mapping[str, Any],
    *,
    at: datetime,
    attributes: pd.DataFrame,
    edges: IdArray | None,
    synapses: Mapping[str, pd.DataFrame],
    move: Callable[[Any], FloatArray] | None,
    space: str,
) -> Any:
    """Make the cell as ossify does from the same responses; ``cell.meta`` has its ``unit`` and ``space``.

    ``data`` is the skeleton as :func:`parse_skeleton` returns it, ``at`` the neuron's moment, ``attributes`` those of
    level-2 ids (with ``rep_coord_nm``; of more than the neuron's own, too), ``edges`` the level-2 graph, int64 of shape
    (E, 2), where it is restored, ``synapses`` the rows of ``"pre"`` and ``"post"``, empty for a cell without any.
    ``move`` moves positions in nm into ``space``; it is applied to everything alike. Raises `MissingDataError` for a
    skeleton without level-2 ids.
    """
    _require_level2(root, data, "a cell", session.connection.url_of("skeleton"))
    count = len(data["vertices"])
    skeleton = {
        **data,
        "vertices": data["vertices"] if move is None else move(data["vertices"]),
        "radius": data["radius"] if data.get("radius") is not None else np.full(count, np.nan),
        "compartment": data["compartment"]
        if data.get("compartment") is not None
        else np.zeros(count, dtype=np.int64),
    }
    source = SimpleNamespace(  # what ossify wants to know of a client besides data
        datastack_name=session.datastack,
        local_server=session.local_server,
        materialize=SimpleNamespace(synapse_table=session.spec.synapse_table),
        chunkedgraph=SimpleNamespace(level2_chunk_graph=lambda _: edges),
    )
    cell = require_ossify().load_cell_from_client(
        root,
        source,
        synapses=bool(synapses),
        synapse_spatial_point=session.spec.synapse_position_column or "ctr_pt_position",
        pre_syn_df=_cell_rows(synapses["pre"], "pre", move) if synapses else None,
        post_syn_df=_cell_rows(synapses["post"], "post", move) if synapses else None,
        l2_df=_cell_level2(data, attributes, move),
        skeleton=skeleton,
        restore_graph=edges is not None and len(edges) > 0,
        assume_valid=True,
        timestamp=at,
    )
    cell.meta.update(unit="nm" if move is None else "um", space=space)
    return cell


def _cell_level2(data: Mapping[str, Any], attributes: pd.DataFrame, move: Any) -> pd.DataFrame:
    rows: pd.DataFrame = attributes.loc[data["lvl2_ids"]].reset_index()
    names = [f"rep_coord_nm_{axis}" for axis in _AXES]
    points = rows[names].to_numpy(dtype=np.float64, copy=True)
    unknown = ~np.isfinite(points).all(axis=1)
    # an id that the cache does not know lies where its skeleton vertex is
    points[unknown] = data["vertices"][data["mesh_to_skel_map"]][unknown]
    rows[names] = points if move is None else move(points)
    return rows


def _cell_rows(rows: pd.DataFrame, side: str, move: Any) -> pd.DataFrame:
    partner = "post" if side == "pre" else "pre"
    frame = rows.drop(columns=[f"{partner}_pt_root_id"], errors="ignore")
    frame = frame.rename(columns={f"{side}_pt_level2_id": f"{side}_pt_l2_id"})
    columns: dict[str, Any] = {}
    for name in frame.columns:
        values = frame[name]
        if "_position" not in str(name):
            columns[name] = values
            continue
        points = stack_points(values)
        points = points if move is None else move(points)
        columns |= {f"{name}_{axis}": points[:, number] for number, axis in enumerate(_AXES)}
    return pd.DataFrame(columns)


# -- properties of segments -------------------------------------------------------------------------------------------


def segment_properties(skeleton: Any, volume: NDArray[Any], area: NDArray[Any]) -> pd.DataFrame:
    """Describe, for each level-2 id, the unbranched segment of the skeleton that it lies on.

    The numbers of ``pcg_skel.features.add_segment_properties``, which takes 21 s for 25,889 level-2 ids; the array
    operations here take 0.05 s. ``skeleton`` is a MeshParty skeleton without a mask, ``volume`` (nm3) and ``area``
    (nm2), shape (K,), are those of the level-2 ids; NaN counts as nothing. One row for each level-2 id:

    =========== ======= ==============================================================================
    column      dtype   meaning
    =========== ======= ==============================================================================
    seg_num     int64   number of the segment
    mesh_ind    int64   row of the level-2 id
    is_root     bool    the segment holds the root
    vol, area   number  sums over the segment
    len         float64 length in nm with the step to the parent; 0 for the root's segment
    strahler    int64   Strahler number of the segment's far end
    r_eff       float64 radius in nm of the cylinder of that length and volume; a sphere's for the root
    area_factor float64 area over that of this cylinder's side
    =========== ======= ==============================================================================
    """
    parent = np.asarray(skeleton.parent_nodes(np.arange(skeleton.n_vertices)), dtype=np.int64)
    place = np.asarray(skeleton.mesh_to_skel_map, dtype=np.int64)
    root = int(skeleton.root)
    segment = _segments(parent)
    count = int(segment.max(initial=-1)) + 1
    on_mesh = np.zeros(len(parent), dtype=bool)
    on_mesh[place[place >= 0]] = True
    is_root = np.zeros(count, dtype=bool)
    is_root[segment[root]] = on_mesh[root]
    length = _lengths(np.asarray(skeleton.vertices, dtype=np.float64), parent, segment, on_mesh, count)
    length[is_root] = 0
    of_row = np.where(place >= 0, segment[place], 0)
    strahler = _strahler(skeleton, parent)[_far_ends(skeleton, segment, on_mesh, count)]
    total, surface = _sums(of_row, volume, count), _sums(of_row, area, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.sqrt(total / (np.pi * length))
        radius[is_root] = (total[is_root] * (3 / 4) / np.pi) ** (1 / 3)
        factor = surface / (2 * np.pi * radius * length)
    return pd.DataFrame(
        {
            "seg_num": of_row,
            "mesh_ind": np.arange(len(place)),
            "is_root": is_root[of_row],
            "vol": total[of_row],
            "len": length[of_row],
            "area": surface[of_row],
            "strahler": strahler[of_row],
            "r_eff": radius[of_row],
            "area_factor": factor[of_row],
        }
    )


def _segments(parent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each vertex's segment; segments are numbered by their smallest vertex, as in meshparty."""
    children = np.bincount(parent[parent >= 0], minlength=len(parent))
    top = (parent < 0) | (children[parent] > 1)
    up = np.where(top, np.arange(len(parent)), parent)
    while True:
        further = up[up]
        if np.array_equal(further, up):
            break
        up = further
    _, first, inverse = np.unique(up, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[inverse.reshape(-1)])


def _lengths(
    vertices: NDArray[np.float64],
    parent: NDArray[np.int64],
    segment: NDArray[np.int64],
    on_mesh: NDArray[np.bool_],
    count: int,
) -> NDArray[np.float64]:
    steps = np.zeros(len(parent))
    has = parent >= 0
    steps[has] = np.linalg.norm(vertices[has] - vertices[parent[has]], axis=1)
    # a step counts if both ends stand for level-2 ids
    steps[has & ~(on_mesh & on_mesh[parent])] = 0
    return np.bincount(segment, weights=steps, minlength=count).astype(np.float64)


def _sums(group: NDArray[np.int64], values: NDArray[Any], count: int) -> NDArray[Any]:
    sums = np.zeros(count, dtype=np.int64 if values.dtype.kind in "iu" else np.float64)
    np.add.at(sums, group, np.nan_to_num(values) if values.dtype.kind == "f" else values)
    return sums


def _far_ends(
    skeleton: Any, segment: NDArray[np.int64], on_mesh: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """Return the vertex of each segment with the most steps to the root, among those that stand for level-2 ids."""
    hops = np.asarray(skeleton.hops_to_root)
    rows = np.flatnonzero(on_mesh)
    order = rows[np.lexsort((rows, hops[rows], segment[rows]))]
    ends = np.zeros(count, dtype=np.int64)
    ends[segment[order]] = order  # the last one written has the most steps
    return ends


def _strahler(skeleton: Any, parent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each vertex's Strahler number, branches joining in meshparty's order: those of the nearest tips first.

    Where three branches meet the result can depend on that order, so it is the same here.
    """
    tips = np.asarray(skeleton.end_points)
    tips = tips[np.argsort(np.asarray(skeleton.distance_to_root)[tips])[::-1]]
    above = parent.tolist()
    seen = [False] * len(above)
    paths = []
    for tip in tips.tolist():
        path, at = [], tip
        while at >= 0 and not seen[at]:
            seen[at] = True
            path.append(at)
            at = above[at]
        paths.append(path)
    order = [-1] * len(above)
    for path in reversed(paths):
        value = 1
        for at in path:
            if order[at] > value:
                value = order[at]
            elif order[at] == value:
                value += 1
            order[at] = value
        end = above[path[-1]] if path else -1
        if end >= 0:
            if value > order[end]:
                order[end] = value
            elif value == order[end]:
                order[end] += 1
    return np.asarray(order, dtype=np.int64)
