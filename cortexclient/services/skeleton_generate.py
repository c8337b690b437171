"""Skeletons that the service has not made yet: queued, waited for, and given up at a deadline."""

from __future__ import annotations

import gzip
import logging
import time
from typing import TYPE_CHECKING, Any

from cortexclient.errors import CortexError, MissingDataError, ServiceError, ServiceTimeoutError
from cortexclient.services.skeleton_source import base_url, fetch_skeleton, stored
from cortexclient.session import pause, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session import ProgressBar, Session

__all__ = ["generate_skeletons"]

log = logging.getLogger(__name__)

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
