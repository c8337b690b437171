"""Whatever a server says, the spec that `cortexclient new` writes can be loaded, and says the same."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cortexclient.cli.output import as_yaml
from cortexclient.cli.scaffold import SpecText, draft
from cortexclient.registry import get_spec
from cortexclient.registry.validation import validate
from cortexclient.spec import spec_from_mapping

HEAD = {"server_address": "https://cave.my.lab", "datastack": "my_brain_v1"}
odd_words = st.sampled_from(
    ["no", "on", "null", "y", "true", "1e5", "0x1F", "12:30", "2026-01-01", "~", "a: b", "#x", "''"]
)
lines = st.text(min_size=1, max_size=60) | odd_words
names = st.text(string.ascii_letters + "_", min_size=1, max_size=12) | st.sampled_from(
    ["no", "null", "on", "Y"]
)
roles = st.text(string.ascii_lowercase, min_size=1, max_size=8) | st.sampled_from(
    ["on", "no", "null", "true"]
)
table = st.fixed_dictionaries(
    {"name": names, "kind": st.sampled_from(["table", "view"])}, optional={"description": lines}
)
parts = st.fixed_dictionaries(
    {"title": lines},
    optional={
        "description": lines,
        "synapse_table": names,
        "tables": st.dictionaries(roles, table, max_size=3),
        "cell_ids": st.fixed_dictionaries(
            {}, optional={"main_table": names, "alternative_tables": st.lists(names, max_size=2)}
        ),
        "voxel_resolution": st.lists(st.floats(0.6, 1000) | st.integers(1, 1000), min_size=3, max_size=3),
        "viewer_site": st.sampled_from(["https://a.b/?c=1#d", "https://a.b"]),
        "license": st.fixed_dictionaries({"name": lines}),
        "example_ids": st.fixed_dictionaries({"root_id": st.integers(0, 2**63 - 1).map(str)}),
        "versions": st.lists(st.integers(1, 9), unique=True, max_size=3).map(
            lambda numbers: [{"version": number, "status": "major"} for number in sorted(numbers)]
        ),
        "sources": st.fixed_dictionaries({"datastack": st.fixed_dictionaries({"note": lines})}),
    },
)


def told(values: dict[str, Any], comment: str | None) -> str:
    text = SpecText("my_brain")
    for key, value in (HEAD | values).items():
        text.add(key, value, comment)
        text.comment(comment or "")
    return str(text)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(values=parts, comment=st.none() | lines)
def test_every_draft_loads_and_says_the_same(
    values: dict, comment: str | None, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("drafts") / "my_brain.yaml"
    written = told(values, comment)
    path.write_text(written, encoding="utf-8")
    filled = {key: value for key, value in values.items() if value not in ({}, [])}
    try:
        expected = spec_from_mapping({"name": "my_brain", **HEAD, **filled})
    except Exception:
        assert "The server's value is not valid in a spec" in written
        return
    assert get_spec(path) == expected


@pytest.mark.parametrize("key", ["tables", "sources", "cell_ids"])
def test_a_map_of_one_map_is_valid_yaml(key: str) -> None:
    value = {"cell_types": {"name": "celltype_toy", "kind": "table"}}
    assert yaml.safe_load(as_yaml({key: value})) == {key: value}


def test_what_a_spec_cannot_hold_becomes_a_comment(tmp_path: Path) -> None:
    values = {
        "title": "\x1b]0;gotcha\x07",
        "viewer_site": "http://plain.example",
        "tables": {"cell_types": {"name": "has a blank"}},
        "sources": {"tables": {"verified": False, "note": "guessed"}, "datastack": {"note": "seen"}},
    }
    path = tmp_path / "my_brain.yaml"
    path.write_text(told(values | {"title": "Fine"}, None), encoding="utf-8")
    spec = get_spec(path)
    assert (spec.viewer_site, dict(spec.tables), set(spec.sources)) == (None, {}, {"datastack"})
    assert path.read_text().count("is not valid in a spec") == 2


def test_a_recorded_datastack_with_one_role(repository: Path, tmp_path: Path) -> None:
    from cortexclient.sandbox import Sandbox

    with Sandbox(data=repository / "tests" / "data" / "real_toy_datastack") as sandbox:
        text = draft("toy_new", server=sandbox.url, datastack=sandbox.datastack, token=sandbox.token)
    path = tmp_path / "toy_new.yaml"
    path.write_text(text, encoding="utf-8")
    assert [p for result in validate([path]) for p in result.problems if p.severity == "error"] == []
    assert len(get_spec(path).tables) == 1
