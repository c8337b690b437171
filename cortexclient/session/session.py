"""`Session`: a dataset at a moment, over a shared connection."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from cortexclient.errors import NotConfiguredError, ServiceError, UnknownVersionError
from cortexclient.session.cache import CacheChoice
from cortexclient.session.connection import Connection, Memo
from cortexclient.session.graph import segmentation_info_in
from cortexclient.session.moment import (
    Moment,
    VersionRecord,
    nearest,
    newest,
    parse_versions,
    require_versions,
)
from cortexclient.session.policy import Policy
from cortexclient.session.query.filters import as_number
from cortexclient.session.workers import default_workers, run, run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from cortexclient.session.cave import SessionCAVEclient
    from cortexclient.session.connection import Endpoint
    from cortexclient.session.http import Http
    from cortexclient.session.query.tables import TableInfo
    from cortexclient.session.source import TableSource
    from cortexclient.spec import DatasetSpec
    from cortexclient.types import PathLike, Timestamp

__all__ = ["Session"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Failure = TypeVar("Failure", bound=ServiceError)


class Session:
    """A dataset, seen at one moment, over one set of connections.

    Parameters
    ----------
    spec : DatasetSpec
        The dataset.
    version : int, optional
        Materialized version to look at.
    timestamp : datetime.datetime or str, optional
        Any other time to look at; without a zone it is UTC. Give this or ``version``, not both.
    server_address : str, optional
        Overrides the server address in the spec.
    auth_token : str, optional
        Token for this server. Left out: looked up on disk, where ``cortexclient login`` stores it.
    endpoint : Endpoint, optional
        A running server, overriding address and token lookup.
    max_workers : int, optional
        Largest number of requests at a time, at least 1 (default: ``$CORTEXCLIENT_MAX_WORKERS`` or 8).
    timeout : float or tuple of float, optional
        Seconds to wait for a response, or (to connect, for a response).
    retries : int, optional
        How often a request is retried after a temporary failure.
    version_fallback : bool
        Serve an expired version by live queries at its time (and say so in ``df.attrs``) instead of raising.
    cache : bool or path, optional
        Cache on disk what can never change: in the user's cache folder, or this one. Default: ``$CORTEXCLIENT_CACHE``.
    offline : bool, optional
        Serve all from the cache alone; what is not there raises and is named. Default: ``$CORTEXCLIENT_OFFLINE``.
    tables : TableSource, optional
        Another source of frozen tables than the server, such as a store on one's own disk.

    Notes
    -----
    Creating a session makes no request. It may be shared by threads, and pickled: the other side connects again and
    looks up the token again; it is never part of the pickle.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        version: Any = None,
        timestamp: Timestamp | None = None,
        server_address: str | None = None,
        auth_token: str | None = None,
        endpoint: Endpoint | None = None,
        max_workers: int | None = None,
        timeout: float | tuple[float, float] | None = None,
        retries: int | None = None,
        version_fallback: bool = False,
        cache: bool | PathLike | None = None,
        offline: bool | None = None,
        tables: TableSource | None = None,
    ) -> None:
        self.max_workers = as_number(max_workers, "max_workers", least=1) or default_workers()
        self.version_fallback = version_fallback
        connection = Connection(
            spec,
            server_address=server_address,
            auth_token=auth_token,
            endpoint=endpoint,
            policy=Policy.from_settings(
                timeout=timeout, retries=as_number(retries, "retries"), workers=self.max_workers
            ),
            choice=CacheChoice.of(cache, offline),
            tables=tables,
        )
        self._opened_at = self.moment = Moment.of(version, timestamp)
        self._share(connection)

    def _share(self, connection: Connection) -> None:
        """Take over what all sessions on one connection share."""
        self.connection = connection
        self.spec: DatasetSpec = connection.spec
        """The dataset's spec."""
        self.datastack: str = connection.spec.datastack
        """The server's name for the dataset."""
        self.tables: TableSource | None = connection.tables
        """Another source of frozen tables than the server, if there is one."""
        self.http: Http = connection.http
        """Requests over the shared pool."""
        self._own = Memo()

    @property
    def label(self) -> str:
        """Name of the dataset for messages, with the server's name for it where that is another one."""
        name = self.spec.name
        return name if name == self.datastack else f"{name} (datastack {self.datastack})"

    @property
    def server_address(self) -> str:
        """Address of the global server; a launcher's address (``sandbox://``) is resolved, which may start it."""
        return self.connection.address

    @property
    def local_server(self) -> str:
        """Address of the datastack's own server, as the info service says."""
        return self.connection.local_server

    @property
    def endpoint(self) -> Endpoint:
        """The server, with what its launcher knows about it."""
        return self.connection.endpoint

    @property
    def exports_path(self) -> str | None:
        """Cloud path of the static exports: the launched server's own, else the spec's; None where there is neither."""
        if not self.connection.address_asked.startswith(("http://", "https://")):
            # a server on this machine never sends its client to a real bucket
            return self.endpoint.exports_path
        return self.spec.exports.path if self.spec.exports is not None else None

    @property
    def token(self) -> str | None:
        """Token for this server, or None."""
        return self.connection.token

    def info(self) -> dict[str, Any]:
        """Return the body of the info service for the datastack (fetched once)."""
        return self.connection.info()

    @property
    def synapse_table(self) -> str | None:
        """The synapse table: the spec's, else the info service's; None where neither names one."""
        return self.spec.synapse_table or self.info().get("synapse_table") or None

    def require_synapse_table(self, name: str | None = None) -> str:
        """Return the synapse table to use.

        Where neither the caller, the spec nor the info service names one, the `NotConfiguredError` names the YAML key.
        """
        table = name or self.synapse_table
        if not table:
            raise NotConfiguredError(
                f"dataset {self.spec.name!r} has no synapse table: add `synapse_table: NAME` to its YAML file, "
                "or pass synapse_table="
            )
        return table

    @property
    def pinned(self) -> bool:
        """Whether the session stands at a fixed moment."""
        return not self.moment.floating

    def versions(self, *, refresh: bool = False) -> dict[int, VersionRecord]:
        """Return all versions by number, oldest first, expired ones included (fetched once unless refreshed)."""
        if self.spec.denies("versions"):
            return {}
        if refresh:
            self.connection.memory.forget("versions")
        return self.connection.memory.get("versions", self._fetch_versions)

    def _fetch_versions(self) -> dict[int, VersionRecord]:
        response = self.http.send("materialize", "GET", self.versions_url, params={"expired": "True"})
        found: dict[int, VersionRecord] = self.http.read_json("materialize", response, parse=parse_versions)
        return found

    def version_record(self, version: int) -> VersionRecord:
        """Return the record of one version.

        Raise `UnknownVersionError`, which lists those that exist, if there is no such version, and `NotConfiguredError`
        if the spec says that the datastack has none.
        """
        require_versions(self.spec, f"version {version}")
        records = self.versions()
        if version not in records or records[version].missing_because:
            # one may have been added or completed since the list was read
            records = self.versions(refresh=True)
        record = records.get(version)
        if record is None:
            live = ", ".join(str(number) for number, other in records.items() if other.valid) or "none"
            message = f"{self.datastack} has no version {version}; live versions are {live}"
        elif record.missing_because:
            last = newest(records.values())
            instead = f"; the newest is {last.version}" if last else ""
            message = f"version {version} of {self.datastack} {record.missing_because}{instead}"
        else:
            return record
        raise self.no_version(message)

    @property
    def version(self) -> int:
        """Version that tables come from: the pinned, default or newest one; for a timestamp the newest before it.

        Raise `UnknownVersionError` if the datastack has none to use, `NotConfiguredError` if the spec says so.
        """
        if self.moment.version is not None:
            return self.moment.version
        require_versions(self.spec, "tables, views, synapses and cells")
        default = self.spec.default_version
        if self.moment.floating and default is not None and default != "latest":
            return int(default)
        records = self.versions()
        found = newest(records.values(), self.moment.timestamp)
        if found is None and self.moment.timestamp is not None:
            # before the first version: a live query starts from the nearest one, too
            found = nearest(records, self.moment.timestamp)
        if found is None:
            raise self.no_version(self._without_version(records))
        return found.version

    @property
    def versions_url(self) -> str:
        """Address of the list of versions."""
        return f"{self.local_server}/materialize/api/v3/datastack/{self.datastack}/metadata"

    def no_version(self, message: str) -> UnknownVersionError:
        """Make the error for a version that the list of versions does not have."""
        return UnknownVersionError(message, service="materialize", url=self.versions_url)

    def _without_version(self, records: dict[int, VersionRecord]) -> str:
        """Explain why there is no version to use: whether the service lists none, or none that is live."""
        self.connection.memory.forget("versions")  # one may be made meanwhile
        if not records:
            return (
                f"the materialize service lists no version of {self.datastack}, and tables, views and live queries "
                "need one; roots, level-2 ids, meshes and skeletons without synapses do not"
            )
        last = max(records.values(), key=lambda record: (record.timestamp, record.version))
        state = last.missing_because or "has expired"
        return (
            f"{self.datastack} has no live version (the last of {len(records)}, {last.version}, {state}), and tables, "
            "views and live queries need one; ask the people who run the server for a new one"
        )

    @property
    def timestamp(self) -> datetime | None:
        """The session's time, aware, in UTC; None while it floats."""
        if self.moment.version is not None:
            return self.version_record(self.moment.version).timestamp
        return self.moment.timestamp

    def frozen_version(self, timestamp: datetime) -> int | None:
        """Return the version that froze at exactly this time, if there is a live one."""
        for record in self.versions().values():
            if record.valid and abs(record.timestamp - timestamp) < timedelta(microseconds=1):
                return record.version
        return None

    def pin(self, *, version: Any = None, timestamp: Timestamp | None = None) -> None:
        """Move the session, and every service on it, to a version or a timestamp.

        Raise `ValueError` if none or both are given, `UnknownVersionError` if the datastack has no such version.
        """
        moment = Moment.of(version, timestamp)
        if moment.floating:
            raise ValueError("give a version or a timestamp to move to; unpin() returns to that of load()")
        if moment.version is not None:
            self.version_record(moment.version)
        self.moment = moment

    def pin_current(self) -> None:
        """Pin the version that a floating session reads at present."""
        if self.moment.version is None:
            self.moment = Moment(version=self.version)

    def unpin(self) -> None:
        """Return to the moment that the session was opened with."""
        self.moment = self._opened_at

    def at(self, *, version: Any = None, timestamp: Timestamp | None = None) -> Session:
        """Make a session at another moment on the same connections; with neither argument, a floating one."""
        other = object.__new__(Session)
        other.max_workers = self.max_workers
        other.version_fallback = self.version_fallback
        other._opened_at = other.moment = Moment.of(version, timestamp)
        other._share(self.connection)
        return other

    @property
    def cave(self) -> SessionCAVEclient:
        """The CAVEclient on this session's connections, following this session's moment."""

        def make() -> SessionCAVEclient:
            from cortexclient.session.cave import SessionCAVEclient

            with self.guard("info"):
                return SessionCAVEclient(self)

        return self._own.get("cave", make)

    def guard(self, service: str) -> AbstractContextManager[None]:
        """Raise every failure inside the block as one of `cortexclient.errors`."""
        from cortexclient.session.http import raised_as_ours

        return raised_as_ours(self.connection, service)

    def error(self, kind: type[Failure], service: str, message: str, *, status: int | None = None) -> Failure:
        """Make an error that names a service's address; without a status it is about a request that was not sent."""
        return kind(message, service=service, status=status, url=self.connection.url_of(service))

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        progress: bool = False,
        description: str = "",
    ) -> list[Result]:
        """Apply a function to every item in this session's bounded pool; results in the order of the items."""
        work = list(items)
        if len(work) == 1 and not progress:
            return [function(work[0])]  # no pool for one
        return run(function, work, workers=self.max_workers, progress=progress, description=description)

    def run_all(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do different jobs concurrently in this session's bounded pool, which they may use too; results in order."""
        return run_all(jobs, workers=self.max_workers)

    def segmentation_info(self) -> dict[str, Any]:
        """Return the chunkedgraph's own description of the segmentation (fetched once)."""
        connection = self.connection

        def fetch() -> dict[str, Any]:
            url = f"{self.local_server}/segmentation/table/{connection.segmentation_table}/info"
            response = self.http.send("chunkedgraph", "GET", url)
            body = self.http.read_json("chunkedgraph", response, keys=("graph", "scales"))
            return segmentation_info_in(response, body)

        return connection.memory.get("segmentation info", fetch)

    def segmentation_cloudvolume(self, **options: Any) -> Any:
        """Open the segmentation as a CloudVolume at this session's moment; without options the same one each time."""
        return self._volume("segmentation", options)

    def image_cloudvolume(self, **options: Any) -> Any:
        """Open the images as a CloudVolume; without options the same one each time."""
        return self._volume("image", options)

    def _volume(self, kind: str, options: dict[str, Any]) -> Any:
        def make() -> Any:
            from cortexclient.session.volumes import open_volume

            service = "chunkedgraph" if kind == "segmentation" else "info"
            self.connection.require_network(f"voxels of the {kind}", service)
            with self.guard(service):
                return open_volume(self, kind, **options)

        return make() if options else self._own.get(f"{kind} volume", make)

    def read_files(
        self, folder: str, wanted: Sequence[str | tuple[str, int, int]], *, service: str = "bucket"
    ) -> list[bytes | None]:
        """Read files, or ranges of bytes, of a web folder or bucket with this session's timeouts, retries and workers.

        See `cortexclient.session.volumes.read_files`.
        """
        from cortexclient.session.volumes import read_files

        return read_files(self, folder, wanted, service=service)

    def query(self, table_or_view: str, **options: Any) -> Any:
        """Return the complete result of a table or view; options are fields of `cortexclient.session.Query`."""
        from cortexclient.session.query.query import Query, run_query

        return run_query(self, Query(table_or_view, **options))

    def count(self, table_or_view: str, **options: Any) -> int:
        """Count the rows that `query` would return."""
        from cortexclient.session.query.query import Query, count_rows

        return count_rows(self, Query(table_or_view, **options))

    def table_info(self, name: str, *, kind: str | None = None) -> TableInfo:
        """Describe a table or view at this moment; an `UnknownTableError` lists close names."""
        from cortexclient.session.query.tables import find_table

        return find_table(self, name, kind=kind)

    def __repr__(self) -> str:
        return f"Session({self.spec.name!r}, datastack={self.datastack!r}, at={str(self.moment)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {
            "connection": self.connection.recipe(),
            "max_workers": self.max_workers,
            "version_fallback": self.version_fallback,
            "opened_at": (self._opened_at.version, self._opened_at.timestamp),
            "moment": (self.moment.version, self.moment.timestamp),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.max_workers = state["max_workers"]
        self.version_fallback = state["version_fallback"]
        self._opened_at = Moment(*state["opened_at"])
        self.moment = Moment(*state["moment"])
        self._share(Connection(auth_token=None, **state["connection"]))

    def close(self) -> None:
        """Close the connections; the session may be used again and opens new ones."""
        if (transport := self.connection.memory.peek("transport")) is not None:
            transport.close()
