"""Synapses of neurons, with what reference tables say about them, and who connects to whom."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from cortexclient.errors import NotConfiguredError, ServiceError, ServiceTimeoutError, ServiceUnavailableError
from cortexclient.ids import as_ids
from cortexclient.services.synapse_references import attach, find_references, to_follow
from cortexclient.session import (
    NM,
    Moment,
    Query,
    Reply,
    as_choice,
    concat_replies,
    fallback_note,
    fetch_replies,
    is_latest,
    lifetimes,
    moment_of_tables,
    present_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from cortexclient.session import Session
    from cortexclient.types import IdArray, Ids, Timestamp

__all__ = ["SynapsesService"]

log = logging.getLogger(__name__)

_MOST_ROOTS = 25
_FEWEST_ROOTS = 10
_NAMED = 100


class SynapsesService:
    """Methods about synapses.

    Parameters
    ----------
    session : Session
        Where to ask, and the moment that holds where a method is given none.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def query_synapses(
        self,
        root_ids: Ids,
        pre: bool = False,
        post: bool = False,
        reference_tables: str | Sequence[str] | None = None,
        synapse_table: str | None = None,
        omit_self_synapse: bool = True,
        resolution: Sequence[float] | None = NM,
        split_positions: bool = True,
        live: bool = False,
        timestamp: Timestamp | None = None,
        suffixes: Mapping[str, str] | None = None,
        batch_size: int | None = None,
        ref_batch_size: int = 5000,
        progress: bool = True,
        *,
        duplicates: Literal["first", "all", "raise"] = "first",
        return_as: Literal["pandas", "arrow", "polars"] = "pandas",
    ) -> Any:
        """Return the synapses of one or more neurons, all of them, once each.

        A floating client reads them from its version of the tables, as `get_skeleton` does: the two have the same
        synapses. Roots that were made after that version have none in it (``live=True`` returns them).

        Parameters
        ----------
        root_ids : int or sequence of int
            Neurons. Duplicates are asked once; 0 and -1 (no segment, no root found) are no neurons.
        pre, post : bool
            Synapses that the neurons make, and that they receive. One of them at least.
        reference_tables : str or sequence of str, optional
            Tables that say something about synapses. Rows are matched by ``target_id`` where a table has one; those of
            a view, or of another table of synapses, by ``id``. Synapses without a row get nulls.
        synapse_table : str, optional
            Default: the dataset's.
        omit_self_synapse : bool
            Leave out synapses from a neuron onto itself.
        resolution : sequence of float or None
            nm of one unit of the positions (of reference tables, too). Default: nm. None: the table's own voxels.
        split_positions : bool
            Three columns for each point, instead of one with arrays of three.
        live : bool
            Ask at the client's time by a live query; now, if the client floats.
        timestamp : datetime.datetime or str, optional
            Ask at this time (implies ``live``); without a zone it is UTC.
        suffixes : dict, optional
            Reference table -> suffix of those of its columns whose names another table has, too. Default: ``_`` and
            the table's name. Columns of the synapse table keep their names.
        batch_size : int, optional
            Neurons in one request. Default: chosen by their number; truncated responses are split further.
        ref_batch_size : int
            Synapses in one request to a reference table.
        progress : bool
            Show one progress bar.
        duplicates : {"first", "all", "raise"}
            What to do where a table has several rows for a synapse: take the one of the smallest id (and say so in
            ``df.attrs["several_reference_rows"]``), repeat the synapse for each, or raise.
        return_as : {"pandas", "arrow", "polars"}
            Kind of frame.

        Returns
        -------
        pandas.DataFrame
            One row a synapse, in ascending order of ``id``: ``id``, ``pre_pt_root_id``, ``post_pt_root_id``,
            ``pre_pt_supervoxel_id``, ``post_pt_supervoxel_id`` (int64), positions of ``pre_pt``, ``post_pt``,
            ``ctr_pt`` (float64, in nm or the units of ``resolution``; int64 in own voxels), ``size`` (float64 or
            ``Int64``), then the columns of the reference tables (nullable types, points float64). No synapses give an
            empty frame with
            the same columns and types. ``df.attrs["stale_root_ids"]`` lists neurons that have no synapses because they
            were not valid at the moment asked; it is None where the chunkedgraph did not answer.

        Raises
        ------
        ValueError
            If neither ``pre`` nor ``post`` is asked, or a reference table refers to another one than the synapse
            table, or to none (a table of nuclei, say: its ids are not those of synapses).
        NotConfiguredError
            If the dataset has no synapse table.
        IncompleteResultError
            If the server truncates a response and it cannot be completed.
        ServiceError
            If a service fails.

        Examples
        --------
        >>> client.query_synapses(864691135336055529, pre=True, post=True)  # doctest: +SKIP
        """
        if not pre and not post:
            raise ValueError(
                "ask for pre=True (synapses that the neurons make), post=True (that they receive), or both"
            )
        as_choice(duplicates, "duplicates", ("first", "all", "raise"))
        session = self._session
        table = session.require_synapse_table(synapse_table)
        shape = Query(table, resolution=resolution, split_positions=split_positions, return_as=return_as)
        ids = as_ids(root_ids, "root_ids")
        moment = self._moment(live=live, timestamp=timestamp)
        sides = [side for side, wanted in (("pre", pre), ("post", post)) if wanted]
        references = find_references(session, table, reference_tables, suffixes)
        size = _batch(len(set(ids.tolist())), session.max_workers, len(sides))
        requests = [
            Query(
                table,
                kind="table",
                filters={"in": {table: {f"{side}_pt_root_id": ids[ids > 0].tolist()}}},
                merge_reference=False,
                resolution=resolution,
                split_positions=True,
                moment=moment,
                batch=size if batch_size is None else batch_size,
                progress=progress,
            )
            for side in sides
        ]
        following = to_follow(
            references,
            moment=moment,
            resolution=resolution,
            batch_size=ref_batch_size,
            progress=progress,
            pick=_new_ids(ids, both=len(sides) > 1, omit_self=omit_self_synapse),
        )
        # put in order once, with those that come twice left out
        found = fetch_replies(session, requests, following=following, description="synapses", in_order=False)
        answers, about = found[: len(sides)], found[len(sides) :]
        attrs = {**answers[0].attrs, "filters": {"root_ids": len(ids), "sides": sides}}
        attrs["requests"] = sum(answer.attrs["requests"] for answer in found)
        frame = _together(answers, omit_self=omit_self_synapse)
        attrs |= self._stale(ids, frame, moment)
        if references:
            frame, notes = attach(frame, references, about, duplicates=duplicates)
            attrs |= notes
        frame.attrs.update(attrs)
        return present_frame(frame, shape)

    def _moment(self, *, live: bool, timestamp: Timestamp | None) -> Moment:
        if timestamp is not None:
            return Moment.of(timestamp=timestamp)
        if live and self._session.moment.floating:
            return Moment(timestamp=datetime.now(UTC))
        return moment_of_tables(self._session)

    def _stale(self, ids: IdArray, frame: pd.DataFrame, moment: Moment) -> dict[str, Any]:
        """Return which neurons have no row because they did not exist then: a server does not say so."""
        import numpy as np

        seen = np.union1d(frame["pre_pt_root_id"].unique(), frame["post_pt_root_id"].unique())
        silent = np.setdiff1d(ids, seen[seen > 0])
        if not len(silent):
            return {"stale_root_ids": []}
        at = moment.timestamp
        if at is None:
            at = self._session.version_record(moment.version or self._session.version).timestamp
        try:
            stale = silent[~is_latest(self._session, silent, at=at)]
        except (ServiceUnavailableError, ServiceTimeoutError) as error:
            # the synapses are there, and a service that they do not come from is no reason to lose them
            log.warning(
                "cannot find out which of %d neurons without synapses were valid: %s", len(silent), error
            )
            return {"stale_root_ids": None}
        if len(stale):
            self._warn_of_stale(stale, moment, at)
        return {"stale_root_ids": stale.tolist()}

    def _warn_of_stale(self, stale: IdArray, moment: Moment, at: datetime) -> None:
        try:
            is_newer = lifetimes(self._session, stale).created > at.timestamp() * 1e6
        except ServiceError:
            is_newer = stale != stale
        newer, others = stale[is_newer], stale[~is_newer]
        when = at.isoformat() if moment.version is None else f"{at.isoformat()} (version {moment.version})"
        if len(newer):
            log.warning(
                "%d of the root ids were made after %s, and so have no synapses there: %s. Pass live=True (--live on "
                "the command line) for their synapses at present, or ask for their predecessors: "
                "suggest_latest_roots(root_id, timestamp=%r)",
                len(newer),
                when,
                _listed(newer),
                at.isoformat(),
            )
        if len(others):
            log.warning(
                "%d of the root ids were not valid at %s, and so have no synapses there: %s. latest_roots() returns "
                "their successors, latest_valid_timestamp() the last time at which they can be asked with timestamp=",
                len(others),
                when,
                _listed(others),
            )

    def connectivity(
        self,
        root_ids: Ids,
        *,
        pre: bool = True,
        post: bool = True,
        within: bool = False,
        synapse_table: str | None = None,
        omit_self_synapse: bool = True,
        timestamp: Timestamp | None = None,
        progress: bool = False,
        return_as: Literal["pandas", "arrow", "polars"] = "pandas",
    ) -> Any:
        """Return the neuron-to-neuron table of some neurons: numbers of synapses and their summed sizes.

        Parameters
        ----------
        root_ids : int or sequence of int
            Neurons; 0 and -1 (no segment, no root found) are none.
        pre, post : bool
            Connections that they make, and that they receive.
        within : bool
            Only connections between the given neurons.
        synapse_table : str, optional
            Default: the dataset's. Given, the connections are counted from it.
        omit_self_synapse : bool
            Leave out connections of a neuron with itself.
        timestamp : datetime.datetime or str, optional
            Another time than the client's.
        progress : bool
            Show one bar.
        return_as : {"pandas", "arrow", "polars"}
            Kind of frame.

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

        Raises
        ------
        ValueError
            If neither ``pre`` nor ``post`` is asked.
        NotConfiguredError
            If the dataset has neither a synapse table nor a table of edges.
        """
        if not pre and not post:
            raise ValueError("ask for pre=True (connections made), post=True (received), or both")
        from cortexclient.services.connections import count_connections

        session = self._session
        ids = as_ids(root_ids, "root_ids")
        ids = ids[ids > 0]
        shape = Query("connections", split_positions=True, return_as=return_as)
        moment = self._moment(live=False, timestamp=timestamp)
        if within:
            post = False
        # views ended with their version
        gone = moment.timestamp is not None or fallback_note(session, moment)
        edges = None if synapse_table or gone else self._edges_role()
        sides = [side for side, wanted in (("pre", pre or within), ("post", post)) if wanted]
        frame, attrs = count_connections(
            session,
            sides=sides,
            edges=edges,
            table=None if edges else session.require_synapse_table(synapse_table),
            roots=ids.tolist(),
            batch=_batch(len(set(ids.tolist())), session.max_workers, len(sides)),
            moment=moment,
            progress=progress,
        )
        if within:
            frame = frame[frame["post_pt_root_id"].isin(ids)]
        if omit_self_synapse:
            frame = frame[frame["pre_pt_root_id"] != frame["post_pt_root_id"]]
        frame = frame.reset_index(drop=True)
        frame.attrs.update(attrs)
        return present_frame(frame, shape)

    def _edges_role(self) -> Any:
        try:
            return self._session.spec.table_for("edges", self._session.moment.version)
        except (NotConfiguredError, LookupError):
            return None


