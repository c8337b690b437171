"""The lookups between cells and roots, in few round trips.

A root that is valid at some materialized version is looked up there. Roots that lived between versions are looked up
by supervoxels, which never change: the cells near a root are those of its relatives at a version, and the graph says
in one question per moment to which root each cell's supervoxel belonged then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import InvalidQueryError, NotConfiguredError, UnknownTableError
from cortexclient.services.cells.hits import Hits, intervals_to_points, versions_for
from cortexclient.services.cells.relatives import Relatives, nothing_live
from cortexclient.session import Moment, Request, lifetimes, nearest, require_versions, roots_of, run_many

if TYPE_CHECKING:
    import pandas as pd

    from cortexclient.session import Session
    from cortexclient.types import IdArray, Timestamp

__all__ = ["from_cells", "from_roots"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Source:
    """A table or view that connects cells with segments."""

    name: str
    kind: str
    cell: str
    rank: int

    def request(self, column: str, ids: IdArray, moment: Moment, *, progress: bool = False) -> Request:
        """Ask for the rows in which a column has one of these ids."""
        return Request(
            self.name,
            kind="view" if self.kind == "view" else "table",
            filters={"in": {self.name: {column: ids.tolist()}}},
            merge_reference=False,
            resolution=None,
            split_positions=True,
            moment=moment,
            progress=progress,
        )


def _sources(session: Session, version: int, *, for_cells: bool) -> list[Source]:
    """Tables to look in. The view, where there is one, is the dataset's own word on the roots of cells."""
    spec = session.spec.cell_ids
    if spec is None:
        return []
    found: list[Source] = []
    if spec.lookup_view and (for_cells or not spec.main_table):
        found.append(Source(spec.lookup_view, spec.kind, "id", 0))
    if spec.main_table and not (for_cells and found):
        found.append(Source(spec.main_table, "table", "id", 2))
    if for_cells and spec.lookup_view:
        return found
    # a row of an alternative table refers to the cell whose own point misses the segmentation. Asked by cell, it must
    # be known how it does; asked by root, the answer shows it
    return found + [
        Source(name, "table", _target(session, name, version) if for_cells else "target_id", 1)
        for name in spec.alternative_tables
    ]


def _target(session: Session, name: str, version: int) -> str:
    from cortexclient.session import find

    try:
        return "target_id" if find(session, name, kind="table", version=version).reference_table else "id"
    except UnknownTableError:
        return "target_id"  # the query itself says that the table is missing


@dataclass(frozen=True, slots=True)
class Rows:
    """What a table or view says of cells and segments at a version.

    Parameters
    ----------
    source : Source
        The table or view.
    version : int
        The version.
    frame : pandas.DataFrame
        The rows.
    """

    source: Source
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
        """Give the supervoxel of each row, or say that ``feature`` needs it."""
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
            raise InvalidQueryError(
                f"{self.source.name!r} has no column of root ids; check `cell_ids` in the dataset's YAML file",
                service="materialize",
            )
        return "pt_root_id" if "pt_root_id" in names else names[0]


def _ids(frame: pd.DataFrame, column: str) -> IdArray:
    """Give a column of ids as int64, nulls as 0, which stands for no segment."""
    values = frame[column]
    if values.dtype.kind != "i" or hasattr(values.dtype, "numpy_dtype"):
        values = values.fillna(0)
    array: IdArray = values.to_numpy(dtype=np.int64)
    return array


def _ask(
    session: Session, asked: list[tuple[Source, int, str, IdArray]], *, progress: bool, description: str
) -> list[Rows]:
    """Ask each source at a version for the rows in which a column has some ids: all at once."""
    requests = [
        source.request(column, ids, Moment(version=number), progress=progress)
        for source, number, column, ids in asked
    ]
    frames = run_many(session, requests, description=description) if asked else []
    return [Rows(source, number, frame) for (source, number, _, _), frame in zip(asked, frames, strict=True)]


def _when(session: Session, version: Any, timestamp: Timestamp | None) -> Moment:
    asked = Moment.of(version, timestamp)
    return session.moment if asked.floating else asked


# -- cells -> roots ------------------------------------------------------------------------------------------


def from_cells(
    session: Session, cells: IdArray, *, version: Any, timestamp: Timestamp | None, progress: bool
) -> Hits:
    """Look up the roots of cells at a moment."""
    require_versions(session.spec, "cells")
    hits = Hits(cells)
    distinct = np.unique(cells[cells > 0])
    if not len(distinct):
        return hits
    moment = hits.moment = _when(session, version, timestamp)
    exact = None if moment.timestamp is None else session.frozen_version(moment.timestamp)
    at = moment.timestamp if exact is None else None
    if moment.version is not None and session.version_fallback:
        record = session.version_record(moment.version)
        at = at if record.valid else record.timestamp
    if at is not None:
        _by_supervoxel(session, hits, distinct, at, progress=progress)
        return hits
    number = exact or moment.version or session.version
    hits.moment = Moment(version=number)
    for found in _of_cells(session, distinct, number, progress=progress):
        hits.add(found.source.name, found.cells, found.roots, rank=found.source.rank)
    hits.keep_best()
    return hits


def _of_cells(session: Session, cells: IdArray, version: int, *, progress: bool) -> list[Rows]:
    sources = _sources(session, version, for_cells=True)
    asked = [(source, version, source.cell, cells) for source in sources]
    return _ask(session, asked, progress=progress, description="cells")


def _reference_version(session: Session, at: datetime) -> int:
    """Give the live version nearest to a time, in which rows are read."""
    record = nearest(session.versions(), at)
    if record is None:
        raise nothing_live(session)
    return record.version


