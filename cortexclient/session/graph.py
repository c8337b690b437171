"""Requests to the chunkedgraph that several services need: which roots, since when, until when, replaced by what."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from cortexclient.errors import (
    AuthenticationError,
    MissingDataError,
    ProtocolError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from cortexclient.ids import in_batches
from cortexclient.session.http import unreadable
from cortexclient.session.moment import microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from requests import Response

    from cortexclient.session.session import Session
    from cortexclient.types import IdArray

__all__ = [
    "Lifetimes",
    "graph_url",
    "ids_in",
    "is_below_roots",
    "is_latest",
    "leaves",
    "lifetimes",
    "roots_of",
    "seconds",
    "segmentation_info_in",
    "successors_of",
]

log = logging.getLogger(__name__)

_FINER = (2, 1)
"""Layers that are looked at where no larger piece is left: level-2 ids, then supervoxels."""
_YEAR_10_000 = 2.6e11
"""Seconds; no time of a root is as late."""
BATCH = 50_000
"""Most ids in one request: a body of a megabyte, well below what proxies refuse."""
TIMES_BATCH = 10_000
"""Most roots in one request for their times."""


def graph_url(session: Session, path: str) -> str:
    """Return the address of a chunkedgraph method."""
    table = session.connection.segmentation_table
    return f"{session.local_server}/segmentation/api/v1/table/{table}/{path}"


def seconds(at: datetime | None) -> dict[str, str]:
    """Return a time as the services read it: seconds since 1970 with microseconds; nothing for None."""
    return {} if at is None else {"timestamp": f"{at.timestamp():.6f}"}


def _distinct(session: Session, ids: IdArray, fetch: Callable[[IdArray], Any], nothing: Any) -> NDArray[Any]:
    """Request distinct ids only, and of those the ones that can be ids.

    0 (a place without a segment) and -1 (a lookup that found nothing) get ``nothing``: the service, whose ids are
    unsigned, would fail for all others with them.
    """
    import numpy as np

    distinct, where = np.unique(ids, return_inverse=True)
    possible = distinct > 0
    found = np.full(len(distinct), nothing)
    for batch, part in zip(
        in_batches(np.flatnonzero(possible), BATCH),
        session.map(fetch, in_batches(distinct[possible], BATCH)),
        strict=True,
    ):
        found[batch] = part
    return found[where]


def roots_of(
    session: Session, ids: IdArray, *, at: datetime | None = None, stop_layer: int | None = None
) -> IdArray:
    """Return the root (or the ancestor at a layer) of each supervoxel or node; 0 where there is none."""
    import numpy as np

    params: dict[str, Any] = seconds(at or datetime.now(UTC))
    if stop_layer is not None:
        params["stop_layer"] = stop_layer

    def fetch(batch: IdArray) -> IdArray:
        response = session.http.send(
            "chunkedgraph",
            "POST",
            graph_url(session, "roots_binary"),
            params=params,
            body=batch.astype("<u8").tobytes(),
        )
        if len(response.content) != 8 * len(batch):
            raise unreadable(
                response, f"sent {len(response.content)} bytes for {len(batch)} ids of 8 bytes; try again"
            )
        found = np.frombuffer(response.content, dtype="<u8").astype(np.int64)
        if (found < 0).any():
            raise unreadable(response, "sent ids that are none (their top bit is set); try again")
        return _above(session, batch, found, stop_layer)

    return _distinct(session, ids, fetch, np.int64(0))


def _above(session: Session, ids: IdArray, found: IdArray, layer: int | None) -> IdArray:
    """Return ancestors, 0 for those below the layer that was requested.

    Before the graph began nothing has a parent, and the service returns the ids that it was given.
    """
    import numpy as np

    if not (found == ids).any() and not np.ptp(found[found > 0] >> 56 if (found > 0).any() else [0]):
        return found  # all of one layer, and another one
    graph = session.segmentation_info()["graph"]
    layers = found >> (64 - int(graph.get("n_bits_for_layer_id", 8)))
    return np.where(layers < int(layer or graph.get("n_layers", 0)), 0, found)


def is_latest(session: Session, ids: IdArray, *, at: datetime | None = None) -> NDArray[np.bool_]:
    """Return for each root whether it is the current one at a time (default: now); False for ids that are no roots."""
    import numpy as np

    def fetch(batch: IdArray) -> NDArray[np.bool_]:
        def parse(body: dict[str, Any]) -> NDArray[np.bool_]:
            flags = body["is_latest"]
            if not isinstance(flags, list) or len(flags) != len(batch) or not _all(flags, bool):
                raise ValueError(f"it does not say of each of {len(batch)} roots if it is the latest")
            return np.array(flags, dtype=bool)

        url = graph_url(session, "is_latest_roots")
        ids = {"node_ids": batch.tolist()}
        found: NDArray[np.bool_] = session.http.post_json(
            "chunkedgraph", url, ids, params=seconds(at), parse=parse
        )
        return found

    return _distinct(session, ids, fetch, np.bool_(False))


@dataclass(frozen=True, slots=True, eq=False)
class Lifetimes:
    """From when until when roots were valid, in microseconds since 1970; both -1 for an id that is no root."""

    created: NDArray[np.int64]  # when each root came into being
    # the last time it was valid; of a current one that of the request, or the session's later one
    last: NDArray[np.int64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which ids are roots at all."""
        return self.created >= 0


