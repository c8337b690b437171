"""Running a command: what it may raise becomes a message and an exit status."""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from cortexclient.errors import CortexError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

__all__ = ["run"]


def run(app: typer.Typer, words: Sequence[str], *, debug: bool) -> int:
    """Run a command line and give its exit status.

    Parameters
    ----------
    app : typer.Typer
        The commands.
    words : sequence of str
        The command line without the program's name.
    debug : bool
        Whether errors keep their tracebacks and warnings of dependencies are shown.
    """
    import typer.main

    from cortexclient.cli.output import error_console, speak_utf8

    speak_utf8()
    _quiet(debug)
    command = typer.main.get_command(app)
    try:
        result = command.main(args=list(words), prog_name="cortexclient", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Exit as finished:
        return finished.exit_code
    except (KeyboardInterrupt, typer.Abort):
        error_console().print("interrupted")
        return 130
    except _usage_error() as error:
        error.show()
        return int(error.exit_code)
    except BrokenPipeError:
        # the reader of our output has gone; keep the interpreter from complaining about it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CortexError, OSError, ValueError, TypeError) as error:
        if debug or not (isinstance(error, CortexError | OSError) or _is_advice(error)):
            raise
        error_console().print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        return 1


def _quiet(debug: bool) -> None:
    """Keep the notes of dependencies (deprecations, pools, beta features) out of the user's sight, unless asked for."""
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
    from rich.markup import escape

    from cortexclient.cli.output import error_console

    error_console().print(f"[yellow]warning:[/] {escape(str(message))}", highlight=False, soft_wrap=True)


def _usage_error() -> Any:
    """Give the class of errors about the command line itself: click's, or that of the click inside newer typers."""
    import typer

    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _is_advice(error: BaseException) -> bool:
    """Whether a built-in error was raised by this package about an argument, so that its message says what to do."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("cortexclient.")


def _plain(error: BaseException) -> str:
    from rich.markup import escape

    return escape(str(error).strip() or type(error).__name__)
