"""Arguments and options that many commands share, and the decorator that gives them to a command."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer

from cortexclient.cli.output import ENDINGS
from cortexclient.errors import CortexError, UnknownDatasetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cortexclient.client import DatasetClient
    from cortexclient.spec import DatasetSpec

    Client: TypeAlias = DatasetClient
else:
    Client = Any  # typer reads annotations, and importing the class takes half a second

Result = TypeVar("Result")

__all__ = [
    "AsJson",
    "Client",
    "Dataset",
    "Live",
    "Moment",
    "Out",
    "Server",
    "Table",
    "Token",
    "Version",
    "complete_dataset",
    "complete_table",
    "dataset_command",
    "environment_token",
    "filters_from",
    "ids_from",
    "made_from",
    "open_client",
    "spec_of",
    "table_names",
]

# -- completion in the shell -----------------------------------------------------------------------------------


def complete_dataset(incomplete: str) -> list[str]:
    """Offer the names of datasets, and YAML files of the current folder."""
    from cortexclient.registry import list_datasets

    files = sorted(str(path) for path in Path().glob(f"{incomplete}*.y*ml"))
    return [name for name in list_datasets() if name.startswith(incomplete)] + files


def _complete_version(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the versions that the spec of the dataset lists."""
    try:
        known = [str(known.version) for known in spec_of(_typed_dataset(ctx)).versions]
    except Exception:  # noqa: BLE001 - a completion that fails offers nothing
        return []
    return [version for version in known if version.startswith(incomplete)]


