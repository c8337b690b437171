"""Who connects to whom: counted from the synapses, or read from a table that the dataset has already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.errors import InvalidQueryError
from cortexclient.session import Query, fetch_replies, provenance_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from cortexclient.session import Moment, Session

__all__ = ["count_connections"]

_COUNTS = ("n_syn", "num_syn", "synapse_count", "n_synapses", "count")
_SIZES = ("sum_size", "total_size", "size_sum", "net_size", "size")


def count_connections(
    session: Session,
    *,
    sides: Sequence[str],
    edges: Any,
    table: str | None,
    roots: list[int],
    batch: int,
    moment: Moment,
    progress: bool,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return (pre, post, n_syn, sum_size), ordered by the two ids, each pair once; and where they are from."""
    name = edges.name if edges is not None else str(table)
    size = _size_column(session)
    frames = []
    queries = [
        Query(
            name,
            kind=edges.kind if edges is not None else "table",
            filters={"in": {name: {f"{side}_pt_root_id": roots}}},
            merge_reference=False,
            resolution=None,
            split_positions=True,
            select=None if edges is not None else _columns(size),
            moment=moment,
            batch=batch,
            progress=progress,
        )
        for side in sides
    ]
    replies = fetch_replies(session, queries, description="connections")
    for reply in replies:
        frame = reply.frame()
        frames.append(_as_edges(frame, name, size) if edges is not None else frame)
    attrs = {
        key: replies[0].attrs[key]
        for key in (*provenance_of(session), "table_name", "table_kind", "complete", "version_fallback")
        if key in replies[0].attrs
    }
    return _sum_up(frames, counted=edges is not None, size=size), attrs


def _size_column(session: Session) -> str:
    synapses = session.spec.synapses
    return (synapses.size_column if synapses is not None else None) or "size"


def _columns(size: str) -> list[str]:
    return ["id", "pre_pt_root_id", "post_pt_root_id", size]


def _as_edges(frame: pd.DataFrame, name: str, size: str) -> pd.DataFrame:
    counts = [column for column in _COUNTS if column in frame.columns]
    sizes = [column for column in (*_SIZES, size) if column in frame.columns]
    if not counts or not {"pre_pt_root_id", "post_pt_root_id"} <= set(frame.columns):
        raise InvalidQueryError(
            f"{name!r} does not look like a table of connections (it has {', '.join(frame.columns)}); correct "
            "`tables.edges` in the dataset's YAML file, or pass synapse_table= to count synapses",
            service="materialize",
        )
    frame = frame.rename(columns={counts[0]: "n_syn"} | ({sizes[0]: "sum_size"} if sizes else {}))
    if not sizes:
        frame["sum_size"] = float("nan")
    return frame[["pre_pt_root_id", "post_pt_root_id", "n_syn", "sum_size"]]


def _sum_up(frames: list[pd.DataFrame], *, counted: bool, size: str) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    pair = ["pre_pt_root_id", "post_pt_root_id"]
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    joined = pd.concat(filled, ignore_index=True)
    # 0 stands for no segment: such a synapse has no partner
    joined = joined[(joined[pair] > 0).all(axis=1)]
    if counted:
        result = joined.drop_duplicates(pair)
    else:
        joined = joined.drop_duplicates("id")
        sizes = joined[size].astype(np.float64) if size in joined.columns else float("nan")
        grouped = joined[pair].assign(sum_size=sizes).groupby(pair)["sum_size"]
        result = pd.DataFrame({"n_syn": grouped.size(), "sum_size": grouped.sum(min_count=1)}).reset_index()
    result = result.sort_values(pair, ignore_index=True)
    dtypes = dict.fromkeys((*pair, "n_syn"), np.int64) | {"sum_size": np.float64}
    return result.astype(dtypes)[[*pair, "n_syn", "sum_size"]]
