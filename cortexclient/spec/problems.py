"""What is wrong with a spec file: one `Problem` per mistake, all of them in one `SpecError`.

Each kind has a code. ``codes.yaml`` beside this module explains the codes, with an example that has the problem and the
same example without it; the tests run both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from cortexclient.errors import SpecError
from cortexclient.spec.nodes import MappingNode, ScalarNode, find

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cortexclient.spec.dataset import DatasetSpec

__all__ = [
    "MAX_SHOWN",
    "OLD_AFTER_DAYS",
    "Code",
    "Problem",
    "clip",
    "close_names",
    "codes",
    "did_you_mean",
    "dotted",
    "explain",
    "implausible",
    "raise_problems",
    "report",
    "short",
    "warnings_for",
    "without_repeats",
]

# a file with more mistakes than this is not a spec; the first ones are enough
MAX_SHOWN = 100


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in a spec.

    Attributes
    ----------
    file : str
        The file, or a name for what was given instead of one (``<mapping>``).
    line, column : int
        Where, counted from 1; 0 where there is no text to point into.
    code : str
        Stable code such as ``CX201``; see `explain`.
    path : str
        Dotted path of the value, for example ``versions[2].timestamp``; empty for the entire file.
    message : str
        What is wrong.
    advice : str
        What to do about it.
    severity : {"error", "warning"}
        A warning does not keep the dataset from being loaded.
    """

    file: str
    line: int
    column: int
    code: str
    path: str
    message: str
    advice: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        subject = f"{self.path}: " if self.path else ""
        kind = "warning: " if self.severity == "warning" else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{place} {self.code} {kind}{subject}{self.message}{advice}"

    def as_dict(self) -> dict[str, str | int]:
        """Return the fields as a plain mapping, for ``--json``."""
        return asdict(self)


def dotted(parts: Iterable[str | int]) -> str:
    """Format a path as ``versions[2].timestamp``."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{clip(part)}" if text else clip(part)
    return text


def clip(part: str) -> str:
    """Shorten a word, without control characters."""
    shown = part if part.isprintable() else ascii(part)[1:-1]
    return shown if len(shown) <= 60 else shown[:57] + "..."


def short(value: object) -> str:
    """Format a value for a message, at most a line of it."""
    if isinstance(value, date):
        return value.isoformat()
    # cut first: the repr of a megabyte is another megabyte
    text = repr(value[:100] if isinstance(value, str | bytes | list | tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def close_names(word: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Return the known words that are similar to `word`, closest first."""
    if len(word) > 80:  # difflib is quadratic in the length, and nobody mistypes a name into a paragraph
        return []
    by_folded = {name.casefold(): name for name in known}
    folded = word.casefold().replace("-", "_").replace(" ", "_")
    matches = get_close_matches(folded, by_folded, n=count, cutoff=0.6)
    # a second guess helps only where it is nearly as good as the first
    likeness = [SequenceMatcher(None, folded, match).ratio() for match in matches]
    return [
        by_folded[match] for match, ratio in zip(matches, likeness, strict=True) if ratio > likeness[0] - 0.15
    ]


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return a question that names the known words similar to `word`, or another text if there is none."""
    guesses = close_names(word, known)
    return f"did you mean {' or '.join(guesses)}?" if guesses else otherwise


def without_repeats(first: Sequence[Problem], later: Iterable[Problem]) -> list[Problem]:
    """Leave out of `later` what complains again about a value whose very notation was refused."""
    refused = {problem.path for problem in first if problem.code in {"CX105", "CX107"}}
    return [problem for problem in later if problem.path not in refused]


def report(problems: Sequence[Problem]) -> str:
    """All problems as text, one line each, in the order of the file."""
    shown = sorted(problems)[:MAX_SHOWN]
    lines = [str(problem) for problem in shown]
    if len(problems) > len(shown):
        lines.append(f"... and {len(problems) - len(shown)} more")
    return "\n".join(lines)


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one `SpecError` with all errors among `problems`; do nothing where there are only warnings."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    error = SpecError(report(errors))
    error.problems = tuple(sorted(errors))
    raise error


# -- codes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of problem: what is behind it and what to do, lines that have it, and the same without it."""

    code: str
    title: str
    why: str
    bad: str
    good: str


@cache
def codes() -> dict[str, Code]:
    """Return all codes, in their order."""
    import yaml

    content = yaml.safe_load(Path(__file__).with_name("codes.yaml").read_text(encoding="utf-8"))
    return {name: Code(name, **entry) for name, entry in content.items()}


def explain(code: str) -> str:
    """Explain a code, as Markdown; raise `ValueError` where there is none of that name."""
    wanted = code.strip().upper()
    if wanted not in codes():
        hint = did_you_mean(wanted, codes(), f"there are {', '.join(codes())}")
        raise ValueError(f"there is no code {code!r}; {hint}")
    entry = codes()[wanted]
    return (
        f"# {entry.code}: {entry.title}\n\n{entry.why}\n\n"
        f"Refused:\n\n```yaml\n{entry.bad.rstrip()}\n```\n\nRight:\n\n```yaml\n{entry.good.rstrip()}\n```\n"
    )


