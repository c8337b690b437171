"""Look up the roots of cells and the cells of roots, in few round trips.

A root that is valid at some materialized version is looked up there. Roots that lived between versions are looked up
by supervoxels, which never change: the cells that can belong to such a root are those of the roots on its line of
descent that a version knows, and the chunkedgraph gives, with one request per moment, the root to which each of their
supervoxels belonged then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cortexclient.errors import NotConfiguredError, UnknownTableError
from cortexclient.services.roots import LineageLookup, version_to_read
from cortexclient.session import (
    Moment,
    Query,
    find_table,
    from_microseconds,
    lifetimes,
    microseconds,
    moment_of_tables,
    require_versions,
    roots_of,
    run_queries,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.errors import ServiceError
    from cortexclient.session import Session
    from cortexclient.types import IdArray

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


def _rows(
    session: Session,
    ids: dict[int, IdArray],
    *,
    for_cells: bool,
    progress: bool,
    supervoxels_for: tuple[int, str] | None = None,
) -> dict[int, pd.DataFrame]:
    """Query the rows of cells (or of roots) at versions, all tables and versions concurrently.

    Return for each version the ``cell`` and the ``root`` of each row (int64, 0 for no segment), the ``table`` and its
    ``rank``; and the ``supervoxel`` at the one version at which a feature (a name for the error) needs it: views have
    other columns at other versions.
    """
    import pandas as pd

    wanted = [
        (source, version) for version in ids for source in _sources(session, version, for_cells=for_cells)
    ]
    queries = [
        Query(
            source.name,
            kind=source.kind,
            filters={
                "in": {source.name: {source.cell if for_cells else "pt_root_id": ids[version].tolist()}}
            },
            needs=("id",),
            merge_reference=False,
            resolution=None,
            split_positions=True,
            moment=Moment(version=version),
            progress=progress,
        )
        for source, version in wanted
    ]
    parts: dict[int, list[pd.DataFrame]] = {version: [] for version in ids}
    frames = run_queries(session, queries, description="cells" if for_cells else "roots")
    for (source, version), frame in zip(wanted, frames, strict=True):
        columns = {"cell": source.cell if source.cell in frame else "id", "root": _root_column(source, frame)}
        if supervoxels_for is not None and version == supervoxels_for[0]:
            columns["supervoxel"] = columns["root"].replace("root_id", "supervoxel_id")
            if columns["supervoxel"] not in frame:
                raise NotConfiguredError(
                    f"{supervoxels_for[1]} needs supervoxels, which the lookup view of this dataset does not give; ask "
                    "at a version, or add `cell_ids.main_table` to its YAML file"
                )
        part = frame[list(columns.values())].set_axis(list(columns), axis=1).fillna(0).astype(np.int64)
        parts[version].append(part.assign(table=source.name, rank=source.rank))
    return {version: pd.concat(found, ignore_index=True) for version, found in parts.items()}


def _root_column(source: CellSource, frame: pd.DataFrame) -> str:
    names = [name for name in frame.columns if name.endswith("root_id")]
    if not names:
        raise NotConfiguredError(
            f"{source.name!r} has no column of root ids; correct `cell_ids` in the dataset's YAML file"
        )
    return "pt_root_id" if "pt_root_id" in names else names[0]


# -- cells -> roots ------------------------------------------------------------------------------------------


def from_cells(session: Session, cells: IdArray, moment: Moment, *, progress: bool) -> Matches:
    """Look up the roots of cells at a moment; at that of the session's tables if it floats."""
    require_versions(session.spec, "cells")
    matches = Matches(cells)
    distinct = np.unique(cells[cells > 0])
    if not len(distinct):
        # no request, so that of a floating session is not known
        matches.moment = session.moment if moment.floating else moment
        return matches
    moment = matches.moment = moment_of_tables(session) if moment.floating else moment
    at = moment.timestamp
    if at is not None and (exact := session.frozen_version(at)) is not None:
        moment, at = Moment(version=exact), None
        matches.moment = moment
    elif moment.version is not None and session.version_fallback:
        record = session.version_record(moment.version)
        at = None if record.valid else record.timestamp
    number = version_to_read(session, at).version if at is not None else moment.version or session.version
    needed = None if at is None else (number, "looking up cells at any time")
    found = _rows(session, {number: distinct}, for_cells=True, progress=progress, supervoxels_for=needed)
    rows = found[number]
    if at is not None:
        # supervoxels never change, and the chunkedgraph gives their roots at any time
        rows["root"] = roots_of(session, rows["supervoxel"].to_numpy(), at=at)
    matches.add(rows, given="cell", found="root")
    matches.keep_best()
    return matches


# -- roots -> cells ------------------------------------------------------------------------------------------


