"""The lineage of roots: which root was made of which, by which edit each ended, and the error for ids that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cortexclient.errors import AuthenticationError, OfflineError, ProtocolError, ServiceError, StaleRootError
from cortexclient.ids import as_id
from cortexclient.session import graph_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from cortexclient.session import Session
    from cortexclient.types import IdArray

__all__ = ["RootLineage", "fetch_lineage", "fetch_lineages", "no_root", "reachable"]


class RootLineage:
    """A part of the graph of roots.

    Parameters
    ----------
    roots : set of int
        All roots of this part.
    links : list of tuple of int
        An older and a newer root, of which the newer one was made.
    ended : dict of int to int
        Number of the edit by which a root ended.
    """

    def __init__(self, roots: set[int], links: list[tuple[int, int]], ended: dict[int, int]) -> None:
        self.roots = roots
        self.links = links
        self._ended = ended
        self._former: dict[int, list[int]] = {}
        for older, newer in links:
            self._former.setdefault(newer, []).append(older)

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

    Raises
    ------
    ServiceError
        If the chunkedgraph fails, as it does for all roots if one of the ids is no root.
    ProtocolError
        If the response cannot be parsed.
    """
    url = graph_url(session, "lineage_graph_multiple")
    # microseconds, as the service reads times
    params = {"timestamp_past": f"{since.timestamp():.6f}", "timestamp_future": f"{until.timestamp():.6f}"}
    body = session.http.post_json(
        "chunkedgraph", url, {"root_ids": roots.tolist()}, params=params, keys=("links", "nodes")
    )
    try:
        links = [(as_id(link["source"]), as_id(link["target"])) for link in body["links"]]
        nodes = {as_id(node["id"]): node.get("operation_id") for node in body["nodes"]}
        ended = {node: as_id(operation) for node, operation in nodes.items() if operation}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ProtocolError(
            f"the chunkedgraph gave a lineage that cannot be read ({error}); try again",
            service="chunkedgraph",
            status=200,
            url=url,
        ) from None
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

    Parameters
    ----------
    session : Session
        Where to send the requests.
    batches : iterable of numpy.ndarray
        Roots, int64; each batch is one request.
    since, until : datetime.datetime
        The times between which lineages are wanted.
    most_failures : int, optional
        With more failed requests than these, nothing is halved any more. Default: no limit.
    progress : bool
        Show a progress bar.
    description : str
        Its title.

    Returns
    -------
    found : list of tuple
        Roots, and the lineage that they are in.
    failed : dict of int to ServiceError
        Error of each root whose lineage could not be fetched.

    Raises
    ------
    AuthenticationError, OfflineError
        At once: they fail for every root.
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