def lifetimes(session: Session, ids: IdArray, *, also: Sequence[Callable[[], object]] = ()) -> Lifetimes:
    """Look up from when until when each root was valid.

    All requests are sent concurrently, together with those in ``also``, which the caller will need next. With a cache,
    a pinned session requests until when roots were valid up to its own moment: unlike the present, that is final.
    """
    import numpy as np

    now = datetime.now(UTC)
    fixed = session.connection.cache is not None and session.pinned
    created: NDArray[np.int64] = np.full(len(ids), -1, dtype=np.int64)
    ended: NDArray[np.int64] = np.full(len(ids), -1, dtype=np.int64)
    until: NDArray[np.int64] = np.full(len(ids), microseconds(now), dtype=np.int64)

    def fetch(
        target: NDArray[np.int64], which: NDArray[np.intp], *, latest: bool, at: datetime = now
    ) -> None:
        target[which] = _timestamps(session, ids[which], latest=latest, at=at)

    jobs: list[Callable[[], object]] = [lambda: require_latest(session), *also]
    everything = np.flatnonzero(ids > 0)
    for part in in_batches(everything, TIMES_BATCH):
        jobs.append(partial(fetch, created, part, latest=False))
        if not fixed:
            jobs.append(partial(fetch, ended, part, latest=True))
    session.info()  # every job needs it
    session.run_all(jobs)
    if fixed:
        moment = session.timestamp or now
        # the graph fails for a time before a root was made
        before = (created >= 0) & (created <= microseconds(moment))
        until[before] = microseconds(moment)
        later = [
            partial(fetch, ended, part, latest=True, at=moment)
            for part in in_batches(np.flatnonzero(before), TIMES_BATCH)
        ]
        later += [
            partial(fetch, ended, part, latest=True)
            for part in in_batches(np.flatnonzero((created >= 0) & ~before), TIMES_BATCH)
        ]
        session.run_all(later)
    # a root has both times, unless it is younger than our clock says: a service that gives one has failed for the other
    if half := ids[((created >= 0) != (ended >= 0)) & (created <= until)].tolist():
        message = f"the chunkedgraph gave only one of the two times of root {half[0]}; try again"
        raise session.error(ServiceError, "chunkedgraph", message)
    # the graph keeps milliseconds: one less than the end is the last time that certainly counts as before it. A root
    # that lived for less than that was valid at the moment it was made
    current = ended >= until - 1
    if session.moment.timestamp is not None:  # it may lie in the future: naive local times are read as UTC
        until = np.maximum(until, microseconds(session.moment.timestamp))
    last = np.where(current, until, np.maximum(ended - 1000, created))
    last[created < 0] = -1
    return Lifetimes(created, last)


def _timestamps(session: Session, ids: IdArray, *, latest: bool, at: datetime) -> NDArray[np.int64]:
    """Request times of roots; ids that the graph does not know are found by halving, and get -1."""
    import numpy as np

    if not len(ids):
        return np.zeros(0, dtype=np.int64)
    params = {"latest": str(latest), **seconds(at)}
    url = graph_url(session, "root_timestamps")
    times: NDArray[np.float64] = np.zeros(0)
    try:
        times = session.http.post_json(
            "chunkedgraph", url, {"node_ids": ids.tolist()}, params=params, parse=_times
        )
    except (AuthenticationError, ProtocolError, ServiceUnavailableError, ServiceTimeoutError):
        raise
    except ServiceError as error:
        if len(ids) == 1 and not is_below_roots(session, ids[0]) and is_latest(session, ids)[0]:
            raise  # it is a root, so the failure is the service's own
        log.debug("the times of %d roots could not be given: %s", len(ids), error)
    if len(times) == len(ids):
        return np.round(times * 1e6).astype(np.int64)
    # ids of cells, say, in place of roots: a request for each would be thousands
    possible = np.flatnonzero(~_below_roots(session, ids))
    if len(possible) < len(ids):
        found = np.full(len(ids), -1, dtype=np.int64)
        found[possible] = _timestamps(session, ids[possible], latest=latest, at=at)
        return found
    # one unknown id makes the service fail for all of them, or leave some out without saying which
    if len(ids) == 1:
        return np.array([-1], dtype=np.int64)
    middle = len(ids) // 2
    halves = (ids[:middle], ids[middle:])
    return np.concatenate([_timestamps(session, part, latest=latest, at=at) for part in halves])


