"""One bar for work of many pieces."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ProgressBar", "plain_bar", "progress_bar"]


def plain_bar(total: int, description: str) -> Any:
    """Make a bar of a known number of pieces."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=description or None, leave=False)


class ProgressBar:
    """A bar whose end moves while the work is being found out; silent where it is not shown."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar
        self._lock = threading.Lock()

    def step(self) -> None:
        """One more piece is done."""
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
    bar = plain_bar(total, description) if show and total else None
    try:
        yield ProgressBar(bar)
    finally:
        if bar is not None:
            bar.close()
