"""Work on long arrays in blocks that stay in the processor's cache, on all processors where there are several."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    T = TypeVar("T")

__all__ = ["in_blocks", "side_by_side"]

# more threads than this wait for memory rather than for a processor
_MOST_THREADS = 4
# with fewer blocks than this for each thread, starting threads takes longer than they save
_FEW = 3


def in_blocks(work: Callable[[slice], T], count: int, size: int) -> list[T]:
    """Call ``work`` with the slices of at most ``size`` that make up ``count`` rows; the results in their order.

    Blocks may run side by side (numpy lets go of the interpreter while it works on an array), so ``work`` must write to
    nothing but its own rows. The results do not depend on how many processors there are.
    """
    return side_by_side(work, [slice(start, min(start + size, count)) for start in range(0, count, size)])


def side_by_side(work: Callable[[slice], T], blocks: Sequence[slice]) -> list[T]:
    """Call ``work`` with each of some blocks, as :func:`in_blocks` does."""
    threads = min(_processors(), _MOST_THREADS, len(blocks) // _FEW)
    if threads < 2:
        return [work(block) for block in blocks]
    with ThreadPoolExecutor(threads, thread_name_prefix="vertex-labels") as pool:
        return list(pool.map(work, blocks))


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))  # a container may not have all that the machine has
    except AttributeError:
        return os.cpu_count() or 1