def _times(body: dict[str, Any]) -> NDArray[np.float64]:
    import numpy as np

    found = body["timestamp"]
    known = isinstance(found, list) and _all(found, int, float)
    if not known or not all(0 <= time < _YEAR_10_000 for time in found):
        raise ValueError("it holds something else than times of roots")
    return np.array(found, dtype=np.float64)


def require_latest(session: Session) -> None:
    """Raise `MissingDataError` if the graph cannot say until when a root was valid: older ones ignore the parameter."""
    url = f"{session.local_server}/segmentation/api/version"

    def fetch() -> str | None:
        response = session.http.send("chunkedgraph", "GET", url, accept=(404,))
        if response.status_code == 404:
            return None
        version = session.http.read_json("chunkedgraph", response)
        if not isinstance(version, str):
            raise unreadable(response, "answered with no version; try again", service="chunkedgraph")
        return version

    memory, key = session.connection.memory, ("server version text", url)
    text = memory.get(key, fetch)
    if text is None:
        memory.forget(key)  # it may be restarting
    # not sooner: other workers have sent their requests meanwhile, and wait for the network
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        version = Version(text or "0")
    except InvalidVersion:
        version = Version("0")
    if not any(version in SpecifierSet(known) for known in (">=1.25,<2", ">=2.17,<3", ">=3.0.4")):
        raise MissingDataError(
            f"the chunkedgraph is version {text}, which cannot say until when a root was valid (2.17 or 3.0.4 can); "
            "ask its administrators to update it",
            service="chunkedgraph",
            url=url,
        )


def leaves(
    session: Session, root: int, *, stop_layer: int | None = None, bounds: str | None = None
) -> IdArray:
    """Return the descendants of a node at a layer (default: supervoxels), within ``x0-x1_y0-y1_z0-z1`` (voxels)."""
    params = {"stop_layer": stop_layer, "bounds": bounds}
    response = session.http.send(
        "chunkedgraph",
        "GET",
        graph_url(session, f"node/{root}/leaves"),
        params={name: str(value) for name, value in params.items() if value is not None},
    )
    body = session.http.read_json("chunkedgraph", response, keys=("leaf_ids",))
    return ids_in(response, body["leaf_ids"])


def segmentation_info_in(response: Response, body: dict[str, Any]) -> dict[str, Any]:
    """Return the graphene info that a response holds; raise `ProtocolError` if its numbers have other shapes."""
    graph, scales, meshes = body["graph"], body["scales"], body.get("mesh_metadata")
    sound = (
        isinstance(graph, dict)
        and _are_numbers(graph.get("chunk_size", [1, 1, 1]), above=0)
        and isinstance(graph.get("spatial_bit_masks", {}), dict)
        and all(_are_numbers([bits], 1, above=0) for bits in graph.get("spatial_bit_masks", {}).values())
        and all(
            _are_numbers([graph.get(name, 1)], 1) for name in ("cv_mip", "n_layers", "n_bits_for_layer_id")
        )
        and isinstance(scales, list)
        and 0 <= int(graph.get("cv_mip", 0)) < len(scales)
        and all(isinstance(scale, dict) for scale in scales)
        and all(_are_numbers(scale.get("resolution"), above=0) for scale in scales)
        and all(_are_numbers(scale.get("voxel_offset", [0, 0, 0])) for scale in scales)
        and all(_are_numbers(scale.get("size", [1, 1, 1])) for scale in scales)
        and isinstance(body.get("mesh", ""), str | None)
        and isinstance(meshes, dict | None)
        and _are_numbers([(meshes or {}).get(name) or 0 for name in _MESH_NUMBERS], len(_MESH_NUMBERS))
    )
    if not sound:
        raise unreadable(
            response, "described a segmentation whose numbers have other shapes than CAVE's; try again"
        )
    return dict(body)


_MESH_NUMBERS = ("max_meshed_layer", "uniform_draco_grid_size")


