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
    from collections.abc import Iterable
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["CONNECTIONS", "BucketPlace", "FolderPlace", "Place", "open_place"]

_PIECE = 1 << 26
"""Bytes of one request for a large file."""
_SMALL = 1 << 20
_GAP, _MOST_JOINED = 1 << 16, 1 << 23
"""Ranges this close to each other are one request, of so many bytes at most."""
CONNECTIONS = 16
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
        return io.BufferedReader(_Counted(file, path, self.sizes([path])[path])) if progress else file

    def random(self, path: str, size: int) -> str:
        """Path of a file, whose size must be right: what reads a file in places can open it."""
        file = self._file(path)
        if file.stat().st_size != size:
            raise ExportError(f"{file} has {file.stat().st_size} bytes and not {size}")
        return str(file)

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
        ranges = _Ranges(self._files(), path, size)
        return io.BufferedReader(_Counted(ranges, path, size, shown=progress), _PIECE)

    def random(self, path: str, size: int) -> BinaryIO | _Ranges:
        """Open one file, of which ranges are fetched; a small one is fetched completely."""
        if size <= _SMALL:
            return io.BytesIO(self.read(path))
        return _Ranges(self._files(), path, size)  # not buffered: each read is a request


Place: TypeAlias = FolderPlace | BucketPlace
"""A root below which files of tables lie."""


class _Ranges(io.RawIOBase):
    """A file of a bucket or web server, of which only what is read is fetched."""

    def __init__(self, files: Any, path: str, size: int) -> None:
        self._files, self._path, self._size, self._at = files, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        start, end = self._at, min(self._at + len(buffer), self._size)
        if end <= start:
            return 0
        buffer[: end - start] = self.fetch(start, end)
        self._at = end
        return end - start

    def holding(self, ranges: Iterable[tuple[int, int]]) -> pa.BufferReader:
        """Fetch ranges (first byte, byte after the last) concurrently; what lies between them may not be read."""
        content = mmap.mmap(-1, self._size)  # takes no memory for what is not written

        def fetch(start: int, end: int) -> None:
            content[start:end] = self.fetch(start, end)

        run_all([partial(fetch, *each) for each in _joined(ranges)], workers=CONNECTIONS)
        return pa.BufferReader(content)

    def fetch(self, start: int, end: int) -> bytes:
        """Fetch the bytes from `start` to before `end`."""
        content = self._files.get([{"path": self._path, "start": start, "end": end}], raw=True)[0]["content"]
        if content is None or len(content) != end - start:
            raise ExportError(f"{self._path}: not all of bytes {start} to {end} could be read; try again")
        return bytes(content)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that lie close together."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start - found[-1][1] <= _GAP and end - found[-1][0] <= _MOST_JOINED:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


class _Counted(io.RawIOBase):
    """A file that shows how much of it was read."""

    def __init__(self, file: BinaryIO | _Ranges, path: str, size: int, *, shown: bool = True) -> None:
        from tqdm import tqdm

        self._file = file
        self._bar = tqdm(total=size, desc=path, unit="B", unit_scale=True, disable=not shown)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[union-attr]
        self._bar.update(count)
        return count

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        super().close()
