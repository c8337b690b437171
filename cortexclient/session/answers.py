"""Answers kept on disk: one private file each, written whole or not at all, checked when read.

Libraries were looked at first. requests-cache and diskcache keep whole responses by pickle or in one SQLite file with
the request beside them; here no request header may be kept (it holds the token), nothing may be unpickled, and a
truncated file must be noticed. What is left after that is this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.settings import cache_dir, env_float

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AnswerCache", "Entry", "default_folder"]

_MAGIC = b"cortexclient answer 1\n"
_EVERY = 64


def default_folder() -> Path:
    """Folder of the cache where none is named."""
    return cache_dir() / "answers"


@dataclass(slots=True)
class Entry:
    """One answer.

    Parameters
    ----------
    about : dict
        ``url``, ``method``, ``headers`` (of the answer, those that matter), ``sha256`` of the body, ``made``.
    body : bytes
        The answer itself.
    """

    about: dict[str, Any]
    body: bytes


class AnswerCache:
    """A folder of answers.

    Parameters
    ----------
    folder : pathlib.Path, optional
        Where. Default: in the user's cache folder.
    limit : float, optional
        Most bytes kept; the least recently used answers go first. Default: ``$CORTEXCLIENT_CACHE_GB`` (5) gigabytes.
    """

    def __init__(self, folder: Path | None = None, limit: float | None = None) -> None:
        self.folder = default_folder() if folder is None else folder
        self.limit = env_float("CORTEXCLIENT_CACHE_GB", 5.0) * 1e9 if limit is None else limit
        self._written = 0
        self._lock = threading.Lock()
        self.used: set[str] = set()

    @staticmethod
    def key(method: str, url: str, body: bytes) -> str:
        """Name a question: the same for every process and every user."""
        return hashlib.sha256(f"{method} {url}\n".encode() + body).hexdigest()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def get(self, key: str) -> Entry | None:
        """Give an answer, or None; a damaged file counts as none and is removed."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        entry = _parse(content)
        if entry is None:
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used go first
        self.used.add(key)
        return entry

    def put(self, key: str, about: dict[str, Any], body: bytes) -> None:
        """Keep an answer; a full or read-only disk is no reason to fail."""
        about = {**about, "sha256": hashlib.sha256(body).hexdigest(), "made": time.time()}
        path = self._path(key)
        name = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + json.dumps(about).encode() + b"\n" + body)
            Path(name).replace(path)
        except OSError:
            if name is not None:
                Path(name).unlink(missing_ok=True)
            return
        self.used.add(key)
        with self._lock:
            self._written += 1
            due = self._written % _EVERY == 1
        if due:
            self.evict()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):
                yield path, path.stat()

    def evict(self) -> int:
        """Remove the least recently used answers above the limit, and what a crash left; gives how many went."""
        files = sorted(self._files(), key=lambda entry: entry[1].st_mtime)
        total = sum(stat.st_size for _, stat in files)
        gone = 0
        for path, stat in files:
            left_over = path.name.startswith(".new-") and stat.st_mtime < time.time() - 3600
            if total > self.limit or left_over:
                path.unlink(missing_ok=True)
                total -= stat.st_size
                gone += 1
        return gone

    def size(self) -> tuple[int, int]:
        """Give the number of answers and of bytes."""
        sizes = [stat.st_size for path, stat in self._files() if not path.name.startswith(".")]
        return len(sizes), sum(sizes)

    def clear(self) -> int:
        """Remove everything; gives how many answers went."""
        gone = 0
        for path, _ in list(self._files()):
            path.unlink(missing_ok=True)
            gone += 1
        return gone

    def verify(self) -> list[Path]:
        """Check every answer against its own sum; removes those that are damaged, and gives their paths."""
        bad = []
        for path, _ in list(self._files()):
            if path.name.startswith("."):
                continue
            with contextlib.suppress(OSError):
                if _parse(path.read_bytes()) is None:
                    path.unlink(missing_ok=True)
                    bad.append(path)
        return bad


def _parse(content: bytes) -> Entry | None:
    if not content.startswith(_MAGIC):
        return None
    head, found, body = content[len(_MAGIC) :].partition(b"\n")
    if not found:
        return None
    try:
        about = json.loads(head)
    except ValueError:
        return None
    if not isinstance(about, dict) or about.get("sha256") != hashlib.sha256(body).hexdigest():
        return None
    return Entry(about, body)
