"""Commands that write or compare specs with the help of a live server: new, check, diff, import-cave-diver."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cortexclient.cli.output import error_console, say
from cortexclient.cli.registry.text import print_table
from cortexclient.files import write_text

__all__ = ["check", "diff", "import_cave_diver", "new"]

Name = Annotated[str, typer.Argument(help="Name, alias or YAML file of a dataset.")]
Server = Annotated[
    str | None,
    typer.Option("--server", help="Ask this server instead of the spec's own.", show_default=False),
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="CORTEXCLIENT_TOKEN", help="Use this token.", show_default=False),
]


def new(
    name: Annotated[str, typer.Argument(help="Name for the dataset: lower case, digits, underscores.")],
    server: Annotated[str, typer.Option("--server", help="Address of the global CAVE server.")],
    datastack: Annotated[str, typer.Option("--datastack", help="The server's name for the dataset.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write; left out: print it.", show_default=False),
    ] = None,
    token: Token = None,
) -> None:
    """Write a commented YAML file for a new dataset, asking the live server for what it knows."""
    from cortexclient.cli.registry.draft import draft

    text = draft(name, server=server, datastack=datastack, token=token)
    if out is None:
        say(text, nl=False)
        return
    if out.is_dir():
        out = out / f"{name}.yaml"
    if out.exists():
        raise typer.BadParameter(f"{out} exists already; give another --out or remove it")
    write_text(out, text)
    error_console().print(f"wrote {out}; look through it, then: cortexclient validate {out}")
    if not (schema := out.parent / "dataset.schema.json").exists():
        error_console().print(
            f"for completion and hover texts in an editor: cortexclient schema --out {schema}"
        )


def check(
    name: Name,
    server: Server = None,
    token: Token = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Compare a spec with its live server point by point; exit 1 if something is not as the spec says."""
    from rich.markup import escape
    from rich.table import Table

    from cortexclient.cli.registry.live import check_live
    from cortexclient.registry import get_spec

    spec = get_spec(name)
    points = check_live(spec, server=server, token=token)
    failures = sum(point.state == "fail" for point in points)
    if as_json:
        body = {"dataset": spec.name, "ok": not failures, "points": [asdict(point) for point in points]}
        say(json.dumps(body, indent=2, ensure_ascii=False))
        raise typer.Exit(1 if failures else 0)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "point", "found", "what to change"):
        table.add_column(column, overflow="fold")
    marks = {"pass": "[green]ok[/]", "fail": "[red]FAIL[/]", "skip": "[dim]-[/]"}
    for point in points:
        table.add_row(marks[point.state], point.name, escape(point.found), escape(point.advice))
    print_table(table)
    error_console().print(f"{spec.name}: {len(points)} points, {failures} to change")
    raise typer.Exit(1 if failures else 0)


def diff(
    name: Name,
    live: Annotated[bool, typer.Option("--live", help="Against the live server.")] = True,
    server: Server = None,
    token: Token = None,
) -> None:
    """Show where a spec and the live server's own record say different things; exit 1 if they do."""
    from rich.markup import escape
    from rich.table import Table

    from cortexclient.cli.registry.live import differences
    from cortexclient.registry import get_spec

    del live  # the server is the only thing to compare with so far
    found = differences(get_spec(name), server=server, token=token)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("key", "spec", "server"):
        table.add_column(column, overflow="fold")
    for key, ours, theirs in found:
        table.add_row(escape(key), f"[red]{escape(ours)}[/]", f"[green]{escape(theirs)}[/]")
    if found:
        print_table(table)
    error_console().print(f"{len(found)} difference(s)")
    raise typer.Exit(1 if found else 0)


def import_cave_diver(
    file: Annotated[Path, typer.Argument(help="A datastack file of cave-diver.")],
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name for the dataset; left out: the datastack's.", show_default=False),
    ] = None,
    server: Annotated[
        str, typer.Option("--server", help="Its global server.")
    ] = "https://global.daf-apis.com",
    volume: Annotated[
        Path | None,
        typer.Option("--volume", help="Its aligned-volume file, if it has one.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write; left out: print it.", show_default=False),
    ] = None,
) -> None:
    """Make a spec of a cave-diver configuration, with a comment on everything that has no counterpart."""
    from cortexclient.cli.registry.diver import convert

    text = convert(file, name=name, server=server, volume=volume)
    if out is None:
        say(text, nl=False)
    else:
        write_text(out, text)
        error_console().print(f"wrote {out}; now: cortexclient validate {out}")
