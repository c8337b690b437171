"""Why a query was refused, told with what to ask instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cortexclient.errors import ExpiredVersionError, InvalidQueryError, ServiceError, StaleRootError
from cortexclient.session.query.filters import fields_of, no_column
from cortexclient.session.query.metadata import find
from cortexclient.session.successors import successors_of
from cortexclient.session.versions import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cortexclient.session.core import Session
    from cortexclient.session.query.question import Question

__all__ = ["expired", "misnamed", "stale"]


def expired(session: Session, versions: set[int | None]) -> ExpiredVersionError | None:
    """Say that a version has expired, and what there is instead; None if that was not why a question failed."""
    records = session.versions()
    for record in (records[number] for number in versions if number in records):
        if record.valid:
            continue
        instead = nearest(records, record.timestamp)
        live = ", ".join(str(number) for number, other in records.items() if other.valid) or "none"
        offer = ""
        if instead is not None:
            offer = f"; the nearest is {instead.version} of {instead.timestamp:%Y-%m-%d %H:%M} UTC"
        froze = f"{record.timestamp:%Y-%m-%d %H:%M} UTC"
        return ExpiredVersionError(
            f"version {record.version} of {session.datastack} has expired (it froze at {froze}). "
            f"Live versions are {live}{offer}. load(..., version_fallback=True) answers by queries at its time",
            service="materialize",
            status=410,
        )
    return None


def stale(session: Session, error: ServiceError, at: datetime | None) -> StaleRootError | None:
    """Say what became of roots for which a live query was refused; None if it was refused for something else."""
    ids = [
        int(number)
        for number in re.findall(r"\b\d{12,19}\b", str(error).partition("did not exist at the time")[2])
    ]
    if not ids or at is None:
        return None
    told = []
    try:
        for root, (found, share) in zip(ids[:5], successors_of(session, ids[:5], at=at), strict=True):
            now = ", ".join(f"{new} ({part:.0%})" for new, part in zip(found[:3], share[:3], strict=True))
            told.append(f"{root} -> {now or 'nothing'}")
    except ServiceError:
        told = [str(root) for root in ids[:5]]
    return StaleRootError(
        f"{len(ids)} root ids were not valid at {at.isoformat()}; what holds their pieces then: {'; '.join(told)}. Ask "
        "with those (latest_roots() gives all), or at a time when the old ones were valid (latest_valid_timestamp())"
    )


def misnamed(
    session: Session, error: ServiceError, questions: Sequence[Question]
) -> InvalidQueryError | None:
    """Say which column of a filter a table does not have; None if questions were refused for something else.

    Only a column that the service names counts: tables may have some that their schema does not tell of.
    """
    if not isinstance(error, InvalidQueryError):
        return None
    for question in questions:
        asked = [column for tables in question.filters.values() for column in tables.get(question.name, {})]
        named = [column for column in asked if repr(column) in str(error)]
        try:
            info = find(session, question.name, kind=question.kind, version=question.version)
            fields = fields_of(session, info) if named else {}
        except ServiceError:
            return None
        known = {column for _, column, _ in fields.values()}
        for column in named:
            if column not in known:
                message = no_column(info, column, list(fields))
                return InvalidQueryError(message, service="materialize", status=error.status)
    return None
