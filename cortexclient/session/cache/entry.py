"""One kept answer: a head that says what it is, and the bytes as they came."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["DamagedEntryError", "Entry", "pack", "unpack"]

_MAGIC = b"cortexclient-answer 1 "
_WORTH_PACKING = 32_768


class DamagedEntryError(ValueError):
    """Bytes that are not a whole entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kept answer.

    Parameters
    ----------
    head : dict
        JSON: ``what`` (in words), ``keep`` (``"forever"`` or ``"as-of"``), ``stored`` (when), ``server``,
        ``datastack``, and for answers ``status``, ``headers`` and ``url``. Never holds a token.
    body : bytes
        The answer's body, unpacked.
    """

    head: dict[str, Any]
    body: bytes

    @property
    def final(self) -> bool:
        """Whether it can never change."""
        return bool(self.head.get("keep") == "forever")

    @property
    def stored(self) -> datetime:
        """When it was asked."""
        return datetime.fromisoformat(str(self.head["stored"]))


def now_text() -> str:
    """Give the time as entries note it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def pack(entry: Entry) -> bytes:
    """Write an entry as one file: a line with a checksum of the rest, a line of JSON, the body."""
    codec, body = _compress(entry.body)
    head = {**entry.head, "size": len(entry.body), "codec": codec}
    rest = json.dumps(head, sort_keys=True).encode() + b"\n" + body
    return _MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def unpack(content: bytes) -> Entry:
    """Read what `pack` wrote.

    Raises
    ------
    DamagedEntryError
        If any byte of it is not what was written.
    """
    line, _, rest = content.partition(b"\n")
    if not line.startswith(_MAGIC) or hashlib.sha256(rest).hexdigest().encode() != line[len(_MAGIC) :]:
        raise DamagedEntryError("its checksum is wrong")
    text, _, body = rest.partition(b"\n")
    try:
        head = json.loads(text)
        return Entry(head, _decompress(head.get("codec"), body, int(head["size"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedEntryError(f"it cannot be read ({type(error).__name__})") from error


def _compress(body: bytes) -> tuple[str | None, bytes]:
    if len(body) < _WORTH_PACKING or body[:2] == b"\x1f\x8b" or body[:5] == b"DRACO":
        return None, body  # too small to matter, or packed already
    import pyarrow as pa

    packed: bytes = pa.compress(body, codec="zstd", asbytes=True)
    return ("zstd", packed) if len(packed) < 0.9 * len(body) else (None, body)


def _decompress(codec: str | None, body: bytes, size: int) -> bytes:
    if codec is None:
        if len(body) != size:
            raise DamagedEntryError("it has the wrong length")
        return body
    if codec != "zstd":
        raise DamagedEntryError(f"it is packed by an unknown method {codec!r}")
    import pyarrow as pa

    try:
        unpacked: bytes = pa.decompress(body, decompressed_size=size, codec=codec, asbytes=True)
    except (pa.ArrowException, OSError) as error:
        raise DamagedEntryError(f"it cannot be unpacked ({error})") from error
    return unpacked
