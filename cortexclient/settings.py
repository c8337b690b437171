"""Settings that a user may change without touching code: environment variables, read when they are needed."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir", "config_dir", "env_float", "env_int", "store_dir"]


def cache_dir() -> Path:
    """Return the folder for things that can be made again: ``$CORTEXCLIENT_CACHE_DIR``, or the platform's user cache.

    Returns
    -------
    pathlib.Path
        The folder; it is not created here.
    """
    override = os.environ.get("CORTEXCLIENT_CACHE_DIR")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("cortexclient", appauthor=False))


def config_dir() -> Path:
    """Return the folder of the user's files (specs, trusted hosts): ``$CORTEXCLIENT_CONFIG_DIR``, or the platform's.

    Returns
    -------
    pathlib.Path
        The folder; it is not created here.
    """
    override = os.environ.get("CORTEXCLIENT_CONFIG_DIR")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_config_dir("cortexclient", appauthor=False))


def store_dir() -> Path:
    """Return the folder of the store: ``$CORTEXCLIENT_STORE``, or below the platform's folder for the user's data.

    Returns
    -------
    pathlib.Path
        The folder; it is not created here.
    """
    override = os.environ.get("CORTEXCLIENT_STORE")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("cortexclient", appauthor=False)) / "store"


def env_float(name: str, default: float) -> float:
    """Read a number from the environment.

    Raises
    ------
    ValueError
        If the variable is set to something that is not a number.
    """
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"environment variable {name}={text!r} is not a number; unset it or correct it"
        ) from None


def env_int(name: str, default: int) -> int:
    """Read a whole number from the environment.

    Raises
    ------
    ValueError
        If the variable is set to something that is not a whole number.
    """
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"environment variable {name}={text!r} is not a whole number; unset it or correct it"
        ) from None
