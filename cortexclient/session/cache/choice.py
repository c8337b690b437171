"""Whether, where and how answers are kept: what the user chose, before anything is touched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cortexclient.settings import cache_dir, env_float

if TYPE_CHECKING:
    from cortexclient.types import PathLike

__all__ = ["CacheChoice", "default_folder", "size_limit"]

_YES = {"1", "true", "yes", "on"}
_NO = {"0", "false", "no", "off", ""}
_GIGABYTE = 1_000_000_000


def default_folder() -> Path:
    """Folder of the cache where none is named: ``answers`` in the user's cache folder."""
    return cache_dir()


def size_limit() -> int:
    """Most bytes that the cache may take: ``$CORTEXCLIENT_CACHE_GB`` gigabytes, or 10."""
    return max(1, int(env_float("CORTEXCLIENT_CACHE_GB", 10.0) * _GIGABYTE))


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """Where answers are kept.

    Parameters
    ----------
    place : pathlib.Path
        A folder, or a snapshot file, which is only read.
    offline : bool
        Whether nothing but the cache may answer.
    limit : int
        Most bytes that the folder may take.
    """

    place: Path
    offline: bool
    limit: int

    @classmethod
    def of(cls, cache: bool | PathLike | None, offline: bool | None) -> CacheChoice | None:
        """Read the options of `load`, else ``CORTEXCLIENT_CACHE`` and ``CORTEXCLIENT_OFFLINE``; None keeps nothing.

        Raises
        ------
        ValueError
            If offline work is asked for without a cache, or a setting cannot be read.
        """
        if offline is None:
            offline = _switch("CORTEXCLIENT_OFFLINE")
        if cache is False:
            if offline:
                raise ValueError(
                    "offline=True answers from the cache alone; give cache=True or a folder, not False"
                )
            return None
        if cache is None:
            text = os.environ.get("CORTEXCLIENT_CACHE", "").strip()
            cache = True if text.lower() in _YES else text
            if text.lower() in _NO:
                cache = offline  # offline work needs some cache: the usual one
        if cache is False:
            return None
        place = default_folder() if cache is True else Path(str(cache)).expanduser()
        if not offline and place.is_file():
            raise ValueError(
                f"{place} is a file: a snapshot is only read, cortexclient.load({str(place)!r}) opens it"
            )
        return cls(place, offline, size_limit())


def _switch(name: str) -> bool:
    text = os.environ.get(name, "").strip().lower()
    if text in _YES:
        return True
    if text in _NO:
        return False
    raise ValueError(f"environment variable {name}={text!r} is neither 1 nor 0; unset it or correct it")
