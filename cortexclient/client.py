"""The client of one dataset: a facade over its services, with no logic of its own."""

from __future__ import annotations

import difflib
import functools
import inspect
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast
from weakref import WeakValueDictionary

from cortexclient.errors import CortexError, NotConfiguredError
from cortexclient.forking import ForkSafeLock
from cortexclient.services.annotations import AnnotationsService
from cortexclient.services.cells import CellsService
from cortexclient.services.connections import ConnectionsService
from cortexclient.services.datastack import DatastackService
from cortexclient.services.history import HistoryService
from cortexclient.services.level2 import Level2Service
from cortexclient.services.links import LinksService
from cortexclient.services.places import PlacesService
from cortexclient.services.roots import RootsService
from cortexclient.services.skeletons import SkeletonsService
from cortexclient.services.snapshots import SnapshotsService
from cortexclient.services.space import Space
from cortexclient.services.synapses import SynapsesService
from cortexclient.services.tables import QueriesService, TablesService, ViewsService
from cortexclient.session import Session, be_patient_with
from cortexclient.spec.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from caveclient.frameworkclient import CAVEclientFull

    from cortexclient.bulk import Bulk
    from cortexclient.services.exports import TableExportClient
    from cortexclient.services.meshes import MeshClient
    from cortexclient.services.store import StoreService
    from cortexclient.spec import DatasetSpec
    from cortexclient.types import Ids, PathLike, Timestamp

__all__ = ["DatasetClient", "client_class"]

P = ParamSpec("P")
R = TypeVar("R")
Service = TypeVar("Service")


def _of(
    service: Callable[[Session], Any], method: Callable[Concatenate[Any, P], R]
) -> Callable[Concatenate[DatasetClient, P], R]:
    """Offer a service's method on the client, with the service's own signature and documentation."""

    def call(self: DatasetClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        bound = getattr(self._service(service), method.__name__)
        return cast("R", bound(*args, **kwargs))

    functools.update_wrapper(call, method)
    call.__qualname__ = f"DatasetClient.{method.__name__}"
    return call


def _restore(cls_spec: DatasetSpec, session: Session, exports_path: str | None) -> DatasetClient:
    return client_class(cls_spec)._on(session, exports_path)


class _Suggestions:
    """A ``__getattr__`` that names the attributes that a misspelt name may have meant.

    The class itself has none: IPython's completer evaluates no attribute of objects whose class does.
    """

    def __get__(self, client: object | None, owner: type) -> Callable[[str], Any]:
        if client is None:
            raise AttributeError("__getattr__")
        return functools.partial(self._raise, client, owner)

    @staticmethod
    def _raise(client: object, owner: type, name: str) -> Any:
        known = [each for each in dir(owner) if not each.startswith("_")]
        if name in known:  # it exists, and failed with an AttributeError of its own
            return object.__getattribute__(client, name)
        close = [] if name.startswith("_") else difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {name!r}{hint}", name=name, obj=client
        )


