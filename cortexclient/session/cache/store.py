"""Entries on disk, in a folder that is shared by processes; a snapshot (`snapshots`) holds the same in one file.

What was looked at before this was written (November 2026), for a cache of responses that is private, shared by
processes, bounded, and never wrong: *requests-cache* 1.3 pickles by default and bounds only its file backend;
*hishel* 2.0 and *CacheControl* 0.14 decide by headers that CAVE does not send, and nearly all that is worth caching
here are responses to POST; *diskcache* 5.6 pickles and has had no release since 2023; *sqlite3* in WAL mode is unsafe
on the network drives that home folders of clusters are. None knows which responses of CAVE are final (`rules`).

So an entry is one file, written to a part file and renamed: folders 0700, files 0600, a checksum over all of it, JSON
and raw bytes, nothing is unpickled or executed. No locks between processes: two that write the same entry write the
same file, and one that dies leaves a part file that nobody reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.errors import CortexError
from cortexclient.forking import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Check = Callable[["Entry"], bool]

__all__ = [
    "COMPRESS_FROM",
    "MOST_BYTES",
    "DamagedEntryError",
    "Entry",
    "FolderStore",
    "Listed",
    "digest",
    "key_of",
    "now_text",
]

log = logging.getLogger(__name__)

_MAGIC = b"cortexclient-answer 2 "
COMPRESS_FROM = 32_768
MOST_BYTES = 1 << 31
"""Largest entry that is read: a file of a stranger may claim any size."""

_FOLDER, _NAME = re.compile(r"[0-9a-f]{2}\Z"), re.compile(r"[0-9a-f]{62}(\.parquet)?\Z")
_PART = re.compile(r"[0-9a-f]{62}\.\d+\.[0-9a-f]{8}\.part\Z")
_STALE_PART = 3600.0
_TOUCH_AFTER = 60.0
_FULL, _AFTER = 1.0, 0.9


def digest(text: bytes) -> str:
    """Return the SHA-256 of some bytes: 64 hexadecimal digits."""
    return hashlib.sha256(text).hexdigest()


def now_text() -> str:
    """Return the time as entries note it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class DamagedEntryError(ValueError):
    """Bytes that are not a complete entry, or not the one that they should be."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached response: its body, not compressed, and a head that never holds a token.

    The head is JSON: ``request`` (its identity, a list of texts), ``what`` (in words), ``valid`` (``"forever"`` or
    ``"as-of"``), ``stored`` (when), and for responses ``status`` and ``headers``.
    """

    head: dict[str, Any]
    body: bytes

    @property
    def key(self) -> str:
        """Name of its file: made of the request, so that an entry under another's name is noticed."""
        return key_of(self.head["request"])

    @property
    def final(self) -> bool:
        """Whether it can never change."""
        return bool(self.head.get("valid") == "forever")

    @property
    def status(self) -> int:
        """HTTP status."""
        return int(self.head.get("status", 200))

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to the response."""
        return dict(self.head.get("headers", {}))

    def to_bytes(self) -> bytes:
        """Write the entry: a line with a checksum of the rest, a line of JSON, the body."""
        codec, body = _compress(self.body)
        head = {**self.head, "size": len(self.body), "codec": codec}
        rest = json.dumps(head, sort_keys=True).encode() + b"\n" + body
        return _MAGIC + digest(rest).encode() + b"\n" + rest

    @classmethod
    def from_bytes(cls, content: bytes, key: str | None = None) -> Entry:
        """Read what `to_bytes` wrote, under the name that it has.

        Raise `DamagedEntryError` if any byte of it is not what was written, or it answers another request.
        """
        line, _, rest = content.partition(b"\n")
        if not line.startswith(_MAGIC) or digest(rest).encode() != line[len(_MAGIC) :]:
            raise DamagedEntryError("its checksum is wrong")
        text, _, body = rest.partition(b"\n")
        try:
            head = json.loads(text)
            if not _is_head(head):
                raise DamagedEntryError("its head has another shape")
            entry = cls(head, _decompress(head.pop("codec"), body, head.pop("size")))
        except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
            reason = str(error) if isinstance(error, DamagedEntryError) else type(error).__name__
            raise DamagedEntryError(f"it cannot be read ({reason})") from error
        if key is not None and entry.key != key:
            raise DamagedEntryError("it answers another request")
        return entry


def key_of(identity: list[str]) -> str:
    """Name the file of a request."""
    return digest(json.dumps(identity).encode())


def _is_head(head: Any) -> bool:
    if not isinstance(head, dict):
        return False
    request, headers, size = head.get("request"), head.get("headers", {}), head.get("size")
    return (
        isinstance(request, list)
        and all(isinstance(part, str) for part in request)
        and isinstance(headers, dict)
        and all(isinstance(text, str) for text in headers.values())
        and head.get("status", 200) in {200, 404}
        and isinstance(size, int)
        and 0 <= size <= MOST_BYTES
    )


def _compress(body: bytes) -> tuple[str | None, bytes]:
    if len(body) < COMPRESS_FROM or body[:2] == b"\x1f\x8b" or body[:5] == b"DRACO":
        return None, body  # too small to matter, or compressed already
    import pyarrow as pa

    compressed: bytes = pa.compress(body, codec="zstd", asbytes=True)
    return ("zstd", compressed) if len(compressed) < 0.9 * len(body) else (None, body)


def _decompress(codec: str | None, body: bytes, size: int) -> bytes:
    if codec is None:
        if len(body) != size:
            raise DamagedEntryError("it has the wrong length")
        return body
    if codec != "zstd":
        raise DamagedEntryError(f"it is compressed by an unknown method {codec!r}")
    import pyarrow as pa

    try:
        content: bytes = pa.decompress(body, decompressed_size=size, codec=codec, asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedEntryError(f"it cannot be decompressed ({error})") from error
    return content


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the folder: an entry, or a part file."""

    path: Path
    size: int
    used: float

    @property
    def key(self) -> str:
        """Key of the entry."""
        return self.path.parent.name + self.path.name


