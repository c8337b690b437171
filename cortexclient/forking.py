"""Renew what a process made by ``os.fork()`` must not share with its parent: held locks, and sockets.

Only the thread that forks goes on in the child. A lock that another thread held is then locked for ever, and both
processes would read from the same sockets and take each other's responses.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Protocol
from weakref import ref

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ForkSafeLock", "renew_in_child"]


class Renewable(Protocol):
    """An object that can replace what a child process must not share."""

    def renew(self) -> None:
        """Replace locks and sockets; called in the child, where one thread runs."""


_owners: dict[int, ref[Renewable]] = {}


def renew_in_child(owner: Renewable) -> None:
    """Call ``owner.renew()`` in every child process that is forked while the owner exists."""
    # The callback is C code. Those of a `weakref.WeakSet` are Python code that runs wherever an owner dies, and Python
    # ignores a Ctrl-C that comes in a callback, so that the call which it should have interrupted would go on.
    _owners[id(owner)] = ref(owner, partial(_owners.pop, id(owner)))


def _renew() -> None:
    for each in list(_owners.values()):
        if (owner := each()) is not None:
            owner.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class ForkSafeLock:
    """A re-entrant lock that is free in a forked child and in a pickled copy, whoever holds it here."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        renew_in_child(self)

    def __reduce__(self) -> tuple[type[ForkSafeLock], tuple[()]]:
        return ForkSafeLock, ()

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
