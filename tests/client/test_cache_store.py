"""The folder of kept answers: private, whole, bounded, shared."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexclient.session.cache import CacheChoice
from cortexclient.session.cache.entry import DamagedEntryError, Entry, pack, unpack
from cortexclient.session.cache.store import FolderStore

HEAD = {"what": "rows", "keep": "forever", "stored": "2026-11-21T00:00:00+00:00"}
KEYS = [f"{n:064x}" for n in range(40)]


@given(st.binary(max_size=300), st.integers(0, 100_000))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(body, times):
    long = body * (times // max(1, len(body)))
    assert unpack(pack(Entry(HEAD, long))).body == long
    assert unpack(pack(Entry(HEAD, body))).head["what"] == "rows"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_or_missing_byte_is_noticed(data):
    content = pack(Entry(HEAD, b"some rows" * 20))
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    for spoiled in (content[:place], content[:place] + bytes([other]) + content[place + 1 :]):
        with pytest.raises(DamagedEntryError):
            unpack(spoiled)


def test_long_answers_are_packed(tmp_path):
    assert len(pack(Entry(HEAD, b"rows" * 100_000))) < 10_000
    assert (
        len(pack(Entry(HEAD, b"\x1f\x8b" + bytes(50_000)))) > 50_000
    )  # packed already, as far as anyone can tell


def test_nobody_else_reads_it(tmp_path):
    old = os.umask(0)
    try:
        store = FolderStore(tmp_path / "kept", 10**6)
        store.write(KEYS[0], Entry(HEAD, b"x"))
    finally:
        os.umask(old)
    for path in [tmp_path / "kept", *(tmp_path / "kept").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_folder_that_was_open_is_closed(tmp_path):
    (tmp_path / "answers").mkdir(mode=0o777)
    (tmp_path / "answers").chmod(0o777)
    FolderStore(tmp_path, 10**6).write(KEYS[0], Entry(HEAD, b"x"))
    assert stat.S_IMODE((tmp_path / "answers").stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no owners here")
def test_a_folder_of_someone_else_is_not_believed(tmp_path, monkeypatch, caplog):
    FolderStore(tmp_path, 10**6).write(KEYS[0], Entry(HEAD, b"poison"))
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    store = FolderStore(tmp_path, 10**6)
    assert store.read(KEYS[0]) is None
    assert not store.write(KEYS[1], Entry(HEAD, b"x"))
    assert "belongs to another user" in caplog.text


def test_a_damaged_entry_goes(tmp_path, caplog):
    store = FolderStore(tmp_path, 10**6)
    for key in KEYS[:3]:
        store.write(key, Entry(HEAD, b"body" * 100))
    paths = {entry.key: entry.path for entry in store.listing()}
    paths[KEYS[0]].write_bytes(paths[KEYS[0]].read_bytes()[:-5])
    paths[KEYS[1]].write_bytes(b"something else")
    assert store.read(KEYS[0]) is None
    assert "damaged" in caplog.text
    assert not paths[KEYS[0]].exists()
    assert store.verify() == [paths[KEYS[1]]]
    assert [entry.key for entry in store.listing()] == [KEYS[2]]
    assert store.clear() == 1


def test_what_a_dead_process_left_is_swept(tmp_path):
    store = FolderStore(tmp_path, 10**6)
    store.write(KEYS[0], Entry(HEAD, b"x"))
    folder = next(store.listing()).path.parent
    old, new = folder / "ab.1.part", folder / "cd.2.part"
    for path in (old, new):
        path.write_bytes(b"half an ans")
    os.utime(old, (0, 0))
    assert [entry.key for entry in store.listing()] == [KEYS[0]]
    store.sweep()
    assert not old.exists()
    assert new.exists()  # someone may be writing it


def test_the_least_used_go_first(tmp_path):
    store = FolderStore(tmp_path, 20_000)
    now = time.time()
    for age, key in enumerate(KEYS[:15]):
        store.write(key, Entry(HEAD, os.urandom(1000)))
        path = next(entry.path for entry in store.listing() if entry.key == key)
        os.utime(path, (now - 1000 + age, now - 1000 + age))
    assert store.read(KEYS[0]) is not None  # used just now
    for key in KEYS[15:25]:
        store.write(key, Entry(HEAD, os.urandom(1000)))
    kept = {entry.key for entry in store.listing()}
    assert sum(entry.size for entry in store.listing()) <= 20_000 * 1.05
    assert KEYS[0] in kept
    assert KEYS[1] not in kept
    assert KEYS[24] in kept
    assert not store.write(KEYS[30], Entry(HEAD, os.urandom(15_000)))  # would push out all others


def test_a_folder_that_cannot_be_used_is_no_failure(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = FolderStore(tmp_path / "file" / "below", 10**6)
    assert not store.write(KEYS[0], Entry(HEAD, b"x"))
    assert store.read(KEYS[0]) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # told once


def test_many_threads(tmp_path):
    def work(number):
        store = FolderStore(tmp_path, 10**7)
        body = str(number % 5).encode() * 5000
        store.write(KEYS[number % 5], Entry(HEAD, body))
        entry = store.read(KEYS[number % 5])
        return entry is not None and entry.body == body

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(100)))
    assert len(list(FolderStore(tmp_path, 10**7).listing())) == 5


def _hammer(folder, seed, queue):
    store = FolderStore(folder, 60_000)  # small: they evict under each other's hands
    good = True
    for number in range(60):
        key = KEYS[(seed + number) % 20]
        store.write(key, Entry(HEAD, key.encode() * 50))
        entry = store.read(KEYS[(seed + 7 * number) % 20])
        good &= entry is None or entry.body == entry.body[:64] * 50
    queue.put(good)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_two_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_hammer, args=(tmp_path, seed, queue)) for seed in (0, 3)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [True, True]
    for worker in workers:
        worker.join()
    store = FolderStore(tmp_path, 60_000)
    assert store.verify() == []
    assert not list(tmp_path.rglob("*.part"))


def test_the_choice(tmp_path, monkeypatch):
    monkeypatch.delenv("CORTEXCLIENT_CACHE", raising=False)
    assert CacheChoice.of(None, None) is None
    assert CacheChoice.of(False, None) is None
    assert CacheChoice.of(None, True).offline  # in the usual folder
    assert CacheChoice.of(True, None).place == CacheChoice.of(None, True).place
    assert CacheChoice.of(str(tmp_path), None).place == tmp_path
    for text, place in (
        ("1", CacheChoice.of(True, None).place),
        ("/somewhere", None),
        ("0", "off"),
        ("", "off"),
    ):
        monkeypatch.setenv("CORTEXCLIENT_CACHE", text)
        found = CacheChoice.of(None, None)
        assert found is None if place == "off" else str(found.place) == str(place or text)
    assert CacheChoice.of(False, None) is None
    with pytest.raises(ValueError, match="offline=True answers from the cache alone"):
        CacheChoice.of(False, True)
    monkeypatch.setenv("CORTEXCLIENT_OFFLINE", "1")
    assert CacheChoice.of(tmp_path, None).offline
    assert not CacheChoice.of(tmp_path, False).offline
    monkeypatch.setenv("CORTEXCLIENT_OFFLINE", "perhaps")
    with pytest.raises(ValueError, match="CORTEXCLIENT_OFFLINE"):
        CacheChoice.of(tmp_path, None)
    monkeypatch.setenv("CORTEXCLIENT_OFFLINE", "0")
    monkeypatch.setenv("CORTEXCLIENT_CACHE_GB", "0.5")
    assert CacheChoice.of(tmp_path, None).limit == 500_000_000
    (tmp_path / "file.zip").write_text("")
    with pytest.raises(ValueError, match="a snapshot is only read"):
        CacheChoice.of(tmp_path / "file.zip", None)


def test_heads_are_json(tmp_path):
    store = FolderStore(tmp_path, 10**6)
    store.write(KEYS[0], Entry(HEAD, b"body"))
    content = next(store.listing()).path.read_bytes()
    _, head, body = content.split(b"\n", 2)
    assert json.loads(head)["what"] == "rows"
    assert body == b"body"
