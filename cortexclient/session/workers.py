"""A small pool of threads: ordered results, one bar, the first failure raised at once, and Ctrl-C that works."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from cortexclient.session.progress import plain_bar
from cortexclient.session.stopping import (
    Cancelled,
    Stop,
    become_worker,
    current_lane,
    current_lanes,
    current_stop,
    join,
    within_worker,
)
from cortexclient.settings import env_int

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["at_once", "default_workers", "map_in_order", "side_by_side"]

_COORDINATORS = 4
"""Most jobs with pools of their own that are done at a time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """Concurrency where none is asked for: ``$CORTEXCLIENT_MAX_WORKERS``, else 8."""
    return max(1, env_int("CORTEXCLIENT_MAX_WORKERS", 8))


class _Board:
    """What the workers of one call share."""

    def __init__(self, count: int) -> None:
        self.results: list[Any] = [None] * count
        self.next = 0
        self.done = 0
        self.failures: list[tuple[int, BaseException]] = []
        self.lock = threading.Lock()
        self.news = threading.Condition(self.lock)
        self.stop = Stop()

    def take(self, count: int) -> int | None:
        with self.lock:
            if self.stop.is_set() or self.next >= count:
                return None
            self.next += 1
            return self.next - 1

    def finish(self, index: int, result: Any, failure: BaseException | None) -> None:
        with self.news:
            if failure is None:
                self.results[index] = result
            else:
                self.failures.append((index, failure))
                self.stop.set()
            self.done += 1
            self.news.notify()

    def outcome(self) -> list[Any]:
        """Give the results, or raise what went wrong."""
        if self.failures:
            real = [entry for entry in self.failures if not isinstance(entry[1], Cancelled)]
            # the first that happened: later ones may only tell that the rest was given up
            raise (real or self.failures)[0][1]
        if self.done < len(self.results):
            raise Cancelled
        return self.results


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    progress: bool = False,
    description: str = "",
) -> list[Result]:
    """Apply a function to every item in a bounded pool of threads.

    Parameters
    ----------
    function : callable
        Called with one item at a time; must be safe in threads.
    items : iterable
        The items; consumed before the first call.
    workers : int
        Largest number of threads.
    progress : bool
        Whether to show one bar over all items.
    description : str
        Text beside the bar.

    Returns
    -------
    list
        Results in the order of the items.

    Raises
    ------
    BaseException
        The first failure; what has not begun by then is never begun. Ctrl-C returns at once.
    """
    work = list(items)
    bar = plain_bar(len(work), description) if progress and work else None
    try:
        if len(work) <= 1 or workers <= 1 or within_worker():
            return _serial(function, work, bar)
        return _parallel(function, work, min(workers, len(work)), bar)
    finally:
        if bar is not None:
            bar.close()


def side_by_side(jobs: Sequence[Callable[[], Any]], *, workers: int) -> list[Any]:
    """Do a few jobs at once that use pools themselves; all their pools together are as large as one.

    Parameters
    ----------
    jobs : sequence of callable
        At most four are done at a time. Inside of a worker they are done one after the other.
    workers : int
        Largest number of threads that work for all of them.

    Returns
    -------
    list
        Results in the order of the jobs.

    Raises
    ------
    BaseException
        The first failure, as in `map_in_order`.
    """
    if len(jobs) <= 1 or workers <= 1 or within_worker():
        return _serial(_call, list(jobs), None)
    lanes = current_lanes() or threading.Semaphore(workers)
    return _parallel(_call, list(jobs), min(_COORDINATORS, len(jobs)), None, lanes)


def _call(job: Callable[[], Result]) -> Result:
    return job()


def _serial(function: Callable[[Item], Result], work: list[Item], bar: Any) -> list[Result]:
    results = []
    stop = current_stop()
    for item in work:
        if stop is not None and stop.is_set():
            raise Cancelled
        results.append(function(item))
        if bar is not None:
            bar.update(1)
    return results


def _parallel(
    function: Callable[[Item], Result],
    work: list[Item],
    workers: int,
    bar: Any,
    lanes: threading.Semaphore | None = None,
) -> list[Result]:
    board = _Board(len(work))
    above = current_stop()
    if above is not None:
        above.adopt(board.stop)
    # who only waits for pools of his own takes no lane, so that these always find one
    lane = contextlib.nullcontext() if lanes is not None else current_lane()

    def run() -> None:
        become_worker(board.stop, lanes)
        while True:
            with lane:
                if (index := board.take(len(work))) is None:
                    return
                try:
                    board.finish(index, function(work[index]), None)
                except BaseException as failure:  # noqa: BLE001 - handed to the caller, whatever it is
                    board.finish(index, None, failure)

    threads = [
        # daemons, so that an interrupted program does not wait for answers that nobody will read
        threading.Thread(
            target=contextvars.copy_context().run, args=(run,), name=f"cortexclient-{n}", daemon=True
        )
        for n in range(workers)
    ]
    try:
        for thread in threads:
            thread.start()
        _wait(board, len(work), bar)
    finally:
        if board.done < len(work):
            board.stop.abort()
        join(threads)
        if above is not None:
            above.release(board.stop)
    return board.outcome()


def _wait(board: _Board, count: int, bar: Any) -> None:
    shown = 0
    with board.news:
        while board.done < count and not board.failures and not board.stop.is_set():
            # a wait without limit cannot be interrupted on every platform
            board.news.wait(timeout=0.5)
            if bar is not None and board.done > shown:
                bar.update(board.done - shown)
                shown = board.done
        if bar is not None and board.done > shown:
            bar.update(board.done - shown)


def at_once(functions: Sequence[Callable[[], Result]]) -> list[Result]:
    """Call a few functions at the same time, inside a worker too: small questions that belong together."""
    if len(functions) <= 1:
        return _serial(_call, list(functions), None)
    return _parallel(_call, list(functions), len(functions), None)
