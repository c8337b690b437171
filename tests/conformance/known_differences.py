"""Exchanges that the sandbox answers otherwise than the real services did, and why.

A test keeps the list honest: what stands here must differ, and what does not stand here must be alike.
"""

from __future__ import annotations

KNOWN: dict[int, str] = {}
