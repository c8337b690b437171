"""The materialized versions of a datastack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortexclient.errors import ProtocolError
from cortexclient.session.moments import as_utc

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from cortexclient.spec import DatasetSpec

__all__ = ["VersionRecord", "nearest", "newest", "parse_versions", "require_versions"]


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One materialization.

    Parameters
    ----------
    version : int
        Its number.
    timestamp : datetime.datetime
        The moment it froze, aware, UTC.
    valid : bool
        Whether it still answers queries; False once it has expired.
    expires : datetime.datetime or None
        When it will expire, if it will.
    """

    version: int
    timestamp: datetime
    valid: bool
    expires: datetime | None = None


def parse_versions(body: Any) -> dict[int, VersionRecord]:
    """Read the service's list of versions, oldest first.

    Raises
    ------
    ProtocolError
        If the list does not have the shape of one.
    """
    try:
        records = [
            VersionRecord(
                version=int(entry["version"]),
                timestamp=as_utc(entry["time_stamp"]),
                valid=bool(entry.get("valid", True)),
                expires=as_utc(entry["expires_on"]) if entry.get("expires_on") else None,
            )
            for entry in body
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise ProtocolError(
            f"the list of versions cannot be read ({error}); is this a CAVE materialization service?",
            service="materialize",
        ) from error
    return {
        record.version: record
        for record in sorted(records, key=lambda record: (record.timestamp, record.version))
    }


def require_versions(spec: DatasetSpec, feature: str) -> None:
    """Say that a datastack has no versions, where its spec declares so.

    Raises
    ------
    NotConfiguredError
        If ``capabilities.versions`` is false.
    """
    instead = "roots, level-2 ids, meshes and skeletons without synapses need none"
    spec.require_capability("versions", feature=feature, instead=instead)


def newest(records: Iterable[VersionRecord], at: datetime | None = None) -> VersionRecord | None:
    """Give the newest valid version, or the newest one not after a time; None where there is none."""
    usable = [record for record in records if record.valid and (at is None or record.timestamp <= at)]
    return max(usable, key=lambda record: (record.timestamp, record.version), default=None)


def nearest(records: Mapping[int, VersionRecord], to: datetime) -> VersionRecord | None:
    """Give the valid version whose timestamp is nearest to a time; None where there is none."""
    usable = [record for record in records.values() if record.valid]
    return min(usable, key=lambda record: abs(record.timestamp - to), default=None)
