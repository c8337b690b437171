"""Finding out which services a live server really offers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cortexclient.errors import (
    CortexError,
    MissingDataError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cortexclient.session import Session, VersionRecord

__all__ = ["offered", "skeleton_versions", "versions_of"]


def offered(session: Session, *, table: str | None) -> dict[str, bool | None]:
    """Ask each service whether it is there.

    Parameters
    ----------
    session : Session
        On a spec that denies nothing: what is denied would not be asked for.
    table : str or None
        A small table to ask for one row at this moment.

    Returns
    -------
    dict
        Fields of ``capabilities`` -> True, False, or None where it cannot be told (no answer in time, no right to ask).
    """
    found = {"live": _told(lambda: _live(session, table)), "versions": _told(lambda: _versions(session))}
    found["l2cache"] = _told(lambda: _l2cache(session))
    found["skeletons"] = _told(lambda: bool(skeleton_versions(session)))
    return found


def _told(ask: Callable[[], bool | None]) -> bool | None:
    try:
        return ask()
    except (ServiceTimeoutError, ServiceUnavailableError):
        return None
    except ServiceError as error:
        # 401 and 403 say who asked, 5xx that something is broken; only these say that there is nothing
        return False if error.status in {400, 404, 405, 410} else None
    except CortexError:
        return None


def _live(session: Session, table: str | None) -> bool | None:
    if table is None:
        return None
    now = datetime.now(UTC)
    session.at(timestamp=now).query(table, kind="table", limit=1, allow_missing_lookups=True)
    return True


def _versions(session: Session) -> bool:
    return any(record.valid for record in versions_of(session).values())


def versions_of(session: Session) -> dict[int, VersionRecord]:
    """Give all versions; none where the server has nothing of the kind for this datastack."""
    try:
        return session.versions()
    except MissingDataError:
        return {}


def _l2cache(session: Session) -> bool:
    mapping: Any = session.http.get_json("l2cache", f"{session.local_server}/l2cache/api/v1/table_mapping")
    return session.connection.segmentation_table in mapping


def skeleton_versions(session: Session) -> list[int]:
    """Give the versions of skeletons that the service makes.

    Raises
    ------
    ServiceError
        If there is no such service, or it fails.
    """
    known: Any = session.http.get_json("skeleton", f"{session.local_server}/skeletoncache/api/versions")
    return sorted(int(version) for version in known)
