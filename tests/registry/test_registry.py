"""Where datasets are found, which place wins, and what is said when nothing is."""

from __future__ import annotations

import copy
import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from cortexclient import registry
from cortexclient.cli import main
from cortexclient.errors import NotConfiguredError, SpecError, UnknownDatasetError, UnknownTableError
from cortexclient.registry import SpecWarning, get_spec, list_datasets, register, resolve, unregister
from cortexclient.registry import lookup as packs_module
from cortexclient.registry.lookup import builtin_folder
from cortexclient.registry.validation import validate
from cortexclient.spec import DatasetSpec

BUILT_IN = sorted(path.stem for path in builtin_folder().glob("*.yaml"))
GOOD = {
    "name": "my_brain",
    "title": "My brain",
    "server_address": "https://cave.my.lab",
    "datastack": "my_brain_v1",
}


# -------------------------------------------------------------------------------------------------- built-in
def test_built_in_datasets_are_listed() -> None:
    assert list_datasets() == BUILT_IN
    assert {"minnie_public", "minnie_prod", "v1dd", "v1dd_public", "sandbox"} <= set(BUILT_IN)


def test_facts_of_the_four_core_datasets() -> None:
    public, prod, v1dd, v1dd_public = map(get_spec, ("minnie_public", "minnie_prod", "v1dd", "v1dd_public"))
    assert (public.datastack, prod.datastack) == ("minnie65_public", "minnie65_phase3_v1")
    assert public.server_address == prod.server_address == "https://global.daf-apis.com"
    assert v1dd.server_address == v1dd_public.server_address == "https://global.em.brain.allentech.org"
    # named after the production stack, and shared by both
    assert public.exports.path == prod.exports.path == "gs://mat_dbs/public/minnie65_phase3_v1/"
    assert public.cell_ids.alternative_tables == ("nucleus_alternative_points",)
    assert v1dd_public.cell_ids.alternative_tables == ()
    assert public.voxel_resolution == (4, 4, 40)
    assert v1dd.voxel_resolution == (9, 9, 45)
    assert [s.class_name_or_default for s in (public, prod, v1dd, v1dd_public)] == [
        "MinniePublicClient",
        "MicronsProdClient",
        "V1ddClient",
        "V1ddPublicClient",
    ]
    times = {item.version: item.timestamp for item in public.versions}
    assert times[1300].isoformat() == "2025-01-13T10:10:01.286229+00:00"


def test_aliases_lead_to_their_dataset() -> None:
    assert get_spec("microns_public").name == "minnie_public"
    assert get_spec("microns_prod").name == "minnie_prod"
    assert resolve("microns_public@943") == (get_spec("minnie_public"), 943)


# ------------------------------------------------------------------------------------------- kinds of asking
def test_a_version_may_be_named() -> None:
    assert resolve("minnie_public@1300")[1] == 1300
    assert resolve("minnie_public@latest")[1] is None
    for wrong in ("minnie_public@", "minnie_public@abc", "minnie_public@0", "minnie_public@1.5"):
        with pytest.raises(UnknownDatasetError, match="number of a version"):
            resolve(wrong)


def test_a_path_a_mapping_and_a_spec_are_fine_too(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("my_brain", into=tmp_path / "elsewhere")
    spec = get_spec(str(path))
    assert spec == get_spec(path) == get_spec(GOOD) == get_spec(spec)
    assert spec.origin == str(path)
    assert "my_brain" not in list_datasets()
    monkeypatch.chdir(path.parent)
    assert get_spec("my_brain.yaml") == get_spec("./my_brain.yaml") == spec


@pytest.mark.parametrize("path", ["~nobody_of_that_name/my_lab.yaml", "my\0lab.yaml"])
def test_a_path_that_can_lead_nowhere_is_said_to_be_missing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORTEXCLIENT_PATH", "~nobody_of_that_name")
    with pytest.raises(SpecError, match="CX110 the file cannot be read"):
        get_spec(path)


def test_a_missing_path_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"CX110.*No such file"):
        get_spec(tmp_path / "nothing.yaml")


def test_a_missing_name_lists_close_names_and_all_places(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError) as caught:
        get_spec("minie_publik")
    message = str(caught.value)
    assert "did you mean minnie_public" in message
    for place in (folder, tmp_path / "config" / "datasets", builtin_folder()):
        assert str(place) in message


