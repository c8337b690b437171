"""Meshes kept on disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cortexclient import settings

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from cortexclient.types import PathLike

__all__ = ["MeshCache"]


class MeshCache:
    """A folder with one file for each root.

    Parameters
    ----------
    folder : pathlib.Path
        Made when the first mesh is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, place: bool | PathLike, datastack: str) -> MeshCache:
        """Choose the folder: the one given, or the user's cache for True; below it one for each datastack."""
        from pathlib import Path

        base = settings.cache_dir() / "meshes" if place is True else Path(str(place)).expanduser()
        return cls(base / datastack)

    def read(self, root: int) -> tuple[NDArray[np.float32], NDArray[np.uint32]] | None:
        """Vertices and faces of a root; None where they are not kept, or the file is damaged."""
        import zipfile

        import numpy as np

        path = self.folder / f"{root}.npz"
        try:
            with np.load(path) as kept:
                return kept["vertices"], kept["faces"]
        except (FileNotFoundError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def write(self, root: int, vertices: NDArray[np.float32], faces: NDArray[np.uint32]) -> None:
        """Keep a mesh."""
        import numpy as np

        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{root}.{os.getpid()}.part.npz"
        np.savez(partial, vertices=vertices, faces=faces)
        partial.replace(self.folder / f"{root}.npz")  # whole or not at all, however many processes write it
