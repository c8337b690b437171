"""A snapshot: the entries that an analysis used, as one file that can be given away and is read by anybody."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from cortexclient.errors import CortexError
from cortexclient.files import replacing
from cortexclient.forking import ForkSafeLock
from cortexclient.session.cache.store import COMPRESS_FROM, MOST_BYTES, DamagedEntryError, Entry, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cortexclient.session.cache.store import Check

__all__ = ["SnapshotStore"]

_MEMBER = re.compile(r"answers/([0-9a-f]{64})\Z")
_ZIP_ERRORS = (
    OSError,
    EOFError,
    ValueError,  # of a part that is no JSON, too
    LookupError,
    RuntimeError,  # encrypted
    NotImplementedError,  # an unknown compression
    RecursionError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)


class SnapshotStore:
    """The entries of a snapshot file, which may be somebody else's; read only.

    The file is a zip with ``snapshot.json``, which describes it, and one entry per member of ``answers``. ``open_file``
    opens it, where it does not lie at ``path``.
    """

    manifest_name = "snapshot.json"

    def __init__(self, path: str | Path, open_file: Callable[[], Any] | None = None) -> None:
        self.path = path
        self._open = open_file or (lambda: path)
        self._lock = ForkSafeLock()
        self._archive: tuple[int, zipfile.ZipFile] | None = None

    def member(self, name: str, most: int = MOST_BYTES) -> bytes | None:
        """Read one part of the file; None where there is none.

        Raise `CortexError` if the file is damaged, or the part is larger than ``most`` bytes.
        """
        try:
            with self._lock:
                # a forked child must not share the parent's place in the file
                if self._archive is None or self._archive[0] != os.getpid():
                    self._archive = (os.getpid(), zipfile.ZipFile(self._open()))
                archive = self._archive[1]
                if name not in archive.NameToInfo:
                    return None
                with archive.open(name) as file:
                    content = file.read(most + 1)  # whatever size the file claims
        except _ZIP_ERRORS as error:
            raise self.damaged(str(error) or type(error).__name__) from error
        if len(content) > most:
            raise self.damaged(f"{name} is larger than {most} bytes")
        return content

    def damaged(self, reason: str) -> CortexError:
        """Raise that the file cannot be used: what it lacks cannot be requested again."""
        return CortexError(
            f"the snapshot {self.path} is damaged or incomplete ({reason}); get another copy of it"
        )

    def read(self, identity: list[str], check: Check = lambda _: True) -> Entry | None:
        """Return the entry of a request; None where there is none.

        Raise `CortexError` if the file is damaged, or ``check`` refuses the entry.
        """
        key = key_of(identity)
        content = self.member(f"answers/{key}")
        if content is None:
            return None
        try:
            entry = Entry.from_bytes(content, key)
        except DamagedEntryError as error:
            raise self.damaged(str(error)) from error
        if not check(entry):
            raise self.damaged(f"{entry.head.get('what')} cannot be parsed")
        return entry

    def entries(self) -> Iterator[Entry]:
        """Read all entries; raise `CortexError` if the file is damaged."""
        self.member(self.manifest_name)
        names = [] if self._archive is None else self._archive[1].namelist()
        for match in filter(None, map(_MEMBER.match, names)):
            content = self.member(match.string)
            try:
                yield Entry.from_bytes(content or b"", match[1])
            except DamagedEntryError as error:
                raise self.damaged(str(error)) from error

    def write(self, entry: Entry) -> bool:  # noqa: ARG002 - the interface of a store
        """Store nothing: a snapshot stays as it is."""
        return False

    def remove(self, identity: list[str]) -> None:
        """Remove nothing."""

    @classmethod
    def save(cls, path: Path, manifest: dict[str, Any], entries: Iterable[Entry]) -> None:
        """Write a snapshot, readable by the user alone: others may be shown it on purpose, not by accident.

        Raise `OutputError` if the file cannot be written; an old one is unchanged.
        """
        with replacing(path, private=True) as part, zipfile.ZipFile(part, "w") as archive:
            text = json.dumps(manifest, indent=1)
            archive.writestr(cls.manifest_name, text, zipfile.ZIP_DEFLATED)
            for entry in entries:
                content = entry.to_bytes()
                small = len(content) < COMPRESS_FROM
                archive.writestr(
                    f"answers/{entry.key}", content, zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED
                )
