"""The package's own description agrees with the code: dependencies, version, contents of the archives."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# import name -> distribution name, where they differ
DISTRIBUTIONS = {
    "cloudfiles": "cloud-files",
    "cloudvolume": "cloud-volume",
    "pcg_skel": "pcg-skel",
    "pydantic_core": "pydantic",  # pydantic pins it to the letter
    "skimage": "scikit-image",
    "standard_transform": "standard-transform",
    "yaml": "pyyaml",
}
# only for people who installed them; each import is guarded and the error or docstring names the package
OPTIONAL = {"pytest", "ossify", "trimesh", "IPython", "polars"}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    content: dict[str, Any] = settings["project"]
    return content


@functools.cache
def imports(folder: Path) -> dict[str, set[str]]:
    """Top-level modules that the files of a folder import -> the files that do."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(str(path.relative_to(folder)))
    return found


def distribution(requirement: str) -> str:
    return re.split(r"[\s<>=!~\[;]", requirement, maxsplit=1)[0].lower()


def test_what_is_imported_is_declared(project: dict[str, Any], repository: Path) -> None:
    declared = {distribution(r) for r in project["dependencies"]}
    extras = {distribution(r) for group in project["optional-dependencies"].values() for r in group}
    missing = {}
    for module, files in imports(repository / "cortexclient").items():
        name = DISTRIBUTIONS.get(module, module).lower()
        if module in sys.stdlib_module_names or module == "cortexclient" or module in OPTIONAL:
            continue
        if name not in declared | extras:
            missing[module] = sorted(files)
    assert not missing


def test_what_is_declared_is_imported(project: dict[str, Any], repository: Path) -> None:
    used = {DISTRIBUTIONS.get(module, module).lower() for module in imports(repository / "cortexclient")}
    # meshparty: skeletons are its Meshworks, made by pcg-skel
    unused = {distribution(r) for r in project["dependencies"]} - used - {"meshparty"}
    assert not unused


def test_every_dependency_has_a_lower_bound(project: dict[str, Any]) -> None:
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    unbounded = [r for group in groups for r in group if ">=" not in r]
    assert not unbounded


def test_lower_bounds_are_those_that_are_tested(project: dict[str, Any], repository: Path) -> None:
    # tox -e lowest installs these versions to the letter and runs tests with them
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    lines = (repository / "tests" / "packaging" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    groups = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    declared = [*project["dependencies"], *groups["test"]]
    declared += [text for extra in project["optional-dependencies"].values() for text in extra]
    untested = {}
    for text in declared:
        requirement = Requirement(text)
        (bound,) = requirement.specifier
        pin = pins.get(canonicalize_name(requirement.name))
        if bound.operator != ">=" or pin is None or Version(bound.version) != Version(pin):
            untested[text] = pin
    assert not untested, "change the bound, or make lowest.txt again with the command at its top"


def test_installed_versions_meet_the_lower_bounds(project: dict[str, Any]) -> None:
    from importlib import metadata

    from packaging.requirements import Requirement

    for text in project["dependencies"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(metadata.version(requirement.name), prereleases=True), text


def test_version_is_said_once(project: dict[str, Any], repository: Path) -> None:
    from importlib import metadata

    import cortexclient

    assert cortexclient.__version__ == metadata.version("cortexclient")
    assert project["dynamic"] == ["version"]
    assert "## [Unreleased]" in (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def test_datasets_folder_holds_data_only(repository: Path) -> None:
    # a .py file there would make it a package that shadows other people's `datasets` in editable installs
    folder = repository / "datasets"
    assert sorted(folder.glob("*.yaml"))
    assert not list(folder.rglob("*.py"))


def test_readme_names_the_two_commands(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert 'python -m pip install ".[sandbox]" && cortexclient demo' in readme
    assert "python -m pip install tox && tox" in readme
    assert "python -m pip install tox" in (repository / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("limit", [600])
def test_modules_stay_small(repository: Path, limit: int) -> None:
    long = {
        str(path.relative_to(repository)): count
        for path in (repository / "cortexclient").rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > limit
    }
    assert not long
