"""What all sessions on one server share: its address, the token, connections, and responses that never change."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from cortexclient import credentials
from cortexclient.credentials import may_carry_token
from cortexclient.errors import MissingDataError, OfflineError, ServiceError, SpecError, UnknownTableError
from cortexclient.forking import renew_in_child
from cortexclient.session.cache import AnswerCache, CacheChoice, Origin
from cortexclient.session.http import Http, unreadable
from cortexclient.session.refusals import SERVICES, Context

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import requests

    from cortexclient.session.policy import Policy
    from cortexclient.session.source import TableSource
    from cortexclient.session.transport import Transport
    from cortexclient.spec import DatasetSpec

__all__ = ["LAUNCHERS", "LOOPBACK_TOKEN", "Connection", "Endpoint", "Memo", "bare_address", "resolve"]

_TEXTS = {"local_server", "segmentation_source", "synapse_table", "soma_table", "viewer_site"}

_GLOBAL = {"auth", "info", "nglstate", "schema", "state"}
"""Services of the home server; the others are the local server's."""

LOOPBACK_TOKEN = "0" * 32
"""Stands in for a token on this machine: cloud-volume refuses to start without one that looks like hex."""
LAUNCHERS = "cortexclient.servers"
"""Group of entry points that start servers: the name is the scheme, the object takes the address."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A CAVE server: its address, and what a launcher that started it knows."""

    address: str  # of the global server, without a slash at its end
    token: str | None = field(default=None, repr=False)
    exports_path: str | None = None  # cloud path of the static exports
    viewer_site: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", self.address.rstrip("/"))

    def __reduce__(self) -> tuple[object, ...]:
        # a pickle may go anywhere; whoever opens it looks up a token of their own
        return Endpoint, (self.address, None, self.exports_path, self.viewer_site)


def bare_address(address: str) -> str:
    """Return the address of a server without a slash at its end.

    Raise `ValueError` if it carries a user, a password or a query, which may be secrets; the message does not repeat
    them.
    """
    if not isinstance(address, str):
        raise TypeError(
            f"a server address is text such as 'https://cave.my.lab', not {type(address).__name__}"
        )
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise ValueError(f"the server address cannot be read: {error}") from None
    if parts.scheme in {"http", "https"} and ("@" in parts.netloc or parts.query or parts.fragment):
        raise ValueError(
            f"the server address ({parts.scheme}://{parts.hostname}...) holds more than an address: a user, a "
            "password or a query would show in messages. Give the address alone, and a token as auth_token="
        )
    return address.rstrip("/")


def resolve(address: str) -> Endpoint:
    """Find the server of an address: ``https://...``, ``http://...`` (loopback), or ``SCHEME://...`` of a launcher.

    Launchers are entry points in `LAUNCHERS`. Raise `SpecError` for an unknown scheme, and for plain http to another
    machine.
    """
    scheme = urlsplit(address).scheme
    if scheme not in {"http", "https"}:
        return _launched(scheme, address)
    if not may_carry_token(address):
        raise SpecError(
            f"{address} is not encrypted: plain http is for servers on this machine only; use its https address"
        )
    return Endpoint(address)


def _launched(scheme: str, address: str) -> Endpoint:
    """Start the server of a launcher's address, and return where it is."""
    from importlib.metadata import entry_points

    launchers = {launcher.name: launcher for launcher in entry_points(group=LAUNCHERS)}
    if scheme not in launchers:
        known = ", ".join(sorted({"https", *launchers}))
        raise SpecError(f"server address {address!r} has an unknown scheme; known are {known}")
    found: Any = launchers[scheme].load()(address)
    more = {name: getattr(found, name, None) for name in ("exports_path", "viewer_site")}
    return Endpoint(found.address, found.token, **more)


T = TypeVar("T")


