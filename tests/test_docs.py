"""Documentation that runs: every Python block of the README and of the pages is executed against the sandbox.

The blocks of a page share one namespace, from top to bottom. A block is passed over only where the line above it says
why: ``<!-- not run: REASON -->``. A block of another language below ``<!-- file: NAME -->`` is added to that file
before the code runs.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?P<exempt><!-- not run: (?P<reason>[^>]+?) -->\s*\n)?^```python[^\n]*\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"^<!-- file: (?P<name>[\w.]+) -->\n```\w+\n(?P<content>.*?)^```", re.MULTILINE | re.DOTALL)
SEARCH = REPOSITORY / "docs" / "_static" / "search.js"
LINK = re.compile(r"\[[^\]]+\]\((?!https?://|#|mailto:)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")


def pages() -> list[Path]:
    found = sorted((REPOSITORY / "docs").glob("**/*.md"))
    return [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *(page for page in found if page.parent.name != "datasets"),
    ]


def blocks(page: Path) -> list[tuple[int, str]]:
    """Line number and code of each block that is to be run."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: found.start("code")].count("\n"), found["code"])
        for found in BLOCK.finditer(text)
        if found["exempt"] is None
    ]


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if blocks(page)], ids=name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for found in FILE.finditer(page.read_text(encoding="utf-8")):
        with (tmp_path / found["name"]).open("a", encoding="utf-8") as file:
            file.write(found["content"])
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for line, code in blocks(page):
        # the blocks are ours; line numbers in tracebacks are those of the page
        exec(compile("\n" * line + code, str(page), "exec"), namespace)  # noqa: S102
    assert namespace.keys() > {"__name__"}
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.close("all")


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = [
        found["target"]
        for found in LINK.finditer(text)
        if not (page.parent / found["target"]).resolve().exists()
    ]
    assert not broken


def test_every_page_is_reached_from_the_index() -> None:
    folder = REPOSITORY / "docs"
    reached: set[Path] = set()
    waiting = [folder / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or not page.is_file():
            continue
        reached.add(page)
        waiting += [
            (page.parent / found["target"]).resolve()
            for found in LINK.finditer(page.read_text(encoding="utf-8"))
            if found["target"].endswith(".md")
        ]
    # docs/datasets/ is written by docs/generate.py and not kept
    written = {page for page in folder.glob("**/*.md") if page.parent.name != "datasets"}
    lost = sorted(str(page.relative_to(folder)) for page in written - reached)
    assert not lost


def test_readme_lists_datasets_that_exist() -> None:
    # not all of them: adding a dataset touches its YAML file and nothing else; `cortexclient list` has the rest
    import cortexclient

    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([a-z0-9_]+)` \|", readme, re.MULTILINE))
    assert {"minnie_public", "minnie_prod", "v1dd", "v1dd_public"} <= listed
    assert listed <= set(cortexclient.list_datasets())


def test_every_command_and_option_is_documented(generator: ModuleType) -> None:
    page = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    written = generator.options_page()
    assert written in page, "run python docs/generate.py"
    by_hand = page.partition("<!-- options")[0]
    commands = re.findall(r"^\*\*`cortexclient ([\w-]+)", written, re.MULTILINE)
    assert [name for name in commands if f"cortexclient {name}" not in by_hand] == []
    options = {*re.findall(r"`(--[a-z0-9-]+)`", written), "--debug", "--install-completion"}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", by_hand)) <= options
    bare = re.findall(r"^- `.*: $|^\*\*`.*\*\* $", written, re.MULTILINE)
    assert not bare, "without a help text"


def test_every_public_name_is_in_the_api_reference() -> None:
    import cortexclient
    from cortexclient import bulk, errors, plotting, sandbox, testing

    pages = "".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs" / "api").glob("*.md"))
    automatic = {name for module in (errors, testing) for name in module.__all__}  # automodule
    for module in (cortexclient, bulk, plotting, sandbox):
        names = {name for name in module.__all__ if not name.startswith("__")} - automatic
        assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", pages)] == []
    assert "automodule:: cortexclient.errors" in pages
    assert "automodule:: cortexclient.testing" in pages


def test_everything_public_says_what_it_is() -> None:
    """What the API reference shows is taken from docstrings: all members of the classes on it have one."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs" / "api").glob("*.md"))
    bare = []
    for name in re.findall(r"autoclass:: (cortexclient\.[\w.]+)", pages):
        module, _, owner = name.rpartition(".")
        shown = getattr(importlib.import_module(module), owner)
        members = [value for key, value in vars(shown).items() if not key.startswith("_")]
        bare += [f"{name}: {member}" for member in [shown, *members] if _lacks_a_docstring(member)]
    assert not bare


def _lacks_a_docstring(member: Any) -> bool:
    described = callable(member) or isinstance(member, property | functools.cached_property)
    return described and not inspect.getdoc(member)


def test_every_member_of_the_client_is_in_the_api_reference() -> None:
    from cortexclient import DatasetClient

    pages = "".join(
        page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs" / "api").glob("client*.md")
    )
    shown = set(re.findall(r"DatasetClient\.(\w+)$", pages, re.MULTILINE))
    public = {name for name in dir(DatasetClient) if not name.startswith("_")} - {"default_spec"}
    assert shown == public


def test_every_environment_variable_is_documented() -> None:
    read = {
        name
        for path in (REPOSITORY / "cortexclient").rglob("*.py")
        for name in re.findall(r"CORTEXCLIENT_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8"))
    }
    page = (REPOSITORY / "docs" / "tokens.md").read_text(encoding="utf-8")
    assert read <= set(re.findall(r"CORTEXCLIENT_[A-Z_]+[A-Z]", page))


def test_every_error_is_documented() -> None:
    from cortexclient import errors

    page = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    assert [name for name in errors.__all__ if f"`{name}`" not in page] == []


MEANT = {
    "tokens": ["token", "login", "proxy", "certificate", "environment variable", "terms of service"],
    "moments": ["expired version", "timestamp", "floating"],
    "morphology": ["soma", "skeleton swc", "mesh", "navis"],
    "tables": ["row limit", "units nm", "bounding box"],
    "history": ["edit history", "compare versions"],
    "synapses": ["partners"],
    "figures": ["color"],
    "links": ["neuroglancer link"],
    "cells": ["nucleus", "root id"],
    "bulk": ["dask"],
    "caching": ["offline"],
    "recipes": ["cell type", "proofreading"],
    "quickstart": ["install"],
    "glossary": ["level 2", "supervoxel"],
    "troubleshooting": ["timeout"],
}


@pytest.mark.parametrize(
    ("page", "query"), [(page, query) for page, queries in MEANT.items() for query in queries]
)
def test_the_search_knows_what_a_page_is_about(page: str, query: str) -> None:
    """Pages that are about all words of a query come first, see docs/_static/search.js; and they say the words."""
    about = dict(re.findall(r'^  "([\w/-]+)": "(.*)",$', SEARCH.read_text(encoding="utf-8"), re.MULTILINE))
    words = query.split()
    assert all(any(known.startswith(word) for known in about[page].split()) for word in words)
    text = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8").lower().replace("colour", "color")
    assert all(word[:4] in text for word in words)


def test_the_search_knows_pages_that_exist() -> None:
    folder = REPOSITORY / "docs"
    about = re.findall(r'^  "([\w/-]+)": "', SEARCH.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(about) > 20
    assert [page for page in about if not (folder / f"{page}.md").is_file()] == []
