"""The store: a dataset's tables of one version on one's own disk, where they answer like the server."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cortexclient import settings
from cortexclient.errors import (
    CortexError,
    ExportError,
    MissingExtraError,
    NotConfiguredError,
    OutputError,
    StoreError,
    UnknownTableError,
)
from cortexclient.ids import as_ids
from cortexclient.services import BaseService
from cortexclient.session import (
    Query,
    Session,
    SnapshotStore,
    as_choice,
    as_version,
    count_rows,
    find_table,
    forget_queries,
    run_query,
)
from cortexclient.store.local import METADATA, LocalStore
from cortexclient.store.tables import LIBRARIES, MANIFEST, OtherFormatError, open_with
from cortexclient.store.writer import TableWriter, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    import pyarrow as pa

    from cortexclient.services.exports import TableExportClient
    from cortexclient.session import TableInfo
    from cortexclient.spec import DatasetSpec
    from cortexclient.store.tables import StoredTable
    from cortexclient.types import Ids, PathLike

__all__ = ["SOURCES", "StoreService", "open_source"]

SOURCES = ("server", "store", "auto")
_ROWS_AT_ONCE = 2_000_000
_BYTES_PER_VALUE = 6  # of numbers that were compressed, with room to spare
_SAMPLE = 200


def open_source(spec: DatasetSpec, source: str | None, store: PathLike | None) -> LocalStore | None:
    """Read the options ``source`` and ``store`` of `load`; None queries the server alone. Raises `ValueError`."""
    chosen = as_choice(source or "server", "source", SOURCES)
    if chosen == "server":
        if store is not None and source == "server":
            raise ValueError(
                "source='server' asks no store; give source='store' or 'auto', or leave store= out"
            )
        return None
    return LocalStore(_place(store), spec.datastack, only=chosen == "store")


def _place(store: PathLike | None) -> str:
    return str(settings.store_dir() if store is None else store)


class StoreService(BaseService):
    """The store of a client; ``exports`` returns the static exports, or raises `NotConfiguredError`."""

    def __init__(self, session: Session, exports: Callable[[], TableExportClient]) -> None:
        super().__init__(session)
        self._exports = exports

    def __repr__(self) -> str:
        return f"StoreService({self.path!r}, {self._session.datastack!r})"

    @property
    def path(self) -> str:
        """Where it lies, by ``load(..., store=)``, else ``$CORTEXCLIENT_STORE``, else the user's data folder."""
        return self._local.path

    @property
    def _local(self) -> LocalStore:
        used = self._session.connection.tables
        if isinstance(used, LocalStore):
            return used
        return LocalStore(_place(None), self._session.datastack)

    # -- filling it

    def pull(
        self,
        tables: str | Sequence[str] | None = None,
        *,
        version: int | None = None,
        source: Literal["exports", "server"] | None = None,
        path: PathLike | None = None,
        progress: bool = True,
    ) -> list[str]:
        """Download tables of one version: from static exports, or from the server where there are none.

        Each table is stored once for each key that people ask by, sorted by it: ``pre_pt_root_id`` and
        ``post_pt_root_id`` of synapses, ``target_id`` of reference tables, else ``id``. Called again after an
        interruption it goes on where it was. Tables that are there already are left as they are.

        Parameters
        ----------
        tables : str or sequence of str, optional
            Tables and views. Default: those that the spec names (synapses, cell ids, roles).
        version : int, optional
            Materialized version. Default: the client's.
        source : {"exports", "server"}, optional
            Where to read from. Default: exports where they hold the table at this version.
        path : str or pathlib.Path, optional
            Another store than the client's.
        progress : bool
            Show how far it is, and the time left.

        Returns
        -------
        list of str
            The tables that are now there.

        Raises
        ------
        MissingExtraError
            If DuckDB is not installed (extra ``store``).
        UnknownTableError
            If there is no such table.
        StoreError
            If the disk is too small.
        OutputError
            If the store cannot be written.
        ExportError
            If an export is damaged or not complete.

        Examples
        --------
        >>> client.store.pull("cell_types", path="my-store", progress=False)
        ['cell_types']
        """
        local = self._local if path is None else LocalStore(str(path), self._session.datastack)
        if local.folder is None:
            raise StoreError(f"{local.path} is not on this machine; pull into a folder, then copy it there")
        session = self._session if version is None else self._session.at(version=version)
        number = session.version
        session = session.at(version=number)
        names = [tables] if isinstance(tables, str) else list(tables or self._named_in_spec(session))
        for name in names:
            _require_name(name)
        with _writing(local.path):
            with tempfile.TemporaryDirectory() as scratch:
                asking = _asking(session, Path(scratch))
                infos = [find_table(asking, name, version=number) for name in dict.fromkeys(names)]
                _save_metadata(asking, infos, local.folder / f"v{number}" / METADATA, local.names(number))
            for info in infos:
                with contextlib.suppress(StoreError):  # damaged, or of another version of cortexclient
                    if local.table(number, info.name) is not None:
                        continue
                local._tables[number, info.name] = None  # so that its rows come from elsewhere
                try:
                    self._pull(
                        session, info, local.folder / f"v{number}" / info.name, source, progress=progress
                    )
                finally:
                    local._tables.pop((number, info.name), None)
        local._metadata.pop(number, None)
        return [info.name for info in infos]

    def _named_in_spec(self, session: Session) -> list[str]:
        spec, version = session.spec, session.version
        cells = spec.cell_ids
        named = [session.synapse_table]
        if cells is not None:
            named += [cells.lookup_view, cells.main_table, *cells.alternative_tables]
        for role in spec.tables:
            try:
                named.append(spec.table_for(role, version).name)
            except CortexError:
                continue  # not of this version
        names = [name for name in dict.fromkeys(named) if name]
        there = []
        for name in names:
            try:
                find_table(session, name, version=version)
            except UnknownTableError:
                continue
            there.append(name)
        return there

    def _pull(
        self, session: Session, info: TableInfo, folder: Path, source: str | None, *, progress: bool
    ) -> None:
        bare = Query(
            info.name,
            info.kind,
            resolution=None,
            split_positions=True,
            merge_reference=False,
            return_as="arrow",
        )
        sample = run_query(session, _replaced(bare, limit=_SAMPLE))
        columns = sample.column_names
        rows = count_rows(session, bare)
        where, batches = self._reader(session, bare, rows, source)
        keys = _keys(info, columns)
        _require_room(folder, rows * len(columns) * _BYTES_PER_VALUE * (1 + len(keys)), info.name)
        work = Work(
            datastack=session.datastack,
            version=session.version,
            name=info.name,
            kind=info.kind,
            columns=columns,
            keys=keys,
            source=where,
            expected=rows,
            rounded=_rounded(sample),
        )
        size = _size(rows * len(columns) * _BYTES_PER_VALUE * len(keys))
        with _Progress(f"{info.name}, about {size}", rows * (1 + len(keys)), shown=progress) as report:
            try:
                TableWriter(folder, work, report).write(batches)
            except ExportError:
                forget_queries(session, [bare])  # cached rows that do not add up would fail for ever
                raise

    def _reader(
        self, session: Session, query: Query, rows: int, source: str | None
    ) -> tuple[str, Callable[[], Iterator[pa.Table]]]:
        """Choose what a table is read from: its name, and a function that reads the rows."""
        if source not in {None, "exports", "server"}:
            raise ValueError(f"source must be 'exports' or 'server', not {source!r}")
        if source != "server":
            try:
                export = self._exports().find(query.name, session.version)
                return repr(export), lambda: iter(export.source().batches())
            except (NotConfiguredError, ExportError):
                if source == "exports":
                    raise
        return session.server_address, lambda: _from_server(session, query, rows)

    # -- using it

    def tables(self) -> pd.DataFrame:
        """List what is in the store.

        Returns
        -------
        pandas.DataFrame
            ======= ======= ==========================================
            column  dtype   meaning
            ======= ======= ==========================================
            version int64   materialized version
            table   object  table or view
            rows    int64   number of rows
            bytes   int64   size of its files
            keys    object  columns that rows are found by
            source  object  where it was read from
            made    object  when, UTC
            ======= ======= ==========================================

        Examples
        --------
        >>> local = cortexclient.load("sandbox", version=3, store="my-store")
        >>> names = local.store.pull("cell_types", progress=False)
        >>> local.store.tables()["table"].tolist()
        ['cell_types']
        """
        import pandas as pd

        local = self._local
        listed = [(version, name) for version in local.versions() for name in local.names(version)]
        found = [(version, table) for version, name in listed if (table := local.table(version, name))]
        return pd.DataFrame(
            {
                "version": pd.Series([version for version, _ in found], dtype="int64"),
                "table": pd.Series([table.manifest.name for _, table in found], dtype=object),
                "rows": pd.Series([table.manifest.rows for _, table in found], dtype="int64"),
                "bytes": pd.Series([table.size for _, table in found], dtype="int64"),
                "keys": pd.Series([", ".join(table.keys) for _, table in found], dtype=object),
                "source": pd.Series([table.manifest.source for _, table in found], dtype=object),
                "made": pd.Series([table.manifest.made for _, table in found], dtype=object),
            }
        )

    def verify(self) -> dict[str, list[str]]:
        """Compare every file with its checksum.

        Returns
        -------
        dict
            ``"v<version>/<table>"`` -> files that are damaged or missing; empty where all are sound.

        Examples
        --------
        >>> local = cortexclient.load("sandbox", version=3, store="my-store")
        >>> names = local.store.pull("cell_types", progress=False)
        >>> local.store.verify()
        {}
        """
        bad: dict[str, list[str]] = {}
        local = self._local
        for version, name in [(number, name) for number in local.versions() for name in local.names(number)]:
            try:
                table = local.table(version, name)
                damaged = [] if table is None else table.damaged()
            except OtherFormatError:
                raise
            except StoreError:
                damaged = [MANIFEST]
            if damaged:
                bad[f"v{version}/{name}"] = damaged
        return bad

    def remove(self, table: str, *, version: int | None = None) -> None:
        """Remove a table from this disk.

        Raises
        ------
        StoreError
            If it is not there.

        Examples
        --------
        >>> local = cortexclient.load("sandbox", version=3, store="my-store")
        >>> names = local.store.pull("cell_types", progress=False)
        >>> local.store.remove("cell_types")
        >>> len(local.store.tables())
        0
        """
        number = self._session.version if version is None else as_version(version)
        local = self._local
        _require_name(table)
        if local.folder is None or not (local.folder / f"v{number}" / table).is_dir():
            raise StoreError(f"{table!r} at version {number} is not in the store {local.path}")
        with _writing(local.path):
            shutil.rmtree(local.folder / f"v{number}" / table)
        local._tables.pop((number, table), None)

    def scan(
        self,
        table: str,
        *,
        version: int | None = None,
        key: str | None = None,
        ids: Ids | None = None,
        return_as: Literal["dataset", "duckdb", "polars", "dask"] = "dataset",
    ) -> Any:
        """Hand out a stored table to another library, which reads the same files: in voxels of the table, split.

        Parameters
        ----------
        table : str
            Table or view.
        version : int, optional
            Materialized version. Default: the client's.
        key : str, optional
            The copy to read, in the order of this column.
        ids : int or sequence of int, optional
            Only rows whose ``key`` is one of these; only row groups that can hold one are read.
        return_as : {"dataset", "duckdb", "polars", "dask"}
            A pyarrow dataset, a DuckDB relation, a polars LazyFrame, or a Dask frame.

        Raises
        ------
        StoreError
            If it is not in the store of this machine.
        MissingExtraError
            If the library is not installed.

        Examples
        --------
        >>> local = cortexclient.load("sandbox", version=3, store="my-store")
        >>> names = local.store.pull("cell_types", progress=False)
        >>> local.store.scan("cell_types").count_rows() > 0
        True
        """
        found = self._stored(table, version)
        if key is not None and key not in found.keys:
            raise StoreError(f"{table!r} is stored by {', '.join(found.keys)}, not by {key!r}")
        if ids is not None and key is None:
            raise ValueError(f"ids need key=, the column that holds them: {', '.join(found.keys)}")
        wanted = None if ids is None else as_ids(ids, "ids")
        try:
            if return_as in LIBRARIES:
                return open_with(return_as, found, key, wanted)
        except ImportError as error:
            extra = {"duckdb": "store", "polars": "polars", "dask": "bulk"}[return_as]
            raise MissingExtraError.of(f"return_as={return_as!r} needs", return_as, extra) from error
        raise ValueError(f"return_as must be 'dataset', 'duckdb', 'polars' or 'dask', not {return_as!r}")

    def _stored(self, table: str, version: int | None) -> StoredTable:
        number = self._session.version if version is None else as_version(version)
        found = self._local.table(number, table)
        if found is None or not found.is_local:
            raise StoreError(
                f"{table!r} at version {number} is not in the store {self.path} of this machine; client.store.pull"
                f"({table!r}, version={number}) brings it there"
            )
        return found


