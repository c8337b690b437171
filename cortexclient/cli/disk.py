"""Commands about this disk: tables that were pulled into the store, and the cache of responses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cortexclient.cli.options import Client, dataset_command
from cortexclient.cli.output import escaped, print_table, say, show_frame

if TYPE_CHECKING:
    from cortexclient.session import FolderStore

__all__ = ["register_commands"]

Folder = Annotated[Path | None, typer.Option("--path", help="Another folder than the usual one.")]
PANEL = "Tables"
_DAY = 86_400.0


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    dataset_command(app, "pull", panel=PANEL)(pull)
    store = typer.Typer(help="Tables pulled onto this disk: list, verify, remove.", no_args_is_help=True)
    for name, command in (("list", list_tables), ("verify", verify_store), ("remove", remove)):
        dataset_command(store, name, panel=None, moment=name == "remove")(command)
    app.add_typer(store, name="store", rich_help_panel=PANEL)
    cache = typer.Typer(help="Responses cached on this machine: info, clear, verify.", no_args_is_help=True)
    for name, cached in (("info", info), ("clear", clear), ("verify", verify_cache)):
        cache.command(name)(cached)
    app.add_typer(cache, name="cache", rich_help_panel="Access")


# -- the store ------------------------------------------------------------------------------------------------


def pull(
    client: Client,
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables and views; left out: those that the spec names.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="exports or server; left out: exports where there are any.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", help="Another store than $CORTEXCLIENT_STORE or the usual one.")
    ] = None,
) -> None:
    """Bring tables of one version onto this disk, sorted for look-ups; an interrupted one is resumed."""
    names = client.store.pull(tables or None, source=source, path=path)  # type: ignore[arg-type]
    say(f"{', '.join(names)} of version {client.version} in {path or client.store.path}")


def list_tables(client: Client) -> None:
    """List the tables of the store, with rows, bytes and the keys that rows are found by."""
    show_frame(client.store.tables(), rows=None)


def verify_store(client: Client) -> None:
    """Compare every file of the store with its checksum, and remove damaged tables; status 1 if there were any."""
    damaged = client.store.verify()
    for name, files in damaged.items():
        version, _, table = name.partition("/")
        client.store.remove(table, version=int(version[1:]))
        say(f"{name}: damaged ({', '.join(files[:3])}), removed; pull it again")
    say(f"{len(client.store.tables())} tables are sound, {len(damaged)} were damaged")
    if damaged:
        raise typer.Exit(1)


def remove(
    client: Client, table: Annotated[str, typer.Argument(help="Table; `cortexclient store list` shows them.")]
) -> None:
    """Remove a table from this disk."""
    client.store.remove(table)
    say(f"removed {table} of version {client.version}")


# -- the cache ------------------------------------------------------------------------------------------------


def _store(path: Path | None) -> FolderStore:
    from cortexclient.session import CacheChoice, FolderStore

    if path is None:
        chosen = CacheChoice.of(None, None)
        path = CacheChoice.usual_folder() if chosen is None else chosen.place
    elif path.is_file():
        raise typer.BadParameter(f"{path} is a file; a cache is a folder")
    return FolderStore(path, CacheChoice.usual_limit())


def info(path: Folder = None) -> None:
    """Show where the cache is, how large it is, and what it holds."""
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
        rows = [
            (*map(escaped, kind), str(counts[kind]), f"{sizes[kind] / 1e6:.2f}") for kind in sorted(counts)
        ]
        print_table(("server", "datastack", "valid", "entries", "MB"), rows)


def _kind(head: dict[str, Any] | None) -> tuple[str, str, str]:
    if head is None:
        return ("", "", "damaged; run `cortexclient cache verify`")
    server, datastack = (head["request"] + [""] * 4)[2:4]
    return (
        server,
        datastack,
        "for good" if head.get("valid") == "forever" else "as of then, for work offline",
    )


def clear(
    path: Folder = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", help="Only what was not used for so many days."),
    ] = None,
) -> None:
    """Remove the entries of the cache; no other file of the folder is touched."""
    if older_than is not None and not older_than >= 0:  # NaN is not either
        raise typer.BadParameter(
            f"a number of days, from 0, and not {older_than:g}", param_hint="--older-than"
        )
    removed = _store(path).clear(older_than=None if older_than is None else older_than * _DAY)
    say(f"removed {removed} entries")


def verify_cache(path: Folder = None) -> None:
    """Check all entries against their checksums, and remove damaged ones; status 1 if there were any."""
    store = _store(path)
    damaged = store.verify()
    sound = sum(1 for _ in store.listing())
    say(f"{sound} entries are sound, {len(damaged)} were damaged and are removed")
    if damaged:
        raise typer.Exit(1)
