"""The answers of one analysis as one file: a zip of JSON and raw bodies, read in place, never unpacked or executed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.errors import CortexError, IncompleteResultError
from cortexclient.forking import ForkSafeLock
from cortexclient.session.cache.entry import Entry, now_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortexclient.session.cache.memory import Memory
    from cortexclient.session.core import Session

__all__ = ["SnapshotStore", "is_snapshot", "read_manifest", "save"]

FORMAT = 1
_MANIFEST = "snapshot.json"
_MEMBER = re.compile(r"answers/([0-9a-f]{64})\.json\Z")
_ALREADY_PACKED = (b"\x1f\x8b", b"DRACO")


def is_snapshot(path: object) -> bool:
    """Whether a path names a file that `save` wrote; looks at nothing where the name cannot be one."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        return False
    file = Path(path).expanduser()
    if file.suffix in {"", ".yaml", ".yml"} or not file.is_file() or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return _MANIFEST in archive.namelist()


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what a snapshot says about itself: ``spec``, ``server``, ``moment``, ``made``, ...

    Raises
    ------
    CortexError
        If the file cannot be read, or is of a newer kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise CortexError(f"{path} is not a snapshot that can be read ({error}); save it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CortexError(f"{path} was saved by a newer version of cortexclient; update it to read this file")
    return manifest


class SnapshotStore:
    """The entries of a snapshot file; read only.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = ForkSafeLock()
        self._archive: tuple[int, zipfile.ZipFile] | None = None

    def _read(self, name: str) -> bytes:
        with self._lock:
            # a forked child must not share the parent's place in the file
            if self._archive is None or self._archive[0] != os.getpid():
                self._archive = (os.getpid(), zipfile.ZipFile(self.path))
            return self._archive[1].read(name)

    def read(self, key: str) -> Entry | None:
        """Give an entry; None where there is none.

        Raises
        ------
        CortexError
            If the file is damaged: what it lacks cannot be asked again.
        """
        try:
            head = json.loads(self._read(f"answers/{key}.json"))
            body = self._read(f"answers/{key}.body")
        except KeyError:
            return None
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise CortexError(
                f"the snapshot {self.path} is damaged ({error}); get another copy of it"
            ) from error
        if hashlib.sha256(body).hexdigest() != head.get("sha256"):
            raise CortexError(
                f"the snapshot {self.path} is damaged (a checksum is wrong); get another copy of it"
            )
        return Entry(head, body)

    def names(self) -> Iterator[str]:
        """List the keys of its entries."""
        with zipfile.ZipFile(self.path) as archive:
            for name in archive.namelist():
                found = _MEMBER.match(name)
                if found:
                    yield found.group(1)

    def write(self, key: str, entry: Entry) -> bool:  # noqa: ARG002 - the interface of a store
        """Keep nothing: a snapshot stays as it is."""
        return False

    def remove(self, key: str) -> None:
        """Drop nothing."""


def save(session: Session, path: Path) -> int:
    """Write the answers that a session has used so far into one file, readable by the user alone.

    Returns
    -------
    int
        Number of answers.

    Raises
    ------
    ValueError
        If the session has no cache.
    IncompleteResultError
        If answers that were used are in the cache no more.
    OSError
        If the file cannot be written.
    """
    memory = session.connection.cache
    if memory is None:
        raise ValueError(
            "a snapshot is made of kept answers, and this client keeps none: load(..., cache=True) or a folder, run "
            "the analysis, then save it"
        )
    keys = list(memory.touched)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    lost = 0
    try:
        # others may be shown it on purpose, not by accident
        with (
            os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive,
        ):
            archive.writestr(_MANIFEST, json.dumps(_manifest(session, memory, len(keys)), indent=1))
            for key in keys:
                entry = memory.store.read(key)
                if entry is None:
                    lost += 1
                    continue
                _add(archive, key, entry)
        if lost:
            raise IncompleteResultError(
                f"{lost} of the {len(keys)} answers of this analysis are in the cache no more, because others "
                "needed the room; raise CORTEXCLIENT_CACHE_GB, run it again, and save it then"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return len(keys)


def _add(archive: zipfile.ZipFile, key: str, entry: Entry) -> None:
    head = {name: value for name, value in entry.head.items() if name != "codec"}
    head["sha256"] = hashlib.sha256(entry.body).hexdigest()
    archive.writestr(f"answers/{key}.json", json.dumps(head, sort_keys=True))
    packed = entry.body.startswith(_ALREADY_PACKED)
    archive.writestr(
        f"answers/{key}.body", entry.body, zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
    )


def _manifest(session: Session, memory: Memory, answers: int) -> dict[str, Any]:
    from importlib.metadata import version

    moment = session.moment
    return {
        "format": FORMAT,
        "made": now_text(),
        "cortexclient": version("cortexclient"),
        "server": memory.realm.server,
        "spec": session.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "moment": {
            "version": moment.version,
            "timestamp": None if moment.timestamp is None else moment.timestamp.isoformat(),
        },
        "answers": answers,
    }
