"""The skeleton service: the skeletons that it has stored, and those that it generates when asked."""

from __future__ import annotations

import gzip
import json
import logging
import time
import zlib
from typing import TYPE_CHECKING, Any

from cortexclient.errors import (
    CortexError,
    MissingDataError,
    ProtocolError,
    ServiceError,
    ServiceTimeoutError,
)
from cortexclient.services.skeletons.synapses import no_root
from cortexclient.session import forget, is_below_roots, pause, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session import ProgressBar, Session

__all__ = ["fetch_skeleton", "generate_skeletons", "parse_skeleton", "stored", "stored_skeletons"]

log = logging.getLogger(__name__)

MOST_IN_ONE = 500
"""Most skeletons that the service gives in one answer."""

MOST_LOOKED_UP = 1000
"""Most ids whose skeletons caveclient looks up at a time; it drops the rest."""

_INTEGERS = ("edges", "mesh_to_skel_map", "lvl2_ids", "compartment")
_FLOATS = ("vertices", "radius")


def base_url(session: Session) -> str:
    """Address of the datastack at the skeleton service."""
    return f"{session.local_server}/skeletoncache/api/v1/{session.datastack}"


def fetch_skeleton(session: Session, root: int, version: int) -> dict[str, Any]:
    """Read one skeleton; the service makes it first if it has none, and answers when it is done.

    One request: caveclient's own ``get_skeleton`` makes six, of which the others find out what the client knows.

    Raises
    ------
    StaleRootError
        If the id is that of a piece of a neuron.
    MissingDataError
        If the service refuses to make a skeleton of this root.
    ValueError
        If there is no such version of skeletons.
    ServiceError
        For every other failure.
    """
    url = f"{base_url(session)}/async/get_skeleton/{version}/{root}/flatdict"
    try:
        response = session.http.send("skeleton", "GET", url, params={"verbose_level": "0"})
    except ServiceError as error:
        _check_version(session, version)
        if error.status in {400, 404}:
            if is_below_roots(session, root):
                raise no_root(session, root) from error
            raise MissingDataError(
                f"the skeleton service of {session.datastack} has no skeleton of {root}: {error}; "
                "fallback='compute' makes one from the level-2 graph",
                service="skeleton",
                status=error.status,
                url=error.url,
            ) from error
        raise
    try:
        return parse_skeleton(response.content, root)
    except ProtocolError:
        forget(response)
        raise


def stored(session: Session, roots: Sequence[int], version: int) -> dict[int, dict[str, Any] | CortexError]:
    """Read those skeletons that the service has in store, 500 in each request; the others are left out."""
    wanted = list(dict.fromkeys(roots))
    batches = [wanted[start : start + MOST_IN_ONE] for start in range(0, len(wanted), MOST_IN_ONE)]
    found: dict[int, dict[str, Any] | CortexError] = {}
    for part in session.map(lambda batch: _stored(session, batch, version), batches):
        found |= part
    return found


def _stored(session: Session, roots: Sequence[int], version: int) -> dict[int, dict[str, Any] | CortexError]:
    url = f"{base_url(session)}/bulk/get_cached_skeletons/{version}/flatdict"
    body = {"root_ids": list(roots), "generate_missing": False, "verbose_level": 0}
    try:
        answer = session.http.post_json("skeleton", url, body)
    except ServiceError as error:
        _check_version(session, version)
        if error.status not in {404, 405, 500, 501}:
            raise
        log.info("the skeleton service does not give many at once (%s); asking one by one", error)
        return {}
    found: dict[int, dict[str, Any] | CortexError] = {}
    for name, text in answer.items():
        if isinstance(text, str) and text and text not in {"async", "invalid_rid", "invalid_layer_rid"}:
            try:
                found[int(name)] = parse_skeleton(bytes.fromhex(text), int(name))
            except CortexError as error:  # one that is damaged is no reason to lose the others
                found[int(name)] = error
    return found


def _check_version(session: Session, version: int) -> None:
    """Tell a version that does not exist from a failing service; asked only after a failure."""
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


