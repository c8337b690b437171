"""Importing cortexclient is silent, offline and light; what is heavy is loaded when it is used."""

from __future__ import annotations

import json
from collections.abc import Callable

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
FINDERS = {"importlib.metadata", "platformdirs"}
READERS = {"pydantic", "yaml"}
MOST = (HEAVY | FINDERS) - {"caveclient", "cloudvolume", "nglui", "pandas"}
# what is done -> what it may load
LOADED: dict[str, set[str]] = {
    "import cortexclient, cortexclient.datasets, cortexclient.errors, cortexclient.types": set(),
    "import cortexclient.registry": set(),
    "import cortexclient; cortexclient.list_datasets()": FINDERS,
    "from cortexclient.datasets import *": FINDERS,
    "import cortexclient; cortexclient.get_spec('minnie_public')": FINDERS | READERS,
    "from cortexclient.datasets.minnie_public import client, MinniePublicClient": MOST - {"requests"},
    "import cortexclient; cortexclient.load('minnie_public')._repr_html_()": MOST,
    "from cortexclient.cli import main; main(['--help'])": MOST - {"duckdb", "matplotlib"},
}


def run(python: Callable[..., str], code: str) -> object:
    """Run code in a fresh interpreter; it leaves its findings in a variable called ``found``."""
    script = f"import io, json, logging, sys, warnings\nsys.stderr = io.StringIO()\n{code}"
    printed = python(f"{script}\nassert sys.stderr.getvalue() == ''\nprint(json.dumps(found))")
    return json.loads(printed.splitlines()[-1])


@pytest.mark.parametrize("code", LOADED)
def test_what_is_heavy_is_loaded_when_it_is_used(python: Callable[..., str], code: str) -> None:
    offline = "import socket\nsocket.socket.connect = socket.getaddrinfo = None"
    found = run(python, f"{offline}\n{code}\nfound = list(sys.modules)")
    assert isinstance(found, list)
    assert (HEAVY | FINDERS | {"datasets"}).intersection(found) <= LOADED[code]


def test_import_leaves_logging_warnings_streams_files_and_sockets_alone(python: Callable[..., str]) -> None:
    code = """
def state():
    names = sorted(logging.root.manager.loggerDict)
    return [logging.root.level, len(logging.root.handlers), names, [str(f) for f in warnings.filters],
            id(sys.stdout), id(sys.stderr)]
opened = []
def hook(event, arguments):
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.mkdir"):
        opened.append(event)
    elif event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
        opened.append(str(arguments[0]))
before = state()
sys.dont_write_bytecode = True
sys.addaudithook(hook)
import cortexclient
found = {"same": before == state(), "opened": opened[:]}
"""
    assert run(python, code) == {"same": True, "opened": []}


def test_every_public_name_resolves(python: Callable[..., str]) -> None:
    code = """
import cortexclient
import cortexclient.datasets as package
star = {}
exec("from cortexclient.datasets import *", star)
found = {
    "lost": [name for name in cortexclient.__all__ if getattr(cortexclient, name, None) is None],
    "star": set(star) - {"__builtins__"} == set(cortexclient.list_datasets()),
}
"""
    assert run(python, code) == {"lost": [], "star": True}


def test_unknown_name_is_an_attribute_error() -> None:
    import cortexclient

    with pytest.raises(AttributeError, match="no_such_name"):
        cortexclient.no_such_name  # noqa: B018 - the access itself is the test
    assert set(cortexclient.__all__) <= set(dir(cortexclient))
