"""The pytest plugin, as another project meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cortexclient.sandbox import Sandbox

THEIRS = """
def test_three_lines(sandbox_client):
    assert len(sandbox_client.tables.nucleus_detection().query()) > 5


def test_a_server_that_fails(sandbox_factory):
    sandbox = sandbox_factory(faults=["503"])
    assert sandbox.load().version == 3
    assert [record.status for record in sandbox.requests][0] == 503


def test_the_log_is_empty(sandbox):
    assert len(sandbox.requests) == 0
"""


@pytest.mark.slow
def test_the_fixtures_are_found_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(THEIRS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    told = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ)
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "3 passed" in told.stdout


def test_a_shared_sandbox_ends_with_its_process(python: Any) -> None:
    code = """
from cortexclient.sandbox import shared_endpoint
import threading, urllib.request
one, two = shared_endpoint("sandbox://tiny"), shared_endpoint("sandbox://tiny")
other = shared_endpoint("sandbox://tiny/v1dd")
assert one == two and other.address != one.address
urllib.request.urlopen(one.address + "/sandbox.json").read()
print(one.address)
"""
    told = python(code)
    assert told.startswith("http://127.0.0.1:")


def test_two_sandboxes_do_not_bleed_into_each_other(sandbox_factory: Callable[..., Sandbox]) -> None:
    """Both have a table of the same name; caveclient would answer for the second what the first said."""
    one, two = sandbox_factory(), sandbox_factory(row_limit=3)
    tables = [sandbox.load().tables.nucleus_detection().query() for sandbox in (one, two)]
    assert one.requests.count("/materialize") > 0
    assert two.requests.count("/materialize") > 0
    assert len(tables[0]) == len(tables[1])  # our client completes what the row limit cuts
