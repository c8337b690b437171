"""Long arrays in blocks: what is made of a block and thrown away again then stays in the processor's cache."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["BLOCK", "blocks", "blocks_of_groups"]

# rows at once; half or twice as many take about as long
BLOCK = 1 << 15


def blocks(count: int) -> Iterator[slice]:
    """Cut ``count`` rows into slices of at most ``BLOCK``."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def blocks_of_groups(lengths: NDArray[np.int64], size: int = BLOCK) -> Iterator[slice]:
    """Cut groups of rows, given by their lengths, into slices of groups with about ``size`` rows together."""
    ends = np.searchsorted(np.cumsum(lengths), np.arange(0, int(lengths.sum()) + size, size))
    for low, high in itertools.pairwise(ends.tolist()):
        if low < high:
            yield slice(low, high)
