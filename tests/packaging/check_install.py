"""What an installed copy must show; tox runs ``python -I check_install.py KIND CHECKOUT`` elsewhere.

A package called ``datasets`` (Hugging Face's, in many environments) stands in the same site-packages; it must
never be imported and its YAML files must never be taken for ours.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path


def main(kind: str, checkout: Path) -> int:
    site = Path(sysconfig.get_paths()["purelib"])
    with tempfile.TemporaryDirectory(dir=site, prefix="other_") as folder:
        stranger = Path(folder) / "datasets"
        stranger.mkdir()
        (stranger / "__init__.py").write_text('raise ImportError("somebody else\'s package was imported")\n')
        (stranger / "not_ours.yaml").write_text("name: not_ours\n")
        sys.path.insert(0, folder)
        return check(kind, checkout)


def foreign_files() -> list[str]:
    """Say which files of the wheel have no business in it, and which of its parts are missing."""
    files = {path.as_posix() for path in metadata.files("cortexclient") or ()}
    kinds = {".py", ".pyi", ".typed", ".yaml", ".json", ".css"}
    # beside the package: what installers write about it, and the command in a folder of programs
    package = {name for name in files if ".dist-info/" not in name and not name.startswith("..")}
    package = {name for name in package if "__pycache__" not in name}
    foreign = {
        name for name in package if not name.startswith("cortexclient/") or Path(name).suffix not in kinds
    }
    wanted = {
        "cortexclient/py.typed",
        "cortexclient/_specs/sandbox.yaml",
        "cortexclient/spec/codes.yaml",
        "cortexclient/sandbox/routes/home.css",
    }
    return [f"not part of the package: {name}" for name in sorted(foreign)] + [
        f"missing in the wheel: {name}" for name in sorted(wanted - files)
    ]


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
    if "datasets" in sys.modules:
        problems.append("a top-level package `datasets` was imported")
    if not (home.parent / "py.typed").is_file():
        problems.append("py.typed is missing: type checkers would not look at the annotations")
    if kind == "wheel":
        problems += foreign_files()
    wrong = [name for name in expected if cortexclient.get_spec(name).name != name]
    if wrong:
        problems.append(f"get_spec gives another dataset for {wrong}")
    for problem in problems:
        sys.stderr.write(f"{kind}: {problem}\n")
    sys.stdout.write(f"{kind}: {len(listed)} datasets: {', '.join(listed)}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]).resolve()))