# -- pulling


def _asking(session: Session, scratch: Path) -> Session:
    """Make a session of its own whose responses are recorded: what the server says about tables is stored with them."""
    recipe, policy = session.connection.recipe(), session.connection.policy
    return Session(
        recipe["spec"],
        version=session.version,
        server_address=recipe["server_address"],
        endpoint=recipe["endpoint"],
        auth_token=session.token,
        timeout=(policy.connect_timeout, policy.read_timeout),
        retries=policy.retries,
        cache=scratch,
        offline=False,
    )


def _require_name(table: str) -> None:
    """Raise `StoreError` for what is no name of one folder: it may come from a server, and would lead elsewhere."""
    if not table or table.startswith(".") or {"/", "\\", "\0"} & set(table):
        raise StoreError(f"{table!r} is no name of a table that a store can hold")


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Raise that the store cannot be written as our error."""
    try:
        yield
    except CortexError:
        raise
    except OSError as error:
        raise OutputError(f"the store {path} cannot be written: {error.strerror or error}") from error


def _save_metadata(session: Session, infos: Sequence[TableInfo], path: Path, stored: Sequence[str]) -> None:
    """Store the responses about a version that queries of its tables need, beside those that are there already."""
    from cortexclient.session import column_kinds, view_infos

    before = {}
    try:
        if path.exists():
            before = {entry.key: entry for entry in SnapshotStore(path).entries()}
    except CortexError:  # damaged: made anew for all tables
        infos = [*infos, *(find_table(session, name) for name in stored)]
    session.info()
    session.versions()
    view_infos(session)
    for info in infos:
        column_kinds(session, info)
    cache = session.connection.cache
    if cache is None:
        raise TypeError("the session has no cache")
    entries = {**before, **{key: cache.store.read(identity) for key, identity in cache.used.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    SnapshotStore.save(path, {"format": 1}, [entry for entry in entries.values() if entry is not None])


def _keys(info: TableInfo, columns: Sequence[str]) -> list[str]:
    for keys in (
        ["pre_pt_root_id", "post_pt_root_id"],
        ["target_id"] if info.reference_table else ["id"],
        ["id"],
    ):
        if set(keys) <= set(columns):
            return keys
    return [next((name for name in columns if name.endswith("_root_id")), columns[0])]


def _rounded(sample: pa.Table) -> list[str]:
    """Name the columns of numbers that the server rounds to 32 bits, which exports do not."""
    import numpy as np
    import pyarrow as pa

    found = []
    for name, column in zip(sample.column_names, sample.columns, strict=True):
        if pa.types.is_floating(column.type):
            values = column.drop_null().to_numpy()
            if len(values) and np.array_equal(values, values.astype(np.float32), equal_nan=True):
                found.append(name)
    return found


def _require_room(folder: Path, needed: int, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{name} needs about {_size(needed)} while it is pulled, and the disk of {folder} has {_size(free)} left; "
            "set CORTEXCLIENT_STORE to a folder on a larger one"
        )


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _from_server(session: Session, query: Query, rows: int) -> Iterator[pa.Table]:
    """Read a table from the server, by ranges of ids if it is large."""
    first = run_query(session, query if rows <= _ROWS_AT_ONCE else _below(query, 0, 1))
    if rows <= _ROWS_AT_ONCE:
        yield first
        return
    seen, low, width = len(first), 1, _ROWS_AT_ONCE
    yield first
    while seen < rows:
        found = run_query(session, _below(query, low, low + width))
        seen += len(found)
        low += width
        # ids are dense in most tables, and far apart in some
        width = (
            width * 2
            if len(found) < _ROWS_AT_ONCE // 4
            else max(1, width // (1 + len(found) // _ROWS_AT_ONCE))
        )
        yield found


def _below(query: Query, low: int, high: int) -> Query:
    bounds = {"greater_equal": {query.name: {"id": low}}, "less": {query.name: {"id": high}}}
    return _replaced(query, filters={**query.filters, **bounds})


def _replaced(query: Query, **changes: Any) -> Query:
    import dataclasses

    return dataclasses.replace(query, **changes)


class _Progress:
    """A bar over the rows that are read and sorted, with the time left."""

    def __init__(self, name: str, total: int, *, shown: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=name, unit=" rows", unit_scale=True, disable=not shown)
        self._name, self._step, self._before, self._done = name, "", 0, 0

    def __enter__(self) -> Callable[[str, int], None]:
        return self._report

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _report(self, step: str, rows: int) -> None:
        if step != self._step:
            self._before += self._done
            self._step = step
            self._bar.set_description(f"{self._name}: {step}")
        self._done = rows
        self._bar.update(self._before + rows - self._bar.n)
