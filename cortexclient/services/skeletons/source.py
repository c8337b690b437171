"""The skeleton service: the skeletons that it has stored, and those that it generates on request.

A deployed service has a queue of workers. A worker that fails is never reported, and the route that waits for one
skeleton (``async/get_skeleton``) then waits for ever and occupies a thread of the service. It is not used here: what is
missing is queued once in bulk, and looked for until a deadline.
"""

from __future__ import annotations

import gzip
import json
import logging
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cortexclient.errors import (
    AuthenticationError,
    CortexError,
    MissingDataError,
    ProtocolError,
    ServiceError,
    ServiceTimeoutError,
)
from cortexclient.ids import in_batches
from cortexclient.services.level2 import Level2Service
from cortexclient.services.roots import no_root
from cortexclient.session import forget, is_below_roots, leaves, lifetimes, pause, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session import Session

    Found = dict[int, dict[str, Any] | CortexError]

__all__ = ["fetch_stored", "generate_skeletons", "parse_skeleton", "stored_skeletons"]

log = logging.getLogger(__name__)

MOST_IN_ONE = 500
"""Most skeletons that the service returns in one response."""

MOST_LOOKED_UP = 1000
"""Most ids whose skeletons caveclient looks up at a time; it drops the rest."""

MOST_QUEUED = 10_000
"""Most skeletons that the service queues in one request."""

_INTEGERS = ("edges", "mesh_to_skel_map", "lvl2_ids", "compartment")
_FLOATS = ("vertices", "radius")
_NO_SKELETON = {"async", "invalid_rid", "invalid_layer_rid"}

