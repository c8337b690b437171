"""A moment (a version, a timestamp or now), the versions that a datastack has, and where a result is from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cortexclient.session.session import Session
    from cortexclient.spec import DatasetSpec
    from cortexclient.types import Timestamp

__all__ = [
    "EPOCH",
    "FLOATING",
    "Moment",
    "VersionRecord",
    "as_utc",
    "as_version",
    "fallback_note",
    "from_microseconds",
    "microseconds",
    "moment_of_tables",
    "nearest",
    "newest",
    "parse_versions",
    "provenance_of",
    "require_live",
    "require_versions",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""The beginning of the services' time."""
_BEING_MADE = {"RUNNING", "PENDING", "STARTED"}


def as_utc(value: Any, name: str = "timestamp") -> datetime:
    """Return a time as an aware datetime in UTC, to the microsecond: **a time without a zone is UTC**, everywhere.

    A datetime, a pandas Timestamp and an ISO 8601 string (``"2024-06-05T10:10:01.203215"``, ``Z`` allowed) will do.
    Raise `TypeError` for what is no time, `ValueError` for a text that cannot be read as one; ``name`` is for the
    message.

    >>> as_utc("2024-06-05T10:10:01").isoformat()
    '2024-06-05T10:10:01+00:00'
    """
    at = _parsed(value, name) if isinstance(value, str) else _as_datetime(value, name)
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name}={at} lies outside the years 1 to 9999 in UTC") from None


