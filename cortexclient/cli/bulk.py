"""``cortexclient bulk``: jobs over many neurons, which continue where they were when the same line runs again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import typer

from cortexclient.cli.options import Client, dataset_command, ids_from, made_from
from cortexclient.cli.output import note, say
from cortexclient.cli.shapes import Transform
from cortexclient.ids import as_ids
from cortexclient.types import TransformName

if TYPE_CHECKING:
    import pandas as pd

    from cortexclient.bulk import Bulk, BulkResult

    Job: TypeAlias = Bulk
else:
    Job = Any  # typer reads annotations

__all__ = ["register_commands"]

PANEL = "Jobs"
_COLUMNS = ("root_id", "pt_root_id")
_NAMED = 10

Roots = Annotated[
    Path | None,
    typer.Option(
        "--roots",
        metavar="FILE",
        help="Root ids: text, one per line; .csv or .parquet with a column root_id or pt_root_id; - is a pipe.",
    ),
]
Role = Annotated[
    str | None,
    typer.Option("--table", metavar="ROLE", help="Take the neurons of this table, or role."),
]
Place = Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="Folder or bucket to write to.")]
Dask = Annotated[
    str | None,
    typer.Option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster that does it."),
]
Rate = Annotated[float | None, typer.Option("--rate", metavar="N", help="Most neurons per second.")]
Batch = Annotated[int, typer.Option("--batch-size", min=1, max=500, help="Neurons in a batch.")]


class Format(StrEnum):
    """Format of skeletons."""

    swc = "swc"
    parquet = "parquet"


def register_commands(app: typer.Typer) -> None:
    """Add the ``bulk`` commands."""
    commands = typer.Typer(
        help="Work over many neurons; a job that is killed continues when it runs again.",
        no_args_is_help=True,
    )
    options: dict[str, tuple[Any, Any]] = {
        "roots": (Roots, None),
        "table": (Role, None),
        "dask": (Dask, None),
        "rate": (Rate, None),
        "batch_size": (Batch, 50),
    }
    for function in (skeletons, synapses, meshes, l2):
        of_client = made_from(_job, function, takes={"client": Client}, options=options)
        dataset_command(commands, function.__name__, panel=PANEL)(of_client)
    for command in commands.registered_commands:
        words = f"bulk {command.name} v1dd --roots roots.txt --out out/"
        command.epilog = f"[bold]Example:[/] cortexclient {words}"
    app.add_typer(commands, name="bulk", rich_help_panel="Shapes and pictures")


def skeletons(
    job: Job,
    out: Place,
    format: Annotated[Format, typer.Option(help="A file each, or rows.")] = Format.swc,  # noqa: A002
    transform: Annotated[Transform, typer.Option(help="none: as in the volume.")] = Transform.none,
) -> None:
    """Write the skeletons of many neurons."""
    space = None if transform is Transform.none else cast("TransformName", transform.value)
    _report(job.skeletons(out=out, format=format.value, transform=space))


def synapses(
    job: Job,
    out: Place,
    pre: Annotated[bool, typer.Option("--pre/--no-pre", help="Synapses that they make.")] = True,
    post: Annotated[bool, typer.Option("--post/--no-post", help="Synapses that they receive.")] = True,
) -> None:
    """Write the synapses of many neurons."""
    _report(job.synapses(out=out, pre=pre, post=post))


def meshes(job: Job, out: Place) -> None:
    """Write the meshes of many neurons."""
    _report(job.meshes(out=out))


def l2(job: Job, out: Place) -> None:
    """Write the level-2 ids of many neurons, with their attributes."""
    _report(job.l2(out=out))


def _job(*, client: Client, roots: Path | None, table: str | None, **options: Any) -> Job:
    if (roots is None) == (table is None):
        raise typer.BadParameter("give --roots FILE or --table ROLE: one of them says which neurons")
    ids = _ids_in(roots) if roots is not None else _ids_of(client, str(table))
    return client.bulk(ids, **options)


def _ids_in(file: Path) -> list[int]:
    if file.suffix.lower() not in {".csv", ".parquet"}:
        words = ["-"] if str(file) == "-" else file.read_text(encoding="utf-8").replace(",", " ").split()
        return ids_from(words)
    import pandas as pd

    if file.suffix.lower() == ".parquet":
        # without this, whole numbers of which one is missing are read as floats
        return _roots_in(pd.read_parquet(file, dtype_backend="numpy_nullable"), _COLUMNS, str(file))
    return _roots_in(pd.read_csv(file, dtype=dict.fromkeys(_COLUMNS, str)), _COLUMNS, str(file))


def _ids_of(client: Client, table: str) -> list[int]:
    """Return the neurons of a table; its rows without a segment are no neurons."""
    role = client.spec.tables.get(table)
    frame = client.query(table if role is None else role.name)
    return _roots_in(frame, _COLUMNS[::-1], f"table {table}")


def _roots_in(frame: pd.DataFrame, columns: tuple[str, ...], where: str) -> list[int]:
    column = next((name for name in columns if name in frame), None)
    if column is None:
        raise typer.BadParameter(
            f"{where} has no column {' or '.join(columns)}: give --roots FILE with root ids"
        )
    return [root for root in as_ids(frame[column].dropna(), column).tolist() if root > 0]


def _report(result: BulkResult) -> None:
    for root, reason in list(result.failures.items())[:_NAMED]:
        note(f"{root}: {reason}")
    if len(result.failures) > _NAMED:
        note(f"... and {len(result.failures) - _NAMED} more, in the files _batch-*.json")
    rows = "" if result.rows is None else f", {result.rows:,} rows"
    say(f"{len(result.done):,} done, {len(result.failures):,} failed{rows} -> {result.out}")
    if result.failures:
        raise typer.Exit(1)
