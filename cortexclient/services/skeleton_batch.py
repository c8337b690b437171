"""Many neurons, read as they are needed."""

from __future__ import annotations

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
    """Iterates over ``(root_id, neuron)``, reading a batch of neurons whenever the last one is used up.

    Parameters
    ----------
    root_ids : list of int
    load : callable
        Gives neuron or error for each of some roots.
    batch_size : int
    collect : bool
        Keep failures instead of raising the first. A service that fails for a whole batch is asked for its halves, so
        that what is to blame fails alone; if two batches in a row fail as a whole, that is raised.
    progress : bool
        Show a progress bar.

    Attributes
    ----------
    failures : dict
        Root id -> error, of the neurons that were reached and could not be had.
    """

    def __init__(
        self,
        root_ids: list[int],
        load: Callable[[list[int]], dict[int, Any]],
        batch_size: int,
        *,
        collect: bool,
        progress: bool,
    ) -> None:
        self.root_ids = root_ids
        self.failures: dict[int, CortexError] = {}
        self._load = load
        self._batch_size = batch_size
        self._collect = collect
        self._progress = progress
        self._lost = False

    def __len__(self) -> int:
        return len(self.root_ids)

    def __repr__(self) -> str:
        return f"SkeletonBatches({len(self)} neurons, {len(self.failures)} failed so far)"

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        from tqdm import tqdm

        self._lost = False
        with tqdm(total=len(self), desc="skeletons", disable=not self._progress) as bar:
            for start in range(0, len(self.root_ids), self._batch_size):
                batch = self.root_ids[start : start + self._batch_size]
                found = self._read(batch)
                for root in batch:
                    neuron = found.pop(root)  # nothing of a batch is kept once it was handed out
                    bar.update()
                    if not isinstance(neuron, CortexError):
                        yield root, neuron
                    elif self._collect:
                        self.failures[root] = neuron
                    else:
                        raise neuron

    def _read(self, batch: list[int]) -> dict[int, Any]:
        try:
            found = self._load(batch)
        except CortexError as error:
            if not self._collect or not _of_some(error):
                raise
            found = self._read_parts(batch, error)
            lost = all(isinstance(neuron, CortexError) and _of_some(neuron) for neuron in found.values())
            if lost and self._lost and not isinstance(error, OfflineError):
                raise
            self._lost = lost
        else:
            self._lost = False
        return found

    def _read_parts(self, batch: list[int], failure: CortexError) -> dict[int, Any]:
        """Read what can be read of a batch that failed; the failure in place of the others."""
        found: dict[int, Any] = {}
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
        return found | dict.fromkeys(batch, failure)

    def to_dict(self) -> dict[int, Any]:
        """Read all: root id -> neuron, without the failures."""
        return dict(self)


def _of_some(error: CortexError) -> bool:
    return isinstance(error, _OF_SOME) or type(error) is ServiceError
