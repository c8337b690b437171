"""A bulk job: neurons in batches, handed to workers of any kind at a polite rate, and a record of each batch."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cortexclient.bulk import kinds
from cortexclient.bulk.folder import Folder, Manifest, Record, read_records
from cortexclient.bulk.result import BulkResult
from cortexclient.bulk.workers import HOPELESS_BATCHES, OF_ONE, Threads, dask_client, do_batch, size_of
from cortexclient.errors import CortexError, JobError
from cortexclient.ids import as_id, as_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cortexclient.bulk.kinds import Kind
    from cortexclient.client import DatasetClient
    from cortexclient.types import Ids, PathLike, TransformName

    SkeletonFormat: TypeAlias = Literal["swc", "parquet"]

__all__ = ["Bulk"]

log = logging.getLogger(__name__)

_HOPELESS_NEURONS = 20
"""After so many failures, in several batches in a row, and nothing else, a job stops: the server is down, perhaps."""


class Bulk:
    """Work over many neurons; made by ``client.bulk(root_ids)``, whose documentation says what the parameters mean."""

    def __init__(
        self,
        client: DatasetClient,
        root_ids: Ids,
        *,
        executor: Executor | None = None,
        dask: Any = None,
        batch_size: int = 50,
        rate: float | None = None,
        retry_failed: bool = True,
        progress: bool = True,
    ) -> None:
        if executor is not None and dask is not None:
            raise ValueError("executor and dask both name the workers; give one of them")
        if executor is not None and not hasattr(executor, "submit"):
            raise TypeError(f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}")
        self._batch_size = as_id(batch_size, "batch_size")
        if not 1 <= self._batch_size <= 500:
            raise ValueError(f"batch_size must be 1 to 500, not {batch_size}")
        if rate is not None and not 0 < rate < float("inf"):
            raise ValueError(f"rate is a number of neurons per second, above 0, not {rate!r}")
        self._client = client
        self._ids: list[int] = list(dict.fromkeys(as_ids(root_ids, "root_ids").tolist()))
        self._executor, self._dask = executor, dask
        self._rate, self._retry_failed, self._progress = rate, retry_failed, progress

    def __repr__(self) -> str:
        return f"Bulk({len(self._ids)} neurons of {self._client!r})"

    def skeletons(
        self,
        *,
        out: PathLike,
        format: SkeletonFormat = "swc",  # noqa: A002 - the word of everybody who writes files
        transform: TransformName | None = None,
        skeleton_version: int | None = None,
        generate: bool = True,
        deadline: float = 600.0,
        fallback: Literal["compute"] | None = None,
    ) -> BulkResult:
        """Write the skeletons of the neurons.

        Parameters
        ----------
        out : str or pathlib.Path
            Folder or bucket; one that holds a part of this job is completed.
        format : {"swc", "parquet"}
            A file ``ROOT.swc`` for each neuron, as ``client.save_swc`` writes it (um), or one row a vertex.
        transform, skeleton_version, generate, deadline, fallback
            As for ``client.get_skeletons``; the deadline is that of a batch.

        Returns
        -------
        BulkResult
            With ``parquet``, columns ``root_id``, ``vertex`` (its number, as the service counts), ``x``, ``y``, ``z``
            (nm, um if transformed), ``parent`` (-1 where a piece begins), ``radius`` (nm) and ``compartment``
            (1 soma, 2 axon, 3 dendrite). The metadata of the schema name ``unit``, ``space`` and ``radius_unit``.

        Raises
        ------
        ValueError
            If an option is none.
        JobError
            If the folder holds another job, or the job cannot go on.
        NotConfiguredError
            If the dataset has no skeletons, or no transform for one.
        OutputError
            If the folder cannot be written to.
        """
        options: dict[str, Any] = {
            "transform": transform,
            "skeleton_version": skeleton_version,
            "generate": generate,
            "deadline": deadline,
            "fallback": fallback,
        }
        return self._run(kinds.skeleton_job(self._client, format, **options), out)

    def synapses(
        self,
        *,
        out: PathLike,
        pre: bool = True,
        post: bool = True,
        reference_tables: str | Sequence[str] | None = None,
        synapse_table: str | None = None,
        omit_self_synapse: bool = True,
        min_size: float | None = None,
        min_score: float | None = None,
    ) -> BulkResult:
        """Write the synapses of the neurons.

        Parameters
        ----------
        out : str or pathlib.Path
            Folder or bucket; one that holds a part of this job is completed.
        pre, post : bool
            Synapses that the neurons make, and that they receive.
        reference_tables, synapse_table, omit_self_synapse, min_size, min_score
            As for ``client.query_synapses``.

        Returns
        -------
        BulkResult
            Rows of ``root_id``, ``side`` (``"pre"`` if the neuron makes the synapse, else ``"post"``) and the columns
            of ``client.query_synapses(root_id)``, positions in nm. A synapse between two of the neurons is there
            for each of them; with ``post=False`` it is there once. A neuron that was not valid at the client's moment
            is a failure.

        Raises
        ------
        ValueError
            If neither side is asked for.
        JobError, NotConfiguredError, OutputError
            As for `skeletons`.
        """
        tables = [reference_tables] if isinstance(reference_tables, str) else reference_tables
        options: dict[str, Any] = {
            "reference_tables": list(tables) if tables else None,
            "synapse_table": synapse_table,
            "omit_self_synapse": omit_self_synapse,
            "min_size": min_size,
            "min_score": min_score,
        }
        return self._run(kinds.synapse_job(self._client, pre=pre, post=post, **options), out)

    def meshes(self, *, out: PathLike) -> BulkResult:
        """Write the meshes of the neurons, a file ``ROOT.ply`` (nm) for each.

        Parameters
        ----------
        out : str or pathlib.Path
            Folder or bucket; one that holds a part of this job is completed.

        Returns
        -------
        BulkResult

        Raises
        ------
        JobError, OutputError
            As for `skeletons`.
        """
        return self._run(kinds.mesh_job(self._client), out)

    def l2(self, *, out: PathLike, attributes: str | Sequence[str] | None = None) -> BulkResult:
        """Write the level-2 ids of the neurons, and their attributes.

        Parameters
        ----------
        out : str or pathlib.Path
            Folder or bucket; one that holds a part of this job is completed.
        attributes : str or sequence of str, optional
            As for ``client.get_l2data``. Default: all.

        Returns
        -------
        BulkResult
            Rows of ``root_id``, ``l2_id`` and the columns of ``client.get_l2data``.

        Raises
        ------
        InvalidQueryError
            If an attribute is unknown.
        JobError, NotConfiguredError, OutputError
            As for `skeletons`.
        """
        return self._run(kinds.l2_job(self._client, attributes), out)

    def map(self, function: Callable[[DatasetClient, int], Any], *, out: PathLike) -> BulkResult:
        """Write what a function of your own returns for each neuron.

        Parameters
        ----------
        function : callable
            Called as ``function(client, root_id)``, with a client at the job's moment; returns a dict (one row), a
            DataFrame, or None for no rows. What it raises is the failure of that neuron. Processes need one that
            they can import: defined at the top of a module.
        out : str or pathlib.Path
            Folder or bucket; one that holds a part of this job is completed.

        Returns
        -------
        BulkResult
            The rows, with a first column ``root_id`` if they have none.

        Raises
        ------
        JobError, OutputError
            As for `skeletons`.
        """
        return self._run(kinds.map_job(function), out)

    def _run(self, kind: Kind, out: PathLike) -> BulkResult:
        folder = Folder.at(out)
        known = Manifest.read(folder)
        client = _pinned(self._client, known)
        manifest = self._manifest(client, kind)
        if known is not None:
            known.require_same(manifest, folder)
            manifest = known
        _remove_halves(folder)  # of a run that was killed, be it of the manifest itself
        if known is None:
            manifest.write(folder)
        records = read_records(folder, range(len(manifest.batches(self._ids))))
        if self._retry_failed and _retry(manifest, records, self._ids):
            manifest.write(folder)
        batches = manifest.batches(self._ids)
        todo = deque((number, roots) for number, roots in enumerate(batches) if number not in records)
        if todo:
            with self._workers(client, kind) as (executor, at_a_time, to_workers):
                self._submit(executor, at_a_time, (to_workers, kind, folder), todo, records)
            _remove_halves(folder)  # of a worker that died in this run
        return BulkResult(folder, dict(sorted(records.items())))

    def _manifest(self, client: DatasetClient, kind: Kind) -> Manifest:
        session = client.session
        when = client.timestamp
        return Manifest(
            kind=kind.name,
            options=kind.options,
            dataset=client.spec.name,
            datastack=client.datastack_name,
            fingerprint=client.spec.fingerprint,
            version=session.moment.version,
            timestamp=None if when is None else when.isoformat(),
            ids=len(self._ids),
            ids_sha256=hashlib.sha256("\n".join(map(str, self._ids)).encode()).hexdigest(),
            batch_size=self._batch_size,
        )

    @contextlib.contextmanager
    def _workers(self, client: DatasetClient, kind: Kind) -> Iterator[tuple[Executor, int, Any]]:
        """Give an executor, how many batches it gets at a time, and the client as its workers get it."""
        if self._dask is not None:
            with dask_client(self._dask) as cluster:
                threads = sum(cluster.nthreads().values()) or 1
                yield cluster.get_executor(pure=False, retries=2), 2 * threads, pickle.dumps(client)
        elif self._executor is None:
            with Threads() as own:
                yield own, client.session.max_workers, client
        elif isinstance(self._executor, ThreadPoolExecutor):
            yield self._executor, 2 * size_of(self._executor), client
        else:
            try:
                pickle.dumps(kind)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise ValueError(
                    f"the function cannot be sent to another process ({error}); define it at the top of a module"
                ) from None
            yield self._executor, 2 * size_of(self._executor), pickle.dumps(client)

    def _submit(
        self,
        executor: Executor,
        at_a_time: int,
        shared: tuple[Any, Kind, Folder],
        todo: deque[tuple[int, list[int]]],
        records: dict[int, Record],
    ) -> None:
        """Hand out batches, a bounded number at a time, and collect their records."""
        from tqdm import tqdm

        left = sum(len(roots) for _, roots in todo)
        running: dict[Future[Record], tuple[int, list[int]]] = {}
        row: list[tuple[str, int]] = []
        failed, due = 0, time.monotonic()
        kind, folder = shared[1:]
        bar = tqdm(
            total=max(left, len(self._ids)),
            initial=max(len(self._ids) - left, 0),
            desc=kind.name,
            unit=" neurons",
            disable=not self._progress,
        )
        try:
            with bar:
                while todo or running:
                    while todo and len(running) < at_a_time and time.monotonic() >= due:
                        number, roots = todo.popleft()
                        if self._rate is not None:
                            due = max(due, time.monotonic()) + len(roots) / self._rate
                        running[executor.submit(do_batch, *shared, number, roots)] = (number, roots)
                    pause = 1.0
                    if todo and len(running) < at_a_time:
                        pause = min(max(due - time.monotonic(), 0.001), pause)
                    if not running:
                        time.sleep(pause)
                    for future in wait(running, timeout=pause, return_when=FIRST_COMPLETED).done:
                        number, roots = running.pop(future)
                        record = _record_of(future, number, roots, folder)
                        records[number] = record
                        failed += len(record.failures)
                        bar.set_postfix(failed=failed, refresh=False)
                        bar.update(len(roots))
                        _require_hope(row, record)
        except BrokenExecutor as error:
            raise JobError(
                f"a worker died ({error}); what is done is in {folder.uri}: run the job again to continue it"
            ) from error
        finally:
            for future in running:
                future.cancel()


def _remove_halves(folder: Folder) -> None:
    """Remove files that somebody was killed while writing."""
    folder.delete([name for name in folder.names() if name.startswith(".part-")])


def _pinned(client: DatasetClient, known: Manifest | None) -> DatasetClient:
    """Return a copy of the client that stays at its moment; one that floats gets that of the job or of its tables."""
    moment = client.session.moment
    if not moment.floating:
        return client.at(version=moment.version, timestamp=moment.timestamp)
    if known is not None and known.version is not None:
        return client.at(version=known.version)
    if known is not None:
        return client.at(timestamp=known.timestamp)
    if client.spec.denies("versions"):
        return client.at(timestamp=datetime.now(UTC))
    return client.at(version=client.version)


def _retry(manifest: Manifest, records: dict[int, Record], ids: list[int]) -> bool:
    """Add batches of the neurons that failed and are in no batch that is still to be done."""
    done = {root for record in records.values() for root in record.done}
    batches = manifest.batches(ids)
    coming = {root for number, roots in enumerate(batches) if number not in records for root in roots}
    failed = dict.fromkeys(root for record in records.values() for root in record.failures)
    again = [root for root in failed if root not in done and root not in coming]
    size = manifest.batch_size
    manifest.retries += [again[start : start + size] for start in range(0, len(again), size)]
    return bool(again)


def _record_of(future: Future[Record], number: int, roots: list[int], folder: Folder) -> Record:
    """Return the record of a batch; one whose workers died again and again has failed."""
    try:
        return future.result()
    except (CortexError, BrokenExecutor):
        raise
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # of Dask
            raise JobError(
                f"batch {number} could not be done ({type(error).__name__}: {error}); what is done is kept: run the "
                "job again to continue it"
            ) from error
        log.warning("the workers of batch %d died: %s", number, error)
        reason = ["KilledWorker", f"its workers died, of too little memory perhaps: {error}"]
        record = Record(number, [], dict.fromkeys(roots, reason))
        record.write(folder)
        return record


def _require_hope(row: list[tuple[str, int]], record: Record) -> None:
    """Raise if batch after batch fails, and not for reasons of the neurons."""
    of_one = {kind.__name__ for kind in OF_ONE}
    if record.done or not record.failures or any(kind in of_one for kind, _ in record.failures.values()):
        row.clear()
        return
    row.append((": ".join(next(iter(record.failures.values()))), len(record.failures)))
    number = sum(count for _, count in row)
    if len(row) >= HOPELESS_BATCHES and number >= _HOPELESS_NEURONS:
        raise JobError(
            f"all of the last {number} neurons failed, the last of them with {row[-1][0]}; what is done is kept: when "
            "the cause is removed, run the job again to continue it"
        )
