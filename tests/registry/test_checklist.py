"""The checklist of a pull request that adds a dataset: ``tox -e datasets``, or ``-k NAME`` for one alone.

Each item is asked of each file of ``datasets/``. The last one, the whole job on a sandbox that serves the file's own
names, is `tests/end_to_end/test_every_dataset.py`.
"""

from __future__ import annotations

import importlib
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml

import cortexclient
from cortexclient.cli.specs import dataset_page
from cortexclient.registry import list_datasets, resolve
from cortexclient.registry.lookup import builtin_folder
from cortexclient.registry.validation import validate
from cortexclient.spec import DatasetSpec, spec_from_mapping
from cortexclient.spec.schema import dataset_schema

FOLDER = builtin_folder()
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def spec(file: Path) -> DatasetSpec:
    return resolve(file.stem)[0]


def test_the_schema(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=./dataset.schema.json\n")
    errors = jsonschema.Draft7Validator(dataset_schema()).iter_errors(yaml.safe_load(text))
    assert [f"{'.'.join(map(str, error.path))}: {error.message}" for error in errors] == []


def test_references_secrets_and_order(file: Path) -> None:
    (checked,) = validate([file])
    assert [str(problem) for problem in checked.problems] == []


def test_the_name_is_free_and_no_alias_is_taken(file: Path, spec: DatasetSpec) -> None:
    assert spec.name == file.stem
    others = {other.stem: resolve(other.stem)[0] for other in FILES if other != file}
    taken = {*others, *(alias for other in others.values() for alias in other.aliases)}
    assert not {spec.name, *spec.aliases} & taken
    assert spec.class_name_or_default not in {other.class_name_or_default for other in others.values()}
    for alias in spec.aliases:
        assert resolve(alias)[0] == spec


def test_timestamps_grow_and_are_past(spec: DatasetSpec) -> None:
    times = [
        item.timestamp for item in sorted(spec.versions, key=lambda item: item.version) if item.timestamp
    ]
    assert times == sorted(set(times))
    assert all(time < datetime.now(UTC) + timedelta(days=1) for time in times)


def test_it_is_honest(spec: DatasetSpec) -> None:
    assert spec.access is not None
    assert spec.citation is not None
    assert spec.license is not None
    assert spec.sources or spec.name == "sandbox"


def test_it_survives_the_way_into_a_mapping_and_back(spec: DatasetSpec) -> None:
    assert spec_from_mapping(spec.as_dict()) == spec


def test_roles_have_tables_at_every_known_version(spec: DatasetSpec) -> None:
    for role in spec.tables:
        assert spec.table_for(role).name
    if isinstance(spec.default_version, int):
        assert spec.default_version in {item.version for item in spec.versions}


def test_it_loads_and_imports_without_a_request(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert file.stem in list_datasets()
    client = importlib.import_module(f"cortexclient.datasets.{file.stem}").client
    assert type(client) is type(cortexclient.load(file.stem))
    assert f"dataset={file.stem!r}" in repr(client)


def test_it_has_a_page(spec: DatasetSpec) -> None:
    page = dataset_page(spec)
    assert page.startswith(f"# {spec.title}\n")
    assert re.search(r"^## How to cite$", page, re.MULTILINE)
    assert spec.datastack in page
    assert all(table.name in page for table in spec.tables.values())
    assert all(str(item.version) in page for item in spec.versions)
    for path, fact in spec.sources.items():
        assert fact.verified or f"`{path}`" in page, f"the page does not say that {path} is unverified"