@pytest.mark.parametrize("name", ["", "..", "a" * 5000, "Ünïcode", "a\nb", "con", "x" * 63])
def test_strange_names_are_merely_unknown(name: str) -> None:
    with pytest.raises(UnknownDatasetError):
        get_spec(name)


# ---------------------------------------------------------------------------------------------------- layers
def test_later_layers_win_and_say_so_once(write, folder: Path, tmp_path: Path) -> None:
    write("my_brain", "description: user\n", into=tmp_path / "config" / "datasets")
    assert get_spec("my_brain").description == "user"
    write("my_brain", "description: path\n")
    assert get_spec("my_brain").description == "path"
    register({**GOOD, "description": "registered"})
    assert get_spec("my_brain").description == "registered"
    unregister("my_brain")
    assert get_spec("my_brain").description == "path"
    info = next(info for info in list_datasets(details=True) if info.name == "my_brain")
    assert (info.layer, info.shadows) == ("CORTEXCLIENT_PATH", ("user",))


def test_hiding_a_built_in_dataset_is_said_once(write) -> None:
    path = write("v1dd")
    with pytest.warns(SpecWarning, match="hides the built-in dataset") as caught:
        assert get_spec("v1dd").origin == str(path)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_spec("v1dd")


def test_the_first_folder_of_the_path_wins(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write("my_brain", "description: first\n", into=first)
    write("my_brain", "description: second\n", into=second)
    monkeypatch.setenv("CORTEXCLIENT_PATH", os.pathsep.join([str(first), str(second), "", "/does/not/exist"]))
    assert get_spec("my_brain").description == "first"


def test_an_installed_pack_is_found_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "site" / "lab_pack"
    write("lab_brain", into=package / "specs")
    (package / "__init__.py").write_text("raise RuntimeError('the code of a pack was run')\n")
    meta = tmp_path / "site" / "lab_pack-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-pack\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[cortexclient.datasets]\nlab = lab_pack.specs\nbroken = no_such_pack\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    packs_module.forget_packs()
    try:
        assert "lab_brain" in list_datasets()
        # what names no folder is reported where people look
        for command in (["where"], ["list"]):
            assert main(command) == 0
            assert (
                "the pack broken of lab-pack names no_such_pack, but there is no such folder"
                in capsys.readouterr().err
            )
        assert get_spec("lab_brain").origin == str(package / "specs" / "lab_brain.yaml")
        assert (
            next(info.layer for info in list_datasets(details=True) if info.name == "lab_brain") == "pack lab"
        )
    finally:
        monkeypatch.undo()
        packs_module.forget_packs()


def test_loading_reads_only_what_it_needs(write, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("base", "species: Mus musculus\n")
    write("my_brain", "extends: base\n")
    for number in range(50):
        (folder / f"other_{number}.yaml").write_text("this: [is not, a spec")
    opened: list[str] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self.name) or real(self, *a, **k))
    yamls = lambda: sorted(name for name in opened if name.endswith(".yaml"))  # noqa: E731
    assert get_spec("my_brain").species == "Mus musculus"
    assert yamls() == ["base.yaml", "my_brain.yaml"]
    opened.clear()
    assert len(list_datasets()) == len(BUILT_IN) + 52
    get_spec("my_brain")
    assert yamls() == []


def test_a_broken_file_does_not_break_the_list(folder: Path) -> None:
    (folder / "broken.yaml").write_text("name: [broken\n")
    (folder / "Not-A-Name.yaml").write_text("name: x\n")
    infos = {info.name: info for info in list_datasets(details=True)}
    assert "CX103" in (infos["broken"].problem or "")
    assert infos["minnie_public"].access == "login"
    assert "Not-A-Name" not in infos


def test_a_file_that_changes_is_read_anew(write) -> None:
    path = write("my_brain", "description: one\n")
    first = get_spec("my_brain")
    assert get_spec("my_brain") is first
    path.write_text(path.read_text().replace("one", "two"))
    os.utime(path, ns=(1, 1))
    assert get_spec("my_brain").description == "two"


