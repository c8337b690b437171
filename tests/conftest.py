"""What every test shares: a private home, no token, the recordings, and the cortices that were built before."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from cortexclient.sandbox import Sandbox

# machines are shared: how long an example takes says nothing about the code; a red pull request can be run again
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
    print_blob=True,
)
settings.load_profile("patient")

# caveclient and cloud-volume read the home folder when they are imported, so it must move before any test module is
_HOME = tempfile.mkdtemp(prefix="cortexclient-home-")
_REAL_HOME = os.environ.get("HOME", "")
os.environ["HOME"] = _HOME
for _name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
    os.environ[_name] = str(Path(_HOME) / _name.lower())
os.environ.pop("CLOUD_VOLUME_DIR", None)
os.environ.setdefault("NGLUI_DISABLE_CAPABILITY_PROBE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
REPOSITORY = Path(__file__).resolve().parents[1]
# built cortices take many seconds and never change: they outlive one run of the tests
os.environ["CORTEXCLIENT_CACHE_DIR"] = os.environ.get("CORTEXCLIENT_TEST_CACHE") or str(
    REPOSITORY / ".pytest_cache" / "cortices" if os.access(REPOSITORY, os.W_OK) else Path(_HOME) / "cache"
)
# spawned processes import the test module that their function is from; last, so that the tested package stays the
# installed one
sys.path.append(str(REPOSITORY))


@pytest.fixture(scope="session")
def tiny() -> Iterator[Sandbox]:
    """A tiny synthetic cortex, served to all tests that only read: who edits, writes or limits rows starts another."""
    from cortexclient.sandbox import Sandbox

    with Sandbox(size="tiny") as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Run code in an interpreter of its own, which must not fail; returns what it prints.

    Further options, such as a folder, variables of the environment and what it reads, are those of `subprocess.run`.
    """

    def run(code: str, *arguments: object, **options: Any) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of invented data that the real services were asked about, with their answers; see its README."""
    return REPOSITORY / "tests" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real neurons, other people's files; the few tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("CORTEXCLIENT_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(
            f"the real neurons are not here ({folder}); CORTEXCLIENT_SHARED_DATA may name their folder"
        )
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    """The script that writes the pages of documentation that follow from the code."""
    location = importlib.util.spec_from_file_location("docs_generate", REPOSITORY / "docs" / "generate.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module