def from_roots(session: Session, roots: IdArray, given: Moment, *, progress: bool) -> Matches:
    """Look up the cells of roots of any age: at a given moment, or, if it floats, each when it was valid."""
    require_versions(session.spec, "cells")
    distinct = np.unique(roots[roots > 0])
    matches = Matches(roots, unknown=roots <= 0)
    matches.moment = None if given.floating else given
    if not len(distinct):
        return matches
    exact = given.version if given.timestamp is None else session.frozen_version(given.timestamp)
    if exact is not None and session.version_record(exact).valid:
        matches.moment = Moment(version=exact)
        found = _rows(session, {exact: distinct}, for_cells=False, progress=progress)
        _add(matches, found, {exact: distinct})
        return matches
    lineage = LineageLookup(session, distinct)
    try:
        lineage.prefetch()
        # with a cache, those of a pinned session end at its own moment
        then = session if given.floating else session.at(version=given.version, timestamp=given.timestamp)
        life = lifetimes(then, distinct, also=[session.versions])
        known = life.known
        matches.unknown = ~np.isin(roots, distinct[known])
        first, last = life.created, life.last
        if not given.floating:
            at = given.timestamp or session.version_record(int(given.version or 0)).timestamp
            moment = microseconds(at)
            known = known & (first <= moment) & (moment <= last)
            first = last = np.full(len(distinct), moment, dtype=np.int64)
        elif session.timestamp is not None:
            # roots that were valid at the client's moment are looked up then
            moment = microseconds(session.timestamp)
            valid = (first <= moment) & (moment <= last)
            first, last = np.where(valid, moment, first), np.where(valid, moment, last)
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
        _add(matches, _rows(session, at_versions, for_cells=False, progress=progress), at_versions)
        return
    near, failed = lineage.of(roots[rest], first=first[rest], last=last[rest])
    matches.failed, matches.failure = np.isin(matches.ids, failed), lineage.failure
    rest = rest[~np.isin(roots[rest], failed)]
    read, wanted = lineage.version.version, dict(at_versions)
    needed: tuple[int, str] | None = None
    if len(rest):
        needed = read, "looking up roots that lived between versions"
        wanted[read] = np.union1d(near, at_versions.get(read, near[:0]))
    found = _rows(session, wanted, for_cells=False, progress=progress, supervoxels_for=needed)
    _add(matches, found, at_versions)
    if len(rest):
        rows = found[read]
        _by_owner(session, matches, rows[rows["root"].isin(near)], roots[rest], first[rest], last[rest])


def _add(matches: Matches, rows: dict[int, pd.DataFrame], roots: dict[int, IdArray]) -> None:
    """Add the cells of the given roots at each version; the rows may belong to other roots, too."""
    for version, ids in roots.items():
        here = rows[version]
        matches.add(here[here["root"].isin(ids)], given="root", found="cell")


def _by_owner(
    session: Session, matches: Matches, rows: pd.DataFrame, roots: IdArray, first: IdArray, last: IdArray
) -> None:
    """Look up roots that were valid at no version by the supervoxels of the cells on their lines of descent."""
    supervoxels = rows["supervoxel"].to_numpy()
    # one request for each moment, for the few cells that can matter, all concurrently
    times, which = intervals_to_points(first, last)
    owners = session.map(
        lambda time: roots_of(session, supervoxels, at=from_microseconds(int(time))), times.tolist()
    )
    for number, owner in enumerate(owners):
        mine = np.isin(owner, roots[which == number])
        matches.add(rows.assign(root=owner)[mine], given="root", found="cell")


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

    def add(self, rows: pd.DataFrame, *, given: str, found: str) -> None:
        """Add pairs of ids, two columns of rows with a ``rank`` and a ``table``; zeros (no segment) are left out."""
        pairs = rows[[given, found, "rank", "table"]].set_axis(["given", "found", "rank", "table"], axis=1)
        self._pairs.append(pairs[(pairs["given"] > 0) & (pairs["found"] > 0)])

    def _joined(self) -> pd.DataFrame:
        import pandas as pd

        nothing = pd.DataFrame(columns=["given", "found", "rank", "table"], dtype=np.int64)
        return pd.concat(self._pairs, ignore_index=True) if self._pairs else nothing

    def keep_best(self) -> None:
        """Keep for each given id what its best table has: an alternative point replaces the main one."""
        pairs = self._joined()
        self._pairs = [pairs[pairs["rank"] == pairs.groupby("given")["rank"].transform("min")]]

    def results(
        self, *, first_of_many: bool = False
    ) -> tuple[IdArray, NDArray[np.object_], NDArray[np.object_], list[list[int]]]:
        """Return for each id the one found (-1 for none), its status, the table it was found in, and all candidates.

        The same pair from several tables counts once. With ``first_of_many`` the smallest of several is returned
        instead of -1.
        """
        # of the tables that have a pair the best one, and of equals the one that was added first
        pairs = self._joined().sort_values(["given", "found", "rank"], kind="stable")
        pairs = pairs.drop_duplicates(["given", "found"])
        given, found = pairs["given"].to_numpy(), pairs["found"].to_numpy()
        start = np.searchsorted(given, self.ids, side="left")
        count = np.searchsorted(given, self.ids, side="right") - start
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