# ----------------------------------------------------------------------------------------------- registering
def test_registering_a_file_or_a_spec(write, tmp_path: Path) -> None:
    path = write("my_brain", "aliases: [mine]\n", into=tmp_path / "elsewhere")
    spec = register(path)
    assert get_spec("my_brain") is spec
    assert get_spec("mine@7") is spec
    assert "my_brain" in list_datasets()
    again = register(spec.with_overrides({"description": "other", "aliases": None}))
    assert get_spec("my_brain") is again
    with pytest.raises(UnknownDatasetError):
        get_spec("mine")
    unregister("my_brain")
    with pytest.raises(UnknownDatasetError, match="was not registered"):
        unregister("my_brain")


def test_registering_a_bad_file_registers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "my_brain.yaml"
    path.write_text("name: my_brain\n")
    with pytest.raises(SpecError, match="CX202"):
        register(path)
    assert "my_brain" not in list_datasets()


# ----------------------------------------------------------------------------------------------- inheritance
def test_extends_merges_field_by_field(write) -> None:
    write(
        "base",
        "aliases: [old_name]\nclass_name: BaseClient\ntransform: minnie65\nvoxel_resolution: [4, 4, 40]\n"
        "tables:\n  a: {name: x, since: 3}\n  b: {name: y}\ncell_ids: {main_table: m, alternative_tables: [p, q]}\n",
    )
    write(
        "my_brain",
        "name: my_brain\nextends: base\ntitle: Child\nvoxel_resolution: [8, 8, 40]\n"
        "tables:\n  a: {since: 5}\n  b: null\n  c: {name: z}\ncell_ids: {alternative_tables: [r]}\ntransform: null\n",
    )
    spec = get_spec("my_brain")
    assert spec.title == "Child"
    assert spec.server_address == "https://cave.my.lab"
    assert spec.voxel_resolution == (8, 8, 40)
    assert {role: (table.name, table.since) for role, table in spec.tables.items()} == {
        "a": ("x", 5),
        "c": ("z", None),
    }
    assert spec.cell_ids.main_table == "m"
    assert spec.cell_ids.alternative_tables == ("r",)
    assert spec.transform is None
    # a child has names of its own
    assert spec.aliases == ()
    assert spec.class_name_or_default == "MyBrainClient"


def test_a_user_file_may_extend_the_built_in_one_of_its_name(write) -> None:
    write("v1dd", "name: v1dd\nextends: v1dd\nsynapse_table: my_synapses\n")
    with pytest.warns(SpecWarning):
        spec = get_spec("v1dd")
    assert spec.synapse_table == "my_synapses"
    assert spec.datastack == "v1dd"


def test_circles_and_missing_parents_are_refused(write) -> None:
    write("one", "extends: two\n")
    write("two", "extends: three\n")
    write("three", "extends: one\n")
    with pytest.raises(SpecError, match=r"one\.yaml|two\.yaml|three\.yaml.*CX306") as caught:
        get_spec("one")
    assert "break the circle" in str(caught.value)
    write("lost", "extends: minnie_publik\n")
    with pytest.raises(SpecError, match=r"CX306.*did you mean minnie_public"):
        get_spec("lost")


def test_a_parent_named_in_python_is_heeded_too(write) -> None:
    from cortexclient import load

    write("base", "synapse_table: synapses_of_base\n")
    assert get_spec(DatasetSpec(**GOOD, extends="base")).synapse_table == "synapses_of_base"
    assert (
        load("v1dd", overrides={"extends": "base", "synapse_table": None}).spec.synapse_table
        == "synapses_of_base"
    )
    with pytest.raises(SpecError, match=r"CX306.*did you mean base"):
        load("v1dd", overrides={"extends": "bsae"})


def test_a_misspelt_parent_is_the_one_cause_and_the_neighbour_is_suggested(write) -> None:
    write("lab_base")
    path = write("lab_a", "name: lab_a\nextends: lab_bsae\n")
    with pytest.raises(SpecError) as caught:
        get_spec(path)
    assert [(problem.code, problem.line) for problem in caught.value.problems] == [("CX306", 2)]
    assert "did you mean lab_base?" in str(caught.value)


def test_problems_of_a_parent_point_into_the_parent(write) -> None:
    parent = write("base", "synapse_tabel: x\n")
    write("my_brain", "extends: base\n")
    with pytest.raises(SpecError, match="CX201") as caught:
        get_spec("my_brain")
    assert caught.value.problems[0].file == str(parent)
    assert caught.value.problems[0].line == 5


