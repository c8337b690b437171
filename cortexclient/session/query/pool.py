"""Values of a list that wait to be asked, and what the answers so far tell about how many rows each has.

An answer that was cut short is a sample of the rows of its values. What came of other questions about the same table is
one, too: who receives many synapses from some neurons is likely to receive many. Nothing but the number of requests
depends on it, as an answer that is cut short all the same is never taken for whole.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from cortexclient.session.query.pack import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cortexclient.session.query.pack import Sample

__all__ = ["Pool"]

_FILL = 0.87
"""How full an answer is to be: what is left keeps nearly all below the cap, and few are half empty."""

_OVERFULL = 1.15
"""The same from a server that gives all rows of one value after those of another: only the last value is lost."""

_UNSEEN = 1 / 3
"""Share of values without a row from which on an answer is no sample: the server gave one value after the other."""

_PRIOR = 0.5
"""Rows that every value counts for beside those in a sample, so that none is taken for empty."""

_SHAPE = 2.0
"""How alike values are taken to be (shape of a gamma distribution) when they are judged by rows of other questions."""

_GUESS = 4.0
"""Times the cap that answers which were cut short are taken to have, as long as nothing has been counted."""

_OVER = 1.1
"""The same for one that was made to fit: it is only a little too large."""

_NEIGHBOURS = 7
"""Groups that are mixed anew with the values of one that turned out too large."""

_FEW = 100
"""Values of which it is looked at whether they fill an answer."""

_GROWTH = 1.5
"""By how much what other questions tell must have grown to be looked at again."""


@dataclass(slots=True)
class _Known:
    """What the answers that were cut short tell about one value.

    Parameters
    ----------
    share : float
        Of the rows of the last of them, estimated.
    size : int
        Number of values that it was about; 0 where there was none.
    floor : float
        Rows to take it for at least. Those of values that were cut short together add up to more than fits, so that
        they are not asked about together again.
    depth : int
        How often it was cut short.
    """

    share: float = 0.0
    size: int = 0
    floor: float = 0.0
    depth: int = 0


class Pool:
    """Gives values of a list in groups that fill an answer, and no more, as far as is known.

    Parameters
    ----------
    most : int
        Most values of one group.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[Any, _Known] = {}
        self._waiting: dict[Any, None] = {}
        self._groups: deque[list[Any]] = deque()
        self._elsewhere: dict[Any, int] = {}
        self._rows_elsewhere = self._looked_at = 0
        self._planned = False
        self._thin = 0.0
        self._mean: float | None = None
        self._cap = 1
        self._sampled_rows = self._sampled_values = 0
        self._heard_values = self._heard_rows = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def pieces(self) -> int:
        """Number of groups that are planned."""
        return len(self._groups)

    @property
    def thin(self) -> bool:
        """Whether all values that wait fill no answer, so that it is better to wait for more."""
        return len(self._waiting) <= _FEW and (sum(self.weights(self._waiting).values()) < _FILL * self._cap)

    # -- what becomes known --------------------------------------------------------------------------------------

    def wait(self, values: Iterable[Any]) -> None:
        """Take values of which nothing is known."""
        self._waiting |= dict.fromkeys(values)
        self._planned = False

    def cut(self, sample: Sample, *, depth: int, fitted: bool) -> None:
        """Take values whose answer was cut short.

        Parameters
        ----------
        sample : Sample
            What came.
        depth : int
            How often what it was asked for has been divided.
        fitted : bool
            Whether the values had been chosen to fit.
        """
        self._cap = max(self._cap, sample.cap)
        # what was fitted by a guess tells how wrong that was
        fitted = fitted and self._mean is not None
        least = sample.cap * (_OVER if fitted else 1.0)
        for value, (share, rows) in _told(sample, least).items():
            known = self._known.setdefault(value, _Known())
            known.share, known.size = share, len(sample.values)
            known.floor = max(known.floor, rows)
            known.depth = max(known.depth, depth) + 1
        self._waiting |= dict.fromkeys(sample.values)
        if not fitted:
            self._sampled_rows += sample.cap
            self._sampled_values += len(sample.values)
        if self._planned:
            # a few others with them, so that the pieces are as full as can be
            near = (
                [self._groups.popleft() for _ in range(min(_NEIGHBOURS, len(self._groups)))] if fitted else []
            )
            values = [*sample.values, *chain.from_iterable(near)]
            self._groups.extendleft(reversed(self._grouped(values)))

    def counted(self, mean: float, cap: int) -> None:
        """Hear how many rows those have on the average that wait, and how many an answer holds."""
        self._mean, self._cap = max(0.0, mean), cap
        self._planned = False

    def heard(self, values: int, rows: int) -> None:
        """Hear how many rows some other values have that were whole in an answer that was cut short."""
        self._heard_values += values
        self._heard_rows += rows

    def misheard(self) -> None:
        """Hear that they were not whole."""
        self._heard_values = self._heard_rows = 0

    def saw(self, found: Mapping[Any, int]) -> None:
        """Hear of rows that values have in answers to other questions about the same table."""
        for value, rows in found.items():
            if value in self._waiting and value not in self._known:
                self._elsewhere[value] = self._elsewhere.get(value, 0) + rows
                self._rows_elsewhere += rows
        if self._rows_elsewhere > _GROWTH * self._looked_at:
            self._planned = False

    # -- what is asked next --------------------------------------------------------------------------------------

    def take(self) -> tuple[list[Any], int]:
        """Give the values to ask about next, and how often one of them was cut short."""
        if not self._planned or self.thin:
            self._looked_at = self._rows_elsewhere
            others = [value for value in self._waiting if value not in self._known]
            seen = sum(self._elsewhere.get(value, 0) for value in others)
            self._thin = seen / len(others) if others else 0.0
            self._groups = deque(self._grouped(self._waiting))
            self._planned = True
        group = self._groups.popleft()
        for value in group:
            del self._waiting[value]
        return group, max((self._known[value].depth for value in group if value in self._known), default=0)

    def weights(self, values: Iterable[Any]) -> dict[Any, float]:
        """Estimate how many rows values have that wait.

        Returns
        -------
        dict
            Value -> expected rows.
        """
        mean = self._average()
        found = {}
        for value in values:
            known = self._known.get(value)
            if known is not None:
                found[value] = max(known.floor, known.share * known.size * mean)
            else:
                # rows of other questions are a thin sample; what it leaves of a gamma distribution whose mean was
                # counted has this mean
                rows = self._elsewhere.get(value, 0)
                found[value] = mean * (_SHAPE + rows) / (_SHAPE + self._thin)
        return found

    def _grouped(self, values: Iterable[Any]) -> list[list[Any]]:
        fill = _OVERFULL if self._heard_values else _FILL
        return pack(self.weights(values), fill * self._cap, most=self._most)

    def _average(self) -> float:
        if self._mean is not None:
            return self._mean
        if self._heard_values:
            return self._heard_rows / self._heard_values
        return _GUESS * self._sampled_rows / self._sampled_values if self._sampled_values else 1.0


def _told(sample: Sample, least: float) -> dict[Any, tuple[float, float]]:
    """Estimate for each value which share it has of the rows of its sample, and how many rows at least."""
    if sample.last is None:
        return {value: (share, share * least) for value, share in _shares(sample).items()}
    # one value came after the other, so that those before the last are known, and of those after it nothing
    mean = 1 / len(sample.values)
    told = {}
    for value in sample.values:
        rows = sample.seen.get(value, 0)
        told[value] = (0.0 if rows and value != sample.last else mean, float(rows))
    return told


def _shares(sample: Sample) -> dict[Any, float]:
    """Estimate which share of the rows of a sample each of its values has."""
    counts = [sample.seen.get(value, 0) for value in sample.values]
    if counts.count(0) > _UNSEEN * len(counts):
        return dict.fromkeys(sample.values, 1 / len(counts))
    whole = sum(counts) + _PRIOR * len(counts)
    return {value: (count + _PRIOR) / whole for value, count in zip(sample.values, counts, strict=True)}
