"""Why a service refused a query, and what to query instead."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from cortexclient.errors import (
    CortexError,
    ExpiredVersionError,
    InvalidQueryError,
    ServiceError,
    StaleRootError,
)
from cortexclient.session.graph import is_latest, successors_of
from cortexclient.session.moment import nearest
from cortexclient.session.query.filters import fields_of, no_column
from cortexclient.session.query.tables import find_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cortexclient.session.query.query import Query
    from cortexclient.session.session import Session

__all__ = ["explain"]

_NAMED = 100
_FATES = 5


def explain(session: Session, error: ServiceError, queries: Sequence[Query]) -> CortexError | None:
    """Return an error that says what planned queries were refused for; None where that cannot be found out."""
    for reason in (_expired, _stale, _misnamed):
        # what is requested to find out may fail, too, which must not hide the first failure
        with contextlib.suppress(ServiceError):
            if made := reason(session, error, queries):
                return made
    return None


def _expired(session: Session, error: ServiceError, queries: Sequence[Query]) -> ExpiredVersionError | None:
    """Return that a version has expired, with the nearest live one; None if that was not why a query failed."""
    records = session.versions()
    for record in (records[query.version] for query in queries if query.version in records):
        if record.valid:
            continue
        instead = nearest(records, record.timestamp)
        live = ", ".join(str(number) for number, other in records.items() if other.valid) or "none"
        offer = ""
        if instead is not None:
            offer = f"; the nearest is {instead.version} of {instead.timestamp:%Y-%m-%d %H:%M} UTC"
        froze = f"{record.timestamp:%Y-%m-%d %H:%M} UTC"
        return ExpiredVersionError(
            f"version {record.version} of {session.label} has expired (it froze at {froze}). "
            f"Live versions are {live}{offer}. load(..., version_fallback=True) answers by queries at its time",
            service="materialize",
            status=410,
            url=error.url,
        )
    return None


def _stale(session: Session, error: ServiceError, queries: Sequence[Query]) -> StaleRootError | None:
    """Name all root ids for which a live query was refused, and what became of them; None if it was not for roots.

    A service names those of the one request that it refuses, and not all of them; the chunkedgraph knows all.
    """
    text = str(error).partition("did not exist at the time")[2]
    named = [int(number) for number in re.findall(r"\b\d{12,19}\b", text)]
    at = next((query.timestamp for query in queries if query.timestamp is not None), None)
    if not text or at is None:
        return None
    ids = _stale_of(session, queries, at) or named
    if not ids:
        return None
    fates = []
    try:
        for root, (found, share) in zip(
            ids[:_FATES], successors_of(session, ids[:_FATES], at=at), strict=True
        ):
            now = ", ".join(f"{new} ({part:.0%})" for new, part in zip(found[:3], share[:3], strict=True))
            fates.append(f"{root} -> {now or 'nothing'}")
    except ServiceError:
        fates = []
    listed = ", ".join(map(str, ids[:_NAMED])) + (" ..." if len(ids) > _NAMED else "")
    return StaleRootError(
        f"{len(ids)} root ids were not valid at {at.isoformat()}: {listed}. "
        + (f"What holds their pieces then: {'; '.join(fates)}. " if fates else "")
        + "Query those (latest_roots() returns all), or at a time when the old ones were valid "
        "(latest_valid_timestamp())"
    )


def _stale_of(session: Session, queries: Sequence[Query], at: datetime) -> list[int]:
    """Return all root ids of the filters that were not valid at a time; none where the graph does not respond."""
    import numpy as np

    listed: dict[int, None] = {}
    for query in queries:
        for kind in ("in", "equal"):
            for columns in query.filters.get(kind, {}).values():
                for column, value in columns.items():
                    if column.endswith("root_id"):
                        listed |= dict.fromkeys(value if isinstance(value, list) else [value])
    ids = np.array([value for value in listed if isinstance(value, int) and value > 0], dtype=np.int64)
    if not len(ids):
        return []
    try:
        return [int(value) for value in ids[~is_latest(session, ids, at=at)]]
    except ServiceError:
        return []


def _misnamed(session: Session, error: ServiceError, queries: Sequence[Query]) -> InvalidQueryError | None:
    """Return which column of a filter a table does not have; None if queries were refused for something else.

    Only a column that the service names counts: tables may have some that their schema does not list.
    """
    if not isinstance(error, InvalidQueryError):
        return None
    for query in queries:
        columns = [column for tables in query.filters.values() for column in tables.get(query.name, {})]
        named = [column for column in columns if repr(column) in str(error)]
        info = find_table(session, query.name, kind=query.kind, version=query.version)
        fields = fields_of(session, info) if named else {}
        known = {column for _, column, _ in fields.values()}
        for column in named:
            if column not in known:
                message = no_column(info, column, list(fields))
                return InvalidQueryError(message, service="materialize", status=error.status, url=error.url)
    return None