class Memo:
    """Values by key: concurrent callers of one key share a single computation; failures are not remembered."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, threading.RLock] = {}
        self._lock = threading.Lock()
        renew_in_child(self)

    def renew(self) -> None:
        """Free every lock: the threads that held them do not exist in a forked child."""
        self._lock = threading.Lock()
        self._locks = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, computed by the first caller while the others wait."""
        with contextlib.suppress(KeyError):
            value: T = self._values[key]
            return value
        with self._lock:
            lock = self._locks.setdefault(key, threading.RLock())
        with lock:
            if key not in self._values:
                self._values[key] = make()
            made: T = self._values[key]
        return made

    def peek(self, key: Hashable) -> Any:
        """Return the value of a key if it is there already, else None."""
        return self._values.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        """Set the value of a key."""
        self._values[key] = value

    def forget(self, *keys: Hashable) -> None:
        """Drop some keys, or everything where none is named."""
        with self._lock:
            for key in keys or list(self._values):
                self._values.pop(key, None)


def _is_endpoint(value: Any) -> bool:
    """Return whether a note of the cache is an address, the path of exports and a viewer site."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and all(part is None or isinstance(part, str) for part in value)
    )


def _wrong_values(info: dict[str, Any]) -> str:
    """Say which value of a datastack's description is of a type that it cannot have; empty if none is."""
    volume = info["aligned_volume"]
    if not isinstance(volume, dict) or not isinstance(volume.get("name"), str):
        return "an aligned_volume that has no name"
    for name, value in info.items():
        number = name.startswith("viewer_resolution_")
        kinds = (int, float) if number else (str,)
        wrong = value is not None and (isinstance(value, bool) or not isinstance(value, kinds))
        if wrong and (number or name in _TEXTS):
            return f"a {name} that is {type(value).__name__}"
    return ""


