"""Write files so that a reader, a full disk or a kill never meets half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

from cortexclient.errors import CortexError, OutputError
from cortexclient.settings import expanded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cortexclient.types import PathLike

__all__ = ["replacing", "write_bytes", "write_text"]


@contextlib.contextmanager
def replacing(path: PathLike, *, private: bool = False) -> Iterator[Path]:
    """Yield the path of a part file to write; when the block ends without an error, it takes the place of ``path``.

    The part file has a new name in the same folder, with the same endings, so that writers that look at them do the
    same. A link is followed; a device or pipe (``/dev/stdout``) is written directly. A ``private`` file is readable by
    the user alone; another keeps the mode of the file that it replaces.

    Raise `OutputError` if the file cannot be written: one that was there before is unchanged, and no part file is left.
    """
    if "\0" in os.fspath(path):
        raise OutputError(f"cannot write {str(path)!r}: a file name holds no NUL character")
    target = expanded(path)
    try:
        old = _mode_of(target)
        if old is not None and stat.S_ISDIR(old):
            raise IsADirectoryError(21, "it is a folder")
        if old is not None and not stat.S_ISREG(old):
            yield target
            return
        target = target.resolve()
        part = target.with_name(f".part-{secrets.token_hex(6)}{''.join(target.suffixes[-2:])[-40:]}")
        try:
            part.touch(0o600 if private else 0o666, exist_ok=False)
            if old is not None and not private:
                part.chmod(stat.S_IMODE(old))
            yield part
            # a rename may reach the disk before the bytes do
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except CortexError:
        raise  # a failure of what makes the content
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        raise OutputError(f"cannot write {str(path)!r}: {reason}; nothing was changed") from error


def write_bytes(path: PathLike, content: bytes, *, private: bool = False) -> None:
    """Write a file; see `replacing`."""
    with replacing(path, private=private) as part:
        part.write_bytes(content)


def write_text(path: PathLike, text: str) -> None:
    """Write a UTF-8 file; see `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def _mode_of(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
