"""Work that finds out on its way what else there is to do: threads that take jobs until there are none."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from cortexclient.session.stopping import (
    Cancelled,
    Stop,
    become_worker,
    current_lane,
    current_stop,
    join,
    within_worker,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Job", "work_off"]

Job = Callable[[], None]


def work_off(take: Callable[[], Job | None], *, workers: int) -> None:
    """Do jobs in a bounded pool of threads, as they turn up.

    Parameters
    ----------
    take : callable
        Gives the next job, or None where there is none at present: jobs that are being done may make more. Called by
        one thread at a time. All is done when it gives None and nobody is at work.
    workers : int
        Largest number of threads. A job that is alone is done by the calling thread.

    Raises
    ------
    BaseException
        The first failure; what has not begun by then is never begun. Ctrl-C returns at once.
    """
    stop = current_stop()
    while (job := take()) is not None:
        if stop is not None and stop.is_set():
            raise Cancelled
        other = take() if workers > 1 and not within_worker() else None
        if other is not None:
            _Crew((job, other), take).run(workers)
            return
        job()


class _Crew:
    """The threads of one call."""

    def __init__(self, ready: Iterable[Job], take: Callable[[], Job | None]) -> None:
        self._ready = deque(ready)
        self._take = take
        self._threads: list[threading.Thread] = []
        self._workers = 1
        self._idle = 0
        self._busy = 0
        self._failure: BaseException | None = None
        self._stop = Stop()
        self._above = current_stop()
        self._lane = current_lane()
        self._news = threading.Condition()
        self._over = threading.Event()

    def run(self, workers: int) -> None:
        if self._above is not None:
            self._above.adopt(self._stop)
        self._workers = workers
        whole = False
        try:
            with self._news:
                self._hire()
            # a wait without limit cannot be interrupted on every platform
            while not self._over.wait(timeout=0.5) and not self._stop.is_set():
                pass
            whole = self._over.is_set() and self._failure is None
        finally:
            if not whole:
                self._stop.abort()
                with self._news:
                    self._news.notify_all()
            join(self._threads)
            if self._above is not None:
                self._above.release(self._stop)
        if self._failure is not None:
            raise self._failure
        if not whole:
            raise Cancelled

    def _hire(self) -> None:
        """Start one more thread, unless there are as many as there may be, or one has nothing to do."""
        number = len(self._threads)
        if self._idle or number >= self._workers or self._over.is_set():
            return
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._work,),
            name=f"cortexclient-{number}",
            # so that an interrupted program does not wait for answers that nobody will read
            daemon=True,
        )
        self._threads.append(thread)
        self._idle += 1
        try:
            thread.start()
        except RuntimeError:
            # the system gives no more of them: those that there are do the work
            self._threads.pop()
            self._idle -= 1
            self._workers = number
            if not number:
                raise

    def _work(self) -> None:
        become_worker(self._stop)
        while (job := self._next()) is not None:
            failure = None
            try:
                with self._lane:
                    job()
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                failure = error
            with self._news:
                self._busy -= 1
                self._idle += 1
                if failure is not None:
                    self._fail(failure)
                self._news.notify_all()

    def _next(self) -> Job | None:
        with self._news:
            while not self._stop.is_set() and not self._over.is_set():
                try:
                    job = self._ready.popleft() if self._ready else self._take()
                except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                    self._fail(error)
                    return None
                if job is not None:
                    self._busy += 1
                    self._idle -= 1
                    self._hire()
                    return job
                if not self._busy:
                    self._over.set()
                    self._news.notify_all()
                    return None
                self._news.wait()
            return None

    def _fail(self, failure: BaseException) -> None:
        # the first that happened: later ones may only tell that the rest was given up
        if self._failure is None:
            self._failure = failure
        self._stop.set()
        self._over.set()
        self._news.notify_all()
