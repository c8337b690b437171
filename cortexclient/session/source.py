"""Another source of tables than the server: the interface of a store, and the responses stored with its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cortexclient.session.cache.answers import response_of
from cortexclient.session.cache.rules import read_request, rule_for

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

    from cortexclient.session.cache import Origin, SnapshotStore
    from cortexclient.session.query.query import Query

__all__ = ["StoredMetadata", "TableSource"]

_SERVICES = ("/materialize/", "/info/", "/schema/")


class TableSource(Protocol):
    """A place that holds complete tables of frozen versions.

    ``path`` says where, for messages and ``df.attrs``; with ``only``, the server is never asked for frozen tables.
    """

    path: str
    only: bool

    def holds(self, query: Query) -> bool:
        """Return whether a planned query can be answered here; raises `StoreError` if nothing else may answer it."""
        ...

    def rows(self, query: Query) -> Any:
        """Return all rows of a planned query (`pyarrow.Table`), as the server has them."""
        ...

    def metadata(self, version: int | None) -> SnapshotStore | None:
        """Return the responses about a version that were stored with its tables; None for the newest version."""
        ...


class StoredMetadata:
    """Responses about versions that were stored with their tables: they outlive the version on the server.

    ``home`` is the address at which the origin's server answers at present.
    """

    def __init__(self, source: TableSource, origin: Origin, home: str) -> None:
        self._source, self._origin, self.home = source, origin, home

    @property
    def only(self) -> bool:
        """Whether the store is the only source of tables."""
        return self._source.only

    def find(self, request: PreparedRequest, *, away: bool = False) -> Response | None:
        """Return the stored response to a request for metadata of tables; None where there is none.

        ``away`` says that the server cannot be asked.
        """
        asked = read_request(request, self._origin, self.home)
        rule = rule_for(asked) if asked.path.startswith(_SERVICES) else None
        # what is not about a version changes, so where requests are allowed, the server knows better
        if rule is None or (asked.version is None and not (away or self.only)):
            return None
        stored = self._source.metadata(asked.version)
        entry = None if stored is None else rule.find(asked, stored, self._origin)
        return None if entry is None else response_of(request, entry)
