"""Count lines and files of the package by part, with docstrings, at one revision or several.

Run it with ``python benchmarks/bench_size.py d6f633f HEAD`` in a clone.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout  # noqa: S607


def part_of(path: str) -> str:
    """Return the part that a file belongs to: a package, ``tests``, or the modules at the top."""
    names = path.split("/")
    if names[0] == "tests":
        return "tests"
    return names[1] if len(names) > 2 else "(modules)"


def count(revision: str) -> dict[str, tuple[int, int]]:
    """Return part -> files, lines."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path in git("ls-tree", "-r", "--name-only", revision, "cortexclient", "tests").splitlines():
        if path.endswith(".py"):
            files[part_of(path)] += 1
            lines[part_of(path)] += git("show", f"{revision}:{path}").count("\n")
    return {part: (files[part], lines[part]) for part in files}


def main() -> None:
    revisions = sys.argv[1:] or ["HEAD"]
    counts = [count(revision) for revision in revisions]
    parts = sorted({part for found in counts for part in found} - {"sandbox", "tests"})
    print(f"{'':<22}" + "".join(f"{revision:>18}" for revision in revisions))
    for part in [*parts, "sandbox", "tests"]:
        cells = (found.get(part, (0, 0)) for found in counts)
        print(f"{part:<22}" + "".join(f"{files:>8} {lines:>9,}" for files, lines in cells))
    for title, chosen in (("all but the sandbox", parts), ("package", [*parts, "sandbox"])):
        sums = [
            [sum(found.get(part, (0, 0))[place] for part in chosen) for place in (0, 1)] for found in counts
        ]
        print(f"{title:<22}" + "".join(f"{files:>8} {lines:>9,}" for files, lines in sums))


if __name__ == "__main__":
    main()
