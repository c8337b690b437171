"""Commands about access: store a token, and see what works."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cortexclient.cli.options import Dataset, Server
from cortexclient.cli.output import console, say
from cortexclient.errors import AuthenticationError, CortexError, TermsOfServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cortexclient.session import Session
    from cortexclient.spec import DatasetSpec

__all__ = ["register_commands"]


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("login", rich_help_panel="Access")(login)
    app.command("doctor", rich_help_panel="Access")(doctor)


def login(
    dataset: Dataset,
    server: Server = None,
    check: Annotated[bool, typer.Option(help="Try the token on the server before storing it.")] = True,
) -> None:
    """Store the token for a dataset's server, where caveclient looks for it, readable by you only.

    The token is typed without echo, or read from standard input if that is a pipe.
    """
    from cortexclient import credentials
    from cortexclient.registry import get_spec
    from cortexclient.session import Session

    spec = get_spec(dataset)
    address = (server or spec.server_address).rstrip("/")
    if not address.startswith(("https://", "http://")):
        say(f"{spec.name} runs on this machine ({address}) and needs no token.")
        return
    _explain(spec, address)
    token = (
        sys.stdin.readline() if not sys.stdin.isatty() else typer.prompt("Token (not shown)", hide_input=True)
    )
    token = token.strip().removeprefix("Bearer ").strip('"')
    notice = None
    if check and token:
        notice = _try(Session(spec, server_address=address, auth_token=token))
    path = credentials.store_token(address, token)
    say(f"Stored in {path}.")
    say(notice or f"Ready: cortexclient tables {spec.name}")


def _explain(spec: DatasetSpec, address: str) -> None:
    from cortexclient.credentials import token_page

    access = spec.access
    say(f"{spec.title} is served by {address}.")
    if access is not None and access.note:
        say(access.note)
    if access is not None and access.terms_url:
        say(f"1. Accept the terms of service: {access.terms_url}")
    say(
        f"{'2' if access is not None and access.terms_url else '1'}. Log in and copy a token: {token_page(address)}"
    )


def _try(session: Session) -> str | None:
    """Try a token; gives what is still missing, raises if the token itself is wrong."""
    try:
        session.info()
    except TermsOfServiceError as error:
        return f"The token is good. {error}"
    except AuthenticationError as error:
        if error.status == 401:
            raise
        return f"The token is good. {error}"
    return None


class Finding(NamedTuple):
    """One line of what the doctor says."""

    dataset: str
    check: str
    good: bool | None
    words: str


def doctor(
    dataset: Annotated[
        str | None,
        typer.Argument(help="Dataset to check against its server. Default: what this machine has."),
    ] = None,
    server: Server = None,
) -> None:
    """Say in one table what works, and what to do about the rest."""
    findings = _machine() if dataset is None else _check_dataset(dataset, server)
    _show(findings)
    if any(finding.good is False for finding in findings):
        raise typer.Exit(1)


def _machine() -> list[Finding]:
    from cortexclient.registry import get_spec, list_datasets

    findings = []
    for name in list_datasets():
        spec = get_spec(name)
        findings.append(_token(spec, spec.server_address))
    return findings


def _token(spec: DatasetSpec, address: str) -> Finding:
    from cortexclient import credentials
    from cortexclient.registry import is_trusted

    if not address.startswith(("https://", "http://")) or credentials.is_loopback(address):
        return Finding(spec.name, "token", True, "needs none: it runs on this machine")
    found = credentials.find_token(address, is_trusted=is_trusted)
    if found is not None:
        return Finding(spec.name, "token", True, f"for {credentials.host_of(address)}, in {found.path}")
    words = f"none for {credentials.host_of(address)}; run `cortexclient login {spec.name}`"
    return Finding(spec.name, "token", None, words)


def _check_dataset(dataset: str, server: str | None) -> list[Finding]:
    from cortexclient.registry import get_spec
    from cortexclient.session import Session

    spec = get_spec(dataset)
    session = Session(spec, server_address=server, retries=1, timeout=(5.0, 30.0))
    findings = [_token(spec, server or spec.server_address)]
    for check, work in _checks(session):
        try:
            findings.append(Finding(spec.name, check, True, work()))
        except CortexError as error:
            findings.append(Finding(spec.name, check, False, str(error)))
            if check in {"server", "datastack"}:
                break  # nothing behind it can be asked
    return findings


def _checks(session: Session) -> list[tuple[str, Callable[[], str]]]:
    def local() -> str:
        return session.local_server  # asked late: it needs the info service

    def get(service: str, path: str) -> Any:
        return session.http.get_json(service, f"{local()}{path}")

    def versions() -> str:
        live = [record for record in session.versions().values() if record.valid]
        if not live:
            return "no live version at present; tables can only be asked at a time (timestamp=)"
        return (
            f"{len(live)} live versions, newest {live[-1].version} of {live[-1].timestamp:%Y-%m-%d %H:%M} UTC"
        )

    def tables() -> str:
        from cortexclient.session import table_infos, view_infos

        return f"{len(table_infos(session))} tables, {len(view_infos(session))} views at version {session.version}"

    def level2() -> str:
        there = session.connection.segmentation_table in get("l2cache", "/l2cache/api/v1/table_mapping")
        return (
            "has this datastack"
            if there
            else "does not have this datastack: no level-2 attributes, no skeletons"
        )

    return [
        ("server", lambda: f"{session.server_address}, info {_version(session, '/info/version')}"),
        ("datastack", lambda: f"{session.datastack}, local server {session.info() and local()}"),
        ("materialize", lambda: f"version {get('materialize', '/materialize/version')}"),
        ("versions", versions),
        ("tables", tables),
        ("chunkedgraph", lambda: f"version {get('chunkedgraph', '/segmentation/api/version')}"),
        ("l2cache", level2),
        ("skeletons", lambda: f"version {get('skeleton', '/skeletoncache/api/version')}"),
    ]


def _version(session: Session, path: str) -> Any:
    return session.http.get_json("info", f"{session.server_address}{path}")


def _show(findings: list[Finding]) -> None:
    from rich.table import Table

    table = Table("", "dataset", "check", "what", box=None, pad_edge=False)
    marks = {True: "[green]ok[/green]", False: "[red]no[/red]", None: "[yellow]--[/yellow]"}
    from rich.markup import escape

    for finding in findings:
        table.add_row(marks[finding.good], finding.dataset, finding.check, escape(finding.words))
    console().print(table)
