"""Writing the files of a data folder: Parquet with fixed bytes, and JSON."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 3

TIME = pa.timestamp("us", tz="UTC")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def write_provenance(volume: Path, description: str) -> None:
    """Write where a volume is from."""
    words = {"sources": [], "owners": [], "processing": [], "description": description}
    write_json(volume / "provenance", words)


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write a Parquet file; numpy arrays keep their dtype, Arrow arrays are taken as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd")


def times(values: list[datetime | None] | datetime, count: int | None = None) -> pa.Array:
    """Timestamps in microseconds, UTC; one value is repeated ``count`` times."""
    if isinstance(values, datetime):
        micros = int(values.timestamp() * 1_000_000 + 0.5)
        return pa.array(np.full(count or 0, micros, dtype=np.int64)).cast(TIME)
    return pa.array(values, type=TIME)


def lists(values: npt.NDArray[Any]) -> pa.Array:
    """Rows of an (n, k) or (n, j, k) array as Arrow lists."""
    flat = pa.array(values.reshape(-1))
    array = flat
    for axis in range(values.ndim - 1, 0, -1):
        width = values.shape[axis]
        count = int(np.prod(values.shape[:axis]))
        array = pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * width), array)
    return array


def in_two_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results of a function in the order of its arguments; numpy's sorts and searches use a second core."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(2, "cortex") as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD:  # what is made faster than it is used would fill the memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Spool:
    """Keeps large arrays on disk instead of in memory, where it is given an existing folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._count = 0

    def keep(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The same values, read from disk when they are needed."""
        if self._folder is None:
            return array
        path = self._folder / f"{self._count}.npy"
        self._count += 1
        np.save(path, array)
        # a plain view of the map: indexing numpy's own memmap class is several times slower
        return np.asarray(np.load(path, mmap_mode="r"))
