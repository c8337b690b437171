"""The sandbox against exchanges of our own client with the real services in their deployed mode (November 2026).

Each was recorded because the sandbox or the client did something else. Where a state of the recorded services had been
provoked (a killed database, a stopped chunkedgraph), the exchange is listed below with what had been done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.compare import compare
from tests.conformance.replay import Replay

# how the ports were configured; a gateway that gives up sooner than the real one
OPTIONS: dict[int, dict[str, Any]] = {
    9180: {"skeleton_queue": True, "skeleton_gateway": 0.2, "cold_skeletons": False},
    9181: {"row_limit": 50},
    9182: {"auth": True},
}
EDITOR = {
    "id": 4,
    "name": "editor",
    "email": "editor@example.org",
    "groups": ["toygrp"],
    "tokens": ["b" * 32],
    "permissions": {"toyds": ["edit", "view"]},
}
WRITABLE = 87  # before it, a table was made writable for everybody
ABORTED = "current transaction is aborted"
# exchange -> fault that stands for what had been done: every thread of the skeleton service waited for a skeleton
FAULTS: dict[int, str] = dict.fromkeys((15, 16, 17, 18), "504")
# exchange -> what had been done to the recorded services, which nothing does to the sandbox
PROVOKED: dict[int, str] = {
    53: "a worker with threads closed its cursor too early",
    **dict.fromkeys((54, 55, 56, 57), "a statement timeout of 600 ms"),
    58: "the database process was killed",
    **dict.fromkeys((60, 61), "a third version was being made"),
    **dict.fromkeys((66, 79), "the versions had been given another year to live"),
    **dict.fromkeys((81, 82, 83, 84), "the chunkedgraph was stopped"),
    **dict.fromkeys((85, 88), "the table had been made writable for everybody, which its metadata date"),
}


def _exchanges(recordings: Path) -> list[dict[str, Any]]:
    lines = (
        (recordings / "real_services_2026_11" / "exchanges.jsonl").read_text(encoding="utf-8").splitlines()
    )
    found = []
    for number, line in enumerate(lines):
        exchange = json.loads(line)
        body = dict(exchange["body"] or {})
        body["kind"] = {"arrow": "arrow-ipc-stream"}.get(body.get("kind"), body.get("kind"))
        url = f"http://127.0.0.1:{exchange['port']}{exchange['url']}"
        asked = _asked(exchange["request_body"])
        found.append(
            {**exchange, "n": number, "url": url, "group": "later", "request_body": asked, "body": body}
        )
    return found


def _asked(body: Any) -> Any:
    """Body of a request in the form of the first recording."""
    if isinstance(body, dict) and body.get("kind") == "binary":
        content = bytes.fromhex(body["hex"])
        numbers = [
            int.from_bytes(content[at : at + 8], "little") for at in range(0, len(content) // 8 * 8, 8)
        ]
        return {"uint64-le": numbers}
    return body["value"] if isinstance(body, dict) else body


@pytest.fixture(scope="module")
def differences(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[str]]:
    scratch = tmp_path_factory.mktemp("later")
    found = {}
    folder = recordings / "real_toy_datastack"
    with Replay(folder, scratch, ports=tuple(OPTIONS), options=OPTIONS, users=(EDITOR,)) as replay:
        for exchange in _exchanges(recordings):
            if ABORTED in json.dumps(exchange["body"]):  # the request before it had failed on the same worker
                replay.sandbox(exchange["port"]).inject("aborted-transaction")
            if exchange["n"] in FAULTS:
                replay.sandbox(exchange["port"]).inject(FAULTS[exchange["n"]])
            if exchange["n"] == WRITABLE:
                tables = replay.sandbox(exchange["port"]).world.tables
                tables.annotation_rows["tags_toy"]["write_permission"] = "PUBLIC"
            problems = compare(exchange, replay.ask(exchange))
            if problems:
                found[exchange["n"]] = problems
    return found


def test_what_was_not_provoked_is_answered_alike(differences: dict[int, list[str]]) -> None:
    assert {number: found for number, found in differences.items() if number not in PROVOKED} == {}


def test_what_was_provoked_differs(differences: dict[int, list[str]]) -> None:
    assert set(PROVOKED) == set(differences)
