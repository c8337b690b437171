"""Every dataset is a module: by its name, by its aliases, from source, in workers, for specs of this session too."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import cortexclient
import cortexclient.datasets
from cortexclient import list_datasets, register
from cortexclient.errors import SpecError
from cortexclient.registry import get_spec

GOOD = {
    "name": "my_brain",
    "title": "My brain",
    "server_address": "http://127.0.0.1:9",
    "datastack": "my_brain_v1",
}


@pytest.fixture(autouse=True)
def forget_modules():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        package, _, short = name.rpartition(".")
        if package == "cortexclient.datasets":
            del sys.modules[name]
            vars(cortexclient.datasets).pop(short, None)


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("minnie_public", "MinniePublicClient"),
        ("microns_public", "MinniePublicClient"),
        ("minnie_prod", "MicronsProdClient"),
        ("microns_prod", "MicronsProdClient"),
        ("v1dd", "V1ddClient"),
        ("v1dd_public", "V1ddPublicClient"),
    ],
)
def test_built_in_datasets_and_aliases(name: str, class_name: str) -> None:
    module = importlib.import_module(f"cortexclient.datasets.{name}")
    client = module.client
    assert isinstance(client, getattr(module, class_name))
    assert type(client).__name__ == class_name
    assert module.client is client
    assert {"client", class_name} <= set(dir(module))
    assert module.spec == get_spec(name)


def test_the_package_lists_the_datasets() -> None:
    assert set(list_datasets()) <= set(dir(cortexclient.datasets))


def test_specs_registered_in_this_session() -> None:
    register({**GOOD, "aliases": ["mine"], "class_name": "MineClient"})
    from cortexclient.datasets.mine import client as by_alias
    from cortexclient.datasets.my_brain import MineClient, client

    assert type(client) is type(by_alias) is MineClient
    module = sys.modules["cortexclient.datasets.my_brain"]
    register({**GOOD, "title": "Another"})
    assert module.spec.title == "Another"
    assert module.client is not client
    assert module.client is module.client


def test_a_file_alone_makes_a_module(write) -> None:
    path = write("fresh_brain", "aliases: [fresh]\n")
    from cortexclient.datasets.fresh import FreshBrainClient, client

    assert isinstance(client, FreshBrainClient)
    for name in ("fresh_brain", "fresh@7", path):
        assert isinstance(cortexclient.load(name), FreshBrainClient)


def test_unknown_names_say_what_is_near() -> None:
    with pytest.raises(ModuleNotFoundError, match="did you mean minnie_public") as caught:
        importlib.import_module("cortexclient.datasets.minie_public")
    assert caught.value.name == "cortexclient.datasets.minie_public"
    with pytest.raises(ImportError):
        from cortexclient.datasets import no_such_brain  # noqa: F401
    assert not hasattr(cortexclient.datasets, "no_such_brain")
    with pytest.raises(AttributeError, match="has client, spec and V1ddClient"):
        getattr(importlib.import_module("cortexclient.datasets.v1dd"), "clinet")  # noqa: B009 - a typo is the point
    assert not hasattr(importlib.import_module("cortexclient.datasets.v1dd"), "__wrapped__")


def test_other_packages_are_none_of_our_business() -> None:
    assert importlib.util.find_spec("no_such_package_anywhere") is None
    assert importlib.util.find_spec("cortexclient.no_such_module") is None
    finders = [finder for finder in sys.meta_path if type(finder).__name__ == "DatasetFinder"]
    assert len(finders) == 1
    # real modules come first
    assert sys.meta_path.index(finders[0]) > 0
    importlib.reload(cortexclient.datasets)
    assert len([finder for finder in sys.meta_path if type(finder).__name__ == "DatasetFinder"]) == 1


def test_modules_behave_like_modules() -> None:
    found = importlib.util.find_spec("cortexclient.datasets.v1dd")
    assert found is not None
    assert Path(found.origin or "").is_file()
    module = importlib.import_module("cortexclient.datasets.v1dd")
    assert module.__name__ == "cortexclient.datasets.v1dd"
    assert inspect.getsource(module)
    assert importlib.reload(module) is module
    assert module.client.datastack_name == "v1dd"


def _name_in_worker(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__name__


def test_classes_reach_spawned_workers() -> None:
    from cortexclient.datasets.v1dd import V1ddClient

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_worker_imports, "v1dd").result(120) == "V1ddClient"
    assert _name_in_worker(V1ddClient) == ("cortexclient.datasets.v1dd", "V1ddClient")


def _worker_imports(name: str) -> str:
    return str(importlib.import_module(f"cortexclient.datasets.{name}").spec.class_name_or_default)


def test_threads_share_one_client() -> None:
    module = importlib.import_module("cortexclient.datasets.v1dd")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(id(module.client))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1


def test_somebody_elses_datasets_package_is_left_alone(python: Any, tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "datasets" / "minnie_public.yaml").write_text("broken: [\n")
    code = (
        "import cortexclient, sys\n"
        "print(cortexclient.get_spec('minnie_public').datastack, 'datasets' in sys.modules)\n"
    )
    printed = python(code, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)})
    assert printed.split() == ["minnie65_public", "False"]


def test_values_given_to_load_win_and_are_checked(write) -> None:
    import cortexclient

    write("my_brain", "cell_ids: {lookup_view: a_view, main_table: a_table}\n")
    plain = cortexclient.load("my_brain")
    changed = cortexclient.load(
        "my_brain@7", overrides={"cell_ids": {"lookup_view": "mine"}, "title": "Mine"}
    )
    assert (changed.spec.cell_ids.lookup_view, changed.spec.cell_ids.main_table) == ("mine", "a_table")
    assert "version=7" in repr(changed)
    assert plain.spec.cell_ids.lookup_view == "a_view"
    # the dataset's own class is not disturbed by a variant of it
    assert type(cortexclient.load("my_brain")) is type(plain)
    assert type(changed) is not type(plain)
    with pytest.raises(SpecError, match=r"<overrides of my_brain> CX201 cel_ids: .*did you mean cell_ids"):
        cortexclient.load("my_brain", overrides={"cel_ids": {}})
    with pytest.raises(SpecError, match="CX401"):
        cortexclient.load("my_brain", overrides={"x-note": "0123456789abcdef0123456789abcdef"})


def test_overrides_read_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import cortexclient

    monkeypatch.setenv("LAB_STACK", "hunter2secret")
    with pytest.raises(SpecError, match="CX403") as caught:
        cortexclient.load("v1dd", overrides={"datastack": "${env:LAB_STACK}"})
    assert "hunter2secret" not in str(caught.value)


def test_a_client_says_what_to_cite(write) -> None:
    import cortexclient

    write("my_brain", "citation: {doi: 10.1234/my-brain}\nlicense: {name: CC-BY-4.0}\n")
    assert "https://doi.org/10.1234/my-brain" in cortexclient.load("my_brain").cite()
