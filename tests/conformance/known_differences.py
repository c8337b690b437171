"""Exchanges that the sandbox answers otherwise than the real services did, and why.

A test keeps the list honest: what stands here must differ, and what does not stand here must be alike.
"""

from __future__ import annotations

KNOWN: dict[int, str] = {
    11: "all 57 JSON schemas are asked for: the sandbox has those of EMAnnotationSchemas 5.26, the recorded service "
    "those of 5.25, where some ids of users have another type",
    86: "the real service orders the tables of a join by a hash that differs from process to process, "
    "and this port was another process",
}
