"""One running sandbox: a data folder, the names it is served under, and the server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import ArrayLike

from cortexclient.sandbox.app import RequestLog
from cortexclient.sandbox.faults import Fault, FaultPlan
from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.naming import RenamedExports, names_for, plain_names
from cortexclient.sandbox.server import LoopbackServer
from cortexclient.sandbox.stores.graph import edits
from cortexclient.sandbox.stores.graph.edits import Edit
from cortexclient.sandbox.stores.tables.versions import repeat_versions
from cortexclient.sandbox.truth import Truth
from cortexclient.sandbox.world import SANDBOX_TOKEN, Options, World

if TYPE_CHECKING:
    from cortexclient.client import DatasetClient
    from cortexclient.spec import DatasetSpec


__all__ = ["Sandbox", "find_folder", "plain_spec", "resolve_spec"]


def resolve_spec(spec: str | Path | DatasetSpec | None, data: object) -> DatasetSpec | None:
    """Spec of a name, a file or a spec; None where a folder is served under its own names."""
    if spec is None:
        if data is not None:
            return None
        spec = "sandbox"
    from cortexclient import registry

    resolved, _ = registry.resolve(spec)
    return resolved


def find_folder(
    spec: DatasetSpec | None, data: str | Path | DataFolder | None, size: str, seed: int | None
) -> DataFolder:
    """Folder to serve: the one that is given, or the synthetic cortex of a size, built where it is not in the cache."""
    if isinstance(data, DataFolder):
        return data
    if data is not None:
        return DataFolder.open(data)
    from cortexclient.sandbox.build import DEFAULT_SEED, build_cortex

    # which refuses sizes that there are not
    return build_cortex(spec, size=size, seed=DEFAULT_SEED if seed is None else seed)


def plain_spec(sandbox: Sandbox) -> DatasetSpec:
    """Spec with the least in it, for a folder that was served under its own names."""
    from cortexclient.spec import DatasetSpec

    name = "".join(letter if letter.isalnum() else "_" for letter in sandbox.datastack.lower())
    return DatasetSpec.model_validate(
        {
            "name": name,
            "title": f"Data folder {sandbox.folder.path.name}",
            "server_address": sandbox.url,
            "datastack": sandbox.datastack,
        }
    )


class Sandbox:
    """A CAVE server on this machine, running from its creation until :meth:`close`.

    Parameters
    ----------
    spec : str, pathlib.Path, DatasetSpec or mapping, optional
        Dataset whose datastack, table and view names the server uses: a registered name, a YAML file, or a spec.
        Default: ``"sandbox"``, or the folder's own names where ``data`` is given. Without a spec, a plain mapping says
        under which names the folder is served; see :func:`cortexclient.sandbox.naming.plain_names`.
    data : str, pathlib.Path or DataFolder, optional
        Data folder to serve (``docs/sandbox-data.md`` has the layout). Default: a synthetic cortex, built into the
        user cache when it is first needed.
    size : {"tiny", "small", "large"}
        Size of the synthetic cortex.
    seed : int, optional
        Seed of the synthetic cortex. Default: the one that everybody shares, so that one built cortex serves all.
    port : int
        Port on 127.0.0.1; 0 lets the system pick one.
    row_limit : int
        Most rows of one materialization response.
    latency : float
        Seconds added to each response.
    strict : bool
        Copy the oddities of the real services. False offers the simpler behaviour where a deployment may differ.
    auth : bool
        Refuse requests without the right token, as production does.
    tokens : mapping of str to sequence of str, optional
        Token -> permissions, where ``auth`` is on. Default: :attr:`token` may view and edit.
    query_rate : str, optional
        Rate limit of materialization queries, such as ``"2 per 1 minute"``.
    faults : iterable of Fault or str
        Faults that wait from the start; a bare kind (``"503"``) hits the first request, whatever it is.
    **switches
        Further fields of :class:`cortexclient.sandbox.world.Options`, such as ``skeleton_delay``.

    Raises
    ------
    UnknownDatasetError, SpecError
        The spec cannot be found or used.
    DataFolderError
        The folder cannot be served.
    OSError
        The port is taken.

    Examples
    --------
    >>> from cortexclient.sandbox import Sandbox
    >>> with Sandbox("v1dd", size="tiny") as sandbox:
    ...     client = sandbox.load()
    ...     len(client.tables.nucleus_detection_v0().query()) > 0
    True
    """

    def __init__(
        self,
        spec: str | Path | DatasetSpec | Mapping[str, Any] | None = None,
        *,
        data: str | Path | DataFolder | None = None,
        size: str = "small",
        seed: int | None = None,
        port: int = 0,
        row_limit: int = 200_000,
        latency: float = 0.0,
        strict: bool = True,
        auth: bool = False,
        tokens: Mapping[str, tuple[str, ...]] | None = None,
        query_rate: str | None = None,
        faults: Iterable[Fault | str] = (),
        **switches: Any,
    ) -> None:
        options = Options(
            row_limit=row_limit, latency=latency, strict=strict, auth=auth, query_rate=query_rate, **switches
        )
        if tokens is not None:
            options.tokens = dict(tokens)
        self._made_of = (data, size, seed)
        plain = spec if isinstance(spec, Mapping) else None
        resolved = None if isinstance(spec, Mapping) else resolve_spec(spec, data)
        self._start(resolved, options, port, RequestLog(), FaultPlan.of(faults), plain=plain)

    def _start(
        self,
        spec: DatasetSpec | None,
        options: Options,
        port: int,
        log: RequestLog,
        faults: FaultPlan,
        graph: Any = None,
        plain: Mapping[str, Any] | None = None,
    ) -> None:
        from cortexclient.sandbox.app import build_app
        from cortexclient.sandbox.shared import announce

        self.spec = spec
        self.folder = find_folder(spec, *self._made_of)
        self.requests = log
        self._faults = faults
        self._siblings: dict[str, Sandbox] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        names = names_for(self.folder, spec) if plain is None else plain_names(self.folder, plain)
        self._renamed = RenamedExports(self.folder, names)
        self.world = world = World(self.folder, names, options, graph=graph)
        world.exports_path = self._renamed.path
        world.dataset = None if spec is None else spec.name
        self._server = LoopbackServer(port)
        world.base_url = self._server.url
        world.refuse_connections = self._server.refuse
        try:
            self._server.start(build_app(world, log=self.requests, faults=self._faults))
        except BaseException:
            self._server.close()
            self._renamed.close()
            raise
        announce(self)

    @property
    def url(self) -> str:
        """Address of the server, both the global and the local one."""
        return self.world.base_url

    @property
    def port(self) -> int:
        """Port on 127.0.0.1."""
        return self._server.port

    @property
    def token(self) -> str:
        """Token that the server accepts; a dummy where no tokens were given."""
        return next(iter(self.world.options.tokens), SANDBOX_TOKEN)

    @property
    def datastack(self) -> str:
        """Name of the datastack that is served."""
        return self.world.names.datastack

    @property
    def exports_path(self) -> str | None:
        """Cloud path of the static exports; None where the folder has none."""
        return self.world.exports_path

    @property
    def viewer_site(self) -> str:
        """Address of the Neuroglancer that the server brings."""
        return self.world.viewer_site

    @property
    def truth(self) -> Truth:
        """Ground truth of the generator, which no service returns.

        Raises
        ------
        DataFolderError
            The folder holds no truth: only a synthetic cortex does.
        """
        from cortexclient.sandbox.truth import Truth

        return Truth(self.folder)

    def load(self, name: str | Path | DatasetSpec | None = None, **options: Any) -> DatasetClient:
        """Client of this sandbox.

        Parameters
        ----------
        name : str, pathlib.Path or DatasetSpec, optional
            Dataset to load. Default: the one that is served. For another one, the same data are served under that
            dataset's names by a second server, which closes with this one. Edits and versions made here show there,
            too, unless the other dataset's transform or voxels need a cortex of their own: then start a sandbox for it.
        **options
            Options of :func:`cortexclient.load`, such as ``version``.

        Returns
        -------
        DatasetClient

        Raises
        ------
        UnknownDatasetError, SpecError
            The dataset cannot be found or used.
        """
        from cortexclient.factory import load

        spec = self.spec if name is None else resolve_spec(name, None)
        if spec is None:
            spec = plain_spec(self)
        server = self if self.spec is None or spec == self.spec else self._sibling(spec)
        options.setdefault("server_address", f"sandbox://127.0.0.1:{server.port}")
        return load(spec, **options)

    def _sibling(self, spec: DatasetSpec) -> Sandbox:
        with self._lock:
            if spec.name not in self._siblings or self._siblings[spec.name].spec != spec:
                sibling = object.__new__(Sandbox)
                sibling._made_of = self._made_of
                # the same folder under other names has the same history; a cortex in another frame is another one
                same = find_folder(spec, *self._made_of).path == self.folder.path
                graph = self.world.graph if same else None
                sibling._start(spec, self.world.options, 0, self.requests, self._faults, graph)
                self._siblings[spec.name] = sibling
                self._update_siblings()
            return self._siblings[spec.name]

    def inject(self, fault: Fault | str, **options: Any) -> Fault:
        """Inject a fault.

        Parameters
        ----------
        fault : Fault or str
            A fault, or the kind of one; see :data:`cortexclient.sandbox.faults.KINDS`.
        **options
            Parameters of :class:`Fault`, where a kind is given.

        Returns
        -------
        Fault
            The armed fault.

        Examples
        --------
        >>> with Sandbox(size="tiny") as sandbox:
        ...     fault = sandbox.inject("503", route="/query$", count=2)
        ...     len(sandbox.load().query("nucleus_detection")) > 0      # asked again twice
        True
        """
        armed = Fault(fault, **options) if isinstance(fault, str) else fault
        self._faults.add(armed)
        return armed

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def merge(self, source: int, sink: int, **options: Any) -> Edit:
        """Merge two objects, as a proofreader would.

        Roots, level-2 ids at the edited place, lineage, live tables and skeletons follow immediately; frozen versions
        stay.

        Parameters
        ----------
        source, sink : int
            Supervoxels to join; of a root, the supervoxel that is closest to the other one is taken.
        **options
            Options of :func:`cortexclient.sandbox.stores.graph.edits.merge`.

        Returns
        -------
        Edit
            Operation id, time, old and new roots, new level-2 ids.

        Raises
        ------
        EditError
            Both are of one object already.
        """
        return edits.merge(self.world.graph, source, sink, **options)

    def split(self, sources: ArrayLike, sinks: ArrayLike | None = None, **options: Any) -> Edit:
        """Split an object in two, as a proofreader would.

        Parameters
        ----------
        sources, sinks : int or array_like of int
            Supervoxels that must come apart. A root alone is cut between its two ends.
        **options
            Options of :func:`cortexclient.sandbox.stores.graph.edits.split`.

        Returns
        -------
        Edit

        Raises
        ------
        EditError
            They are not all of one object, or nothing connects them.
        """
        return edits.split(self.world.graph, sources, sinks, **options)

    def undo(self, operation_id: int, **options: Any) -> Edit:
        """Undo an edit, by an edit of its own."""
        return edits.undo(self.world.graph, operation_id, **options)

    def materialize(self, version: int | None = None) -> int:
        """Freeze the tables as they are now into a new version; returns its number.

        Raises
        ------
        ValueError
            There is such a version already.
        """
        with self._lock:
            number = self.world.tables.materialize(version)
            self._update_siblings()
        return number

    def expire(self, version: int) -> None:
        """Expire a version: its metadata stay, its tables are gone.

        Raises
        ------
        KeyError
            There is no such version.
        """
        with self._lock:
            self.world.tables.expire(version)
            self._update_siblings()

    def _update_siblings(self) -> None:
        for sibling in self._siblings.values():
            if sibling.folder.path == self.folder.path:
                repeat_versions(self.world.tables, sibling.world.tables)

    def close(self) -> None:
        """Stop the server and free the port; no thread is left. Closing twice does nothing."""
        from cortexclient.sandbox.shared import forget

        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._pid != os.getpid():  # only the process that started the server may stop it
            return
        for sibling in self._siblings.values():
            sibling.close()
        forget(self)
        self.world.closing.set()
        self._server.close()
        self.world.close()
        self._renamed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self.url
        return f"<Sandbox of datastack {self.datastack!r}, {state}>"
