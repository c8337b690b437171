"""`cortexclient cache`: how many, sound or not, and away with them."""

from __future__ import annotations

import os
import time

import pytest

from cortexclient.cli import main
from cortexclient.session.cache.store import Entry, FolderStore, now_text

HEAD = {"what": "rows", "valid": "forever", "stored": now_text()}


@pytest.fixture
def store(tmp_path):
    store = FolderStore(tmp_path / "kept", 10**6)
    for number in range(3):
        request = ["cortexclient", "2", "https://x.org", f"d{number % 2}", str(number)]
        store.write(Entry({**HEAD, "request": request}, b"x" * 100))
    return store


def cache(store, *words) -> int:
    return main(["cache", *words, "--path", str(store.place)])


def test_info(store, capsys):
    assert cache(store, "info") == 0
    shown = capsys.readouterr().out
    assert "3 entries" in shown
    assert "https://x.org" in shown
    assert "d1" in shown
    assert "for good" in shown


def test_verify(store, capsys):
    assert cache(store, "verify") == 0
    next(store.listing()).path.write_bytes(b"damage")
    assert cache(store, "info") == 0
    assert "damaged" in capsys.readouterr().out
    assert cache(store, "verify") == 1
    assert "2 entries are sound, 1 were damaged" in capsys.readouterr().out
    assert cache(store, "verify") == 0


def test_clear(store, capsys):
    old = next(store.listing()).path
    then = time.time() - 40 * 86_400
    os.utime(old, (then, then))
    assert cache(store, "clear", "--older-than", "-1") == cache(store, "clear", "--older-than", "nan") == 2
    assert cache(store, "clear", "--older-than", "30") == 0
    assert "removed 1 entries" in capsys.readouterr().out
    assert cache(store, "clear") == 0
    assert "removed 2 entries" in capsys.readouterr().out
    assert not list(store.listing())


def test_the_folder_of_the_environment(store, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CORTEXCLIENT_CACHE", str(store.place))
    assert main(["cache", "info"]) == 0
    assert "3 entries" in capsys.readouterr().out
    monkeypatch.setenv("CORTEXCLIENT_CACHE", "0")
    monkeypatch.setenv("CORTEXCLIENT_CACHE_DIR", str(tmp_path / "nothing"))
    assert main(["cache", "info"]) == 0
    assert ": 0 entries" in capsys.readouterr().out


def test_a_file_is_no_cache(tmp_path, capsys):
    (tmp_path / "x.zip").write_text("")
    assert main(["cache", "verify", "--path", str(tmp_path / "x.zip")]) == 2
