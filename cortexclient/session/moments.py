"""The old name of `cortexclient.session.moment`, for modules that are being rewritten; goes when they have landed."""

from cortexclient.session.moment import Moment, as_utc, as_version

__all__ = ["Moment", "as_utc", "as_version"]
