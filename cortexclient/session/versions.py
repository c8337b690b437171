"""The old name of `cortexclient.session.moment`, for modules that are being rewritten; goes when they have landed."""

from cortexclient.session.moment import VersionRecord, nearest, newest, require_versions

__all__ = ["VersionRecord", "nearest", "newest", "require_versions"]
