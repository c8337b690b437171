"""Static exports of tables: complete tables of one version, as files in a bucket or folder."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cortexclient.errors import CortexError, ExportError
from cortexclient.session import as_version, to_pandas
from cortexclient.store.dumps import Column, Dump, parse_header
from cortexclient.store.lakes import DeltaCopies, ParquetFiles
from cortexclient.store.places import FolderPlace, open_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from io import BufferedReader
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from cortexclient.session import AnswerCache
    from cortexclient.store.places import Place

__all__ = ["CloudFileViewExport", "TableExportClient"]

_MERGED = "_merged"
_LAYOUTS = {
    "csv-gz": ("v{version}/**/{table}.csv.gz",),
    "parquet": ("v{version}/{table}",),
    "delta": ("v{version}/{table}/{copy}", "v{version}/{table}"),
}
"""Where a table lies where the spec does not say it, perhaps below a folder of the datastack's name."""

_PARTS = {"version": r"\d+", "table": r"[^/]+?", "copy": r"[^/=]+"}


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
        Path below the export folder: without ``.csv.gz``, or the folder of Parquet files or Delta copies.
    size : int or None
        Bytes of the data, where the listing gives it.
    format : str
        ``"csv-gz"``, ``"parquet"`` or ``"delta"``.
    """

    name: str
    version: int
    filepath_base: str
    size: int | None = None
    format: str = "csv-gz"
    _client: TableExportClient | None = field(default=None, repr=False, compare=False)
    _paths: tuple[str, ...] = field(default=(), repr=False, compare=False)
    _copies: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def datapath(self) -> str:
        """Path of the rows, a file of gzipped CSV without a header line, or a folder."""
        return f"{self.filepath_base}.csv.gz" if self.format == "csv-gz" else self.filepath_base

    @property
    def headerpath(self) -> str:
        """Path of the header file of a CSV, with name and SQL type of each column."""
        return f"{self.filepath_base}_header.csv"

    def __repr__(self) -> str:
        return f"{self.name}[v{self.version}]"

    def columns(self) -> list[Column]:
        """Read names and SQL types of the columns of a CSV; of other formats the names alone.

        Raises
        ------
        ExportError
            If the header file is missing or cannot be read.
        """
        if self.format != "csv-gz":
            return [Column(name, None) for name in self.source().names()]
        return parse_header(self._read_header(), self._path(self.headerpath))

    def source(self, *, progress: bool = False) -> Dump | ParquetFiles | DeltaCopies:
        """Open the table, to be read in batches; ``progress`` shows a bar of the download.

        Raises
        ------
        ExportError
            If there is no such table, or it cannot be read.
        """
        client = self._owner()
        where = self._path(self.datapath)
        if self.format == "delta":
            return DeltaCopies(client.place, self._copies, where)
        if self.format == "parquet":
            return ParquetFiles(client.place, self._paths, where)
        opening = partial(self._open, progress)
        order = client.order_of and partial(client.order_of, self.name, self.version)
        return Dump(opening, self.columns(), where, order=order)

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
            The rows of the file, with the types that queries have: ids int64, other whole numbers ``Int64``, other
            numbers float64, text ``string``, times in UTC. Points become three columns with the endings ``_x``, ``_y``
            and ``_z``, in voxels of the table (int64; float64 with NaN where points are missing). Rows whose ``valid``
            is false are among them, which a query leaves out.

        Raises
        ------
        ExportError
            If a file is missing, truncated, unfinished or doubled, or does not fit its header file.
        ValueError
            If another version or a column that does not exist is asked for.
        """
        if version is not None and as_version(version) != self.version:
            raise ValueError(f"this file holds version {self.version} of {self.name}, not {version}")
        table = self._cached(columns, verbose)
        return to_pandas(dict(zip(table.column_names, table.columns, strict=True)))

    def _cached(self, columns: Sequence[str] | None, verbose: bool) -> pa.Table:
        cache = self._owner().cache
        if cache is None or self.format != "csv-gz":
            return self._table(columns, verbose)
        # another size, time or header is another export under the same name
        columns_of_file = [(column.name, column.sql_type) for column in self.columns()]
        stamp = self._owner().place.stamp(self.datapath)
        identity = f"{self._path(self.datapath)} {self.size} {stamp} {columns_of_file}"
        found = cache.table(
            "export",
            identity,
            lambda path: self._read(path, columns),
            lambda path: self._write(path, verbose),
        )
        return self._table(columns, verbose) if found is None else found

    def _read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        from pyarrow import parquet

        wanted = _choose(parquet.read_schema(path).names, columns, self._path(self.datapath))
        return parquet.read_table(path, columns=wanted, page_checksum_verification=True)

    def _table(self, columns: Sequence[str] | None, verbose: bool) -> pa.Table:
        import pyarrow as pa

        with self._errors_that_name_the_file():
            source = self.source(progress=verbose)
            wanted = _choose(source.names(), columns, self._path(self.datapath))
            table = pa.concat_tables(list(source.batches(wanted)))
        self._require_once(table)
        return table if wanted is None else table.select(wanted)

    def _write(self, path: Path, verbose: bool) -> None:
        from pyarrow import parquet

        table = self._table(None, verbose)
        parquet.write_table(table, path, compression="zstd", compression_level=1, write_page_checksum=True)

    def _require_once(self, table: pa.Table) -> None:
        """Report an export that holds its rows twice: tables, which have ``valid``, have each id once."""
        import numpy as np
        import pyarrow.compute as pc

        if not {"id", "valid"} <= set(table.column_names) or not len(table):
            return
        ids = table.column("id")
        values = ids.to_numpy()
        if ids.null_count or not (
            bool((np.diff(values) > 0).all()) or pc.count_distinct(ids).as_py() == len(ids)
        ):
            raise ExportError(
                f"{self._path(self.datapath)} holds some ids twice or none in some row: it is no export of one table"
            )

    # -- files

    def _owner(self) -> TableExportClient:
        if self._client is None:
            raise ExportError(
                f"{self.filepath_base} has no place to be read from; take it from TableExportClient.available_files"
            )
        return self._client

    def _path(self, name: str) -> str:
        return f"{'' if self._client is None else self._client.cloudpath.rstrip('/')}/{name}"

    def _read_header(self) -> bytes:
        client, path = self._owner(), self._path(self.headerpath)
        if client.offline:
            content: bytes | None = (
                None if client.cache is None else client.cache.read_bytes("export header", path, bytes)
            )
            if content is None:
                raise client._offline_error(f"the export {path}")
            return content
        with self._errors_that_name_the_file(self.headerpath):
            content = client.place.read(self.headerpath)
        if client.cache is not None and not client.is_local:
            client.cache.store_bytes("export header", path, content)
        return content

    def _open(self, progress: bool) -> BufferedReader:
        client = self._owner()
        if client.offline:
            raise client._offline_error(f"the export {self._path(self.datapath)}")
        return client.place.open(self.datapath, progress=progress)

    @contextlib.contextmanager
    def _errors_that_name_the_file(self, path: str | None = None) -> Iterator[None]:
        where = self._path(path or self.datapath)
        try:
            yield
        except (CortexError, ValueError):
            raise
        except FileNotFoundError as error:
            hint = (
                "without this file the columns have no names; ask the dataset's administrators for it"
                if path == self.headerpath
                else "call reset_available_files() if the exports were changed"
            )
            raise ExportError(f"there is no file {where}; {hint}") from error
        except Exception as error:  # cloud-files raises whatever its backends do
            raise ExportError(f"could not read {where}: {type(error).__name__}: {error}") from error