def test_a_transform_in_short_form_is_merged_into(write) -> None:
    write("base", "transform: minnie65\n")
    write("pinned", "extends: base\ntransform: {version: '1.4'}\n")
    write("other", "extends: pinned\ntransform: v1dd\n")
    assert get_spec("pinned").transform.model_dump(exclude_defaults=True) == {
        "dataset": "minnie65",
        "version": "1.4",
    }
    assert get_spec("other").transform.model_dump(exclude_defaults=True) == {"dataset": "v1dd"}


def test_a_spec_that_found_its_parent_stands_on_its_own(write) -> None:
    write("base", "example_ids: {root_id: 5}\nversions: [{version: 1}]\n")
    write("my_brain", "extends: base\nexample_ids: null\n")
    spec = get_spec("my_brain")
    assert (spec.extends, spec.example_ids) == (None, None)
    assert get_spec(spec.as_dict()) == spec


# ----------------------------------------------------------------------------------------------- deprecation
@pytest.mark.parametrize(
    "plan", ["since: 2020-01-01, replaced_by: v1dd, message: Moved.", "replaced_by: v1dd, message: Moved"]
)
def test_a_deprecated_dataset_warns_and_loads(plan: str, write) -> None:
    write("old", f"deprecation: {{{plan}}}\n")
    with pytest.warns(SpecWarning, match=r"old is deprecated \(Moved\); use v1dd instead"):
        assert get_spec("old").name == "old"
    assert next(info for info in list_datasets(details=True) if info.name == "old").deprecated


def test_a_deprecation_of_another_day_is_silent(write) -> None:
    write("old", "deprecation: {since: 2999-01-01, message: Later.}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_spec("old").deprecation.message == "Later."
    assert not next(info for info in list_datasets(details=True) if info.name == "old").deprecated


def test_a_file_of_another_schema_version_is_refused(write) -> None:
    write("old", "name: old\nschema_version: 0\ntitle: a\nserver_address: https://a.b\ndatastack: c\n")
    with pytest.raises(SpecError, match=r"CX310.*write 1"):
        get_spec("old")


# -------------------------------------------------------------------------------------------------- the spec
def test_roles_resolve_to_the_table_of_the_version() -> None:
    spec = DatasetSpec(
        **GOOD,
        synapse_table="syn",
        tables={
            "a": {
                "name": "a2",
                "since": 10,
                "until": 19,
                "replaced_by": "a3",
                "earlier": [{"name": "a1", "until": 9}],
            },
            "b": {"name": "b1", "kind": "view", "since": 5, "until": 7},
        },
    )
    assert [spec.table_for("a", v).name for v in (1, 9, 10, 19, 20, 99)] == [
        "a1",
        "a1",
        "a2",
        "a2",
        "a3",
        "a3",
    ]
    assert spec.table_for("a").name == "a3"
    assert spec.table_for("synapses", 4).name == "syn"
    assert spec.table_for("b", 6).kind == "view"
    for version in (4, 8, None):
        with pytest.raises(UnknownTableError, match="b1: versions 5 to 7"):
            spec.table_for("b", version)
    with pytest.raises(NotConfiguredError, match=r"tables\.edges"):
        spec.table_for("edges")


def test_require_names_the_key_to_add() -> None:
    spec = DatasetSpec(**GOOD, cell_ids={"main_table": "m"})
    assert spec.require("cell_ids.main_table") == "m"
    with pytest.raises(
        NotConfiguredError, match=r"lookups needs `cell_ids\.lookup_view`.*add `cell_ids\.lookup_view`"
    ):
        spec.require("cell_ids.lookup_view", feature="lookups")
    with pytest.raises(NotConfiguredError, match=r"exports\.path"):
        spec.require("exports.path")


def test_a_spec_is_frozen_hashable_and_travels() -> None:
    spec = get_spec("minnie_public")
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"
    with pytest.raises(TypeError, match="read-only"):
        spec.tables["x"] = None
    with pytest.raises(TypeError, match="read-only"):
        spec.tables.update({})
    for twin in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec), copy.copy(spec)):
        assert twin == spec
        assert hash(twin) == hash(spec)
        assert twin.fingerprint == spec.fingerprint
    assert pickle.loads(pickle.dumps(spec)).origin == spec.origin


