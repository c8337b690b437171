"""Where static exports lie: a local folder or a bucket, listed and read without guessing at file names."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from cortexclient.errors import ExportError

__all__ = ["BucketStorage", "FolderStorage", "Storage", "open_storage"]


class Storage(Protocol):
    """What the export client needs to know of a place."""

    def listing(self) -> dict[str, int | None]:
        """Path below the root -> size in bytes, None where the place does not say."""
        ...

    def sizes(self, paths: list[str]) -> dict[str, int]:
        """Sizes in bytes of some files."""
        ...

    def read(self, path: str, *, progress: bool = False) -> bytes:
        """Content of one file as it is stored, still compressed."""
        ...


def open_storage(cloudpath: str) -> Storage:
    """Choose how a cloud path is read; makes no request.

    Raises
    ------
    ExportError
        If the path is empty or of an unknown kind.
    """
    text = str(cloudpath).strip()
    scheme, separator, _ = text.partition("://")
    if not text:
        raise ExportError("the export path is empty; give a folder or bucket such as 'gs://bucket/exports/'")
    if not separator:
        return FolderStorage(Path(text).expanduser())
    if scheme == "file":
        return FolderStorage(Path(unquote(urlsplit(text).path)).expanduser())
    if scheme not in {"gs", "s3", "https", "http", "mem"}:
        raise ExportError(f"no way to read exports from {text!r}: use file://, gs://, s3:// or https://")
    return BucketStorage(text)


class FolderStorage:
    """A local folder.

    Read directly: cloud-files drops ``.gz`` from the names of local files, so that no export would be found.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listing(self) -> dict[str, int | None]:
        """Path below the folder -> size in bytes."""
        if not self.folder.is_dir():
            raise ExportError(f"there is no folder {self.folder}; correct the export path")
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}

    def sizes(self, paths: list[str]) -> dict[str, int]:
        """Sizes in bytes."""
        return {path: (self.folder / path).stat().st_size for path in paths}

    def read(self, path: str, *, progress: bool = False) -> bytes:  # noqa: ARG002 - local reads need no bar
        """Content of one file."""
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.folder / path}") from None


class BucketStorage:
    """A bucket or web folder, read with cloud-files: without credentials first, since most exports are public."""

    def __init__(self, cloudpath: str) -> None:
        self.cloudpath = cloudpath
        self._signed = False

    def _files(self) -> object:
        import cloudfiles

        public = self.cloudpath.startswith("gs://") and not self._signed
        return cloudfiles.CloudFiles(self.cloudpath, progress=False, use_https=public)

    def listing(self) -> dict[str, int | None]:
        """Path below the root -> size in bytes where one listing tells it."""
        from cloudfiles.exceptions import AuthorizationError

        try:
            return self._list()
        except AuthorizationError:
            if self._signed or not self.cloudpath.startswith("gs://"):
                raise
            self._signed = True
            return self._list()

    def _list(self) -> dict[str, int | None]:
        files = self._files()
        try:
            # sizes come with the listing, in the same request
            return {str(name): int(size) for name, size in files.list(size=True)}  # type: ignore[attr-defined]
        except (NotImplementedError, TypeError, ValueError):
            return dict.fromkeys(map(str, files.list()))  # type: ignore[attr-defined]

    def sizes(self, paths: list[str]) -> dict[str, int]:
        """Sizes in bytes, asked only for the files named."""
        found = self._files().size(paths)  # type: ignore[attr-defined]
        return {path: int(size or 0) for path, size in found.items()}

    def read(self, path: str, *, progress: bool = False) -> bytes:
        """Content of one file, compressed as it is stored."""
        content = self._files().get(path, raw=True, progress=progress)  # type: ignore[attr-defined]
        if content is None:
            raise FileNotFoundError(f"{self.cloudpath.rstrip('/')}/{path}")
        return bytes(content)
