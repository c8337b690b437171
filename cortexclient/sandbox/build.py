"""Build the synthetic cortex once, into the user's cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cortexclient import settings
from cortexclient.sandbox.cortex.frame import Frame, frame_of
from cortexclient.sandbox.cortex.sizes import GENERATOR_VERSION, SIZES
from cortexclient.sandbox.layout import DataFolder, DataFolderError, keep_file

__all__ = ["BUILD_SECONDS", "DEFAULT_SEED", "SIZES", "build_cortex", "cortex_key"]

log = logging.getLogger(__name__)

DEFAULT_SEED = 20250101
# how long a build takes on two idle cores; benchmarks/bench_sandbox_build.py measures it
# (of the large one its processor time, which is the most that it can be)
BUILD_SECONDS: dict[str, int] = {"tiny": 2, "small": 6, "large": 120}


def cortex_key(frame: Frame, *, size: str = "small", seed: int = DEFAULT_SEED) -> str:
    """Name of the cache folder of a cortex; equal names mean equal files.

    Parameters
    ----------
    frame : Frame
    size : {"tiny", "small", "large"}
    seed : int
    """
    text = f"{GENERATOR_VERSION}|{SIZES[size]!r}|{seed}|{frame.signature}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{size}-{digest[:16]}"


def build_cortex(
    spec_or_frame: Any = None,
    *,
    size: str = "small",
    seed: int = DEFAULT_SEED,
    cache: Path | None = None,
) -> DataFolder:
    """Folder of a synthetic cortex in a dataset's own coordinates, built if it is not in the cache yet.

    Two processes may call this concurrently: one builds, the other waits. A build that dies leaves nothing that would
    be taken for a complete folder.

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
    >>> folder = build_cortex(size="tiny")
    >>> folder.info["synapse_table"]
    'synapses'
    """
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; choose one of {', '.join(SIZES)}")
    root = cache or settings.cache_dir() / "sandbox"
    frame = _frame(spec_or_frame, SIZES[size].half_width_um, root / "frames.json")
    place = root / cortex_key(frame, size=size, seed=seed)
    if not place.is_dir():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with _lock(place.with_suffix(".lock")):
                if not place.is_dir():
                    _build(place, frame, size, seed)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise DataFolderError(
                f"the synthetic cortex cannot be built in {place.parent} ({reason}); set "
                "CORTEXCLIENT_CACHE_DIR to a folder that can be written and has room"
            ) from error
    return DataFolder.open(place)


def _frame(spec_or_frame: Any, half_width_um: float, known: Path) -> Frame:
    """Return the frame of a spec; from the cache where it is known, because standard_transform takes long to import."""
    transform = getattr(spec_or_frame, "transform", None)
    if isinstance(spec_or_frame, Frame) or getattr(transform, "dataset", None) is None:
        return frame_of(spec_or_frame, half_width_um=half_width_um)
    asked = (transform, spec_or_frame.voxel_resolution, half_width_um, GENERATOR_VERSION)
    key = f"{version('standard-transform')}|{asked!r}"
    frames: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        frames = json.loads(known.read_text(encoding="utf-8"))
    stored = frames.get(key)
    if stored is not None:
        return Frame(*(tuple(numbers) for numbers in stored))
    frame = frame_of(spec_or_frame, half_width_um=half_width_um)
    with contextlib.suppress(OSError):  # whoever builds will say that the folder cannot be written to
        keep_file(known, json.dumps(frames | {key: astuple(frame)}).encode())
    return frame


def _build(place: Path, frame: Frame, size: str, seed: int) -> None:
    """Build beside the final place and move the finished folder there at the end."""
    from cortexclient.sandbox.cortex.assemble import write_cortex

    _sweep(place)
    started = time.monotonic()
    _report(f"building the {size} synthetic cortex, once: about {BUILD_SECONDS[size]} s on two idle cores")
    log.debug("the cortex will lie in %s", place)
    half = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".part", dir=place.parent))
    try:
        write_cortex(half, SIZES[size], seed, frame)
        half.chmod(0o755)
        half.rename(place)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    _report(f"built the {size} synthetic cortex in {time.monotonic() - started:.0f} s")


def _report(text: str) -> None:
    """Report what takes long: in the log, and on stderr in a terminal or notebook."""
    log.info(text)
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        sys.stderr.write(f"cortexclient: {text}\n")
        sys.stderr.flush()


def _sweep(place: Path) -> None:
    """Remove what killed builds left behind; the lock is held, so no build of this folder is running."""
    for left in place.parent.glob(f"{place.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system releases it when the process ends, however it ends."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _report("waiting for another process that builds the same synthetic cortex")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
