"""Every code of a problem is explained, by examples that really have it and really do not."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from cortexclient.registry.validation import validate
from cortexclient.spec.problems import codes, explain

MINIMAL = "name: my_brain\ntitle: My brain\nserver_address: https://cave.my.lab\ndatastack: my_brain_v1\n"
WHOLE = ("CX108",)


def _content(code: str, text: str) -> bytes | None:
    if code == "CX110" and text.startswith("("):
        return None
    if code == "CX102" and "million" in text:
        text = "description: " + "a" * 1_000_001
    if re.search(r"^name:", text, re.MULTILINE) or text.startswith("- "):
        whole = text
    else:
        key = text.partition(":")[0]
        whole = (
            "".join(line for line in MINIMAL.splitlines(keepends=True) if line.partition(":")[0] != key)
            + text
        )
    return whole.encode("latin-1" if code == "CX101" and "Latin-1" in text else "utf-8")


def _problems(path: Path) -> list[str]:
    return [problem.code for result in validate([path]) for problem in result.problems]


@pytest.mark.parametrize("code", codes())
def test_the_bad_example_has_the_problem(code: str, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    content = _content(code, codes()[code].bad)
    if content is not None:
        path.write_bytes(content)
    assert code in _problems(path)


@pytest.mark.parametrize("code", codes())
def test_the_good_example_has_no_error(code: str, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_bytes(_content(code, codes()[code].good) or b"")
    found = _problems(path)
    assert code not in found
    assert not [each for each in found if not each.startswith("CX5")]


def test_every_code_in_the_source_is_explained(repository: Path) -> None:
    source = "".join(
        path.read_text()
        for package in ("spec", "registry")
        for path in (repository / "cortexclient" / package).glob("*.py")
    )
    used = set(re.findall(r"\"(CX[0-9]{3})\"", source))
    assert used == set(codes())


def test_the_page_of_codes_is_committed(generator: ModuleType, repository: Path) -> None:
    page = (repository / "docs" / "codes.md").read_text(encoding="utf-8")
    assert page == generator.codes_page(), "run python docs/generate.py"
    assert set(re.findall(r"^## (CX[0-9]{3}): ", page, re.MULTILINE)) == set(codes())


def test_an_unknown_code_is_answered_with_close_ones() -> None:
    with pytest.raises(ValueError, match="did you mean CX201"):
        explain("cx2011")
