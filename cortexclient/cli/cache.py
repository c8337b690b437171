"""Commands about the cache: what it holds, remove it, check it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cortexclient.cli.output import say
from cortexclient.cli.screen import console

if TYPE_CHECKING:
    from cortexclient.session import FolderStore

__all__ = ["register_commands"]

Folder = Annotated[
    Path | None, typer.Option("--path", help="Another folder than the usual one.", show_default=False)
]
_DAY = 86_400.0


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    cache = typer.Typer(help="Responses cached on this machine: info, clear, verify.", no_args_is_help=True)
    for command in (info, clear, verify):
        cache.command(command.__name__)(command)
    app.add_typer(cache, name="cache", rich_help_panel="Access")


def _store(path: Path | None) -> FolderStore:
    from cortexclient.session import CacheChoice, FolderStore

    if path is None:
        chosen = CacheChoice.of(None, None)
        path = CacheChoice.usual_folder() if chosen is None else chosen.place
    elif path.is_file():
        raise typer.BadParameter(f"{path} is a file; a cache is a folder")
    return FolderStore(path, CacheChoice.usual_limit())


def info(path: Folder = None) -> None:
    """Say where the cache is, how much it holds, and of what."""
    store = _store(path)
    counts: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()
    for file, head in store.heads():
        kind = _kind(head)
        counts[kind] += 1
        sizes[kind] += file.size
    say(
        f"{store.place}: {counts.total()} entries, {sizes.total() / 1e6:.1f} MB of at most {store.limit / 1e9:g} GB "
        "(CORTEXCLIENT_CACHE_GB)"
    )
    if counts:
        _show(counts, sizes)


def _kind(head: dict[str, Any] | None) -> tuple[str, str, str]:
    if head is None:
        return ("", "", "damaged; run `cortexclient cache verify`")
    server, datastack = (head["request"] + [""] * 4)[2:4]
    return (
        server,
        datastack,
        "for good" if head.get("valid") == "forever" else "as of then, for work offline",
    )


def _show(counts: Counter[tuple[str, str, str]], sizes: Counter[tuple[str, str, str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("server", "datastack", "valid", "entries", "MB", box=None, pad_edge=False)
    for kind in sorted(counts):
        table.add_row(*map(escape, kind), str(counts[kind]), f"{sizes[kind] / 1e6:.2f}")
    console().print(table)


def clear(
    path: Folder = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", help="Only what was not used for so many days.", show_default=False),
    ] = None,
) -> None:
    """Remove the entries of the cache; no other file of the folder is touched."""
    removed = _store(path).clear(older_than=None if older_than is None else older_than * _DAY)
    say(f"removed {removed} entries")


def verify(path: Folder = None) -> None:
    """Check all entries against their checksums, and remove damaged ones; status 1 if there were any."""
    store = _store(path)
    damaged = store.verify()
    sound = sum(1 for _ in store.listing())
    say(f"{sound} entries are sound, {len(damaged)} were damaged and are removed")
    if damaged:
        raise typer.Exit(1)
