"""What all sessions on one server share: the endpoint, the token, the pool, and answers that never change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient import credentials
from cortexclient.errors import MissingDataError, OfflineError
from cortexclient.session.endpoints import Endpoint, bare_address, resolve
from cortexclient.session.failures import Context
from cortexclient.session.once import Once

if TYPE_CHECKING:
    from cortexclient.session.cache import AnswerCache, CacheChoice
    from cortexclient.session.http import Http
    from cortexclient.session.policy import Policy
    from cortexclient.session.transport import Transport
    from cortexclient.spec import DatasetSpec

__all__ = ["LOOPBACK_TOKEN", "Connection"]

LOOPBACK_TOKEN = "0" * 32
"""Stands in for a token on this machine: cloud-volume refuses to start without one that looks like hex."""


def _is_endpoint(value: Any) -> bool:
    """Whether a note of the cache is an address, the path of exports and a viewer site."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and all(part is None or isinstance(part, str) for part in value)
    )


class Connection:
    """The shared part of a session; made without any request.

    Parameters
    ----------
    spec : DatasetSpec
        The dataset.
    server_address : str or None
        Overrides the address in the spec.
    auth_token : str or None
        Token for this server; looked up on disk where it is None.
    endpoint : Endpoint or None
        A server that is known already; overrides the address.
    policy : Policy
        Timeouts and retries.
    choice : CacheChoice, optional
        Where answers are kept, and whether anything else may answer; None keeps nothing.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        server_address: str | None,
        auth_token: str | None,
        endpoint: Endpoint | None,
        policy: Policy,
        choice: CacheChoice | None = None,
    ) -> None:
        self.spec = spec
        self.address_asked = bare_address(server_address or spec.server_address)
        self.policy = policy
        self.memory = Once()
        self._token_given = credentials.as_token(auth_token) if auth_token else None
        self._endpoint_given = endpoint
        self._choice = choice
        self.offline = choice is not None and choice.offline
        self.cache: AnswerCache | None = None if choice is None else self._open_cache(choice)

    def _open_cache(self, choice: CacheChoice) -> AnswerCache:
        from cortexclient.session.cache import AnswerCache, Origin

        given = self._endpoint_given
        server = self.address_asked if given is None else given.address.rstrip("/")
        return AnswerCache(choice, Origin(server, self.spec.datastack), self._frozen_at)

    def _frozen_at(self, version: int) -> str | None:
        record = (self.memory.peek("versions") or {}).get(version)
        return None if record is None else record.timestamp.isoformat()

    @property
    def endpoint(self) -> Endpoint:
        """The server; started now if its address says so."""

        def find() -> Endpoint:
            given = self._endpoint_given
            if given is None:
                return resolve(self.address_asked) if self.cache is None else self._remembered(self.cache)
            return Endpoint(given.address.rstrip("/"), given.token, given.exports_path, given.viewer_site)

        return self.memory.get("endpoint", find)

    def _remembered(self, cache: AnswerCache) -> Endpoint:
        """Resolve the address; offline, nothing is started, and it is where it was when the answers were kept."""
        if self.address_asked.startswith(("http://", "https://")):
            return resolve(self.address_asked)
        if not cache.offline:
            found = resolve(self.address_asked)
            cache.note("endpoint", [found.address, found.exports_path, found.viewer_site])
            return found
        known = cache.recall("endpoint", _is_endpoint)
        if known is None:
            raise cache.offline_error(f"anything of {self.spec.name} at {self.address_asked}")
        return Endpoint(known[0], None, known[1], known[2])

    def require_network(self, what: str) -> None:
        """Say that something is never kept, where only the cache may answer.

        Raises
        ------
        OfflineError
            If the client works offline.
        """
        if self.cache is not None and self.cache.offline:
            raise OfflineError(
                f"working offline, and {what} are never kept; load without offline=True to have them"
            )

    @property
    def address(self) -> str:
        """Address of the global server."""
        return self.endpoint.address

    @property
    def token(self) -> str | None:
        """The token for this server: given, or the launcher's, or found on disk; None where there is none."""
        return self.memory.get("token", self._find_token)

    def _find_token(self) -> str | None:
        if self.offline:
            # nothing is sent, and what a snapshot of a stranger names as a server gets no chance to see one
            return LOOPBACK_TOKEN
        if self._token_given:
            return self._token_given
        if self.endpoint.token:
            return self.endpoint.token
        from cortexclient.registry import is_trusted

        found = credentials.find_token(self.address, is_trusted=is_trusted)
        if found is not None:
            return found.value
        return LOOPBACK_TOKEN if credentials.is_loopback(self.address) else None

    @property
    def transport(self) -> Transport:
        """The pool."""

        def make() -> Transport:
            from cortexclient.session.transport import Transport

            context = self.context()
            if self.cache is not None:
                self.cache.home, self.cache.tokens = self.address, context.tokens
            return Transport(
                self.policy, home=self.address, token=self.token, context=context, cache=self.cache
            )

        return self.memory.get("transport", make)

    @property
    def http(self) -> Http:
        """Questions over the pool."""

        def make() -> Http:
            from cortexclient.session.http import Http
            from cortexclient.session.transport import new_http_session

            return Http(new_http_session(self.transport), self.context(), self.policy)

        return self.memory.get("http", make)

    def context(self) -> Context:
        """Give what error messages may mention."""
        return Context(
            datastack=self.spec.datastack,
            server_address=self.address,
            token_file=None if self._token_given else str(credentials.token_file(self.address)),
            token_page=credentials.token_page(self.address),
            tokens=tuple(token for token in (self.token,) if token and token != LOOPBACK_TOKEN),
            close_names=self._close_names,
            live_versions=self._live_versions,
        )

    def _close_names(self, name: str) -> str:
        import difflib

        known = [name for key in ("tables", "views") for name in self.memory.peek(key) or ()]
        close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
        if close:
            return f"Did you mean {', '.join(close)}?"
        return (
            f"Known are {', '.join(sorted(known)[:20])}."
            if known
            else "client.tables and client.views list them."
        )

    def _live_versions(self) -> str:
        records = self.memory.peek("versions")
        if not records:
            return ""
        live = [str(record.version) for record in records.values() if record.valid]
        return f"Live versions are {', '.join(live[-12:])}." if live else "There are no live versions."

    def info(self) -> dict[str, Any]:
        """Body of the info service for the datastack, asked once."""

        def ask() -> dict[str, Any]:
            url = f"{self.address}/info/api/v2/datastack/full/{self.spec.datastack}"
            body: dict[str, Any] = self.http.get_json("info", url, keys=("aligned_volume",))
            self.transport.trust(body.get("local_server") or self.address)
            return body

        return self.memory.get("info", ask)

    @property
    def local_server(self) -> str:
        """Address of the server that holds the datastack's own services."""
        return str(self.info().get("local_server") or self.address).rstrip("/")

    @property
    def segmentation_table(self) -> str:
        """Name of the chunkedgraph table: the last part of the segmentation source."""
        source = self.info().get("segmentation_source")
        if not source:
            raise MissingDataError(
                f"the info service names no segmentation for {self.spec.datastack}, which this needs",
                service="info",
            )
        return str(source).rstrip("/").rpartition("/")[2]

    def recipe(self) -> dict[str, Any]:
        """Give what another process needs to connect again. No token: it is looked up there."""
        given = self._endpoint_given
        return {
            "spec": self.spec,
            "server_address": self.address_asked,
            "endpoint": None
            if given is None
            else Endpoint(given.address, None, given.exports_path, given.viewer_site),
            "policy": self.policy,
            "choice": self._choice,
        }
