"""A pytest plugin: test your own analysis against an embedded CAVE server.

Installing cortexclient is enough, pytest finds the fixtures by itself::

    def test_my_analysis(sandbox_client):
        assert my_analysis(sandbox_client) == expected

Another dataset's names, a smaller row limit, a server that fails:

    def test_my_analysis_under_stress(sandbox_factory):
        sandbox = sandbox_factory("v1dd", size="tiny", row_limit=10, faults=["503"])
        my_analysis(sandbox.load())
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cortexclient.client import DatasetClient
    from cortexclient.sandbox import Sandbox

__all__ = ["clear_client_caches", "sandbox", "sandbox_client", "sandbox_factory"]


def clear_client_caches() -> None:
    """Clear the process-wide caches of the packages under cortexclient.

    caveclient keys its caches of schemas, tables and metadata by names alone, pcg_skel and nglui keep theirs by
    datastack and address: with two sandboxes in one process, the second would get cached responses of the first.
    Packages that are not loaded are left alone.
    """
    manager = sys.modules.get("caveclient.tools.table_manager")
    if manager is not None:
        for name in ("_schema_cache", "_table_cache", "_metadata_cache"):
            _clear(getattr(manager, name, None))
    for name in (
        "caveclient.materializationengine",
        "pcg_skel.chunk_cache",
        "nglui.statebuilder.source_info",
    ):
        for value in vars(sys.modules.get(name, object)).copy().values():
            _clear(getattr(value, "cache", None))
            if isinstance(value, type):
                for method in vars(value).values():
                    _clear(getattr(method, "cache", None))


def _clear(cache: Any) -> None:
    # cachetools leaves the cache of a function beside it; nothing else has both of these
    if hasattr(cache, "clear") and hasattr(cache, "maxsize"):
        cache.clear()


@pytest.fixture(scope="session")
def _session_sandbox() -> Iterator[Sandbox]:
    from cortexclient.sandbox import Sandbox

    with Sandbox(size="tiny") as running:
        yield running


@pytest.fixture
def sandbox(_session_sandbox: Sandbox) -> Iterator[Sandbox]:
    """A running sandbox of size ``tiny``, shared by the session, with an empty log and without faults."""
    _session_sandbox.clear_faults()
    _session_sandbox.requests.clear()
    clear_client_caches()
    yield _session_sandbox
    _session_sandbox.clear_faults()


@pytest.fixture
def sandbox_client(sandbox: Sandbox) -> DatasetClient:
    """A fresh client of :func:`sandbox`."""
    return sandbox.load()


@pytest.fixture
def sandbox_factory() -> Iterator[Callable[..., Sandbox]]:
    """Make sandboxes of your own: the arguments are those of :class:`cortexclient.sandbox.Sandbox`.

    They close after the test. Size ``tiny`` is the default here.
    """
    from cortexclient.sandbox import Sandbox

    clear_client_caches()
    with contextlib.ExitStack() as stack:

        def make(*arguments: Any, **options: Any) -> Sandbox:
            if "data" not in options:
                options.setdefault("size", "tiny")
            return stack.enter_context(Sandbox(*arguments, **options))

        yield make
    clear_client_caches()
