"""Where files of tables lie: a local folder or a bucket, listed and read without guessing at file names."""

from __future__ import annotations

import io
import mmap
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from cortexclient.errors import ExportError
from cortexclient.session import be_patient_with, run_all
from cortexclient.settings import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

__all__ = ["BucketPlace", "FolderPlace", "Place", "open_place"]

_PIECE = 1 << 26
"""Bytes of one request for a large file."""
_GAP, _MOST_JOINED = 1 << 16, 1 << 23
"""Ranges this close to each other are one request, of so many bytes at most."""
_CONNECTIONS = 16
"""Requests to one place at a time."""


def open_place(path: str) -> Place:
    """Choose how a path is read; makes no request. Raises `ExportError` if the path is empty or of an unknown kind."""
    text = str(path).strip()
    scheme, separator, _ = text.partition("://")
    if not text:
        raise ExportError("the export path is empty; give a folder or bucket such as 'gs://bucket/exports/'")
    if not separator or scheme == "file":
        return FolderPlace(expanded(unquote(urlsplit(text).path) if separator else text))
    if scheme not in {"gs", "s3", "https", "http", "mem"}:
        raise ExportError(f"no way to read exports from {text!r}: use file://, gs://, s3:// or https://")
    return BucketPlace(text)


class FolderPlace:
    """A local folder; ``uri`` is its path.

    Read directly: cloud-files drops ``.gz`` from the names of local files, so that no export would be found.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def listing(self) -> dict[str, int | None]:
        """Path below the folder -> size in bytes."""
        if not self.folder.is_dir():
            raise ExportError(f"there is no folder {self.folder}; correct the export path")
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}

    def sizes(self, paths: list[str]) -> dict[str, int]:
        """Sizes in bytes."""
        return {path: (self.folder / path).stat().st_size for path in paths}

    def stamp(self, path: str) -> str:
        """Size and time of the last change."""
        found = (self.folder / path).stat()
        return f"{found.st_size} {found.st_mtime_ns}"

    def read(self, path: str) -> bytes:
        """Content of a small file as it is stored, still compressed."""
        return self._file(path).read_bytes()

    def open(self, path: str, *, progress: bool = False) -> io.BufferedReader:
        """Open a file of any size, to be read from its beginning to its end."""
        file = self._file(path).open("rb")
        if not progress:
            return file
        size = self.sizes([path])[path]
        return io.BufferedReader(
            _Stream(lambda start, end: file.read(end - start), path, size, ended=file.close)
        )

    def holding(
        self, wanted: Mapping[str, tuple[int, Iterable[tuple[int, int]]]]
    ) -> dict[str, pa.NativeFile]:
        """Open files, whose sizes must be right, to be read anywhere: path -> size, and what would have to be there."""
        for path, (size, _) in wanted.items():
            if (found := self._file(path).stat().st_size) != size:
                raise ExportError(f"{self.folder / path} has {found} bytes and not {size}")
        return {path: pa.OSFile(str(self.folder / path)) for path in wanted}

    def _file(self, path: str) -> Path:
        file = self.folder / path
        if file.exists() and not file.is_file():
            raise ExportError(f"{file} is no file")  # a pipe would be waited for
        return file


class BucketPlace:
    """A bucket or web folder, read with cloud-files: without credentials first, since most exports are public.

    ``uri`` is what delta-rs and pyarrow read, too.
    """

    def __init__(self, path: str) -> None:
        self.uri = path.rstrip("/")
        self._signed = False

    def _files(self) -> Any:
        import cloudfiles

        be_patient_with([self.uri])
        public = self.uri.startswith("gs://") and not self._signed
        return cloudfiles.CloudFiles(self.uri, progress=False, use_https=public)

    def listing(self) -> dict[str, int | None]:
        """Path below the root -> size in bytes where one listing tells it."""
        from cloudfiles.exceptions import AuthorizationError

        try:
            return self._list()
        except AuthorizationError:
            if self._signed or not self.uri.startswith("gs://"):
                raise
            self._signed = True
            return self._list()

    def _list(self) -> dict[str, int | None]:
        files = self._files()
        try:
            # sizes come with the listing, in the same request
            return {str(name): int(size) for name, size in files.list(size=True)}
        except (NotImplementedError, TypeError, ValueError):
            return dict.fromkeys(map(str, files.list()))

    def sizes(self, paths: list[str]) -> dict[str, int]:
        """Sizes in bytes, asked only for the files named."""
        found = self._files().size(paths)
        return {path: int(size or 0) for path, size in found.items()}

    def stamp(self, path: str) -> str:  # noqa: ARG002 - the size is in the listing, which costs no further request
        """Nothing: the files of a version are written once."""
        return ""

    def read(self, path: str) -> bytes:
        """Content of one file, compressed as it is stored."""
        content = self._files().get(path, raw=True)
        if content is None:
            raise FileNotFoundError(f"{self.uri}/{path}")
        return bytes(content)

    def open(self, path: str, *, progress: bool = False) -> io.BufferedReader:
        """Open one file: a small one is fetched at once, a large one piece by piece."""
        size = self.sizes([path]).get(path, 0)
        if size <= _PIECE:
            return io.BufferedReader(io.BytesIO(self.read(path)))
        return io.BufferedReader(_Stream(partial(self._fetch, path), path, size, shown=progress), _PIECE)

    def holding(
        self, wanted: Mapping[str, tuple[int, Iterable[tuple[int, int]]]]
    ) -> dict[str, pa.NativeFile]:
        """Fetch ranges (first byte, byte after the last) of files concurrently: path -> size, ranges.

        What lies between them may not be read.
        """
        found = {
            path: mmap.mmap(-1, size) for path, (size, _) in wanted.items()
        }  # no memory until it is written

        def fetch(path: str, start: int, end: int) -> None:
            found[path][start:end] = self._fetch(path, start, end)

        jobs = [
            partial(fetch, path, *each) for path, (_, ranges) in wanted.items() for each in _joined(ranges)
        ]
        run_all(jobs, workers=_CONNECTIONS)
        return {path: pa.BufferReader(content) for path, content in found.items()}

    def _fetch(self, path: str, start: int, end: int) -> bytes:
        content = self._files().get([{"path": path, "start": start, "end": end}], raw=True)[0]["content"]
        if content is None or len(content) != end - start:
            raise ExportError(f"{path}: not all of bytes {start} to {end} could be read; try again")
        return bytes(content)


Place: TypeAlias = FolderPlace | BucketPlace
"""A root below which files of tables lie."""


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that lie close together."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start - found[-1][1] <= _GAP and end - found[-1][0] <= _MOST_JOINED:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


class _Stream(io.RawIOBase):
    """A file that is fetched while it is read, and shows how much of it was; `fetch` takes first and last byte."""

    def __init__(
        self,
        fetch: Callable[[int, int], bytes],
        path: str,
        size: int,
        *,
        shown: bool = True,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        from tqdm import tqdm

        self._fetch, self._size, self._ended = fetch, size, ended
        self._bar = tqdm(total=size, desc=path, unit="B", unit_scale=True, disable=not shown)
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        content = self._fetch(self._at, end) if end > self._at else b""
        buffer[: len(content)] = content
        self._at += len(content)
        self._bar.update(len(content))
        return len(content)

    def close(self) -> None:
        self._bar.close()
        self._ended()
        super().close()
