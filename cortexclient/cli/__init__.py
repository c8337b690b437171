"""The command line: one command per verb of the API.

Every command module has a ``register_commands(app)``; `cortexclient.cli.app` puts them together. Nothing heavy is
imported before a command needs it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Our own errors are printed as one message and end with status 1; ``--debug``, anywhere in the line, shows where they
    come from.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after the program's name. Default: those of this process.

    Returns
    -------
    int
        Exit status: 0 done, 1 failed, 2 misunderstood, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    from cortexclient.cli.app import build_app, run

    return run(build_app(), words, debug=debug)
