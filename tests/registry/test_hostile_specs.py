"""Specs by somebody who means harm: nothing is executed, obeyed, exhausted or sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cortexclient.errors import SpecError, UnknownDatasetError
from cortexclient.registry import get_spec, list_datasets
from cortexclient.registry.validation import validate

MINIMAL = "name: my_brain\ntitle: My brain\nserver_address: https://cave.my.lab\ndatastack: my_brain_v1\n"


def errors(tmp_path: Path, content: str | bytes) -> list[tuple[str, str]]:
    """Codes and paths of the errors of a file, which cannot be loaded either."""
    path = tmp_path / "my_brain.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (result,) = validate([path])
    found = [(problem.code, problem.path) for problem in result.problems if problem.severity == "error"]
    if found:
        with pytest.raises(SpecError) as caught:
            get_spec(path)
        text = str(caught.value)
        assert all(character.isprintable() or character == "\n" for character in text), ascii(text)
        assert max(map(len, text.splitlines())) < 1000 + len(str(path))
    else:
        assert get_spec(path).name == "my_brain"
    return found


# ------------------------------------------------------------------------------------ what a terminal would obey
@pytest.mark.parametrize(
    "character", ["\\0", "\\e[2J", "\\x9b", "\\x7f", "\\b", "\\r", "\\u202e", "\\u2066", "\\u2028"]
)
@pytest.mark.parametrize(
    "key", ["title: ", "description: ", "access: {note: ", "citation: {text: ", "license: {name: "]
)
def test_text_that_steers_a_terminal_is_refused(key: str, character: str, tmp_path: Path) -> None:
    lines = MINIMAL if key != "title: " else MINIMAL.replace("title: My brain\n", "")
    close = "}" if "{" in key else ""
    found = errors(tmp_path, f'{lines}{key}"before {character} after"{close}\n')
    assert [code for code, _ in found] == ["CX207"]


def test_text_of_several_lines_and_languages_is_welcome(tmp_path: Path) -> None:
    assert (
        errors(tmp_path, MINIMAL + 'description: "a\\tb\\n\\nc: 大脳皮質, mózg, мозг, \\U0001F9E0"\n') == []
    )


# ----------------------------------------------------------------------------------------------------- encodings
@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037", "shift_jis"]
)
def test_other_encodings_are_not_guessed_at(encoding: str, tmp_path: Path) -> None:
    content = (
        (MINIMAL + "description: café\n")
        .replace("é", "é" if encoding != "shift_jis" else "ｶ")
        .encode(encoding)
    )
    found = errors(tmp_path, content)
    if encoding == "utf-7":  # which is ASCII, and reads as such
        assert found == []
        return
    assert found
    assert {code for code, _ in found} <= {"CX101", "CX103"}


def test_a_control_character_is_found_behind_letters_of_several_bytes(tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_text(f"{MINIMAL}description: 大脳皮質 and мозг\nregion: a\x01b\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        get_spec(path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.line, problem.column) == ("CX103", 6, 10)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_way_to_end_a_line(end: str, tmp_path: Path) -> None:
    assert errors(tmp_path, "\ufeff" + MINIMAL.replace("\n", end)) == []


# ---------------------------------------------------------------------------------------------------------- size
@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("x-a: 1" + "_" * 900_000 + "x", None),
        ("x-a: " + "eyJ-" * 220_000, None),
        ("exports: {path: 'gs://lab/x', layout: '" + "{version}" * 90_000 + "'}", "CX210"),
    ],
    ids=["digits", "tokens", "layout"],
)
def test_a_long_word_costs_no_more_than_its_length(lines: str, code: str | None, tmp_path: Path) -> None:
    # with the square of it, each of these would take an hour
    assert [found for found, _ in errors(tmp_path, f"{MINIMAL}{lines}\n")] == ([] if code is None else [code])


def test_the_list_passes_over_bombs(folder: Path) -> None:
    (folder / "deep.yaml").write_text(
        MINIMAL.replace("my_brain", "deep", 1) + "x-a: " + "[" * 900 + "]" * 900 + "\n"
    )
    (folder / "open.yaml").write_text(MINIMAL.replace("my_brain", "open", 1) + "x-a: " + "[" * 100_000 + "\n")
    bomb = "x-a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"x-{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 8)}]\n" for n in range(20)
    )
    (folder / "bomb.yaml").write_text(MINIMAL.replace("my_brain", "bomb", 1) + bomb)
    infos = {info.name: info for info in list_datasets(details=True)}
    for name in ("open", "deep", "bomb"):
        assert "CX106" in (infos[name].problem or "")


# --------------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    "name", ["con", "nul", "aux", "prn", "com1", "lpt9", "class", "import", "_template", "__init__"]
)
def test_names_that_some_machine_cannot_have(name: str, folder: Path) -> None:
    (folder / f"{name}.yaml").write_text(MINIMAL.replace("my_brain", name, 1))
    with pytest.raises((SpecError, UnknownDatasetError), match=r"CX207|no dataset"):
        get_spec(name)


def test_names_that_only_look_special_work(python: Any, folder: Path) -> None:
    for name in ("client", "datasets"):
        (folder / f"{name}.yaml").write_text(MINIMAL.replace("my_brain", name, 1))
    code = "from cortexclient.datasets import client as a, datasets as b; print(a.client.spec.name, b.client.spec.name)"
    assert python(code).split() == ["client", "datasets"]


def test_names_differ_by_more_than_their_case(folder: Path) -> None:
    (folder / "mine.yaml").write_text(MINIMAL.replace("my_brain", "mine", 1))
    (folder / "Mine.yaml").write_text(MINIMAL.replace("my_brain", "Mine", 1))
    assert [name for name in list_datasets() if name.lower() == "mine"] == ["mine"]
    with pytest.raises(UnknownDatasetError, match="did you mean mine"):
        get_spec("Mine")


# ----------------------------------------------------------------------------------------------------- addresses
@pytest.mark.parametrize(
    "address",
    [
        *("https://.", "https://-", "https://a..b", "https://a.b%40evil.example", "https://a_b-"),
        *("https://cave.my.lab\\@evil.example", "https://cave.my.lab:0", "https://[::1", "https://a.b:70000"),
        *(
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example",
            "http://2130706433",
            "http://0.0.0.0",
        ),
        *("//cave.my.lab", "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "sandbox://../x"),
    ],
)
@pytest.mark.parametrize("key", ["server_address", "documentation"])
def test_addresses_that_are_none_or_lead_elsewhere(key: str, address: str, tmp_path: Path) -> None:
    lines = (
        MINIMAL.replace("server_address: https://cave.my.lab\n", "") if key == "server_address" else MINIMAL
    )
    found = errors(tmp_path, f"{lines}{key}: '{address}'\n")
    assert found
    assert {code for code, _ in found} <= {"CX207", "CX402", "CX405", "CX406"}


@pytest.mark.parametrize("path", ["gs://../x", "gs:///x", "s3://UPPER/x", "gs://-b/x", "gs://b%2f/x"])
def test_buckets_have_names(path: str, tmp_path: Path) -> None:
    assert errors(tmp_path, f"{MINIMAL}exports: {{path: '{path}'}}\n") == [("CX207", "exports.path")]


def test_times_at_the_ends_of_time(tmp_path: Path) -> None:
    lines = 'versions:\n  - {version: 1, timestamp: "0001-01-01T00:00:00+14:00"}\n'
    assert errors(tmp_path, MINIMAL + lines) == [("CX209", "versions[0].timestamp")]


# -------------------------------------------------------------------------------------------------- placeholders
@pytest.mark.parametrize(
    "line",
    [
        "server_address: https://${env:GH_PAT}.evil.example",
        "server_address: ${env:GH_PAT}",
        "datastack: '${env:GH_PAT}'",
        "title: '${env:GH_PAT:-nothing}'",
        "description: ${GH_PAT}",
        "aliases: ['${env:GH_PAT}']",
        "viewer_site: https://evil.example/${env:GH_PAT}",
        "exports: {path: 'gs://lab/${env:GH_PAT', mirrors: ['gs://${ env:GH_PAT }/x']}",
        'cell_ids: {main_table: "\\x24{env:GH_PAT}"}',
    ],
)
def test_nothing_is_read_from_the_environment(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GH_PAT", "hunter2secret")
    key = line.partition(":")[0]
    lines = "".join(each for each in MINIMAL.splitlines(True) if not each.startswith(f"{key}:"))
    assert {code for code, _ in errors(tmp_path, f"{lines}{line}\n")} == {"CX403"}
    with pytest.raises(SpecError) as caught:
        get_spec(tmp_path / "my_brain.yaml")
    assert "hunter2secret" not in str(caught.value)
    assert str(caught.value).count("\n") == line.count("GH_PAT") - 1


# ------------------------------------------------------------------------------------------------------- secrets
@pytest.mark.parametrize(
    "lines",
    [
        "x-to\u212aen: swordfish1\n",  # the sign of kelvin, which folds to k
        "x-a: {my.token.file: swordfish1}\n",
        'x-a: {"my token here": swordfish1}\n',
        "? x-token\n: swordfish1\n",
        'x-a: {"x-pass\\x77ord": swordfish1}\n',
        'x-a: "0123456789abcdef\\\n  0123456789abcdef"\n',
        'x-a: "\\x30123456789abcdef0123456789abcdef"\n',
        "x-0123456789abcdef0123456789abcdef: 1\n",
        "exports: {path: 'https://bucket.example/x?sig=0123456789abcdef0123456789abcdef'}\n",
    ],
)
def test_secrets_in_disguise(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_text(MINIMAL + lines, encoding="utf-8")
    with pytest.raises(SpecError, match="CX401") as caught:
        get_spec(path)
    assert "swordfish1" not in str(caught.value)
    assert "0123456789abcdef0123456789abcdef" not in str(caught.value)


# -------------------------------------------------------------------------------------------------- file systems
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_plain_file_is_passed_by(folder: Path, write: Callable[..., Path]) -> None:
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "gone.yaml").symlink_to(folder / "nowhere.yaml")
    (folder / "sub.yaml").mkdir()
    (folder / "again").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.yaml")
    write("mine")
    assert {info.name for info in list_datasets(details=True) if info.layer == "CORTEXCLIENT_PATH"} == {
        "mine"
    }
    for name in ("loop", "gone", "sub", "pipe"):
        with pytest.raises(UnknownDatasetError):
            get_spec(name)
        with pytest.raises(SpecError, match="CX110"):
            get_spec(folder / f"{name}.yaml")
    write("child", "extends: pipe\n")
    with pytest.raises(SpecError, match="CX306"):
        get_spec("child")
    assert {problem.code for result in validate([folder]) for problem in result.problems} >= {
        "CX110",
        "CX306",
    }
