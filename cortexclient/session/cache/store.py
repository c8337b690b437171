"""A folder of entries: private, shared by processes without locks, bounded in size, whole after any crash."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cortexclient.forking import ForkSafeLock
from cortexclient.session.cache.entry import DamagedEntryError, Entry, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FolderStore", "Listed"]

log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{62}\Z")
_STALE_PART = 3600.0
_TOUCH_AFTER = 60.0
_FULL, _AFTER = 1.0, 0.9


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the store, as the folder shows it."""

    key: str
    path: Path
    size: int
    used: float


class FolderStore:
    """Entries by key, one file each.

    Parameters
    ----------
    folder : pathlib.Path
        A folder of the user's; entries lie in ``answers`` below it, which is made when the first one is written.
    limit : int
        Most bytes that they may take together. The ones that were not used for longest go first.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.place = folder
        self.folder = folder / "answers"
        self.limit = limit
        self._written: int | None = None
        self._complained = False
        self._checked = False
        self._lock = ForkSafeLock()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def read(self, key: str) -> Entry | None:
        """Give an entry; None where there is none. A damaged one is removed, so that it is asked for again."""
        path = self._path(key)
        try:
            self._check_owner()
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain("read", error)
            return None
        try:
            entry = unpack(content)
        except DamagedEntryError as error:
            log.warning("a kept answer is damaged and is asked for again: %s: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            # when it was used last decides what goes first; once a minute is exact enough
            if time.time() - path.stat().st_mtime > _TOUCH_AFTER:
                os.utime(path)
        return entry

    def write(self, key: str, entry: Entry) -> bool:
        """Keep an entry. A full or broken disk costs the entry and a warning, not the user's work."""
        content = pack(entry)
        if len(content) > self.limit // 2:
            log.info(
                "an answer of %d bytes is too large for the cache: %s", len(content), entry.head.get("what")
            )
            return False
        path = self._path(key)
        part = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
        try:
            self._make_folders(path.parent)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            self._complain("write", error)
            return False
        self._make_room(len(content))
        return True

    def remove(self, key: str) -> None:
        """Drop an entry."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def _make_folders(self, folder: Path) -> None:
        if not folder.is_dir():
            self.place.mkdir(parents=True, exist_ok=True, mode=0o700)
            for made in (self.folder, folder):
                made.mkdir(exist_ok=True, mode=0o700)
        self._check_owner()

    def _check_owner(self) -> None:
        """See once that the folder is the user's own and closed to others: answers may be private, and are believed.

        Raises
        ------
        PermissionError
            If it belongs to someone else.
        FileNotFoundError
            If there is none yet.
        """
        if self._checked:
            return
        found = self.folder.stat()
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            raise PermissionError(f"{self.folder} belongs to another user; choose a cache folder of your own")
        if stat.S_IMODE(found.st_mode) & 0o077:
            self.folder.chmod(0o700)
        self._checked = True

    def _complain(self, what: str, error: OSError) -> None:
        level = logging.DEBUG if self._complained else logging.WARNING
        self._complained = True
        log.log(
            level, "the cache in %s cannot be used (%s: %s); going on without it", self.folder, what, error
        )

    # -- looking after it

    def listing(self) -> Iterator[Listed]:
        """List the entries, in no order."""
        for path, found in self._files():
            if _NAME.match(path.name):
                yield Listed(path.parent.name + path.name, path, found.st_size, found.st_mtime)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in _entries(self.folder):
            if folder.is_dir(follow_symlinks=False):
                for entry in _entries(folder):
                    with contextlib.suppress(OSError):  # another process may have removed it
                        if entry.is_file(follow_symlinks=False):
                            yield Path(entry.path), entry.stat(follow_symlinks=False)

    def _make_room(self, added: int) -> None:
        with self._lock:
            # the first write of a process looks at the folder, later ones only when enough has come since
            if self._written is not None:
                self._written += added
                if self._written < self.limit // 20:
                    return
            self._written = 0
        self.sweep()

    def sweep(self) -> int:
        """Remove what dead processes left, and the entries unused for longest while there are too many bytes."""
        now = time.time()
        for path, found in self._files():
            if path.name.endswith(".part") and now - found.st_mtime > _STALE_PART:
                with contextlib.suppress(OSError):
                    path.unlink()
        listed = sorted(self.listing(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in listed)
        if total <= self.limit * _FULL:
            return 0
        removed = 0
        for entry in listed:
            if total <= self.limit * _AFTER:
                break
            with contextlib.suppress(OSError):
                entry.path.unlink()
                removed += 1
            total -= entry.size
        log.info("the cache was full: %d answers were removed", removed)
        return removed

    def verify(self) -> list[Path]:
        """Read every entry, remove the damaged ones, and give their paths."""
        damaged = []
        for listed in self.listing():
            try:
                unpack(listed.path.read_bytes())
            except FileNotFoundError:
                continue
            except (DamagedEntryError, OSError):
                damaged.append(listed.path)
                with contextlib.suppress(OSError):
                    listed.path.unlink()
        return damaged

    def clear(self, *, older_than: float | None = None) -> int:
        """Remove all entries, or those not used for some seconds; gives their number."""
        now, removed = time.time(), 0
        for path, found in list(self._files()):
            if older_than is None or now - found.st_mtime > older_than:
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += not path.name.endswith(".part")
        return removed


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
