"""Build the synthetic cortex once, into the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from cortexclient import settings
from cortexclient.sandbox.cortex.frame import Frame, frame_of
from cortexclient.sandbox.cortex.names import Spares, default_names, needed_spares
from cortexclient.sandbox.cortex.sizes import GENERATOR_VERSION, SIZES, SizeName
from cortexclient.sandbox.layout import DataFolder, DataFolderError

__all__ = ["DEFAULT_SEED", "SIZES", "build_cortex", "cortex_key", "default_names"]

log = logging.getLogger(__name__)

DEFAULT_SEED = 20250101
NO_SPARES = Spares()
_POLL_SECONDS = 0.2


def cortex_key(
    frame: Frame, *, size: SizeName = "small", seed: int = DEFAULT_SEED, spares: Spares = NO_SPARES
) -> str:
    """Name of the cache folder of a cortex; equal names mean equal files.

    Parameters
    ----------
    frame : Frame
    size : {"tiny", "small", "large"}
    seed : int
    spares : Spares
        Tables beyond the usual ones.
    """
    text = f"{GENERATOR_VERSION}|{SIZES[size]!r}|{seed}|{frame.signature}|{spares!r}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{size}-{digest[:16]}"


def build_cortex(
    spec_or_frame: Any = None,
    *,
    size: SizeName = "small",
    seed: int = DEFAULT_SEED,
    cache: Path | None = None,
) -> DataFolder:
    """Folder of a synthetic cortex in a dataset's own coordinates, built if it is not in the cache yet.

    Two processes may ask at once: one builds, the other waits. A build that dies leaves nothing that would be taken for
    a whole folder.

    Parameters
    ----------
    spec_or_frame : DatasetSpec or Frame, optional
        Gives the transform and the voxel size of the tables; None stands for a frame without rotation, 4 x 4 x 40 nm.
    size : {"tiny", "small", "large"}
        10, 34 or 310 neurons.
    seed : int
        Other seeds give other neurons.
    cache : pathlib.Path, optional
        Where to build; left out: ``sandbox`` in the user's cache.

    Returns
    -------
    DataFolder

    Raises
    ------
    ValueError
        For an unknown size.
    FrameError
        If the spec's transform cannot be used to place a cortex.

    Examples
    --------
    >>> folder = build_cortex(size="tiny")  # doctest: +SKIP
    >>> folder.info["synapse_table"]  # doctest: +SKIP
    'synapses'
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; choose one of {', '.join(get_args(SizeName))}")
    frame = frame_of(spec_or_frame, half_width_um=SIZES[size].half_width_um)
    spares = NO_SPARES if isinstance(spec_or_frame, Frame) else needed_spares(spec_or_frame)
    place = (cache or settings.cache_dir() / "sandbox") / cortex_key(
        frame, size=size, seed=seed, spares=spares
    )
    if not place.is_dir():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataFolderError(
                f"the synthetic cortex cannot be built in {place.parent} ({error.strerror}); set "
                "CORTEXCLIENT_CACHE_DIR to a folder that can be written"
            ) from error
        with _lock(place.with_suffix(".lock")):
            if not place.is_dir():
                _build(place, frame, size, seed, spares)
    return DataFolder.open(place)


def _build(place: Path, frame: Frame, size: SizeName, seed: int, spares: Spares) -> None:
    """Build beside the final place and move the whole folder there at the end."""
    from cortexclient.sandbox.cortex.assemble import write_cortex

    _sweep(place)
    started = time.monotonic()
    log.info("building the %s synthetic cortex into %s", size, place)
    half = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".part", dir=place.parent))
    try:
        write_cortex(half, SIZES[size], seed, frame, spares)
        half.chmod(0o755)
        half.rename(place)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    log.info("built the %s synthetic cortex in %.1f s", size, time.monotonic() - started)


def _sweep(place: Path) -> None:
    """Remove what builds that were killed left behind; the lock is held, so no build of this folder is under way."""
    for left in place.parent.glob(f"{place.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system lets go of it when the process ends, however it ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(handle)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        _acquire_on_windows(handle)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX)


def _acquire_on_windows(handle: int) -> None:
    import importlib

    msvcrt = importlib.import_module("msvcrt")
    while True:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            time.sleep(_POLL_SECONDS)
        else:
            return
