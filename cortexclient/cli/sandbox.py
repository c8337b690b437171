"""``cortexclient sandbox``: the embedded CAVE server, for any other program to talk to."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from cortexclient.cli.output import say

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["register_commands"]


def register_commands(app: typer.Typer) -> None:
    """Add the ``sandbox`` commands."""
    commands = typer.Typer(
        help="A CAVE server on this machine: no account, no token, no network.", no_args_is_help=True
    )
    commands.command("serve")(serve)
    commands.command("convert")(convert)
    app.add_typer(commands, name="sandbox", rich_help_panel="Start here")


def serve(
    spec: Annotated[
        str | None,
        typer.Option(
            "--spec", help="Dataset (name or YAML file) whose names are served.", show_default="sandbox"
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    size: Annotated[
        str, typer.Option("--size", help="Size of the synthetic cortex: tiny, small or large.")
    ] = "small",
    data: Annotated[
        Path | None, typer.Option("--data", help="Serve this data folder instead of the synthetic cortex.")
    ] = None,
    row_limit: Annotated[
        int, typer.Option("--row-limit", min=1, help="Most rows of one response.")
    ] = 200_000,
    latency: Annotated[float, typer.Option("--latency", min=0, help="Seconds added to each response.")] = 0.0,
    auth: Annotated[bool, typer.Option("--auth", help="Refuse requests without the token.")] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict/--sane", help="Copy the oddities of the real services, or leave them out."),
    ] = True,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault", help="Fault to serve: KIND, or KIND@ROUTE such as 503@/query. May be repeated."
        ),
    ] = None,
) -> None:
    """Serve until interrupted; prints the address, the datastack and a token that is no secret."""
    from cortexclient.sandbox import Sandbox

    # the handlers come first: a signal while the cortex is being built must end the process cleanly, too
    stop = threading.Event()
    interrupted = _Interruption(stop)
    with interrupted:
        sandbox = Sandbox(
            spec,
            data=data,
            size=size,
            port=port,
            row_limit=row_limit,
            latency=latency,
            auth=auth,
            strict=strict,
            faults=[_fault(text) for text in fault or ()],
        )
        with sandbox:
            say(f"url        {sandbox.url}")
            say(f"datastack  {sandbox.datastack}")
            say(f"token      {sandbox.token}")
            say(f"start page {sandbox.url}/  (stop with Ctrl-C)")
            interrupted.serving = True
            stop.wait()
    say("stopped")


def convert(
    source: Annotated[
        Path, typer.Argument(help="An .osy file, or a folder with a response of the skeleton service.")
    ],
    destination: Annotated[Path, typer.Argument(help="Data folder to write.")],
    info: Annotated[
        Path, typer.Option("--info", help="JSON file with the graphene info of the cell's datastack.")
    ],
    graph: Annotated[
        Path | None, typer.Option("--graph", help="A second .osy file to take the level-2 edges from.")
    ] = None,
) -> None:
    """Make a data folder out of a recorded cell, for `cortexclient sandbox serve --data`."""
    from cortexclient.sandbox.convert import convert_cell

    folder = convert_cell(source, destination, info=info, graph=graph)
    say(f"wrote {folder.path}")


class _Interruption:
    """Ctrl-C and SIGTERM end the serving quietly, and anything before it with an exception that cleans up."""

    def __init__(self, stop: threading.Event) -> None:
        self.serving = False
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._stop.set()
        if not self.serving:
            raise typer.Exit(code=128 + number)


def _fault(text: str) -> Any:
    from cortexclient.sandbox import Fault

    kind, _, route = text.partition("@")
    try:
        return Fault(kind, route=route or "/")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