class FolderStore:
    """Entries by key, one file each; private, bounded in size, complete after any crash.

    They lie in ``answers`` below a folder of the user's, which is made when the first one is written, and take at most
    ``limit`` bytes together: the ones that were not used for longest go first.
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

    def read(self, identity: list[str], check: Check = lambda _: True) -> Entry | None:
        """Return the entry of a request; None where there is none.

        A damaged one, or one that ``check`` refuses, is removed, so that the request is sent again.
        """
        key = key_of(identity)
        path = self._path(key)
        try:
            self._check_owner()
            entry = Entry.from_bytes(_read_own_file(path), key)
            if not check(entry):
                raise DamagedEntryError("its body cannot be parsed")
        except FileNotFoundError:
            return None
        except DamagedEntryError as error:
            log.warning("a cached response is damaged and is requested again: %s: %s", path, error)
            _remove(path)
            return None
        except OSError as error:
            self._complain("read", error)
            return None
        with contextlib.suppress(OSError):
            # when it was used last decides what goes first; once a minute is exact enough
            if time.time() - path.stat().st_mtime > _TOUCH_AFTER:
                os.utime(path)
        return entry

    def write(self, entry: Entry) -> bool:
        """Store an entry. A full or broken disk costs the entry and a warning, not the user's work."""
        content = entry.to_bytes()
        if len(content) > self.limit // 2:
            log.info(
                "a response of %d bytes is too large for the cache: %s", len(content), entry.head.get("what")
            )
            return False
        path = self._path(entry.key)
        part = _part_of(path)
        try:
            self._make_folders(path.parent)
            part.touch(0o600, exist_ok=False)
            part.write_bytes(content)
            if path.is_dir():
                _remove(path)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            self._complain("write", error)
            return False
        self._make_room(len(content))
        return True

    def remove(self, identity: list[str]) -> None:
        """Remove the entry of a request, and its table if it has one."""
        path = self._path(key_of(identity))
        _remove(path)
        _remove(path.with_suffix(".parquet"))

    # -- tables, too large for an entry: a Parquet file beside one that says how it ends and how large it is

    def read_table(self, identity: list[str]) -> Path | None:
        """Return the Parquet file of a request; None where there is none. A damaged one is removed."""
        path = self._path(key_of(identity)).with_suffix(".parquet")
        entry = self.read(identity, lambda found: found.body == _end_of(path))
        if entry is None:
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def write_table(self, head: dict[str, Any], write: Callable[[Path], None]) -> Path | None:
        """Write a Parquet file and store it; None where that is not possible, as for `write`."""
        path = self._path(key_of(head["request"])).with_suffix(".parquet")
        part = _part_of(path.with_suffix(""))
        try:
            self._make_folders(path.parent)
            part.touch(0o600, exist_ok=False)
            write(part)
            if part.stat().st_size > self.limit // 2:
                log.info(
                    "a table of %d bytes is too large for the cache: %s",
                    part.stat().st_size,
                    head.get("what"),
                )
                return None
            body = _end_of(part)
            part.replace(path)
        except CortexError:
            raise
        except OSError as error:
            self._complain("write", error)
            return None
        finally:
            _remove(part)
        self._make_room(path.stat().st_size)
        return path if self.write(Entry(head, body)) else None

    def _make_folders(self, folder: Path) -> None:
        if not folder.is_dir():
            self.place.mkdir(parents=True, exist_ok=True, mode=0o700)
            for made in (self.folder, folder):
                made.mkdir(exist_ok=True, mode=0o700)
        self._check_owner()

    def _check_owner(self) -> None:
        """Check once that the folder is the user's own and closed to others: responses may be private, and are trusted.

        Raise `PermissionError` if it belongs to someone else, or is a link, which someone else could have made, and
        `FileNotFoundError` if there is none yet.
        """
        if self._checked:
            return
        found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise PermissionError(f"{self.folder} is no folder, or a link to one; remove it")
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
        return (file for file in self._files() if _NAME.match(file.path.name))

    def _files(self) -> Iterator[Listed]:
        """List our own files: entries and part files in folders of two digits; nothing else that lies there."""
        for folder in _scan(self.folder):
            if folder.is_dir(follow_symlinks=False) and _FOLDER.match(folder.name):
                for file in _scan(folder):
                    if _NAME.match(file.name) or _PART.match(file.name):
                        with contextlib.suppress(OSError):  # another process may have removed it
                            found = file.stat(follow_symlinks=False)
                            yield Listed(Path(file.path), found.st_size, found.st_mtime)

    def _make_room(self, added: int) -> None:
        with self._lock:
            # the first write of a process looks at the folder, later ones only after enough was written
            if self._written is not None:
                self._written += added
                if self._written < self.limit // 20:
                    return
            self._written = 0
        self.sweep()

    def sweep(self) -> int:
        """Remove what dead processes left, and the entries unused for longest while there are too many bytes."""
        now = time.time()
        listed = []
        for file in self._files():
            if _NAME.match(file.path.name):
                listed.append(file)
            elif now - file.used > _STALE_PART:
                _remove(file.path)
        total = sum(file.size for file in listed)
        if total <= self.limit * _FULL:
            return 0
        removed = 0
        for file in sorted(listed, key=lambda file: file.used):
            if total <= self.limit * _AFTER:
                break
            removed += _remove(file.path)
            total -= file.size
        log.info("the cache was full: %d entries were removed", removed)
        return removed

    def heads(self) -> Iterator[tuple[Listed, dict[str, Any] | None]]:
        """Read the head of every entry; None for a damaged one."""
        for file in self.listing():
            try:
                if file.path.suffix:
                    described = _read_own_file(file.path.with_suffix(""))
                    entry = Entry.from_bytes(described, file.key.removesuffix(".parquet"))
                    yield file, entry.head if _is_sound_table(file.path, entry) else None
                    continue
                yield file, Entry.from_bytes(_read_own_file(file.path), file.key).head
            except FileNotFoundError:
                continue
            except (DamagedEntryError, OSError):
                yield file, None

    def verify(self) -> list[Path]:
        """Read every entry, remove the damaged ones, and return their paths."""
        damaged = [file.path for file, head in self.heads() if head is None]
        for path in damaged:
            _remove(path)
        return damaged

    def clear(self, *, older_than: float | None = None) -> int:
        """Remove all entries, or those not used for some seconds; returns their number."""
        now, removed = time.time(), 0
        for file in list(self._files()):
            if older_than is None or now - file.used > older_than:
                gone = _remove(file.path)
                removed += gone and _NAME.match(file.path.name) is not None
        return removed


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")


