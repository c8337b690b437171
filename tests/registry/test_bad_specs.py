"""Bad spec files, written by hand: each is refused at the very place that is marked with § in it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cortexclient.errors import SpecError
from cortexclient.registry import SpecWarning, resolve
from cortexclient.registry.validation import validate
from cortexclient.spec import DatasetSpec

MINIMAL = "name: my_brain\ntitle: My brain\nserver_address: https://cave.my.lab\ndatastack: my_brain_v1\n"

# (code, dotted path, lines with § before the place); what they lack of the smallest valid spec is put in front of
# lines without `name:`
CASES = [
    # --- yaml itself
    ("CX103", None, "description: §[a, b\n"),
    ("CX103", None, "description: §'open\n"),
    ("CX103", None, "x-a: §{a: 1\nx-b: 2\n"),
    ("CX103", None, "tables:\n§\ta: b\n"),
    ("CX103", None, "description: a§: b\n"),
    ("CX103", None, "  description§: indented\n"),
    ("CX103", None, "aliases:\n  - a\n §- b\n"),
    ("CX103", None, 'description: "§\\q"\n'),
    ("CX104", "description", "description: a\n§description: b\n"),
    ("CX104", "cell_ids.main_table", "cell_ids:\n  main_table: a\n  §main_table: b\n"),
    ("CX104", "tables.a", "tables: {a: {name: b}, §a: {name: c}}\n"),
    ("CX105", "description", "description: §!!python/object/apply:os.system [echo]\n"),
    ("CX105", "description", "description: §!include other.yaml\n"),
    ("CX105", "x-a[0]", "x-a: [§!<tag:yaml.org,2002:int> 1]\n"),
    ("CX106", None, "x-a: [[[[[[[[[[[[[[[[[[[§[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]\n"),
    ("CX106", None, "x-a: &a [[[[[[[[[[1]]]]]]]]]]\nx-b: [[[[[[[[[[§*a]]]]]]]]]]\n"),
    ("CX107", None, "x-b: §*nowhere\n"),
    ("CX107", "x-c", "x-a: &a b\nx-c: §&a d\n"),
    ("CX107", "x-a[0]", "x-a: &a [§*a]\n"),
    ("CX107", "cell_ids", "x-a: &a {main_table: b}\ncell_ids:\n  §<<: *a\n"),
    ("CX107", None, "x-a: {§&key b: 1}\n"),
    ("CX107", None, "x-a: &a b\nx-c:\n  ? §*a\n  : 1\n"),
    ("CX108", "", "---\nname: a\n§---\nname: b\n"),
    ("CX108", "", "§- name: my_brain\n- title: a\n"),
    ("CX109", None, "x-a:\n  §yes: 1\n"),
    ("CX109", None, "x-a:\n  §1300: major\n"),
    ("CX109", None, "x-a:\n  ? §[a, b]\n  : c\n"),
    # --- unknown and missing
    ("CX201", "synapse_tabel", "§synapse_tabel: a\n"),
    ("CX201", "exports.url", "exports: {path: gs://a/b, §url: c}\n"),
    ("CX201", "tables.types.names", "tables:\n  types: {name: a, §names: b}\n"),
    ("CX201", "transform.steps[0].rotate", "transform: {steps: [{§rotate: 1}]}\n"),
    ("CX201", "origin", "§origin: a\n"),
    ("CX202", "title", "§name: my_brain\nserver_address: https://a.b\ndatastack: c\n"),
    ("CX202", "datastack", "name: my_brain\ntitle: a\nserver_address: https://a.b\n§datastack: null\n"),
    ("CX202", "name", "title: a\n§name:\nserver_address: https://a.b\ndatastack: c\n"),
    ("CX202", "exports.path", "§exports: {format: csv-gz}\n"),
    ("CX202", "tables.a.name", "tables:\n  §a: {kind: view}\n"),
    ("CX202", "versions[1].version", "versions:\n  - {version: 1}\n  - §{status: major}\n"),
    ("CX202", "layers[0].bottom_um", "layers: [§{name: L1, top_um: 0}]\n"),
    # --- kinds
    ("CX203", "cell_ids", "cell_ids: §a\n"),
    ("CX203", "tables", "§tables: [a]\n"),
    ("CX203", "tables.a", "tables: {a: §b}\n"),
    ("CX203", "aliases", "aliases: §brain\n"),
    ("CX203", "description", "§description: [a]\n"),
    ("CX203", "skeleton_version", "skeleton_version: §'4'\n"),
    ("CX203", "skeleton_version", "skeleton_version: §4.5\n"),
    ("CX203", "voxel_resolution", "voxel_resolution: §4\n"),
    ("CX203", "voxel_resolution[1]", "voxel_resolution: [4, §four, 40]\n"),
    ("CX203", "versions", "§versions: {1300: major}\n".replace("1300", '"1300"')),
    ("CX203", "versions[0].version", "versions:\n  - version: §'1300'\n"),
    ("CX203", "capabilities.live", "capabilities: {live: §1}\n"),
    ("CX203", "transform", "§transform: [a]\n"),
    ("CX203", "transform.steps", "transform: {§steps: {scaling: 1}}\n"),
    ("CX203", "sources.title", "sources: {title: §a}\n"),
    ("CX203", "schema_version", "schema_version: §'1'\n"),
    # --- look-alikes
    ("CX204", "description", "description: §no\n"),
    ("CX204", "description", "description: §2026-01-01\n"),
    ("CX204", "description", "description: §12\n"),
    ("CX204", "description", "description: §012\n"),
    ("CX204", "description", "description: §12:30:45\n"),
    ("CX204", "aliases[1]", "aliases: [a, §no]\n"),
    ("CX204", "datastack", "datastack: §off\n"),
    ("CX204", "transform.version", "transform: {dataset: minnie65, version: §1.4}\n"),
    ("CX204", "capabilities.live", "capabilities: {live: §yes}\n"),
    ("CX204", "versions[0].version", "versions: [{version: §1_300}]\n"),
    ("CX204", "voxel_resolution[0]", "voxel_resolution: [§.nan, 4, 40]\n"),
    # --- ids
    ("CX205", "example_ids.root_id", "example_ids: {root_id: §864691135336055529.0}\n"),
    ("CX205", "example_ids.root_id", "example_ids: {root_id: §'8.6e17'}\n"),
    ("CX205", "example_ids.root_id", "example_ids: {root_id: §-1}\n"),
    ("CX205", "example_ids.root_id", "example_ids: {root_id: §9223372036854775808}\n"),
    ("CX205", "example_ids.cell_id", "example_ids: {cell_id: §abc}\n"),
    ("CX205", "example_ids.cell_id", "example_ids: {§cell_id: [1]}\n"),
    ("CX205", "example_ids.cell_id", "example_ids: {cell_id: §' 12'}\n"),
    ("CX204", "example_ids.cell_id", "example_ids: {cell_id: §99999999999999999999999999999999999999}\n"),
    # --- choices
    ("CX206", "cell_ids.kind", "cell_ids: {kind: §veiw}\n"),
    ("CX206", "exports.format", "exports: {path: gs://a/b, format: §csv}\n"),
    ("CX207", "exports.layout", "exports: {path: gs://a/b, layout: §'{table}'}\n"),
    ("CX206", "versions[0].status", "versions: [{version: 1, status: §gone}]\n"),
    ("CX206", "tables.a.units", "tables: {a: {name: b, units: §um}}\n"),
    ("CX206", "default_version", "default_version: §'1300'\n"),
    (
        "CX206",
        "transform.steps[0].rotation.axis",
        "transform: {steps: [{rotation: {axis: §w, degrees: 5}}]}\n",
    ),
    # --- names and addresses
    ("CX207", "name", "name: §My_Brain\ntitle: a\nserver_address: https://a.b\ndatastack: c\n"),
    ("CX207", "name", "name: §class\ntitle: a\nserver_address: https://a.b\ndatastack: c\n"),
    ("CX207", "name", "name: §'../evil'\ntitle: a\nserver_address: https://a.b\ndatastack: c\n"),
    ("CX207", "aliases[0]", "aliases: [§My Brain]\n"),
    ("CX207", "extends", "extends: §'../../etc/passwd'\n"),
    ("CX207", "class_name", "class_name: §__import__('os')\n"),
    ("CX207", "datastack", "datastack: §a/b\n"),
    ("CX207", "synapse_table", "synapse_table: §synapses; drop table\n"),
    ("CX207", "tables.a.name", "tables: {a: {name: §a b}}\n"),
    ("CX207", "server_address", "server_address: §cave.my.lab\n"),
    ("CX207", "server_address", "server_address: §'https://'\n"),
    ("CX207", "server_address", "server_address: §https://a.b/?x=1\n"),
    ("CX207", "server_address", "server_address: §'https://[::1'\n"),
    ("CX207", "server_address", "server_address: §sandbox://../x\n"),
    ("CX207", "viewer_site", "viewer_site: §spelunker\n"),
    ("CX207", "documentation", "documentation: §file:///etc/passwd\n"),
    ("CX207", "exports.path", "exports: {path: §'gs://'}\n"),
    ("CX207", "exports.mirrors[1]", "exports: {path: gs://a/b, mirrors: [s3://c/d, §ftp://e/f]}\n"),
    ("CX207", "citation.doi", "citation: {doi: §https://doi.org/10.1038/x}\n"),
    ("CX207", "transform.dataset", "transform: {dataset: §'os.path'}\n"),
    ("CX402", "server_address", "server_address: §http://cave.my.lab\n"),
    ("CX402", "documentation", "documentation: §http://cave.my.lab\n"),
    ("CX405", "server_address", "server_address: §https://me@a.b\n"),
    ("CX405", "exports.path", "exports: {path: §gs://me@bucket/a}\n"),
    ("CX406", "server_address", "server_address: §ftp://a.b\n"),
    # --- numbers, dates, lengths
    ("CX208", "voxel_resolution", "§voxel_resolution: [4, 0, 40]\n"),
    ("CX208", "versions[0].version", "versions: [{version: §0}]\n"),
    ("CX208", "tables.a.since", "tables: {a: {name: b, since: §-3}}\n"),
    ("CX208", "depth_range_um", "§depth_range_um: [775, 0]\n"),
    ("CX208", "layers[0]", "layers: [§{name: L1, top_um: 100, bottom_um: 0}]\n"),
    (
        "CX208",
        "layers[1]",
        "layers:\n  - {name: a, top_um: 0, bottom_um: 9}\n  - §{name: b, top_um: 5, bottom_um: 20}\n",
    ),
    ("CX209", "versions[0].timestamp", "versions: [{version: 1, timestamp: §yesterday}]\n"),
    ("CX209", "versions[0].timestamp", "versions: [{version: 1, timestamp: §'2025-02-30T00:00:00Z'}]\n"),
    ("CX204", "versions[0].timestamp", "versions: [{version: 1, timestamp: §2025-02-30}]\n"),
    ("CX209", "license.checked", "license: {name: a, checked: §'2026-13-01'}\n"),
    ("CX209", "versions[0].expires", "versions: [{version: 1, expires: §2026-01-01T00:00:00Z}]\n"),
    ("CX210", "voxel_resolution", "§voxel_resolution: [4, 4]\n"),
    ("CX210", "title", "name: my_brain\ntitle: §''\nserver_address: https://a.b\ndatastack: c\n"),
    ("CX210", "transform.steps[0].translation", "transform: {steps: [{§translation: [1, 2]}]}\n"),
    # --- what does not fit together
    ("CX301", "name", "name: §other_brain\ntitle: a\nserver_address: https://a.b\ndatastack: c\n"),
    ("CX302", "aliases[1]", "aliases: [a, §a]\n"),
    ("CX302", "aliases[0]", "aliases: [§my_brain]\n"),
    ("CX303", "versions[1].version", "versions: [{version: 1}, {version: §1}]\n"),
    (
        "CX303",
        "versions[1].timestamp",
        "versions:\n  - {version: 1, timestamp: 2025-01-02}\n  - {version: 2, timestamp: §2025-01-01}\n".replace(
            "2025-01-02", '"2025-01-02T00:00:00Z"'
        ).replace("2025-01-01", '"2025-01-01T00:00:00Z"'),
    ),
    ("CX304", "tables.a", "tables:\n  §a: {name: b, since: 9, until: 3}\n"),
    ("CX304", "tables.a", "tables:\n  §a: {name: b, replaced_by: c}\n"),
    ("CX305", "default_version", "versions: [{version: 1}]\ndefault_version: §2\n"),
    ("CX305", "default_version", "versions: [{version: 1, status: expired}]\ndefault_version: §1\n"),
    ("CX306", "extends", "extends: §nobody_has_this\n"),
    ("CX306", "extends", "extends: §my_brain\n"),
    ("CX201", "volume", "§volume: atlantis\n"),
    ("CX308", "transform", "§transform: {}\n"),
    ("CX308", "transform", "§transform: {dataset: minnie65, steps: [{scaling: 1}]}\n"),
    ("CX308", "transform", "§transform: {steps: [{scaling: 1}], version: '1.4'}\n"),
    ("CX308", "transform", "§transform: {steps: [{scaling: 1}], streamline_points: [[0, 0, 0]]}\n"),
    ("CX308", "transform.steps[0]", "transform: {steps: [§{}]}\n"),
    ("CX308", "transform.steps[0]", "transform: {steps: [§{scaling: 1, translation: [0, 0, 0]}]}\n"),
    ("CX308", "transform.steps[0].rotation", "transform: {steps: [{§rotation: {axis: z}}]}\n"),
    (
        "CX308",
        "transform.steps[0].rotation",
        "transform: {steps: [{§rotation: [[2, 0, 0], [0, 1, 0], [0, 0, 1]]}]}\n",
    ),
    ("CX308", "transform.steps[0].scaling", "transform: {steps: [{scaling: §0}]}\n"),
    ("CX309", "sources.nothing", "sources: {§nothing: {verified: false}}\n"),
    (
        "CX309",
        "sources.cell_ids.main",
        "cell_ids: {main_table: a}\nsources: {§cell_ids.main: {verified: false}}\n",
    ),
    ("CX310", "schema_version", "schema_version: §2\n"),
    ("CX201", "deprecation.removed_from", "deprecation: {since: 2026-02-01, §removed_from: 2026-01-01}\n"),
    ("CX311", "deprecation.replaced_by", "deprecation: {replaced_by: §my_brain}\n"),
    ("CX311", "deprecation.replaced_by", "deprecation: {replaced_by: §nobody_has_this}\n"),
    # --- secrets and the environment
    ("CX401", "x-token", "§x-token: hunter2\n"),
    ("CX401", "auth_token", "§auth_token: 0123456789abcdef0123456789abcdef\n"),
    ("CX401", "description", "description: §0123456789abcdef0123456789abcdef\n"),
    ("CX401", "x-a.password", "x-a: {§password: swordfish}\n"),
    ("CX401", "x-a", "x-a: §ghp_abcdefghijklmnopqrstuvwxyz0123456789\n"),
    ("CX401", "access.note", "access: {note: §'password: swordfish99'}\n"),
    ("CX401", "", "# my token: §0123456789abcdef0123456789abcdef\n".replace("my token: §", "mine §")),
    ("CX403", "description", "description: §${env:HOME}\n"),
    ("CX403", "exports.path", "exports: {path: §'gs://${env:CAVE_TOKEN}/a'}\n"),
    ("CX403", "exports.path", "exports: {path: §'gs://${HOME}/a'}\n"),
    ("CX403", "exports.path", "exports: {path: §'gs://${env:A/a'}\n"),
]


def _file(tmp_path: Path, lines: str) -> tuple[Path, int, int]:
    if re.search(r"^§?name:", lines, re.MULTILINE) or lines.startswith("§- "):
        marked = lines
    else:
        given = set(re.findall(r"^(\w+):", lines, re.MULTILINE))
        kept = [line for line in MINIMAL.splitlines(keepends=True) if line.partition(":")[0] not in given]
        marked = "".join(kept) + lines
    before = marked.partition("§")[0]
    path = tmp_path / "my_brain.yaml"
    path.write_text(marked.replace("§", ""), encoding="utf-8")
    return path, before.count("\n") + 1, len(before) - before.rfind("\n")


@pytest.mark.parametrize(("code", "dotted", "lines"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_refused_at_the_place(code: str, dotted: str | None, lines: str, tmp_path: Path) -> None:
    path, line, column = _file(tmp_path, lines)
    begin = time.process_time()
    problems = [problem for result in validate([path]) for problem in result.problems]
    assert time.process_time() - begin < 5
    hits = [problem for problem in problems if problem.code == code]
    assert hits, [str(problem) for problem in problems]
    assert (line, column) in {(hit.line, hit.column) for hit in hits}, [str(hit) for hit in hits]
    assert all(hit.file == str(path) and hit.message and hit.advice for hit in hits)
    if dotted is not None:
        assert dotted in {hit.path for hit in hits}
    # one mistake, one complaint
    assert len({(hit.line, hit.column) for hit in problems if hit.severity == "error"}) == 1, [
        str(p) for p in problems
    ]
    if code not in {"CX301", "CX311"} or "replaced_by" not in lines:
        with pytest.raises(SpecError) if code != "CX301" else pytest.raises(AssertionError) as caught:
            resolve(path)
            raise AssertionError
        if code != "CX301":
            assert caught.value.problems
            assert f"{path}:{line}:{column} {code}" in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "description: One brain: all of it\n",
            r"this line has a second colon; put text with a colon in quotes",
        ),
        (
            "cell_ids:\n  main_table: a\n lookup_view: b\n",
            "this line does not belong to the lines above it; indent it",
        ),
        ("aliases:\n  - a\n - b\n", "this line does not belong|is indented like an item"),
        ("description: [a, b\n", "the bracket that opens here is never closed; close it with ]"),
        ("tables: {a: {name: b}\n", "the brace that opens here is never closed; close it with }"),
        ("description: 'open\n", "the quote that opens here is never closed"),
        ("description: @home\n", "no value begins with this character; put the text in quotes"),
        ("synapse_table\nlicense: {name: a}\n", "neither `key: value` nor part of a text"),
        ("aliases: - a\n", "an item of a list cannot stand here"),
        ("exports: {path: gs://a/b, format: zarr}\n", "'zarr' is not one of 'csv-gz', 'parquet' or 'delta'"),
    ],
)
def test_the_mistake_is_said_in_plain_words(lines: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_text(MINIMAL + lines)
    with pytest.raises(SpecError, match=message):
        resolve(path)


@pytest.mark.parametrize(
    ("lines", "path", "advice"),
    [
        ("voxel_resolution: [0.008, 0.008, 0.03]\n", "voxel_resolution", r"write \[8, 8, 30\]"),
        ("synapses: {voxel_resolution: [9700, 9700, 45000]}\n", "synapses.voxel_resolution", "in nm"),
        (
            "tables: {a: {name: b, voxel_resolution: [0.004, 0.004, 0.04]}}\n",
            "tables.a.voxel_resolution",
            r"\[4, 4, 40\]",
        ),
        ("depth_range_um: [0, 775000]\n", "depth_range_um", "write 775"),
        ("layers: [{name: L1, top_um: 0, bottom_um: 91810}]\n", "layers[0]", "write 91.81"),
    ],
)
def test_an_implausible_length_warns_when_checked_and_when_loaded(
    lines: str, path: str, advice: str, tmp_path: Path
) -> None:
    file = tmp_path / "my_brain.yaml"
    file.write_text(MINIMAL + lines)
    (found,) = [each for result in validate([file]) for each in result.problems if each.code == "CX505"]
    assert (found.severity, found.path, found.line) == ("warning", path, 5)
    assert re.search(advice, found.advice)
    with pytest.warns(SpecWarning, match="CX505"):
        resolve(file)
    with pytest.warns(SpecWarning, match="CX505"):
        resolve({**yaml.safe_load(MINIMAL), **yaml.safe_load(lines)})


def test_only_days_on_which_facts_were_checked_are_old(tmp_path: Path) -> None:
    file = tmp_path / "my_brain.yaml"
    elsewhere = "tables: {a: {name: b, columns: {checked: bool}}}\nsources: {title: {checked: null}}\n"
    file.write_text(
        f'{MINIMAL}{elsewhere}license: {{name: MIT, checked: " 2020-01-01", x-by: {{checked: nobody}}}}\n'
    )
    (result,) = validate([file])
    assert [(each.line, each.path) for each in result.problems if each.code == "CX503"] == [
        (7, "license.checked")
    ]
    assert result.ok


@pytest.mark.parametrize(("name", "code"), [("off", "CX204"), ("12", "CX204"), ("[off]", "CX203")])
def test_a_name_that_is_no_text_is_one_mistake(name: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / "off.yaml"
    file.write_text(MINIMAL.replace("name: my_brain", f"name: {name}", 1))
    (result,) = validate([file])
    assert [each.code for each in result.problems if each.severity == "error"] == [code]


def test_sensible_lengths_pass_without_a_word(tmp_path: Path) -> None:
    file = tmp_path / "my_brain.yaml"
    file.write_text(
        MINIMAL + "voxel_resolution: [0.8, 1.2, 640]\nsynapses: {voxel_resolution: [16, 16, 45]}\n"
    )
    assert "CX505" not in {each.code for result in validate([file]) for each in result.problems}


def test_all_problems_of_a_file_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_text(
        "name: my_brain\ntitel: typo\nserver_address: http://far.away\nvoxel_resolution: [4, 4]\n"
        "cell_ids:\n  kind: veiw\n  kind: view\nexample_ids: {root_id: 8.6e17}\nx-password: swordfish\n"
    )
    with pytest.raises(SpecError) as caught:
        resolve(path)
    found = {(problem.code, problem.line) for problem in caught.value.problems}
    assert found == {
        ("CX201", 2),
        ("CX202", 1),
        ("CX402", 3),
        ("CX210", 4),
        ("CX206", 6),
        ("CX104", 7),
        ("CX205", 8),
        ("CX401", 9),
    }
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems)
    assert any(
        line.startswith(f"{path}:2:1 CX201 titel: this key is not known; did you mean title?")
        for line in lines
    )


def test_a_secret_is_never_repeated(tmp_path: Path) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    path = tmp_path / "my_brain.yaml"
    path.write_text(
        MINIMAL
        + f"auth_token: {secret}\nsynapse_table: {secret}-x\nx-a: [{secret}]\nviewer_site: {secret}\n# {secret}\n"
    )
    with pytest.raises(SpecError) as caught:
        resolve(path)
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value.problems)
    assert {problem.line for problem in caught.value.problems if problem.code == "CX401"} == {5, 6, 7, 8, 9}


def test_patterns_are_put_into_words() -> None:
    """No message shows a regular expression: pydantic checks none, the models have their own words for each."""

    def texts(node: object) -> Iterator[dict]:
        if isinstance(node, dict) and node.get("type") == "str":
            yield node
        for child in (
            node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
        ):
            yield from texts(child)

    found = list(texts(DatasetSpec.__pydantic_core_schema__))
    assert len(found) > 20
    assert not [text for text in found if "pattern" in text]
