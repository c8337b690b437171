"""The live connection to one datastack, which every service uses for its requests.

::

    session = Session(spec, version=None, timestamp=None, server_address=None, auth_token=None, endpoint=None,
                      max_workers=None, timeout=None, retries=None, version_fallback=False,
                      cache=None, offline=False)

    session.spec .datastack .server_address .local_server .token .endpoint     (no request, but for local_server)
    session.moment            Moment(version, timestamp); both None = floating. Set it with pin() and unpin()
    session.pinned            bool
    session.version           int: the pinned version, else the spec's default or the newest one (fetched once)
    session.timestamp         aware datetime, or None when floating
    session.pin(version=1300) / session.pin(timestamp=...) / session.unpin() / session.pin_current()
    session.at(version=...) / session.at(timestamp=...)    a copy elsewhere in time that shares connections
    session.cave              CAVEclientFull at this moment (made once, locked, pooled, with timeouts)
    session.info()            body of the info service (fetched once)
    session.table_info(name, kind=None)     metadata of a table or view at this moment
    session.versions()        {number: VersionRecord(version, timestamp, valid, expires)}, expired ones included
    session.guard("service")  context manager: every failure becomes one of cortexclient.errors
    session.map(function, items, progress=False, description="")   ordered results of a bounded pool of workers
    session.run_all(jobs)                   the same for different jobs, which may use the pool themselves
    session.query(table_or_view, ...)      a complete frame, see `Session.query`
    session.count(table_or_view, ...)      rows that a query would have
    session.segmentation_info() / .segmentation_cloudvolume() / .image_cloudvolume()     made once
    session.read_files(folder, names or ranges)     files of a web folder or bucket, with timeouts and retries
    session.http              requests over the shared connections: get_json(service, url), post_json(...), send(...)

Everybody outside of this package imports from here, never from a module inside, so that the modules can change.

The session is the only place that builds a CAVEclient. Creating one makes no request and imports nothing heavy.
A service takes the session as its one argument and asks ``session.moment`` at each call, so that a session which is
moved moves every service with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.session.cache import AnswerCache, CacheChoice, FolderStore, SnapshotStore, forget
from cortexclient.session.cache import Entry as CacheEntry
from cortexclient.session.connection import Endpoint, bare_address
from cortexclient.session.graph import (
    graph_url,
    ids_in,
    is_below_roots,
    is_latest,
    leaves,
    lifetimes,
    roots_of,
    successors_of,
)
from cortexclient.session.moment import (
    EPOCH,
    Moment,
    VersionRecord,
    as_utc,
    as_version,
    fallback_note,
    from_microseconds,
    microseconds,
    moment_of_tables,
    nearest,
    newest,
    provenance_of,
    require_versions,
)
from cortexclient.session.query.filters import (
    Filters,
    as_choice,
    as_number,
    fields_of,
    filters_from_dicts,
    filters_from_keywords,
)
from cortexclient.session.query.frames import join_positions, present_frame, to_pandas, triples
from cortexclient.session.query.query import (
    NM,
    Follow,
    Query,
    count_rows,
    fetch_replies,
    forget_queries,
    run_queries,
    run_query,
)
from cortexclient.session.query.tables import (
    TableInfo,
    column_kinds,
    find_table,
    table_infos,
    unknown_table_message,
    view_infos,
)
from cortexclient.session.query.wire import Reply, concat_replies
from cortexclient.session.session import Session
from cortexclient.session.workers import Prefetch, ProgressBar, pause, progress_bar, run_all, within_worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cortexclient.session.policy import Policy

__all__ = [
    "EPOCH",
    "NM",
    "AnswerCache",
    "CacheChoice",
    "CacheEntry",
    "Endpoint",
    "Filters",
    "FolderStore",
    "Follow",
    "Moment",
    "Prefetch",
    "ProgressBar",
    "Query",
    "Reply",
    "Session",
    "SnapshotStore",
    "TableInfo",
    "VersionRecord",
    "as_choice",
    "as_number",
    "as_utc",
    "as_version",
    "bare_address",
    "be_patient_with",
    "column_kinds",
    "concat_replies",
    "count_rows",
    "fallback_note",
    "fetch_replies",
    "fields_of",
    "filters_from_dicts",
    "filters_from_keywords",
    "find_table",
    "forget",
    "forget_queries",
    "from_microseconds",
    "graph_url",
    "ids_in",
    "is_below_roots",
    "is_latest",
    "join_positions",
    "leaves",
    "lifetimes",
    "microseconds",
    "moment_of_tables",
    "nearest",
    "newest",
    "pause",
    "present_frame",
    "progress_bar",
    "provenance_of",
    "require_versions",
    "roots_of",
    "run_all",
    "run_queries",
    "run_query",
    "successors_of",
    "table_infos",
    "to_pandas",
    "triples",
    "unknown_table_message",
    "view_infos",
    "within_worker",
]


def be_patient_with(addresses: Iterable[str], policy: Policy | None = None) -> None:
    """Use a policy for what libraries request from some hosts, see `cortexclient.session.libraries`."""
    from cortexclient.session import libraries  # imports requests

    libraries.be_patient_with(addresses, policy)
