"""Ids on their way from answers to the questions that need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cortexclient.types import IdArray

__all__ = ["Feed"]


class Feed:
    """Collects the ids that a question will be asked about.

    Parameters
    ----------
    table, column : str
        Where the ids are looked for.
    size : int
        Most ids of one request.
    pick : callable
        Takes the number of a question and rows of its answer (`pyarrow.Table`), gives their ids as int64. Each id
        must be given once.
    """

    def __init__(self, table: str, column: str, *, size: int, pick: Callable[[int, Any], IdArray]) -> None:
        self.table = table
        self.column = column
        self.size = size
        self.over = False
        self.passed = False
        self._pick = pick
        self._ids: list[int] = []
        self._again: set[int] = set()

    def picked(self, number: int, rows: Any) -> list[int]:
        """Give the ids of some rows; in any thread."""
        ids: list[int] = self._pick(number, rows).tolist()
        return ids

    def take(self, ids: list[int]) -> None:
        """Collect ids."""
        self._ids.extend([number for number in ids if number not in self._again] if self._again else ids)

    def expect_again(self, ids: list[int]) -> None:
        """Pass over ids that were collected already, when their rows come once more."""
        self._again.update(ids)

    def full(self, room: int) -> list[int]:
        """Give a list that is full; none where the ids that wait do not fill one."""
        if len(self._ids) < room:
            return []
        ids = self._ids[:room]
        del self._ids[:room]
        self.passed = True
        return ids

    def rest(self, room: int) -> list[list[int]]:
        """Give what is left, in lists of about the same length; no more comes."""
        self.over = True
        pieces = -(-len(self._ids) // room)
        size = -(-len(self._ids) // pieces) if pieces else 1
        lists = [self._ids[start : start + size] for start in range(0, len(self._ids), size)]
        self._ids = []
        self.passed = self.passed or bool(lists)
        return lists