def _parsed(text: str, name: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        hint = "write it like '2024-06-05T10:10:01.203215Z'"
        raise ValueError(f"{name}={text!r} is not a time; {hint}") from None


def _as_datetime(value: Any, name: str) -> datetime:
    """Return a time of pandas or NumPy as a datetime; raise `TypeError` for what is none."""
    if type(value).__name__ in {"NaTType", "datetime64"} and value != value:
        raise TypeError(f"{name} is NaT, which is no time")
    if hasattr(value, "to_pydatetime"):
        # of pandas: its nanoseconds mean nothing to the services
        value = value.to_pydatetime(warn=False)
    elif type(value).__module__ == "numpy" and type(value).__name__ == "datetime64":
        value = value.astype("datetime64[us]").item()
    if isinstance(value, datetime):
        return value
    hint = "; a date needs a time of day" if isinstance(value, date) else ""
    raise TypeError(f"{name} must be a datetime or an ISO 8601 string, not {type(value).__name__}{hint}")


def microseconds(at: datetime) -> int:
    """Return the microseconds from 1970 to a time."""
    return (at - EPOCH) // timedelta(microseconds=1)


def from_microseconds(number: int) -> datetime:
    """Return the time that is so many microseconds after 1970, in UTC."""
    return EPOCH + timedelta(microseconds=number)


def as_version(value: Any, name: str = "version") -> int:
    """Return a materialization version as a plain int.

    NumPy integers and digits in text will do; anything else raises `TypeError`. Zero, by which services mean the
    live tables, is no version: it raises `ValueError`, as smaller numbers do.
    """
    if isinstance(value, bool) or not (
        hasattr(value, "__index__") or (isinstance(value, str) and value.isdigit())
    ):
        raise TypeError(f"{name} must be a materialization number such as 1300, not {value!r}")
    if int(value) < 1:
        raise ValueError(
            f"{name} must be at least 1, not {int(value)}; for another moment than a version's, give a timestamp"
        )
    return int(value)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a client looks at its dataset: at a materialized version, or at any other time.

    Tables are read from the version, everything else at its timestamp; at another time tables are read by live queries.
    With neither, the moment floats: tables come from the newest version (or the dataset's default one), and roots are
    those of now.
    """

    version: int | None = None
    timestamp: datetime | None = None

    @property
    def floating(self) -> bool:
        """Whether neither a version nor a timestamp is set."""
        return self.version is None and self.timestamp is None

    @classmethod
    def of(cls, version: Any = None, timestamp: Timestamp | None = None) -> Moment:
        """Make a moment of a version or a timestamp; both together raise `ValueError`."""
        if version is None and timestamp is None:
            return FLOATING
        if timestamp is None:
            return cls(version=as_version(version))
        if version is None:
            return cls(timestamp=as_utc(timestamp))
        raise ValueError(
            f"version={version} and timestamp={timestamp} both name a moment; give one of them "
            "(a version stands for its own timestamp)"
        )

    def __str__(self) -> str:
        if self.version is not None:
            return f"version {self.version}"
        if self.timestamp is not None:
            return self.timestamp.isoformat()
        return "now"


FLOATING = Moment()


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One materialization."""

    version: int
    timestamp: datetime  # at which it froze, aware, UTC
    valid: bool  # whether it can be queried; False once it has expired
    expires: datetime | None = None
    status: str | None = None  # as the service says: AVAILABLE, RUNNING (it is being made), FAILED, ...

    @property
    def missing_because(self) -> str:
        """Why the version never served a query; empty where it did, or does."""
        if self.valid:
            return ""
        return "is being made" if self.status in _BEING_MADE else "failed" if self.status == "FAILED" else ""


def parse_versions(body: Any) -> dict[int, VersionRecord]:
    """Parse the service's list of versions, oldest first."""
    records = [
        VersionRecord(
            version=int(entry["version"]),
            timestamp=as_utc(entry["time_stamp"]),
            valid=bool(entry.get("valid", True)),
            expires=as_utc(entry["expires_on"]) if entry.get("expires_on") else None,
            status=str(entry["status"]).upper() if entry.get("status") else None,
        )
        for entry in body
    ]
    return {record.version: record for record in sorted(records, key=_age)}


def _age(record: VersionRecord) -> tuple[datetime, int]:
    return record.timestamp, record.version


def require_versions(spec: DatasetSpec, feature: str) -> None:
    """Raise `NotConfiguredError` if the spec says that a datastack has no versions."""
    instead = "roots, level-2 ids, meshes and skeletons without synapses need none"
    spec.require_capability("versions", feature=feature, instead=instead)


def newest(records: Iterable[VersionRecord], at: datetime | None = None) -> VersionRecord | None:
    """Return the newest valid version, or the newest one not after a time; None where there is none."""
    usable = [record for record in records if record.valid and (at is None or record.timestamp <= at)]
    return max(usable, key=_age, default=None)


def nearest(records: Mapping[int, VersionRecord], to: datetime) -> VersionRecord | None:
    """Return the valid version whose timestamp is nearest to a time; None where there is none."""
    usable = [record for record in records.values() if record.valid]
    return min(usable, key=lambda record: abs(record.timestamp - to), default=None)


def moment_of_tables(session: Session) -> Moment:
    """Return the moment at which tables are read where the caller names none.

    This is the rule of the whole package: a pinned session reads at its own moment, a floating one reads the version
    that its spec names or else the newest. Versions are complete and never change, so that two methods of one client
    return the same rows. What was made after that version is there in a live query only, which has to be requested.
    """
    return session.moment if session.pinned else Moment(version=session.version)


def fallback_note(session: Session, moment: Moment | None) -> dict[str, str]:
    """Return for ``df.attrs`` that a moment's version has expired and its time is queried; empty if it has not."""
    if not session.version_fallback or moment is None or moment.version is None:
        return {}
    if session.version_record(moment.version).valid:
        return {}
    note = f"version {moment.version} has expired; answered by a live query at its timestamp"
    return {"version_fallback": note}


def require_live(session: Session, at: datetime) -> None:
    """Raise where the spec says that tables are queried at versions only, and name the nearest version."""
    if not session.spec.denies("live"):
        return
    near = nearest(session.versions(), at)
    instead = ""
    if near is not None:
        froze = f"{near.timestamp:%Y-%m-%d %H:%M} UTC"
        instead = f"ask at a version, client.at(version={near.version}) is the nearest (of {froze})"
    session.spec.require_capability("live", feature=f"a query at {at.isoformat()}", instead=instead)


# -- where a result is from --------------------------------------------------------------------------------------------


def provenance_of(session: Session, moment: Moment | None = None) -> dict[str, Any]:
    """Return the dataset, server and moment of a result, and what the dataset's spec said at that time.

    Makes no request. Plain values only, and few: pandas copies them at every step. Without a moment, or with a floating
    one, every row has a time of its own, or none. ``dataset``, ``datastack_name``, ``server_address``,
    ``materialization_version`` and ``timestamp`` (ISO 8601, UTC) are named as caveclient names them; ``moment`` is
    ``pinned`` or ``floating``, as the client is; ``spec_hash`` changes with any value of the spec; ``transform`` and
    ``transform_version`` say how positions would become depths.
    """
    moment = moment or FLOATING
    timestamp = moment.timestamp
    if timestamp is None and moment.version is not None:
        record = (session.connection.memory.peek("versions") or {}).get(moment.version)
        timestamp = record.timestamp if record else None
    spec = session.spec
    transform = spec.transform
    name = None if transform is None else transform.dataset or "declared"
    pinned = None if transform is None else transform.version
    return {
        "dataset": spec.name,
        "datastack_name": session.datastack,
        "server_address": session.server_address,
        "materialization_version": moment.version,
        "timestamp": None if timestamp is None else timestamp.isoformat(),
        "moment": "floating" if session.moment.floating else "pinned",
        "spec_hash": spec.fingerprint,
        "transform": name,
        "transform_version": pinned or (_newest() if name not in {None, "declared"} else None),
    }


@cache
def _newest() -> str:
    # which version that is, only the package knows, and importing it takes half a second
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"newest of standard_transform {version('standard_transform')}"
    except PackageNotFoundError:
        return "newest"
