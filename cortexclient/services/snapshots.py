"""Snapshots: an analysis as one file, with the responses that it used, the dataset's spec and the moment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cortexclient.errors import CortexError, IncompleteResultError
from cortexclient.services import BaseService
from cortexclient.session import SnapshotStore
from cortexclient.settings import expanded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cortexclient.session import AnswerCache, CacheEntry
    from cortexclient.spec import DatasetSpec
    from cortexclient.types import PathLike

__all__ = ["SnapshotManifest", "SnapshotsService", "is_snapshot", "read_manifest"]

FORMAT = 2
_MOST_BYTES = 10_000_000
"""Largest manifest: a spec is some kilobytes."""


@dataclass(frozen=True)
class SnapshotManifest:
    """Description of a snapshot: the dataset, the server that responded, and the moment."""

    spec: DatasetSpec
    server: str
    version: int | None
    timestamp: str | None


class SnapshotsService(BaseService):
    """Methods about snapshots."""

    def save_snapshot(self, path: PathLike) -> Path:
        """Save the responses that this client has used so far, so that the analysis can be run again from one file.

        ``cortexclient.load(path)`` opens it: a client at the same moment that reads the file alone, without
        network and without a token. The file is a zip of JSON and raw responses; it holds no token and nothing is
        executed when it is opened. It may hold data that not everyone may see: it is made readable by you alone.

        Parameters
        ----------
        path : str or pathlib.Path
            File to write, such as ``"figure-2.zip"``. One that is there already is replaced.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        ValueError
            The client has no cache (``load(..., cache=True)`` has), or the name has no ending.
        IncompleteResultError
            Responses that were used are no longer in the cache.
        OutputError
            The file cannot be written; an old one is unchanged.

        Examples
        --------
        >>> client = cortexclient.load("sandbox", version=3, cache="kept")
        >>> cells = client.tables.nucleus_detection().query()
        >>> client.save_snapshot("cells.zip")
        PosixPath('cells.zip')
        """
        file = expanded(path)
        if file.suffix in {"", ".yaml", ".yml"}:
            raise ValueError(
                f"a snapshot's name ends in .zip, so that load() knows it from a dataset, not {file.name!r}"
            )
        cache = self._session.connection.cache
        if cache is None:
            raise ValueError(
                "a snapshot is made of cached responses, and this client has no cache: load(..., cache=True) or a "
                "folder, run the analysis, then save it"
            )
        SnapshotStore.save(file, self._manifest(cache), _used_entries(cache))
        return file

    def _manifest(self, cache: AnswerCache) -> dict[str, Any]:
        from importlib.metadata import version

        session, moment = self._session, self._session.moment
        return {
            "format": FORMAT,
            "cortexclient": version("cortexclient"),
            "server": cache.origin.server,
            "spec": session.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
            "moment": {
                "version": moment.version,
                "timestamp": None if moment.timestamp is None else moment.timestamp.isoformat(),
            },
            "answers": len(cache.used),
        }


def _used_entries(cache: AnswerCache) -> Iterator[CacheEntry]:
    lost = 0
    for identity in list(cache.used.values()):
        entry = cache.store.read(identity)
        if entry is None:
            lost += 1
        else:
            yield entry
    if lost:
        raise IncompleteResultError(
            f"{lost} of the {len(cache.used)} responses of this analysis are no longer in the cache, because others "
            "needed the room; raise CORTEXCLIENT_CACHE_GB, run it again, and save it then"
        )


def is_snapshot(path: object) -> bool:
    """Return whether a path names a zip file; looks at nothing where the name cannot be one."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        return False
    file = expanded(path)
    try:
        if file.suffix in {"", ".yaml", ".yml"} or not file.is_file():
            return False
        with file.open("rb") as content:
            return content.read(2) == b"PK" or file.suffix == ".zip"
    except (OSError, ValueError):
        return False  # a name that no file can have


def read_manifest(path: Path) -> SnapshotManifest:
    """Read the manifest of a snapshot, of this version's format."""
    from cortexclient.session import bare_address
    from cortexclient.spec import DatasetSpec

    store = SnapshotStore(path)
    content = store.member(store.manifest_name, _MOST_BYTES)
    if content is None:
        raise store.damaged(f"it has no {store.manifest_name}")
    try:
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise CortexError(
                f"the snapshot {path} was saved by another version of cortexclient (format {found['format']!r}, not "
                f"{FORMAT}); save it again with this one, or open it with that one"
            )
        version, timestamp = found["moment"]["version"], found["moment"]["timestamp"]
        if version is not None and (type(version) is not int or version < 0 or timestamp is not None):
            raise ValueError(f"no version: {version!r}")
        if timestamp is not None and datetime.fromisoformat(timestamp).tzinfo is None:
            raise ValueError(f"a time without a zone: {timestamp!r}")
        return SnapshotManifest(
            DatasetSpec(**found["spec"]), bare_address(found["server"]), version, timestamp
        )
    except CortexError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise store.damaged(f"its description cannot be read: {type(error).__name__}: {reason}") from error
