"""Settings that a user may change without touching code: environment variables, read when they are needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cache_dir", "config_dir", "env_float", "env_int", "expanded", "store_dir"]

N = TypeVar("N", int, float)


def cache_dir() -> Path:
    """Return the folder for things that can be made again: ``$CORTEXCLIENT_CACHE_DIR``, or the platform's user cache.

    No folder of this module is created here.
    """
    return _folder("CORTEXCLIENT_CACHE_DIR", "user_cache_dir")


def config_dir() -> Path:
    """Return the folder of the user's files (specs, trusted hosts): ``$CORTEXCLIENT_CONFIG_DIR``, or the platform's."""
    return _folder("CORTEXCLIENT_CONFIG_DIR", "user_config_dir")


def store_dir() -> Path:
    """Return the folder of the store: ``$CORTEXCLIENT_STORE``, or below the platform's folder for the user's data."""
    return _folder("CORTEXCLIENT_STORE", "user_data_dir", "store")


def _folder(variable: str, of_platform: str, *below: str) -> Path:
    if chosen := os.environ.get(variable):
        return expanded(chosen)
    import platformdirs

    return Path(getattr(platformdirs, of_platform)("cortexclient", appauthor=False), *below)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` filled in; like in a shell, the name of an unknown user stays as it is written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises RuntimeError


def env_float(name: str, default: float) -> float:
    """Read a number from the environment; raise `ValueError` if the variable is set to something else."""
    return _number(name, default, float, "a number")


def env_int(name: str, default: int) -> int:
    """Read a whole number from the environment; raise `ValueError` if the variable is set to something else."""
    return _number(name, default, int, "a whole number")


def _number(name: str, default: N, kind: Callable[[str], N], what: str) -> N:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return kind(text)
    except ValueError:
        raise ValueError(
            f"environment variable {name}={text!r} is not {what}; unset it or correct it"
        ) from None
