"""A few hundred storms: whatever a server or a network does, an answer is right or an error of ours.

More of them, with any seed: ``python -m tests.storms.storm --seed 7 --storms 1000``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storms.storm import CALLS, KINDS, Weather, storm

STORMS = 5
"""Storms of each kind."""

NOT_YET = frozenset(
    """
json_values json_shape other_kind_of_response
arrow_ids_missing arrow_nested arrow_no_columns arrow_nulls arrow_rows_twice count_off json_lists_short
other_response
""".split()  # noqa: SIM905
)
"""Kinds that the client does not stand yet; to be emptied."""


@pytest.fixture(scope="module")
def weather() -> Iterator[Weather]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.05")
        weather = Weather()
        yield weather
        weather.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", [kind for kind in KINDS if kind not in NOT_YET])
def test_answers_are_right_or_errors_of_ours(weather: Weather, fault: str, tmp_path: Path) -> None:
    possible = [call for call in CALLS if weather.routes(fault, call)]
    calls = random.Random(fault).choices(possible, k=STORMS)
    outcomes = [
        storm(weather, str(number), fault, call, tmp_path / str(number)) for number, call in enumerate(calls)
    ]
    assert any(outcome.struck for outcome in outcomes)
    assert not [str(outcome) for outcome in outcomes if outcome.faults]
