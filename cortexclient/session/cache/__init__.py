"""Answers kept on disk: those that can never change, and, for work without network, what held when they were asked.

What was looked at before this was written (November 2026), for a cache of foreign answers that is private, shared by
processes, bounded, and never wrong:

- *requests-cache* 1.3 (BSD-2, alive): pickles answers unless told otherwise; its SQLite backend has no size cap, its
  bounded file backend keeps the index in a second file that can disagree with the first; a mixin of
  ``requests.Session``, whereas what nine sessions of caveclient share is an adapter.
- *hishel* 2.0 (BSD, alive, no pickle, size cap): decides by RFC 9111, by headers that CAVE does not send; nearly all
  that is worth keeping here are answers to POST, told apart by their bodies. Everything would be overridden.
- *diskcache* 5.6 (Apache-2): pickles keys and values by default, and has had no release since 2023.
- *CacheControl* 0.14 (Apache-2): RFC 9111, GET only.
- *sqlite3* of the standard library: one file, in WAL mode, which is unsafe on the network drives that home folders of
  clusters are; one damaged page costs everything.

None has an idea of *which answers of CAVE are final*, which is the real work (`rules`), of checksums, of private modes
or of answering offline. What is left to write below that is small, so it is written here (`store`): one file for each
answer, written beside and renamed into place, with a checksum over all of it; folders 0700, files 0600; JSON and raw
bytes, nothing is unpickled or executed. No locks are needed: two processes that write the same answer write the same
file, and a process that dies leaves a part file that nobody reads.

`memory` is what the transport asks; `partial` completes answers that are final only in part; `snapshot` puts the
answers of one analysis into one file.
"""

from __future__ import annotations

from cortexclient.session.cache.choice import CacheChoice
from cortexclient.session.cache.memory import Memory

__all__ = ["CacheChoice", "Memory"]
