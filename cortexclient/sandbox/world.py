"""What one running sandbox knows: its data folder, the names it serves it under, its options and its clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortexclient.sandbox.layout import DataFolder
    from cortexclient.sandbox.stores.graph import ChunkedGraph
    from cortexclient.sandbox.stores.l2cache import L2Cache
    from cortexclient.sandbox.stores.tables import TableStore

__all__ = ["SANDBOX_TOKEN", "Names", "Options", "World"]

# 32 hexadecimal digits: cloud-volume refuses a token that does not look like one
SANDBOX_TOKEN = "0" * 31 + "1"


@dataclass(frozen=True)
class Names:
    """The names that a folder's contents are served under.

    Parameters
    ----------
    datastack, aligned_volume, pcg_table : str
        Names that the server answers to.
    tables : mapping of str to str
        Name in the folder -> name on the wire, for tables and views alike; one that is not listed keeps its name.
    """

    datastack: str
    aligned_volume: str
    pcg_table: str
    tables: Mapping[str, str] = field(default_factory=dict)

    def public(self, table: str) -> str:
        """Name on the wire of a table or view of the folder."""
        return self.tables.get(table, table)


@dataclass
class Options:
    """How the server behaves; may be changed while it runs.

    Parameters
    ----------
    row_limit : int
        Most rows of one materialization answer; the real default is 200,000.
    latency : float
        Seconds added to each answer.
    strict : bool
        Copy the oddities of the real services (default). False offers the sane behaviour where a deployment may differ.
    auth : bool
        Ask for a token, as production does. A request without the right one is refused as the real middle_auth does.
    tokens : mapping of str to sequence of str
        Token -> permissions, where ``auth`` is on.
    query_rate : str or None
        Rate limit of materialization queries, such as ``"2 per 1 minute"``.
    """

    row_limit: int = 200_000
    latency: float = 0.0
    strict: bool = True
    auth: bool = False
    tokens: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {SANDBOX_TOKEN: ("view", "edit")})
    query_rate: str | None = None


@dataclass
class World:
    """State shared by all routes of one sandbox.

    Parameters
    ----------
    folder : DataFolder
    names : Names
    options : Options
    base_url : str
        ``http://127.0.0.1:PORT``, filled in when the server is bound.
    """

    folder: DataFolder
    names: Names
    options: Options
    base_url: str = ""

    def now(self) -> datetime:
        """Now, as every route of this sandbox understands it."""
        return datetime.now(UTC)

    @cached_property
    def graph(self) -> ChunkedGraph:
        """The chunkedgraph, with its history."""
        from cortexclient.sandbox.stores.graph import ChunkedGraph

        return ChunkedGraph(self.folder)

    @cached_property
    def tables(self) -> TableStore:
        """Annotation tables, frozen versions and views."""
        from cortexclient.sandbox.stores.tables import TableStore

        return TableStore(self)

    @cached_property
    def l2cache(self) -> L2Cache:
        """Attributes of level-2 ids."""
        from cortexclient.sandbox.stores.l2cache import L2Cache

        return L2Cache(self.folder)

    def render(self, value: Any) -> Any:
        """Replace the stand-in addresses of a JSON body by live ones (see :mod:`cortexclient.sandbox.routes.info`)."""
        if isinstance(value, str):
            return value.replace("{BASE}", self.base_url)
        if isinstance(value, dict):
            return {key: self.render(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.render(item) for item in value]
        return value
