"""Calls of libraries that warn of their own use of other libraries, which is none of the user's business."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

from cortexclient.forking import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]

# what is shown belongs to the whole process: of two threads that change it at once, one would restore the other's state
_ONE_AT_A_TIME = ForkSafeLock()


@contextlib.contextmanager
def quiet(*kinds: type[Warning]) -> Iterator[None]:
    """Show no warnings of some kinds inside the block, which one thread enters at a time."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        for kind in kinds:
            warnings.simplefilter("ignore", kind)
        yield
