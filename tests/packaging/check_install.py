"""What an installed copy must show; tox runs ``python -I check_install.py KIND CHECKOUT`` elsewhere.

A package called ``datasets`` (Hugging Face's, in many environments) stands in the same site-packages; it must
never be imported and its YAML files must never be taken for ours. The wheel is checked before any of the extras is
installed: everything else works, and what is missing names its pip command.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# a module of each extra
EXTRAS = ("starlette", "duckdb", "matplotlib", "polars", "ossify", "navis")


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


def wrong_advice() -> Iterator[str]:
    """Say what works without its extra, or fails without naming it."""
    from cortexclient.errors import MissingExtraError

    for name in filter(importlib.util.find_spec, EXTRAS):
        yield f"{name} is installed, so this check proves nothing"
    for extra, use in CASES:
        try:
            use()
        except MissingExtraError as error:
            if command(extra) not in str(error):
                yield f"{use.__name__}: the message does not name the command: {error}"
        else:
            yield f"{use.__name__} works without the extra {extra}"
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
            yield f"cortexclient {words[0]}: status {done.returncode}\n{done.stdout}{done.stderr}"


def foreign_files() -> Iterator[str]:
    """Say which files of the wheel have no business in it, and which of its parts are missing."""
    files = {path.as_posix() for path in metadata.files("cortexclient") or ()}
    kinds = {".py", ".pyi", ".typed", ".yaml", ".json", ".css"}
    # beside the package: what installers write about it, and the command in a folder of programs
    package = {name for name in files if ".dist-info/" not in name and not name.startswith("..")}
    for name in sorted(name for name in package if "__pycache__" not in name):
        if not name.startswith("cortexclient/") or Path(name).suffix not in kinds:
            yield f"not part of the package: {name}"
    wanted = {
        "cortexclient/py.typed",
        "cortexclient/_specs/sandbox.yaml",
        "cortexclient/spec/codes.yaml",
        "cortexclient/sandbox/routes/home.css",
    }
    yield from (f"missing in the wheel: {name}" for name in sorted(wanted - files))


def check(kind: str, checkout: Path) -> int:
    import cortexclient

    home = Path(cortexclient.__file__).resolve()
    inside = home.is_relative_to(checkout / "cortexclient")
    expected = sorted(path.stem for path in (checkout / "datasets").glob("*.yaml"))
    listed = sorted(cortexclient.list_datasets())
    problems = []
    if inside != (kind == "editable"):
        problems.append(f"cortexclient was imported from {home}")
    if listed != expected or not expected:
        problems.append(f"list_datasets() gives {listed}, the folder holds {expected}")
    if not (home.parent / "py.typed").is_file():
        problems.append("py.typed is missing: type checkers would not look at the annotations")
    wrong = [name for name in expected if cortexclient.get_spec(name).name != name]
    if wrong:
        problems.append(f"get_spec gives another dataset for {wrong}")
    if kind == "wheel":
        problems += [*foreign_files(), *wrong_advice()]
    if "datasets" in sys.modules:
        problems.append("a top-level package `datasets` was imported")
    for problem in problems:
        sys.stderr.write(f"{kind}: {problem}\n")
    sys.stdout.write(f"{kind}: {len(listed)} datasets: {', '.join(listed)}\n")
    return 1 if problems else 0


def main(kind: str, checkout: Path) -> int:
    site = Path(sysconfig.get_paths()["purelib"])
    with tempfile.TemporaryDirectory(dir=site, prefix="other_") as folder:
        stranger = Path(folder) / "datasets"
        stranger.mkdir()
        (stranger / "__init__.py").write_text('raise ImportError("somebody else\'s package was imported")\n')
        (stranger / "not_ours.yaml").write_text("name: not_ours\n")
        sys.path.insert(0, folder)
        return check(kind, checkout)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]).resolve()))
