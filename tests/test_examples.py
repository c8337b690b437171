"""Examples in docstrings: every one runs against the sandbox, and every public function has one.

In an example `client` is the sandbox's client at its newest version, `root_id` one of its neurons and `root_ids` three
of them; files go to a folder of the test's own.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import cortexclient
from cortexclient import DatasetClient

PACKAGE = Path(cortexclient.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    client = cortexclient.load("sandbox", version=3)
    types = client.tables.cell_types().query()
    roots = types["pt_root_id"][types["pt_root_id"] > 0].drop_duplicates().tolist()
    return {"cortexclient": cortexclient, "client": client, "root_id": roots[0], "root_ids": roots[:3]}


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_examples_run(
    module: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(exclude_empty=True)
    reports: list[str] = []
    for test in finder.find(importlib.import_module(module), module, extraglobs=names):
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=reports.append)
    assert not reports, "".join(reports)


def test_no_example_is_left_out() -> None:
    skipped = [
        path.name for path in sorted(PACKAGE.rglob("*.py")) if "+SKIP" in path.read_text(encoding="utf-8")
    ]
    assert not skipped


def public_functions() -> list[tuple[str, Any]]:
    """Functions and methods that a user calls: those of the package, of the client and of what its properties give."""
    from cortexclient.services.exports import TableExportClient
    from cortexclient.services.meshes import MeshClient
    from cortexclient.services.space import Space
    from cortexclient.services.store import StoreService
    from cortexclient.services.tables import TableQuery

    found = [
        (name, getattr(cortexclient, name)) for name in ("load", "get_spec", "list_datasets", "register")
    ]
    for owner in (DatasetClient, MeshClient, TableExportClient, Space, StoreService, TableQuery):
        found += [
            (f"{owner.__name__}.{name}", value)
            for name, value in inspect.getmembers(owner, inspect.isfunction)
            if not name.startswith("_")
        ]
    return found


@pytest.mark.parametrize("function", [pytest.param(value, id=name) for name, value in public_functions()])
def test_every_public_function_has_an_example(function: Any) -> None:
    assert ">>> " in (inspect.getdoc(function) or "")
