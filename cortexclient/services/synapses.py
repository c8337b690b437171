"""Synapses of neurons, with the rows of reference tables about them: one row per synapse, unique names."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cortexclient.errors import (
    InvalidQueryError,
    NotConfiguredError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from cortexclient.ids import as_ids
from cortexclient.services import BaseService, nullable
from cortexclient.session import (
    NM,
    Follow,
    Moment,
    Query,
    Reply,
    as_choice,
    as_number,
    concat_replies,
    fetch_replies,
    is_latest,
    lifetimes,
    microseconds,
    moment_of_tables,
    present_frame,
    triples,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from cortexclient.session import Reply, Session
    from cortexclient.types import IdArray, Ids, Timestamp

__all__ = [
    "Reference",
    "SynapsesService",
    "attach",
    "find_references",
    "moment_of_synapses",
    "neurons_by_side",
    "queries_by_side",
    "reference_queries",
    "size_column",
    "synapse_thresholds",
]

log = logging.getLogger(__name__)

_MOST_ROOTS = 25
_FEWEST_ROOTS = 10
_NAMED = 100


class SynapsesService(BaseService):
    """Methods about synapses."""

    def query_synapses(
        self,
        root_ids: Ids | None = None,
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
        pre_ids: Ids | None = None,
        post_ids: Ids | None = None,
        min_size: float | None = None,
        min_score: float | None = None,
        min_synapses: int = 1,
        duplicates: Literal["first", "all", "raise"] = "first",
        return_as: Literal["pandas", "arrow", "polars"] = "pandas",
    ) -> Any:
        """Return the synapses of one or more neurons, or from some neurons to others: all of them, once each.

        A floating client reads them from its version of the tables, as `get_skeleton` does: the two have the same
        synapses. Roots that were made after that version have none in it (``live=True`` returns them).

        Parameters
        ----------
        root_ids : int or sequence of int, optional
            Neurons. Duplicates are requested once; 0 and -1 (no segment, no root found) are no neurons.
        pre, post : bool
            Synapses that the neurons make, and that they receive. One of them at least.
        reference_tables : str or sequence of str, optional
            Tables about synapses. Rows are matched by ``target_id`` where a table has one; those of
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
            Query at the client's time by a live query; now, if the client floats.
        timestamp : datetime.datetime or str, optional
            Query at this time (implies ``live``); without a zone it is UTC.
        suffixes : dict, optional
            Reference table -> suffix of those of its columns whose names another table has, too. Default: ``_`` and
            the table's name. Columns of the synapse table keep their names.
        batch_size : int, optional
            Neurons in one request. Default: chosen by their number; truncated responses are split further.
        ref_batch_size : int
            Synapses in one request to a reference table.
        progress : bool
            Show one progress bar.
        pre_ids, post_ids : int or sequence of int, optional
            Instead of ``root_ids``: synapses that these make, that these receive, or, with both, from the ones to the
            others.
        min_size, min_score : float, optional
            Only synapses of at least this size or score, by the columns ``synapses.size_column`` and
            ``synapses.score_column`` of the spec.
        min_synapses : int
            Only synapses of connections that have at least so many, counted after the other thresholds. Above 1,
            those whose other side lies on no segment are left out: they are of no connection.
        duplicates : {"first", "all", "raise"}
            What to do where a table has several rows for a synapse: take the one of the smallest id (noted in
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
            empty frame with the same columns and types. ``df.attrs["stale_root_ids"]`` lists neurons that have no
            synapses because they were not valid then; it is None where the chunkedgraph failed.

        Raises
        ------
        ValueError
            If no side is wanted, or neurons are given in both ways; if a reference table refers to another one than
            the synapse table, or to none (a table of nuclei, say: its ids are not those of synapses).
        NotConfiguredError
            If the dataset has no synapse table, or its spec no score column for ``min_score``.
        StaleRootError
            In a live query, if a root id was not valid at its time.
        IncompleteResultError
            If the server truncates a response and it cannot be completed.
        ServiceError
            If a service fails.

        Examples
        --------
        >>> synapses = client.query_synapses(root_id, pre=True, post=True)
        >>> synapses["pre_pt_root_id"].eq(root_id).any()
        np.True_
        """
        by_side = neurons_by_side(root_ids, pre=pre, post=post, pre_ids=pre_ids, post_ids=post_ids)
        as_choice(duplicates, "duplicates", ("first", "all", "raise"))
        least = as_number(min_synapses, "min_synapses", least=1) or 1
        session = self._session
        table = session.require_synapse_table(synapse_table)
        shape = Query(table, resolution=resolution, split_positions=split_positions, return_as=return_as)
        ids = np.unique(np.concatenate([ids for part in by_side for ids in part.values()]))
        moment = moment_of_synapses(session, live=live, timestamp=timestamp)
        thresholds = synapse_thresholds(session, min_size=min_size, min_score=min_score)
        references = find_references(session, table, reference_tables, suffixes, moment)
        queries = queries_by_side(
            session,
            table,
            by_side,
            thresholds,
            kind="table",
            needs=("pre_pt_root_id", "post_pt_root_id"),
            resolution=resolution,
            moment=moment,
            batch=batch_size,
            progress=progress,
        )
        following = reference_queries(
            references,
            moment=moment,
            resolution=resolution,
            batch_size=ref_batch_size,
            progress=progress,
            pick=_new_ids(ids, both=len(by_side) > 1, omit_self=omit_self_synapse),
        )
        # sorted once, after those that come twice are left out
        found = fetch_replies(session, queries, following=following, description="synapses", in_order=False)
        replies, about = found[: len(queries)], found[len(queries) :]
        sides = [side for part in by_side for side in part]
        attrs = {**replies[0].attrs, "filters": {"root_ids": len(ids), "sides": sides, **thresholds}}
        attrs["requests"] = sum(reply.attrs["requests"] for reply in found)
        frame = _combined(replies, omit_self=omit_self_synapse)
        attrs["stale_root_ids"] = self._stale(ids, frame, moment)
        if least > 1:
            frame = _of_connections(frame, least)
            attrs["filters"]["min_synapses"] = least
        if references:
            frame, notes = attach(frame, references, about, duplicates=duplicates)
            attrs |= notes
        frame.attrs.update(attrs)
        return present_frame(frame, shape)

    def _stale(self, ids: IdArray, frame: pd.DataFrame, moment: Moment) -> list[int] | None:
        """Find the neurons that have no row because they did not exist then: a server does not report them."""
        seen = np.union1d(frame["pre_pt_root_id"].unique(), frame["post_pt_root_id"].unique())
        silent = np.setdiff1d(ids, seen[seen > 0])
        if not len(silent):
            return []
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
            return None
        if len(stale):
            self._warn_of_stale(stale, moment, at)
        roots: list[int] = stale.tolist()
        return roots

    def _warn_of_stale(self, stale: IdArray, moment: Moment, at: datetime) -> None:
        none, stale = stale[stale <= 0], stale[stale > 0]
        if len(none):
            log.warning(
                "root_ids holds what is no root: %s (0 is where no segment lies, -1 a lookup without a result). Leave "
                "it out, as in root_ids[root_ids > 0]",
                _listed(none),
            )
        if not len(stale):
            return
        try:
            is_newer = lifetimes(self._session, stale).created > microseconds(at)
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


def _of_connections(frame: pd.DataFrame, least: int) -> pd.DataFrame:
    """Return the synapses of connections between two neurons that have at least so many."""
    pair = ["pre_pt_root_id", "post_pt_root_id"]
    number = frame.groupby(pair)["id"].transform("size")
    return frame[(number >= least) & (frame[pair] > 0).all(axis=1)].reset_index(drop=True)


# -- what is queried -------------------------------------------------------------------------------------------


def neurons_by_side(
    root_ids: Ids | None, *, pre: bool, post: bool, pre_ids: Ids | None, post_ids: Ids | None
) -> list[dict[str, IdArray]]:
    """Return what each query filters by: side -> neurons; synapses pass that are in one of the queries.

    Raises ValueError if no side is wanted, or neurons are given in both ways.
    """
    given = {
        side: as_ids(ids, f"{side}_ids")
        for side, ids in (("pre", pre_ids), ("post", post_ids))
        if ids is not None
    }
    if given:
        if root_ids is not None or pre or post:
            raise ValueError(
                "give root_ids with pre= and post=, or pre_ids= and post_ids= (from these to those), not both"
            )
        return [given]
    if root_ids is None:
        raise ValueError(
            "give root_ids, or pre_ids= (synapses that these make) and post_ids= (that these receive)"
        )
    if not pre and not post:
        raise ValueError(
            "ask for pre=True (synapses that the neurons make), post=True (that they receive), or both"
        )
    ids = as_ids(root_ids, "root_ids")
    return [{side: ids} for side, wanted in (("pre", pre), ("post", post)) if wanted]


def moment_of_synapses(session: Session, *, live: bool, timestamp: Timestamp | None) -> Moment:
    """Return the moment of a query of synapses: a given time, now, or the moment of the session's tables."""
    if timestamp is not None:
        return Moment.of(timestamp=timestamp)
    if live and session.moment.floating:
        return Moment(timestamp=datetime.now(UTC))
    return moment_of_tables(session)


def size_column(session: Session) -> str:
    """Return the column of sizes of the synapse table."""
    synapses = session.spec.synapses
    return (synapses.size_column if synapses is not None else None) or "size"


def synapse_thresholds(
    session: Session, *, min_size: float | None, min_score: float | None
) -> dict[str, float]:
    """Return column -> least value; raises NotConfiguredError for a score of which the spec names no column."""
    synapses = session.spec.synapses
    found: dict[str, float] = {}
    for name, least in (("min_size", min_size), ("min_score", min_score)):
        if least is not None and not math.isfinite(least):
            raise ValueError(f"{name} must be a finite number, not {least}")
    if min_size is not None:
        found[size_column(session)] = float(min_size)
    if min_score is not None:
        if synapses is None or synapses.score_column is None:
            raise NotConfiguredError(
                f"the spec of {session.spec.name!r} names no score of synapses for min_score: add "
                "`synapses: {score_column: NAME}` to its YAML file"
            )
        found[synapses.score_column] = float(min_score)
    return found


def queries_by_side(
    session: Session,
    table: str,
    by_side: Sequence[Mapping[str, IdArray]],
    thresholds: Mapping[str, float],
    *,
    batch: int | None = None,
    **options: Any,
) -> list[Query]:
    """Return a query for each part of `neurons_by_side`: its synapses, of least size or score.

    ``batch`` is the number of neurons in one request: by default few enough that responses are rarely truncated.
    """
    number = len(np.unique(np.concatenate([ids for part in by_side for ids in part.values()])))
    usual = min(_MOST_ROOTS, max(_FEWEST_ROOTS, math.ceil(number * len(by_side) / session.max_workers)))
    queries = []
    for part in by_side:
        sides = {f"{side}_pt_root_id": ids[ids > 0].tolist() for side, ids in part.items()}
        filters: dict[str, Any] = {"in": {table: sides}}
        if thresholds:
            filters["greater_equal"] = {table: dict(thresholds)}
        queries.append(
            Query(
                table,
                filters=filters,
                merge_reference=False,
                split_positions=True,
                batch=usual if batch is None else batch,
                **options,
            )
        )
    return queries


def _listed(ids: IdArray) -> str:
    return ", ".join(map(str, ids[:_NAMED].tolist())) + (" ..." if len(ids) > _NAMED else "")


def _new_ids(roots: IdArray, *, both: bool, omit_self: bool) -> Callable[[int, Any], IdArray]:
    """Return a function that picks the synapses of a reply to look up: each once, whichever replies have it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    neurons = pa.array(roots)

    def pick(number: int, rows: Any) -> IdArray:
        ids, pre = rows.column("id"), rows.column("pre_pt_root_id")
        if omit_self:
            keep = _between_two(rows)
            ids, pre = ids.filter(keep), pre.filter(keep)
        if both and number == 1:
            # between two of the neurons: it comes among the outputs, too
            ids = ids.filter(pc.invert(pc.is_in(pre, value_set=neurons)))
        wanted: IdArray = ids.to_numpy()
        return wanted

    return pick


def _between_two(rows: Any) -> Any:
    """Return which synapses are not of a neuron onto itself; one whose segments are unknown is not."""
    import pyarrow.compute as pc

    return pc.fill_null(
        pc.not_equal(rows.column("pre_pt_root_id"), rows.column("post_pt_root_id")), fill_value=True
    )


def _combined(replies: list[Reply], *, omit_self: bool) -> pd.DataFrame:
    """Return the rows of all replies as one frame: each synapse once, ordered by id."""
    reply = concat_replies(replies)
    keep = _once_each(reply.table, omit_self=omit_self)
    if keep is not None:
        reply.take(keep)
    del keep
    return reply.frame()


def _once_each(rows: Any, *, omit_self: bool) -> Any:
    """Return the first place of each synapse, in the order of ids; None where the rows are that already."""
    import pyarrow as pa

    ids = rows.column("id").to_numpy()
    keep = np.unique(ids, return_index=True)[1]
    if omit_self:
        keep = keep[_between_two(rows).to_numpy()[keep]]
    as_it_is = len(keep) == len(ids) and bool((keep[1:] > keep[:-1]).all())
    return None if as_it_is else pa.array(keep)


# -- reference tables ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reference:
    """A table about synapses: its column of synapse ids, and the suffix of columns whose names other tables have."""

    name: str
    key: str
    suffix: str


def find_references(
    session: Session,
    synapse_table: str,
    names: str | Sequence[str] | None,
    suffixes: Mapping[str, str] | None,
    moment: Moment,
) -> list[Reference]:
    """Work out how tables refer to synapses at a moment.

    Raises `ValueError` if a table refers to another one than the synapse table, or a suffix is given for another table.
    """
    listed = [] if names is None else [names] if isinstance(names, str) else list(dict.fromkeys(names))
    unused = set(suffixes or ()) - set(listed)
    if unused:
        raise ValueError(f"suffixes are given for tables that are not queried: {', '.join(sorted(unused))}")
    found, then = [], session.at(version=moment.version, timestamp=moment.timestamp)
    for name in listed:
        info = then.table_info(name)
        if info.reference_table not in (None, synapse_table):
            raise ValueError(
                f"{name!r} refers to {info.reference_table!r}, not to {synapse_table!r}; merge it with a "
                "query of its own"
            )
        key = "target_id" if info.reference_table else "id"
        found.append(Reference(name, key, (suffixes or {}).get(name, f"_{name}")))
    return found


def reference_queries(
    references: Sequence[Reference],
    *,
    moment: Moment,
    resolution: Sequence[float] | None,
    batch_size: int,
    progress: bool,
    pick: Callable[[int, Any], IdArray] | None = None,
) -> list[Follow]:
    """Return the queries of reference tables that follow from the rows of synapses.

    ``pick`` takes the number of a query of synapses and some of its rows; it returns the ids of synapses to look up,
    each once. Default: all of the reply.
    """
    return [
        Follow(
            Query(
                reference.name,
                merge_reference=False,
                resolution=resolution,
                split_positions=True,
                moment=moment,
                progress=progress,
            ),
            column=reference.key,
            size=as_number(batch_size, "ref_batch_size", least=1) or 1,
            pick=pick or (lambda _, rows: rows.column("id").to_numpy()),
        )
        for reference in references
    ]


def attach(
    synapses: pd.DataFrame, references: Sequence[Reference], replies: Sequence[Reply], *, duplicates: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return synapses with the columns of reference tables, of nullable types, and notes for ``df.attrs``."""
    import pandas as pd

    frames = [_by_synapse(reply, reference) for reply, reference in zip(replies, references, strict=True)]
    # the rule depends on names only, so the order of tables does not matter
    uses = Counter(name for frame in (synapses, *frames) for name in frame.columns)
    frames = [
        frame.rename(
            columns={name: _before_axis(name, reference.suffix) for name in frame.columns if uses[name] > 1}
        )
        for frame, reference in zip(frames, references, strict=True)
    ]
    taken = Counter(name for frame in (synapses, *frames) for name in frame.columns)
    if clash := sorted(name for name, number in taken.items() if number > 1):
        raise ValueError(
            f"columns {', '.join(clash)} would come from several tables; give each reference table its own suffix with "
            "suffixes={table: suffix}"
        )
    several: dict[str, int] = {}
    for rows, reference in zip(frames, references, strict=True):
        repeated = rows.index[rows.index.duplicated()].unique()
        if len(repeated):
            several[reference.name] = len(repeated)
            found = f"{reference.name!r} has several rows for {len(repeated)} synapses"
            if duplicates == "raise":
                first = rows.index[rows.index.isin(repeated)][0]
                raise ValueError(
                    f"{found} (the first is {first}); pass duplicates='first' or duplicates='all'"
                )
            if duplicates == "first":
                log.info("%s; those of the smallest ids are taken", found)
        kept = rows[~rows.index.duplicated()] if duplicates == "first" else rows
        synapses = synapses.join(kept, on="id")
        synapses.index = pd.RangeIndex(len(synapses))  # a synapse may come several times
    names = [reference.name for reference in references]
    return synapses, {"reference_tables": names, "several_reference_rows": several}


def _by_synapse(reply: Reply, reference: Reference) -> pd.DataFrame:
    """Return the rows of a reference table with the ids of their synapses as index, ordered by their own ids.

    A synapse may be without a row, so every type has room for it: points are floats, whole numbers nullable.
    """
    frame = reply.frame()
    if reference.key not in frame.columns:
        raise InvalidQueryError(
            f"{reference.name!r} has no column {reference.key!r} that could refer to synapses; it has "
            f"{', '.join(frame.columns)}",
            service="materialize",
            url=reply.url,
        )
    frame = nullable(frame.set_index(frame.pop(reference.key).to_numpy(dtype=np.int64)))
    axes = [name for columns in triples(frame.columns.tolist()).values() for name in columns]
    return frame.astype(dict.fromkeys(axes, np.float64))


def _before_axis(name: str, suffix: str) -> str:
    """Add a suffix, before the axis of a split position, so that the three still belong together."""
    if name.endswith(("_position_x", "_position_y", "_position_z")):
        return f"{name[:-2]}{suffix}{name[-2:]}"
    return f"{name}{suffix}"