def _choose(known: Sequence[str], columns: Sequence[str] | None, where: str) -> list[str] | None:
    """Check the columns that were asked for; a point's name stands for its three columns."""
    if columns is None:
        return None
    asked = [columns] if isinstance(columns, str) else list(dict.fromkeys(columns))
    if not asked:
        raise ValueError(f"columns is empty; leave it out for all, or choose from {list(known)}")
    wanted = []
    for name in asked:
        wanted += [f"{name}_{axis}" for axis in "xyz"] if f"{name}_x" in known else [name]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ValueError(f"{where} has no columns {missing}; it has {list(known)}")
    return wanted


class TableExportClient:
    """Static exports of tables at a cloud path: complete tables in seconds, without a query.

    Parameters
    ----------
    cloudpath : str
        Folder or bucket with tables by version: a local path, ``file://``, ``gs://``, ``s3://`` or ``https://``.
    format : {"csv-gz", "parquet", "delta"}, optional
        What to look for. Left out: whatever lies there.

        - ``csv-gz``: ``v<version>/<table>[_merged].csv.gz`` without a header line beside ``..._header.csv``
        - ``parquet``: ``v<version>/<table>.parquet``, or a folder of such files
        - ``delta``: Delta tables, ``v<version>/<table>/<copy>/`` as CAVE's exporter writes them; needs the extra
          ``delta``
    layout : str, optional
        Where a table lies below ``cloudpath``, if not as above: a path with ``{version}``, ``{table}`` and perhaps
        ``{datastack}`` and ``{copy}``; ``**`` stands for any folders. Above folders ``<datastack>/v<version>`` are
        found, too.
    datastack : str, optional
        The datastack.
    cache : AnswerCache, optional
        Stores CSV tables as Parquet, so that a second read, above all of some columns, is many times faster.
    default_version : callable, optional
        Gives the version that :meth:`get_table` reads when none is named.
    order_of : callable, optional
        Gives the columns of a table at a version in their order, for header files that have another one.
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
        format: str | None = None,  # noqa: A002 - the spec's word
        layout: str | None = None,
        datastack: str | None = None,
        cache: AnswerCache | None = None,
        default_version: Callable[[], int] | None = None,
        order_of: Callable[[str, int], Sequence[str] | None] | None = None,
        mirrors: Sequence[str] = (),
    ) -> None:
        if format is not None and format not in _LAYOUTS:
            raise ExportError(f"exports have one of the formats {', '.join(_LAYOUTS)}, not {format!r}")
        self.cloudpath = str(cloudpath)
        self.mirrors = tuple(mirrors)
        self.format = format
        self.layout = layout
        self.datastack = datastack
        self.cache = cache
        self.order_of = order_of
        self.place: Place = open_place(self.cloudpath)
        self._default_version = default_version
        self._available_files: list[CloudFileViewExport] | None = None

    def __repr__(self) -> str:
        return f"TableExportClient({self.cloudpath!r})"

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine."""
        return isinstance(self.place, FolderPlace)

    @property
    def offline(self) -> bool:
        """Whether only the cache may answer."""
        return self.cache is not None and self.cache.offline and not self.is_local

    def _offline_error(self, what: str) -> CortexError:
        """Return the error about what the cache does not have."""
        if self.cache is None:
            return ExportError(f"working offline, and {what} is not cached")
        return self.cache.offline_error(what, service="exports", url=self.cloudpath)

    def reset_available_files(self) -> list[CloudFileViewExport]:
        """Forget the listing and make it again.

        Examples
        --------
        >>> len(client.exports.reset_available_files()) > 0
        True
        """
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
            self._available_files = self._exports_in(self._listing())
        return self._available_files

    def _listing(self) -> Mapping[str, int | None]:
        """Return the files of the first path that can be listed, which is the one that tables are then read from."""
        name = f"exports at {self.cloudpath}"
        if self.offline and self.cache is not None:
            found = self.cache.recall(name, lambda value: isinstance(value, dict))
            if found is None:
                raise self._offline_error(f"the list of exports at {self.cloudpath}")
            return dict(found)
        failures = []
        for path in (self.cloudpath, *self.mirrors):
            place = open_place(path)
            try:
                listed = place.listing()
            except Exception as error:  # noqa: BLE001 - backends of cloud-files raise anything; all of it is reported below
                failures.append((path, error))
                continue
            self.place = place
            if self.cache is not None and not self.is_local:
                self.cache.note(name, listed)
            return listed
        if len(failures) == 1 and isinstance(failures[0][1], CortexError):
            raise failures[0][1]
        text = "; ".join(f"{path}: {type(error).__name__}: {error}" for path, error in failures)
        raise ExportError(f"could not list {text}; try again, or check the path") from failures[0][1]

    def _exports_in(self, listed: Mapping[str, int | None]) -> list[CloudFileViewExport]:
        """Find the tables among the files: one entry for each name, version and place."""
        lakes = {path.partition("/_delta_log/")[0] for path in listed if "/_delta_log/" in path}
        found: dict[tuple[str, str], CloudFileViewExport] = {}
        for kind in (self.format,) if self.format else _LAYOUTS:
            for path, size in listed.items():
                match = next(
                    filter(None, (self._match(kind, place) for place in _places(kind, path, lakes))), None
                )
                if match is None:
                    continue
                parts, place = match.groupdict(), match.string
                copy = parts.get("copy")
                base = place.removesuffix(f"/{copy}" if copy else ".csv.gz")
                export = found.get((kind, base))
                if export is None:
                    name, version = parts["table"].removesuffix(_MERGED), int(parts["version"])
                    export = CloudFileViewExport(name, version, base, 0, kind, self)
                    found[kind, base] = export
                export._paths = (*export._paths, path)
                export._copies[copy or "flat"] = place
                export.size = None if export.size is None or size is None else export.size + size
        return sorted(found.values(), key=lambda file: (file.name, file.version, file.filepath_base))

    def _match(self, kind: str, place: str) -> re.Match[str] | None:
        layouts = (self.layout,) if self.layout else _LAYOUTS[kind]
        patterns = (_pattern(layout, self.datastack, self.layout is None) for layout in layouts)
        return next(filter(None, (re.fullmatch(pattern, place) for pattern in patterns)), None)

    @property
    def available_tables(self) -> list[str]:
        """Names of the exported tables, sorted."""
        return sorted({file.name for file in self.available_files})

    def available_versions(self, table_name: str) -> list[int]:
        """Return the versions at which a table was exported, ascending; empty for a table that was not.

        Examples
        --------
        >>> client.exports.available_versions("synapses_sandbox")
        [1, 2, 3]
        """
        return sorted({file.version for file in self.available_files if _is_named(file, table_name)})

    def available_data_df(self) -> pd.DataFrame:
        """List all exports.

        Returns
        -------
        pandas.DataFrame
            ======= ======= ==============================================
            column  dtype   meaning
            ======= ======= ==============================================
            name    object  table or view
            version int64   materialized version
            size    float64 GiB, compressed
            bytes   int64   the same in bytes
            path    object  data file or folder, below the export folder
            ======= ======= ==============================================

        Examples
        --------
        >>> client.exports.available_data_df().columns.tolist()
        ['name', 'version', 'size', 'bytes', 'path']
        """
        import numpy as np
        import pandas as pd

        files = self.available_files
        unknown = [file.datapath for file in files if file.size is None and file.format == "csv-gz"]
        if unknown:
            found = self.place.sizes(unknown)  # only of the tables, not of everything in the bucket
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
        >>> table = client.exports.get_table("synapses_sandbox", 3, columns=["id", "pre_pt_root_id"])
        >>> table.columns.tolist()
        ['id', 'pre_pt_root_id']
        """
        return self.find(table_name, version).get_dataframe(verbose=progress, columns=columns)

    def find(self, table_name: str, version: int | None = None) -> CloudFileViewExport:
        """Find the export of a table at a version; errors as in `get_table`.

        Examples
        --------
        >>> client.exports.find("synapses_sandbox").version
        3
        """
        versions = self.available_versions(table_name)
        if not versions:
            raise ExportError(
                f"no table {table_name!r} at {self.cloudpath}; there are {self.available_tables or 'no tables'}"
            )
        if version is None:
            version = self._default_version() if self._default_version is not None else versions[-1]
        number = as_version(version)
        fitting = [f for f in self.available_files if _is_named(f, table_name) and f.version == number]
        if not fitting:
            raise ExportError(
                f"{table_name!r} was not exported at version {version}; there are versions {versions}"
            )
        exact = [f for f in fitting if _stem(f) == table_name] or fitting
        best = min(map(_rank, exact))
        chosen = [f for f in exact if _rank(f) == best]
        if len(chosen) > 1:
            paths = [f.datapath for f in chosen]
            raise ExportError(
                f"{table_name!r} at version {version} could be any of {paths}; use one's get_dataframe()"
            )
        return chosen[0]


def _places(kind: str, path: str, lakes: set[str]) -> list[str]:
    """Name what a file may belong to: a CSV is a table, Delta and Parquet files make up folders that are."""
    if kind == "csv-gz":
        return [path] if path.endswith(".csv.gz") else []
    if kind == "delta":
        return [path.partition("/_delta_log/")[0]] if "/_delta_log/" in path else []
    in_lake = any(path.startswith(f"{lake}/") for lake in lakes)
    if in_lake or not path.endswith(".parquet"):
        return []
    return [path.removesuffix(".parquet"), re.sub(r"(/[^/]+=[^/]*)*/[^/]+$", "", path)]


@functools.cache
def _pattern(layout: str, datastack: str | None, is_usual: bool) -> str:
    """Make a regular expression of a layout."""
    parts = {**_PARTS, "datastack": re.escape(datastack) if datastack else r"[^/]+"}
    pattern, seen = "", set()
    for text in re.split(r"(\{\w+\}|\*\*/)", layout.strip("/")):
        name = text.strip("{}")
        if text == "**/":
            pattern += "(?:.*/)?"
        elif text.startswith("{") and name not in parts:
            raise ExportError(
                f"the layout {layout!r} of exports has an unknown part {text}; known are {sorted(parts)}"
            )
        elif text.startswith("{"):
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{parts[name]})"
            seen.add(name)
        else:
            pattern += re.escape(text)
    if not {"version", "table"} <= seen:
        raise ExportError(f"the layout {layout!r} of exports needs {{version}} and {{table}}")
    return rf"(?:{re.escape(datastack)}/)?{pattern}" if is_usual and datastack else pattern


def _stem(file: CloudFileViewExport) -> str:
    return file.filepath_base.rsplit("/", 1)[-1]


def _is_named(file: CloudFileViewExport, table_name: str) -> bool:
    return table_name in {file.name, _stem(file)}


def _rank(file: CloudFileViewExport) -> int:
    """Return which of several formats to read: the fastest one whose library is installed."""
    delta = importlib.util.find_spec("deltalake") is not None
    return {"delta": 0 if delta else 3, "parquet": 1, "csv-gz": 2}[file.format]
