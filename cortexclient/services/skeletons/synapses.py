"""Synapses of skeletons: all of them, at the moment of each neuron, each with the level-2 id that it lies on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cortexclient.errors import NotConfiguredError, ProtocolError, StaleRootError, UnknownVersionError
from cortexclient.ids import in_batches
from cortexclient.services.roots import no_root
from cortexclient.services.synapses import attach, find_references, reference_queries
from cortexclient.session import (
    NM,
    Moment,
    Query,
    concat_replies,
    fetch_replies,
    forget_queries,
    from_microseconds,
    join_positions,
    lifetimes,
    microseconds,
    moment_of_tables,
    roots_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pandas as pd

    from cortexclient.session import Reply, Session

__all__ = ["SIDES", "RootMoment", "moments_of", "synapses_of"]

SIDES = ("pre", "post")
_ROOTS_IN_ONE = 25
_REFERENCE_BATCH = 5000
# what pcg_skel leaves out of its synapse tables
_CRUD = ["created", "superceded_id", "valid", "deleted"]


@dataclass(frozen=True)
class RootMoment:
    """The time at which a neuron is read: a version or a time for tables, and a time for the chunkedgraph."""

    moment: Moment
    at: datetime


def moments_of(
    session: Session, roots: Sequence[int], *, tables: bool = True
) -> dict[int, RootMoment | StaleRootError]:
    """Find the moment at which each neuron is looked at, in tables too or in the graph alone.

    A pinned session looks at its own moment, and the root must have been valid then. A floating one looks at the
    version that all tables are read from, if that has the root, so that `query_synapses` has the same synapses; else at
    the last time the root was valid, as pcg_skel does, or in the newest version that has it, where the spec denies live
    queries.
    """
    life = lifetimes(session, np.asarray(roots, dtype=np.int64))
    pinned = session.timestamp
    frozen = _frozen(session) if tables and pinned is None else []
    live = not session.spec.denies("live")
    result: dict[int, RootMoment | StaleRootError] = {}
    for root, known, created, last in zip(
        roots, life.known.tolist(), life.created.tolist(), life.last.tolist(), strict=True
    ):
        if not known:
            result[root] = no_root(session, root)
        elif (
            tables
            and pinned is None
            and (there := _newest_with(session, root, frozen, created, last, live=live))
        ):
            result[root] = there
        elif pinned is None:
            at = from_microseconds(last)
            result[root] = RootMoment(Moment(timestamp=at), at)
        elif created <= microseconds(pinned) <= last + 1000:
            result[root] = RootMoment(session.moment, pinned)
        else:
            when = "was made later than" if created > microseconds(pinned) else "was replaced before"
            result[root] = StaleRootError(
                f"root {root} {when} this client's moment ({pinned.isoformat()}); suggest_latest_roots({root}) gives "
                "its successor there, client.at() a client that looks at the root's own time"
            )
    return result


def _frozen(session: Session) -> list[RootMoment]:
    """Return the versions that a floating session may read: its own, and where there are no live queries all others."""
    try:
        own = moment_of_tables(session).version
    except (UnknownVersionError, NotConfiguredError):
        return []
    records = [record for record in session.versions().values() if record.valid]
    if not session.spec.denies("live"):
        records = [record for record in records if record.version == own]
    records.sort(key=lambda record: (record.version == own, record.timestamp), reverse=True)
    return [RootMoment(Moment(version=record.version), record.timestamp) for record in records]


def _newest_with(
    session: Session, root: int, frozen: Sequence[RootMoment], created: int, last: int, *, live: bool
) -> RootMoment | StaleRootError | None:
    """Return the first version that has a root, whose first and last moment are given in us since 1970."""
    for when in frozen:
        if created <= microseconds(when.at) <= last + 1000:
            return when
    if live:
        return None
    return StaleRootError(
        f"no version of {session.label} has root {root}, and its tables can be read at versions only "
        "(`capabilities.live: false` in its spec); pass synapses=False, or the root that latest_roots() gives"
    )


def synapses_of(
    session: Session,
    moments: Mapping[int, RootMoment],
    *,
    references: Mapping[str, Sequence[str]],
) -> dict[int, dict[str, pd.DataFrame]]:
    """Fetch the synapses of many neurons, both sides concurrently and many roots in each request.

    ``moments`` maps roots to their times, ``references`` the sides ``"pre"`` and ``"post"`` to reference tables whose
    columns are added. Returns root -> side -> rows, in ascending order of ids, positions in nm as arrays of three, with
    the level-2 id of the side's point; synapses of a neuron with itself are left out.
    """
    table = session.require_synapse_table(None)
    groups: dict[RootMoment, list[int]] = defaultdict(list)
    for root, when in moments.items():
        groups[when].append(root)
    batches = [
        (side, when, batch)
        for when, roots in groups.items()
        for batch in in_batches(roots, _ROOTS_IN_ONE)
        for side in SIDES
    ]
    queries = [
        Query(
            table,
            kind="table",
            filters={"in": {table: {f"{side}_pt_root_id": batch}}},
            needs=(
                "pre_pt_root_id",
                "post_pt_root_id",
                session.spec.synapse_position_column or "ctr_pt_position",
            ),
            merge_reference=False,
            resolution=NM,
            split_positions=True,
            moment=when.moment,
        )
        for side, when, batch in batches
    ]
    parts: dict[tuple[str, RootMoment], list[Reply]] = defaultdict(list)
    for (side, when, _), reply in zip(
        batches, fetch_replies(session, queries, description="synapses"), strict=True
    ):
        parts[side, when].append(reply)
    jobs = [
        partial(_one_side, session, table, side, when, groups[when], replies, references.get(side, ()))
        for (side, when), replies in parts.items()
    ]
    try:
        sides = session.run_all(jobs)
    except ProtocolError:
        forget_queries(session, queries)
        raise
    found: dict[int, dict[str, pd.DataFrame]] = {root: {} for root in moments}
    for (side, _), by_root in zip(parts, sides, strict=True):
        for root, rows in by_root.items():
            found[root][side] = rows
    return found


def _one_side(
    session: Session,
    table: str,
    side: str,
    when: RootMoment,
    roots: list[int],
    replies: list[Reply],
    tables: Sequence[str],
) -> dict[int, pd.DataFrame]:
    from cortexclient.services.skeletons.build import without_warnings

    # pandas changes the warning filters of the process while it compares or adds columns, others do so concurrently
    with without_warnings():
        frame = concat_replies(replies).frame()
        _require_columns(session, table, frame, side)
        frame = frame[frame["pre_pt_root_id"] != frame["post_pt_root_id"]]
        frame = frame.drop(columns=[name for name in _CRUD if name in frame.columns])
        frame = frame.drop_duplicates("id").sort_values("id", ignore_index=True)
    if tables:
        references = find_references(session, table, tables, None, when.moment)
        ids = frame["id"].tolist()
        queries = [  # about synapses that are known already
            replace(
                follow.query,
                filters={"in": {follow.query.name: {follow.column: ids}}},
                batch=follow.size,
            )
            for follow in reference_queries(
                references,
                moment=when.moment,
                resolution=NM,
                batch_size=_REFERENCE_BATCH,
                progress=False,
            )
        ]
        about = fetch_replies(session, queries, description="reference tables")
        with without_warnings():
            frame, _ = attach(frame, references, about, duplicates="first")
        frame = frame.drop(columns=[name for name in frame.columns if name in _reference_crud(tables)])
    supervoxels = frame[f"{side}_pt_supervoxel_id"].to_numpy(dtype="int64")
    own = frame[f"{side}_pt_root_id"]
    level2 = roots_of(session, supervoxels, at=when.at, stop_layer=2)
    with without_warnings():
        rows = join_positions(frame)
        rows[f"{side}_pt_level2_id"] = level2
        return {root: rows[own == root].reset_index(drop=True) for root in roots}


def _require_columns(session: Session, table: str, frame: pd.DataFrame, side: str) -> None:
    """Raise ProtocolError for rows without an id, a root on either side, or the supervoxel of this side."""
    needed = ["id", "pre_pt_root_id", "post_pt_root_id", f"{side}_pt_supervoxel_id"]
    lacking = [name for name in needed if name not in frame.columns or frame[name].isna().any()]
    if lacking:
        raise ProtocolError(
            f"the materialize service returned synapses of {table!r} without {', '.join(lacking)}; try again, and "
            "report it if it stays so",
            service="materialize",
            status=200,
            url=f"{session.local_server}/materialize/api/v3/datastack/{session.datastack}",
        )


def _reference_crud(tables: Sequence[str]) -> set[str]:
    """Return the names of the bookkeeping columns of reference tables, with and without suffixes."""
    plain = {*_CRUD, "id_ref"}
    return plain | {f"{name}_{table}" for name in (*_CRUD, "id") for table in tables}
