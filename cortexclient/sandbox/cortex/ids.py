"""Node ids as PyChunkedGraph makes them: layer, chunk and segment number in one 64-bit integer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["IdScheme"]

Ints = npt.NDArray[np.int64]

_LAYER_BITS = 8
_LEAF_BITS = 10


@dataclass(frozen=True)
class IdScheme:
    """How many bits each layer gives to a chunk coordinate.

    Parameters
    ----------
    layers : int
        Layer of the roots.
    """

    layers: int

    @classmethod
    def for_chunks(cls, chunks: Ints) -> IdScheme:
        """Fewest layers (at least 5) whose top chunk holds the whole volume."""
        layers = 5
        while 1 << (layers - 2) < int(chunks.max()):
            layers += 1
        return cls(layers)

    @property
    def bits(self) -> Mapping[int, int]:
        """Bits of one chunk coordinate, by layer."""
        bits = {1: _LEAF_BITS}
        for layer in range(2, self.layers + 1):
            bits[layer] = max(1, _LEAF_BITS - (layer - 2))
        return bits

    def encode(self, layer: int, chunk: Ints, segment: Ints) -> Ints:
        """Ids of nodes of one layer, int64 (n,).

        Parameters
        ----------
        layer : int
        chunk : (n, 3) int64
            In chunks of that layer.
        segment : (n,) int64
        """
        bits = self.bits[layer]
        space = 64 - _LAYER_BITS - 3 * bits
        packed = (chunk[:, 0] << (2 * bits)) | (chunk[:, 1] << bits) | chunk[:, 2]
        return (np.int64(layer) << np.int64(64 - _LAYER_BITS)) | (packed << space) | segment

    def layer(self, ids: Ints) -> Ints:
        """Layer of each id, int64 (n,)."""
        return np.asarray(ids, dtype=np.int64) >> (64 - _LAYER_BITS)

    def chunk(self, ids: Ints) -> Ints:
        """Chunk of each id in chunks of its own layer, int64 (n, 3)."""
        ids = np.asarray(ids, dtype=np.int64)
        bits = np.array([self.bits.get(k, 1) for k in range(self.layers + 1)], dtype=np.int64)[
            self.layer(ids)
        ]
        space = 64 - _LAYER_BITS - 3 * bits
        mask = (np.int64(1) << bits) - 1
        return np.column_stack([(ids >> (space + k * bits)) & mask for k in (2, 1, 0)])

    def segment(self, ids: Ints) -> Ints:
        """Segment number of each id, int64 (n,)."""
        ids = np.asarray(ids, dtype=np.int64)
        bits = np.array([self.bits.get(k, 1) for k in range(self.layers + 1)], dtype=np.int64)[
            self.layer(ids)
        ]
        return ids & ((np.int64(1) << (64 - _LAYER_BITS - 3 * bits)) - 1)
