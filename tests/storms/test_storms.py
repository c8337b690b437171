"""A few hundred storms: whatever a server or a network does, an answer is right or an error of ours.

More of them, with any seed: ``python -m tests.storms.storm --seed 7 --storms 1000``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storms.storm import KINDS, Weather, storm

STORMS = 5
"""Storms of each kind."""


@pytest.fixture(scope="module")
def weather() -> Iterator[Weather]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.05")
        weather = Weather()
        yield weather
        weather.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", KINDS)
def test_answers_are_right_or_errors_of_ours(weather: Weather, fault: str, tmp_path: Path) -> None:
    calls = random.Random(fault).choices(weather.possible(fault), k=STORMS)
    outcomes = [
        storm(weather, str(number), fault, call, tmp_path / str(number)) for number, call in enumerate(calls)
    ]
    assert any(outcome.struck for outcome in outcomes)
    assert not [str(outcome) for outcome in outcomes if outcome.faults]
