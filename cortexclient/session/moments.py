"""One moment in time: a materialized version, a timestamp, or now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortexclient.types import Timestamp

__all__ = ["FLOATING", "Moment", "as_utc", "as_version"]


def as_utc(value: Any, name: str = "timestamp") -> datetime:
    """Give a time as an aware datetime in UTC.

    The one rule of the package: **a time without a zone is UTC**.

    Parameters
    ----------
    value : datetime.datetime or str
        A datetime, a pandas Timestamp, or an ISO 8601 string (``"2024-06-05T10:10:01.203215"``, ``Z`` allowed).
    name : str
        Name of the argument, for the message.

    Returns
    -------
    datetime.datetime
        Aware, in UTC, to the microsecond.

    Raises
    ------
    TypeError
        If the value is no time.
    ValueError
        If the text cannot be read as a time.

    Examples
    --------
    >>> as_utc("2024-06-05T10:10:01").isoformat()
    '2024-06-05T10:10:01+00:00'
    """
    if type(value).__name__ == "NaTType":
        raise TypeError(f"{name} is NaT, which is no time")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                f"{name}={value!r} is not a time; write it like '2024-06-05T10:10:01.203215Z'"
            ) from None
    to_pydatetime = getattr(value, "to_pydatetime", None)
    if to_pydatetime is not None:  # a pandas Timestamp: its nanoseconds mean nothing to the services
        value = to_pydatetime(warn=False)
    elif type(value).__module__ == "numpy" and type(value).__name__ == "datetime64":
        value = value.astype("datetime64[us]").item()
    if not isinstance(value, datetime):
        hint = "; a date needs a time of day" if isinstance(value, date) else ""
        raise TypeError(f"{name} must be a datetime or an ISO 8601 string, not {type(value).__name__}{hint}")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name}={value} lies outside the years 1 to 9999 in UTC") from None


def as_version(value: Any, name: str = "version") -> int:
    """Give a materialization version as a plain int; NumPy integers and digits in text are accepted.

    Raises
    ------
    TypeError
        If it is no whole number.
    """
    if isinstance(value, bool) or not (
        hasattr(value, "__index__") or (isinstance(value, str) and value.isdigit())
    ):
        raise TypeError(f"{name} must be a materialization number such as 1300, not {value!r}")
    return int(value)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a client looks at its dataset.

    Parameters
    ----------
    version : int or None
        A materialized version. Tables are read from it, everything else at its timestamp.
    timestamp : datetime.datetime or None
        Any other time, aware. Tables are read by live queries at it.

    Notes
    -----
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
        """Make a moment of what a user gave.

        Raises
        ------
        ValueError
            If both a version and a timestamp are given.
        """
        if version is not None and timestamp is not None:
            raise ValueError(
                f"version={version} and timestamp={timestamp} both name a moment; give one of them "
                "(a version stands for its own timestamp)"
            )
        if version is not None:
            return cls(version=as_version(version))
        if timestamp is not None:
            return cls(timestamp=as_utc(timestamp))
        return FLOATING

    def __str__(self) -> str:
        if self.version is not None:
            return f"version {self.version}"
        if self.timestamp is not None:
            return self.timestamp.isoformat()
        return "now"


FLOATING = Moment()
