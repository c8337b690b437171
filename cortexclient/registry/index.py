"""What the list of datasets says about files, kept between processes until one of the files changes.

Reading ten thousand specs in full takes a third of a minute, looking whether they have changed a third of a second.
Only the list is answered from here: what is loaded is always read from its file. The index lies in the cache folder
and holds what the list shows, nothing that came from the environment, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.registry.layers import layers
from cortexclient.settings import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Index", "Line", "Read", "Stamp", "stamp"]

WORTH_KEEPING = 200
"""Files that have to be read anew before the index is written: a few are read faster than they are looked up."""
MOST_INDEXES = 8

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Line:
    """What the list says about one file.

    Attributes
    ----------
    title, access : str
    aliases : tuple of str
    retirement : tuple of (str or None) or None
        Days from which loading warns, raises, and finds nothing; None for a dataset that stays.
    problem : str or None
        Why it cannot be loaded.
    checked : bool
        Whether the file was read in full; if not, there may be a problem.
    """

    title: str = ""
    access: str = "unknown"
    aliases: tuple[str, ...] = ()
    retirement: tuple[str | None, str | None, str | None] | None = None
    problem: str | None = None
    checked: bool = True


def stamp(file: Path | str) -> Stamp | None:
    """Time, size and number of a file, which change when it does; None where there is none."""
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass(frozen=True, slots=True)
class Read:
    """A line, and what it was made of.

    Attributes
    ----------
    line : Line
    stamps : dict or None
        Stamps of all files that took part, by name; None for a line that depends on more than files.
    lasting : bool
        Whether another process would say the same.
    """

    line: Line
    stamps: dict[str, Stamp | None] | None = None
    lasting: bool = True

    @classmethod
    def of(cls, entry: Any) -> Read:
        """Make one of what `entry` wrote, as JSON gives it back.

        Raises
        ------
        TypeError, ValueError
            If it was written by something else.
        """
        stamps, title, access, aliases, retirement, problem, checked = entry
        plan = (retirement[0], retirement[1], retirement[2]) if retirement else None
        then = None if stamps is None else {name: tuple(of) if of else None for name, of in stamps.items()}
        return cls(Line(title, access, tuple(aliases), plan, problem, checked), then)

    def entry(self) -> tuple[Any, ...]:
        """Write it as JSON can hold it."""
        line = self.line
        return (
            *(self.stamps, line.title, line.access, line.aliases, line.retirement),
            *(line.problem, line.checked),
        )


@dataclass(slots=True)
class Index:
    """Lines by file and layer, each with the stamps of all files that it was made of."""

    path: Path
    entries: dict[str, Any] = field(default_factory=dict)
    added: int = 0
    _stamps: dict[str, Stamp | None] = field(default_factory=dict)

    @classmethod
    def open(cls) -> Index:
        """Read the index that fits this code and these layers; an empty one where there is none."""
        path = cache_dir() / "registry" / f"index-{_fitting()}.json"
        entries: Any = None
        with suppress(OSError, ValueError):
            entries = json.loads(path.read_text(encoding="utf-8"))
        return cls(path, entries if isinstance(entries, dict) else {})

    def get(self, file: Path, layer: str) -> Line | None:
        """Line of a file, if nothing that it was made of has changed."""
        try:
            read = Read.of(self.entries[f"{layer}:{file}"])
            if read.stamps is None or any(self._stamp(name) != then for name, then in read.stamps.items()):
                return None
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return None  # not there, or written by something else
        return read.line

    def put(self, file: Path, layer: str, read: Read) -> None:
        """Keep a line, unless it depends on more than files."""
        if read.stamps is not None and read.lasting:
            self.entries[f"{layer}:{file}"] = read.entry()
            self.added += 1

    def keep(self, files: Iterable[tuple[Path, str]]) -> None:
        """Write the index if enough of it is new, leaving out files that are not among the given ones."""
        if self.added < WORTH_KEEPING:
            return
        wanted = {f"{layer}:{file}" for file, layer in files}
        content = json.dumps({key: entry for key, entry in self.entries.items() if key in wanted})
        with suppress(OSError):  # a folder that cannot be written costs time, nothing else
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".index-")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(content)
            Path(name).replace(self.path)
            _tidy(self.path.parent)

    def _stamp(self, name: str) -> Stamp | None:
        # a volume or a parent is looked at once, however many build on it
        if name not in self._stamps:
            self._stamps[name] = stamp(name)
        return self._stamps[name]


def _fitting() -> str:
    """Digits that change with the code that reads specs and with the folders that take part."""
    package = Path(__file__).resolve().parents[1]
    sources = sorted([*package.glob("spec/*.py"), *package.glob("registry/*.py")])
    parts = [(source.name, stamp(source)) for source in sources]
    folders = [(layer.name, str(layer.folder)) for layer in layers()]
    return hashlib.sha256(repr((parts, folders)).encode()).hexdigest()[:16]


def _tidy(folder: Path) -> None:
    indexes = sorted(folder.glob("index-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in indexes[MOST_INDEXES:]:
        path.unlink(missing_ok=True)
