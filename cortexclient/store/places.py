"""Where files of tables lie: a local folder or a bucket, listed and read without guessing at file names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from cortexclient.errors import ExportError
from cortexclient.session import be_patient_with

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["BucketPlace", "FolderPlace", "Place", "open_place"]

_PIECE = 1 << 26
"""Bytes of one request for a large file."""
_SMALL = 1 << 20


class Place(Protocol):
    """A root below which files of tables lie.

    Attributes
    ----------
    uri : str
        The root as delta-rs and pyarrow read it: a path, ``gs://`` or ``s3://``.
    """

    uri: str

    def listing(self) -> dict[str, int | None]:
        """Path below the root -> size in bytes, None where the place does not say."""
        ...

    def sizes(self, paths: list[str]) -> dict[str, int]:
        """Sizes in bytes of some files."""
        ...

    def stamp(self, path: str) -> str:
        """Text that changes when a file is written anew, as far as the place can tell."""
        ...

    def read(self, path: str) -> bytes:
        """Content of a small file as it is stored, still compressed."""
        ...

    def open(self, path: str, *, progress: bool = False) -> BinaryIO:
        """Open a file of any size, to be read from its beginning to its end."""
        ...

    def random(self, path: str, size: int) -> Any:
        """Open a file of a known size, to be read in places; a path or an object with ``read`` and ``seek``."""
        ...


def open_place(path: str) -> Place:
    """Choose how a path is read; makes no request.

    Raises
    ------
    ExportError
        If the path is empty or of an unknown kind.
    """
    text = str(path).strip()
    scheme, separator, _ = text.partition("://")
    if not text:
        raise ExportError("the export path is empty; give a folder or bucket such as 'gs://bucket/exports/'")
    if not separator:
        return FolderPlace(Path(text).expanduser())
    if scheme == "file":
        return FolderPlace(Path(unquote(urlsplit(text).path)).expanduser())
    if scheme not in {"gs", "s3", "https", "http", "mem"}:
        raise ExportError(f"no way to read exports from {text!r}: use file://, gs://, s3:// or https://")
    return BucketPlace(text)


class FolderPlace:
    """A local folder.

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
        """Content of one file."""
        return self._file(path).read_bytes()

    def open(self, path: str, *, progress: bool = False) -> BinaryIO:
        """Open one file."""
        file = self._file(path).open("rb")
        if not progress:
            return file
        return io.BufferedReader(_Counted(file, path, self.sizes([path])[path]))

    def random(self, path: str, size: int) -> str:
        """Path of one file, whose size must be right."""
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
    """A bucket or web folder, read with cloud-files: without credentials first, since most exports are public."""

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

    def open(self, path: str, *, progress: bool = False) -> BinaryIO:
        """Open one file: a small one is fetched at once, a large one piece by piece."""
        size = self.sizes([path]).get(path, 0)
        if size <= _PIECE:
            return io.BytesIO(self.read(path))
        return io.BufferedReader(_Pieces(self._files(), path, size, progress=progress), _PIECE)

    def random(self, path: str, size: int) -> Any:
        """Open one file, of which ranges are fetched; a small one is fetched completely."""
        if size <= _SMALL:
            return io.BytesIO(self.read(path))
        return _Ranges(self._files(), path, size)  # not buffered: each read is a request


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

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        content = _fetched(self._files, self._path, self._at, min(self._at + len(buffer), self._size))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _fetched(files: Any, path: str, start: int, end: int) -> bytes:
    if end <= start:
        return b""
    content = files.get([{"path": path, "start": start, "end": end}], raw=True)[0]["content"]
    if content is None or len(content) != end - start:
        raise ExportError(f"{path}: not all of bytes {start} to {end} could be read; try again")
    return bytes(content)


class _Counted(io.RawIOBase):
    """A file that shows how much of it was read."""

    def __init__(self, file: BinaryIO | None, path: str, size: int, *, progress: bool = True) -> None:
        from tqdm import tqdm

        self._file, self._path, self._size = file, path, size
        self._bar = tqdm(total=size, desc=path, unit="B", unit_scale=True, disable=not progress)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._next(len(buffer))
        buffer[: len(content)] = content
        self._bar.update(len(content))
        return len(content)

    def _next(self, size: int) -> bytes:
        return b"" if self._file is None else self._file.read(size)

    def close(self) -> None:
        self._bar.close()
        if self._file is not None:
            self._file.close()
        super().close()


class _Pieces(_Counted):
    """A large file of a bucket, read by ranges, so that it is never held in memory completely."""

    def __init__(self, files: Any, path: str, size: int, *, progress: bool) -> None:
        super().__init__(None, path, size, progress=progress)
        self._files, self._at = files, 0

    def _next(self, size: int) -> bytes:
        content = _fetched(self._files, self._path, self._at, min(self._at + size, self._size))
        self._at += len(content)
        return content
