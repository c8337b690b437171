"""The command line: one command per verb of the API; every failure becomes one message and an exit status.

Every command module has a ``register_commands(app)``. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cortexclient import __version__
from cortexclient.errors import CortexError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["build_app", "main", "run"]

# in the order in which `cortexclient --help` shows them
MODULES = (
    "demo",
    "specs",
    "queries",
    "shapes",
    "bulk",
    "sandbox",
    "account",
    "disk",
    "mcp",
)

HELP = ["-h", "--help"]
EXAMPLES = {
    "demo": "cortexclient demo --out neuron.png",
    "list": "cortexclient list",
    "show": "cortexclient show minnie_public",
    "where": "cortexclient where",
    "cite": "cortexclient cite minnie_public",
    "validate": "cortexclient validate my_lab.yaml",
    "schema": "cortexclient schema --out dataset.schema.json",
    "trust": "cortexclient trust cave.my.lab",
    "new": "cortexclient new lab --server https://cave.my.lab --datastack v1",
    "check": "cortexclient check my_lab.yaml",
    "diff": "cortexclient diff my_lab.yaml --live",
    "tables": "cortexclient tables sandbox",
    "query": "cortexclient query sandbox cell_types --where cell_type=BC --limit 5",
    "versions": "cortexclient versions sandbox",
    "exports": "cortexclient exports sandbox",
    "pull": "cortexclient pull minnie_public@1300 nucleus_detection_v0",
    "store list": "cortexclient store list minnie_public",
    "store verify": "cortexclient store verify minnie_public",
    "store remove": "cortexclient store remove minnie_public@1300 nucleus_detection_v0",
    "export": "cortexclient export sandbox cell_types 3 --out types.parquet",
    "cell-id-to-root-id": "cortexclient cell-id-to-root-id sandbox 301357",
    "root-id-to-cell-id": "cut -d, -f2 roots.csv | cortexclient root-id-to-cell-id sandbox -",
    "latest-roots": "cortexclient latest-roots minnie_public 864691135336055529",
    "synapses": "cortexclient synapses sandbox 648518346341352313 --pre",
    "l2-ids": "cortexclient l2-ids minnie_public 864691135336055529 --attributes",
    "skeleton": "cortexclient skeleton minnie_public 864691135336055529 -o neuron.swc",
    "mesh": "cortexclient mesh minnie_public 864691135336055529 -o neuron.ply",
    "link": "cortexclient link minnie_public 864691135336055529 --synapses",
    "plot": "cortexclient plot minnie_public 864691135336055529 -o neuron.png",
    "sandbox serve": "cortexclient sandbox serve --port 5000",
    "sandbox convert": "cortexclient sandbox convert cell.osy folder --info info.json",
    "mcp": "cortexclient mcp --dataset minnie_public",
    "login": "cortexclient login minnie_public",
    "doctor": "cortexclient doctor minnie_public",
    "cache info": "cortexclient cache info",
    "cache clear": "cortexclient cache clear --older-than 90",
    "cache verify": "cortexclient cache verify",
}
"""One line that works for each command; its ``--help`` ends with it."""


def build_app() -> typer.Typer:
    """Make the command line out of the command modules."""
    app = typer.Typer(
        name="cortexclient",
        help="One client for every CAVE connectomics dataset.",
        epilog="[bold]Start here:[/] cortexclient demo",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": HELP},
    )
    app.callback()(_options)
    for name in MODULES:
        importlib.import_module(f"cortexclient.cli.{name}").register_commands(app)
    groups = [("", app), *((f"{entry.name} ", entry.typer_instance) for entry in app.registered_groups)]
    for prefix, group in groups:
        for command in group.registered_commands if group is not None else ():
            if (example := EXAMPLES.get(f"{prefix}{command.name}")) and not command.epilog:
                command.epilog = f"[bold]Example:[/] {example}"
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from cortexclient.cli.output import say

        say(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where errors come from; may stand anywhere in the line.")
    ] = False,
) -> None:
    """One client for every CAVE connectomics dataset."""


# -- running ---------------------------------------------------------------------------------------------------


def run(app: typer.Typer, words: Sequence[str], *, debug: bool) -> int:
    """Run words of a command line and return the exit status; ``debug`` keeps tracebacks and warnings."""
    import typer.main

    from cortexclient.cli.output import for_the_shell, note, speak_utf8

    speak_utf8()
    _quiet(debug)
    command = typer.main.get_command(app)
    _without_flag_types(command)
    try:
        result = command.main(args=list(words), prog_name="cortexclient", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Exit as finished:
        return finished.exit_code
    except (KeyboardInterrupt, typer.Abort):
        note("interrupted")
        return 130
    except _usage_error() as error:
        error.show()
        return int(error.exit_code)
    except SystemExit as ended:
        if getattr(ended.__context__, "errno", None) != errno.EPIPE:
            raise
        return _reader_has_gone()
    except BrokenPipeError:
        return _reader_has_gone()
    except (CortexError, OSError, ValueError, TypeError) as error:
        if debug or not (isinstance(error, CortexError | OSError) or _is_advice(error)):
            raise
        dataset = next((word for word in words[1:] if _names_a_dataset(word)), "DATASET")
        message = for_the_shell(str(error).strip() or type(error).__name__, dataset)
        note(message, label="error: ", style="bold red")
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; ``arguments`` are the words after the program's name, by default those of this process.

    Our own errors are printed as one message and end with status 1; ``--debug``, anywhere in the line, shows where they
    come from. The exit status is 0 done, 1 failed, 2 misunderstood, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    return run(build_app(), words, debug=debug)


def _names_a_dataset(word: str) -> bool:
    from cortexclient.registry import exists

    return word.endswith((".yaml", ".yml")) or exists(word.partition("@")[0])


def _reader_has_gone() -> int:
    """End quietly: the reader of the output has what it wanted (``| head``), which is no failure."""
    # keeps the interpreter from complaining at its end
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _without_flag_types(command: Any) -> None:
    """Let the help show no ``<bool>`` beside options that take no value."""
    context = typer.Context(command, help_option_names=HELP)
    helps = [command.get_help_option(context)] if hasattr(command, "get_help_option") else []
    for parameter in [*command.params, *helps]:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for child in getattr(command, "commands", {}).values():
        _without_flag_types(child)


def _quiet(debug: bool) -> None:
    """Hide the notes of dependencies (deprecations, pools, beta features), unless debugging."""
    import logging

    # some dependencies give the root logger a handler when they are imported, unless it has one already
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR)
    if not debug:
        from cortexclient.registry import SpecWarning

        warnings.simplefilter("ignore")
        # ours are meant for the user: a dataset that is deprecated, old, or hides another
        warnings.simplefilter("always", SpecWarning)
        warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_where: Any, **_also: Any) -> None:
    from cortexclient.cli.output import note

    note(str(message), label="warning: ", style="bold")


def _usage_error() -> Any:
    """Return the class of errors about the command line itself: click's, or that of the click inside newer typers."""
    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _is_advice(error: BaseException) -> bool:
    """Return whether a built-in error was raised by this package about an argument, with a message that helps."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("cortexclient.")
