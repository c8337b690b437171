"""Commands that show datasets: list, show, where, cite."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cortexclient.cli.options import AsJson, Dataset
from cortexclient.cli.output import say
from cortexclient.cli.registry.text import as_yaml, print_table
from cortexclient.cli.screen import console, error_console

if TYPE_CHECKING:
    from cortexclient.registry import DatasetInfo
    from cortexclient.registry.assembly import Assembly

__all__ = ["cite", "list_command", "show", "where"]

_ACCESS = {"public": "[green]public[/]", "login": "[cyan]login[/]", "group": "[yellow]group[/]"}
_FIRST = ("name", "title", "description", "aliases")


def list_command(as_json: AsJson = False) -> None:
    """List the datasets that can be loaded by name."""
    from cortexclient.registry import list_datasets

    infos = list_datasets(details=True)
    if as_json:
        say(json.dumps([_plain(info) for info in infos], indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "title", "access", "from", "other names"):
        table.add_column(column, overflow="fold")
    for info in infos:
        title = escape(info.title)
        if info.problem is not None:
            title = f"[red]cannot be loaded:[/] {escape(info.problem.splitlines()[0])}"
        elif info.deprecated:
            title += " [yellow](deprecated)[/]"
        origin = info.layer + (f" [dim](hides {', '.join(info.shadows)})[/]" if info.shadows else "")
        access = _ACCESS.get(info.access, "[dim]unknown[/]")
        table.add_row(f"[bold]{info.name}[/]", title, access, origin, f"[dim]{', '.join(info.aliases)}[/]")
    print_table(table)
    _warn_of_packs()


def _warn_of_packs() -> None:
    from rich.markup import escape

    from cortexclient.registry.folders import broken_packs

    for sentence in broken_packs():
        error_console().print(f"[yellow]warning:[/] {escape(sentence)}")


def _plain(info: DatasetInfo) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(info), "path": str(info.path) if info.path else None}


def show(
    name: Dataset,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every value with the file and line that it came from.")
    ] = False,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Its page of documentation.")] = False,
) -> None:
    """Show everything that is known about a dataset."""
    from cortexclient import registry

    spec, _ = registry.resolve(name)
    if as_json:
        say(json.dumps({**spec.as_dict(), "fingerprint": spec.fingerprint}, indent=2, ensure_ascii=False))
        return
    if markdown:
        from cortexclient.cli.registry.page import dataset_page

        say(dataset_page(spec), nl=False)
        return
    from rich.markup import escape

    out = console()
    out.print(f"[bold]{spec.name}[/]  {escape(spec.title)}")
    out.print(
        f"[dim]{spec.origin or 'made in this session'}   fingerprint {spec.fingerprint}[/]", soft_wrap=True
    )
    assembly = _assembly(spec.origin) if resolved else None
    out.print()
    if assembly is None:
        _print_tree(spec.as_dict())
    else:
        _print_resolved(assembly)


def _assembly(origin: str | None) -> Assembly | None:
    from cortexclient.registry.assembly import assemble

    return assemble(Path(origin)) if origin is not None else None


def _print_resolved(assembly: Assembly) -> None:
    from rich.markup import escape
    from rich.table import Table

    from cortexclient.spec.nodes import MappingNode, ScalarNode, SequenceNode, walk
    from cortexclient.spec.problems import dotted

    if assembly.root is None:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("value of", "is", "written in"):
        table.add_column(column, overflow="fold")
    for path, mark, node in walk(assembly.root):
        if isinstance(node, MappingNode) and node.entries:
            continue
        if isinstance(node, SequenceNode) and node.items:
            continue
        value = node.text if isinstance(node, ScalarNode) else "empty"
        place = f"{_nearby(mark.file)}:{mark.line}"
        table.add_row(escape(dotted(path)), escape(" ".join(value.split())), f"[dim]{escape(place)}[/]")
    print_table(table)


def _nearby(file: str) -> str:
    """Name of a file as short as it is still clear from here."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return file


def _print_tree(values: dict[str, Any]) -> None:
    """Print a spec as YAML: what it is first, where the facts are from last; into a pipe without a line cut."""
    from rich.syntax import Syntax

    names = dict.fromkeys([*(name for name in _FIRST if name in values), *values])
    ordered = {name: values[name] for name in names if name != "sources"}
    if "sources" in values:
        ordered["sources"] = values["sources"]
    if not sys.stdout.isatty():
        say(as_yaml(ordered, 100))
        return
    out = console()
    # PyYAML breaks a line after the word that exceeds the width, so the width given is less than there is
    text = as_yaml(ordered, max(20, out.width - 20))
    out.print(Syntax(text, "yaml", theme=_colours(), background_color="default", word_wrap=True))


def _colours() -> Any:
    """Colours of the terminal's own palette that can be read on light and on dark; texts keep the terminal's own."""
    from rich.style import Style
    from rich.syntax import ANSISyntaxTheme

    return ANSISyntaxTheme(
        {
            ("Name", "Tag"): Style(color="cyan"),
            ("Comment",): Style(dim=True),
            ("Literal", "Number"): Style(color="magenta"),
            ("Keyword",): Style(color="magenta"),
        }
    )


def where(
    name: Annotated[str | None, typer.Argument(help="A dataset; left out: all places.")] = None,
) -> None:
    """Show where datasets are looked for, and which file wins."""
    from cortexclient.registry.folders import layers
    from cortexclient.registry.lookup import candidates, registered

    out = console()
    if name is not None:
        from cortexclient.registry import get_spec

        found = candidates(name) or candidates(get_spec(name).name)
        for place, candidate in enumerate(found):
            state = "[green]wins[/]" if place == 0 else "[dim]hidden[/]"
            out.print(f"{state}  {candidate.layer}  {candidate.path or 'this session'}")
        return
    out.print("Later places win:")
    for layer in layers():
        count = f"{len(layer.names())} dataset(s)" if layer.folder.is_dir() else "no such folder"
        out.print(f"  [bold]{layer.name:18}[/] {layer.folder}  [dim]{count}[/]")
    out.print(f"  [bold]{'register()':18}[/] this session  [dim]{len(registered())} dataset(s)[/]")
    _warn_of_packs()


def cite(
    name: Dataset, bibtex: Annotated[bool, typer.Option("--bibtex", help="Only the BibTeX entry.")] = False
) -> None:
    """Show how to cite a dataset, and its licence."""
    from cortexclient.registry import get_spec

    spec = get_spec(name)
    if not bibtex:
        say(spec.cite())
        return
    if spec.citation is None or spec.citation.bibtex is None:
        from cortexclient.errors import NotConfiguredError

        raise NotConfiguredError(f"the spec of {spec.name} has no BibTeX entry; add `citation.bibtex` to it")
    say(spec.citation.bibtex.strip())
