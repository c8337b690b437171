"""The sandbox over the recorded datastack answers as the real services did."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.known_differences import KNOWN
from tests.conformance.score import END, PAGE, START, Score, replay

pytestmark = pytest.mark.slow  # all of them need the whole recording to be asked again


@pytest.fixture(scope="module")
def score(recordings: Path) -> Score:
    return replay(recordings / "real_toy_datastack")


def test_every_exchange_that_is_not_listed_is_alike(score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{score.table()}")  # noqa: T201 - the score is what this test is for
    unexpected = {number: found for number, found in score.differences.items() if number not in KNOWN}
    assert unexpected == {}


def test_every_listed_difference_is_one(score: Score) -> None:
    asked = {number for numbers in score.groups.values() for number in numbers}
    assert sorted(number for number in KNOWN if number in asked and number not in score.differences) == []


def test_there_are_few_differences(score: Score) -> None:
    assert len(KNOWN) <= score.asked // 50


def test_the_documentation_states_this_score(score: Score) -> None:
    """Run ``python -m tests.conformance.score FOLDER --write`` to bring it up to date."""
    stated = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    assert score.table() in stated