def _are_numbers(values: Any, count: int = 3, *, above: float | None = None) -> bool:
    """Return whether a JSON value is a list of so many finite numbers, all above a limit where there is one."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in {int, float} and abs(value) < 1e15 for value in values)
        and (above is None or all(value > above for value in values))
    )


def ids_in(response: Response, values: Any) -> IdArray:
    """Return the ids in a JSON response as int64.

    Raise `ProtocolError` unless they are whole numbers below 2**63, or texts of such: an id that went through a float
    is another one.
    """
    import numpy as np

    try:
        numbers = np.asarray(values)
        if isinstance(values, list) and not numbers.size:
            return np.empty(numbers.shape, dtype=np.int64)
        if numbers.dtype.kind == "U":
            numbers = np.array([int(text) for text in numbers.ravel().tolist()]).reshape(numbers.shape)
        if (
            numbers.ndim
            and numbers.dtype.kind in "iu"
            and int(numbers.min()) >= 0
            and int(numbers.max()) < 1 << 63
        ):
            return numbers.astype(np.int64)
    except (ValueError, TypeError, OverflowError):
        pass
    raise unreadable(response, "returned ids that are not whole numbers below 2**63; try again")


def _all(values: list[Any], *kinds: type) -> bool:
    """Return whether all values of a list are of some types exactly: True is no number."""
    return all(type(value) in kinds for value in values)


def is_below_roots(session: Session, node: int) -> bool:
    """Return whether an id is one of a piece of a neuron (supervoxel, level-2 id, ...): its top bits say the layer."""
    import numpy as np

    return bool(_below_roots(session, np.array([node], dtype=np.int64))[0])


def _below_roots(session: Session, ids: IdArray) -> NDArray[np.bool_]:
    graph = session.segmentation_info().get("graph", {})
    below: NDArray[np.bool_] = ids >> (64 - int(graph.get("n_bits_for_layer_id", 8))) < graph.get(
        "n_layers", 0
    )
    return below


def successors_of(
    session: Session, roots: Sequence[int], *, at: datetime | None = None, stop_layer: int | None = None
) -> list[tuple[IdArray, NDArray[np.float64]]]:
    """Return the roots that are valid at a time and hold pieces of older ones, most pieces first, and their shares.

    An edit replaces the pieces that it touches, and the graph gives for a piece that is gone the last root it had: the
    old root itself, often, and none for a time before the piece was made. Such pieces count for none, and if no other
    is left, smaller ones are looked at. Pieces are those of ``stop_layer``, by default four layers below the top. For
    what is no root, ids and shares are empty.
    """
    found: list[tuple[IdArray, NDArray[np.float64]]] = [(_none(), _none().astype(float)) for _ in roots]
    left = list(range(len(roots)))
    for layer in (stop_layer, *(finer for finer in _FINER if stop_layer is None or finer < stop_layer)):
        held = _overlaps(session, [roots[place] for place in left], at=at, stop_layer=layer)
        for place, part in zip(left, _valid(session, held, at), strict=True):
            found[place] = part
        left = [
            place for place, (ids, _) in zip(left, held, strict=True) if len(ids) and not len(found[place][0])
        ]
        if not left:
            break
    return found


def _overlaps(
    session: Session, roots: list[int], *, at: datetime | None, stop_layer: int | None
) -> list[tuple[IdArray, NDArray[np.float64]]]:
    """Return what became of roots: the roots that hold their pieces at a time, most pieces first, and their shares.

    Pieces that were not made yet are held by 0. The pieces are nodes four layers below the top, as caveclient takes
    them: they change rarely and are few.
    """
    import numpy as np

    if stop_layer is None:
        stop_layer = int(session.segmentation_info().get("graph", {}).get("n_layers", 6)) - 4
    layer = max(1, stop_layer)
    pieces = session.map(lambda root: leaves(session, root, stop_layer=layer), roots)
    ends = np.cumsum([len(part) for part in pieces])[:-1]
    joined = np.concatenate([np.zeros(0, dtype=np.int64), *pieces])
    held = np.split(roots_of(session, joined, at=at), ends) if len(roots) else []
    results = []
    for part in held:
        found, counts = np.unique(part, return_counts=True)
        # equal shares: the smaller id first, so that the result is always the same
        order = np.lexsort((found, -counts))
        results.append((found[order], counts[order] / max(1, len(part))))
    return results


def _valid(
    session: Session, held: list[tuple[IdArray, NDArray[np.float64]]], at: datetime | None
) -> list[tuple[IdArray, NDArray[np.float64]]]:
    """Leave out the roots that are not valid at a time; one request for all."""
    import numpy as np

    every = np.concatenate([_none(), *(ids for ids, _ in held)])
    if not len(every):
        return held
    keep = np.split(is_latest(session, every, at=at), np.cumsum([len(ids) for ids, _ in held])[:-1])
    return [(ids[mask], share[mask]) for (ids, share), mask in zip(held, keep, strict=True)]


def _none() -> IdArray:
    import numpy as np

    return np.empty(0, dtype=np.int64)
