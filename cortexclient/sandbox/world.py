"""The state of one running sandbox: its data folder, names, options and clock."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cortexclient.sandbox.stores import LoadedOnce

if TYPE_CHECKING:
    from cortexclient.sandbox.access import Access
    from cortexclient.sandbox.layout import DataFolder
    from cortexclient.sandbox.routes.viewer import Viewer
    from cortexclient.sandbox.stores.graph.graph import ChunkedGraph
    from cortexclient.sandbox.stores.l2cache import L2Cache
    from cortexclient.sandbox.stores.skeletons import SkeletonStore
    from cortexclient.sandbox.stores.tables.declared import DeclaredTable
    from cortexclient.sandbox.stores.tables.store import TableStore
    from cortexclient.spec.sections import TableSpec

__all__ = ["SANDBOX_TOKEN", "Names", "Options", "World"]

# 32 hexadecimal digits: cloud-volume refuses a token that does not look like one
SANDBOX_TOKEN = "0" * 31 + "1"


@dataclass(frozen=True)
class Names:
    """The names that a folder's contents are served under."""

    datastack: str  # names that the server answers to
    aligned_volume: str
    pcg_table: str
    # name in the folder -> name on the wire, for tables and views alike; one that is not listed keeps its
    # name
    tables: Mapping[str, str] = field(default_factory=dict)
    # number of a version in the folder -> number on the wire; one that is not listed keeps its number
    versions: Mapping[int, int] = field(default_factory=dict)
    # name on the wire -> how the table or view is made from another one of the folder
    shapes: Mapping[str, DeclaredTable] = field(default_factory=dict)
    # name on the wire -> the times in which it exists; one that is not listed exists in every version
    lifetimes: Mapping[str, Sequence[TableSpec]] = field(default_factory=dict)

    def public(self, table: str) -> str:
        """Name on the wire of a table or view of the folder."""
        return self.tables.get(table, table)

    def public_version(self, version: int) -> int:
        """Number on the wire of a version of the folder."""
        return self.versions.get(version, version)

    def is_in(self, version: int, table: str) -> bool:
        """Whether a version (both as on the wire) has a table or view, by its lifetime."""
        times = self.lifetimes.get(table)
        return times is None or any(each.exists_at(version) for each in times)

    def own_version(self, version: int) -> int:
        """Number in the folder of a version on the wire."""
        return next((own for own, public in self.versions.items() if public == version), version)


@dataclass
class Options:
    """How the server behaves; may be changed while it runs."""

    row_limit: int = 200_000  # most rows of one materialization response; the real default is 200,000
    latency: float = 0.0  # seconds added to each response
    # copy the oddities of the real services (default). False offers the simpler behaviour where a deployment
    # may differ
    strict: bool = True
    # ask for a token, as production does. A request without the right one is refused as the real middle_auth
    # does
    auth: bool = False
    # token -> permissions, where ``auth`` is on
    tokens: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {SANDBOX_TOKEN: ("view", "edit")})
    query_rate: str | None = None  # rate limit of materialization queries, such as ``"2 per 1 minute"``
    # treat no skeleton as made until it is requested, even those that are stored in the folder
    cold_skeletons: bool = False
    skeleton_delay: float = 0.0  # seconds that making a skeleton takes
    # run the skeleton service with its rate limiter configured, as every deployment does. Without it, the
    # routes that are limited answer ``true`` or fail
    skeleton_limiter: bool = True
    # run the skeleton service as it is deployed: a queue makes the skeletons, and ``async/get_skeleton``
    # waits until one is there. It is not notified of failures, so a request for one that cannot be made ends
    # with the gateway's 504. False (default) makes skeletons within the request and reports failures with
    # status 500
    skeleton_queue: bool = False
    # seconds after which the gateway before the skeleton service ends a request with 504, with
    # ``skeleton_queue``
    skeleton_gateway: float = 60.0


class World:
    """State shared by all routes of one sandbox; its address is filled in when the server is bound.

    A graph that is given is taken instead of the folder's: sandboxes that show one cortex under several names share its
    edits.
    """

    def __init__(
        self,
        folder: DataFolder,
        names: Names,
        options: Options,
        base_url: str = "",
        *,
        graph: ChunkedGraph | None = None,
    ) -> None:
        self.folder = folder
        self.names = names
        self.options = options
        self.base_url = base_url
        self.exports_path: str | None = None
        self.dataset: str | None = None  # name of the spec that it is served for, where there is one
        self.closing = threading.Event()
        # refuses new connections for some seconds
        self.refuse_connections: Callable[[float], None] = lambda _: None
        if graph is not None:
            self.graph = graph

    def now(self) -> datetime:
        """Now, as every route of this sandbox understands it."""
        return datetime.now(UTC)

    @LoadedOnce
    def graph(self) -> ChunkedGraph:
        """The chunkedgraph, with its history."""
        from cortexclient.sandbox.stores.graph.graph import ChunkedGraph

        return ChunkedGraph(self.folder)

    @LoadedOnce
    def tables(self) -> TableStore:
        """Annotation tables, frozen versions and views."""
        from cortexclient.sandbox.stores.tables.store import TableStore

        return TableStore(self)

    def close(self) -> None:
        """Close what has threads of its own; no request may be served afterwards."""
        if "tables" in self.__dict__:
            self.tables.engine.close()

    @LoadedOnce
    def l2cache(self) -> L2Cache:
        """Attributes of level-2 ids."""
        from cortexclient.sandbox.stores.l2cache import L2Cache

        return L2Cache(self.graph)

    @LoadedOnce
    def skeletons(self) -> SkeletonStore:
        """Skeletons, stored and computed."""
        from cortexclient.sandbox.stores.skeletons import SkeletonStore

        return SkeletonStore(self)

    @LoadedOnce
    def access(self) -> Access:
        """Users, tokens and rights."""
        from cortexclient.sandbox.access import Access

        return Access(self)

    @LoadedOnce
    def viewer(self) -> Viewer:
        """Open pages of Neuroglancer."""
        from cortexclient.sandbox.routes.viewer import Viewer

        return Viewer()

    @property
    def viewer_site(self) -> str:
        """Address of the Neuroglancer that this sandbox serves."""
        return f"{self.base_url}/v/sandbox"

    @property
    def segmentation_source(self) -> str:
        """Address of the segmentation, as clients open it."""
        return f"graphene://{self.base_url}/segmentation/table/{self.names.pcg_table}"

    @property
    def image_source(self) -> str:
        """Address of the image volume, as clients open it."""
        return f"precomputed://{self.base_url}/precomputed/img"

    @property
    def data_dir(self) -> str:
        """Address of the folder of chunks and meshes of the segmentation."""
        return f"{self.base_url}/precomputed/seg"

    async def closing_wait(self, seconds: float) -> bool:
        """Wait; come back early, with True, when the server closes."""
        end = time.monotonic() + seconds
        while not self.closing.is_set():
            rest = end - time.monotonic()
            if rest <= 0:
                return False
            await asyncio.sleep(min(rest, 0.05))
        return True
