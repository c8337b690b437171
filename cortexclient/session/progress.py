"""The old name of `cortexclient.session.workers`, for modules that are being rewritten; goes when they have landed."""

from cortexclient.session.workers import ProgressBar, progress_bar

__all__ = ["ProgressBar", "progress_bar"]
