"""The one place that builds a CAVEclient.

It is caveclient's own class with its habits mended by subclassing: every sub-client is made under a lock and put on
the shared pool, versions of servers are asked when something depends on them and only once, a failed negotiation of
the API raises instead of downgrading, the moment is the session's, and the process-wide caches of table metadata are
not used. caveclient itself is left as it is.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from caveclient import (
    annotationengine,
    auth,
    chunkedgraph,
    emannotationschemas,
    infoservice,
    jsonservice,
    l2cache,
    skeletonservice,
)
from caveclient import materializationengine as materialization
from caveclient.frameworkclient import CAVEclientFull
from caveclient.tools import table_manager
from packaging.version import InvalidVersion, Version

from cortexclient.errors import ProtocolError
from cortexclient.session.failures import service_of
from cortexclient.session.transport import adopt

if TYPE_CHECKING:
    from datetime import datetime

    from cortexclient.session.session import Session

__all__ = ["SessionCAVEclient"]

# caveclient keys these by bare table and schema names: two servers in one process would mix
_global_caches = threading.Lock()


class _Wired:
    """Mixed into caveclient's sub-clients: the shared pool, and the server's version when it is needed."""

    def _get_version(self) -> None:
        # called at the end of caveclient's constructor, where the HTTP session exists and has not been used
        cave = self._fc  # type: ignore[attr-defined]
        adopt(self.session, cave.cortex_session.connection.transport)  # type: ignore[attr-defined]

    @property
    def _server_version(self) -> Version | None:
        endpoint = self._endpoints.get("get_version")  # type: ignore[attr-defined]
        if endpoint is None:
            return None
        connection = self._fc.cortex_session.connection  # type: ignore[attr-defined]
        url = endpoint.format_map(self.default_url_mapping)  # type: ignore[attr-defined]

        def ask() -> Version | None:
            response = connection.http.send(service_of(url), "GET", url, accept=(404,))
            if response.status_code == 404:
                return None
            text = str(connection.http.read_json(service_of(url), response))
            try:
                return Version(text)
            except InvalidVersion:
                raise ProtocolError(
                    f"the service at {url} calls {text[:40]!r} its version; is the server address right?"
                ) from None

        version: Version | None = connection.memory.get(("server version", url), ask)
        return version

    @_server_version.setter
    def _server_version(self, value: object) -> None:
        """Ignore what the constructor assigns: the version is asked when something depends on it."""


class _Auth(auth.AuthClient):  # type: ignore[misc]
    def __getstate__(self) -> dict[str, Any]:
        # a pickle may go anywhere
        return {**self.__dict__, "_token": None}


class _Info(_Wired, infoservice.InfoServiceClient):  # type: ignore[misc]
    """With volumes of the session: at its moment, with its patience, and its token for its own server only."""

    def segmentation_cloudvolume(self, use_client_secret: bool = True, **options: Any) -> Any:
        return self._fc.cortex_session.segmentation_cloudvolume(
            use_client_secret=use_client_secret, **options
        )

    def image_cloudvolume(self, image_mirror: str | None = None, **options: Any) -> Any:
        return self._fc.cortex_session.image_cloudvolume(image_mirror=image_mirror, **options)


class _State(_Wired, jsonservice.JSONService): ...  # type: ignore[misc]


class _Schema(_Wired, emannotationschemas.SchemaClient): ...  # type: ignore[misc]


class _ChunkedGraph(_Wired, chunkedgraph.ChunkedGraphClient): ...  # type: ignore[misc]


class _Annotation(_Wired, annotationengine.AnnotationClient): ...  # type: ignore[misc]


class _L2Cache(_Wired, l2cache.L2CacheClient): ...  # type: ignore[misc]


class _Skeleton(_Wired, skeletonservice.SkeletonClient): ...  # type: ignore[misc]


class _Materialization(_Wired, materialization.MaterializationClient):  # type: ignore[misc]
    @property
    def version(self) -> int:
        """The session's version: one moment holds for everything."""
        return int(self._fc.cortex_session.version)

    @version.setter
    def version(self, value: int) -> None:
        self._fc.cortex_session.pin(version=value)

    def get_tables_metadata(
        self, datastack_name: str | None = None, version: int | None = None, log_warning: bool = True
    ) -> Any:
        """Ask as caveclient does, but remember per connection: its own cache mixes servers."""
        session = self._fc.cortex_session
        version = session.version if version is None else version
        key = ("caveclient tables metadata", datastack_name or self.datastack_name, version)
        original = materialization.MaterializationClient.get_tables_metadata.__wrapped__
        ask = getattr(original, "__wrapped__", original)
        return session.connection.memory.get(
            key, lambda: ask(self, datastack_name=datastack_name, version=version, log_warning=log_warning)
        )

    @property
    def tables(self) -> Any:
        """Caveclient's table manager, made anew for each version and without its process-wide caches."""
        key = ("caveclient tables", self.version)
        with _global_caches:
            made = self.__dict__.setdefault("_managers", {})
            if key not in made:
                for cache in (
                    table_manager._schema_cache,
                    table_manager._table_cache,
                    table_manager._metadata_cache,
                ):
                    cache.clear()
                self._tables = None
                made[key] = materialization.MaterializationClient.tables.fget(self)
            return made[key]


