"""One pool of worker threads: ordered results, one progress bar, the first failure raised immediately, prompt Ctrl-C.

A call of `run` from outside starts a pool. A call from inside of one of its jobs starts none: the job works on its own
items, and idle workers of the same pool help it. So however calls are nested, there are never more threads than
``workers``, and no job waits for a thread. Each call has a stop of its own that its nested calls share; it also shuts
down the sockets that its workers read from, because nothing else wakes a thread that waits for the network.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import operator
import queue
import socket
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cortexclient.forking import renew_in_child
from cortexclient.settings import env_int

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "Cancelled",
    "Prefetch",
    "ProgressBar",
    "Stop",
    "current_stop",
    "default_workers",
    "pause",
    "progress_bar",
    "run",
    "run_all",
    "within_worker",
]

_GRACE = 1.0
"""Seconds that a worker gets to notice that it is cancelled."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """Return the default concurrency: ``$CORTEXCLIENT_MAX_WORKERS``, else 8."""
    return max(1, env_int("CORTEXCLIENT_MAX_WORKERS", 8))


class Cancelled(BaseException):
    """Work that was cancelled because its caller no longer waits for it."""


# -- stopping --------------------------------------------------------------------------------------------------------


class Stop(threading.Event):
    """Reports to workers that their work is cancelled, and wakes those that wait for the network."""

    def __init__(self, above: Stop | None = None) -> None:
        super().__init__()
        self._above = above
        self._connections: set[Any] = set()
        self._nested: set[Stop] = set()
        self._guard = threading.Lock()
        renew_in_child(self)
        if above is not None:
            with above._guard:
                above._nested.add(self)
            if above.is_set():
                self.abort()

    def renew(self) -> None:
        """Forget the parent's connections in a forked child: to shut one down here would shut it down there."""
        self._guard = threading.Lock()
        self._connections, self._nested = set(), set()

    def enter(self, connection: Any) -> None:
        """Note a connection that a worker uses now."""
        with self._guard:
            self._connections.add(connection)

    def leave(self, connection: Any) -> None:
        """Forget a connection that went back to its pool: another call may use it next."""
        with self._guard:
            self._connections.discard(connection)

    def abort(self) -> None:
        """Cancel: nothing new begins, and connections in use are shut down."""
        self.set()
        with self._guard:
            for connection in self._connections:
                line = getattr(connection, "sock", None)
                if line is not None:
                    with contextlib.suppress(OSError):
                        line.shutdown(socket.SHUT_RDWR)
            nested = list(self._nested)
        for stop in nested:
            stop.abort()

    def release(self) -> None:
        """Leave the stop above, once the work is done."""
        if self._above is not None:
            with self._above._guard:
                self._above._nested.discard(self)

    def check(self) -> None:
        """Raise `Cancelled` if the work is cancelled."""
        if self.is_set():
            raise Cancelled


current_stop: ContextVar[Stop | None] = ContextVar("cortexclient_stop", default=None)
"""The stop of the job that this thread works on, if it is a worker."""


def within_worker() -> bool:
    """Return whether this thread works on a job of a pool."""
    return current_stop.get() is not None


def pause(seconds: float) -> None:
    """Sleep, but wake up and raise `Cancelled` when the work is cancelled."""
    stop = current_stop.get()
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Cancelled


# -- the pool --------------------------------------------------------------------------------------------------------


