"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cortexclient.client import DatasetClient

__all__ = ["Dataset", "Moment", "Out", "Server", "Version", "ids_from", "open_client"]

Dataset = Annotated[
    str, typer.Argument(help="Name, alias or YAML file of a dataset; `cortexclient list` shows the names.")
]
Version = Annotated[
    int | None, typer.Option("--version", "-v", help="Materialized version to look at.", show_default=False)
]
Moment = Annotated[
    str | None,
    typer.Option(
        "--timestamp",
        "-t",
        help="Moment to look at instead, ISO 8601; UTC where it names no zone.",
        show_default=False,
    ),
]
Server = Annotated[
    str | None,
    typer.Option("--server", help="Ask this global server instead of the dataset's own.", show_default=False),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="File to write: .csv, .csv.gz, .parquet, .feather or .json (there, ids beyond 2^53 are texts).",
        show_default=False,
    ),
]


def open_client(
    dataset: str, version: int | None = None, timestamp: str | None = None, server: str | None = None
) -> DatasetClient:
    """Load a dataset with the options of the command line."""
    import cortexclient

    return cortexclient.load(dataset, version=version, timestamp=timestamp, server_address=server)


def ids_from(words: list[str]) -> list[int]:
    """Ids out of command-line words: numbers, or ``-`` for one per line (or comma) from standard input.

    Raises
    ------
    typer.BadParameter
        If a word is not a whole number.
    """
    import sys

    if words == ["-"]:
        words = sys.stdin.read().replace(",", " ").split()
    return [_id(word) for word in words]


def _id(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise typer.BadParameter(f"{word!r} is not an id; an id is a whole number") from None


def filters_from(words: list[str]) -> dict[str, Any]:
    """Read filters out of words such as ``cell_type=BC`` or ``id=1,2,3``: a list of values means any of them.

    Raises
    ------
    typer.BadParameter
        If a word has no ``=``.
    """
    filters: dict[str, Any] = {}
    for word in words:
        column, sign, text = word.partition("=")
        if not sign or not column:
            raise typer.BadParameter(f"{word!r} is not a filter; write COLUMN=VALUE, or COLUMN=VALUE,VALUE")
        values = [_value(part) for part in text.split(",")]
        filters[column] = values if len(values) > 1 else values[0]
    return filters


def _value(text: str) -> Any:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
