"""Responses cached on disk: those that can never change, and for work without a network those of the last time.

`rules` decides what may be stored, `answers` serves them to the transport, `store` keeps the entries.
"""

from __future__ import annotations

from cortexclient.session.cache.answers import AnswerCache, CacheChoice, forget
from cortexclient.session.cache.rules import Origin
from cortexclient.session.cache.snapshots import SnapshotStore
from cortexclient.session.cache.store import Entry, FolderStore

__all__ = ["AnswerCache", "CacheChoice", "Entry", "FolderStore", "Origin", "SnapshotStore", "forget"]
