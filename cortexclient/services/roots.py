"""Follow root ids in time: the root of a supervoxel, the lifetime of a root, its successors, and its lineage."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import (
    AuthenticationError,
    OfflineError,
    ServiceError,
    StaleRootError,
)
from cortexclient.ids import as_id, as_ids, is_one
from cortexclient.services import BaseService
from cortexclient.session import (
    Moment,
    Prefetch,
    as_number,
    as_utc,
    from_microseconds,
    graph_url,
    is_latest,
    lifetimes,
    microseconds,
    nearest,
    newest,
    provenance_of,
    roots_of,
    successors_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from cortexclient.session import Session, VersionRecord
    from cortexclient.types import IdArray, Ids, Timestamp


__all__ = [
    "LineageLookup",
    "RootLineage",
    "RootsService",
    "fetch_lineage",
    "fetch_lineages",
    "no_root",
    "version_to_read",
]


log = logging.getLogger(__name__)

FEW_ROOTS = 500
"""Up to so many roots, their lineage is prefetched before it is known whether it will be needed."""
MOST_FAILURES = 40
"""So many failed lineage requests mean that the service is down, rather than that single roots are too slow for it."""


class RootsService(BaseService):
    """Look up root ids and their history."""

    def _at(self, timestamp: Timestamp | None) -> datetime | None:
        return self._session.timestamp if timestamp is None else as_utc(timestamp)

    def _layer(self, stop_layer: int | None) -> int | None:
        """Return a layer of the graph; raise for what is none: services take it for the first or the last one."""
        layer = as_number(stop_layer, "stop_layer", least=1)
        if layer is not None and layer > 2:  # every graph has the first two
            top = self._session.segmentation_info()["graph"].get("n_layers")
            if top is not None and layer > top:
                raise ValueError(f"stop_layer must be at most {top}, the layer of the roots, not {layer}")
        return layer

    def get_roots(
        self, supervoxel_ids: Ids, timestamp: Timestamp | None = None, stop_layer: int | None = None
    ) -> IdArray:
        """Return the root id of each supervoxel.

        Parameters
        ----------
        supervoxel_ids : int or sequence of int
            Supervoxels, or any other nodes of the graph.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment.
        stop_layer : int, optional
            Return the ancestor at this layer instead of the root (2 for level-2 ids).

        Returns
        -------
        numpy.ndarray
            Shape (n,), int64, in the order given; 0 where there is none.

        Raises
        ------
        TypeError, ValueError
            If ``stop_layer`` is no layer of the graph.
        ServiceError
            If the chunkedgraph fails.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> nuclei = client.tables.nucleus_detection().query(limit=5)
        >>> roots = client.get_roots(nuclei["pt_supervoxel_id"], timestamp=client.version_timestamp())
        >>> bool((roots == nuclei["pt_root_id"]).all())
        True
        """
        return roots_of(
            self._session,
            as_ids(supervoxel_ids, "supervoxel_ids"),
            at=self._at(timestamp),
            stop_layer=self._layer(stop_layer),
        )

    def is_latest_roots(self, root_ids: Ids, timestamp: Timestamp | None = None) -> NDArray[np.bool_]:
        """Return whether each root is valid at a time.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).

        Returns
        -------
        numpy.ndarray
            Shape (n,), bool, in the order given; False for ids that are no roots.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> root = int(client.cell_id_to_root_id(301357)["root_id"].iloc[0])
        >>> client.is_latest_roots([root, 5], timestamp=client.version_timestamp()).tolist()
        [True, False]
        """
        return is_latest(self._session, as_ids(root_ids, "root_ids"), at=self._at(timestamp))

    def latest_valid_timestamp(self, root_ids: Ids) -> NDArray[np.object_]:
        """Return the last time at which each root was valid.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots of any age.

        Returns
        -------
        numpy.ndarray
            Shape (n,), aware datetimes in UTC, in the order given: for a root that is valid now the present time,
            else one millisecond before it was replaced (the graph keeps milliseconds), or the time it was made if it
            lived for less than that. On a pinned client the pinned time, for roots that were valid then.

        Raises
        ------
        StaleRootError
            If an id is no root.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> root = int(client.cell_id_to_root_id(301357)["root_id"].iloc[0])
        >>> client.latest_valid_timestamp(root)[0] >= client.version_timestamp()
        True
        """
        ids, place = np.unique(as_ids(root_ids, "root_ids"), return_inverse=True)
        life = lifetimes(self._session, ids)
        if not life.known.all():
            raise no_root(self._session, *ids[~life.known].tolist())
        last = life.last
        at = self._session.timestamp
        if at is not None:
            pinned = microseconds(at)
            last = np.where((life.created <= pinned) & (last > pinned), pinned, last)
        return np.array([from_microseconds(value) for value in last.tolist()], dtype=object)[place]

    def get_latest_roots(
        self, root_id: int, timestamp: Timestamp | None = None, timestamp_future: Timestamp | None = None
    ) -> IdArray:
        """Return all roots that are valid at a time and share history with a root.

        Parameters
        ----------
        root_id : int
            A root of any age. A time before it was made gives the roots that it came from.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).
        timestamp_future : datetime.datetime or str, optional
            caveclient's older name of the same.

        Returns
        -------
        numpy.ndarray
            Ascending, int64.

        Raises
        ------
        StaleRootError
            If the id is no root.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> root = int(client.cell_id_to_root_id(301357)["root_id"].iloc[0])
        >>> client.get_latest_roots(root, timestamp=client.version_timestamp()).tolist() == [root]
        True
        """
        root = as_id(root_id, "root_id")
        at = self._at(timestamp_future if timestamp is None else timestamp) or datetime.now(UTC)
        life = lifetimes(self._session, np.array([root], dtype=np.int64))
        if not life.known[0]:
            raise no_root(self._session, root)
        created = from_microseconds(int(life.created[0]))
        lineage = fetch_lineage(
            self._session, np.array([root], dtype=np.int64), since=min(created, at), until=max(created, at)
        )
        candidates = np.array(sorted(lineage.roots | {root}), dtype=np.int64)
        # the walk goes one step too far: keep those that the chunkedgraph reports as valid
        return candidates[is_latest(self._session, candidates, at=at)]

    def suggest_latest_roots(
        self,
        root_id: Ids,
        timestamp: Timestamp | None = None,
        stop_layer: int | None = None,
        return_all: bool = False,
        return_fraction_overlap: bool = False,
    ) -> Any:
        """Suggest the root that holds most of an older one.

        Parameters
        ----------
        root_id : int or sequence of int
            One root, or several.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).
        stop_layer : int, optional
            Layer of the pieces that are compared. Default: four below the top; smaller ones where an edit has replaced
            them all.
        return_all : bool
            Return every candidate, best first.
        return_fraction_overlap : bool
            Return the share of the pieces, too.

        Returns
        -------
        int, numpy.ndarray, tuple or list
            For one root: the suggestion, or all candidates, or a pair with the shares. For several: a list of these.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> root = int(client.cell_id_to_root_id(301357)["root_id"].iloc[0])
        >>> client.suggest_latest_roots(root, timestamp=client.version_timestamp()) == root
        True
        """
        one = is_one(root_id)
        ids = as_ids(root_id, "root_id").tolist()
        at = self._at(timestamp)
        suggestions = []
        layer = self._layer(stop_layer)
        successors = successors_of(self._session, ids, at=at, stop_layer=layer)
        for root, (found, share) in zip(ids, successors, strict=True):
            if not len(found):
                raise StaleRootError(f"{root} has no pieces in {self._session.label}; is it a root id?")
            best: Any = found if return_all else int(found[0])
            shares: Any = share if return_all else float(share[0])
            suggestions.append((best, shares) if return_fraction_overlap else best)
        return suggestions[0] if one else suggestions

    def latest_roots(
        self, root_ids: Ids, timestamp: Timestamp | None = None, *, stop_layer: int | None = None
    ) -> pd.DataFrame:
        """Suggest the successors of many roots: one request for all, further ones for the stale ones only.

        Parameters
        ----------
        root_ids : int or sequence of int
            Roots of any age.
        timestamp : datetime.datetime or str, optional
            When. Default: the client's moment (now, if it floats).
        stop_layer : int, optional
            Layer of the pieces that are compared. Default: four below the top; smaller ones where an edit has replaced
            them all.

        Returns
        -------
        pandas.DataFrame
            Index ``root_id``: the given ids, in order, duplicates kept.

            ================  =======  =========================================================
            column            dtype    content
            ================  =======  =========================================================
            latest_root_id    int64    the root that holds most of it; -1 for ids that are none
            is_latest         bool     whether the id was up to date already
            overlap           float64  share of its pieces that the suggestion holds
            ================  =======  =========================================================

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> root = int(client.cell_id_to_root_id(301357)["root_id"].iloc[0])
        >>> client.latest_roots([root]).columns.tolist()
        ['latest_root_id', 'is_latest', 'overlap']
        """
        import pandas as pd

        ids = as_ids(root_ids, "root_ids")
        at, layer = self._at(timestamp), self._layer(stop_layer)
        current = is_latest(self._session, ids, at=at)
        latest, overlap = ids.copy(), np.ones(len(ids))
        stale = np.unique(ids[~current]).tolist()
        successors = successors_of(self._session, stale, at=at, stop_layer=layer)
        for root, (found, share) in zip(stale, successors, strict=True):
            where = ids == root
            latest[where] = found[0] if len(found) else -1
            overlap[where] = share[0] if len(found) else 0.0
        frame = pd.DataFrame(
            {"latest_root_id": latest, "is_latest": current, "overlap": overlap},
            index=pd.Index(ids, name="root_id"),
        )
        frame.attrs.update(provenance_of(self._session, Moment(timestamp=at)))
        return frame


# -- lineages --------------------------------------------------------------------------------------------------


class RootLineage:
    """A part of the graph of roots.

    ``roots`` are all of this part, ``links`` pairs of an older root and a newer one that was made of it, ``ended`` maps
    a root to the number of the edit that ended it.
    """

    def __init__(self, roots: set[int], links: list[tuple[int, int]], ended: dict[int, int]) -> None:
        self.roots = roots
        self.links = links
        self._ended = ended
        self._former = _neighbours((newer, older) for older, newer in links)

    def ancestors(self, root: int) -> set[int]:
        """Return all roots that led to a root."""
        return reachable([root], self._former) - {root}

    def operations(self, root: int) -> dict[int, list[int]]:
        """Return the edits that led to a root, and for each the ancestors that it ended."""
        found: dict[int, list[int]] = {}
        for ancestor in self.ancestors(root):
            if ancestor in self._ended:
                found.setdefault(self._ended[ancestor], []).append(ancestor)
        return found


def _neighbours(pairs: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for node, neighbour in pairs:
        found.setdefault(node, []).append(neighbour)
    return found


def reachable(start: Sequence[int], neighbours: dict[int, list[int]]) -> set[int]:
    """Return all nodes of a graph that can be reached from some nodes, and these."""
    seen, waiting = set(start), list(start)
    while waiting:
        for neighbour in neighbours.get(waiting.pop(), ()):
            if neighbour not in seen:
                seen.add(neighbour)
                waiting.append(neighbour)
    return seen


def fetch_lineage(session: Session, roots: IdArray, *, since: datetime, until: datetime) -> RootLineage:
    """Fetch the lineage of roots between two times by one request.

    Raises `ServiceError` if the chunkedgraph fails, as it does for all roots if one of the ids is no root.
    """
    url = graph_url(session, "lineage_graph_multiple")
    # microseconds, as the service reads times
    params = {"timestamp_past": f"{since.timestamp():.6f}", "timestamp_future": f"{until.timestamp():.6f}"}
    body = {"root_ids": roots.tolist()}
    found: RootLineage = session.http.post_json(
        "chunkedgraph", url, body, params=params, keys=("links", "nodes"), parse=_lineage
    )
    return found


def _lineage(body: dict[str, Any]) -> RootLineage:
    links = [(as_id(link["source"]), as_id(link["target"])) for link in body["links"]]
    nodes = {as_id(node["id"]): node.get("operation_id") for node in body["nodes"]}
    ended = {node: as_id(operation) for node, operation in nodes.items() if operation}
    if any(number <= 0 for number in (*nodes, *(end for link in links for end in link), *ended.values())):
        raise ValueError("it holds numbers that are no ids")
    return RootLineage(set(nodes), links, ended)


def fetch_lineages(
    session: Session,
    batches: Iterable[IdArray],
    *,
    since: datetime,
    until: datetime,
    most_failures: int | None = None,
    progress: bool = False,
    description: str = "",
) -> tuple[list[tuple[IdArray, RootLineage]], dict[int, ServiceError]]:
    """Fetch the lineage of batches of roots, halving those that fail until the roots that make them fail are alone.

    Each batch is one request, between the times ``since`` and ``until``. After more than ``most_failures`` failed
    requests nothing is halved any more, and after one that fails for every root (no token, offline) that is raised.
    Return roots with the lineage that they are in, and the error of each root whose lineage could not be fetched.
    """

    def fetch(batch: IdArray) -> RootLineage | ServiceError:
        try:
            return fetch_lineage(session, batch, since=since, until=until)
        except (AuthenticationError, OfflineError):
            raise
        except ServiceError as error:
            return error

    found: list[tuple[IdArray, RootLineage]] = []
    failed: dict[int, ServiceError] = {}
    waiting, failures = list(batches), 0
    while waiting:
        halves: list[IdArray] = []
        results = session.map(fetch, waiting, progress=progress, description=description)
        failures += sum(isinstance(result, ServiceError) for result in results)
        down = most_failures is not None and failures > most_failures
        for batch, result in zip(waiting, results, strict=True):
            if isinstance(result, RootLineage):
                found.append((batch, result))
            elif len(batch) == 1 or down:
                failed |= dict.fromkeys(batch.tolist(), result)
            else:
                halves += np.array_split(batch, [len(batch) // 2])
        waiting, progress = halves, False
    return found, failed


def no_root(session: Session, *ids: int) -> StaleRootError:
    """Make the error for one or more ids that are no roots."""
    which = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
    are = "is not a root id" if len(ids) == 1 else "are not root ids"
    return StaleRootError(
        f"{which} {are} of {session.label}; supervoxels, level-2 ids and cell ids are not either"
    )


# -- lines of descent -----------------------------------------------------------------------------------------


class LineageLookup:
    """Ancestors and descendants of roots between the version that is read and the roots' own times.

    Whether they are needed shows only when the lifetimes of the roots are known. For few roots they are prefetched
    concurrently with those, which saves a round trip. With a cache they are not, so that every run sends the same
    requests. ``roots`` are distinct ids, of which some may be no roots; ``failure`` is the error of those whose lineage
    could not be fetched.
    """

    def __init__(self, session: Session, roots: IdArray) -> None:
        self._session = session
        self._roots = roots
        self._prefetched: Prefetch[RootLineage] | None = None
        self.failure: ServiceError | None = None

    @cached_property
    def version(self) -> VersionRecord:
        """The version in which the cells of roots are read that were valid at none.

        The newest one knows the most cells; a pinned session reads the one nearest to its moment.
        """
        return version_to_read(self._session, self._session.timestamp)

    def prefetch(self) -> None:
        """Begin to fetch, if the roots are few."""
        session, roots = self._session, self._roots
        if len(roots) > FEW_ROOTS or session.connection.cache is not None:
            return
        # roots made after that version have their relatives before them
        since, until = self.version.timestamp, datetime.now(UTC)
        self._prefetched = Prefetch(
            lambda: fetch_lineage(session, roots, since=since, until=until), workers=1
        )
        self._prefetched.start()

    def cancel(self) -> None:
        """Stop fetching what will not be needed."""
        if self._prefetched is not None:
            self._prefetched.cancel()

    def of(self, roots: IdArray, *, first: IdArray, last: IdArray) -> tuple[IdArray, IdArray]:
        """Return the ids on the lines of descent from roots to those that were valid when the version froze.

        They are ascending, the roots themselves included; ids that the version does not know have no rows there. The
        roots, shape (n,), are looked up between ``first`` and ``last``, in microseconds since 1970. Also returned are
        those whose lineage the chunkedgraph could not return.
        """
        if self._prefetched is not None:
            try:
                return _descent(roots, self._prefetched.result().links), roots[:0]
            except ServiceError as error:  # one id that is no root is enough
                log.debug("the lineage of all roots could not be fetched: %s", error)
        frozen = self.version.timestamp
        since = min(from_microseconds(int(first.min())), frozen)
        until = max(from_microseconds(int(last.max())), frozen)
        found, failures = fetch_lineages(
            self._session, [roots], since=since, until=until, most_failures=MOST_FAILURES
        )
        failed = np.array(list(failures), dtype=np.int64)
        self.failure = next(reversed(failures.values()), None)
        links = [link for _, lineage in found for link in lineage.links]
        return _descent(np.setdiff1d(roots, failed), links), failed


def _descent(roots: IdArray, links: list[tuple[int, int]]) -> IdArray:
    """Return all ancestors and descendants of roots, and the roots, ascending."""
    later, earlier = _neighbours(links), _neighbours((newer, older) for older, newer in links)
    found = reachable(roots.tolist(), later) | reachable(roots.tolist(), earlier)
    return np.array(sorted(found), dtype=np.int64)


def version_to_read(session: Session, at: datetime | None) -> VersionRecord:
    """Return the live version nearest to a time, the newest for None; raise `UnknownVersionError` if none is live."""
    versions = session.versions()
    record = newest(versions.values()) if at is None else nearest(versions, at)
    if record is None:
        raise session.no_version(f"{session.label} has no live version to read its cells from")
    return record
