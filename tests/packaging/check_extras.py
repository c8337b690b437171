"""What an installation without extras must show: everything else works, and what is missing names its pip command.

tox runs ``python -I check_extras.py`` before it installs any of the extras.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# a module of each extra -> the extra
EXTRAS = {
    "starlette": "sandbox",
    "duckdb": "sandbox",
    "matplotlib": "plot",
    "polars": "polars",
    "ossify": "ossify",
    "navis": "navis",
}


def sandbox() -> None:
    from cortexclient.sandbox import Sandbox

    Sandbox()


def sandbox_dataset() -> None:
    import cortexclient

    cortexclient.load("sandbox").tables.table_names  # noqa: B018 - asking is what starts the sandbox


def figure() -> None:
    from cortexclient.plotting import plot_synapse_depths

    plot_synapse_depths(post=[1.0])


def cell() -> None:
    from cortexclient.services.skeletons.build import require_ossify

    require_ossify()


def tree() -> None:
    from cortexclient.services.navis_neurons import require_navis

    require_navis()


CASES: tuple[tuple[str, Callable[[], None]], ...] = (
    ("sandbox", sandbox),
    ("sandbox", sandbox_dataset),
    ("plot", figure),
    ("ossify", cell),
    ("navis", tree),
)


def command(extra: str) -> str:
    return f'python -m pip install "cortexclient[{extra}]"'


def main() -> int:
    from cortexclient.errors import MissingExtraError

    problems = [
        f"{name} is installed, so this check proves nothing"
        for name in EXTRAS
        if importlib.util.find_spec(name)
    ]
    for extra, use in CASES:
        try:
            use()
        except MissingExtraError as error:
            if command(extra) not in str(error):
                problems.append(f"{use.__name__}: the message does not name the command: {error}")
        else:
            problems.append(f"{use.__name__} works without the extra {extra}")
    program = "import sys; from cortexclient.cli import main; sys.exit(main({words}))"
    for words, status, told in ((["list"], 0, "minnie_public"), (["demo"], 1, command("sandbox"))):
        done = subprocess.run(
            [sys.executable, "-I", "-c", program.format(words=words)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != status or told not in done.stdout + done.stderr or "Traceback" in done.stderr:
            problems.append(f"cortexclient {words[0]}: status {done.returncode}\n{done.stdout}{done.stderr}")
    for problem in problems:
        sys.stderr.write(f"extras: {problem}\n")
    sys.stdout.write(f"extras: {len(CASES) + 2} things tried without them\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
