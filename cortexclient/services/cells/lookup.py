"""Look up the roots of cells and the cells of roots, in few round trips.

A root that is valid at some materialized version is looked up there. Roots that lived between versions are looked up
by supervoxels, which never change: the cells that can belong to such a root are those of the roots on its line of
descent that a version knows, and the chunkedgraph gives, with one request per moment, the root to which each of their
supervoxels belonged then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cortexclient.errors import NotConfiguredError, UnknownTableError
from cortexclient.services.roots import LineageLookup, nothing_live
from cortexclient.session import (
    Moment,
    Query,
    find_table,
    from_microseconds,
    lifetimes,
    microseconds,
    nearest,
    require_versions,
    roots_of,
    run_queries,
)

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.errors import ServiceError
    from cortexclient.session import Session
    from cortexclient.types import IdArray, Timestamp

__all__ = ["Matches", "from_cells", "from_roots", "intervals_to_points", "versions_for"]


@dataclass(frozen=True, slots=True)
class CellSource:
    """A table or view that connects cells with segments."""

    name: str
    kind: Literal["table", "view"]
    cell: str  # the column of cell ids
    rank: int


def _sources(session: Session, version: int, *, for_cells: bool) -> list[CellSource]:
    """List the tables to look in; where there is a view, it alone gives the roots of cells."""
    spec = session.spec.cell_ids
    if spec is None:
        return []
    found: list[CellSource] = []
    if spec.lookup_view and (for_cells or not spec.main_table):
        found.append(CellSource(spec.lookup_view, spec.kind, "id", 0))
    if spec.main_table and not (for_cells and found):
        found.append(CellSource(spec.main_table, "table", "id", 2))
    if for_cells and spec.lookup_view:
        return found
    # a row of an alternative table refers to the cell whose own point misses the segmentation. To filter by cell, the
    # name of that column must be known; filtered by root, the response shows it
    return found + [
        CellSource(name, "table", _target(session, name, version) if for_cells else "target_id", 1)
        for name in spec.alternative_tables
    ]


def _target(session: Session, name: str, version: int) -> str:
    try:
        refers = find_table(session, name, kind="table", version=version).reference_table
    except UnknownTableError:
        return "target_id"  # the query itself raises for a missing table
    return "target_id" if refers else "id"


@dataclass(frozen=True, slots=True)
class CellRows:
    """Rows of a table or view that connect cells with segments at a version."""

    source: CellSource
    version: int
    frame: pd.DataFrame

    @property
    def cells(self) -> IdArray:
        """The cell of each row."""
        return _ids(self.frame, self.source.cell if self.source.cell in self.frame.columns else "id")

    @property
    def roots(self) -> IdArray:
        """The root of each row, 0 where there is none."""
        return _ids(self.frame, self._root_column())

    def supervoxels(self, feature: str) -> IdArray:
        """Return the supervoxel of each row; ``feature`` is what needs it, for the error."""
        name = self._root_column().replace("root_id", "supervoxel_id")
        if name not in self.frame.columns:
            raise NotConfiguredError(
                f"{feature} needs supervoxels, which the lookup view of this dataset does not give; ask at a version, "
                "or add `cell_ids.main_table` to its YAML file"
            )
        return _ids(self.frame, name)

    def _root_column(self) -> str:
        names = [name for name in self.frame.columns if name.endswith("root_id")]
        if not names:
            raise NotConfiguredError(
                f"{self.source.name!r} has no column of root ids; correct `cell_ids` in the dataset's YAML file"
            )
        return "pt_root_id" if "pt_root_id" in names else names[0]


def _ids(frame: pd.DataFrame, column: str) -> IdArray:
    """Return a column of ids as int64, nulls as 0, which stands for no segment."""
    array: IdArray = frame[column].fillna(0).to_numpy(dtype=np.int64)
    return array


def _query_sources(
    session: Session, wanted: list[tuple[CellSource, int, str, IdArray]], *, progress: bool, description: str
) -> list[CellRows]:
    """Query each source at a version for the rows in which a column has some ids, all concurrently."""
    queries = [
        Query(
            source.name,
            kind=source.kind,
            filters={"in": {source.name: {column: ids.tolist()}}},
            needs=("id",),
            merge_reference=False,
            resolution=None,
            split_positions=True,
            moment=Moment(version=version),
            progress=progress,
        )
        for source, version, column, ids in wanted
    ]
    frames = run_queries(session, queries, description=description) if queries else []
    return [
        CellRows(source, version, frame) for (source, version, *_), frame in zip(wanted, frames, strict=True)
    ]


# -- cells -> roots ------------------------------------------------------------------------------------------


def from_cells(
    session: Session, cells: IdArray, *, version: Any, timestamp: Timestamp | None, progress: bool
) -> Matches:
    """Look up the roots of cells at a moment."""
    require_versions(session.spec, "cells")
    matches = Matches(cells)
    distinct = np.unique(cells[cells > 0])
    if not len(distinct):
        return matches
    given = Moment.of(version, timestamp)
    moment = matches.moment = session.moment if given.floating else given
    exact = None if moment.timestamp is None else session.frozen_version(moment.timestamp)
    at = moment.timestamp if exact is None else None
    if moment.version is not None and session.version_fallback:
        record = session.version_record(moment.version)
        at = at if record.valid else record.timestamp
    if at is not None:
        _by_supervoxel(session, matches, distinct, at, progress=progress)
        return matches
    number = exact or moment.version or session.version
    matches.moment = Moment(version=number)
    for found in _of_cells(session, distinct, number, progress=progress):
        matches.add(found.source.name, found.cells, found.roots, rank=found.source.rank)
    matches.keep_best()
    return matches


def _of_cells(session: Session, cells: IdArray, version: int, *, progress: bool) -> list[CellRows]:
    sources = _sources(session, version, for_cells=True)
    wanted = [(source, version, source.cell, cells) for source in sources]
    return _query_sources(session, wanted, progress=progress, description="cells")


def _by_supervoxel(
    session: Session, matches: Matches, cells: IdArray, at: datetime, *, progress: bool
) -> None:
    """Look up cells at any time: their supervoxels never change, and the chunkedgraph gives their roots at a time."""
    record = nearest(session.versions(), at)
    if record is None:
        raise nothing_live(session)
    every = _of_cells(session, cells, record.version, progress=progress)
    supervoxels = [found.supervoxels("looking up cells at any time") for found in every]
    roots = roots_of(session, np.concatenate(supervoxels), at=at)
    for found, part in zip(every, np.split(roots, _ends(supervoxels)), strict=True):
        matches.add(found.source.name, found.cells, part, rank=found.source.rank)
    matches.keep_best()


# -- roots -> cells ------------------------------------------------------------------------------------------


def from_roots(
    session: Session, roots: IdArray, *, version: Any, timestamp: Timestamp | None, progress: bool
) -> Matches:
    """Look up the cells of roots of any age."""
    require_versions(session.spec, "cells")
    distinct = np.unique(roots[roots > 0])
    given = Moment.of(version, timestamp)
    matches = Matches(roots, unknown=roots <= 0)
    if not len(distinct):
        return matches
    exact = given.version if given.timestamp is None else session.frozen_version(given.timestamp)
    if exact is not None and session.version_record(exact).valid:
        matches.moment = Moment(version=exact)
        _add(matches, _of_roots(session, {exact: distinct}, progress=progress), {exact: distinct})
        return matches
    lineage = LineageLookup(session, distinct)
    try:
        lineage.prefetch()
        life = lifetimes(session, distinct, also=[session.versions])
        known = life.known
        matches.unknown = ~np.isin(roots, distinct[known])
        first, last = life.created, life.last
        if not given.floating:
            matches.moment = given
            at = given.timestamp or session.version_record(int(given.version or 0)).timestamp
            moment = microseconds(at)
            known = known & (first <= moment) & (moment <= last)
            first = last = np.full(len(distinct), moment, dtype=np.int64)
        elif session.timestamp is not None:
            # roots that were valid at the client's moment are looked up then
            moment = microseconds(session.timestamp)
            then = (first <= moment) & (moment <= last)
            first, last = np.where(then, moment, first), np.where(then, moment, last)
        _mixed_ages(session, matches, lineage, distinct[known], first[known], last[known], progress=progress)
    finally:
        lineage.cancel()
    return matches


def _mixed_ages(
    session: Session,
    matches: Matches,
    lineage: LineageLookup,
    roots: IdArray,
    first: IdArray,
    last: IdArray,
    *,
    progress: bool,
) -> None:
    times = {
        record.version: microseconds(record.timestamp)
        for record in session.versions().values()
        if record.valid
    }
    chosen = versions_for(first, last, times)
    rest = np.setdiff1d(np.arange(len(roots)), [index for mine in chosen.values() for index in mine])
    at_versions = {version: roots[mine] for version, mine in chosen.items()}
    if not len(rest):
        _add(matches, _of_roots(session, at_versions, progress=progress), at_versions)
        return
    near, failed = lineage.of(roots[rest], first=first[rest], last=last[rest])
    matches.failed, matches.failure = np.isin(matches.ids, failed), lineage.failure
    rest = rest[~np.isin(roots[rest], failed)]
    read = lineage.version.version
    wanted = at_versions | ({read: np.union1d(near, at_versions.get(read, near[:0]))} if len(rest) else {})
    every = _of_roots(session, wanted, progress=progress)
    _add(matches, every, at_versions)
    if len(rest):
        there = [found for found in every if found.version == read]
        _by_owner(session, matches, there, near, roots[rest], first[rest], last[rest])


def _of_roots(session: Session, roots: dict[int, IdArray], *, progress: bool) -> list[CellRows]:
    """Query the rows of roots at versions, all tables and versions concurrently."""
    wanted = [
        (source, version, "pt_root_id", ids)
        for version, ids in roots.items()
        for source in _sources(session, version, for_cells=False)
    ]
    return _query_sources(session, wanted, progress=progress, description="roots")


def _add(matches: Matches, every: list[CellRows], roots: dict[int, IdArray]) -> None:
    """Add the cells of the given roots at each version; the rows may belong to other roots, too."""
    for found in every:
        good = np.isin(found.roots, roots.get(found.version, []))
        matches.add(found.source.name, found.roots[good], found.cells[good], rank=found.source.rank)


def _by_owner(
    session: Session,
    matches: Matches,
    rows: list[CellRows],
    near: IdArray,
    roots: IdArray,
    first: IdArray,
    last: IdArray,
) -> None:
    """Look up roots that were valid at no version by the supervoxels of the cells on their lines of descent."""
    rows = [replace(found, frame=found.frame[np.isin(found.roots, near)]) for found in rows]
    supervoxels = [found.supervoxels("looking up roots that lived between versions") for found in rows]
    joined = np.concatenate(supervoxels)
    # one request for each moment, for the few cells that can matter, all concurrently
    times, which = intervals_to_points(first, last)
    owners = session.map(
        lambda time: roots_of(session, joined, at=from_microseconds(int(time))), times.tolist()
    )
    for number, owner in enumerate(owners):
        mine = roots[which == number]
        for found, part in zip(rows, np.split(owner, _ends(supervoxels)), strict=True):
            good = np.isin(part, mine)
            matches.add(found.source.name, part[good], found.cells[good], rank=found.source.rank)


def _ends(parts: list[IdArray]) -> IdArray:
    """Return the places at which to split an array that was concatenated from parts."""
    ends: IdArray = np.cumsum([len(part) for part in parts])[:-1]
    return ends


# -- pairs of ids, and few moments to look them up at ----------------------------------------------------------


class Matches:
    """Collect pairs of a given id and an id found in tables of different rank.

    ``ids``, int64 of shape (n,), are in the given order, duplicates kept; ``unknown``, bool of shape (n,), marks those
    that are no ids of the expected kind. ``moment`` is None where each id has a time of its own; ``failed`` marks the
    ids that could not be looked up, and ``failure`` is the reason.
    """

    def __init__(self, ids: IdArray, unknown: NDArray[np.bool_] | None = None) -> None:
        self.ids = ids
        self.unknown = np.zeros(len(ids), dtype=bool) if unknown is None else unknown
        self.moment: Moment | None = None
        self.failed = np.zeros(len(ids), dtype=bool)
        self.failure: ServiceError | None = None
        self._pairs: list[pd.DataFrame] = []

    def add(self, table: str, asked: IdArray, found: IdArray, *, rank: int) -> None:
        """Add pairs from one table; zeros, which stand for no segment, are left out."""
        import pandas as pd

        good = (asked > 0) & (found > 0)
        self._pairs.append(
            pd.DataFrame({"asked": asked[good], "found": found[good], "rank": rank, "table": table})
        )

    def _joined(self) -> pd.DataFrame:
        import pandas as pd

        if not self._pairs:
            self.add("", self.ids[:0], self.ids[:0], rank=0)
        return pd.concat(self._pairs, ignore_index=True)

    def keep_best(self) -> None:
        """Keep for each given id what its best table has: an alternative point replaces the main one."""
        pairs = self._joined()
        self._pairs = [pairs[pairs["rank"] == pairs.groupby("asked")["rank"].transform("min")]]

    def results(
        self, *, first_of_many: bool = False
    ) -> tuple[IdArray, NDArray[np.object_], NDArray[np.object_], list[list[int]]]:
        """Return for each id the one found (-1 for none), its status, the table it was found in, and all candidates.

        The same pair from several tables counts once. With ``first_of_many`` the smallest of several is returned
        instead of -1.
        """
        # of the tables that have a pair the best one, and of equals the one that was added first
        pairs = self._joined().sort_values(["asked", "found", "rank"], kind="stable")
        pairs = pairs.drop_duplicates(["asked", "found"])
        asked, found = pairs["asked"].to_numpy(), pairs["found"].to_numpy()
        start = np.searchsorted(asked, self.ids, side="left")
        count = np.searchsorted(asked, self.ids, side="right") - start
        hit, single = count > 0, (count == 1) | (first_of_many & (count > 1))
        values = np.full(len(self.ids), -1, dtype=np.int64)
        values[single] = found[start[single]]
        states = np.select(
            [count > 1, count == 1, self.failed, self.unknown],
            ["ambiguous", "found", "failed", "unknown root"],
            "not found",
        ).astype(object)
        tables = np.full(len(self.ids), None, dtype=object)
        tables[hit] = pairs["table"].to_numpy()[start[hit]]
        candidates = [found[a : a + n].tolist() for a, n in zip(start.tolist(), count.tolist(), strict=True)]
        return values, states, tables, candidates


def intervals_to_points(first: IdArray, last: IdArray) -> tuple[IdArray, IdArray]:
    """Choose as few times as possible such that every interval contains one (the greedy choice by ends).

    ``first`` and ``last``, shape (n,), are closed intervals; one that ends before it begins is the point ``first``.
    Returns the times, ascending, and the index of the time of each interval, shape (n,).
    """
    last = np.maximum(first, last)
    order = np.argsort(last, kind="stable")
    which: IdArray = np.full(len(first), -1, dtype=np.int64)
    times: list[int] = []
    for index in order.tolist():
        if not times or first[index] > times[-1]:
            times.append(int(last[index]))
        which[index] = len(times) - 1
    return np.array(times, dtype=np.int64), which


def versions_for(first: IdArray, last: IdArray, versions: dict[int, int]) -> dict[int, Any]:
    """Choose few versions such that as many intervals as possible contain the time of one.

    ``first`` and ``last``, shape (n,), are closed intervals; ``versions`` maps a version to its time. Returns version
    -> indices of its intervals; those that contain no version's time are left out.
    """
    open_ones = np.ones(len(first), dtype=bool)
    chosen: dict[int, Any] = {}
    contains = {version: (first <= time) & (time <= last) for version, time in versions.items()}
    while contains:
        # most intervals first; of equals the newer version, which is most likely in the servers' caches
        best = max(
            contains, key=lambda version: (int((contains[version] & open_ones).sum()), versions[version])
        )
        mine = contains.pop(best) & open_ones
        if not mine.any():
            break
        chosen[best] = np.flatnonzero(mine)
        open_ones &= ~mine
    return chosen
