"""Static table exports: whole tables of one version, as files in a bucket or folder."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cortexclient import settings
from cortexclient.errors import CortexError, ExportError
from cortexclient.ids import as_id
from cortexclient.services.export_csv import Column, parse_header, read_rows, to_frame
from cortexclient.services.export_storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from cortexclient.services.export_storage import Storage

__all__ = ["CloudFileViewExport", "TableExportClient"]

logger = logging.getLogger(__name__)

_DATA_FILE = re.compile(r"^v(?P<version>\d+)/(?:.*/)?(?P<stem>[^/]+)\.csv\.gz$")
_MERGED = "_merged"


@dataclass
class CloudFileViewExport:
    """One exported table at one version.

    Attributes
    ----------
    name : str
        Table or view. The suffix ``_merged``, which marks tables that were joined with the segmentation, is left off.
    version : int
        Materialized version.
    filepath_base : str
        Path below the export folder, without ``.csv.gz``.
    size : int or None
        Bytes of the data file, where the listing tells it.
    """

    name: str
    version: int
    filepath_base: str
    size: int | None = None
    _storage: Storage | None = field(default=None, repr=False, compare=False)
    _where: str = field(default="", repr=False, compare=False)
    _cache: Path | None = field(default=None, repr=False, compare=False)

    @property
    def datapath(self) -> str:
        """Path of the rows: CSV without a header line, gzipped."""
        return f"{self.filepath_base}.csv.gz"

    @property
    def headerpath(self) -> str:
        """Path of the header file: name and SQL type of each column."""
        return f"{self.filepath_base}_header.csv"

    def __repr__(self) -> str:
        return f"{self.name}[v{self.version}]"

    def columns(self) -> list[Column]:
        """Read names and SQL types of the columns.

        Raises
        ------
        ExportError
            If the header file is missing or cannot be read.
        """
        return parse_header(self._read(self.headerpath), self._path(self.headerpath))

    def get_dataframe(
        self, version: int | None = None, verbose: bool = False, *, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Download the table.

        Parameters
        ----------
        version : int or None
            May be left out; if given it must be this file's version.
        verbose : bool
            Show a progress bar of the download.
        columns : sequence of str or None
            Columns to read, in this order; None for all.

        Returns
        -------
        pandas.DataFrame
            Whole numbers as int64 (``Int64`` where there are nulls), times in UTC, booleans, texts as they were
            written. Points become three columns with the endings ``_x``, ``_y`` and ``_z``.

        Raises
        ------
        ExportError
            If a file is missing, cut, or does not fit its header file.
        ValueError
            If another version or a column that does not exist is asked for.
        """
        if version is not None and as_id(version, "version") != self.version:
            raise ValueError(f"this file holds version {self.version} of {self.name}, not {version}")
        known = self.columns()
        wanted = _choose(known, columns, self._path(self.datapath))
        return to_frame(
            self._table(known, wanted, verbose), [c for c in known if wanted is None or c.name in wanted]
        )

    def _table(self, known: list[Column], wanted: list[str] | None, verbose: bool) -> pa.Table:
        where = self._path(self.datapath)
        cached = self._cached_path(known)
        if cached is None:
            return read_rows(self._read(self.datapath, verbose), known, wanted, where)
        from pyarrow import parquet

        if not cached.exists():
            table = read_rows(self._read(self.datapath, verbose), known, None, where)
            cached.parent.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(f".{os.getpid()}.part")
            parquet.write_table(table, partial, compression="zstd", compression_level=1)
            partial.replace(cached)  # whole or not at all, however many processes write it
            return table.select(wanted) if wanted is not None else table
        return parquet.read_table(cached, columns=wanted)

    def _cached_path(self, known: list[Column]) -> Path | None:
        if self._cache is None:
            return None
        # another size or header is another export under the same name
        identity = f"{self._path(self.datapath)}|{self.size}|{[(c.name, c.sql_type) for c in known]}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return self._cache / f"v{self.version}" / f"{self.name}-{digest}.parquet"

    def _path(self, name: str) -> str:
        return f"{self._where.rstrip('/')}/{name}"

    def _read(self, path: str, progress: bool = False) -> bytes:
        if self._storage is None:
            raise ExportError(
                f"{path} has no storage to be read from; take it from TableExportClient.available_files"
            )
        try:
            return self._storage.read(path, progress=progress)
        except FileNotFoundError as error:
            raise ExportError(f"there is no file {self._path(path)}; {_hint(path)}") from error
        except CortexError:
            raise
        except Exception as error:  # cloud-files raises whatever its backends do
            raise ExportError(
                f"could not read {self._path(path)}: {type(error).__name__}: {error}"
            ) from error


