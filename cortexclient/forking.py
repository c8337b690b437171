"""Renew what a process made by ``os.fork()`` must not share with its parent: held locks, and sockets.

Only the thread that forks goes on in the child. A lock that another thread held is then locked for ever, and both
processes would read from the same sockets and take each other's responses.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Protocol
from weakref import ref

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ForkSafeLock", "renew_in_child"]


class Renewable(Protocol):
    """An object that can replace what a child process must not share."""

    def renew(self) -> None:
        """Replace locks and sockets; called in the child, where one thread runs."""


class _Known:
    """Weak references to all that is to be renewed.

    No `weakref.WeakSet`: its callbacks are Python code that runs wherever an owner dies, and Python ignores a Ctrl-C
    that comes in a callback, so that the call which it should have interrupted would go on.
    """

    def __init__(self) -> None:
        self._owners: list[ref[Renewable]] = []
        self._prune_at = 256
        self._pruning = threading.Lock()

    def add(self, owner: Renewable) -> None:
        self._owners.append(ref(owner))
        if len(self._owners) >= self._prune_at and self._pruning.acquire(blocking=False):
            try:
                # other threads may append meanwhile, behind what is looked at
                known = len(self._owners)
                self._owners[:known] = [each for each in self._owners[:known] if each() is not None]
                self._prune_at = max(256, 2 * len(self._owners))
            finally:
                self._pruning.release()

    def renew(self) -> None:
        self._pruning = threading.Lock()
        for each in list(self._owners):
            if (owner := each()) is not None:
                owner.renew()


_known = _Known()


def renew_in_child(owner: Renewable) -> None:
    """Call ``owner.renew()`` in every child process that is forked while the owner exists."""
    _known.add(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_known.renew)


class ForkSafeLock:
    """A re-entrant lock that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        renew_in_child(self)

    def renew(self) -> None:
        """Replace the lock."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            # forked inside of the block: what this thread held is the parent's lock, not the child's
            if self._lock.acquire(blocking=False):
                self._lock.release()