def test_the_fingerprint_changes_with_any_value() -> None:
    spec = get_spec("minnie_public")
    assert spec.with_overrides({}).fingerprint == spec.fingerprint
    for change in ({"title": "x"}, {"tables": {"edges": {"name": "x"}}}, {"exports": None}, {"x-note": 1}):
        assert spec.with_overrides(change).fingerprint != spec.fingerprint
    assert spec.model_copy(update={"title": "x"}).fingerprint != spec.fingerprint


def test_overrides_are_checked_and_merged() -> None:
    spec = get_spec("minnie_public")
    other = spec.with_overrides(
        {"server_address": "http://localhost:9", "cell_ids": {"lookup_view": "other"}}
    )
    assert other.host == "localhost"
    assert other.cell_ids.lookup_view == "other"
    assert other.cell_ids.main_table == spec.cell_ids.main_table
    assert spec.server_address == "https://global.daf-apis.com"
    with pytest.raises(SpecError, match=r"CX201 serveraddress: .*did you mean server_address"):
        spec.with_overrides({"serveraddress": "x"})


def test_numbers_of_numpy_are_numbers() -> None:
    spec = get_spec({**GOOD, "default_version": np.int64(3), "capabilities": {"live": np.bool_(True)}})
    spec = spec.with_overrides({"voxel_resolution": np.array([4, 4, 40]), "x-a": [np.float32(0.5)]})
    assert json.loads(json.dumps(spec.as_dict())) == spec.as_dict()
    assert (spec.default_version, spec.voxel_resolution) == (3, (4, 4, 40))
    with pytest.raises(SpecError, match="CX"):
        spec.with_overrides({"example_ids": {"root_id": np.float64(864691135336055529)}})


def test_a_mapping_without_end_is_refused() -> None:
    endless: dict[str, object] = {**GOOD}
    endless["x-a"] = [endless, endless]
    with pytest.raises(SpecError, match=r"CX106 .*contain themselves"):
        get_spec(endless)
    with pytest.raises(SpecError, match="CX106"):
        get_spec(GOOD).with_overrides(endless)


def test_numbers_that_json_does_not_know_are_texts(write) -> None:
    write("mine", "x-much: [1e999, -1e999, .inf, .nan, 1e300]\n")
    plain = get_spec("mine").as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["x-much"][:4] == ["1e999", "-1e999", ".inf", ".nan"]


def test_private_keys_are_kept_and_ids_stay_whole() -> None:
    spec = get_spec(
        {**GOOD, "x-notes": {"no": [1, 2]}, "example_ids": {"root_id": "864691135336055529", "x-a": 1}}
    )
    assert spec.private == {"x-notes": {"no": [1, 2]}}
    assert spec.example_ids.private == {"x-a": 1}
    assert spec.example_ids.root_id == 864691135336055529
    assert spec.as_dict()["x-notes"] == {"no": [1, 2]}


def test_naive_times_are_utc() -> None:
    spec = get_spec({**GOOD, "versions": [{"version": 1, "timestamp": "2021-06-11 08:10:00.215114"}]})
    assert spec.versions[0].timestamp.isoformat() == "2021-06-11T08:10:00.215114+00:00"
    spec = get_spec({**GOOD, "versions": [{"version": 1, "timestamp": "2021-06-11T10:10:00+02:00"}]})
    assert spec.versions[0].timestamp.isoformat() == "2021-06-11T08:10:00+00:00"


# ----------------------------------------------------------------------------------------------------- trust
def test_hosts_of_built_in_datasets_are_trusted_and_no_others() -> None:
    for spec in map(get_spec, BUILT_IN):
        if spec.is_verified("server_address"):
            assert registry.is_trusted(spec.server_address) == spec.server_address.startswith("https://"), (
                spec.name
            )
    assert not registry.is_trusted(get_spec("h01").server_address)  # nobody has verified that address
    assert registry.is_trusted("global.daf-apis.com")
    for host in (
        "evil.example",
        "global.daf-apis.com.evil.example",
        "https://global.daf-apis.com@evil.example",
        "localhost.evil.example",
        "127.0.0.1:8000",  # a port of this machine may be another user's
        "localhost",
        "",
    ):
        assert not registry.is_trusted(host), host


