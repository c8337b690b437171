"""The old name of `cortexclient.session.session`, for modules that are being rewritten; goes when they have landed."""

from cortexclient.session.session import Session

__all__ = ["Session"]