# statuses of a service that does not have a bulk route, or not with this configuration
_NO_BULK = {404, 405, 500, 501}

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two looks at what has been generated, doubled after each that finds nothing new."""

_PATIENCE = 1.0
"""Seconds without anything new after which it is found out whether the level-2 cache lets them be generated at all."""

_HERE = "fallback='compute' makes one from the level-2 graph"


def _base(session: Session) -> str:
    return f"{session.local_server}/skeletoncache/api/v1/{session.datastack}"


# -- stored skeletons --------------------------------------------------------------------------------------------------


def fetch_stored(
    session: Session, roots: Sequence[int], version: int, *, timeout: float | None = None
) -> Found:
    """Return those skeletons that the service has stored, 500 in each request; the others are left out.

    Parameters
    ----------
    timeout : float, optional
        Seconds to wait for each response. Default: the session's.

    Raises
    ------
    ValueError
        If there is no such version of skeletons.
    ServiceError
        If the service fails.
    """
    wanted = list(dict.fromkeys(roots))
    batches = in_batches(wanted, MOST_IN_ONE)
    found: Found = {}
    for part in session.map(lambda batch: _fetch_batch(session, batch, version, timeout), batches):
        found |= part
    return found


def _fetch_batch(session: Session, roots: Sequence[int], version: int, timeout: float | None) -> Found:
    url = f"{_base(session)}/bulk/get_cached_skeletons/{version}/flatdict"
    body = {"root_ids": list(roots), "generate_missing": False, "verbose_level": 0}
    try:
        response = session.http.send("skeleton", "POST", url, body=body, timeout=timeout)
    except ServiceError as error:
        _check_version(session, version)
        if error.status not in _NO_BULK:
            raise
        log.info("the skeleton service does not return many skeletons in one response (%s)", error)
        return _fetch_one_by_one(session, roots, version, timeout)
    found: Found = {}
    for name, text in session.http.read_json("skeleton", response, keys=()).items():
        if not isinstance(text, str) or not text or text in _NO_SKELETON:
            continue
        root = int(name) if name.isdecimal() else -1
        try:
            found[root] = parse_skeleton(bytes.fromhex(text), root, url=url)
        except ValueError:
            found[root] = _unreadable(root, "it is no hexadecimal text", url)
        except CortexError as error:  # one that is damaged is no reason to lose the others
            found[root] = error
    if any(isinstance(each, CortexError) for each in found.values()):
        forget(response)
    return {root: found[root] for root in roots if root in found}


def _fetch_one_by_one(session: Session, roots: Sequence[int], version: int, timeout: float | None) -> Found:
    """Return the stored skeletons of a service without the bulk route; nothing is generated for it."""
    known = stored_skeletons(session, roots, version)

    def one(root: int) -> Any:
        url = f"{_base(session)}/precomputed/skeleton/{version}/{root}/flatdict"
        try:
            return parse_skeleton(
                session.http.send("skeleton", "GET", url, timeout=timeout).content, root, url=url
            )
        except CortexError as error:
            return error

    there = [root for root in roots if known[root]]
    return dict(zip(there, session.map(one, there), strict=True))


def _check_version(session: Session, version: int) -> None:
    """Raise ValueError for a version that does not exist; requested only after a failure."""
    url = f"{session.local_server}/skeletoncache/api/versions"
    try:
        known = session.connection.memory.get(
            "skeleton versions", lambda: session.http.get_json("skeleton", url)
        )
    except ServiceError:
        return
    if isinstance(known, list) and version not in known:
        raise ValueError(
            f"skeleton_version {version} does not exist; the service has {sorted(map(int, known))}"
        )


def parse_skeleton(content: bytes, root: int, *, url: str = "") -> dict[str, Any]:
    """Parse the service's ``flatdict``: gzipped JSON, sometimes gzipped twice.

    Returns
    -------
    dict
        ``vertices`` float64 (N, 3) nm, ``edges`` int64 (N-1, 2), ``root``, ``mesh_to_skel_map`` and ``lvl2_ids``
        int64 (K,), ``radius`` float64 (N,), ``compartment`` int64 (N,), ``meta``; the last five may be absent.

    Raises
    ------
    ProtocolError
        If it cannot be parsed, or its arrays do not fit each other.
    """
    try:
        while content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        data: dict[str, Any] = json.loads(content)
        for name in _INTEGERS:
            if data.get(name) is not None:
                data[name] = _integers(data[name])
        for name in _FLOATS:
            if data.get(name) is not None:
                data[name] = np.asarray(data[name], dtype=np.float64)
        data["vertices"] = data["vertices"].reshape(-1, 3)
        data["edges"] = data["edges"].reshape(-1, 2)
        data["root"] = int(data["root"])
        _check_shapes(data)
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zlib.error,
        RecursionError,
    ) as error:
        raise _unreadable(root, f"{type(error).__name__}: {error}", url) from error
    return data


def _integers(values: Any) -> Any:
    numbers = np.asarray(values)
    if numbers.size and numbers.dtype.kind not in "iu":  # ids that went through floats are other ids
        raise ValueError(f"whole numbers were expected, not {numbers.dtype}")
    return numbers.astype(np.int64)


def _check_shapes(data: dict[str, Any]) -> None:
    count = len(data["vertices"])
    if not count:
        raise ValueError("it has no vertices")
    for name in ("radius", "compartment"):
        if data.get(name) is not None and data[name].shape != (count,):
            raise ValueError(f"{name} has the shape {data[name].shape}, and there are {count} vertices")
    rows = {"edges": data["edges"], "root": data["root"], "mesh_to_skel_map": data.get("mesh_to_skel_map")}
    for name, values in rows.items():
        if values is None:
            continue
        lowest, highest = (
            (values, values) if name == "root" else (values.min(initial=0), values.max(initial=0))
        )
        if lowest < 0 or highest >= count:
            raise ValueError(f"{name} names vertices that do not exist")
    ids, on = data.get("lvl2_ids"), data.get("mesh_to_skel_map")
    if ids is not None and on is not None and ids.shape != on.shape:
        raise ValueError(f"there are {ids.size} level-2 ids, and {on.size} places for them")


def _unreadable(root: int, why: str, url: str) -> ProtocolError:
    return ProtocolError(
        f"the skeleton of {root} cannot be read ({why}); try again", service="skeleton", status=200, url=url
    )


def stored_skeletons(session: Session, roots: Sequence[int], version: int, **options: Any) -> dict[int, bool]:
    """Return for each root whether the service has its skeleton stored; any number of roots."""
    client = session.cave.skeleton

    def look_up(batch: Sequence[int]) -> dict[int, bool]:
        with session.guard("skeleton"):
            response = client.skeletons_exist(root_ids=list(batch), skeleton_version=version, **options)
        if isinstance(response, bool):  # for a single id
            return {batch[0]: response}
        return {int(root): bool(there) for root, there in response.items()}

    found: dict[int, bool] = {}
    for part in session.map(look_up, in_batches(roots, MOST_LOOKED_UP)):
        found |= part
    return {root: found.get(root, False) for root in roots}


# -- generated skeletons -----------------------------------------------------------------------------------------------


def generate_skeletons(
    session: Session,
    roots: Sequence[int],
    version: int,
    *,
    deadline: float,
    queued: set[int] | None = None,
    progress: bool = False,
) -> Found:
    """Request skeletons to be generated, and return them.

    All are queued in one request, which is never sent twice, and looked for until they are there or the deadline has
    passed. A skeleton that the service refuses, and one whose level-2 data lack, is reported before.

    Parameters
    ----------
    deadline : float
        Seconds to wait. A request that is under way then ends within its timeout, which is cut to the same seconds.
    queued : set of int, optional
        Roots that were queued before, which are not queued again; it grows.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict
        Root -> skeleton, or the error that says why there is none.
    """
    began = time.monotonic()
    found: Found = _impossible(session, roots)
    queued = set() if queued is None else queued
    left = [root for root in roots if root not in found]
    if left and deadline > 0:
        failure = _queue(session, [root for root in left if root not in queued], version, max(deadline, 1.0))
        if failure is not None:
            return found | dict.fromkeys(left, failure)
        queued.update(left)
    looks, wait, quiet_since = 0, _FIRST_PAUSE, began
    trouble: ServiceError | None = None
    unchecked = set(left)
    with progress_bar(len(roots), "skeletons being made", show=progress and len(roots) > 1) as bar:
        for _ in found:
            bar.step()
        while left and (remaining := began + deadline - time.monotonic()) > 0:
            pause(min(wait, remaining))
            made: Found = {}
            try:
                looks += 1
                made = fetch_stored(session, left, version, timeout=max(1.0, remaining))
            except AuthenticationError:
                raise
            except ServiceError as error:  # of this look: the next one may succeed
                trouble = error
            now = time.monotonic()
            if made:
                quiet_since = now
            elif unchecked and now - quiet_since >= _PATIENCE:
                made = _without_level2(session, [root for root in left if root in unchecked])
                unchecked = set()
            wait = _FIRST_PAUSE if made else min(2 * wait, _LONGEST_PAUSE)
            found |= made
            left = [root for root in left if root not in made]
            for _ in made:
                bar.step()
    return found | {root: _late(session, root, deadline, looks, trouble) for root in left}


def _queue(session: Session, roots: Sequence[int], version: int, timeout: float) -> ServiceError | None:
    """Request skeletons to be generated; return the failure where the service does not accept them."""
    url = f"{_base(session)}/bulk/gen_skeletons"
    for batch in in_batches(list(roots), MOST_QUEUED):
        body = {"root_ids": batch, "skeleton_version": version, "verbose_level": 0}
        try:
            response = session.http.send("skeleton", "POST", url, body=body, timeout=timeout)
        except ServiceError as error:
            _check_version(session, version)
            if error.status not in _NO_BULK:
                return error
            return MissingDataError(
                f"the skeleton service of {session.label} has no skeleton of {batch[0]}, and does not take "
                f"requests to generate skeletons in bulk ({error}); {_HERE}",
                service="skeleton",
                status=error.status,
                url=error.url,
            )
        log.info("%d skeletons are queued; the service expects %s s", len(batch), response.text[:40])
    return None


def _impossible(session: Session, roots: Sequence[int]) -> Found:
    """Return the errors of ids that are no roots, and of roots that the service refuses."""
    found: Found = {root: no_root(session, root) for root in roots if is_below_roots(session, root)}
    refused = _refused(session)
    url = f"{_base(session)}/precomputed/skeleton/get_refusal_list"
    for root in roots:
        if root in refused:
            found[root] = MissingDataError(
                f"the skeleton service of {session.label} refuses to make a skeleton of {root} (it is on its "
                f"refusal list); {_HERE}",
                service="skeleton",
                url=url,
            )
    rest = [root for root in roots if root not in found]
    try:
        known = lifetimes(session, np.asarray(rest, dtype=np.int64)).known.tolist() if rest else []
    except ServiceError as error:
        log.info("whether the roots exist is not known: %s", error)
        return found
    return found | {
        root: no_root(session, root) for root, there in zip(rest, known, strict=True) if not there
    }


def _refused(session: Session) -> set[int]:
    """Return the roots that the service refuses to skeletonize; none where it does not list them."""

    def fetch() -> set[int]:
        url = f"{_base(session)}/precomputed/skeleton/get_refusal_list"
        try:
            rows = gzip.decompress(session.http.send("skeleton", "GET", url).content).decode().split()
            pairs = [row.split(",") for row in rows]
            return {int(root) for datastack, root in pairs if datastack == session.datastack}
        except (ServiceError, OSError, EOFError, ValueError, zlib.error) as error:
            log.info("the skeleton service has no list of refused roots: %s", error)
            return set()

    return session.connection.memory.get("refused skeletons", fetch)


def _without_level2(session: Session, roots: Sequence[int]) -> Found:
    """Return the errors of roots of which the service cannot make skeletons, because level-2 ids have no attributes."""
    if session.spec.denies("l2cache"):
        return {}
    try:
        ids = dict(
            zip(roots, session.map(lambda root: leaves(session, root, stop_layer=2), roots), strict=True)
        )
        every = [number for some in ids.values() for number in some.tolist()]
        known: Any = Level2Service(session).get_l2data(every, ["rep_coord_nm"], as_dataframe=False)
    except CortexError as error:
        log.info("whether the level-2 cache knows what the skeletons need is not known: %s", error)
        return {}
    found: Found = {}
    for root, some in ids.items():
        lacking = [
            number for number in some.tolist() if not (known.get(str(number)) or {}).get("rep_coord_nm")
        ]
        if lacking:
            found[root] = MissingDataError(
                f"the skeleton service of {session.label} cannot make a skeleton of {root} yet: {len(lacking)} of "
                f"its {len(some)} level-2 ids have no attributes in the level-2 cache (the first is {lacking[0]}), "
                f"which computes them on request; try again later, or {_HERE}",
                service="skeleton",
                url=f"{_base(session)}/bulk/gen_skeletons",
            )
    return found


def _late(
    session: Session, root: int, deadline: float, looks: int, trouble: ServiceError | None
) -> ServiceTimeoutError:
    waited = (
        f"it was queued (bulk/gen_skeletons) and looked for {looks} times (bulk/get_cached_skeletons) in {deadline:g} s"
        if looks
        else f"the deadline of {deadline:g} s leaves no time to wait for it"
    )
    reason = f"; the last look failed: {trouble}" if trouble is not None else ""
    return ServiceTimeoutError(
        f"the skeleton service of {session.label} has not made the skeleton of {root}: {waited}{reason}. It may "
        f"still make it: try again later or with a longer deadline=, or {_HERE}",
        service="skeleton",
        url=f"{_base(session)}/bulk/get_cached_skeletons",
    )
