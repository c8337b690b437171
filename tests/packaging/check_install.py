"""What an installed copy must show; tox runs ``python -I check_install.py KIND CHECKOUT`` elsewhere.

A package called ``datasets`` (Hugging Face's, in many environments) stands in the same site-packages; it must
never be imported and its YAML files must never be taken for ours.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
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
    wrong = [name for name in expected if cortexclient.get_spec(name).name != name]
    if wrong:
        problems.append(f"get_spec gives another dataset for {wrong}")
    for problem in problems:
        sys.stderr.write(f"{kind}: {problem}\n")
    sys.stdout.write(f"{kind}: {len(listed)} datasets: {', '.join(listed)}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]).resolve()))
