"""What a spec says about the columns of its tables."""

from __future__ import annotations

import pytest

from cortexclient.errors import SpecError
from cortexclient.registry import get_spec
from cortexclient.spec import DatasetSpec, table_schemas

GOOD = {"name": "b", "title": "B", "server_address": "https://a.b", "datastack": "b", "synapse_table": "syn"}


def spec_with(**more: object) -> DatasetSpec:
    return get_spec({**GOOD, **more})


def test_all_schemas_have_columns() -> None:
    assert len(table_schemas()) == 57
    for fields in table_schemas().values():
        columns = [column for field in fields for column in field.columns]
        assert len(set(columns)) == len(columns) > 0
    points = ("pt_position", "pt_supervoxel_id", "pt_root_id")
    nuclei = [column for field in table_schemas()["nucleus_detection"] for column in field.columns]
    assert nuclei == ["volume", *points, "bb_start_position", "bb_end_position"]
    hemisphere = table_schemas()["fly_cell_type"][-1]
    assert (hemisphere.type, hemisphere.values) == ("text", ("L", "R", "M", "U"))


def test_a_table_declares_its_schema_and_further_columns() -> None:
    table = {
        "name": "coreg_v4",
        "schema": "func_unit_ext_coreg",
        "columns": {"note": "text|null", "side": ["L", "R"]},
    }
    spec = spec_with(tables={"coregistration": {**table, "references": "cells"}})
    facts = spec.table_facts("coreg_v4")
    assert [field.name for field in facts.declared_fields][-4:] == ["residual", "score", "note", "side"]
    assert [(f.type, f.nullable, f.values) for f in facts.declared_fields[-2:]] == [
        ("text", True, ()),
        ("text", False, ("L", "R")),
    ]
    assert spec.tables["coregistration"].references == "cells"
    assert get_spec(spec.as_dict()) == spec
    assert (
        spec.with_overrides({"tables": {"coregistration": {"schema": None}}})
        .table_facts("coreg_v4")
        .schema_name
        is None
    )
    assert spec.table_facts("another") is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"schema": "functional_cored"}, r"tables\.a\.schema.*is not a schema of EMAnnotationSchemas"),
        ({"schema": "func_unit_ext_corg"}, "did you mean func_unit_ext_coreg"),
        ({"schema": 3}, "CX204"),
        ({"columns": {"score": "flaot"}}, r"CX206 tables\.a\.columns\.score"),
        ({"columns": {"score": "float|None"}}, "CX206"),
        ({"columns": {"a b": "float"}}, "CX207"),
        ({"columns": {"a": [1, "b"]}}, "CX206"),
        ({"columns": {"a": []}}, "CX206"),
        ({"columns": ["a"]}, "CX203"),
    ],
)
def test_what_is_no_schema_or_column_is_refused(table: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_with(tables={"a": {"name": "b", **table}})


def test_units_by_table_and_who_is_believed() -> None:
    old = {"name": "old", "until": 5, "voxel_resolution": [8, 8, 40]}
    tables = {
        "proofreading": {"name": "new", "since": 6, "units": "nm", "earlier": [old]},
        "areas": {"name": "plain"},
    }
    spec = spec_with(tables=tables, synapses={"voxel_resolution": [9.7, 9.7, 45]})
    assert spec.table_unit("syn") == (9.7, 9.7, 45)
    assert spec.table_unit("new") == (1, 1, 1)
    assert spec.table_unit("old") == (8, 8, 40)
    assert spec.table_unit("plain") is None
    unsure = spec.with_overrides(
        {"sources": {"synapses": {"verified": False}, "synapses.units": {"note": "seen"}}}
    )
    # the server knows better than a fact that nobody verified
    assert unsure.table_unit("syn") is None
    assert unsure.table_unit("syn", unverified=True) == (9.7, 9.7, 45)
    assert unsure.is_verified("synapses.units")
    assert unsure.table_unit("new") == (1, 1, 1)
