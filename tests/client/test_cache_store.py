"""The folder of cached responses: private, complete, bounded, shared, and suspicious of whatever else lies there."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexclient.session.cache import CacheChoice
from cortexclient.session.cache.store import DamagedEntryError, Entry, FolderStore

NAMES = [["rows", str(number)] for number in range(40)]


def entry(number: int = 0, body: bytes = b"x") -> Entry:
    head = {
        "what": "rows",
        "valid": "forever",
        "stored": "2026-11-21T00:00:00+00:00",
        "request": NAMES[number],
    }
    return Entry(head, body)


def filled(folder, count: int = 3) -> tuple[FolderStore, list[Path]]:
    store = FolderStore(folder, 10**6)
    for number in range(count):
        assert store.write(entry(number, b"body" * 100))
    return store, [folder / "answers" / entry(n).key[:2] / entry(n).key[2:] for n in range(count)]


@given(st.binary(max_size=300), st.integers(0, 100_000))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(body, times):
    long = body * (times // max(1, len(body)))
    assert Entry.from_bytes(entry(0, long).to_bytes(), entry(0).key) == entry(0, long)
    assert Entry.from_bytes(entry(0, body).to_bytes()).head["what"] == "rows"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_changed_or_missing_byte_is_noticed(data):
    content = entry(0, b"some rows" * 20).to_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    for spoiled in (content[:place], content[:place] + bytes([other]) + content[place + 1 :]):
        with pytest.raises(DamagedEntryError):
            Entry.from_bytes(spoiled)


def test_long_bodies_are_compressed_and_the_head_is_json():
    assert len(entry(0, b"rows" * 100_000).to_bytes()) < 10_000
    assert (
        len(entry(0, b"\x1f\x8b" + bytes(50_000)).to_bytes()) > 50_000
    )  # compressed already, as far as can be told
    _, head, body = entry(0, b"body").to_bytes().split(b"\n", 2)
    assert json.loads(head)["request"] == NAMES[0]
    assert body == b"body"


def test_nobody_else_reads_it(tmp_path):
    old = os.umask(0)
    try:
        filled(tmp_path / "kept", 1)
    finally:
        os.umask(old)
    for path in [tmp_path / "kept", *(tmp_path / "kept").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    (tmp_path / "kept" / "answers").chmod(0o777)
    FolderStore(tmp_path / "kept", 10**6).read(NAMES[0])
    assert stat.S_IMODE((tmp_path / "kept" / "answers").stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no owners here")
@pytest.mark.parametrize("how", ["owner", "link", "file"])
def test_a_folder_that_is_not_ours_is_not_believed(how, tmp_path, monkeypatch, caplog):
    filled(tmp_path / "theirs", 1)
    place = tmp_path / "theirs"
    if how == "owner":
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    else:
        place = tmp_path / "ours"
        place.mkdir()
        if how == "link":
            (place / "answers").symlink_to(tmp_path / "theirs" / "answers")
        else:
            (place / "answers").write_text("")
    store = FolderStore(place, 10**6)
    assert store.read(NAMES[0]) is None
    assert not store.write(entry(1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once
    assert ("another user" if how == "owner" else "answers") in caplog.text


@pytest.mark.parametrize(
    "what", ["cut", "other bytes", "empty", "other request", "fifo", "folder", "link", "refused"]
)
def test_a_damaged_entry_is_removed_and_written_again(what, tmp_path, caplog):
    store, (path, other, _) = filled(tmp_path)
    content, precious = path.read_bytes(), tmp_path / "precious"
    precious.write_bytes(content)
    if what in {"fifo", "folder", "link"}:
        path.unlink()
        {"fifo": os.mkfifo, "folder": os.mkdir, "link": lambda p: p.symlink_to(precious)}[what](path)
    elif what != "refused":
        spoiled = {
            "cut": content[:-5],
            "other bytes": b"something",
            "empty": b"",
            "other request": other.read_bytes(),
        }
        path.write_bytes(spoiled[what])
    assert store.read(NAMES[0], lambda found: what != "refused" and bool(found)) is None
    assert "is damaged and is requested again" in caplog.text
    assert not os.path.lexists(path)
    assert store.write(entry(0, b"new"))
    assert store.read(NAMES[0]).body == b"new"
    assert precious.read_bytes() == content


def test_verify_and_clear_touch_our_own_entries_only(tmp_path):
    store, paths = filled(tmp_path)
    foreign = [
        tmp_path / "answers" / "2024" / "participants.csv",
        tmp_path / "answers" / "ab" / "notes.txt",
        tmp_path / "answers" / "ab" / "notes.part",
        tmp_path / "answers" / ("c" * 62),
        tmp_path / "answers" / "zz" / ("c" * 62),
        tmp_path / "thesis.tex",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("precious")
        os.utime(path, (0, 0))
    outside = tmp_path / "outside" / ("d" * 62)
    outside.parent.mkdir()
    outside.write_text("precious")
    (tmp_path / "answers" / "dd").symlink_to(outside.parent)
    paths[1].write_bytes(b"something else")
    assert store.verify() == [paths[1]]
    assert {file.path for file in store.listing()} == {paths[0], paths[2]}
    FolderStore(tmp_path, 1).sweep()
    assert not list(store.listing())
    filled(tmp_path)
    assert store.clear() == 3
    assert [path.read_text() for path in [*foreign, outside]] == ["precious"] * 7


def test_part_files_of_dead_processes_are_swept(tmp_path):
    store, (path,) = filled(tmp_path, 1)
    old, new = path.with_name(f"{path.name}.1.abcdef01.part"), path.with_name(f"{path.name}.2.abcdef01.part")
    for part in (old, new):
        part.write_bytes(b"half a resp")
    os.utime(old, (0, 0))
    assert [file.path for file in store.listing()] == [path]
    store.sweep()
    assert not old.exists()
    assert new.exists()  # someone may be writing it


def test_the_least_used_go_first(tmp_path):
    store = FolderStore(tmp_path, 20_000)
    now = time.time()
    for age in range(15):
        store.write(entry(age, os.urandom(1000)))
        path = next(file.path for file in store.listing() if file.key == entry(age).key)
        os.utime(path, (now - 1000 + age, now - 1000 + age))
    assert store.read(NAMES[0]) is not None  # used just now
    for number in range(15, 25):
        store.write(entry(number, os.urandom(1000)))
    kept = {file.key for file in store.listing()}
    assert sum(file.size for file in store.listing()) <= 20_000 * 1.05
    assert [entry(number).key in kept for number in (0, 1, 24)] == [True, False, True]
    assert not store.write(entry(30, os.urandom(15_000)))  # would push out all others


def test_a_folder_that_cannot_be_used_is_no_failure(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = FolderStore(tmp_path / "file" / "below", 10**6)
    assert not store.write(entry())
    assert store.read(NAMES[0]) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_many_threads(tmp_path):
    def work(number):
        store = FolderStore(tmp_path, 10**7)
        body = str(number % 5).encode() * 5000
        store.write(entry(number % 5, body))
        found = store.read(NAMES[number % 5])
        return found is not None and found.body == body

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(100)))
    assert len(list(FolderStore(tmp_path, 10**7).listing())) == 5


def _hammer(folder, seed, queue):
    store = FolderStore(folder, 60_000)  # small: they evict under each other's hands
    good = True
    for number in range(60):
        one = (seed + number) % 20
        store.write(entry(one, entry(one).key.encode() * 50))
        found = store.read(NAMES[(seed + 7 * number) % 20])
        good &= found is None or found.body == found.key.encode() * 50
    queue.put(good)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_two_processes(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_hammer, args=(tmp_path, seed, queue)) for seed in (0, 3)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [True, True]
    for worker in workers:
        worker.join()
    assert FolderStore(tmp_path, 60_000).verify() == []
    assert not list(tmp_path.rglob("*.part"))


def test_the_choice(tmp_path, monkeypatch):
    monkeypatch.delenv("CORTEXCLIENT_CACHE", raising=False)
    usual = CacheChoice.usual_folder()
    assert CacheChoice.of(None, None) is None
    assert CacheChoice.of(False, None) is None
    assert CacheChoice.of(None, True) == CacheChoice(usual, offline=True, limit=10**10)
    assert CacheChoice.of(str(tmp_path), None).place == tmp_path
    for text, place in (("1", usual), ("/somewhere", Path("/somewhere")), ("0", None), ("", None)):
        monkeypatch.setenv("CORTEXCLIENT_CACHE", text)
        found = CacheChoice.of(None, None)
        assert (found and found.place) == place
    monkeypatch.setenv("CORTEXCLIENT_OFFLINE", "1")
    assert CacheChoice.of(tmp_path, None).offline
    assert not CacheChoice.of(tmp_path, False).offline
    monkeypatch.setenv("CORTEXCLIENT_OFFLINE", "0")
    monkeypatch.setenv("CORTEXCLIENT_CACHE_GB", "0.5")
    assert CacheChoice.of(tmp_path, None).limit == 500_000_000


@pytest.mark.parametrize(
    ("cache", "offline", "environment", "message"),
    [
        (False, True, {}, "offline=True answers from the cache alone"),
        ("x.zip", None, {}, "a snapshot is only read"),
        ("", None, {}, "names no folder"),
        ("  ", None, {}, "names no folder"),
        ("a\0b", None, {}, "names no folder"),
        ("n" * 300, None, {}, "at most 255 bytes"),
        ("~nobody-of-this-name/x", None, {}, "the cache cannot be in"),
        (5, None, {}, "must be True, False or a folder, not 5"),
        ([], None, {}, "must be True, False or a folder"),
        (b"x", None, {}, "must be True, False or a folder"),
        (None, None, {"CORTEXCLIENT_OFFLINE": "perhaps"}, "CORTEXCLIENT_OFFLINE"),
        *(
            (True, None, {"CORTEXCLIENT_CACHE_GB": text}, "CORTEXCLIENT_CACHE_GB")
            for text in ("nan", "inf", "-1", "x")
        ),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant(cache, offline, environment, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.zip").write_text("")
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ValueError, match=message) as caught:
        CacheChoice.of(cache, offline)
    assert "\n" not in str(caught.value)