def complete_table(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the tables and views of the dataset."""
    try:
        names = table_names(_typed_dataset(ctx), ctx.params.get("server"))
    except Exception:  # noqa: BLE001 - a completion that fails offers nothing
        return []
    return [name for name in names if name.startswith(incomplete)]


def _typed_dataset(ctx: typer.Context) -> str:
    """Return the dataset of the line that is being completed: nothing is parsed while an option lacks its value."""
    if found := ctx.params.get("dataset"):
        return str(found)
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS") or ""
    return line.split()[2]


def table_names(dataset: str, server: str | None = None) -> list[str]:
    """Return the tables that the spec names, and those that the server lists if it responds within two seconds.

    No server is started for this.
    """
    spec = spec_of(dataset)
    names = {role.name for role in spec.tables.values()} | {spec.synapse_table}
    if (cells := spec.cell_ids) is not None:
        names |= {cells.lookup_view, cells.main_table, *cells.alternative_tables}
    if (server or spec.server_address).startswith(("http://", "https://")):
        import cortexclient

        client = cortexclient.load(spec, server_address=server, timeout=(1.0, 2.0), retries=0)
        with contextlib.suppress(CortexError):
            names |= {*client.tables, *client.views}
    return sorted(name for name in names if name)


# -- arguments and options ------------------------------------------------------------------------------------

Dataset = Annotated[
    str,
    typer.Argument(
        help="Name, alias or YAML file of a dataset; `cortexclient list` shows the names.",
        autocompletion=complete_dataset,
    ),
]
Table = Annotated[
    str,
    typer.Argument(
        help="Table or view; `cortexclient tables DATASET` lists them.", autocompletion=complete_table
    ),
]
Version = Annotated[
    int | None,
    typer.Option(
        "--version",
        "-v",
        metavar="N",
        help="Materialized version to query.",
        autocompletion=_complete_version,
    ),
]
Moment = Annotated[
    str | None,
    typer.Option(
        "--timestamp",
        "-t",
        metavar="TIME",
        help="Time to query instead of a version, ISO 8601; UTC if it names no zone.",
    ),
]
Server = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Global server to use instead of the dataset's own."),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="Token to use instead of the stored one; or set CORTEXCLIENT_TOKEN, which trusted hosts get.",
    ),
]


def _known_ending(out: Path | None) -> Path | None:
    """Refuse an ending before anything is queried for it."""
    if out is not None and not out.name.lower().endswith(ENDINGS):
        raise typer.BadParameter(
            f"do not know how to write {out.name}; end it in one of {', '.join(ENDINGS)}"
        )
    return out


Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        callback=_known_ending,
        help="File to write: .csv, .csv.gz, .parquet, .feather or .json (there, ids beyond 2^53 are texts).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Live = Annotated[
    bool,
    typer.Option("--live", help="Query the current state instead of the newest version."),
]


def dataset_command(
    app: typer.Typer, name: str, *, panel: str | None, moment: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose first parameter is a client.

    The command takes a dataset in its place, and has the options ``--version`` and ``--timestamp`` (if ``moment``),
    ``--server`` and ``--token`` besides those of the function.
    """
    shared: dict[str, Any] = {"version": Version, "timestamp": Moment} if moment else {}
    options = {option: (kind, None) for option, kind in {**shared, "server": Server, "token": Token}.items()}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        command = made_from(open_client, function, takes={"dataset": Dataset}, options=options)
        app.command(name, rich_help_panel=panel)(command)
        return function

    return register


def made_from(
    make: Callable[..., Any],
    function: Callable[..., Result],
    *,
    takes: dict[str, Any],
    options: dict[str, tuple[Any, Any]],
) -> Callable[..., Result]:
    """Return a function that makes the first argument of another one itself.

    What ``make`` takes, by name and annotation, are its first parameters; the ``options`` of ``make``, by name,
    annotation and default, are its last ones.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.signature(function, eval_str=True)
    first, *own = signature.parameters.values()
    parameters = [
        *(inspect.Parameter(name, keyword, annotation=kind) for name, kind in takes.items()),
        *(parameter.replace(kind=keyword) for parameter in own),
        *(
            inspect.Parameter(name, keyword, annotation=kind, default=value)
            for name, (kind, value) in options.items()
        ),
    ]

    @functools.wraps(function)
    def call(**given: Any) -> Result:
        made = make(**{name: given.pop(name) for name in (*takes, *options) if name in given})
        return function(**{first.name: made}, **given)

    # what typer reads, and the server of `cortexclient mcp`
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


# -- datasets and tokens --------------------------------------------------------------------------------------


def spec_of(dataset: str) -> DatasetSpec:
    """Find the spec of a dataset; an error says if a YAML file of that name lies in the current folder."""
    from cortexclient.registry import get_spec

    try:
        return get_spec(dataset)
    except UnknownDatasetError as error:
        for ending in (".yaml", ".yml"):
            if (file := Path(dataset + ending)).is_file():
                raise UnknownDatasetError(
                    f"there is no dataset {dataset!r}, but a file {file}; give its name with the ending: {file}"
                ) from error
        raise


def open_client(
    dataset: str,
    *,
    version: int | None = None,
    timestamp: str | None = None,
    server: str | None = None,
    token: str | None = None,
    **options: Any,
) -> DatasetClient:
    """Load a dataset with the options of the command line."""
    import cortexclient
    from cortexclient.cli.output import note

    token = token or environment_token(server or spec_of(dataset).server_address)
    client = cortexclient.load(
        dataset, version=version, timestamp=timestamp, server_address=server, auth_token=token, **options
    )
    at = client.session.moment.timestamp
    # a local time may be hours ahead of UTC
    if at is not None and at > datetime.now(UTC) + timedelta(days=1):
        note(f"{timestamp} lies in the future: what is there now is shown")
    return client


def environment_token(address: str) -> str | None:
    """Return ``CORTEXCLIENT_TOKEN`` if it may go to a server: one of this machine, or one that the user trusts."""
    from cortexclient import credentials
    from cortexclient.cli.output import note
    from cortexclient.registry import is_trusted

    token = os.environ.get("CORTEXCLIENT_TOKEN", "").strip()
    if not token or not address.startswith(("https://", "http://")):
        return None
    if credentials.is_loopback(address) or is_trusted(address):
        return token
    host = credentials.host_of(address)
    note(
        f"CORTEXCLIENT_TOKEN is not sent to {host}, which is not among the hosts that you trust: run `cortexclient "
        f"trust {host}`, or pass --token"
    )
    return None


# -- what is typed --------------------------------------------------------------------------------------------


def ids_from(words: list[str]) -> list[int]:
    """Read ids from words of the command line, or for ``-`` from standard input, one per line (or comma)."""
    if words == ["-"]:
        words = sys.stdin.read().replace(",", " ").split()
    return [_id(word) for word in words]


def _id(word: str) -> int:
    if not re.fullmatch("-?[0-9]{1,30}", word):
        raise typer.BadParameter(f"{word[:80]!r} is not an id; an id is a whole number")
    return int(word)


def filters_from(words: list[str]) -> dict[str, Any]:
    """Read filters from words such as ``cell_type=BC`` or ``id=1,2,3``: a list of values means any of them."""
    filters: dict[str, Any] = {}
    for word in words:
        column, sign, text = word.partition("=")
        if not sign or not column:
            raise typer.BadParameter(f"{word!r} is not a filter; write COLUMN=VALUE, or COLUMN=VALUE,VALUE")
        if column in filters:
            raise typer.BadParameter(
                f"{column} is filtered twice; write {column}=VALUE,VALUE for any of them"
            )
        values = [_value(part) for part in text.split(",")]
        filters[column] = values if len(values) > 1 else values[0]
    return filters


def _value(text: str) -> Any:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    # Python's own rules take more words for numbers: 10_2, nan, infinity
    if re.fullmatch("[-+]?[0-9]{1,30}", text):
        return int(text)
    if re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        return float(text)
    return text
