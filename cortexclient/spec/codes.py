"""The codes of problems: what each means, an example that has it, and the same example put right.

They are written down in ``codes.yaml`` beside this module; `docs/codes/` holds one page per code made from it, and the
tests run both examples of every code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cortexclient.spec.problems import close_names

__all__ = ["Code", "codes", "page"]


@dataclass(frozen=True, slots=True)
class Code:
    """One kind of problem.

    Attributes
    ----------
    code, title : str
    why : str
        What is behind it, and what to do.
    bad, good : str
        Lines of a file that has the problem, and the same without it.
    """

    code: str
    title: str
    why: str
    bad: str
    good: str


@cache
def codes() -> dict[str, Code]:
    """Return all codes, in their order."""
    import yaml

    content = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {name: Code(name, **entry) for name, entry in content.items()}


def page(code: str) -> str:
    """Write the page of a code, as Markdown.

    Raises
    ------
    ValueError
        If there is no such code.
    """
    wanted = code.strip().upper()
    if wanted not in codes():
        near = close_names(wanted, codes())
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(codes())}"
        raise ValueError(f"there is no code {code!r}; {hint}")
    entry = codes()[wanted]
    return (
        f"# {entry.code}: {entry.title}\n\n{entry.why}\n\n"
        f"Refused:\n\n```yaml\n{entry.bad.rstrip()}\n```\n\nRight:\n\n```yaml\n{entry.good.rstrip()}\n```\n"
    )
