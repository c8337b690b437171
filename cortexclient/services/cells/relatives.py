"""The roots on the lines of descent of others, which tell where to look for the cells of roots of any age."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cortexclient.errors import CortexError, UnknownVersionError
from cortexclient.session import Ahead, graph_url, nearest, newest

if TYPE_CHECKING:
    from cortexclient.session import Session, VersionRecord
    from cortexclient.types import IdArray

__all__ = ["Relatives", "nothing_live"]

log = logging.getLogger(__name__)

FEW = 500
"""Up to so many roots, their later history is asked before it is known whether it will be needed."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Relatives:
    """Ancestors and descendants of roots between the version that is read and their own times.

    Whether they are needed shows only when the roots' lifetimes are known. Of few roots they are asked at the same
    time, which saves a round trip: the graph follows all lines at once, and those of current roots end where they
    begin. With a cache they are not, so that the same questions are asked in every run.

    Nothing is asked before `begin`.

    Parameters
    ----------
    session : Session
    roots : numpy.ndarray of int64
        Distinct ids, of which some may be no roots.
    """

    def __init__(self, session: Session, roots: IdArray) -> None:
        self._session = session
        self._roots = roots
        self._ahead: Ahead[_Lines] | None = None

    @cached_property
    def version(self) -> VersionRecord:
        """The version in which the cells of roots are read that were valid at none.

        The newest one knows the most cells; a pinned session reads that which is nearest to its moment.

        Raises
        ------
        UnknownVersionError
            If none is live.
        """
        at = self._session.timestamp
        versions = self._session.versions()
        record = newest(versions.values()) if at is None else nearest(versions, at)
        if record is None:
            raise nothing_live(self._session)
        return record

    def begin(self) -> None:
        """Begin to ask, if the roots are few."""
        session, roots = self._session, self._roots
        if len(roots) > FEW or session.connection.cache is not None:
            return
        # roots made after that version have their relatives before them
        since, until = self.version.timestamp, datetime.now(UTC)
        self._ahead = Ahead(lambda: _ask(session, roots, since, until), workers=1)
        self._ahead.start()

    def give_up(self) -> None:
        """Stop asking what will not be needed."""
        if self._ahead is not None:
            self._ahead.give_up()

    def of(self, roots: IdArray, *, first: IdArray, last: IdArray) -> IdArray:
        """Give the ids on the lines of descent from roots to those that were valid when the version froze.

        Parameters
        ----------
        roots, first, last : numpy.ndarray of int64
            Shape (n,): roots, and from when until when they are looked for, in microseconds since 1970.

        Returns
        -------
        numpy.ndarray of int64
            Ascending, with the roots themselves; those that the version does not know have no rows there.
        """
        if self._ahead is not None:
            try:
                return self._ahead.result().through(roots)
            except CortexError as error:  # one id that is no root is enough
                log.debug("the later history of all roots could not be given: %s", error)
        frozen = self.version.timestamp
        oldest, youngest = min(_time(int(first.min())), frozen), max(_time(int(last.max())), frozen)
        return _ask(self._session, roots, oldest, youngest).through(roots)


def nothing_live(session: Session) -> UnknownVersionError:
    """Say that there is no version to read cells from."""
    return UnknownVersionError(
        f"{session.datastack} has no live version to read its cells from", service="materialize", status=404
    )


class _Lines:
    """Which roots were made of which."""

    def __init__(self, links: list[tuple[int, int]]) -> None:
        self._later: dict[int, list[int]] = {}
        self._earlier: dict[int, list[int]] = {}
        for source, target in links:
            self._later.setdefault(source, []).append(target)
            self._earlier.setdefault(target, []).append(source)

    def through(self, roots: IdArray) -> IdArray:
        """Give all ancestors and descendants of roots, and the roots."""
        found: set[int] = set()
        for root in roots.tolist():
            found |= _reach(root, self._later) | _reach(root, self._earlier)
        return np.array(sorted(found), dtype=np.int64)


def _ask(session: Session, roots: IdArray, since: datetime, until: datetime) -> _Lines:
    body = session.http.post_json(
        "chunkedgraph",
        graph_url(session, "lineage_graph_multiple"),
        {"root_ids": roots.tolist()},
        params={
            "timestamp_past": f"{since.timestamp():.6f}",
            "timestamp_future": f"{until.timestamp():.6f}",
        },
    )
    return _Lines([(int(link["source"]), int(link["target"])) for link in body.get("links", ())])


def _reach(start: int, links: dict[int, list[int]]) -> set[int]:
    seen, waiting = {start}, [start]
    while waiting:
        for neighbour in links.get(waiting.pop(), ()):
            if neighbour not in seen:
                seen.add(neighbour)
                waiting.append(neighbour)
    return seen


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
