"""Commands about specs: what datasets there are, whether a file is right, and the page of a dataset."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cortexclient.cli.check import check, diff
from cortexclient.cli.options import AsJson, Dataset
from cortexclient.cli.output import as_yaml, console, error_console, escaped, note, print_table, say, say_json
from cortexclient.cli.scaffold import new
from cortexclient.errors import printable
from cortexclient.files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cortexclient.spec import DatasetSpec, TableSpec

__all__ = ["dataset_page", "register_commands"]

_ACCESS = {"public": "[green]public[/]", "login": "[cyan]login[/]", "group": "[yellow]group[/]"}


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module, and those that compare a spec with its server or write one."""
    commands: dict[str, Callable[..., None]] = {
        "list": list_command,
        "show": show,
        "where": where,
        "cite": cite,
        "validate": validate,
        "schema": schema,
        "trust": trust,
        "new": new,
        "check": check,
        "diff": diff,
    }
    for name, command in commands.items():
        app.command(name, rich_help_panel="Datasets")(command)


def list_command(as_json: AsJson = False) -> None:
    """List the datasets that can be loaded by name."""
    from cortexclient.registry import list_datasets

    infos = list_datasets(details=True)
    if as_json:
        say_json([asdict(info) for info in infos])
        return
    rows = []
    for info in infos:
        title = escaped(info.title)
        if info.problem is not None:
            title = f"[red]cannot be loaded:[/] {escaped(info.problem.splitlines()[0])}"
        elif info.deprecated:
            title += " [yellow](deprecated)[/]"
        origin = escaped(info.layer) + (
            f" [dim](hides {escaped(', '.join(info.shadows))})[/]" if info.shadows else ""
        )
        access = _ACCESS.get(info.access, "[dim]unknown[/]")
        rows.append((f"[bold]{info.name}[/]", title, access, origin, f"[dim]{', '.join(info.aliases)}[/]"))
    print_table(("name", "title", "access", "from", "other names"), rows)
    _warn_of_packs()


def _warn_of_packs() -> None:
    from cortexclient.registry.lookup import broken_packs

    for sentence in broken_packs():
        note(sentence, label="warning: ", style="bold")


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
        say_json({**spec.as_dict(), "fingerprint": spec.fingerprint})
        return
    if markdown:
        say(dataset_page(spec), nl=False)
        return
    out = console()
    out.print(f"[bold]{spec.name}[/]  {escaped(spec.title)}")
    origin = escaped(spec.origin or "made in this session")
    out.print(f"[dim]{origin}   fingerprint {spec.fingerprint}[/]", soft_wrap=True)
    out.print()
    if resolved and spec.origin is not None:
        _print_resolved(Path(spec.origin))
    else:
        _print_tree(spec.as_dict())


def _print_resolved(file: Path) -> None:
    from cortexclient.registry.assembly import assemble
    from cortexclient.spec.nodes import ScalarNode, to_plain, walk
    from cortexclient.spec.problems import dotted

    root = assemble(file).root
    rows = []
    for path, mark, node in walk(root) if root is not None else ():
        if isinstance(node, ScalarNode) or not to_plain(node):
            value = " ".join(node.text.split()) if isinstance(node, ScalarNode) else "empty"
            place = f"{_nearby(mark.file)}:{mark.line}"
            rows.append((escaped(dotted(path)), escaped(value), f"[dim]{escaped(place)}[/]"))
    print_table(("value of", "is", "written in"), rows)


