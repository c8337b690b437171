"""Where specs are looked for, and which place wins."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cortexclient.settings import config_dir

__all__ = ["BUILT_IN", "NAME", "REGISTERED", "Layer", "builtin_folder", "layers", "user_folder"]

BUILT_IN = "built-in"
REGISTERED = "registered"
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Layer:
    """A folder of spec files and the name of the layer that it belongs to.

    Attributes
    ----------
    name : str
        ``built-in``, ``pack NAME``, ``user`` or ``CORTEXCLIENT_PATH``.
    folder : pathlib.Path
        It may not exist.
    """

    name: str
    folder: Path

    def file(self, dataset: str) -> Path:
        """Where this layer would keep a dataset."""
        return self.folder / f"{dataset}.yaml"

    def names(self) -> list[str]:
        """Names of the datasets in this folder, read from the file names alone."""
        try:
            with os.scandir(self.folder) as entries:
                stems = [
                    entry.name[:-5] for entry in entries if entry.name.endswith(".yaml") and _is_file(entry)
                ]
        except OSError:
            return []
        return sorted(stem for stem in stems if NAME.fullmatch(stem))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads back to itself must not hide its neighbours
        return False


@cache
def builtin_folder() -> Path:
    """Folder of the specs that come with cortexclient.

    In a wheel that is ``cortexclient/_specs``; in a checkout ``datasets/`` beside ``pyproject.toml``. The latter file
    is asked for because ``site-packages/datasets`` may well be somebody else's package.
    """
    package = Path(__file__).resolve().parents[1]
    packed = package / "_specs"
    if packed.is_dir() or not (package.parent / "pyproject.toml").is_file():
        return packed
    return package.parent / "datasets"


def user_folder() -> Path:
    """Folder for the user's own specs; it is not created here."""
    return config_dir() / "datasets"


def layers() -> list[Layer]:
    """All folders, from the one that loses to the one that wins.

    As in any search path, the first folder of ``CORTEXCLIENT_PATH`` wins over the ones behind it.
    """
    from cortexclient.registry.packs import pack_layers

    path = [
        Path(part).expanduser()
        for part in os.environ.get("CORTEXCLIENT_PATH", "").split(os.pathsep)
        if part.strip()
    ]
    return [
        Layer(BUILT_IN, builtin_folder()),
        *pack_layers(),
        Layer("user", user_folder()),
        *(Layer("CORTEXCLIENT_PATH", folder) for folder in reversed(path)),
    ]