class _Run:
    """One call of `run`: a function, its items, and their results."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any], pool: _Pool) -> None:
        above = _current.get()
        self.function = function
        self.items = items
        self.pool = pool
        self.stop: Stop = Stop(None if above is None else above.stop)
        self.context = contextvars.copy_context()
        self.results: list[Any] = [None] * len(items)
        self.next = 0
        self.done = 0
        self.failure: BaseException | None = None
        # what the waiting thread reads: it holds no lock while it waits, so that Ctrl-C cannot leave one locked
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def waiting(self) -> int:
        """Number of items that no worker has begun."""
        return 0 if self.stop.is_set() else len(self.items) - self.next

    @property
    def over(self) -> bool:
        return self.done == len(self.items) or self.failure is not None or self.stop.is_set()

    def take(self) -> int:
        self.next += 1
        return self.next - 1

    def work(self, index: int) -> None:
        """Do one item in a copy of the caller's context."""
        failure: BaseException | None = None
        try:
            self.results[index] = self.context.copy().run(self._apply, self.items[index])
        except BaseException as error:  # noqa: BLE001 - raised in the calling thread, whatever it is
            failure = error
        with self.pool.lock:
            self.done += 1
            # the first failure is the one: later ones may only say that the rest was cancelled
            if failure is not None and self.failure is None and not self.stop.is_set():
                self.failure = failure
                self.stop.set()
            self.pool.changed.notify_all()
        # an error and the frame that names it would keep each other, and this thread, until the garbage collector comes
        failure = None
        self.news.put(None)

    def _apply(self, item: Any) -> Any:
        _current.set(self)
        current_stop.set(self.stop)
        return self.function(item)

    def finish(self, *, last: bool) -> None:
        """Cancel the items that have not begun; the last call of a pool ends its threads."""
        aborted = self.done < len(self.items)
        if aborted:
            self.stop.abort()
        self.stop.release()
        if last:
            self.pool.close()
            if aborted:
                # errors and frames of cancelled jobs keep each other and the ended threads; collected later, in the
                # middle of another call, they would make Python ignore a Ctrl-C that comes just then
                gc.collect()
        else:
            self.pool.remove(self)

    def outcome(self) -> list[Any]:
        """Return the results, or raise what went wrong."""
        failure, self.failure = self.failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure
        if self.done < len(self.items):
            raise Cancelled
        return self.results


_current: ContextVar[_Run | None] = ContextVar("cortexclient_call", default=None)


class _Pool:
    """The threads of one call from outside, and of the calls nested in it."""

    def __init__(self, size: int) -> None:
        # entered as the lock that it is: a condition is entered by Python code, in which Ctrl-C would leave it locked
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._size = size
        self._calls: list[_Run] = []
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        renew_in_child(self)

    def renew(self) -> None:
        """Drop the threads in a child that was forked inside of a job: it does its nested calls itself."""
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._size = self._idle = 0
        self._calls, self._threads = [], []

    def add(self, call: _Run) -> None:
        """Let workers take items of a call, and start as many as are missing."""
        with self.lock:
            self._calls.append(call)
            wanted = sum(each.waiting for each in self._calls) - self._idle
            for _ in range(min(wanted, self._size - len(self._threads))):
                thread = threading.Thread(
                    target=self._work,
                    name=f"cortexclient-{len(self._threads)}",
                    # so that an interrupted program does not wait for responses that are no longer needed
                    daemon=True,
                )
                self._threads.append(thread)
                try:
                    thread.start()
                except RuntimeError:
                    # the system gives no more threads: those that there are do the work
                    self._threads.pop()
                    self._size = len(self._threads)
                    if not self._size:
                        raise
                    break
            self.changed.notify_all()

    def remove(self, call: _Run) -> None:
        """Forget a nested call."""
        with self.lock, contextlib.suppress(ValueError):
            self._calls.remove(call)

    def _work(self) -> None:
        while True:
            with self.lock:
                while (call := self._next()) is None:
                    if self._closed:
                        return
                    self._idle += 1
                    self.changed.wait()
                    self._idle -= 1
                index = call.take()
            call.work(index)

    def _next(self) -> _Run | None:
        """Choose the oldest call with items left: jobs begin before idle workers help those that have begun."""
        return next((call for call in self._calls if call.waiting), None)

    def wait(self, call: _Run, bar: Any = None, *, help_it: bool = False) -> None:
        """Wait for a call, moving its progress bar; with ``help_it``, work on it in this thread."""
        shown = 0
        while True:
            with self.lock:
                over = call.over
                index = call.take() if help_it and not over and call.waiting else None
                done = call.done
            if bar is not None and done > shown:
                bar.update(done - shown)
            shown = done
            if index is not None:
                call.work(index)
            elif over:
                return
            else:
                # a wait without limit cannot be interrupted on every platform
                with contextlib.suppress(queue.Empty):
                    call.news.get(timeout=0.5)

    def close(self) -> None:
        """Let all threads end, and wait a little for them."""
        with self.lock:
            self._closed = True
            self.changed.notify_all()
        for thread in list(self._threads):
            # an interrupt may have come before the last of them began
            if thread.is_alive():
                thread.join(timeout=_GRACE)
        # left to the garbage collector, they would die in the middle of some later call, and Python ignores a Ctrl-C
        # that comes while it collects what weak references have callbacks for, as they have for threads
        with self.lock:
            self._calls, self._threads = [], []


