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
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cortexclient.forking import renew_in_child
from cortexclient.settings import env_int

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

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

    def __init__(self, pool: _Pool, above: Stop | None) -> None:
        super().__init__()
        self.pool = pool
        self._above = above
        self._used: set[Any] = set()  # connections that workers use now, and the stops of nested calls
        self._guard = threading.Lock()
        renew_in_child(self)
        if above is not None:
            above.enter(self)
            if above.is_set():
                self.abort()

    def renew(self) -> None:
        """Forget the parent's connections in a forked child: to shut one down here would shut it down there."""
        self._guard = threading.Lock()
        self._used = set()

    def enter(self, used: Any) -> None:
        """Note a connection that a worker uses now."""
        with self._guard:
            self._used.add(used)

    def leave(self, used: Any) -> None:
        """Forget a connection that went back to its pool: another call may use it next."""
        with self._guard:
            self._used.discard(used)

    def abort(self) -> None:
        """Cancel: nothing new begins, and connections in use are shut down."""
        self.set()
        with self._guard:
            for used in self._used:
                if isinstance(used, Stop):
                    used.abort()
                elif (line := getattr(used, "sock", None)) is not None:
                    with contextlib.suppress(OSError):
                        line.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Leave the stop above, once the work is done."""
        if self._above is not None:
            self._above.leave(self)

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


class _Pool:
    """The threads of one call from outside, and of the calls nested in it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._calls: list[_Call] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closed = False
        renew_in_child(self)

    def renew(self) -> None:
        """Drop the threads in a child that was forked inside of a job: it does its nested calls itself."""
        self._size, self._calls, self._threads = 0, [], []
        self._lock, self._wake = threading.Lock(), queue.SimpleQueue()

    def add(self, call: _Call) -> None:
        """Let workers take items of a call, and start as many as are missing."""
        with self._lock:
            self._calls.append(call)
            for _ in range(min(len(call.items), self._size - len(self._threads))):
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
        for _ in range(min(len(call.items), self._size)):
            self._wake.put(None)

    def remove(self, call: _Call) -> None:
        """Forget a call that is over."""
        with self._lock, contextlib.suppress(ValueError):
            self._calls.remove(call)

    def _work(self) -> None:
        while True:
            self._wake.get()
            if self._closed:
                self._wake.put(None)  # for the next thread
                return
            # the oldest call first: its jobs begin before idle workers help those that have begun
            while any(call.do_next() for call in tuple(self._calls)):
                pass

    def close(self) -> None:
        """Let all threads end, and wait a little for them."""
        self._closed = True
        self._wake.put(None)
        for thread in self._threads:
            # an interrupt may have come before the last of them began
            if thread.is_alive():
                thread.join(timeout=_GRACE)
        # left to the garbage collector, they would die in the middle of some later call, and Python ignores a Ctrl-C
        # that comes while it collects what weak references have callbacks for, as they have for threads
        self._threads = []


class _Call:
    """One call of `run`: a function, its items, and their results."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any], workers: int) -> None:
        above = current_stop.get()
        self.nested = above is not None
        self.pool = _Pool(workers) if above is None else above.pool
        self.stop = Stop(self.pool, above)
        self.function = function
        self.items = items
        self.results: list[Any] = [None] * len(items)
        self._context = contextvars.copy_context()
        self._context.run(current_stop.set, self.stop)
        self._left = deque(range(len(items)))
        self._unreported = len(items)
        # the failure of each item that is done, or None; read without holding a lock that Ctrl-C could leave locked
        self._reports: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def do_next(self) -> bool:
        """Do the next item in a copy of the caller's context; return whether there was one."""
        if self.stop.is_set() or not self._left:
            return False
        try:
            index = self._left.popleft()
        except IndexError:
            return False  # another thread was faster
        failure: BaseException | None = None
        try:
            self.results[index] = self._context.copy().run(self.function, self.items[index])
        except BaseException as error:  # noqa: BLE001 - raised in the calling thread, whatever it is
            # the first failure is the one: later ones may only say that the rest was cancelled
            failure = Cancelled() if self.stop.is_set() else error
        self._reports.put(failure)
        if failure is not None:
            self.stop.abort()
        # an error and the frame that names it would keep each other, and this thread, until the garbage collector comes
        failure = None
        return True

    def wait(self, bar: Any = None) -> None:
        """Wait until all items are done, or raise the first failure; a nested call does items in this thread."""
        while self._unreported:
            if self.nested:
                self.do_next()
            failure = self._next_report()
            self._unreported -= 1
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure
            if bar is not None:
                bar.update(1)

    def _next_report(self) -> BaseException | None:
        while True:
            cancelled = self.stop.is_set()
            with contextlib.suppress(queue.Empty):
                # a wait without limit cannot be interrupted on every platform
                return self._reports.get(timeout=0 if cancelled else 0.5)
            if cancelled:
                raise Cancelled

    def finish(self) -> None:
        """Cancel the items that are not done; the threads of a call from outside end."""
        if self._reports.qsize() < self._unreported:
            self.stop.abort()
        self.stop.release()
        self.pool.remove(self)
        if not self.nested:
            self.pool.close()
            if self.stop.is_set():
                # errors and frames of jobs that failed keep each other and the ended threads; collected later, in the
                # middle of another call, they would make Python ignore a Ctrl-C that comes just then
                gc.collect()


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
    stop = current_stop.get()
    if stop is not None:
        stop.check()
    with _bar(len(work), description, show=progress) as bar:
        if len(work) <= 1 or (stop is None and workers <= 1):
            return _serial(function, work, bar)
        call = _Call(function, work, workers)
        try:
            call.pool.add(call)
            call.wait(bar)
        finally:
            call.finish()
        return call.results


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
        self._call = _Call(operator.call, [job], workers)

    def start(self) -> None:
        """Begin the job."""
        self._call.pool.add(self._call)

    def result(self) -> Result:
        """Wait for the job, and return its result or raise its failure."""
        try:
            self._call.wait()
        finally:
            self.cancel()
        found: Result = self._call.results[0]
        return found

    def cancel(self) -> None:
        """Begin nothing new, and shut down its connections; nothing to do where the job is done."""
        self._call.finish()


# -- progress bars ---------------------------------------------------------------------------------------------------


def _bar(total: int, description: str, *, show: bool) -> AbstractContextManager[Any]:
    if not (show and total):
        return contextlib.nullcontext()
    from tqdm import tqdm

    bar: AbstractContextManager[Any] = tqdm(total=total, desc=description or None, leave=False)
    return bar


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
    with _bar(total, description, show=show) as bar:
        yield ProgressBar(bar)
