"""Commands about files: validate, schema, trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cortexclient.cli.output import say
from cortexclient.cli.screen import console, error_console
from cortexclient.files import write_text

__all__ = ["schema", "trust", "validate"]


def validate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="YAML files or folders; left out: all places that are searched."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    explain: Annotated[
        str | None, typer.Option("--explain", help="Explain a code such as CX201.", show_default=False)
    ] = None,
) -> None:
    """Check spec files and report every problem with file, line and column; exit 1 if there are any."""
    if explain is not None:
        from cortexclient.spec.problems import explain as explanation

        say(explanation(explain))
        return
    from cortexclient.registry.validation import all_folders
    from cortexclient.registry.validation import validate as check

    results = check(paths or all_folders())
    problems = [problem for result in results for problem in result.problems]
    errors = [problem for problem in problems if problem.severity == "error"]
    failed = bool(problems if strict else errors)
    if as_json:
        body = {
            "ok": not failed,
            "files": [str(result.path) for result in results],
            "problems": [problem.as_dict() for problem in problems],
        }
        say(json.dumps(body, indent=2, ensure_ascii=False))
        raise typer.Exit(1 if failed else 0)
    for problem in problems:
        say(str(problem))
    counts = f"{len(results)} file(s), {len(errors)} error(s), {len(problems) - len(errors)} warning(s)"
    hint = "; `cortexclient validate --explain CODE` explains a code" if problems else ""
    error_console().print(f"[{'red' if failed else 'green'}]{counts}[/]{hint}")
    raise typer.Exit(1 if failed else 0)


def schema(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write.", show_default=False)
    ] = None,
) -> None:
    """Print the JSON Schema of spec files (draft 07, for editors)."""
    from cortexclient.spec.schema import dataset_schema, schema_text

    text = schema_text(dataset_schema())
    if out is None:
        say(text, nl=False)
    else:
        write_text(out, text)
        error_console().print(f"wrote {out}")


def trust(
    host: Annotated[
        str | None, typer.Argument(help="Host name, as cave.my.lab; left out: list those allowed.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take it off the list again.")] = False,
) -> None:
    """Allow your general CAVE token to be sent to a host (one stored for the host itself always is)."""
    from cortexclient.credentials import trust as allow
    from cortexclient.credentials import trusted_hosts, trusted_hosts_file, untrust

    out = console()
    if host is None:
        for name in trusted_hosts():
            out.print(name)
        error_console().print(f"[dim]{len(trusted_hosts())} host(s) in {trusted_hosts_file()}[/]")
    elif remove:
        untrust(host)
        out.print(f"{host} is no longer trusted")
    else:
        out.print(f"{allow(host)} may be sent your general token from now on")
