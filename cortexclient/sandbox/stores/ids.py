"""Node ids of a chunkedgraph: 8 bits of layer, then chunk x, y, z, then a segment number in the chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["IdLayout"]

LAYER_SHIFT = 56  # ids are 64 bits and the layer takes the top 8

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class IdLayout:
    """How the ids of one graph are put together.

    Parameters
    ----------
    n_layers : int
        Layer of the roots.
    bits : ndarray of int64, shape (n_layers + 1,)
        Bits of one chunk coordinate at each layer; entry 0 is unused.
    """

    n_layers: int
    bits: NDArray[np.int64]

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> IdLayout:
        """Read the layout from the ``graph`` part of a graphene info."""
        graph = info["graph"]
        n_layers = int(graph["n_layers"])
        masks = graph["spatial_bit_masks"]
        return cls(
            n_layers, np.array([0] + [int(masks[str(i)]) for i in range(1, n_layers + 1)], dtype=np.int64)
        )

    def layers(self, ids: ArrayLike) -> Ids:
        """Layer of each id, int64; 0 for the id 0."""
        return np.asarray(ids, dtype=np.int64) >> LAYER_SHIFT

    def _width(self, ids: Ids) -> Ids:
        # ids of no known layer decode to something harmless: they are in no table anyway
        return self.bits[np.clip(self.layers(ids), 0, self.n_layers)]

    def chunks(self, ids: ArrayLike) -> Ids:
        """Chunk coordinates of each id, int64 (n, 3), counted in chunks of the id's own layer."""
        ids = np.asarray(ids, dtype=np.int64)
        width = self._width(ids)
        mask = (np.int64(1) << width) - 1
        return np.stack([(ids >> (LAYER_SHIFT - width * axis)) & mask for axis in (1, 2, 3)], axis=-1)

    def segments(self, ids: ArrayLike) -> Ids:
        """Segment number of each id within its chunk, int64."""
        ids = np.asarray(ids, dtype=np.int64)
        numbers: Ids = ids & ((np.int64(1) << (LAYER_SHIFT - 3 * self._width(ids))) - 1)
        return numbers

    def chunk_ids(self, ids: ArrayLike) -> Ids:
        """Id of the chunk that each id lies in: the id with segment number 0."""
        ids = np.asarray(ids, dtype=np.int64)
        return ids - self.segments(ids)

    def encode(self, layer: int, chunks: ArrayLike, segments: ArrayLike) -> Ids:
        """Put ids together.

        Parameters
        ----------
        layer : int
        chunks : array_like of int, shape (n, 3)
        segments : array_like of int, shape (n,)

        Returns
        -------
        ndarray of int64, shape (n,)
        """
        chunks = np.asarray(chunks, dtype=np.int64)
        width = int(self.bits[layer])
        ids: Ids = np.asarray(segments, dtype=np.int64) + (np.int64(layer) << LAYER_SHIFT)
        for axis in (1, 2, 3):
            ids = ids + (chunks[..., axis - 1] << (LAYER_SHIFT - width * axis))
        return ids

    def at_layer(self, chunks: ArrayLike, source: int, target: int) -> Ids:
        """Chunk coordinates of one layer as those of a higher layer (each layer above 2 halves them)."""
        steps = max(target, 2) - max(source, 2)
        return np.asarray(chunks, dtype=np.int64) >> steps