class SessionCAVEclient(CAVEclientFull):  # type: ignore[misc]
    """A CAVEclient on a session's connections, at the session's moment."""

    def __init__(self, session: Session) -> None:
        self._making = threading.RLock()
        self.cortex_session = session
        connection = session.connection
        super().__init__(
            datastack_name=session.datastack,
            server_address=connection.address,
            auth_token_file=None,
            info_cache={session.datastack: connection.info()},
        )

    @property
    def version(self) -> int | None:
        """The pinned version, else None; setting it moves the whole session."""
        return self.cortex_session.moment.version

    @version.setter
    def version(self, value: int | None) -> None:
        if value is not None:
            self.cortex_session.pin(version=value)

    @property
    def timestamp(self) -> datetime | None:
        """The session's timestamp; None when it floats."""
        return self.cortex_session.timestamp

    @property
    def auth(self) -> Any:
        """Caveclient's token holder, with the token of this session and no other."""
        with self._making:
            if self._auth is None:  # type: ignore[has-type]
                made = _Auth(token="unused", server_address=self.server_address)  # noqa: S106
                # set afterwards: None would send it looking for any token on this machine
                made._token = self.cortex_session.connection.token
                self._auth = made
            return self._auth

    def _make(self, slot: str, cls: Any, server: str, **options: Any) -> Any:
        with self._making:
            made = getattr(self, slot)
            if made is None:
                made = cls(server_address=server, auth_client=self.auth, over_client=self, **options)
                setattr(self, slot, made)
            return made

    def _api(self, service: str, url: str, known: Any) -> int:
        """Negotiate the API's version; a failure raises, a silent downgrade would lose features."""
        connection = self.cortex_session.connection

        def ask() -> int:
            offered = connection.http.get_json(service, url)
            common = {number for number in offered if isinstance(number, int)} & set(known)
            if not common:
                raise ProtocolError(
                    f"the {service} service offers API versions {offered}, this client speaks {sorted(known)}; "
                    "update caveclient",
                    service=service,
                )
            return max(common)

        return connection.memory.get(("api", url), ask)

    @property
    def info(self) -> Any:
        """Client of the info service."""
        return self._make(
            "_info",
            _Info,
            self.server_address,
            datastack_name=self._datastack_name_early,
            info_cache=self._info_cache,
        )

    @property
    def _datastack_name_early(self) -> str:
        # caveclient's constructor asks for `info` before it has set its own name on some paths
        return self.cortex_session.datastack

    @property
    def state(self) -> Any:
        """Client of the state service."""
        return self._make("_state", _State, self.server_address, ngl_url=self.info.viewer_site())

    @property
    def schema(self) -> Any:
        """Client of the schema service."""
        api = self._api(
            "schema", f"{self.server_address}/schema/versions", emannotationschemas.schema_api_versions
        )
        return self._make("_schema", _Schema, self.server_address, api_version=api)

    @property
    def chunkedgraph(self) -> Any:
        """Client of the chunkedgraph."""
        url = f"{self.local_server}/segmentation/api/versions"
        api = self._api("chunkedgraph", url, chunkedgraph.chunkedgraph_api_versions)
        table = self.cortex_session.connection.segmentation_table
        return self._make(
            "_chunkedgraph", _ChunkedGraph, self.local_server, table_name=table, api_version=api
        )

    @property
    def annotation(self) -> Any:
        """Client of the annotation service."""
        return self._make(
            "_annotation",
            _Annotation,
            self.local_server,
            aligned_volume_name=self._aligned_volume_name,
            schema_client=self.schema,
        )

    @property
    def materialize(self) -> Any:
        """Client of the materialization service."""
        url = f"{self.local_server}/materialize/api/versions"
        api = self._api("materialize", url, materialization.materialization_api_versions)
        return self._make(
            "_materialize",
            _Materialization,
            self.local_server,
            datastack_name=self.datastack_name,
            synapse_table=self.cortex_session.synapse_table,
            desired_resolution=self.desired_resolution,
            api_version=api,
        )

    @property
    def skeleton(self) -> Any:
        """Client of the skeleton service."""
        return self._make("_skeleton", _Skeleton, self.local_server, datastack_name=self.datastack_name)

    @property
    def l2cache(self) -> Any:
        """Client of the level-2 cache."""
        table = self.cortex_session.connection.segmentation_table
        return self._make("_l2cache", _L2Cache, self.local_server, table_name=table)

    def __repr__(self) -> str:
        return f"CAVEclient<datastack={self.datastack_name}, server_address={self.server_address}>"
