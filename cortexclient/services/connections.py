"""Who connects to whom: neuron to neuron, type to type, and the partners of a neuron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cortexclient.errors import (
    InvalidQueryError,
    NotConfiguredError,
    ProtocolError,
    ServiceError,
    UnknownTableError,
)
from cortexclient.ids import as_ids
from cortexclient.services import BaseService
from cortexclient.services.cells import CellsService
from cortexclient.services.synapses import (
    moment_of_synapses,
    neurons_by_side,
    queries_by_side,
    size_column,
    synapse_thresholds,
)
from cortexclient.session import (
    Moment,
    Query,
    as_choice,
    as_number,
    fallback_note,
    fetch_replies,
    forget_queries,
    present_frame,
    provenance_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from cortexclient.session import Session
    from cortexclient.spec import TableSpec
    from cortexclient.types import IdArray, Ids, Timestamp

__all__ = ["ConnectionsService"]

_COUNTS = ("n_syn", "num_syn", "synapse_count", "n_synapses", "count")
_SIZES = ("sum_size", "total_size", "size_sum", "net_size", "size")
_PAIR = ["pre_pt_root_id", "post_pt_root_id"]
_STATUS = {"pre": "status_axon", "post": "status_dendrite"}
_PROOFREAD = ("clean", "extended", "t", "true")
"""Values of a column of proofreading for a proofread neuron (schemas of EMAnnotationSchemas)."""


class ConnectionsService(BaseService):
    """Methods about connections between neurons."""

    def connectivity(
        self,
        root_ids: Ids | None = None,
        *,
        pre: bool = True,
        post: bool = True,
        within: bool = False,
        pre_ids: Ids | None = None,
        post_ids: Ids | None = None,
        min_size: float | None = None,
        min_score: float | None = None,
        min_synapses: int = 1,
        by: str | Mapping[int, Any] | None = None,
        proofread: Literal["pre", "post", "both"] | None = None,
        synapse_table: str | None = None,
        omit_self_synapse: bool = True,
        timestamp: Timestamp | None = None,
        progress: bool = False,
        return_as: Literal["pandas", "arrow", "polars"] = "pandas",
    ) -> Any:
        """Return who connects to whom, with numbers of synapses and their summed sizes: by neuron, or by type.

        Parameters
        ----------
        root_ids, pre, post, pre_ids, post_ids, min_size, min_score, omit_self_synapse, return_as
            Which synapses are counted, as for `query_synapses`.
        within : bool
            Only connections between the given neurons.
        min_synapses : int
            Only connections of at least so many synapses.
        by : str or mapping, optional
            Group neurons: the role of a table in the spec that holds types (``"cell_types"``), or root id -> group.
        proofread : {"pre", "post", "both"}, optional
            Only connections whose neuron on this side was proofread, by the table of the role ``proofreading``.
        synapse_table : str, optional
            Default: the dataset's. Given, the connections are counted from it.
        timestamp : datetime.datetime or str, optional
            Another time than the client's.
        progress : bool
            Show a progress bar.

        Returns
        -------
        pandas.DataFrame
            Ordered by the two ids. Synapses whose other side lies on no segment are left out.

            ================  =======  ==========================================================
            column            dtype    content
            ================  =======  ==========================================================
            pre_pt_root_id    int64    the neuron that makes the synapses
            post_pt_root_id   int64    the neuron that receives them
            n_syn             int64    number of synapses
            sum_size          float64  summed size of them; NaN where the table has no sizes
            ================  =======  ==========================================================

            With ``by``, ordered by the two groups:

            ================  =======  ==========================================================
            pre_group         string   group of the neurons that make the synapses
            post_group        string   group of those that receive them
            n_connections     int64    connected pairs of neurons
            n_syn             int64    number of synapses
            sum_size          float64  summed size of them
            ================  =======  ==========================================================

            A neuron without a group, or with several, is in the group null; ``df.attrs["several_groups"]`` lists the
            latter.

        Raises
        ------
        ValueError
            If neither ``pre`` nor ``post`` is wanted, or neurons are given in both ways, or ``pre_ids`` or ``post_ids``
            with an option about ``root_ids``.
        NotConfiguredError
            If the dataset has neither a synapse table nor a table of edges, or none of a role that is needed.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox", version=3)
        >>> roots = client.tables.cell_types().query()["pt_root_id"]
        >>> client.connectivity(roots[roots > 0], within=True, by="cell_types").columns.tolist()
        ['pre_group', 'post_group', 'n_connections', 'n_syn', 'sum_size']
        """
        session = self._session
        least = as_number(min_synapses, "min_synapses", least=1) or 1
        if proofread is not None:
            as_choice(proofread, "proofread", ("pre", "post", "both"))
        if pre_ids is not None or post_ids is not None:
            if within or not (pre and post):
                raise ValueError(
                    "within=, pre= and post= are about root_ids; leave them out with pre_ids= and post_ids="
                )
        elif within and root_ids is not None:
            # from the neurons to the neurons
            root_ids, pre_ids, post_ids = None, root_ids, root_ids
        given = root_ids is not None
        by_side = neurons_by_side(
            root_ids, pre=pre and given, post=post and given, pre_ids=pre_ids, post_ids=post_ids
        )
        shape = Query("connections", split_positions=True, return_as=return_as)
        moment = moment_of_synapses(session, live=False, timestamp=timestamp)
        thresholds = synapse_thresholds(session, min_size=min_size, min_score=min_score)
        # views ended with their version, and tables of edges have counted all synapses
        counted = not (
            synapse_table or thresholds or moment.timestamp is not None or fallback_note(session, moment)
        )
        edges = self._table_of("edges", moment) if counted else None
        table = None if edges else session.require_synapse_table(synapse_table)
        frame, attrs = _count(
            session, by_side, thresholds, edges=edges, table=table, moment=moment, progress=progress
        )
        if omit_self_synapse:
            frame = frame[frame["pre_pt_root_id"] != frame["post_pt_root_id"]]
        if proofread is not None:
            frame = self._proofread(frame, proofread, moment)
        frame = frame[frame["n_syn"] >= least].reset_index(drop=True)
        if by is not None:
            frame, several = self._by(frame, by, moment)
            attrs["several_groups"] = several
        frame.attrs.update(attrs)
        return present_frame(frame, shape)

    def partners(
        self,
        root_ids: Ids,
        *,
        side: Literal["inputs", "outputs", "both"] = "both",
        min_size: float | None = None,
        min_score: float | None = None,
        min_synapses: int = 1,
        types: str | Mapping[int, Any] | None = "cell_types",
        proofread: bool = False,
        timestamp: Timestamp | None = None,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Return the partners of neurons, the strongest first, with their cells and types.

        Parameters
        ----------
        root_ids : int or sequence of int
            Neurons.
        side : {"inputs", "outputs", "both"}
            Which partners: those that synapse onto the neurons, those that the neurons synapse onto, or both.
        min_size, min_score, min_synapses, timestamp, progress
            As for `connectivity`.
        types : str or mapping, optional
            The role of the table of types, or root id -> type; None for no column of types. The default gives nulls
            where the spec names no such table, or none for the version.
        proofread : bool
            Only partners that were proofread, by the table of the role ``proofreading``.

        Returns
        -------
        pandas.DataFrame
            One row for each neuron, side and partner; by neuron in the order given, outputs before inputs, then by
            falling numbers of synapses, falling sizes and rising ids. Root 0 is no partner.

            ===============  =======  ============================================================
            root_id          int64    the given neuron
            side             string   ``output``: it synapses onto the partner; ``input``
            rank             int64    1 for the strongest partner of this neuron and side
            partner_root_id  int64    the partner
            n_syn            int64    number of synapses
            sum_size         float64  summed size of them
            cell_id          int64    cell of the partner; -1 where there is none or more than one
            type             string   type of the partner; null where there is none or more than one
            ===============  =======  ============================================================

        Raises
        ------
        NotConfiguredError
            If the dataset has no synapse table, or none of a role that is needed.
        ServiceError
            If a service fails.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox", version=3)
        >>> root = int(client.cell_id_to_root_id(301357)["root_id"].iloc[0])
        >>> client.partners(root, side="outputs")["rank"].head(3).tolist()
        [1, 2, 3]
        """
        import pandas as pd

        as_choice(side, "side", ("inputs", "outputs", "both"))
        roots = list(dict.fromkeys(as_ids(root_ids, "root_ids").tolist()))
        moment = moment_of_synapses(self._session, live=False, timestamp=timestamp)
        pairs = self.connectivity(
            roots,
            pre=side != "inputs",
            post=side != "outputs",
            min_size=min_size,
            min_score=min_score,
            min_synapses=min_synapses,
            timestamp=timestamp,
            progress=progress,
        )
        parts = []
        for name, mine, other in (("output", *_PAIR), ("input", *reversed(_PAIR))):
            if side in ("both", f"{name}s"):
                part = pairs[pairs[mine].isin(roots)].rename(
                    columns={mine: "root_id", other: "partner_root_id"}
                )
                parts.append(part.assign(side=name))
        frame = pd.concat(parts, ignore_index=True)
        if proofread:
            frame = frame[
                frame["partner_root_id"].isin(self._proofread_roots(frame["partner_root_id"], None, moment))
            ]
        place = frame["root_id"].map({root: position for position, root in enumerate(roots)})
        first = frame["side"] == "input"
        keys = [frame["partner_root_id"], -frame["sum_size"].fillna(0), -frame["n_syn"], first, place]
        frame = frame.iloc[np.lexsort(keys)].reset_index(drop=True)
        frame["rank"] = (frame.groupby(["root_id", "side"]).cumcount() + 1).astype(np.int64)
        frame["side"] = frame["side"].astype("string")
        distinct = frame["partner_root_id"].unique()
        frame["cell_id"] = frame["partner_root_id"].map(self._cells(distinct, moment)).astype(np.int64)
        known, several = self._types(types, distinct, moment)
        frame["type"] = frame["partner_root_id"].map(known).astype("string")
        columns = ["root_id", "side", "rank", "partner_root_id", "n_syn", "sum_size", "cell_id", "type"]
        result: pd.DataFrame = frame[columns if types is not None else columns[:-1]]
        result.attrs.update(pairs.attrs)
        result.attrs["several_groups"] = several
        return result

    def _table_of(self, role: str, moment: Moment) -> TableSpec | None:
        """Return the table of a role at a moment, None where the spec names none."""
        at = self._session.at(version=moment.version, timestamp=moment.timestamp)
        try:
            return at.spec.table_for(role, at.version)
        except (NotConfiguredError, UnknownTableError):
            return None

    def _cells(self, roots: IdArray, moment: Moment) -> pd.Series[int]:
        import pandas as pd

        if self._session.spec.cell_ids is None:
            return pd.Series(-1, index=roots, dtype=np.int64)
        # at a version the roots are those of its tables, so that their age need not be requested
        return CellsService(self._session).root_id_to_cell_id(roots, version=moment.version)["cell_id"]

    def _types(
        self, types: str | Mapping[int, Any] | None, roots: IdArray, moment: Moment
    ) -> tuple[dict[int, str], list[int]]:
        usual = isinstance(types, str) and types == "cell_types"  # a Series has no one truth value
        if types is None or (usual and self._table_of("cell_types", moment) is None):
            return {}, []
        return self._groups(types, roots, moment)

    def _by(
        self, pairs: pd.DataFrame, by: str | Mapping[int, Any], moment: Moment
    ) -> tuple[pd.DataFrame, list[int]]:
        groups, several = self._groups(by, np.unique(pairs[_PAIR].to_numpy()), moment)
        keyed = pairs.assign(
            pre_group=pairs["pre_pt_root_id"].map(groups).astype("string"),
            post_group=pairs["post_pt_root_id"].map(groups).astype("string"),
        )
        grouped = keyed.groupby(["pre_group", "post_group"], dropna=False)
        frame = grouped.agg(
            n_connections=("n_syn", "size"),
            n_syn=("n_syn", "sum"),
            sum_size=("sum_size", lambda sizes: sizes.sum(min_count=1)),
        ).reset_index()
        return frame.astype({"n_connections": np.int64, "n_syn": np.int64, "sum_size": np.float64}), several

    def _groups(
        self, by: str | Mapping[int, Any], roots: IdArray, moment: Moment
    ) -> tuple[dict[int, str], list[int]]:
        """Return root -> group, and the roots that have several; neither root 0 nor -1 has one."""
        import pandas as pd

        if not isinstance(by, str | Mapping):
            raise TypeError(
                "groups are the role of a table, or a mapping root id -> group (of a Series: series.to_dict()), not "
                f"{type(by).__name__}"
            )
        if isinstance(by, Mapping):
            known = pd.Series(list(by.values()), index=as_ids(list(by), "by").tolist(), dtype=object).dropna()
            return {
                root: str(group) for root, group in zip(known.index.tolist(), known, strict=True) if root > 0
            }, []
        rows, table = self._rows_of(by, roots, moment)
        column = next((name for name in ("cell_type", "tag", "type") if name in rows), None)
        if column is None:
            raise self._session.error(
                InvalidQueryError,
                "materialize",
                f"{table!r}, the table of the role {by!r}, has no column cell_type, tag or type to group by (it has "
                f"{', '.join(map(str, rows))}); pass by={{root_id: group}}",
            )
        distinct = rows[["pt_root_id", column]].dropna().drop_duplicates()
        several = distinct["pt_root_id"][distinct["pt_root_id"].duplicated()].unique().tolist()
        one = distinct[~distinct["pt_root_id"].isin(several)]
        named = one[column].astype("string")
        return dict(zip(one["pt_root_id"].tolist(), named.tolist(), strict=True)), sorted(several)

    def _proofread(self, frame: pd.DataFrame, which: str, moment: Moment) -> pd.DataFrame:
        for side in ("pre", "post"):
            if which in (side, "both"):
                column = frame[f"{side}_pt_root_id"]
                frame = frame[column.isin(self._proofread_roots(column, side, moment))]
        return frame

    def _proofread_roots(self, roots: Any, side: str | None, moment: Moment) -> set[int]:
        """Return which roots were proofread: their axons for ``pre``, their dendrites for ``post``, either for None."""
        rows, table = self._rows_of("proofreading", np.unique(roots), moment)
        own = [name for where, name in _STATUS.items() if side in (where, None)]
        columns = rows.columns.intersection(own)
        if columns.empty:
            columns = rows.columns.intersection(["status", "proofread"])
        if columns.empty:
            raise self._session.error(
                InvalidQueryError,
                "materialize",
                f"{table!r}, the table of the role 'proofreading', says in no column that is known what was proofread "
                f"(it has {', '.join(map(str, rows))})",
            )
        states = rows[columns].astype("string").map(str.lower, na_action="ignore")
        return set(rows.loc[states.isin(_PROOFREAD).any(axis=1), "pt_root_id"].tolist())

    def _rows_of(self, role: str, roots: IdArray, moment: Moment) -> tuple[pd.DataFrame, str]:
        """Return the rows of the table of a role that lie on some roots."""
        session = self._session.at(version=moment.version, timestamp=moment.timestamp)
        entry = session.spec.table_for(role, session.version)
        # rows of a reference table lie where those lie that they refer to
        placed = session.table_info(entry.name).reference_table or entry.name
        filters = {"in": {placed: {"pt_root_id": roots[roots > 0].tolist()}}}
        query = Query(entry.name, filters=filters, resolution=None, split_positions=True)
        (reply,) = fetch_replies(session, [query], description=role)
        return reply.frame(), entry.name


