"""Commands about access: store a token, and see what works."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cortexclient.cli.options import (
    AsJson,
    Dataset,
    Server,
    Token,
    complete_dataset,
    environment_token,
    spec_of,
)
from cortexclient.cli.output import escaped, for_the_shell, note, print_table, say, say_json
from cortexclient.errors import AuthenticationError, CortexError, TermsOfServiceError

if TYPE_CHECKING:
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
    """Store the token for a dataset's server.

    It is stored where caveclient looks for it, readable by you only. The token
    is typed without echo, or read from standard input if that is a pipe.
    """
    from cortexclient import credentials
    from cortexclient.session import Session

    spec = spec_of(dataset)
    if server is not None:
        spec = spec.with_overrides({"server_address": server})
    address = spec.server_address
    if not spec.host:
        say(f"{spec.name} runs on this machine ({address}) and needs no token.")
        return
    _explain(spec, address)
    typed = sys.stdin.isatty()
    token = typer.prompt("Token (not shown)", hide_input=True) if typed else sys.stdin.readline()
    token = token.strip().removeprefix("Bearer ").strip('"')
    missing = None
    if check and token:
        missing = _try(Session(spec, auth_token=token), address)
    path = credentials.store_token(address, token)
    say(f"Stored in {path}.")
    also = "" if server is None else f" --server {server}"
    if missing or not check:
        say(missing or f"It was not tried; `cortexclient doctor {dataset}{also}` does.")
    else:
        say(f"Ready: cortexclient tables {dataset}{also}")


def _explain(spec: DatasetSpec, address: str) -> None:
    from cortexclient.credentials import token_page

    access = spec.access
    say(f"{spec.title} is served by {address}.")
    if access is not None and access.note:
        say(access.note)
    terms = access.terms_url if access is not None else None
    if terms:
        say(f"1. Accept the terms of service: {terms}")
    say(f"{'2' if terms else '1'}. Log in and copy a token: {token_page(address)}")


def _try(session: Session, address: str) -> str | None:
    """Try a token; return what else is missing, and raise `AuthenticationError` if the token itself is wrong."""
    from cortexclient.credentials import token_page

    try:
        session.info()
    except TermsOfServiceError as error:
        return f"The token is good. {error}"
    except AuthenticationError as error:
        if error.status == 401:
            raise AuthenticationError(
                f"{address} does not know this token, so it was not stored. Copy it again from {token_page(address)}: "
                "a part of it may be missing, or a newer one may have replaced it",
                service=error.service,
                status=error.status,
                url=error.url,
            ) from None
        return f"The token is good. {error}"
    return None


class DoctorLine(NamedTuple):
    """One line of the doctor's report; ``good`` is None where nothing is known yet."""

    dataset: str
    check: str
    good: bool | None
    words: str


def doctor(
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="Dataset to check against its server. Default: the tokens of all datasets.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Report what works, and what to do about the rest."""
    findings = _tokens() if dataset is None else _check_dataset(dataset, server, token)
    if as_json:
        keys = ("dataset", "check", "ok", "message")
        say_json([dict(zip(keys, finding, strict=True)) for finding in findings])
    else:
        _show(findings)
    if any(finding.good is False for finding in findings):
        raise typer.Exit(1)


def _tokens() -> list[DoctorLine]:
    """Report which datasets have a token; it is not tried."""
    from cortexclient.registry import get_spec, list_datasets

    def line(name: str) -> DoctorLine:
        try:
            spec = get_spec(name)
        except CortexError as error:
            return DoctorLine(name, "spec", False, str(error))
        return _token(spec, spec.server_address)

    return [line(name) for name in list_datasets()]


def _token(spec: DatasetSpec, address: str, dataset: str | None = None) -> DoctorLine:
    from cortexclient import credentials
    from cortexclient.registry import is_trusted

    if not address.startswith(("https://", "http://")):
        return DoctorLine(spec.name, "token", True, "needs none: it runs on this machine")
    host = credentials.host_of(address)
    if os.environ.get("CORTEXCLIENT_TOKEN") and dataset and environment_token(address):
        return DoctorLine(spec.name, "token", True, f"for {host}, from CORTEXCLIENT_TOKEN")
    if (found := credentials.find_token(address, is_trusted=is_trusted)) is not None:
        return DoctorLine(spec.name, "token", True, f"for {host}, in {found.path}")
    public = "; most servers of this machine need none" if credentials.is_loopback(address) else ""
    words = f"none for {host}{public}; `cortexclient login {dataset or spec.name}` stores one"
    return DoctorLine(spec.name, "token", None, words)


def _check_dataset(dataset: str, server: str | None, token: str | None) -> list[DoctorLine]:
    import cortexclient

    spec = spec_of(dataset)
    address = server or spec.server_address
    given = DoctorLine(spec.name, "token", True, "given by --token")
    findings = [given if token else _token(spec, address, dataset)]
    token = token or environment_token(address)
    client = cortexclient.load(spec, server_address=server, auth_token=token, retries=1, timeout=(5.0, 30.0))
    tried = client.status().dropna(subset="ok")
    for check, good, message in tried[["ok", "message"]].itertuples(name=None):
        findings.append(DoctorLine(spec.name, check, bool(good), for_the_shell(message, dataset)))
    return findings


def _show(findings: list[DoctorLine]) -> None:
    """Print a table; on a terminal, what does not work is explained below it, where there is room."""
    marks = {True: "[green]ok[/]", False: "[bold red]no[/]", None: "[bold]--[/]"}
    below = [finding for finding in findings if finding.good is False and sys.stdout.isatty()]
    rows = [
        (marks[each.good], each.dataset, each.check, "see below" if each in below else escaped(each.words))
        for each in findings
    ]
    print_table(("", "dataset", "check", "what"), rows)
    for finding in below:
        note(finding.words, label=f"{finding.check}: ", style="bold red")
