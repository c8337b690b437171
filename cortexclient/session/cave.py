"""The one place that builds a CAVEclient: caveclient's own, on the session's connections, at its moment.

Each sub-client is made once, under a lock, by its public constructor with everything that it would otherwise look up:
the token, the API's version (a failed negotiation raises instead of downgrading), the record of the datastack. The
session's transport is mounted on its HTTP session, which gives it timeouts, retries and the rule where the token goes.
"""

from __future__ import annotations

from collections.abc import MutableMapping
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
from packaging.version import InvalidVersion

from cortexclient.errors import ProtocolError
from cortexclient.forking import ForkSafeLock
from cortexclient.session.connection import LOOPBACK_TOKEN
from cortexclient.session.http import unreadable
from cortexclient.session.libraries import be_patient_with
from cortexclient.session.refusals import service_of
from cortexclient.session.transport import adopt

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from requests import Response

    from cortexclient.session.session import Session

__all__ = ["SessionCAVEclient"]

_clearing = ForkSafeLock()

_LONGEST_ADDRESS = 2000


class _Mounted:
    """Mixed into caveclient's sub-clients: the session's transport is mounted before their first request.

    That is the one for the server's version. caveclient makes its HTTP session inside its constructor, takes none from
    outside, and sends this request at the constructor's end, so there is no public way to be earlier than it. Should a
    release rename `_get_version`, that one request goes without the transport, which `SessionCAVEclient` mounts again
    after the constructor.
    """

    def _get_version(self) -> Any:
        connection = self.fc.cortex_session.connection  # type: ignore[attr-defined]
        adopt(self.session, connection.transport)  # type: ignore[attr-defined]
        key = ("caveclient's server version", type(self).__name__)
        return connection.memory.get(key, self._fetch_version)

    def _fetch_version(self) -> Any:
        # not every service has this route
        url = self._endpoints.get("get_version", "").format_map(self.default_url_mapping)  # type: ignore[attr-defined]
        try:
            with self.fc.cortex_session.guard(service_of(url)):  # type: ignore[attr-defined]
                return super()._get_version()  # type: ignore[misc]
        except (InvalidVersion, TypeError) as error:
            raise ProtocolError(
                f"the service at {url} answers with no version ({str(error)[:100]}); is the server address right?",
                service=service_of(url),
                status=200,
                url=url,
            ) from None


class _Auth(auth.AuthClient):  # type: ignore[misc]
    """Holds the session's token; a pickle, which may go anywhere, holds none."""

    def __reduce__(self) -> tuple[object, ...]:
        return auth.AuthClient, (None, None, LOOPBACK_TOKEN)


class _InfoClient(_Mounted, infoservice.InfoServiceClient):  # type: ignore[misc]
    """With volumes of the session: at its moment, with its timeouts, and its token for its own server only."""

    def segmentation_cloudvolume(self, use_client_secret: bool = True, **options: Any) -> Any:
        return self.fc.cortex_session.segmentation_cloudvolume(use_client_secret=use_client_secret, **options)

    def image_cloudvolume(self, image_mirror: str | None = None, **options: Any) -> Any:
        return self.fc.cortex_session.image_cloudvolume(image_mirror=image_mirror, **options)


class _StateClient(_Mounted, jsonservice.JSONService): ...  # type: ignore[misc]


class _SchemaClient(_Mounted, emannotationschemas.SchemaClient): ...  # type: ignore[misc]


class _ChunkedGraphClient(_Mounted, chunkedgraph.ChunkedGraphClient): ...  # type: ignore[misc]


class _AnnotationClient(_Mounted, annotationengine.AnnotationClient): ...  # type: ignore[misc]


class _L2CacheClient(_Mounted, l2cache.L2CacheClient): ...  # type: ignore[misc]


class _SkeletonClient(_Mounted, skeletonservice.SkeletonClient): ...  # type: ignore[misc]


class _MaterializationClient(_Mounted, materialization.MaterializationClient):  # type: ignore[misc]
    @property
    def version(self) -> int:
        """The session's version: one moment holds for everything."""
        return int(self.fc.cortex_session.version)

    @version.setter
    def version(self, value: int) -> None:
        self.fc.cortex_session.pin(version=value)

    def get_tables_metadata(
        self, datastack_name: str | None = None, version: int | None = None, log_warning: bool = True
    ) -> Any:
        """Fetch as caveclient does, once per connection: its own cache, which the process shares, mixes servers."""
        number = self.version if version is None else version

        def fetch() -> Any:
            _clear(vars(materialization.MaterializationClient))
            return super(_MaterializationClient, self).get_tables_metadata(
                datastack_name=datastack_name, version=number, log_warning=log_warning
            )

        key = ("caveclient tables metadata", datastack_name or self.datastack_name, number)
        return self.fc.cortex_session.connection.memory.get(key, fetch)

    @property
    def tables(self) -> Any:
        """Caveclient's table manager, made once, without the caches that the process shares."""

        def make() -> Any:
            _clear(vars(table_manager))
            return super(_MaterializationClient, self).tables

        return self.fc.once(("tables", id(self)), make)


def _is_an_address(response: Response, **_: object) -> None:
    """Refuse what is too long for the address of a stored state: caveclient would search it for a number for hours."""
    if response.ok and response.request.method == "POST" and len(response.content) > _LONGEST_ADDRESS:
        raise unreadable(response, "answered with more than the address of what was stored; try again")


