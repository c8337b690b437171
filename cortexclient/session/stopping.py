"""How work in threads is given up: a stop that also wakes who waits for the network, and who is a worker of what."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from cortexclient.forking import renew_in_child

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "GRACE",
    "Cancelled",
    "Stop",
    "become_worker",
    "coordinate",
    "current_lane",
    "current_lanes",
    "current_stop",
    "join",
    "pause",
    "within_worker",
]

GRACE = 1.0
"""Seconds that a worker gets to notice that it is no longer wanted."""


class Stop(threading.Event):
    """Says that work is given up, and wakes the workers that wait for an answer of the network."""

    def __init__(self) -> None:
        super().__init__()
        self._connections: set[Any] = set()
        self._below: set[Stop] = set()
        self._guard = threading.Lock()
        renew_in_child(self)

    def renew(self) -> None:
        """Forget the parent's connections: to shut one down here would shut it down there."""
        self._guard = threading.Lock()
        self._connections = set()
        self._below = set()

    def adopt(self, below: Stop) -> None:
        """Give up the work of a pool within this one, too, once this one is given up."""
        with self._guard:
            self._below.add(below)
        if self.is_set():
            below.abort()

    def release(self, below: Stop) -> None:
        """Forget a pool that is done."""
        with self._guard:
            self._below.discard(below)

    def enter(self, connection: Any) -> None:
        """Note a connection that a worker uses now."""
        with self._guard:
            self._connections.add(connection)

    def leave(self, connection: Any) -> None:
        """Forget a connection that went back to its pool: another call may use it next."""
        with self._guard:
            self._connections.discard(connection)

    def abort(self) -> None:
        """Give up: nothing new begins, and whoever reads from the network is told that the line is dead."""
        self.set()
        with self._guard:
            for connection in self._connections:
                line = getattr(connection, "sock", None)
                if line is not None:
                    with contextlib.suppress(OSError):
                        line.shutdown(socket.SHUT_RDWR)
            below = list(self._below)
        for stop in below:
            stop.abort()


_stop: ContextVar[Stop | None] = ContextVar("cortexclient_stop", default=None)
_lanes: ContextVar[threading.Semaphore | None] = ContextVar("cortexclient_lanes", default=None)
"""In a job of `side_by_side`: what its pools share with those of the other jobs."""


def current_stop() -> Stop | None:
    """Give the stop of the work that this thread does, if it is a worker."""
    return _stop.get()


def become_worker(stop: Stop, lanes: threading.Semaphore | None = None) -> None:
    """Make this thread a worker of a call that a stop belongs to; with lanes, one that may have pools of its own."""
    _stop.set(stop)
    _lanes.set(lanes)


def within_worker() -> bool:
    """Whether this thread is a worker that may have no pool of its own: nested pools multiply."""
    return _stop.get() is not None and _lanes.get() is None


def current_lanes() -> threading.Semaphore | None:
    """Give what pools side by side share, in a job that may have pools of its own."""
    return _lanes.get()


def current_lane() -> contextlib.AbstractContextManager[Any]:
    """Give what a worker of a new pool holds at work, so that pools side by side are together as large as one."""
    return _lanes.get() or contextlib.nullcontext()


def coordinate(stop: Stop, workers: int) -> None:
    """Let the job of this thread use pools, which together are as large as one, until it is given up."""
    become_worker(stop, threading.Semaphore(workers))


class Cancelled(BaseException):
    """Work that was given up because its caller no longer waits for it."""


def pause(seconds: float) -> None:
    """Sleep, but wake up and give up when the work is cancelled."""
    stop = _stop.get()
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Cancelled


def join(threads: Iterable[threading.Thread]) -> None:
    """Wait a little for threads to end; an interrupt may have come before the last of them began."""
    for thread in list(threads):
        if thread.is_alive():
            thread.join(timeout=GRACE)
