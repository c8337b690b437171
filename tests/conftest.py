"""What every test shares: a private home, no token, and the folder of real recordings where it is present."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# machines are shared: how long an example takes says nothing about the code
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
# built cortices are expensive and never change: they may outlive one run of the tests
if "CORTEXCLIENT_TEST_CACHE" in os.environ:
    os.environ["CORTEXCLIENT_CACHE_DIR"] = os.environ["CORTEXCLIENT_TEST_CACHE"]
else:
    os.environ["CORTEXCLIENT_CACHE_DIR"] = str(Path(_HOME) / "cache")

REPOSITORY = Path(__file__).resolve().parents[1]
# spawned processes import the test module that their function is from; last, so that the tested package stays the
# installed one
sys.path.append(str(REPOSITORY))


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
            f"the recordings of real data are not here ({folder}); set CORTEXCLIENT_SHARED_DATA to use them"
        )
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY
