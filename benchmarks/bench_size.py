"""Count lines and files of the package by part, with docstrings, at one revision or several.

Run it with ``python benchmarks/bench_size.py [--markdown] d6f633f HEAD`` in a clone.
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
    markdown = "--markdown" in sys.argv
    revisions = [word for word in sys.argv[1:] if word != "--markdown"] or ["HEAD"]
    counts = [count(revision) for revision in revisions]
    parts = sorted({part for found in counts for part in found} - {"sandbox", "tests"})
    rows = {part: [part] for part in [*parts, "sandbox", "tests"]}
    rows |= {"all but the sandbox": parts, "package": [*parts, "sandbox"]}
    heads = [f"{revision} {what}" for revision in revisions for what in ("files", "lines")]
    print(f"| part | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}" if markdown else f"{'':<22}{heads}")
    for title, chosen in rows.items():
        sums = [
            sum(found.get(part, (0, 0))[place] for part in chosen) for found in counts for place in (0, 1)
        ]
        cells = [f"{number:,}" for number in sums]
        print(
            f"| {title} | {' | '.join(cells)} |"
            if markdown
            else f"{title:<22}" + "".join(f"{c:>9}" for c in cells)
        )


if __name__ == "__main__":
    main()
