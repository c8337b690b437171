"""How many exchanges of the recording are answered alike, by group.

``python -m tests.conformance.score FOLDER`` prints the table of ``docs/conformance.md``; ``--write`` rewrites the page,
``--differences`` prints what differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.conformance.compare import compare
from tests.conformance.known_differences import KNOWN
from tests.conformance.replay import Replay, read_exchanges

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
START, END = "<!-- score: begin -->", "<!-- score: end -->"


@dataclass
class Score:
    """Outcome of one replay."""

    groups: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    differences: dict[int, list[str]] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """Number of exchanges."""
        return sum(len(numbers) for numbers in self.groups.values())

    @property
    def alike(self) -> int:
        """Number of exchanges answered alike."""
        return self.asked - len(self.differences)

    def table(self) -> str:
        """Markdown table by group, in the order of the recording."""
        lines = ["| group | exchanges | alike |", "|---|---:|---:|"]
        for group, numbers in self.groups.items():
            alike = sum(number not in self.differences for number in numbers)
            lines.append(f"| {group} | {len(numbers)} | {alike} |")
        lines.append(f"| **all** | **{self.asked}** | **{self.alike}** |")
        return "\n".join(lines)


def replay(folder: Path) -> Score:
    """Ask everything that was asked of the real services, and compare."""
    score = Score()
    with tempfile.TemporaryDirectory() as scratch, Replay(folder, Path(scratch)) as asked:
        exchanges = read_exchanges(folder)
        for exchange in exchanges:
            score.groups[exchange["group"]].append(exchange["n"])
        for exchange, answer in asked.run(exchanges):
            found = _compared(exchange, answer)
            if found:
                score.differences[exchange["n"]] = found
    return score


def _compared(exchange: dict[str, Any], answer: Any) -> list[str]:
    if isinstance(answer, requests.RequestException):
        return [f"no answer: {answer}"]
    try:
        return compare(exchange, answer)
    except (ValueError, KeyError, TypeError, OSError):  # an answer so strange that it cannot be compared
        return [traceback.format_exc(limit=-2)]


def page(score: Score) -> str:
    """Page of the documentation with a fresh table."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    known = "\n".join(
        f"| {number} | {reason} |" for number, reason in sorted(KNOWN.items()) if number in score.differences
    )
    listed = f"\n\n| exchange | why it differs |\n|---:|---|\n{known}" if known else ""
    return f"{before}{START}\n{score.table()}{listed}\n{END}{after}"


def main() -> int:
    """Print or write the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the recording")
    parser.add_argument("--write", action="store_true", help="rewrite docs/conformance.md")
    parser.add_argument("--differences", action="store_true", help="print what differs")
    options = parser.parse_args()
    score = replay(options.folder)
    out = [score.table()]
    if options.differences:
        by_number = {number: group for group, numbers in score.groups.items() for number in numbers}
        for number, found in sorted(score.differences.items()):
            out.append(f"{number} [{by_number[number]}] {'; '.join(found)[:600]}")
    sys.stdout.write("\n".join(out) + "\n")
    if options.write:
        PAGE.write_text(page(score), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
