"""The live connection to one datastack: what every service asks for its answers.

::

    session = Session(spec, version=None, timestamp=None, server_address=None, auth_token=None, endpoint=None,
                      max_workers=None, timeout=None, retries=None, version_fallback=False,
                      cache=None, offline=False)

    session.spec .datastack .server_address .local_server .token .endpoint     (no request, but for local_server)
    session.moment            Moment(version, timestamp); both None = floating. Set it with pin() and unpin()
    session.pinned            bool
    session.version           int: the pinned version, else the spec's default or the newest one (asked once)
    session.timestamp         aware datetime, or None when floating
    session.pin(version=1300) / session.pin(timestamp=...) / session.unpin() / session.pin_current()
    session.at(version=...) / session.at(timestamp=...)    a copy elsewhere in time that shares connections
    session.cave              CAVEclientFull at this moment (made once, locked, pooled, with timeouts)
    session.info()            body of the info service (asked once)
    session.table_info(name, kind=None)     metadata of a table or view at this moment
    session.versions()        {number: VersionRecord(version, timestamp, valid, expires)}, expired ones included
    session.guard("service")  context manager: every failure becomes one of cortexclient.errors
    session.map(function, items, progress=False, description="")   ordered results of a bounded pool
    session.query(table_or_view, ...)      a complete frame, see `Session.query`
    session.count(table_or_view, ...)      rows that a query would have
    session.segmentation_info() / .segmentation_cloudvolume() / .image_cloudvolume()     remembered
    session.http              requests over the shared pool: get_json(service, url), post_json(...), send(...)

The session is the only place that builds a CAVEclient. Creating one makes no request and imports nothing heavy.
A service takes the session as its one argument and asks ``session.moment`` at each call, so that a session which is
moved moves every service with it.
"""

from __future__ import annotations

from cortexclient.session.core import Session
from cortexclient.session.endpoints import Endpoint
from cortexclient.session.moments import Moment, as_utc
from cortexclient.session.versions import VersionRecord

__all__ = ["Endpoint", "Moment", "Session", "VersionRecord", "as_utc"]