def _by_supervoxel(session: Session, hits: Hits, cells: IdArray, at: datetime, *, progress: bool) -> None:
    """Look up cells at any time: their supervoxels never change, the graph knows whose they were."""
    every = _of_cells(session, cells, _reference_version(session, at), progress=progress)
    supervoxels = [found.supervoxels("looking up cells at any time") for found in every]
    roots = roots_of(session, np.concatenate(supervoxels), at=at)
    for found, part in zip(every, np.split(roots, _ends(supervoxels)), strict=True):
        hits.add(found.source.name, found.cells, part, rank=found.source.rank)
    hits.keep_best()


# -- roots -> cells ------------------------------------------------------------------------------------------


def from_roots(
    session: Session, roots: IdArray, *, version: Any, timestamp: Timestamp | None, progress: bool
) -> Hits:
    """Look up the cells of roots of any age."""
    require_versions(session.spec, "cells")
    distinct = np.unique(roots[roots > 0])
    asked = Moment.of(version, timestamp)
    if not len(distinct):
        return Hits(roots, unknown=roots <= 0)
    exact = asked.version
    if asked.timestamp is not None:
        exact = session.frozen_version(asked.timestamp)
    if exact is not None and session.version_record(exact).valid:
        hits = Hits(roots, unknown=roots <= 0)
        hits.moment = Moment(version=exact)
        _add(hits, _of_roots(session, {exact: distinct}, progress=progress), {exact: distinct})
        return hits
    kin = Relatives(session, distinct)
    try:
        kin.begin()
        life = lifetimes(session, distinct, also=[session.versions])
        known = life.known
        hits = Hits(roots, unknown=~np.isin(roots, distinct[known]))
        hits.moment = None if asked.floating else asked
        first, last = life.created, life.last
        if not asked.floating:
            at = asked.timestamp or session.version_record(int(asked.version or 0)).timestamp
            moment = _microseconds(at)
            known = known & (first <= moment) & (moment <= last)
            first = last = np.full(len(distinct), moment, dtype=np.int64)
        elif session.timestamp is not None:
            # those that were valid at the client's moment are looked up then
            moment = _microseconds(session.timestamp)
            then = (first <= moment) & (moment <= last)
            first, last = np.where(then, moment, first), np.where(then, moment, last)
        _mixed_ages(session, hits, kin, distinct[known], first[known], last[known], progress=progress)
    finally:
        kin.give_up()
    return hits


def _mixed_ages(
    session: Session,
    hits: Hits,
    kin: Relatives,
    roots: IdArray,
    first: IdArray,
    last: IdArray,
    *,
    progress: bool,
) -> None:
    times = {
        record.version: _microseconds(record.timestamp)
        for record in session.versions().values()
        if record.valid
    }
    chosen = versions_for(first, last, times)
    rest = np.setdiff1d(
        np.arange(len(roots)), np.concatenate([np.zeros(0, dtype=np.int64), *chosen.values()])
    )
    at_versions = {version: roots[mine] for version, mine in chosen.items()}
    if not len(rest):
        _add(hits, _of_roots(session, at_versions, progress=progress), at_versions)
        return
    near = kin.of(roots[rest], first=first[rest], last=last[rest])
    read = kin.version.version
    asked = at_versions | {read: np.union1d(near, at_versions.get(read, near[:0]))}
    every = _of_roots(session, asked, progress=progress)
    _add(hits, every, at_versions)
    there = [found for found in every if found.version == read]
    _by_owner(session, hits, there, near, roots[rest], first[rest], last[rest])


def _of_roots(session: Session, roots: dict[int, IdArray], *, progress: bool) -> list[Rows]:
    """Ask for the rows of roots at versions: all tables and versions at once."""
    asked = [
        (source, number, "pt_root_id", ids)
        for number, ids in roots.items()
        for source in _sources(session, number, for_cells=False)
    ]
    return _ask(session, asked, progress=progress, description="roots")


def _add(hits: Hits, every: list[Rows], roots: dict[int, IdArray]) -> None:
    """Add the cells of roots that were asked for at versions; the rows may be of others, too."""
    for found in every:
        good = np.isin(found.roots, roots.get(found.version, np.zeros(0, dtype=np.int64)))
        hits.add(found.source.name, found.roots[good], found.cells[good], rank=found.source.rank)


def _by_owner(
    session: Session,
    hits: Hits,
    rows: list[Rows],
    near: IdArray,
    roots: IdArray,
    first: IdArray,
    last: IdArray,
) -> None:
    """Look up roots that were valid at no version: those to which their relatives' supervoxels belonged then."""
    rows = [replace(found, frame=found.frame[np.isin(found.roots, near)]) for found in rows]
    supervoxels = [found.supervoxels("looking up roots that lived between versions") for found in rows]
    joined = np.concatenate(supervoxels)
    # one question for each moment, about the cells that could matter: few, and all at once
    times, which = intervals_to_points(first, last)
    owners = session.map(lambda time: roots_of(session, joined, at=_time(int(time))), times.tolist())
    for number, owner in enumerate(owners):
        mine = roots[which == number]
        for found, part in zip(rows, np.split(owner, _ends(supervoxels)), strict=True):
            good = np.isin(part, mine)
            hits.add(found.source.name, part[good], found.cells[good], rank=found.source.rank)


def _ends(parts: list[IdArray]) -> IdArray:
    """Give where to split what was made of parts put together."""
    ends: IdArray = np.cumsum([len(part) for part in parts])[:-1]
    return ends


def _microseconds(at: datetime) -> int:
    return int(at.timestamp() * 1e6)


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