def _end_of(path: Path) -> bytes:
    """Describe a Parquet file: its size and the checksum of its footer; pages have checksums of their own."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            length = int.from_bytes(file.read(4), "little")
            file.seek(max(0, size - 8 - length))
            footer = file.read()
    except OSError:
        return b""
    return json.dumps({"size": size, "footer": digest(footer)}).encode()


def _is_sound_table(path: Path, entry: Entry) -> bool:
    import pyarrow as pa
    from pyarrow import parquet

    if entry.body != _end_of(path):
        return False
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for _ in file.iter_batches():
                pass
        return True
    except (pa.ArrowException, OSError):
        return False


def _read_own_file(path: Path) -> bytes:
    """Read a regular file of the user's, without following a link and without waiting for a pipe.

    Raise `DamagedEntryError` if it is a link, a pipe, a folder, someone else's or too large.
    """
    flags = (
        os.O_RDONLY
        | getattr(os, "O_NOFOLLOW", 0)
        | getattr(os, "O_NONBLOCK", 0)
        | getattr(os, "O_CLOEXEC", 0)
    )
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise DamagedEntryError("it is a link") from error
        raise
    try:
        found = os.fstat(handle)
        owned = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        if not stat.S_ISREG(found.st_mode) or not owned or found.st_size > MOST_BYTES:
            raise DamagedEntryError("it is no regular file of yours, or too large")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError:
        with contextlib.suppress(OSError):
            path.rmdir()  # an empty folder in an entry's place
            return True
        return False
    return True


def _scan(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


# -- snapshots
