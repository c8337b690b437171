"""Many neurons, read as they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.errors import CortexError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SkeletonBatches"]


class SkeletonBatches:
    """Iterates over ``(root_id, neuron)``, reading a batch of neurons whenever the last one is used up.

    Parameters
    ----------
    root_ids : list of int
    load : callable
        Gives neuron or error for each of some roots.
    batch_size : int
    collect : bool
        Keep failures instead of raising the first.
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

    def __len__(self) -> int:
        return len(self.root_ids)

    def __repr__(self) -> str:
        return f"SkeletonBatches({len(self)} neurons, {len(self.failures)} failed so far)"

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        from tqdm import tqdm

        with tqdm(total=len(self), desc="skeletons", disable=not self._progress) as bar:
            for start in range(0, len(self.root_ids), self._batch_size):
                batch = self.root_ids[start : start + self._batch_size]
                found = self._load(batch)
                for root in batch:
                    neuron = found.pop(root)  # nothing of a batch is kept once it was handed out
                    bar.update()
                    if not isinstance(neuron, CortexError):
                        yield root, neuron
                    elif self._collect:
                        self.failures[root] = neuron
                    else:
                        raise neuron

    def to_dict(self) -> dict[int, Any]:
        """Read all: root id -> neuron, without the failures."""
        return dict(self)
