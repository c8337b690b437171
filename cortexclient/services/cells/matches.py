"""Pairs of an id asked and an id found, collected from several tables, and the answers that they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cortexclient.errors import ServiceError
    from cortexclient.session import Moment
    from cortexclient.types import IdArray

__all__ = ["Matches", "intervals_to_points", "versions_for"]


class Matches:
    """Collect pairs of an id asked and an id found from tables of different rank.

    Parameters
    ----------
    ids : numpy.ndarray
        Shape (n,), int64: the ids asked, in order, duplicates kept.
    unknown : numpy.ndarray of bool, optional
        Which of them are not of the kind that was asked for.

    Attributes
    ----------
    moment : Moment or None
        When all of them were looked up; None where each id has a time of its own.
    failed : numpy.ndarray of bool
        Which ids could not be looked up, because a service failed for them.
    failure : ServiceError or None
        Why they could not.
    """

    def __init__(self, ids: IdArray, unknown: NDArray[np.bool_] | None = None) -> None:
        self.ids = ids
        self.unknown = np.zeros(len(ids), dtype=bool) if unknown is None else unknown
        self.moment: Moment | None = None
        self.failed = np.zeros(len(ids), dtype=bool)
        self.failure: ServiceError | None = None
        self._asked: list[IdArray] = []
        self._found: list[IdArray] = []
        self._rank: list[IdArray] = []
        self._tables: list[str] = []

    def add(self, table: str, asked: IdArray, found: IdArray, *, rank: int) -> None:
        """Add pairs from one table; zeros, which stand for no segment, are left out."""
        good = (asked > 0) & (found > 0)
        if table not in self._tables:
            self._tables.append(table)
        self._asked.append(asked[good])
        self._found.append(found[good])
        self._rank.append(np.full(int(good.sum()), 1000 * rank + self._tables.index(table), dtype=np.int64))

    def keep_best(self) -> None:
        """Keep for each id asked the answers of its best table: an alternative point replaces the main one."""
        if not self._asked:
            return
        asked, found = np.concatenate(self._asked), np.concatenate(self._found)
        rank = np.concatenate(self._rank)
        level = rank // 1000
        names, where = np.unique(asked, return_inverse=True)
        best = np.full(len(names), np.iinfo(np.int64).max)
        np.minimum.at(best, where, level)
        good = level == best[where]
        self._asked, self._found, self._rank = [asked[good]], [found[good]], [rank[good]]

    def answers(
        self, *, first_of_many: bool = False
    ) -> tuple[IdArray, NDArray[np.object_], NDArray[np.object_], list[list[int]]]:
        """Return for each id its answer (-1 for none), its status, the table it was found in, and all candidates.

        The same pair from several tables counts once. With ``first_of_many`` the smallest of several answers is given
        instead of -1.
        """
        empty = np.zeros(0, dtype=np.int64)
        asked, found = np.concatenate([empty, *self._asked]), np.concatenate([empty, *self._found])
        rank = np.concatenate([empty, *self._rank])
        # the table of highest rank first for each pair, then one row per pair
        order = np.lexsort((rank, found, asked))
        asked, found, rank = asked[order], found[order], rank[order]
        fresh = np.ones(len(asked), dtype=bool)
        fresh[1:] = (asked[1:] != asked[:-1]) | (found[1:] != found[:-1])
        asked, found, rank = asked[fresh], found[fresh], rank[fresh]

        start = np.searchsorted(asked, self.ids, side="left")
        count = np.searchsorted(asked, self.ids, side="right") - start
        padded = np.append(found, -1)
        single = (count == 1) | (first_of_many & (count > 1))
        values = np.where(single, padded[np.minimum(start, len(found))], -1)
        states = np.full(len(self.ids), "not found", dtype=object)
        states[self.unknown] = "unknown root"
        states[self.failed] = "failed"
        states[count == 1] = "found"
        states[count > 1] = "ambiguous"
        tables = np.full(len(self.ids), None, dtype=object)
        names = np.array([*self._tables, None], dtype=object)
        hit = count > 0
        tables[hit] = names[np.append(rank, 0)[start[hit]] % 1000]
        candidates = [found[a : a + n].tolist() for a, n in zip(start.tolist(), count.tolist(), strict=True)]
        return values.astype(np.int64), states, tables, candidates


def intervals_to_points(first: IdArray, last: IdArray) -> tuple[IdArray, IdArray]:
    """Choose as few times as possible such that every interval contains one.

    Parameters
    ----------
    first, last : numpy.ndarray
        Shape (n,): closed intervals; one whose end lies before its beginning counts as the point ``first``.

    Returns
    -------
    times : numpy.ndarray
        Ascending.
    which : numpy.ndarray
        Shape (n,): index of the time of each interval.

    Notes
    -----
    The greedy choice by ends is the smallest possible one.
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

    Parameters
    ----------
    first, last : numpy.ndarray
        Shape (n,): closed intervals.
    versions : dict
        Version -> its time.

    Returns
    -------
    dict
        Version -> indices of the intervals it answers for; intervals that contain no version's time are left out.
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
