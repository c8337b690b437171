"""A job that is done ahead of its use, while whoever asked for it does something else."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from cortexclient.session.stopping import Stop, coordinate, join

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ahead"]

Result = TypeVar("Result")


class Ahead(Generic[Result]):
    """Does a job in a thread of its own, from `start` on.

    Make it, put it where it will be given up whatever happens, and only then start it: an interrupt can come at any
    moment.

    Parameters
    ----------
    job : callable
        Must be safe in threads; may use pools.
    workers : int
        Largest number of threads of its pools.
    """

    def __init__(self, job: Callable[[], Result], *, workers: int) -> None:
        self._job = job
        self._workers = workers
        self._stop = Stop()
        self._done = threading.Event()
        self._found: list[Result] = []
        self._failure: BaseException | None = None
        # a daemon, so that an interrupted program does not wait for answers that nobody will read
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="cortexclient-ahead", daemon=True
        )

    def start(self) -> None:
        """Begin the job."""
        self._thread.start()

    def _run(self) -> None:
        coordinate(self._stop, self._workers)
        try:
            self._found.append(self._job())
        except BaseException as failure:  # noqa: BLE001 - handed to the caller, whatever it is
            self._failure = failure
        finally:
            self._done.set()

    def result(self) -> Result:
        """Wait for the job, and give its result or raise its failure."""
        while not self._done.wait(
            timeout=0.5
        ):  # a wait without limit cannot be interrupted on every platform
            pass
        if self._failure is not None:
            raise self._failure
        return self._found.pop()

    def give_up(self) -> None:
        """Begin nothing new, and leave the network; nothing to do where the job is done."""
        if not self._done.is_set():
            self._stop.abort()
            join([self._thread])
