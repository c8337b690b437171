"""Importing cortexclient is silent, offline and light; what is heavy is loaded when it is used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "caveclient",
    "cloudfiles",
    "cloudvolume",
    "duckdb",
    "matplotlib",
    "meshparty",
    "neuroglancer",
    "nglui",
    "numpy",
    "pandas",
    "pcg_skel",
    "pyarrow",
    "pydantic",
    "requests",
    "rich",
    "scipy",
    "starlette",
    "tqdm",
    "typer",
    "urllib3",
    "yaml",
}


def run(code: str) -> dict[str, object]:
    """Run code in a fresh interpreter; it leaves its findings in a dictionary called ``found``."""
    script = f"import json, logging, sys, warnings\n{code}\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize(
    "module", ["cortexclient", "cortexclient.datasets", "cortexclient.errors", "cortexclient.types"]
)
def test_import_loads_nothing_heavy(module: str) -> None:
    found = run(f"import {module}\nfound = sorted({{name.partition('.')[0] for name in sys.modules}})")
    assert HEAVY.isdisjoint(found)


def test_import_leaves_logging_warnings_and_streams_alone() -> None:
    code = """
def state():
    names = sorted(logging.root.manager.loggerDict)
    return [logging.root.level, len(logging.root.handlers), names, [str(f) for f in warnings.filters],
            id(sys.stdout), id(sys.stderr)]
before = state()
import cortexclient
found = {"same": before == state()}
"""
    assert run(code) == {"same": True}


def test_import_opens_no_file_and_no_socket() -> None:
    code = """
opened = []
def hook(event, arguments):
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.mkdir"):
        opened.append(event)
    elif event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
        opened.append(str(arguments[0]))
sys.addaudithook(hook)
import cortexclient
found = opened[:]
"""
    assert run(code) == []


def test_every_public_name_resolves() -> None:
    code = """
import cortexclient
found = {name: getattr(cortexclient, name, None) is not None for name in cortexclient.__all__}
"""
    found = run(code)
    assert found
    assert all(found.values()), found


def test_unknown_name_is_an_attribute_error() -> None:
    import cortexclient

    with pytest.raises(AttributeError, match="no_such_name"):
        cortexclient.no_such_name  # noqa: B018 - the access itself is the test
    assert set(cortexclient.__all__) <= set(dir(cortexclient))
