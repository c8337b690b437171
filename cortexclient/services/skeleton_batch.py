"""Many neurons, read as they are needed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from cortexclient.errors import (
    CortexError,
    IncompleteResultError,
    OfflineError,
    ProtocolError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from cortexclient.session import Ahead, within_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SkeletonBatches"]

_OF_SOME = (
    IncompleteResultError,
    OfflineError,
    ProtocolError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
"""What a batch can fail with because of some of its neurons, or for a moment."""


class SkeletonBatches:
    """Iterates over ``(root_id, neuron)``, reading a batch of neurons while the one before it is used up.

    Parameters
    ----------
    root_ids : list of int
    load : callable
        Gives for each of some roots what makes its neuron or gives the error.
    batch_size : int
    collect : bool
        Keep failures instead of raising the first. A service that fails for a whole batch is asked for its halves, so
        that what is to blame fails alone; if two batches in a row fail as a whole, that is raised.
    progress : bool
        Show a progress bar.
    workers : int
        Largest number of threads that ask for the next batch; with 1 it is asked for when it is needed.

    Attributes
    ----------
    failures : dict
        Root id -> error, of the neurons that were reached and could not be had.
    """

    def __init__(
        self,
        root_ids: list[int],
        load: Callable[[list[int]], dict[int, Callable[[], Any]]],
        batch_size: int,
        *,
        collect: bool,
        progress: bool,
        workers: int = 1,
    ) -> None:
        self.root_ids = root_ids
        self.failures: dict[int, CortexError] = {}
        self._load = load
        self._batch_size = batch_size
        self._collect = collect
        self._progress = progress
        self._workers = workers
        self._lost = False

    def __len__(self) -> int:
        return len(self.root_ids)

    def __repr__(self) -> str:
        return f"SkeletonBatches({len(self)} neurons, {len(self.failures)} failed so far)"

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        from tqdm import tqdm

        self._lost = False
        size = self._batch_size
        batches = [self.root_ids[start : start + size] for start in range(0, len(self.root_ids), size)]
        following: Ahead[dict[int, Callable[[], Any]]] | None = None
        try:
            with tqdm(total=len(self), desc="skeletons", disable=not self._progress) as bar:
                for number, batch in enumerate(batches):
                    found = self._read(batch) if following is None else following.result()
                    following = None
                    for place, root in enumerate(batch):
                        if (
                            place == 1
                            and number + 1 < len(batches)
                            and self._workers > 1
                            and not within_worker()
                        ):
                            # not with the first one: whoever only looks at that asks for nothing more
                            following = Ahead(partial(self._read, batches[number + 1]), workers=self._workers)
                            following.start()
                        neuron = found.pop(root)()  # nothing of a batch is kept once it was handed out
                        bar.update()
                        if not isinstance(neuron, CortexError):
                            yield root, neuron
                        elif self._collect:
                            self.failures[root] = neuron
                        else:
                            raise neuron
        finally:
            if following is not None:
                following.give_up()

    def _read(self, batch: list[int]) -> dict[int, Callable[[], Any]]:
        try:
            found = self._load(batch)
        except CortexError as error:
            if not self._collect or not _of_some(error):
                raise
            found, failed, failure = self._read_parts(batch, error)
            lost = len(failed) == len(batch)
            if lost and self._lost and not isinstance(error, OfflineError):
                raise
            self._lost = lost
            return found | dict.fromkeys(failed, lambda: failure)
        self._lost = False
        return found

    def _read_parts(
        self, batch: list[int], failure: CortexError
    ) -> tuple[dict[int, Callable[[], Any]], list[int], CortexError]:
        """Read what can be read of a batch that failed; give that, the rest, and why the rest failed."""
        found: dict[int, Callable[[], Any]] = {}
        # what is kept costs nothing to look at one by one
        pieces = len(batch) if isinstance(failure, OfflineError) else 2
        while len(batch) > 1:
            failed = []
            size = -(-len(batch) // pieces)
            for part in (batch[start : start + size] for start in range(0, len(batch), size)):
                try:
                    found |= self._load(part)
                except CortexError as error:
                    if not _of_some(error):
                        raise
                    failure = error
                    failed.append(part)
            batch = [root for part in failed for root in part]
            if len(failed) != 1:  # none is left, or it is not one part that is to blame
                break
        return found, batch, failure

    def to_dict(self) -> dict[int, Any]:
        """Read all: root id -> neuron, without the failures."""
        return dict(self)


def _of_some(error: CortexError) -> bool:
    return isinstance(error, _OF_SOME) or type(error) is ServiceError