def _nearby(file: str) -> str:
    """Name of a file as short as it is still clear from here."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return file


def _print_tree(values: dict[str, Any]) -> None:
    """Print a spec as YAML; into a pipe without a line cut."""
    from rich.syntax import Syntax

    if not sys.stdout.isatty():
        say(as_yaml(values, 100))
        return
    out = console()
    # PyYAML breaks a line after the word that exceeds the width, so the width given is less than there is
    text = as_yaml(values, max(20, out.width - 20))
    out.print(Syntax(printable(text), "yaml", theme=_colours(), background_color="default", word_wrap=True))


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
    """Show where datasets are looked for, and which file wins.

    And the folders of the cache and the store.
    """
    from cortexclient.registry.lookup import candidates, layers, registered
    from cortexclient.settings import cache_dir, store_dir

    out = console()
    if name is not None:
        from cortexclient.registry import get_spec

        found = candidates(name) or candidates(get_spec(name).name)
        for place, candidate in enumerate(found):
            state = "[green]wins[/]" if place == 0 else "[dim]hidden[/]"
            origin = escaped(f"{candidate.layer}  {candidate.path or 'this session'}")
            out.print(f"{state}  {origin}")
        return
    out.print("Later places win:")
    for layer in layers():
        count = f"{len(layer.names())} dataset(s)" if layer.folder.is_dir() else "no such folder"
        out.print(f"  [bold]{escaped(f'{layer.name:18}')}[/] {escaped(layer.folder)}  [dim]{count}[/]")
    out.print(f"  [bold]{'register()':18}[/] this session  [dim]{len(registered())} dataset(s)[/]")
    out.print("Other folders:")
    for what, folder in (("cache", cache_dir()), ("store", store_dir())):
        out.print(f"  [bold]{what:18}[/] {escaped(folder)}")
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
    say(spec.require("citation.bibtex", feature="--bibtex").strip())


# -- files -----------------------------------------------------------------------------------------------------


def validate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="YAML files or folders; left out: all places that are searched."),
    ] = None,
    as_json: AsJson = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    explain: Annotated[str | None, typer.Option("--explain", help="Explain a code such as CX201.")] = None,
) -> None:
    """Check spec files and report every problem with file, line and column; exit 1 if there are any."""
    if explain is not None:
        from cortexclient.spec.problems import explain as explanation

        say(explanation(explain))
        return
    from cortexclient.registry.validation import all_folders
    from cortexclient.registry.validation import validate as problems_of

    results = problems_of(paths or all_folders())
    problems = [problem for result in results for problem in result.problems]
    errors = [problem for problem in problems if problem.severity == "error"]
    failed = bool(problems if strict else errors)
    if as_json:
        body = {
            "ok": not failed,
            "files": [str(result.path) for result in results],
            "problems": [problem.as_dict() for problem in problems],
        }
        say_json(body)
        raise typer.Exit(1 if failed else 0)
    for problem in problems:
        say(str(problem))
    counts = f"{len(results)} file(s), {len(errors)} error(s), {len(problems) - len(errors)} warning(s)"
    hint = "; `cortexclient validate --explain CODE` explains a code" if problems else ""
    error_console().print(f"[{'red' if failed else 'green'}]{counts}[/]{hint}")
    raise typer.Exit(1 if failed else 0)


def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.")] = None,
) -> None:
    """Print the JSON Schema of spec files (draft 07, for editors)."""
    from cortexclient.spec.schema import dataset_schema, schema_text

    text = schema_text(dataset_schema())
    if out is None:
        say(text, nl=False)
    else:
        write_text(out, text)
        note(f"wrote {out}")


def trust(
    host: Annotated[
        str | None, typer.Argument(help="Host name, as cave.my.lab; left out: list those allowed.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take it off the list again.")] = False,
) -> None:
    """Allow your general CAVE token to be sent to a host (one stored for the host itself always is)."""
    from cortexclient.credentials import trust as allow
    from cortexclient.credentials import trusted_hosts, trusted_hosts_file, untrust

    if host is None:
        for name in trusted_hosts():
            say(name)
        note(f"{len(trusted_hosts())} host(s) in {trusted_hosts_file()}")
    elif remove:
        untrust(host)
        say(f"{host} is no longer trusted")
    else:
        say(f"{allow(host)} may be sent your general token from now on")


# -- the page of a dataset, written from its spec, so that it cannot be out of date ----------------------------


_SERVICES = ("live", "versions", "l2cache", "skeletons", "exports")


def dataset_page(spec: DatasetSpec) -> str:
    """Return the page of a dataset, as Markdown."""
    lines = [f"# {spec.title}", ""]
    if spec.description:
        lines += [spec.description.strip(), ""]
    lines += [
        "```python",
        f"from cortexclient.datasets.{spec.name} import client",
        "```",
        "",
        "| what | value |",
        "|---|---|",
    ]
    lines += [_row(name, value) for name, value in _facts(spec) if value]
    if spec.tables:
        head = "| role | name | kind | versions | schema and columns | note |"
        lines += ["", "## Tables by role", "", head, "|---|---|---|---|---|---|"]
        for role, table in spec.tables.items():
            lines.append(_table_row(role, table))
            lines += [_table_row("", old) for old in table.earlier]
    if spec.versions:
        lines += ["", "## Versions", "", "| version | timestamp (UTC) | status | note |", "|---|---|---|---|"]
        for item in spec.versions:
            stamp = item.timestamp.isoformat().replace("+00:00", "") if item.timestamp else "not known"
            end = f"Until {item.expires}. " if item.expires else ""
            lines.append(_row(str(item.version), stamp, item.status, f"{end}{item.note or ''}"))
    unverified = [(path, fact) for path, fact in spec.sources.items() if not fact.verified]
    if unverified:
        lines += ["", "## Not verified", ""]
        reasons = {path: fact.note or fact.source or "no source" for path, fact in unverified}
        lines += [f"- `{path}`: {' '.join(reason.split())}" for path, reason in reasons.items()]
    lines += ["", "## How to cite", "", "```text", spec.cite(), "```"]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    """Return a row of a table, of whatever texts: one line, in which a bar ends no cell."""
    texts = [" ".join(cell.split()).replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(texts)} |"


def _table_row(role: str, table: TableSpec) -> str:
    columns = [f"`{table.schema_name}`"] if table.schema_name else []
    columns += [f"`{name}`" for name in table.columns]
    described = table.description or ""
    return _row(role, f"`{table.name}`", table.kind, table.lifetime, ", ".join(columns), described)


def _facts(spec: DatasetSpec) -> Iterator[tuple[str, str]]:
    yield "name", f"`{spec.name}`"
    yield "other names", ", ".join(f"`{alias}`" for alias in spec.aliases)
    yield "species, region", ", ".join(part for part in (spec.species, spec.region) if part)
    yield "server", spec.server_address
    yield "datastack", f"`{spec.datastack}`"
    if spec.voxel_resolution:
        yield "voxel size", " x ".join(f"{size:g}" for size in spec.voxel_resolution) + " nm"
    yield (
        "synapse table",
        f"`{spec.synapse_table}`" if spec.synapse_table else "the one that the server names",
    )
    if spec.transform:
        yield "depth", spec.transform.dataset or f"{len(spec.transform.steps)} declared steps"
    yield "exports", f"`{spec.exports.path}`" if spec.exports else ""
    if spec.capabilities:
        yield "not offered", ", ".join(name for name in _SERVICES if spec.denies(name))
    if spec.access:
        yield "access", f"{spec.access.level}. {spec.access.note or ''}"
    yield "documentation", spec.documentation or ""
