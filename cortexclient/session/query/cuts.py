"""Where to cut a question, so that its parts neither overlap nor leave gaps: along lists, or along ranges of ids."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cortexclient.session.query.question import Question

__all__ = ["FILL", "Range", "blind_cuts", "cut_list", "cut_range", "plan_cuts"]

FILL = 0.85
"""How full a part should be of what the server returns at most, so that uneven parts still fit."""

MOST_PARTS = 4096
_BLIND = 8


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open range of key values; None is no bound."""

    low: int | None = None
    high: int | None = None

    def cut(self, bounds: Sequence[int]) -> list[Range]:
        """Cut at the given values, which fall inside or are left out."""
        inner = sorted({value for value in bounds if self._inside(value)})
        edges = [self.low, *inner, self.high]
        return [Range(low, high) for low, high in itertools.pairwise(edges)]

    def _inside(self, value: int) -> bool:
        return (self.low is None or value > self.low) and (self.high is None or value < self.high)

    @property
    def single(self) -> bool:
        """Whether only one value fits."""
        return self.low is not None and self.high is not None and self.high - self.low <= 1


def cut_list(question: Question, pieces: int) -> list[Question]:
    """Cut the longest list filter of a question into about equal pieces; the question itself where there is none."""
    longest = question.longest_list()
    if longest is None:
        return [question]
    table, column, values = longest
    distinct = list(dict.fromkeys(values))
    size = max(1, math.ceil(len(distinct) / max(1, pieces)))
    return [
        question.where("in", table, column, distinct[start : start + size])
        for start in range(0, len(distinct), size)
    ]


def plan_cuts(seen: Sequence[int], cap: int, total: int | None, above: int | None) -> list[int]:
    """Choose where to cut a range of keys, from the keys of an answer that was cut short.

    Parameters
    ----------
    seen : sequence of int
        Sorted keys of the rows that came.
    cap : int
        Most rows of one answer.
    total, above : int or None
        Number of rows in the whole range and beyond the largest key seen; None where it is not known.

    Returns
    -------
    list of int
        Values to cut at. Inside the keys seen they are quantiles; beyond them they are steps as dense as what was
        seen, or doubling ones where nothing can be counted.
    """
    low, high = seen[0], seen[-1]
    room = max(1, int(cap * FILL))
    if total is None or above is None:
        width = max(1, high - low)
        doubling = [high + 1 + width * (2**step - 1) for step in range(1, 7)]
        return sorted({seen[len(seen) // 2], high + 1, *doubling})
    inside = max(1, total - above)
    pieces = min(MOST_PARTS, math.ceil(inside / room))
    cuts = [seen[(len(seen) * step) // pieces] for step in range(1, pieces)]
    beyond = min(MOST_PARTS, math.ceil(above / room))
    step = max(1, math.ceil((high - low + 1) / inside * room))
    return sorted({*cuts, high + 1, *(high + 1 + step * number for number in range(1, beyond + 1))})


def cut_range(span: Range, cuts: Sequence[int], seen: Sequence[int] = ()) -> list[Range]:
    """Cut a range so that progress is certain: if no cut falls inside, it is halved.

    A range without a bound has no half: it is cut in the middle of the sorted keys seen in it, where there are any.
    """
    parts = span.cut(cuts)
    if len(parts) > 1 or span.single:
        return parts
    if span.low is not None and span.high is not None:
        return span.cut([(span.low + span.high) // 2])
    if not seen:
        return parts
    middle = seen[len(seen) // 2]
    # a key at the lower bound is no cut, the value after it is
    return span.cut([middle if middle != span.low else middle + 1])


def blind_cuts(span: Range) -> list[int]:
    """Choose where to cut a range of ids of which nothing is known, because no row of it came."""
    low = 0 if span.low is None else span.low
    if span.high is None:
        # annotation ids count from 1, but they may be anything that 63 bits hold
        return [low, *(low + 2**power for power in range(10, 40, 4)), low + 2**48]
    low = min(low, span.high - 1) if span.low is None else low
    return [low + (span.high - low) * step // _BLIND for step in range(_BLIND)]
