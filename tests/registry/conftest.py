"""A private world for every test of the registry: no user folder, no path, nothing registered."""

from __future__ import annotations

from pathlib import Path

import pytest

from cortexclient.registry import assembly, lookup, specs

MINIMAL = """\
name: {name}
title: My brain
server_address: https://cave.my.lab
datastack: my_brain_v1
"""


@pytest.fixture(autouse=True)
def private_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CORTEXCLIENT_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("CORTEXCLIENT_PATH", raising=False)
    monkeypatch.setattr(lookup, "_registered", {})
    monkeypatch.setattr(specs, "_shadows_reported", set())
    assembly.forget()
    yield
    assembly.forget()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on CORTEXCLIENT_PATH."""
    path = tmp_path / "specs"
    path.mkdir()
    monkeypatch.setenv("CORTEXCLIENT_PATH", str(path))
    return path


@pytest.fixture
def write(folder: Path):
    """Write a spec: the smallest valid one of that name, and more lines."""

    def writer(name: str, more: str = "", *, into: Path | None = None) -> Path:
        path = (into or folder) / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (
            more
            if "name:" in more.splitlines()[:1] or more.startswith("name:")
            else MINIMAL.format(name=name) + more
        )
        path.write_text(text, encoding="utf-8")
        return path

    return writer