def run(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    progress: bool = False,
    description: str = "",
) -> list[Result]:
    """Apply a function to every item in a bounded pool of threads; return the results in the order of the items.

    The items are consumed before the first call. Inside of a worker its pool is used, whatever ``workers`` says. The
    first failure is raised; what has not begun by then never begins. Ctrl-C returns immediately.
    """
    work = list(items)
    bar = _bar(len(work), description) if progress and work else None
    above = _current.get()
    try:
        if above is not None:
            above.stop.check()
        if len(work) <= 1 or (above is None and workers <= 1):
            return _serial(function, work, bar)
        call = _Run(function, work, _Pool(workers) if above is None else above.pool)
        try:
            call.pool.add(call)
            call.pool.wait(call, bar, help_it=above is not None)
        finally:
            call.finish(last=above is None)
        return call.outcome()
    finally:
        if bar is not None:
            bar.close()


def run_all(jobs: Sequence[Callable[[], Any]], *, workers: int) -> list[Any]:
    """Do different jobs concurrently, which may use `run` themselves, in one pool; see there."""
    return run(operator.call, jobs, workers=workers)


def _serial(function: Callable[[Item], Result], work: list[Item], bar: Any) -> list[Result]:
    results = []
    stop = current_stop.get()
    for item in work:
        if stop is not None:
            stop.check()
        results.append(function(item))
        if bar is not None:
            bar.update(1)
    return results


class Prefetch(Generic[Result]):
    """A job, which may use `run`, in the background while its caller does something else.

    Make it, put it where it will be cancelled whatever happens, and only then start it: an interrupt can come at any
    moment.
    """

    def __init__(self, job: Callable[[], Result], *, workers: int) -> None:
        above = _current.get()
        self._nested = above is not None
        self._call = _Run(operator.call, [job], _Pool(workers) if above is None else above.pool)

    def start(self) -> None:
        """Begin the job."""
        self._call.pool.add(self._call)

    def result(self) -> Result:
        """Wait for the job, and return its result or raise its failure."""
        try:
            self._call.pool.wait(self._call, help_it=self._nested)
        finally:
            self.cancel()
        found: Result = self._call.outcome()[0]
        return found

    def cancel(self) -> None:
        """Begin nothing new, and shut down its connections; nothing to do where the job is done."""
        self._call.finish(last=not self._nested)


# -- progress bars ---------------------------------------------------------------------------------------------------


def _bar(total: int, description: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=description or None, leave=False)


class ProgressBar:
    """A bar whose end moves while more work turns up; silent where it is not shown."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar
        self._lock = threading.Lock()

    def step(self) -> None:
        """Count one more piece as done."""
        if self._bar is not None:
            with self._lock:
                self._bar.update(1)

    def grow(self, pieces: int) -> None:
        """Add pieces that have turned up."""
        if self._bar is not None and pieces:
            with self._lock:
                self._bar.total += pieces
                self._bar.refresh()


@contextlib.contextmanager
def progress_bar(total: int, description: str, *, show: bool) -> Iterator[ProgressBar]:
    """Show one bar for the work inside the block."""
    bar = _bar(total, description) if show and total else None
    try:
        yield ProgressBar(bar)
    finally:
        if bar is not None:
            bar.close()