def _clear(namespace: MutableMapping[str, Any] | Any) -> None:
    """Empty the caches of the cached functions in a namespace (cachetools shows each as ``function.cache``).

    They are keyed by bare table and schema names, and the process shares them: two servers would mix.
    """
    with _clearing:
        for function in list(namespace.values()):
            cache = getattr(function, "cache", None)
            if isinstance(cache, MutableMapping):
                cache.clear()


class SessionCAVEclient(CAVEclientFull):  # type: ignore[misc]
    """A CAVEclient on a session's connections, at the session's moment."""

    def __init__(self, session: Session) -> None:
        self.cortex_session = session
        self._parts: dict[object, Any] = {}
        self._making = ForkSafeLock()
        connection = session.connection
        be_patient_with(
            [connection.address], connection.policy
        )  # caveclient.auth makes a session for each request
        super().__init__(
            datastack_name=session.datastack,
            server_address=connection.address,
            auth_token=connection.token
            or LOOPBACK_TOKEN,  # without one it would look for any token on this machine
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

        def make() -> Any:
            token = self.cortex_session.connection.token
            made = _Auth(token=token or LOOPBACK_TOKEN, server_address=self.server_address)
            made.token = token
            return made

        return self.once("auth", make)

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """Return what was made under a key, by the first thread that needs it."""
        with self._making:
            if key not in self._parts:
                self._parts[key] = make()
            return self._parts[key]

    def _part(self, cls: Any, server: str, *, key: object = None, **options: Any) -> Any:
        """Return a sub-client, made by its public constructor at the first use."""

        def make() -> Any:
            made = cls(server_address=server, auth_client=self.auth, over_client=self, **options)
            adopt(made.session, self.cortex_session.connection.transport)
            return made

        made = self.once(key or cls, make)
        if made.server_version is None and "get_version" in made._endpoints:
            # maybe a 404 of a gateway while the service restarted: requested again at the next use
            self.cortex_session.connection.memory.forget(("caveclient's server version", cls.__name__))
            self._parts.pop(key or cls, None)
        return made

    def _api(self, service: str, url: str, known: Any) -> int:
        """Negotiate the API's version; a failure raises, a silent downgrade would lose features."""
        connection = self.cortex_session.connection

        def fetch() -> int:
            offered = connection.http.get_json(service, url)
            numbers = (
                {number for number in offered if isinstance(number, int)}
                if isinstance(offered, list)
                else set()
            )
            common = numbers & set(known)
            if not common:
                raise ProtocolError(
                    f"the {service} service at {url} offers API versions {str(offered)[:80]}, this client speaks "
                    f"{sorted(known)}; update caveclient",
                    service=service,
                    status=200,
                    url=url,
                )
            return max(common)

        return connection.memory.get(("api", url), fetch)

    @property
    def info(self) -> Any:
        """Client of the info service."""
        session = self.cortex_session
        record = {session.datastack: session.connection.info()}
        return self._part(
            _InfoClient, self.server_address, datastack_name=session.datastack, info_cache=record
        )

    @property
    def state(self) -> Any:
        """Client of the state service."""
        made = self._part(_StateClient, self.server_address, ngl_url=self.info.viewer_site())
        made.session.hooks["response"] = [_is_an_address]
        return made

    @property
    def schema(self) -> Any:
        """Client of the schema service."""
        url = f"{self.server_address}/schema/versions"
        api = self._api("schema", url, emannotationschemas.schema_api_versions)
        return self._part(_SchemaClient, self.server_address, api_version=api)

    @property
    def chunkedgraph(self) -> Any:
        """Client of the chunkedgraph."""
        url = f"{self.local_server}/segmentation/api/versions"
        api = self._api("chunkedgraph", url, chunkedgraph.chunkedgraph_api_versions)
        table = self.cortex_session.connection.segmentation_table
        return self._part(_ChunkedGraphClient, self.local_server, table_name=table, api_version=api)

    @property
    def annotation(self) -> Any:
        """Client of the annotation service."""
        volume = self.cortex_session.info()["aligned_volume"]["name"]
        return self._part(
            _AnnotationClient, self.local_server, aligned_volume_name=volume, schema_client=self.schema
        )

    @property
    def materialize(self) -> Any:
        """Client of the materialization service; another one for each version, because it keeps that one's tables."""
        url = f"{self.local_server}/materialize/api/versions"
        api = self._api("materialize", url, materialization.materialization_api_versions)
        session = self.cortex_session
        version = session.moment if session.spec.denies("versions") else session.version
        made = self._part(
            _MaterializationClient,
            self.local_server,
            key=("materialize", version),
            datastack_name=self.datastack_name,
            synapse_table=session.synapse_table,
            desired_resolution=self.desired_resolution,
            api_version=api,
        )
        # caveclient's `tables` and `views` read this attribute, not the property, and refuse to work without it
        self._materialize = made
        return made

    @property
    def skeleton(self) -> Any:
        """Client of the skeleton service."""
        return self._part(_SkeletonClient, self.local_server, datastack_name=self.datastack_name)

    @property
    def l2cache(self) -> Any:
        """Client of the level-2 cache."""
        table = self.cortex_session.connection.segmentation_table
        return self._part(_L2CacheClient, self.local_server, table_name=table)

    def __repr__(self) -> str:
        return f"CAVEclient<datastack={self.datastack_name}, server_address={self.server_address}>"
