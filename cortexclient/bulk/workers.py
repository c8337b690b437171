"""Workers of a bulk job, and what one of them does with a batch."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import threading
from concurrent.futures import Executor, Future
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cortexclient.bulk.folder import Record, read_records
from cortexclient.errors import (
    AuthenticationError,
    CortexError,
    JobError,
    MissingDataError,
    MissingExtraError,
    NotConfiguredError,
    OutputError,
    StaleRootError,
)
from cortexclient.session import Prefetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cortexclient.bulk.folder import Folder
    from cortexclient.bulk.kinds import Kind
    from cortexclient.client import DatasetClient

__all__ = ["HOPELESS_BATCHES", "OF_ONE", "Threads", "dask_client", "do_batch", "size_of"]

log = logging.getLogger(__name__)

FATAL = (AuthenticationError, NotConfiguredError, MissingExtraError, OutputError)
"""Errors that every other neuron would fail with, too."""

OF_ONE = (MissingDataError, StaleRootError)
"""Errors that are about a neuron, however many neurons they are about."""

HOPELESS_BATCHES = 3
"""After so many failures of another kind in a row, nothing else is tried."""

_LONGEST_MESSAGE = 500


class Threads(Executor):
    """Threads whose requests end when they are shut down, unlike those of a ThreadPoolExecutor."""

    def __init__(self) -> None:
        self._jobs: dict[Future[Any], Prefetch[None]] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a thread of its own."""
        self._end([future for future in self._jobs if future.done()])
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - raised where the result is read
                future.set_exception(error)

        future.set_running_or_notify_cancel()
        self._jobs[future] = Prefetch(work, workers=1)
        self._jobs[future].start()
        return future

    def _end(self, futures: list[Future[Any]]) -> None:
        for future in futures:
            self._jobs.pop(future).cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - both are meant
        """End all threads; requests that are under way are cancelled."""
        self._end(list(self._jobs))


@contextlib.contextmanager
def dask_client(given: Any) -> Iterator[Any]:
    """Give a client of a Dask cluster; one that is made of an address is closed afterwards."""
    try:
        import distributed
    except ImportError:
        raise MissingExtraError.of("dask= needs", "distributed", "bulk") from None
    if isinstance(given, distributed.Client):
        yield given
        return
    if not isinstance(given, str):
        raise TypeError(
            f"dask must be a distributed.Client or the address of a scheduler, not {type(given).__name__}"
        )
    try:
        made: Any = distributed.Client(given, set_as_default=False)
    except (OSError, ValueError) as error:
        raise JobError(f"no Dask scheduler answers at {given}: {error}") from error
    with made:
        yield made


def size_of(executor: Executor) -> int:
    """Return the number of an executor's workers; executors of the standard library know it."""
    return int(getattr(executor, "_max_workers", 0) or os.cpu_count() or 1)


# from the process that submits the job
_unpickled = lru_cache(maxsize=4)(pickle.loads)
_lock = threading.Lock()


def _client_of(packed: Any) -> DatasetClient:
    """Return the client of this process: its connections and metadata serve all batches."""
    with _lock:
        client: DatasetClient = _unpickled(packed) if isinstance(packed, bytes) else packed
    return client


def do_batch(packed: Any, kind: Kind, folder: Folder, number: int, roots: list[int]) -> Record:
    """Fetch a batch and write its results, then its record. A worker that died may have done it already."""
    if known := read_records(folder, [number]):
        return known[number]
    record = Record(number, [], {})
    tables: list[Any] = []
    schema = None
    for root, found in _fetch(_client_of(packed), kind, roots):
        content: Any = found
        if kind.ending is None and isinstance(found, pa.Table):
            try:
                # each column has one type
                schema = pa.unify_schemas(
                    [schema or found.schema, found.schema], promote_options="permissive"
                )
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                content = ValueError(f"its rows do not fit those of the other neurons: {error}")
            else:
                tables.append(found)
        if isinstance(content, FATAL):
            raise content
        if isinstance(content, Exception):
            record.failures[root] = [type(content).__name__, str(content)[:_LONGEST_MESSAGE]]
            continue
        record.done.append(root)
        if kind.ending is not None:
            folder.write(f"{root}{kind.ending}", content)
    if kind.ending is not None:
        folder.delete([f"{root}{kind.ending}" for root in record.failures])
    else:
        _write_part(folder, record, tables or _no_rows(_client_of(packed), kind), schema)
    record.write(folder)
    return record


def _no_rows(client: DatasetClient, kind: Kind) -> list[Any]:
    """Return a table of a kind's columns without rows; nothing where they are not known, or cannot be requested now."""
    try:
        return [] if kind.no_rows is None else [kind.no_rows(client)]
    except CortexError:  # for which the neurons failed, too, perhaps
        return []


def _write_part(folder: Folder, record: Record, tables: list[Any], schema: Any) -> None:
    """Write the rows of a batch; without columns, remove what an earlier try may have left."""
    part = f"part-{record.batch:05d}.parquet"
    record.rows = sum(table.num_rows for table in tables)
    if not tables:
        folder.delete([part])
        return
    record.part = part
    table = pa.concat_tables(tables, promote_options="permissive")
    content = io.BytesIO()
    table = table.replace_schema_metadata((schema or table.schema).metadata)
    pq.write_table(table, content, compression="zstd", write_page_checksum=True)
    folder.write(part, content.getvalue())


def _fetch(client: DatasetClient, kind: Kind, roots: list[int]) -> Iterator[tuple[int, Any]]:
    """Fetch a batch; if it fails as such, each neuron alone, so that one of them never takes the others along."""
    left = dict.fromkeys(roots)
    if not left:
        return
    try:
        for root, found in kind.fetch(client, roots):
            left.pop(root)
            yield root, found
    except FATAL:
        raise
    except Exception as error:  # noqa: BLE001 - written down as the reason of a neuron
        if len(left) == 1:
            yield next(iter(left)), error
            return
        log.info("a batch of %d neurons is done one by one: %s", len(roots), error)
        down: list[Exception] = []
        for root in left:
            found = down[-1] if len(down) >= HOPELESS_BATCHES else next(_fetch(client, kind, [root]))[1]
            if isinstance(found, Exception) and not isinstance(found, OF_ONE):
                down.append(found)
            else:
                down.clear()
            yield root, found
