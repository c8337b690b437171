"""An ossify Cell from what the services answered; asks nothing itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cortexclient.errors import MissingDataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import pandas as pd

    from cortexclient.session import Session
    from cortexclient.types import FloatArray, IdArray

__all__ = ["make_cell", "require_ossify"]

_AXES = ("x", "y", "z")


def require_ossify() -> Any:
    """Import ossify.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
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
) -> Any:
    """Make the cell as ossify does from the same answers.

    Parameters
    ----------
    data : mapping
        The skeleton, as :func:`parse_skeleton` gives it.
    at : datetime.datetime
        When the neuron is looked at.
    attributes : pandas.DataFrame
        Attributes of level-2 ids, with ``rep_coord_nm``; more than the neuron's own may be there.
    edges : ndarray of int64, shape (E, 2), or None
        Level-2 graph, where it is restored.
    synapses : mapping
        ``"pre"``, ``"post"`` -> rows; empty for a cell without synapses.
    move : callable or None
        Moves positions in nm; applied to everything alike.

    Raises
    ------
    MissingDataError
        If the skeleton has no level-2 ids.
    """
    import numpy as np

    if data.get("lvl2_ids") is None or data.get("mesh_to_skel_map") is None:
        raise MissingDataError(
            f"the skeleton of {root} has no level-2 ids, which a cell needs; use skeleton_version=4",
            service="skeleton",
        )
    count = len(data["vertices"])
    skeleton = {
        **data,
        "vertices": data["vertices"] if move is None else move(data["vertices"]),
        "radius": data["radius"] if data.get("radius") is not None else np.full(count, np.nan),
        "compartment": data["compartment"]
        if data.get("compartment") is not None
        else np.zeros(count, dtype=np.int64),
    }
    source = SimpleNamespace(  # says what ossify asks a client for besides data
        datastack_name=session.datastack,
        local_server=session.local_server,
        materialize=SimpleNamespace(synapse_table=session.spec.synapse_table),
        chunkedgraph=SimpleNamespace(level2_chunk_graph=lambda _: edges),
    )
    return require_ossify().load_cell_from_client(
        root,
        source,
        synapses=bool(synapses),
        synapse_spatial_point=session.spec.synapse_position_column or "ctr_pt_position",
        pre_syn_df=_rows(synapses["pre"], "pre", move) if synapses else None,
        post_syn_df=_rows(synapses["post"], "post", move) if synapses else None,
        l2_df=_level2(data, attributes, move),
        skeleton=skeleton,
        restore_graph=edges is not None and len(edges) > 0,
        assume_valid=True,
        timestamp=at,
    )


def _level2(data: Mapping[str, Any], attributes: pd.DataFrame, move: Any) -> pd.DataFrame:
    import numpy as np

    rows: pd.DataFrame = attributes.loc[data["lvl2_ids"]].reset_index()
    names = [f"rep_coord_nm_{axis}" for axis in _AXES]
    points = rows[names].to_numpy(dtype=np.float64, copy=True)
    unknown = ~np.isfinite(points).all(axis=1)
    # an id that the cache does not know lies where its skeleton vertex is
    points[unknown] = data["vertices"][data["mesh_to_skel_map"]][unknown]
    rows[names] = points if move is None else move(points)
    return rows


def _rows(rows: pd.DataFrame, side: str, move: Any) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    partner = "post" if side == "pre" else "pre"
    frame = rows.drop(columns=[f"{partner}_pt_root_id"], errors="ignore")
    frame = frame.rename(columns={f"{side}_pt_level2_id": f"{side}_pt_l2_id"})
    columns: dict[str, Any] = {}
    for name in frame.columns:
        values = frame[name]
        if "_position" not in str(name):
            columns[name] = values
            continue
        points = np.array([p if np.size(p) == 3 else [np.nan] * 3 for p in values], dtype=np.float64).reshape(
            -1, 3
        )
        points = points if move is None else move(points)
        columns |= {f"{name}_{axis}": points[:, number] for number, axis in enumerate(_AXES)}
    return pd.DataFrame(columns)
