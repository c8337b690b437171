"""The commands about specs, as a person at a terminal meets them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from cortexclient.cli import main
from cortexclient.registry import get_spec, list_datasets
from cortexclient.registry.validation import validate
from cortexclient.settings import cache_dir, store_dir

MINIMAL = "name: my_brain\ntitle: My brain\nserver_address: https://cave.my.lab\ndatastack: my_brain_v1\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")

    def runner(*words: object) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return runner


# --------------------------------------------------------------------------------------------------- looking
def test_list(run, write) -> None:
    write("my_brain", "aliases: [mine]\naccess: {level: group}\n")
    write("old_brain", "deprecation: {since: 2020-01-01}\n")
    write("broken", "name: [\n")
    status, out, _ = run("list")
    assert status == 0
    said = ("My brain", "CORTEXCLIENT_PATH", "mine", "(deprecated)", "cannot be loaded", "CX103")
    for word in (*list_datasets(), *said):
        assert word in out
    status, out, _ = run("list", "--json")
    assert {entry["name"] for entry in json.loads(out)} == set(list_datasets())


def test_show(run) -> None:
    status, out, _ = run("show", "minnie_public")
    assert status == 0
    assert "synapses_pni_2" in out
    status, out, _ = run("show", "microns_public", "--json")
    shown = json.loads(out)
    assert shown["example_ids"]["root_id"] == "864691135336055529"
    assert shown["fingerprint"] == get_spec("minnie_public").fingerprint
    status, out, _ = run("show", "minnie_public", "--markdown")
    assert out.startswith("# MICrONS minnie65, public release\n")


@pytest.mark.parametrize("name", ["minnie_public", "v1dd", "sandbox"])
def test_show_loses_nothing_on_the_way_into_a_pipe(run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    head, _, tree = run("show", name)[1].partition("\n\n")
    spec = get_spec(name)
    assert f"\n{spec.origin}   fingerprint" in head
    assert yaml.safe_load(tree) == spec.as_dict()
    assert tree.startswith(f"name: {name}\ntitle: ")


def test_show_uses_only_colours_that_light_and_dark_terminals_can_show(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    spans = re.findall(r"\x1b\[([0-9;]*)m", run("show", "minnie_public")[1])
    codes = {code for span in spans for code in span.split(";")}
    assert "36" in codes  # keys
    # neither white, yellow nor a colour that is fixed beside the terminal's own palette, and no background
    assert codes <= {"0", "1", "2", "35", "36", "49"}


def test_show_fits_a_terminal(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    lines = [line.rstrip() for line in run("show", "minnie_public")[1].splitlines()]
    tree = lines[lines.index("name: minnie_public") :]
    assert max(map(len, tree)) <= 80
    # what goes on stands further in than its key, unless one word alone is too long
    assert "  144,120 segmented nuclei, 82,247 of them neurons, and 337 million" in tree
    assert "    @article{microns2025," in tree


def test_show_resolved_names_file_and_line(run, write, folder: Path) -> None:
    write("base", "synapse_table: synapses_v1\n")
    write("my_brain", "name: my_brain\nextends: base\ntitle: Child\n")
    status, out, _ = run("show", "my_brain", "--resolved")
    assert status == 0
    places = {
        line.split()[0]: line.split()[-1] for line in out.splitlines() if re.search(r"\.yaml:\d+ *$", line)
    }
    assert places["title"].endswith("my_brain.yaml:3")
    assert places["synapse_table"].endswith("base.yaml:5")


def test_where(run, write, folder: Path) -> None:
    write("v1dd")
    status, out, _ = run("where")
    assert status == 0
    assert str(folder) in out
    assert "built-in" in out
    assert {str(cache_dir()), str(store_dir())} <= set(out.split())
    status, out, _ = run("where", "v1dd")
    assert [line.split()[0] for line in out.splitlines()] == ["wins", "hidden"]


def test_cite(run, write) -> None:
    status, out, _ = run("cite", "minnie_public")
    assert status == 0
    assert "https://doi.org/10.1038/s41586-025-08790-w" in out
    assert "unverified" in out
    status, out, _ = run("cite", "minnie_public", "--bibtex")
    assert out.startswith("@article{")
    write("my_brain")
    assert run("cite", "my_brain")[0] == 0
    status, _, err = run("cite", "my_brain", "--bibtex")
    assert status == 1
    assert "citation.bibtex" in err


def test_an_unknown_name_is_one_message(run) -> None:
    status, out, err = run("show", "minie_public")
    assert (status, out) == (1, "")
    assert "did you mean minnie_public" in err
    assert "Traceback" not in err


# ----------------------------------------------------------------------------------------------------- files
def test_validate(run, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_text(MINIMAL + "synapse_tabel: x\nlicense: {name: MIT}\n")
    status, out, err = run("validate", path)
    assert status == 1
    assert (
        out.splitlines()[-1]
        == f"{path}:5:1 CX201 synapse_tabel: this key is not known; did you mean synapse_table?"
    )
    assert "1 error(s)" in err
    status, out, _ = run("validate", path, "--json")
    body = json.loads(out)
    assert status == 1
    assert not body["ok"]
    hit = next(problem for problem in body["problems"] if problem["severity"] == "error")
    assert {key: hit[key] for key in ("file", "line", "column", "code", "path")} == {
        "file": str(path),
        "line": 5,
        "column": 1,
        "code": "CX201",
        "path": "synapse_tabel",
    }
    path.write_text(MINIMAL)
    assert run("validate", path)[0] == 0
    assert run("validate", path, "--strict")[0] == 1
    assert run("validate", tmp_path / "nothing.yaml")[0] == 1


def test_validate_explains(run) -> None:
    status, out, _ = run("validate", "--explain", "cx205")
    assert status == 0
    assert out.startswith("# CX205: That is not an id")
    status, _, err = run("validate", "--explain", "CX999")
    assert status == 1
    assert "CX999" in err


def test_validate_without_paths_looks_everywhere(run, write) -> None:
    write("my_brain", "oops: 1\n")
    status, out, _ = run("validate")
    assert status == 1
    assert "my_brain.yaml:5:1 CX201" in out


def test_schema(run, tmp_path: Path, repository: Path) -> None:
    status, out, _ = run("schema")
    assert status == 0
    assert out == (repository / "datasets" / "dataset.schema.json").read_text()
    assert run("schema", "-o", tmp_path / "s.json")[0] == 0
    assert (tmp_path / "s.json").read_text() == out


def test_trust(run) -> None:
    assert run("trust", "cave.my.lab")[0] == 0
    assert run("trust")[1].split() == ["cave.my.lab"]
    assert run("trust", "cave.my.lab", "--remove")[0] == 0
    assert run("trust")[1] == ""
    assert run("trust", "not a host")[0] == 1


def test_the_pre_commit_hook_runs_a_command_that_exists(repository: Path) -> None:
    hook = yaml.safe_load((repository / ".pre-commit-hooks.yaml").read_text())[0]
    words = hook["entry"].split()
    assert words[0] == "cortexclient"
    assert main([*words[1:], str(repository / "datasets" / "v1dd.yaml")]) == 0


# ----------------------------------------------------------------------------------------------- live server
@pytest.fixture(scope="module")
def server():
    sandbox = pytest.importorskip("cortexclient.sandbox")
    with sandbox.Sandbox("v1dd", size="tiny") as running:
        yield running


def test_new_writes_a_valid_spec_that_works(run, server, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    words = (
        "new",
        "my_brain",
        "--server",
        server.url,
        "--datastack",
        server.datastack,
        "--token",
        server.token,
    )
    assert run(*words, "--out", path)[0] == 0
    # what no server knows is asked of the writer, and not made up
    problems = [p for result in validate([path]) for p in result.problems]
    assert {(p.code, p.severity) for p in problems} == {("CX504", "warning")}
    assert sorted(p.message for p in problems) == [
        "the file does not say who may read the dataset",
        "there is no citation",
    ]
    text = path.read_text()
    assert "&id" not in text
    assert server.token not in text
    assert text.count("# ") >= 5
    spec, v1dd = get_spec(path), get_spec("v1dd")
    assert spec.synapse_table == v1dd.synapse_table
    assert spec.cell_ids.main_table == v1dd.cell_ids.main_table
    assert spec.cell_ids.lookup_view == v1dd.cell_ids.lookup_view
    assert spec.cell_ids.alternative_tables == v1dd.cell_ids.alternative_tables
    assert spec.tables["proofreading"].name == v1dd.tables["proofreading"].name
    assert len(spec.versions) == 3
    assert {version.status for version in spec.versions} >= {"expired"}
    assert spec.synapses is not None
    assert (spec.synapses.position_prefix, spec.synapses.size_column) == ("ctr_pt", "size")
    assert spec.skeleton_version == 4
    assert spec.capabilities.as_dict() == dict.fromkeys(("live", "versions", "l2cache", "skeletons"), True)
    # what was guessed says so
    guessed = {path for path, fact in spec.sources.items() if not fact.verified}
    assert guessed == {"cell_ids", "tables", "voxel_resolution"}
    cells = server.truth.cells.set_index("cell_id")
    assert spec.example_ids.cell_id in cells.index
    assert spec.example_ids.version == max(version.version for version in spec.versions)
    status, out, err = run("check", path, "--token", server.token)
    assert status == 0, out + err
    assert "FAIL" not in out
    assert re.search(r"ok +example_ids\.root_id", out)
    assert run("diff", path, "--live", "--token", server.token)[0] == 0
    # it never writes over a file
    assert run(*words, "--out", path)[0] != 0


def test_check_says_what_to_change(run, server, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_text(
        f"name: my_brain\ntitle: a\nserver_address: {server.url}\ndatastack: {server.datastack}\n"
        "synapse_table: synapses_v1d\nvoxel_resolution: [1, 1, 1]\nversions: [{version: 77}]\n"
        "cell_ids: {main_table: nucleus_detection, lookup_view: nothing_like_it}\n"
    )
    status, out, err = run("check", path, "--token", server.token)
    assert status == 1, out + err
    failed = {line.split()[1] for line in out.splitlines() if line.startswith("FAIL")}
    assert failed == {
        "synapse_table",
        "voxel_resolution",
        "version",
        "cell_ids.lookup_view",
        "cell_ids.main_table",
    }
    assert "synapses_v1dd" in out
    status, out, _ = run("diff", path, "--live", "--token", server.token)
    assert status == 1
    assert "synapses_v1d " in out


@pytest.mark.slow
def test_check_asks_whether_services_are_there(run, server, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    head = f"name: my_brain\ntitle: a\nserver_address: {server.url}\ndatastack: {server.datastack}\n"
    path.write_text(head + "capabilities: {live: false, versions: false, l2cache: true, skeletons: true}\n")
    server.inject("404", route="^/skeletoncache/", count=None)
    server.inject("503", route="^/l2cache/", count=None)
    try:
        status, out, err = run("check", path, "--token", server.token)
    finally:
        server.clear_faults()
    assert status == 1, out + err
    lines = {words[1]: line for line in out.splitlines() if len(words := line.split()) > 1}
    for name, there in (("live", "true"), ("versions", "true"), ("skeletons", "false")):
        line = lines[f"capabilities.{name}"]
        assert line.startswith("FAIL")
        assert f"write capabilities.{name}: {there}" in line
    status, out, _ = run("check", path, "--token", server.token, "--json")
    report = json.loads(out)
    assert (status, report["ok"], report["dataset"]) == (1, False, "my_brain")
    failed = {point["name"]: point["advice"] for point in report["points"] if point["state"] == "fail"}
    assert failed["capabilities.live"] == "write capabilities.live: true"
    # a service that is down today may well exist
    assert lines["capabilities.l2cache"].startswith("-")


def test_a_datastack_without_versions(run, server, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    server.inject("404", route="^/materialize/", count=None)
    words = ("--server", server.url, "--datastack", server.datastack, "--token", server.token)
    try:
        status, _, err = run("new", "my_brain", *words, "--out", path)
        assert status == 0, err
        spec = get_spec(path)
        assert spec.denies("versions")
        assert spec.versions == ()
        assert spec.tables == {}
        status, out, err = run("check", path, "--token", server.token)
        assert status == 0, out + err
        assert re.search(r"ok +capabilities\.versions +false", out)
    finally:
        server.clear_faults()


def test_what_the_user_should_know_about_a_spec_is_said(run, write) -> None:
    write("old", "deprecation: {since: 2020-01-01, replaced_by: v1dd}\n")
    write("v1dd")
    status, out, err = run("cite", "old")
    assert status == 0
    assert "My brain" in out
    assert err.strip() == "warning: the dataset old is deprecated; use v1dd instead"
    assert "hides the built-in dataset of that name" in run("cite", "v1dd")[2]


def test_a_mistyped_datastack_is_answered_with_those_that_exist(run, server, tmp_path: Path) -> None:
    status, _, err = run("new", "my_brain", "--server", server.url, "--datastack", "v1d")
    assert status == 1
    assert f"has no datastack 'v1d'; did you mean {server.datastack}?" in " ".join(err.split())
    path = tmp_path / "my_brain.yaml"
    path.write_text(MINIMAL.replace("my_brain_v1", "something_else"))
    status, out, _ = run("check", path, "--server", server.url)
    assert status == 1
    assert re.search(rf"FAIL +datastack +.*it has {server.datastack}", out)


def test_rows_stay_whole_in_a_pipe(run, write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    many = f"description: {'word ' * 300}end\n"
    write("my_brain", f"aliases: [{', '.join(f'alias_number_{n}' for n in range(10))}]\n{many}")
    line = next(line for line in run("list")[1].splitlines() if line.startswith("my_brain"))
    assert "alias_number_0" in line
    assert "alias_number_9" in line
    lines = run("show", "my_brain", "--resolved")[1].splitlines()
    assert any(
        "aliases[9]" in line and "alias_number_9" in line and "my_brain.yaml:5" in line for line in lines
    )
    assert any("word word" in line and "word end" in line and "my_brain.yaml:6" in line for line in lines)


def test_brackets_of_a_path_are_no_colours(
    run, write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "[red]lab[/]"
    monkeypatch.setenv("CORTEXCLIENT_PATH", str(folder))
    path = write("my_brain", into=folder)
    assert str(folder) in run("where")[1]
    assert str(path) in run("where", "my_brain")[1]
    assert str(path) in run("show", "my_brain", "--resolved")[1]
    assert str(folder) in run("schema", "--out", folder / "schema.json")[2]


def test_one_broken_file_keeps_nothing_else_from_being_reported(run, write) -> None:
    write("my_brain", "oops: 1\n")
    status, out, _ = run("doctor", "--json")
    lines = {line["dataset"]: line for line in json.loads(out)}
    assert status == 1
    assert "CX201" in lines["my_brain"]["message"]
    assert [name for name, line in lines.items() if line["ok"] is False] == ["my_brain"]
    assert set(lines) == set(list_datasets())


def test_a_page_keeps_its_tables_whatever_a_text_holds(run, write) -> None:
    text = '"one | two\\n\\nthree"'
    tables = f"tables: {{a: {{name: b, description: {text}}}}}\nversions: [{{version: 1, note: {text}}}]\n"
    write(
        "my_brain",
        f"access: {{note: {text}}}\n{tables}sources: {{title: {{verified: false, note: {text}}}}}\n",
    )
    page = run("show", "my_brain", "--markdown")[1]
    assert page.count("one \\| two three") == 3
    assert "- `title`: one | two three" in page


def test_json_is_exact(run, write) -> None:
    write("my_brain", "x-a: \u202e é \U0001f9e0\n")
    assert json.loads(run("show", "my_brain", "--json")[1])["x-a"] == "\u202e é \U0001f9e0"


@pytest.mark.slow
def test_check_of_a_server_that_is_not_there(run, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_text("name: my_brain\ntitle: a\nserver_address: http://127.0.0.1:9\ndatastack: b\n")
    status, out, _ = run("check", path)
    assert status == 1
    assert "FAIL" in out


# ----------------------------------------------------------------------------------------------------- pages


def test_the_reference_lists_every_field(repository: Path, generator: ModuleType) -> None:
    committed = (repository / "docs" / "spec-reference.md").read_text(encoding="utf-8")
    assert generator.fields_page() in committed, "run python docs/generate.py"


def test_the_readme_says_nothing_wrong_about_a_dataset(repository: Path, generator: ModuleType) -> None:
    table = (
        (repository / "README.md")
        .read_text(encoding="utf-8")
        .partition("<!-- datasets:")[2]
        .partition("<!-- end")[0]
    )
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) >= 8
    for row in rows:
        assert row == generator.datasets_row(get_spec(row.split("`")[1])), "run python docs/generate.py"


def test_every_yaml_of_the_guides_is_right(repository: Path, tmp_path: Path) -> None:
    for page in ("spec-reference.md", "add-a-dataset.md"):
        text = (repository / "docs" / page).read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)):
            if block.startswith("- repo:"):
                continue
            path = tmp_path / f"{page[:4]}{number}" / "my_brain.yaml"
            path.parent.mkdir()
            named = re.search(r"^name: (\w+)", block, re.MULTILINE)
            path = path.with_name(f"{named[1]}.yaml") if named else path
            whole = block if named else MINIMAL + block
            if block.startswith("sources"):
                whole += "synapse_table: a\nvoxel_resolution: [1, 1, 1]\n"
            path.write_text(whole)
            errors = [
                each for result in validate([path]) for each in result.problems if each.severity == "error"
            ]
            # the guide's example of a successor is somebody's future dataset
            assert [str(each) for each in errors if each.path != "deprecation.replaced_by"] == []