def _listed(ids: IdArray) -> str:
    return ", ".join(map(str, ids[:_NAMED].tolist())) + (" ..." if len(ids) > _NAMED else "")


def _batch(number: int, workers: int, sides: int) -> int:
    """Return how many neurons to ask about in one request: few enough that responses are rarely truncated."""
    return min(_MOST_ROOTS, max(_FEWEST_ROOTS, math.ceil(number * sides / workers)))


def _new_ids(roots: IdArray, *, both: bool, omit_self: bool) -> Callable[[int, Any], IdArray]:
    """Return a function that picks the synapses of a reply to look up: each once, whichever replies have it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    asked = pa.array(roots)

    def pick(number: int, rows: Any) -> IdArray:
        ids, pre = rows.column("id"), rows.column("pre_pt_root_id")
        if omit_self:
            keep = _between_two(rows)
            ids, pre = ids.filter(keep), pre.filter(keep)
        if both and number == 1:
            # between two of the neurons: it comes among the outputs, too
            ids = ids.filter(pc.invert(pc.is_in(pre, value_set=asked)))
        wanted: IdArray = ids.to_numpy()
        return wanted

    return pick


def _between_two(rows: Any) -> Any:
    """Return which synapses are not of a neuron onto itself; one whose segments are unknown is not."""
    import pyarrow.compute as pc

    return pc.fill_null(
        pc.not_equal(rows.column("pre_pt_root_id"), rows.column("post_pt_root_id")), fill_value=True
    )


def _together(replies: list[Reply], *, omit_self: bool) -> pd.DataFrame:
    """Return the rows of all replies as one frame: each synapse once, ordered by id."""
    reply = concat_replies(replies)
    keep = _once_each(reply.table, omit_self=omit_self)
    if keep is not None:
        reply.take(keep)
    del keep
    return reply.frame()


def _once_each(rows: Any, *, omit_self: bool) -> Any:
    """Return the first place of each synapse, in the order of ids; None where the rows are that already."""
    import numpy as np
    import pyarrow as pa

    ids = rows.column("id").to_numpy()
    keep = np.unique(ids, return_index=True)[1]
    if omit_self:
        keep = keep[_between_two(rows).to_numpy()[keep]]
    as_it_is = len(keep) == len(ids) and bool((keep[1:] > keep[:-1]).all())
    return None if as_it_is else pa.array(keep)