# -- warnings about a spec that can be used but could be better ------------------------------------------------


Place: TypeAlias = tuple[str | int, ...]

OLD_AFTER_DAYS = 540
SMALLEST_VOXEL_NM, LARGEST_VOXEL_NM = 0.5, 2000.0
"""Voxels of electron microscopy lie between these, by a wide margin."""
DEEPEST_UM = 30_000.0
# of standard_transform 2.0; importing the package itself would take half a second
_TRANSFORMS = {"minnie65": {"1.4"}, "v1dd": {"1.4", "2.0"}}


def warnings_for(spec: DatasetSpec, root: MappingNode, today: date | None = None) -> Iterator[Problem]:
    """Yield warnings about what a reviewer of the file would miss."""
    yield from _unknown_transform(spec, root)
    yield from _old_facts(spec, root, today or datetime.now(UTC).date())
    for place, message, advice in _omissions(spec):
        yield _at(root, place, "CX504", message, advice)


def _omissions(spec: DatasetSpec) -> Iterator[tuple[Place, str, str]]:
    if not spec.sources and spec.host:  # a server that this machine starts needs no source
        advice = "add sources: dotted paths, each with source and checked, or verified: false and a note"
        yield (), "the file does not say where its facts are from", advice
    for path, fact in spec.sources.items():
        if not (fact.source or fact.note):
            message = "this says neither where the fact is from nor what is uncertain"
            yield ("sources", path), message, "add source or note"
    if spec.access is None:
        advice = "add access: level public, login or group"
        yield (), "the file does not say who may read the dataset", advice
    elif spec.access.level != "public" and spec.access.note is None:
        yield ("access",), "the file does not say how to get access", "add access.note: one sentence"
    if spec.citation is None:
        yield (), "there is no citation", "add citation.doi, or citation.note if nothing is published yet"
    if spec.license is None:
        yield (), "there is no licence", "add license.name; `unverified` is an honest one"


def _unknown_transform(spec: DatasetSpec, root: MappingNode) -> Iterator[Problem]:
    transform = spec.transform
    if transform is None or transform.dataset is None:
        return
    name, version = transform.dataset, transform.version
    if name not in _TRANSFORMS:
        instead = "declare the steps, which need no release of standard_transform"
        advice = did_you_mean(name, _TRANSFORMS, "").replace("?", "? else ") + instead
        message = f"standard_transform 2.0 has no dataset {name!r}"
        yield _at(root, ("transform",), "CX502", message, advice)
    elif version is not None and version not in _TRANSFORMS[name]:
        advice = f"it has {' and '.join(sorted(_TRANSFORMS[name]))}"
        message = f"standard_transform 2.0 has no version {version} of {name}"
        yield _at(root, ("transform", "version"), "CX502", message, advice)


def implausible(spec: DatasetSpec, root: MappingNode) -> Iterator[Problem]:
    """Yield warnings about lengths that are probably in another unit than that of their key."""
    owners: dict[Place, Any] = {(): spec, ("synapses",): spec.synapses}
    owners |= {("tables", role): table for role, table in spec.tables.items()}
    for place, owner in owners.items():
        size = owner.voxel_resolution if owner is not None else None
        if size is None or (min(size) >= SMALLEST_VOXEL_NM and max(size) <= LARGEST_VOXEL_NM):
            continue
        shown = ", ".join(f"{length:g}" for length in size)
        if max(size) < 1:
            scaled = ", ".join(f"{length * 1000:g}" for length in size)
            advice = f"lengths are in nm: if these are um, write [{scaled}]"
        else:
            advice = "lengths are in nm; compare with the metadata of the table"
        message = f"[{shown}] is hardly the size of a voxel in nm"
        yield _at(root, (*place, "voxel_resolution"), "CX505", message, advice)
    depths: dict[Place, float | None] = {("depth_range_um",): spec.depth_range_um and spec.depth_range_um[1]}
    depths |= {("layers", number): layer.bottom_um for number, layer in enumerate(spec.layers)}
    for path, depth in depths.items():
        if depth is not None and depth > DEEPEST_UM:
            message = f"{depth:g} um is hardly a depth in a brain"
            yield _at(
                root, path, "CX505", message, f"depths are in um: if this is nm, write {depth / 1000:g}"
            )


def _at(root: MappingNode, path: Place, code: str, message: str, advice: str) -> Problem:
    node, mark, _ = find(root, path)
    mark = node.mark if isinstance(node, ScalarNode) else mark
    return Problem(*mark, code, dotted(path), message, advice, severity="warning")


def _old_facts(spec: DatasetSpec, root: MappingNode, today: date) -> Iterator[Problem]:
    days: dict[Place, date | None] = {("sources", path): fact.checked for path, fact in spec.sources.items()}
    days[("license",)] = spec.license.checked if spec.license is not None else None
    for place, day in days.items():
        if day is not None and (today - day).days > OLD_AFTER_DAYS:
            message = f"last checked on {day}, {(today - day).days // 30} months ago"
            yield _at(root, (*place, "checked"), "CX503", message, "check it and write the new date")
