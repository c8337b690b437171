"""What the list keeps between processes: never anything that is no longer so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cortexclient.registry import index as index_module
from cortexclient.registry import list_datasets, listing
from cortexclient.registry.listing import DatasetInfo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORTEXCLIENT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(index_module, "WORTH_KEEPING", 1)
    return tmp_path / "cache" / "registry"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read in full."""
    from cortexclient.registry import assembly

    names: list[str] = []
    real = assembly.assemble
    monkeypatch.setattr(
        assembly, "assemble", lambda path, **options: names.append(path.stem) or real(path, **options)
    )
    return names


def listed(name: str) -> DatasetInfo:
    return next(info for info in list_datasets(details=True) if info.name == name)


def test_files_that_have_not_changed_are_not_read_again(
    write: Callable[..., Path], read: list[str], folder: Path
) -> None:
    write(
        "mine",
        "aliases: [nick]\naccess: {level: group, note: Ask.}\ndeprecation: {removed_from: 2020-01-01}\n",
    )
    (folder / "broken.yaml").write_text("name: [broken\n")
    first = list_datasets(details=True)
    assert {"mine", "broken", "v1dd"} <= set(read)
    read.clear()
    assert list_datasets(details=True) == first
    assert read == []
    info = listed("mine")
    assert (info.title, info.access, info.aliases, info.stage) == ("My brain", "group", ("nick",), "removed")
    assert "CX103" in (listed("broken").problem or "")


def test_a_change_of_any_file_that_took_part_is_seen(
    write: Callable[..., Path], folder: Path, read: list[str], tmp_path: Path
) -> None:
    (folder / "volumes").mkdir()
    volume = folder / "volumes" / "brain.yaml"
    volume.write_text("species: Mus musculus\n")
    parents = tmp_path / "config" / "datasets"
    parent = write("base", "access: {level: public}\n", into=parents)
    write("child", "name: child\nextends: base\nvolume: brain\n")
    write("other")
    assert (listed("child").access, listed("child").problem) == ("public", None)
    parent.write_text(parent.read_text().replace("public", "login"))
    os.utime(parent, ns=(1, 1))
    read.clear()
    assert listed("child").access == "login"
    assert sorted(read) == ["base", "child"]
    volume.write_text("specie: Mus musculus\n")
    assert "CX201" in (listed("child").problem or "")
    volume.unlink()
    assert "CX307" in (listed("child").problem or "")
    volume.write_text("species: Mus musculus\n")
    assert listed("child").problem is None
    # a nearer parent takes over as soon as it is there
    write("base", "access: {level: group, note: Ask.}\n")
    assert listed("child").access == "group"


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"built-in:x": 3}', "\x00"])
def test_a_damaged_index_is_written_anew(content: str, write: Callable[..., Path], cache: Path) -> None:
    write("mine")
    before = list_datasets(details=True)
    (path,) = cache.iterdir()
    path.write_text(content)
    assert list_datasets(details=True) == before
    entries = json.loads(path.read_text())
    for key in entries:
        entries[key] = ["not", "what", "is", "written"]
    path.write_text(json.dumps(entries))
    assert list_datasets(details=True) == before


def test_a_few_files_leave_nothing_behind(
    write: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "WORTH_KEEPING", 200)
    write("mine")
    list_datasets(details=True)
    list_datasets()
    assert not cache.exists()


def test_old_indexes_go(write: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("mine")
    for number in range(index_module.MOST_INDEXES + 3):
        monkeypatch.setenv("CORTEXCLIENT_PATH", os.pathsep.join([str(path.parent), f"/none/{number}"]))
        list_datasets(details=True)
    assert len(list(cache.iterdir())) == index_module.MOST_INDEXES


def test_a_cache_that_cannot_be_written_costs_only_time(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("CORTEXCLIENT_CACHE_DIR", str(tmp_path / "a_file"))
    write("mine")
    assert listed("mine").title == "My brain"


@pytest.fixture
def skimming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat a handful of files like thousands."""
    monkeypatch.setattr(listing, "MOST_READ_IN_FULL", 0)


@pytest.mark.usefixtures("skimming")
def test_many_files_are_read_as_far_as_the_list_needs(
    write: Callable[..., Path], read: list[str], folder: Path
) -> None:
    more = "aliases: [nick, {}]\naccess: {{level: group, note: Ask.}}\ndeprecation: {{removed_from: 2020-01-01}}\n"
    write("mine", more.format("nock"))
    write("child", "name: child\nextends: mine\ntitle: A child\n")
    write("later", "synapse_tabel: a\nversions: [{version: 1}, {version: 1}]\n")
    skimmed = {info.name: info for info in list_datasets(details=True)}
    assert read == []
    mine, child, later = (skimmed[name] for name in ("mine", "child", "later"))
    assert (mine.title, mine.access, mine.aliases) == ("My brain", "group", ("nick", "nock"))
    assert (mine.stage, mine.checked) == ("removed", False)
    assert (child.title, child.access, child.aliases, child.stage) == ("A child", "group", (), "current")
    # problems are looked for where they are asked for, and only there
    assert "CX201" in (later.problem or "")
    assert "CX303" in (later.problem or "")
    assert mine.problem is None
    assert sorted(read) == ["later", "mine"]
    # read in full, the list says the same
    full = {info.name: info for info in list_datasets(details=True, check=True)}
    assert all(info.checked for info in full.values())
    for name, info in full.items():
        if info.problem is None:
            seen = skimmed[name]
            assert (info.title, info.access, info.aliases, info.stage) == (
                *(seen.title, seen.access, seen.aliases, seen.stage),
            )
    read.clear()
    assert list_datasets(details=True, check=True) == list(full.values())
    assert read == []


@pytest.mark.usefixtures("skimming")
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("title: [a, list]\n", "CX203"),
        ("name: mine\n", "CX202"),
        ("name: other\ntitle: a\n", "CX301"),
        ("name: mine\ntitle: a\naccess: {level: secret}\n", "CX206"),
        ("name: mine\ntitle: a\nextends: mine\n", "CX306"),
        ("name: mine\ntitle: a\naliases: [one, one]\n", "CX302"),
        ("name: mine\ntitle: a\ntitle: b\n", "CX104"),
        ("name: mine\ntitle: !!python/name:os.system a\n", "CX105"),
        ("name: mine\ntitle: a\ntables: {a: [}\n", "CX103"),
        ("name: mine\ntitle: a\n---\nname: b\n", "CX108"),
        ("", "CX108"),
    ],
)
def test_what_is_wrong_with_what_is_listed_is_said_at_once(text: str, code: str, folder: Path) -> None:
    (folder / "mine.yaml").write_text(text)
    info = listed("mine")
    assert info.checked
    assert code in (info.problem or "")


@pytest.mark.usefixtures("skimming")
def test_what_is_passed_over_may_be_anything(write: Callable[..., Path]) -> None:
    write(
        "mine",
        "x-notes: &all\n  - {title: not this, aliases: [nor, these]}\n  - *all\ndescription: *all\n"
        "tables: !!set {title: x}\naccess: {level: public}\n",
    )
    info = listed("mine")
    assert (info.title, info.aliases, info.access, info.checked) == ("My brain", (), "public", False)
    assert "CX107" in (info.problem or "")
    assert "CX105" in (info.problem or "")
