"""Answers that are asked for once, however many threads want them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from cortexclient.forking import renew_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Once"]

T = TypeVar("T")


class Once:
    """A memory in which concurrent callers of one key share a single computation; failures are not remembered."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, threading.RLock] = {}
        self._lock = threading.Lock()
        renew_in_child(self)

    def renew(self) -> None:
        """Free every lock: the threads that held them do not exist in a forked child."""
        self._lock = threading.Lock()
        self._locks = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Give the value of a key, computed by the first caller while the others wait."""
        try:
            value: T = self._values[key]
        except KeyError:
            pass
        else:
            return value
        with self._lock:
            lock = self._locks.setdefault(key, threading.RLock())
        with lock:
            if key not in self._values:
                self._values[key] = make()
            made: T = self._values[key]
        return made

    def peek(self, key: Hashable) -> Any:
        """Give the value of a key if it is there already, else None."""
        return self._values.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        """Set the value of a key."""
        self._values[key] = value

    def forget(self, *keys: Hashable) -> None:
        """Drop some keys, or everything where none is named."""
        with self._lock:
            for key in keys or list(self._values):
                self._values.pop(key, None)
