"""The sandbox against a second recording: requests that nobody had seen when its rules were written.

Its 820 requests were drawn at random over tables, columns, filters, joins, times, limits, arguments and bodies, right
and wrong ones, and answered by the unmodified MaterializationEngine 5.26.4 over the tables of the first recording, kept
in PostgreSQL 15 with PostGIS 3.3.2. Only the roots of live answers do not come from there: the service was told them by
a sandbox's chunkedgraph, which the first recording proves.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.conformance.compare import compare
from tests.conformance.replay import Replay

_RECORDING = Path(__file__).with_name("second_recording.jsonl.gz")


@pytest.mark.slow
def test_every_answer_is_alike(recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exchanges = [json.loads(line) for line in gzip.decompress(_RECORDING.read_bytes()).decode().splitlines()]
    asked = Counter(exchange["group"] for exchange in exchanges)
    differences: dict[int, list[str]] = {}
    with Replay(recordings / "real_toy_datastack", tmp_path, ports=(8080,)) as replay:
        for exchange, answer in replay.run(exchanges):
            assert not isinstance(answer, Exception), answer
            found = compare(exchange, answer)
            if found:
                differences[exchange["n"]] = found
    with capsys.disabled():
        print(f"\n{len(exchanges) - len(differences)} of {len(exchanges)} alike: {dict(asked)}")  # noqa: T201
    assert differences == {}