def test_trusting_a_host_lasts(tmp_path: Path) -> None:
    assert registry.trust("https://CAVE.my.lab/info") == "cave.my.lab"
    registry.trust("other.lab:8443")
    assert registry.trusted_hosts() == ["cave.my.lab", "other.lab:8443"]
    assert registry.is_trusted("https://cave.my.lab")
    # another port may be another person's server
    assert not registry.is_trusted("https://cave.my.lab:444")
    registry.untrust("cave.my.lab")
    assert not registry.is_trusted("cave.my.lab")
    for wrong in ("", "two words", "https://", "*"):
        with pytest.raises(ValueError, match="not a host name"):
            registry.trust(wrong)


def test_a_file_with_the_other_ending_is_pointed_out(folder: Path) -> None:
    (folder / "my_brain.yml").write_text("name: my_brain\n")
    with pytest.raises(
        UnknownDatasetError, match=r"my_brain\.yml ends in \.yml: rename it to my_brain\.yaml"
    ):
        get_spec("my_brain")


@pytest.mark.parametrize(
    "text",
    [
        "'aliases':\n  # several\n\n  - \"nickname\"  # as the lab says\n",
        "{name: my_brain, title: a, server_address: 'https://a.b', datastack: c, aliases: [nickname]}\n",
    ],
    ids=["block", "flow"],
)
def test_aliases_are_found_however_they_are_written(text: str, write, folder: Path) -> None:
    path = write("my_brain", text)
    if text.startswith("{"):
        path.write_text(text)
    assert get_spec("nickname").name == "my_brain"
    assert registry.exists("nickname")


def test_words_that_are_no_aliases_are_none(write) -> None:
    write("my_brain", "description: nickname\nx-notes: {aliases: [nickname]}\naliases: [another]\n")
    assert not registry.exists("nickname")
    with pytest.raises(UnknownDatasetError):
        get_spec("nickname")


def test_what_is_cleared_takes_its_source_with_it(write, folder: Path) -> None:
    facts = "exports: {path: gs://a/b}\ntransform: minnie65\nversions: [{version: 1}]\nsources:\n"
    facts += "".join(
        f"  {path}: {{note: seen}}\n" for path in ("exports.path", "transform.dataset", "versions", "title")
    )
    write("base", facts)
    write("child", "name: child\nextends: base\nexports: null\n")
    assert set(get_spec("child").sources) == {"transform.dataset", "versions", "title"}
    cleared = get_spec("base").with_overrides({"exports": None, "transform": None, "versions": None})
    assert set(cleared.sources) == {"title"}
    # what a file says itself must be there
    write("child", "name: child\nextends: base\nexports: null\nsources: {exports.path: {note: seen}}\n")
    with pytest.raises(SpecError, match="CX309"):
        get_spec("child")


def test_what_is_replaced_is_no_longer_from_where_it_was(write, folder: Path) -> None:
    facts = "voxel_resolution: [4, 4, 40]\ntables: {cell_types: {name: a}}\nversions: [{version: 1}]\n"
    facts += "transform: minnie65\nsources:\n"
    paths = (
        "voxel_resolution",
        "tables",
        "tables.cell_types.name",
        "versions",
        "transform.dataset",
        "datastack",
    )
    write("base", facts + "".join(f"  {path}: {{note: seen}}\n" for path in paths))
    write(
        "child",
        "name: child\nextends: base\nvoxel_resolution: [8, 8, 40]\nversions: [{version: 2}]\n"
        "tables: {edges: {name: b}}\ntransform: v1dd\ndatastack: other\nsources: {datastack: {note: ours}}\n",
    )
    sources = get_spec("child").sources
    # adding a table says nothing new on those that were there
    assert set(sources) == {"tables", "tables.cell_types.name", "datastack"}
    assert sources["datastack"].note == "ours"


def test_an_alias_that_never_leads_here_is_warned_about(write, folder: Path) -> None:
    path = write("mine", "aliases: [nick, v1dd]\n")
    found = [p for result in validate([path]) for p in result.problems if p.code == "CX302"]
    assert [(p.severity, p.path, p.line) for p in found] == [("warning", "aliases[1]", 5)]
    assert "built-in" in found[0].message
    assert get_spec("v1dd").datastack == "v1dd"
