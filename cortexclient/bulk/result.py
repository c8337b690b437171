"""What a bulk job has written: who is done, who failed and why, and the rows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs

from cortexclient.bulk.folder import Folder, Manifest, read_records
from cortexclient.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from cortexclient.bulk.folder import Record
    from cortexclient.types import PathLike

__all__ = ["BulkResult"]

_NAMED = 5


class BulkResult:
    """The results of a bulk job.

    Attributes
    ----------
    out : str
        Absolute path or address of its folder.
    done : list of int
        Neurons whose results are written.
    failures : dict
        Root id -> the reason, such as ``"StaleRootError: ..."``. A further run of the job tries them again.
    rows : int or None
        Rows of all parts; None where each neuron has a file.
    """

    def __init__(self, folder: Folder, records: dict[int, Record]) -> None:
        self.out = folder.uri
        self._folder = folder
        self._parts = [record.part for record in records.values() if record.part]
        self.rows = sum(record.rows or 0 for record in records.values()) if self._parts else None
        self.done = [root for record in records.values() for root in record.done]
        finished = set(self.done)
        self.failures = {
            root: f"{kind}: {message}"
            for record in records.values()
            for root, (kind, message) in record.failures.items()
            if root not in finished
        }

    @classmethod
    def read(cls, out: PathLike) -> BulkResult:
        """Read the results in a folder, of a job that has ended or still runs.

        Raises
        ------
        JobError
            If the folder holds no job.
        """
        folder = Folder.at(out)
        manifest = Manifest.read(folder)
        if manifest is None:
            raise JobError(f"{folder.uri} holds no bulk job")
        first = max(1, -(-manifest.ids // manifest.batch_size))
        return cls(folder, read_records(folder, range(first + len(manifest.retries))))

    def __repr__(self) -> str:
        return f"BulkResult({self.out!r}: {len(self.done)} done, {len(self.failures)} failed)"

    def dataset(self) -> Any:
        """Return the rows as a pyarrow dataset over the parts, which are not read yet.

        Returns
        -------
        pyarrow.dataset.Dataset
            ``.to_table(columns=..., filter=...)`` reads some of it; DuckDB and Polars read it, too.

        Raises
        ------
        ValueError
            If each neuron has a file of its own.
        JobError
            If a part is damaged, or columns of two have types that exclude each other.
        """
        if not self._parts:
            if not self.done:
                return pads.dataset(pa.table({"root_id": pa.array([], pa.int64())}))
            raise ValueError(f"the results in {self.out} are files, one for each neuron, and no rows")
        if self.out.startswith("mem://"):
            contents = self._folder.read(self._parts)
            with self._readable():
                files = [pa.BufferReader(contents[part]) for part in self._parts]
                tables = [pq.read_table(file, page_checksum_verification=True) for file in files]
                return pads.dataset(pa.concat_tables(tables, promote_options="permissive"))
        filesystem, base = fs.FileSystem.from_uri(self.out)
        paths = [f"{base}/{part}" for part in self._parts]
        with self._readable():
            schemas = [pq.read_schema(path, filesystem=filesystem) for path in paths]
            schema = pa.unify_schemas(schemas, promote_options="permissive")
        checked = pads.ParquetFragmentScanOptions(page_checksum_verification=True)
        form = pads.ParquetFileFormat(default_fragment_scan_options=checked)
        return pads.dataset(paths, schema=schema, filesystem=filesystem, format=form)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise JobError(
                f"the parts in {self.out} are damaged or do not fit together: {error}; delete a damaged one's "
                "_batch-....json of the same number, and run the job again"
            ) from error

    def frame(self) -> pd.DataFrame:
        """Return all rows as a pandas frame; whole numbers that are missing somewhere are ``Int64``.

        Raises
        ------
        ValueError
            If each neuron has a file of its own.
        JobError
            As for `dataset`.
        """
        from cortexclient.session import to_pandas

        dataset = self.dataset()
        with self._readable():
            table = dataset.to_table()
        frame = to_pandas({name: table.column(name) for name in table.column_names})
        for name in {"root_id", "l2_id"} & {*frame}:
            if not frame[name].isna().any():
                frame[name] = frame[name].astype("int64")
        frame.attrs.update(
            {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        )
        return frame

    def raise_for_failures(self) -> None:
        """Raise if a neuron failed.

        Raises
        ------
        JobError
            The message names the first of them, with their reasons.
        """
        if not self.failures:
            return
        named = "; ".join(f"{root}: {reason}" for root, reason in list(self.failures.items())[:_NAMED])
        more = f"; and {len(self.failures) - _NAMED} more" if len(self.failures) > _NAMED else ""
        raise JobError(
            f"{len(self.failures)} of {len(self.done) + len(self.failures)} neurons failed; run the job again to try "
            f"them again. {named}{more}"
        )
