"""Work that finds out on its way what else there is to do."""

from __future__ import annotations

from collections.abc import Callable

from cortexclient.session.workers import run_all

__all__ = ["Job", "work_off"]

Job = Callable[[], None]


def work_off(take: Callable[[], Job | None], *, workers: int) -> None:
    """Do the jobs that ``take`` gives, concurrently, until there are no more."""
    while jobs := list(iter(take, None)):
        run_all(jobs, workers=workers)
