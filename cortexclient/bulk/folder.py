"""The folder of a bulk job: results, one record a batch that is done, and the manifest that says which job it is.

A record is written after the results that it speaks of, and every file is there completely or not at all. So a batch
is done if and only if its record exists, and a job can be killed at any moment. The names of all files follow from the
job, so that a batch that is done again overwrites what was left of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from cortexclient.errors import JobError, OutputError
from cortexclient.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cortexclient.types import PathLike

__all__ = ["MANIFEST", "Folder", "Manifest", "Record", "open_folder", "read_records"]

MANIFEST = "_job.json"


class Folder(Protocol):
    """A place for files; it can be pickled."""

    @property
    def uri(self) -> str:
        """Absolute path, or address."""
        ...

    def names(self) -> list[str]:
        """Names of the files in it; none where it does not exist."""
        ...

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of those of the files that exist."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file; it is never seen half."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Delete those of the files that exist."""
        ...


def open_folder(path: PathLike) -> Folder:
    """Choose how a path is written; a local folder is made when the first file is.

    Raises
    ------
    OutputError
        If the path is empty or of an unknown kind.
    """
    text = str(path).strip()
    scheme, separator, _ = text.partition("://")
    if not text:
        raise OutputError("out is empty; give a folder or a bucket such as 'gs://bucket/skeletons/'")
    if not separator or scheme == "file":
        local = unquote(urlsplit(text).path) if separator else text
        return LocalFolder(str(Path(local).expanduser().resolve()))
    if scheme not in {"gs", "s3", "mem"}:
        raise OutputError(f"no way to write to {text!r}: use a folder, gs:// or s3://")
    return Bucket(text.rstrip("/"))


@dataclass(frozen=True)
class LocalFolder:
    """A local folder, or one that all workers have mounted."""

    uri: str

    def names(self) -> list[str]:
        """Names of the files in it."""
        path = Path(self.uri)
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file; a bulk job writes into a folder")
        return [file.name for file in path.iterdir() if file.is_file()] if path.is_dir() else []

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of those of the files that exist."""
        found = {}
        for name in names:
            try:
                found[name] = (Path(self.uri) / name).read_bytes()
            except FileNotFoundError:
                continue
        return found

    def write(self, name: str, content: bytes) -> None:
        """Write a file beside, and rename it."""
        try:
            Path(self.uri).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.uri!r}: {error.strerror or error}") from error
        write_bytes(Path(self.uri) / name, content)

    def delete(self, names: Iterable[str]) -> None:
        """Delete those of the files that exist."""
        for name in names:
            (Path(self.uri) / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Bucket:
    """A bucket, by cloud-files; objects of a bucket are replaced at once."""

    uri: str

    def _files(self) -> Any:
        import cloudfiles

        return cloudfiles.CloudFiles(self.uri, progress=False)

    def names(self) -> list[str]:
        """Names of the files in it."""
        return [str(name) for name in self._files().list(flat=True)]

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of those of the files that exist, fetched concurrently."""
        found = self._files().get(list(names), return_dict=True)
        return {name: bytes(content) for name, content in found.items() if content is not None}

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        try:
            self._files().put(name, content, compress=None, cache_control="no-cache")
        except Exception as error:  # every client of a bucket has errors of its own
            raise OutputError(f"cannot write {self.uri}/{name}: {error}") from error

    def delete(self, names: Iterable[str]) -> None:
        """Delete those of the files that exist."""
        self._files().delete(list(names))


# -- the manifest ------------------------------------------------------------------------------------------------------


@dataclass
class Manifest:
    """What a job is: written when it starts, compared when it is resumed.

    Attributes
    ----------
    kind, options
        What is fetched, and how.
    dataset, datastack, fingerprint
        The dataset, and the fingerprint of its spec.
    version, timestamp
        The moment of all results; ``version`` is None for a moment that is no version.
    ids, ids_sha256
        Number of neurons, and the hash of their ids in their order.
    batch_size : int
        Neurons in a batch: batch ``n`` holds those from ``n * batch_size``.
    retries : list of list of int
        Neurons that failed and were tried again, in further batches.
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
        """Read the manifest of a folder; None where it has none.

        Raises
        ------
        JobError
            If the folder holds something else than a job.
        """
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
        """Check that another job, which is about to start, is this one.

        Raises
        ------
        JobError
            If it is not; the message says what differs.
        """
        names = ("kind", "options", "dataset", "fingerprint", "version", "timestamp", "ids", "ids_sha256")
        for name in names:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine == theirs:
                continue
            if name == "fingerprint":
                differs = f"the spec of {self.dataset!r} has changed since it began"
            elif name == "ids":
                differs = f"it has {mine} neurons, not {theirs}"
            elif name == "ids_sha256":
                differs = "its root ids, or their order, are others"
            elif name == "options":
                wrong = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
                differs = ", ".join(
                    f"its {key} is {mine.get(key)!r}, not {theirs.get(key)!r}" for key in wrong
                )
            else:
                differs = f"its {name} is {mine!r}, not {theirs!r}"
            raise JobError(
                f"{folder.uri} holds another job, which cannot be resumed as this one: {differs}; choose another "
                "folder for this job"
            )

    def batches(self, ids: list[int]) -> list[list[int]]:
        """Return the neurons of every batch by its number: the ids in their order, then those tried again."""
        size = self.batch_size
        return [ids[start : start + size] for start in range(0, len(ids), size)] + self.retries


# -- records of batches ------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """What came of a batch.

    Attributes
    ----------
    batch : int
        Its number.
    done : list of int
        Neurons whose results are written.
    failures : dict
        Root id -> name of the error and its message.
    part : str or None
        The file of its rows.
    rows : int or None
        How many there are.
    """

    batch: int
    done: list[int]
    failures: dict[int, list[str]]
    part: str | None = None
    rows: int | None = None

    @staticmethod
    def name_of(number: int) -> str:
        """Return the name of the file of a batch's record."""
        return f"_batch-{number:05d}.json"

    @classmethod
    def read(cls, folder: Folder, number: int) -> Record | None:
        """Read the record of a batch; None where it is not done."""
        return read_records(folder, [number]).get(number)

    def write(self, folder: Folder) -> None:
        """Write the record, which makes the batch done."""
        folder.write(self.name_of(self.batch), json.dumps(asdict(self)).encode())


def read_records(folder: Folder, numbers: Iterable[int]) -> dict[int, Record]:
    """Read the records of batches that are done, in order.

    Raises
    ------
    JobError
        If a record cannot be read.
    """
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
