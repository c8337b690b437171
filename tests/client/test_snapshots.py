"""Snapshot files of strangers: each failure is one error of ours that names the file, in bounded time and memory."""

from __future__ import annotations

import json
import random
import resource
import struct
import zipfile

import pytest

import cortexclient
from cortexclient.errors import CortexError
from cortexclient.session import CacheEntry


@pytest.fixture(scope="module")
def good(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    client = tiny.load(version=3, cache=folder / "cache")
    client.tables.nucleus_detection().query()
    return client.save_snapshot(folder / "good.zip")


@pytest.fixture(scope="module")
def members(good):
    with zipfile.ZipFile(good) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def answers(path):
    client = cortexclient.load(path)
    assert repr(client)
    return client.tables.nucleus_detection().query()


def refused(path, match="snapshot"):
    with pytest.raises(CortexError, match=match) as caught:
        answers(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def write(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


NO_DESCRIPTIONS = [
    b"\x80\x04pickle",
    b"[]",
    b"null",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"format": 1}',
    b"{}",
    None,
]


@pytest.mark.parametrize("content", NO_DESCRIPTIONS, ids=lambda content: str(content)[:20])
def test_a_description_that_is_none(content, members, tmp_path):
    rest = {name: body for name, body in members.items() if name != "snapshot.json"}
    refused(write(tmp_path / "x.zip", rest if content is None else {**rest, "snapshot.json": content}))


@pytest.mark.parametrize(
    "change",
    [
        {"moment": None},
        {"moment": {"version": "three", "timestamp": None}},
        {"moment": {"version": True, "timestamp": None}},
        {"moment": {"version": 3, "timestamp": "2025-01-01T00:00:00+00:00"}},
        {"moment": {"version": None, "timestamp": "not a time"}},
        {"moment": {"version": None, "timestamp": "2025-01-01T00:00:00"}},
        {"moment": {"version": None, "timestamp": 5}},
        {"spec": [1]},
        {"spec": {}},
        {"spec": {"name": "x", "surprise": 1}},
        {"server": 5},
        {"server": "https://user:pw@evil.example"},
        {"format": "2"},
    ],
    ids=str,
)
def test_a_description_of_another_shape(change, members, tmp_path):
    changed = {**json.loads(members["snapshot.json"]), **change}
    refused(write(tmp_path / "x.zip", {**members, "snapshot.json": json.dumps(changed)}))
    for key in change:
        del changed[key]
    refused(write(tmp_path / "x.zip", {**members, "snapshot.json": json.dumps(changed)}))


@pytest.mark.parametrize(
    "head",
    [
        [],
        None,
        {"status": "x"},
        {"status": 500},
        {"headers": [1]},
        {"headers": {"Content-Type": 5}},
        {"request": ["other"]},
        {"request": 5},
        {"size": 1 << 60, "codec": "zstd"},
        {"size": "x"},
        {"size": -1},
        {"codec": "lzma"},
    ],
    ids=str,
)
def test_entries_of_another_shape(head, members, tmp_path):
    from cortexclient.session.cache.store import digest

    def spoiled(content):
        first, text, body = content.split(b"\n", 2)
        whole = {**json.loads(text), **head} if isinstance(head, dict) else head
        rest = json.dumps(whole).encode() + b"\n" + body
        return first.rpartition(b" ")[0] + b" " + digest(rest).encode() + b"\n" + rest

    changed = {name: spoiled(body) if name.startswith("answers/") else body for name, body in members.items()}
    refused(write(tmp_path / "x.zip", changed), "damaged or incomplete")


def test_sound_entries_with_bodies_that_cannot_be_parsed(members, tmp_path):
    """An Arrow stream whose offsets point outside would end the interpreter."""
    changed = {}
    for name, content in members.items():
        changed[name] = content
        if name.startswith("answers/"):
            entry = CacheEntry.from_bytes(content)
            if entry.head["what"].startswith("rows"):
                body = bytearray(entry.body)
                for at in range(len(body) // 2, len(body) - 16, 4):
                    body[at : at + 4] = struct.pack("<i", 2**30)
                changed[name] = CacheEntry(entry.head, bytes(body)).to_bytes()
    refused(write(tmp_path / "x.zip", changed), "cannot be parsed")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.95])
def test_a_file_that_is_cut(part, good, tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(good.read_bytes()[: int(good.stat().st_size * part)])
    refused(path)


def test_random_damage_is_noticed_or_does_not_matter(good, tmp_path):
    expected, content, path = answers(good), good.read_bytes(), tmp_path / "x.zip"
    randoms = random.Random(1)
    for _ in range(60):
        spoiled = bytearray(content)
        for _ in range(4):
            spoiled[randoms.randrange(len(spoiled))] = randoms.randrange(256)
        path.write_bytes(spoiled)
        try:
            found, failure = answers(path), str(path)
        except CortexError as error:
            found, failure = expected, str(error)
        assert found.equals(expected)
        assert str(path) in failure


@pytest.mark.parametrize(
    ("central", "local", "value"), [(8, 6, 1), (10, 8, 99)], ids=["encrypted", "method 99"]
)
def test_zips_of_other_kinds(central, local, value, good, tmp_path):
    content = bytearray(good.read_bytes())
    for mark, place in ((b"PK\x01\x02", central), (b"PK\x03\x04", local)):
        at = content.find(mark)
        while at >= 0:
            struct.pack_into("<H", content, at + place, value)
            at = content.find(mark, at + 4)
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("member", ["snapshot.json", "answers"])
def test_a_bomb_is_not_unpacked(member, members, tmp_path):
    path = tmp_path / "x.zip"
    names = [name for name in members if name.startswith(member)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in members.keys() - names:
            archive.writestr(name, members[name])
        for name in names:
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(20 if member == "answers" else 300):
                    file.write(b" " * (1 << 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))
    try:
        refused(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_names_in_the_zip_lead_nowhere(members, tmp_path):
    path = write(tmp_path / "x.zip", {**members, "../../../escaped": b"x", "/tmp/escaped": b"x"})
    assert len(answers(path)) > 0
    assert not list(tmp_path.parent.rglob("escaped"))


def test_saving_to_a_full_disk_or_a_folder_leaves_what_was_there(tiny, tmp_path):
    client = tiny.load(version=3, cache=tmp_path / "cache")
    client.tables.nucleus_detection().query()
    (tmp_path / "folder.zip").mkdir()
    for path in (tmp_path / "folder.zip", tmp_path / "no" / "x.zip"):
        with pytest.raises(CortexError, match="cannot write"):
            client.save_snapshot(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "folder.zip"]