class DatasetClient:
    """Query one dataset: tables and views, synapses, cells, skeletons, meshes, space, links, exports.

    :func:`cortexclient.load` makes clients; each dataset has a subclass of its own name that adds its spec. No request
    is sent before data are needed. Methods and attributes are those of the services.

    Parameters
    ----------
    spec : DatasetSpec, optional
        The dataset. May be left out in a dataset's own class.
    version : int, optional
        Materialization version of every service. Default: the spec's ``default_version``.
    timestamp : datetime.datetime or str, optional
        Moment of every service, instead of a version; a naive one is taken as UTC.
    **options
        Further options of :class:`cortexclient.session.Session`: ``server_address``, ``auth_token``, ...

    Notes
    -----
    *One moment.* A client with a version or a timestamp is pinned: every service answers at it. A client with neither
    floats: tables and the root ids of cells come from the newest version, other roots and level-2 ids are those of now,
    and a neuron's synapses are those of the last moment at which its root id was valid. Assigning `version`,
    `fix_mat_timestamp` and `unfix_mat_timestamp` move all services together; `at` returns a copy at another moment.

    Examples
    --------
    >>> import cortexclient
    >>> client = cortexclient.load("sandbox")
    >>> client
    SandboxClient(dataset='sandbox', datastack='sandbox', version='latest')
    >>> client.at(version=3).version
    3
    """

    default_spec: ClassVar[DatasetSpec | None] = None
    if not TYPE_CHECKING:  # a type checker is to report misspelt attributes itself
        __getattr__ = _Suggestions()

    def __init__(
        self,
        spec: DatasetSpec | None = None,
        *,
        version: int | None = None,
        timestamp: Timestamp | None = None,
        **options: Any,
    ) -> None:
        chosen: Any = spec or self.default_spec
        if chosen is None or isinstance(chosen, str) or "datastack_name" in options:
            raise TypeError(
                "a DatasetClient is made from the spec of a dataset, not from the name of a datastack: use "
                "cortexclient.load('NAME or file.yaml'); `cortexclient list` shows the datasets, and `cortexclient new "
                "NAME --server ADDRESS --datastack DATASTACK` writes the file of another one"
            )
        tables, source, store = None, options.pop("source", None), options.pop("store", None)
        known = {"source", "store", *inspect.signature(Session).parameters}
        if unknown := [name for name in options if name not in known]:
            advice = did_you_mean(unknown[0], known, "see help(cortexclient.load)")
            raise TypeError(f"there is no option {unknown[0]!r} of a client: {advice}")
        if store is not None or source not in (None, "server"):
            from cortexclient.services.store import open_source

            tables = open_source(chosen, source, store)
        if tables is not None and tables.only and version is None and timestamp is None:
            version = max(tables.versions(), default=None)  # the newest one that is there
        self._start(Session(chosen, version=version, timestamp=timestamp, tables=tables, **options))

    @classmethod
    def _on(cls, session: Session, exports_path: str | None = None) -> DatasetClient:
        """Make a client on an existing session."""
        client = object.__new__(cls)
        client._start(session, exports_path)
        return client

    def _start(self, session: Session, exports_path: str | None = None) -> None:
        self._session = session
        self._exports_path = exports_path
        self._services: dict[Any, Any] = {}

    def _service(self, kind: Callable[[Session], Service]) -> Service:
        """Return the client's only instance of a service, made when it is first needed."""
        if kind not in self._services:
            # without a lock: threads that come at the same time may make another one, which nobody gets
            self._services.setdefault(kind, kind(self._session))
        return cast("Service", self._services[kind])

    # -- who and where

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's spec."""
        return self._session.spec

    @property
    def session(self) -> Session:
        """The connection that all services share."""
        return self._session

    @property
    def cave(self) -> CAVEclientFull:
        """The CAVEclient of the datastack, at this client's moment; has all of CAVE's own functions."""
        return self._session.cave

    @property
    def datastack_name(self) -> str:
        """The server's name for the dataset."""
        return self._session.datastack

    @property
    def server_address(self) -> str:
        """Address of the global server. Asking a sandbox dataset for it starts the sandbox."""
        return self._session.server_address

    # -- when

    @property
    def version(self) -> int:
        """Materialization version that tables come from; assign to it to move every service there.

        Raises
        ------
        UnknownVersionError
            The datastack has no such version (on assignment), or none at all.
        """
        return self._session.version

    @version.setter
    def version(self, value: int) -> None:
        self._session.pin(version=value)

    @property
    def timestamp(self) -> datetime | None:
        """The client's moment, aware, in UTC; None while it floats."""
        return self._session.timestamp

    def at(self, *, version: int | None = None, timestamp: Timestamp | None = None) -> DatasetClient:
        """Return a copy of this client at another moment, which shares its connections and cached metadata.

        Parameters
        ----------
        version : int, optional
            Materialization version.
        timestamp : datetime.datetime or str, optional
            Moment; a naive one is taken as UTC. Give one of the two, or none for a floating copy.

        Returns
        -------
        DatasetClient
            Of the same class; this client stays where it is.

        Raises
        ------
        ValueError
            Both were given.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> earlier = client.at(version=client.version - 1)
        >>> client.version - earlier.version
        1
        """
        return type(self)._on(self._session.at(version=version, timestamp=timestamp), self._exports_path)

    def fix_mat_timestamp(self, version: int | None = None) -> None:
        """Pin every service to a materialization version.

        Parameters
        ----------
        version : int, optional
            Default: the version that the client uses at present.

        Raises
        ------
        UnknownVersionError
            The datastack has no such version.

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.fix_mat_timestamp()
        >>> client.session.pinned
        True
        """
        if version is None:
            self._session.pin_current()
        else:
            self._session.pin(version=version)

    def unfix_mat_timestamp(self) -> None:
        """Return to the moment that the client was loaded with (floating, if none was given).

        Examples
        --------
        >>> import cortexclient
        >>> client = cortexclient.load("sandbox")
        >>> client.fix_mat_timestamp()
        >>> client.unfix_mat_timestamp()
        >>> client.session.pinned
        False
        """
        self._session.unpin()

    version_timestamp = _of(DatastackService, DatastackService.version_timestamp)

    @staticmethod
    def now() -> datetime:
        """Return the current time, aware, in UTC.

        Examples
        --------
        >>> client.now().tzinfo
        datetime.timezone.utc
        """
        return datetime.now(UTC)

    # -- tables and queries

    # no plain properties: completers do not evaluate those, and so would not find the tables
    @functools.cached_property
    def tables(self) -> TablesService:
        """Tables by name, with completion, as in ``client.tables.<name>(filters).query()``."""
        return TablesService(self._session)

    @functools.cached_property
    def views(self) -> ViewsService:
        """Views by name, with completion, as in ``client.views.<name>(filters).query()``."""
        return ViewsService(self._session)

    status = _of(DatastackService, DatastackService.status)
    versions = _of(HistoryService, HistoryService.versions)
    diff = _of(HistoryService, HistoryService.diff)
    edit_history = _of(HistoryService, HistoryService.edit_history)
    root_at = _of(PlacesService, PlacesService.root_at)
    anchor_points = _of(PlacesService, PlacesService.anchor_points)
    query = _of(QueriesService, QueriesService.query)
    query_synapses = _of(SynapsesService, SynapsesService.query_synapses)
    connectivity = _of(ConnectionsService, ConnectionsService.connectivity)
    partners = _of(ConnectionsService, ConnectionsService.partners)
    cell_id_to_root_id = _of(CellsService, CellsService.cell_id_to_root_id)
    root_id_to_cell_id = _of(CellsService, CellsService.root_id_to_cell_id)

    # -- roots and level-2 ids

    latest_valid_timestamp = _of(RootsService, RootsService.latest_valid_timestamp)
    get_roots = _of(RootsService, RootsService.get_roots)
    is_latest_roots = _of(RootsService, RootsService.is_latest_roots)
    get_latest_roots = _of(RootsService, RootsService.get_latest_roots)
    suggest_latest_roots = _of(RootsService, RootsService.suggest_latest_roots)
    latest_roots = _of(RootsService, RootsService.latest_roots)
    get_l2_ids = _of(Level2Service, Level2Service.get_l2_ids)
    get_l2data = _of(Level2Service, Level2Service.get_l2data)

    # -- morphology and space

    @property
    def mesh(self) -> MeshClient:
        """Meshes, and the level-2 id of each of their vertices."""
        from cortexclient.services.meshes import MeshClient

        return self._service(MeshClient)

    get_skeleton = _of(SkeletonsService, SkeletonsService.get_skeleton)
    get_skeletons = _of(SkeletonsService, SkeletonsService.get_skeletons)
    skeletons_exist = _of(SkeletonsService, SkeletonsService.skeletons_exist)
    save_swc = _of(SkeletonsService, SkeletonsService.save_swc)
    depth = _of(Space, Space.depth)

    @property
    def space(self) -> Space:
        """Transforms into cortical coordinates in um from the pia, such as `transform_nm` and `streamline_nm`.

        Raises
        ------
        NotConfiguredError
            The spec has no ``transform``.
        """
        return self._service(Space)

    dataset_transform = space  # its older name
    # -- links

    neuroglancer_url = _of(LinksService, LinksService.neuroglancer_url)
    neuroglancer_viewer = _of(LinksService, LinksService.neuroglancer_viewer)

    # -- static exports

    @property
    def exports(self) -> TableExportClient:
        """Static table exports in a bucket or folder; NotConfiguredError where the spec and the user name none."""
        from cortexclient.services.exports import TableExportClient

        if (path := self._exports_path) is None:
            instead = "client.set_export_cloudpath(path) names a place for them"
            self.spec.require_capability("exports", feature="static exports", instead=instead)
            path = self._session.exports_path
        if path is None:
            raise NotConfiguredError(
                f"dataset {self.spec.name!r} has no static exports: add `exports: {{path: ...}}` to its YAML file, "
                "or call client.set_export_cloudpath(path)"
            )
        key = (TableExportClient, path)
        if key not in self._services:
            said = self.spec.exports if self.spec.exports and path == self.spec.exports.path else None
            made = TableExportClient(
                path,
                format=said.format if said else None,
                layout=said.layout if said else None,
                datastack=self.spec.datastack,
                cache=self._session.connection.cache,
                default_version=functools.partial(getattr, self, "version"),  # no lambda: it is pickled
                order_of=self._column_order,
                mirrors=said.mirrors if said else (),
            )
            be_patient_with([path, *made.mirrors], self._session.connection.policy)
            self._services.setdefault(key, made)
        return cast("TableExportClient", self._services[key])

    def _column_order(self, table: str, version: int) -> list[str] | None:
        """Request the order of a table's columns; None where the server does not know it."""
        try:
            return list(self.at(version=version).query(table, limit=1, split_positions=True).columns)
        except (CortexError, ValueError):
            return None

    @property
    def store(self) -> StoreService:
        """Tables of this dataset on one's own disk; `pull` brings them, ``load(..., source="store")`` uses them."""
        from cortexclient.services.store import StoreService

        return StoreService(self._session, functools.partial(getattr, self, "exports"))

    def set_export_cloudpath(self, cloudpath: PathLike) -> None:
        """Use the static exports at another place than the spec's.

        Parameters
        ----------
        cloudpath : str or pathlib.Path
            Such as ``"gs://bucket/folder/"`` or a local folder.

        Examples
        --------
        >>> elsewhere = client.at(version=3)
        >>> elsewhere.set_export_cloudpath("my-exports/")
        >>> elsewhere.exports
        TableExportClient('my-exports/')
        """
        self._exports_path = str(cloudpath)

    # -- the datastack itself, and what is passed on to CAVE

    most_recent_materialization_version = _of(
        DatastackService, DatastackService.most_recent_materialization_version
    )
    get_datastack_info = _of(DatastackService, DatastackService.get_datastack_info)
    image_source = _of(DatastackService, DatastackService.image_source)
    segmentation_source = _of(DatastackService, DatastackService.segmentation_source)
    viewer_resolution = _of(DatastackService, DatastackService.viewer_resolution)
    image_cloudvolume = _of(DatastackService, DatastackService.image_cloudvolume)
    segmentation_cloudvolume = _of(DatastackService, DatastackService.segmentation_cloudvolume)
    get_state_json = _of(DatastackService, DatastackService.get_state_json)
    upload_state_json = _of(DatastackService, DatastackService.upload_state_json)
    stage_annotations = _of(AnnotationsService, AnnotationsService.stage_annotations)
    upload_staged_annotations = _of(AnnotationsService, AnnotationsService.upload_staged_annotations)

    save_snapshot = _of(SnapshotsService, SnapshotsService.save_snapshot)

    def bulk(
        self,
        root_ids: Ids,
        *,
        executor: Executor | None = None,
        dask: Any = None,
        batch_size: int = 50,
        rate: float | None = None,
        retry_failed: bool = True,
        progress: bool = True,
    ) -> Bulk:
        """Prepare a job over many neurons, whose results go to a folder and survive a kill.

        Parameters
        ----------
        root_ids : int or sequence of int
            Any number; duplicates are done once.
        executor : concurrent.futures.Executor, optional
            The workers. Default: ``max_workers`` threads on this client. Other processes get its spec and options,
            never a token: each looks up its own.
        dask : distributed.Client or str, optional
            A Dask cluster, or the address of its scheduler, instead (needs the extra ``bulk``). Its workers write to
            ``out`` themselves: a bucket, or a folder that all of them have.
        batch_size : int
            Neurons that are fetched and written together, 1 to 500. A job that is resumed keeps that which it has.
        rate : float, optional
            Most neurons per second, of all workers together.
        retry_failed : bool
            When a job is run again, also try those again that failed.
        progress : bool
            Show a bar with the rate, the time left and the number of failures.

        Returns
        -------
        Bulk
            Its methods ``skeletons``, ``synapses``, ``meshes``, ``l2`` and ``map`` do the job and return its results.

        Raises
        ------
        ValueError
            If the batch size or the rate is out of range, or two kinds of workers are given.

        Examples
        --------
        >>> result = client.bulk(root_ids, progress=False).skeletons(out="skeletons/")
        >>> result.failures
        {}
        """
        from cortexclient.bulk import Bulk

        return Bulk(
            self,
            root_ids,
            executor=executor,
            dask=dask,
            batch_size=batch_size,
            rate=rate,
            retry_failed=retry_failed,
            progress=progress,
        )

    # -- how it shows

    def cite(self) -> str:
        """Return what to cite and the dataset's licence, as text for people.

        Examples
        --------
        >>> print(client.cite())
        A synthetic cortex...
        """
        return self.spec.cite()

    def __repr__(self) -> str:
        moment = self._session.moment
        if moment.timestamp is not None:
            when = f"timestamp={moment.timestamp.isoformat()!r}"
        else:
            default = self.spec.default_version or "latest"
            when = f"version={moment.version if moment.version is not None else default!r}"
        return f"{type(self).__name__}(dataset={self.spec.name!r}, datastack={self.datastack_name!r}, {when})"

    def _repr_html_(self) -> str:
        """Return the card of the dataset for notebooks; it sends no request."""
        from cortexclient.services.datastack import card

        return card(self._session, self._service(LinksService))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.spec, self._session, self._exports_path))


_classes: WeakValueDictionary[str, type[DatasetClient]] = WeakValueDictionary()
_lock = ForkSafeLock()


def client_class(spec: DatasetSpec) -> type[DatasetClient]:
    """Return the class of a dataset's clients: a subclass of :class:`DatasetClient` that knows its spec.

    The same spec always gives the same class, so ``isinstance`` works between imports and ``load``.
    """
    with _lock:
        if (known := _classes.get(spec.fingerprint)) is not None:
            return known
        cls = type(
            spec.class_name_or_default,
            (DatasetClient,),
            {
                "default_spec": spec,
                "__doc__": f"{spec.title}\n\nSee :class:`cortexclient.DatasetClient`.",
                "__module__": f"cortexclient.datasets.{spec.name}",
            },
        )
        _classes[spec.fingerprint] = cls
        return cls
