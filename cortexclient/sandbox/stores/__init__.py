"""The sandbox's data, loaded from a folder and answering questions; no HTTP here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["LoadedOnce"]

Value = TypeVar("Value")


class LoadedOnce(Generic[Value]):
    """A property that the first of many threads works out, while the others wait; later it is an attribute.

    From Python 3.12 :func:`functools.cached_property` would let them all read the folder.
    """

    def __init__(self, load: Callable[[Any], Value]) -> None:
        self._load = load
        self.__doc__ = load.__doc__

    def __get__(self, owner: Any, _: type) -> Value:
        known = owner.__dict__
        with known.setdefault("_loading", threading.RLock()):
            if self._load.__name__ not in known:
                known[self._load.__name__] = self._load(owner)
        value: Value = known[self._load.__name__]
        return value