def _count(
    session: Session,
    by_side: Sequence[Mapping[str, IdArray]],
    thresholds: Mapping[str, float],
    *,
    edges: Any,
    table: str | None,
    moment: Moment,
    progress: bool,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return (pre, post, n_syn, sum_size), ordered by the two ids, each pair once; and where they are from."""
    name = edges.name if edges is not None else str(table)
    size = size_column(session)
    queries = queries_by_side(
        session,
        name,
        by_side,
        thresholds,
        kind=edges.kind if edges is not None else "table",
        resolution=None,
        select=None if edges is not None else ["id", *_PAIR, size],
        moment=moment,
        progress=progress,
    )
    replies = fetch_replies(session, queries, description="connections")
    frames = [reply.frame() for reply in replies]
    attrs = {
        key: replies[0].attrs[key]
        for key in (*provenance_of(session), "table_name", "table_kind", "complete", "version_fallback")
        if key in replies[0].attrs
    }
    try:
        if edges is not None:
            frames = [_as_edges(session, frame, name, size) for frame in frames]
        else:
            for frame in frames:
                _require_numbers(session, frame, [size], name)
    except ServiceError:
        forget_queries(session, queries)
        raise
    return _sum_up(frames, counted=edges is not None, size=size), attrs


def _as_edges(session: Session, frame: pd.DataFrame, name: str, size: str) -> pd.DataFrame:
    counts = [column for column in _COUNTS if column in frame.columns]
    sizes = [column for column in (*_SIZES, size) if column in frame.columns]
    if not counts or not set(_PAIR) <= set(frame.columns):
        raise session.error(
            InvalidQueryError,
            "materialize",
            f"{name!r} does not look like a table of connections (it has {', '.join(frame.columns)}); correct "
            "`tables.edges` in the dataset's YAML file, or pass synapse_table= to count synapses",
            status=200,
        )
    _require_numbers(session, frame, sizes[:1], name)
    _require_numbers(session, frame, counts[:1], name, missing=False)
    frame = frame.rename(columns={counts[0]: "n_syn"} | ({sizes[0]: "sum_size"} if sizes else {}))
    return frame.reindex(columns=[*_PAIR, "n_syn", "sum_size"])


def _require_numbers(
    session: Session, frame: pd.DataFrame, columns: list[str], name: str, *, missing: bool = True
) -> None:
    """Raise `ProtocolError` for columns that hold something else than numbers, or where some are missing."""
    for column in columns:
        values = frame.get(column)
        if values is None:
            continue
        gaps = values.isna()
        if (values.dtype.kind not in "iuf" and not gaps.all()) or (gaps.any() and not missing):
            raise session.error(
                ProtocolError,
                "materialize",
                f"the materialize service sent rows of {name!r} whose {column!r} is no number; try again",
                status=200,
            )


def _sum_up(frames: list[pd.DataFrame], *, counted: bool, size: str) -> pd.DataFrame:
    import pandas as pd

    filled = [frame for frame in frames if len(frame)] or frames[:1]
    joined = pd.concat(filled, ignore_index=True)
    # 0 stands for no segment: such a synapse has no partner
    joined = joined[(joined[_PAIR].fillna(0) > 0).all(axis=1)]
    if counted:
        result = joined.drop_duplicates(_PAIR)
    else:
        joined = joined.drop_duplicates("id")
        sizes = joined[size].astype(np.float64) if size in joined.columns else float("nan")
        grouped = joined[_PAIR].assign(sum_size=sizes).groupby(_PAIR)["sum_size"]
        result = pd.DataFrame({"n_syn": grouped.size(), "sum_size": grouped.sum(min_count=1)}).reset_index()
    result = result.sort_values(_PAIR, ignore_index=True)
    dtypes = dict.fromkeys((*_PAIR, "n_syn"), np.int64) | {"sum_size": np.float64}
    return result.astype(dtypes)[[*_PAIR, "n_syn", "sum_size"]]
