"""The folder of a bulk job: results, one record a batch that is done, and the manifest that says which job it is.

A record is written after the results that it speaks of, and every file is there completely or not at all. So a batch
is done if and only if its record exists, and a job can be killed at any moment. The names of all files follow from the
job, so that a batch that is done again overwrites what was left of it.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from cortexclient.errors import CortexError, JobError, OutputError
from cortexclient.files import write_bytes
from cortexclient.ids import in_batches
from cortexclient.session import be_patient_with
from cortexclient.settings import expanded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cortexclient.types import PathLike

__all__ = ["MANIFEST", "Folder", "Manifest", "Record", "read_records"]

MANIFEST = "_job.json"


@dataclass(frozen=True)
class Folder:
    """A local folder, made when its first file is, or one of a bucket; `uri` is its absolute path or address."""

    uri: str

    @classmethod
    def at(cls, path: PathLike) -> Folder:
        """Choose how a path is written; raises `OutputError` if it is empty or of an unknown kind."""
        text = str(path).strip()
        scheme, separator, _ = text.partition("://")
        if not text:
            raise OutputError("out is empty; give a folder or a bucket such as 'gs://bucket/skeletons/'")
        if not separator or scheme == "file":
            local = unquote(urlsplit(text).path) if separator else text
            return cls(str(expanded(local).resolve()))
        if scheme not in {"gs", "s3", "mem"}:
            raise OutputError(f"no way to write to {text!r}: use a folder, gs:// or s3://")
        return cls(text.rstrip("/"))

    def _bucket(self) -> Any:
        """Return the bucket; None for a local folder, whose files are read and written directly."""
        if "://" not in self.uri:
            return None
        import cloudfiles

        be_patient_with([self.uri])
        return cloudfiles.CloudFiles(self.uri, progress=False)

    @contextlib.contextmanager
    def _as_ours(self, doing: str) -> Iterator[None]:
        """Raise every failure inside the block as an `OutputError`: each kind of bucket has errors of its own."""
        try:
            yield
        except CortexError:
            raise
        except Exception as error:
            raise OutputError(f"cannot {doing} {self.uri}: {' '.join(str(error).split())}") from error

    def names(self) -> list[str]:
        """Return the names of the files; none where the folder does not exist."""
        with self._as_ours("list the files in"):
            if (bucket := self._bucket()) is not None:
                return [str(name) for name in bucket.list(flat=True)]
            path = Path(self.uri)
            return [file.name for file in path.iterdir() if file.is_file()] if path.exists() else []

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of those of the files that exist."""
        with self._as_ours("read files in"):
            if (bucket := self._bucket()) is not None:
                found = bucket.get(list(names), return_dict=True)
                return {name: bytes(content) for name, content in found.items() if content is not None}
            paths = {name: Path(self.uri) / name for name in names}
            return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}

    def write(self, name: str, content: bytes) -> None:
        """Write a file; nobody ever sees a part of it."""
        with self._as_ours("write files in"):
            if (bucket := self._bucket()) is not None:
                bucket.put(name, content, compress=None, cache_control="no-cache")
            else:
                Path(self.uri).mkdir(parents=True, exist_ok=True)
                write_bytes(Path(self.uri) / name, content)

    def delete(self, names: Iterable[str]) -> None:
        """Delete those of the files that exist."""
        with self._as_ours("delete files in"):
            if (bucket := self._bucket()) is not None:
                bucket.delete(list(names))
            for name in () if bucket is not None else names:
                (Path(self.uri) / name).unlink(missing_ok=True)


@dataclass
class Manifest:
    """What a job is: written when it starts, compared when it is resumed.

    `version` is None for a moment that is no version; `ids_sha256` is the hash of the root ids in their order. Batch
    ``n`` holds `batch_size` neurons from ``n * batch_size``; `retries` are further batches, of neurons that failed.
    """

    kind: str
    options: dict[str, Any]
    dataset: str
    datastack: str
    fingerprint: str
    version: int | None
    timestamp: str | None
    ids: int
    ids_sha256: str
    batch_size: int
    retries: list[list[int]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Folder) -> Manifest | None:
        """Read the manifest of a folder, None where it is empty; raises `JobError` if it holds anything but a job."""
        content = folder.read([MANIFEST]).get(MANIFEST)
        if content is not None:
            try:
                return cls(**json.loads(content))
            except (ValueError, TypeError) as error:
                raise JobError(
                    f"{folder.uri}/{MANIFEST} is not the manifest of a bulk job: {error}"
                ) from None
        others = [name for name in folder.names() if not name.startswith(".")]
        if others:
            raise JobError(
                f"{folder.uri} holds {others[0]!r} and no bulk job; choose an empty folder, since files of the same "
                "names would be overwritten"
            )
        return None

    def write(self, folder: Folder) -> None:
        """Write the manifest."""
        folder.write(MANIFEST, json.dumps(asdict(self), indent=1).encode())

    def require_same(self, other: Manifest, folder: Folder) -> None:
        """Check that another job, which is about to start, is this one; raises `JobError` with what differs."""
        names = ("kind", "options", "dataset", "fingerprint", "version", "timestamp", "ids", "ids_sha256")
        for name in names:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine == theirs:
                continue
            reasons = {
                "fingerprint": f"the spec of {self.dataset!r} has changed since it began",
                "ids": f"it has {mine} neurons, not {theirs}",
                "ids_sha256": "its root ids, or their order, are others",
            }
            pairs = [(name, mine, theirs)]
            if name == "options":
                pairs = [(key, mine.get(key), theirs.get(key)) for key in sorted({*mine, *theirs})]
            others = ", ".join(f"its {key} is {one!r}, not {two!r}" for key, one, two in pairs if one != two)
            differs = reasons.get(name, others)
            raise JobError(
                f"{folder.uri} holds another job, which cannot be resumed as this one: {differs}; choose another "
                "folder for this job"
            )

    def batches(self, ids: list[int]) -> list[list[int]]:
        """Return the neurons of every batch by its number: the ids in their order, then those tried again.

        Without ids it is one batch without neurons, so that the results have their columns.
        """
        return [*(in_batches(ids, self.batch_size) or [[]]), *self.retries]


@dataclass
class Record:
    """What came of a batch: `done` root ids, `failures` (root id -> error, message), file and number of rows."""

    batch: int
    done: list[int]
    failures: dict[int, list[str]]
    part: str | None = None
    rows: int | None = None

    @staticmethod
    def name_of(number: int) -> str:
        """Return the name of the file of a batch's record."""
        return f"_batch-{number:05d}.json"

    def write(self, folder: Folder) -> None:
        """Write the record, which makes the batch done."""
        folder.write(self.name_of(self.batch), json.dumps(asdict(self)).encode())


def read_records(folder: Folder, numbers: Iterable[int]) -> dict[int, Record]:
    """Read the records of batches that are done, in order; raises `JobError` if one cannot be read."""
    names = {Record.name_of(number): number for number in numbers}
    found = {}
    for name, content in folder.read(names).items():
        try:
            fields = json.loads(content)
            fields["failures"] = {int(root): reason for root, reason in fields["failures"].items()}
            found[names[name]] = Record(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise JobError(
                f"{folder.uri}/{name} is damaged ({error}); delete it, and the batch is done again"
            ) from None
    return dict(sorted(found.items()))
