"""The warning that the registry gives."""

from __future__ import annotations

__all__ = ["SpecWarning"]


class SpecWarning(UserWarning):
    """Something about a spec that the user should know: it is old, deprecated, or hides a built-in one."""