class Connection:
    """The shared part of a session; made without any request.

    ``server_address`` overrides the address in the spec, and ``endpoint`` both. A token that is not given is looked up
    on disk. Without a ``choice`` nothing is cached; ``tables`` is another source of frozen tables than the server.
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
        tables: TableSource | None = None,
    ) -> None:
        self.spec = spec
        self.address_asked = bare_address(spec.server_address if server_address is None else server_address)
        self.policy = policy
        self.memory = Memo()
        self._token_given = credentials.as_token(auth_token) if auth_token else None
        self._endpoint_given = endpoint
        self._choice = choice
        self.tables = tables
        if tables is not None:
            from cortexclient.session.libraries import be_patient_with

            be_patient_with([str(tables.path)], policy)
        self.offline = choice is not None and choice.offline
        server = self.address_asked if endpoint is None else endpoint.address
        self.origin = Origin(server, spec.datastack)
        self.cache = None if choice is None else AnswerCache(choice, self.origin, self._frozen_at)
        self.http = Http(self)

    def _frozen_at(self, version: int) -> str | None:
        record = (self.memory.peek("versions") or {}).get(version)
        return None if record is None else record.timestamp.isoformat()

    @property
    def endpoint(self) -> Endpoint:
        """The server; started now if its address says so."""
        return self.memory.get("endpoint", self._find_endpoint)

    def _find_endpoint(self) -> Endpoint:
        if self._endpoint_given is not None:
            return self._endpoint_given
        return resolve(self.address_asked) if self.cache is None else self._remembered(self.cache)

    def _remembered(self, cache: AnswerCache) -> Endpoint:
        """Resolve the address; offline, nothing is started, and it is the one under which responses were cached."""
        if self.address_asked.startswith(("http://", "https://")):
            return resolve(self.address_asked)
        if not cache.offline:
            found = resolve(self.address_asked)
            cache.note("endpoint", [found.address, found.exports_path, found.viewer_site])
            return found
        known = cache.recall("endpoint", _is_endpoint)
        if known is None and self.tables is not None:
            known = self._stored_endpoint(self.tables)
        if known is None:
            raise cache.offline_error(
                f"anything of {self.spec.name} at {self.address_asked}",
                service="info",
                url=self.address_asked,
            )
        return Endpoint(known[0], None, known[1], known[2])

    def _stored_endpoint(self, tables: TableSource) -> Any:
        """Return where the server was when tables were pulled into a store."""
        stored = tables.metadata(None)
        entry = None if stored is None else stored.read(self.origin.identity("note", "endpoint"))
        known = None if entry is None else json.loads(entry.body)
        return known if _is_endpoint(known) else None

    def require_network(self, what: str, service: str) -> None:
        """Raise `OfflineError` about what is never cached, where only the cache may answer."""
        if self.cache is not None and self.cache.offline:
            raise OfflineError(
                f"working offline, and {what} are never cached; load without offline=True to have them",
                service=service,
                url=self.url_of(service),
            )

    def url_of(self, service: str) -> str:
        """Return the address of a service, as far as it is known without a request: for errors that precede one."""
        endpoint = self.memory.peek("endpoint") or self._endpoint_given
        info = self.memory.peek("info") or {}
        home = self.address_asked if endpoint is None else endpoint.address
        server = home if service in _GLOBAL else str(info.get("local_server") or home).rstrip("/")
        paths = {name: path for path, name in SERVICES.items()}
        return f"{server}/{paths.get(service, service)}"

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
        return self._token_given or self.endpoint.token or self._stored_token()

    def _stored_token(self) -> str | None:
        from cortexclient.registry import is_trusted

        found = credentials.find_token(self.address, is_trusted=is_trusted)
        if found is not None:
            return found.value
        return LOOPBACK_TOKEN if credentials.is_loopback(self.address) else None

    @property
    def tokens(self) -> tuple[str, ...]:
        """What must be in no message and in no stored response."""
        return (self.token,) if self.token and self.token != LOOPBACK_TOKEN else ()

    @property
    def transport(self) -> Transport:
        """The pool."""
        return self.memory.get("transport", self._open_transport)

    def _open_transport(self) -> Transport:
        from cortexclient.session.transport import Transport

        if self.cache is not None:
            self.cache.home, self.cache.tokens = self.address, self.tokens
        return Transport(self)

    @property
    def http_session(self) -> requests.Session:
        """An HTTP session on the pool, for our own requests."""
        return self.memory.get("http session", self._open_http_session)

    def _open_http_session(self) -> requests.Session:
        from cortexclient.session.transport import new_http_session

        return new_http_session(self.transport)

    def context(self, service: str | None) -> Context:
        """Return what error messages about a service may mention."""
        return Context(
            service=service,
            datastack=self.spec.datastack,
            server_address=self.address,
            token_file=None if self._token_given else str(credentials.token_file(self.address)),
            token_page=credentials.token_page(self.address),
            tokens=self.tokens,
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
        """Return the body of the info service for the datastack, fetched once."""
        return self.memory.get("info", self._fetch_info)

    def _fetch_info(self) -> dict[str, Any]:
        url = f"{self.address}/info/api/v2/datastack/full/{self.spec.datastack}"
        try:
            response = self.http.send("info", "GET", url)
        except (MissingDataError, UnknownTableError) as error:  # the second, where a token is wanted
            raise self._unknown_datastack(error) from None
        body: dict[str, Any] = self.http.read_json("info", response, keys=("aligned_volume",))
        if wrong := _wrong_values(body):
            what = f"described {self.spec.datastack} with {wrong}; try again"
            raise unreadable(response, what, service="info")
        self.transport.trust(body.get("local_server") or self.address)
        return body

    def _unknown_datastack(self, error: ServiceError) -> ServiceError:
        """Name the datastacks that the server has, if it has none of this name."""
        from cortexclient.spec.problems import did_you_mean

        try:
            known = self.http.get_json("info", f"{self.address}/info/api/v2/datastacks")
        except ServiceError:
            return error
        if not isinstance(known, list) or self.spec.datastack in known:
            return error
        names = sorted(map(str, known))
        hint = did_you_mean(self.spec.datastack, names, f"it has {', '.join(names[:30]) or 'none'}")
        return MissingDataError(
            f"{self.address} has no datastack {self.spec.datastack!r}; {hint}",
            service="info",
            status=error.status,
            url=error.url,
        )

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
                status=200,
                url=f"{self.address}/info/api/v2/datastack/full/{self.spec.datastack}",
            )
        return str(source).rstrip("/").rpartition("/")[2]

    def recipe(self) -> dict[str, Any]:
        """Return what another process needs to connect again. No token: it is looked up there."""
        given = self._endpoint_given
        return {
            "spec": self.spec,
            "server_address": self.address_asked,
            "endpoint": None if given is None else dataclasses.replace(given, token=None),
            "policy": self.policy,
            "choice": self._choice,
            "tables": self.tables,
        }