def parse_skeleton(content: bytes, root: int) -> dict[str, Any]:
    """Read the service's ``flatdict``: gzipped JSON, sometimes gzipped twice.

    Returns
    -------
    dict
        ``vertices`` float64 (N, 3) nm, ``edges`` int64 (N-1, 2), ``root``, ``mesh_to_skel_map`` and ``lvl2_ids``
        int64 (K,), ``radius`` float64 (N,), ``compartment`` int64 (N,), ``meta``; the last five may be absent.

    Raises
    ------
    ProtocolError
        If it cannot be read.
    """
    import numpy as np

    try:
        while content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        data: dict[str, Any] = json.loads(content)
        for name in _INTEGERS:
            if data.get(name) is not None:
                data[name] = np.asarray(data[name], dtype=np.int64)
        for name in _FLOATS:
            if data.get(name) is not None:
                data[name] = np.asarray(data[name], dtype=np.float64)
        data["vertices"] = data["vertices"].reshape(-1, 3)
        data["edges"] = data["edges"].reshape(-1, 2)
        data["root"] = int(data["root"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise ProtocolError(
            f"the skeleton of {root} cannot be read ({type(error).__name__}: {error}); try again",
            service="skeleton",
        ) from error
    return data


def stored_skeletons(session: Session, roots: Sequence[int], version: int, **options: Any) -> dict[int, bool]:
    """Say for each root whether the service has its skeleton in store; any number of roots."""
    client = session.cave.skeleton

    def ask(batch: Sequence[int]) -> dict[int, bool]:
        with session.guard("skeleton"):
            answer = client.skeletons_exist(root_ids=list(batch), skeleton_version=version, **options)
        if isinstance(answer, bool):  # what the service says of a single id
            return {batch[0]: answer}
        return {int(root): bool(there) for root, there in answer.items()}

    found: dict[int, bool] = {}
    for part in session.map(
        ask, [roots[start : start + MOST_LOOKED_UP] for start in range(0, len(roots), MOST_LOOKED_UP)]
    ):
        found |= part
    return {root: found.get(root, False) for root in roots}


# -- generated skeletons -------------------------------------------------------------------------------------------

MOST_QUEUED = 10_000
"""Most skeletons that the service queues in one request."""

_FIRST_PAUSE, _STALLED = 0.2, 1.6
"""Seconds between two looks at what has been made, doubled until so many pass without anything new."""


def generate_skeletons(
    session: Session, roots: Sequence[int], version: int, *, deadline: float, progress: bool = False
) -> dict[int, dict[str, Any] | CortexError]:
    """Have skeletons made and read them.

    Many are queued in one request and looked for until few are left, or no more come; those are asked for one by one,
    because the service says only then why it cannot make one.

    Parameters
    ----------
    deadline : float
        Seconds after which no further request begins; what is not there by then is reported.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict
        Root -> skeleton, or the error that says why there is none.
    """
    end = time.monotonic() + deadline
    refused = _refused(session) if len(roots) > session.max_workers else set()
    found: dict[int, dict[str, Any] | CortexError] = {
        root: _refusal(session, root) for root in roots if root in refused
    }
    left = [root for root in roots if root not in found]
    with progress_bar(len(roots), "skeletons being made", show=progress and len(roots) > 1) as bar:
        _steps(bar, len(found))

        def one(root: int) -> dict[str, Any] | CortexError:
            if time.monotonic() >= end:
                return _late(session, root, deadline)
            try:
                return fetch_skeleton(session, root, version)
            except CortexError as error:
                return error
            finally:
                bar.step()

        wait = _FIRST_PAUSE
        queued = len(left) > session.max_workers and _queue(session, left, version)
        while queued and len(left) > session.max_workers and time.monotonic() < end:
            pause(min(wait, max(0.0, end - time.monotonic())))
            made = stored(session, left, version)
            _steps(bar, len(made))
            if made or wait < _STALLED:
                wait = _FIRST_PAUSE if made else 2 * wait
            else:
                # the queue never says of a skeleton that it cannot be made; asked for it alone, the service does
                some = left[: session.max_workers]
                made = dict(zip(some, session.map(one, some), strict=True))
            found |= made
            left = [root for root in left if root not in made]
        found |= dict(zip(left, session.map(one, left), strict=True))
    return found


def _steps(bar: ProgressBar, count: int) -> None:
    for _ in range(count):
        bar.step()


def _queue(session: Session, roots: Sequence[int], version: int) -> bool:
    """Ask for skeletons to be made; False where the service cannot be asked for many."""
    url = f"{base_url(session)}/bulk/gen_skeletons"
    for start in range(0, len(roots), MOST_QUEUED):
        batch = list(roots[start : start + MOST_QUEUED])
        body = {"root_ids": batch, "skeleton_version": version, "verbose_level": 0}
        try:
            seconds = session.http.post_json("skeleton", url, body)
        except ServiceError as error:
            if error.status not in {404, 405, 500, 501}:
                raise
            log.info("the skeleton service queues nothing (%s); asking one by one", error)
            return False
        log.info("%d skeletons are queued; the service expects %s s", len(batch), seconds)
    return True


def _refused(session: Session) -> set[int]:
    """Roots that the service refuses to skeletonize; empty where it does not say."""

    def ask() -> set[int]:
        try:
            answer = session.http.send(
                "skeleton", "GET", f"{base_url(session)}/precomputed/skeleton/get_refusal_list"
            )
            rows = gzip.decompress(answer.content).decode().split()
            pairs = [row.split(",") for row in rows]
            return {int(root) for datastack, root in pairs if datastack == session.datastack}
        except (ServiceError, OSError, EOFError, ValueError) as error:
            log.info("the skeleton service gives no list of refused roots: %s", error)
            return set()

    return session.connection.memory.get("refused skeletons", ask)


def _refusal(session: Session, root: int) -> MissingDataError:
    return MissingDataError(
        f"the skeleton service of {session.datastack} refuses to make a skeleton of {root} (it is on its refusal "
        "list); fallback='compute' makes one from the level-2 graph",
        service="skeleton",
    )


def _late(session: Session, root: int, deadline: float) -> ServiceTimeoutError:
    return ServiceTimeoutError(
        f"the skeleton service of {session.datastack} did not make the skeleton of {root} within {deadline:g} s; it "
        "goes on, so ask again later or with a longer deadline",
        service="skeleton",
    )