def _hint(path: str) -> str:
    if path.endswith("_header.csv"):
        return "without this file the columns have no names; ask the dataset's administrators for it"
    return "call reset_available_files() if the exports were changed"


def _choose(known: list[Column], columns: Sequence[str] | None, where: str) -> list[str] | None:
    if columns is None:
        return None
    wanted = [columns] if isinstance(columns, str) else list(dict.fromkeys(columns))
    if not wanted:
        raise ValueError(
            f"columns is empty; leave it out for all, or choose from {[column.name for column in known]}"
        )
    missing = [name for name in wanted if name not in {column.name for column in known}]
    if missing:
        raise ValueError(f"{where} has no columns {missing}; it has {[column.name for column in known]}")
    return wanted


class TableExportClient:
    """Static exports of tables at a cloud path: whole tables in seconds, without a query.

    Parameters
    ----------
    cloudpath : str
        Folder or bucket with ``v<version>/<table>[_merged].csv.gz`` and ``..._header.csv``: a local path, ``file://``,
        ``gs://``, ``s3://`` or ``https://``.
    cache : bool or path
        Keep tables as Parquet files, here or (True) in the user's cache folder: a second read, above all of some
        columns, is many times faster.
    default_version : callable, optional
        Gives the version that :meth:`get_table` reads when none is named.
    mirrors : sequence of str
        Other paths with the same files, tried in this order when the first cannot be listed.

    Notes
    -----
    Nothing is listed or downloaded before it is asked for. A listing that failed is tried again at the next call.
    """

    def __init__(
        self,
        cloudpath: str,
        *,
        cache: bool | str | Path = False,
        default_version: Callable[[], int] | None = None,
        mirrors: Sequence[str] = (),
    ) -> None:
        self.cloudpath = str(cloudpath)
        self.mirrors = tuple(mirrors)
        self._storage = open_storage(self.cloudpath)
        self._cache = _cache_folder(cache, self.cloudpath)
        self._default_version = default_version
        self._available_files: list[CloudFileViewExport] | None = None

    def __repr__(self) -> str:
        return f"TableExportClient({self.cloudpath!r})"

    def reset_available_files(self) -> list[CloudFileViewExport]:
        """Forget the listing and make it again."""
        self._available_files = None
        return self.available_files

    @property
    def available_files(self) -> list[CloudFileViewExport]:
        """Exported tables, one entry for each table and version, sorted; listed once.

        Raises
        ------
        ExportError
            If the folder cannot be listed.
        """
        if self._available_files is None:
            self._available_files = self._list()
        return self._available_files

    def _listing(self) -> dict[str, int | None]:
        """Files of the first path that can be listed, which is the one that tables are then read from."""
        failures = []
        for path in (self.cloudpath, *self.mirrors):
            storage = open_storage(path)
            try:
                listed = storage.listing()
            except Exception as error:  # noqa: BLE001 - backends of cloud-files raise anything; all of it is told below
                failures.append((path, error))
                continue
            self._storage = storage
            return listed
        if len(failures) == 1 and isinstance(failures[0][1], CortexError):
            raise failures[0][1]
        text = "; ".join(f"{path}: {type(error).__name__}: {error}" for path, error in failures)
        raise ExportError(f"could not list {text}; try again, or check the path") from failures[0][1]

    def _list(self) -> list[CloudFileViewExport]:
        listed = self._listing()
        files = []
        for path, size in listed.items():
            match = _DATA_FILE.match(path)
            if match is None:
                continue
            base = path.removesuffix(".csv.gz")
            name = match["stem"].removesuffix(_MERGED)
            version = int(match["version"])
            files.append(
                CloudFileViewExport(name, version, base, size, self._storage, self.cloudpath, self._cache)
            )
        return sorted(files, key=lambda file: (file.name, file.version, file.filepath_base))

    @property
    def available_tables(self) -> list[str]:
        """Names of the exported tables, sorted."""
        return sorted({file.name for file in self.available_files})

    def available_versions(self, table_name: str) -> list[int]:
        """Versions at which a table was exported, ascending; empty for a table that was not."""
        return sorted({file.version for file in self.available_files if _is_named(file, table_name)})

    def available_data_df(self) -> pd.DataFrame:
        """List all exports.

        Returns
        -------
        pandas.DataFrame
            ======= ======= ========================================
            column  dtype   meaning
            ======= ======= ========================================
            name    object  table or view
            version int64   materialized version
            size    float64 GiB, compressed
            bytes   int64   the same in bytes
            path    object  data file, below the export folder
            ======= ======= ========================================
        """
        import numpy as np
        import pandas as pd

        files = self.available_files
        unknown = [file.datapath for file in files if file.size is None]
        if unknown:
            found = self._storage.sizes(unknown)  # only of the tables, not of everything in the bucket
            for file in files:
                file.size = found.get(file.datapath, file.size)
        size = np.array([file.size or 0 for file in files], dtype=np.int64)
        return pd.DataFrame(
            {
                "name": np.array([file.name for file in files], dtype=object),
                "version": np.array([file.version for file in files], dtype=np.int64),
                "size": size / 2**30,
                "bytes": size,
                "path": np.array([file.datapath for file in files], dtype=object),
            }
        )

    def get_table(
        self,
        table_name: str,
        version: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Download a table as a DataFrame.

        Parameters
        ----------
        table_name : str
            Table or view; with or without the suffix ``_merged``.
        version : int or None
            Materialized version; None for the client's, or the newest one exported if the client has none.
        columns : sequence of str or None
            Columns to read, in this order; None for all.
        progress : bool
            Show a progress bar of the download.

        Returns
        -------
        pandas.DataFrame
            See :meth:`CloudFileViewExport.get_dataframe`.

        Raises
        ------
        ExportError
            If there is no such table or version, the name fits several files, or a file cannot be read.
        ValueError
            If a column does not exist.

        Examples
        --------
        >>> client.exports.get_table("synapses", 3, columns=["id", "pre_pt_root_id"])   # doctest: +SKIP
        """
        return self._find(table_name, version).get_dataframe(verbose=progress, columns=columns)

    def _find(self, table_name: str, version: int | None) -> CloudFileViewExport:
        versions = self.available_versions(table_name)
        if not versions:
            raise ExportError(
                f"no table {table_name!r} at {self.cloudpath}; there are {self.available_tables or 'no tables'}"
            )
        if version is None:
            version = self._default_version() if self._default_version is not None else versions[-1]
        number = as_id(version, "version")
        fitting = [f for f in self.available_files if _is_named(f, table_name) and f.version == number]
        if not fitting:
            raise ExportError(
                f"{table_name!r} was not exported at version {version}; there are versions {versions}"
            )
        exact = [f for f in fitting if f.filepath_base.rsplit("/", 1)[-1] == table_name]
        if len(fitting) > 1 and len(exact) != 1:
            paths = [f.datapath for f in fitting]
            raise ExportError(
                f"{table_name!r} at version {version} could be any of {paths}; use one's get_dataframe()"
            )
        return (exact or fitting)[0]


def _is_named(file: CloudFileViewExport, table_name: str) -> bool:
    return table_name in {file.name, file.filepath_base.rsplit("/", 1)[-1]}


def _cache_folder(cache: Any, cloudpath: str) -> Path | None:
    from pathlib import Path

    if not cache:
        return None
    digest = hashlib.sha256(cloudpath.encode()).hexdigest()[:12]
    return (settings.cache_dir() / "exports" if cache is True else Path(cache).expanduser()) / digest
