"""Tables that a spec declares with a schema, further columns or a unit, asked for by the unmodified caveclient."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cortexclient.sandbox import Sandbox
from cortexclient.spec.table_schemas import schema_names, table_schemas
from tests.sandbox.toy import client_of

SPEC = """\
schema_version: 1
name: declared
title: A dataset that says what is in its tables
server_address: https://cave.example.org
datastack: declared_stack
voxel_resolution: [4, 4, 40]
synapse_table: synapses_nt
synapses: {position_prefix: pre_pt, score_column: cleft_score, schema: fly_nt_synapse, units: nm}
cell_ids: {main_table: nuclei}
tables:
  nuclei: {name: nuclei, kind: table, schema: representative_point, voxel_resolution: [8, 8, 40]}
  proofreading: {name: proofread, kind: table, schema: representative_point, units: nm}
  labels: {name: labels, kind: table, schema: cell_type_reference, references: proofread}
  coregistration: {name: matches, kind: table, schema: func_unit_ext_coreg}
  areas: {name: areas, kind: table, schema: reference_tag_float, columns: {reviewed: bool, grade: [a, b]}}
  targets: {name: targets, kind: table, schema: reference_tag, references: synapses_nt}
  filtered:
    name: valid_synapses
    kind: view
    units: nm
    columns: {id: id, pre_pt_root_id: id, post_pt_root_id: id, cleft_score: float, neuropil: text, valid_nt: bool,
      pre_pt_position: point}
  edges: {name: edges, kind: view, columns: {pre_pt_root_id: id, post_pt_root_id: id, n_syn: int, gaba: float}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, Any]]:
    file = tmp_path_factory.mktemp("specs") / "declared.yaml"
    file.write_text(SPEC)
    with Sandbox(file, size="tiny") as sandbox:
        yield sandbox, client_of(sandbox).materialize


def test_the_synapse_table_has_its_declared_columns_and_unit(world: tuple[Sandbox, Any]) -> None:
    sandbox, materialize = world
    rows = materialize.query_table("synapses_nt", split_positions=True).set_index("id").sort_index()
    assert not {"size", "ctr_pt_position_x"} & set(rows.columns)
    assert {"cleft_score", "gaba", "valid_nt"} <= set(rows.columns)
    truth = sandbox.truth.synapses.set_index("id").loc[rows.index]
    expected = truth[["pre_x_nm", "pre_y_nm", "pre_z_nm"]].to_numpy()
    found = rows[[f"pre_pt_position_{axis}" for axis in "xyz"]].to_numpy()
    assert np.abs(found - expected).max() <= 20  # half a voxel of the cortex
    shares = rows[["gaba", "ach", "glut", "oct", "ser", "da"]].dropna()
    np.testing.assert_allclose(shares.sum(axis=1).astype(float), 1.0, atol=1e-5)
    assert rows["cleft_score"].dropna().between(0, 160).all()
    assert materialize.get_table_metadata("synapses_nt")["voxel_resolution"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("table", "schema"),
    [("nuclei", "representative_point"), ("proofread", "representative_point"), ("labels", "cell_type_reference"),
     ("matches", "func_unit_ext_coreg"), ("areas", "reference_tag_float"), ("targets", "reference_tag")],
)  # fmt: skip
def test_a_table_has_the_columns_of_its_schema(world: tuple[Sandbox, Any], table: str, schema: str) -> None:
    _, materialize = world
    metadata = materialize.get_table_metadata(table)
    assert metadata["schema"] == schema
    rows = materialize.query_table(table, merge_reference=False)
    assert {column for field in table_schemas()[schema] for column in field.columns} <= set(rows.columns)
    assert len(rows) == materialize.get_annotation_count(table) > 0
    assert rows["id"].is_unique
    if "target_id" in rows:
        target = materialize.query_table(metadata["reference_table"], merge_reference=False)
        assert set(rows["target_id"]) <= set(target["id"])
        assert len(materialize.query_table(table)) == len(rows)  # joined to what it refers to


def test_values_fit_their_columns(world: tuple[Sandbox, Any]) -> None:
    _, materialize = world
    matches = materialize.query_table("matches", merge_reference=False)
    assert matches["session"].between(4, 9).all()
    assert matches["score"].dtype.kind == "f" or isinstance(
        matches["score"].dtype, pd.Float64Dtype | pd.Float32Dtype
    )
    areas = materialize.query_table("areas", merge_reference=False)
    assert set(areas["tag"]) <= {"V1", "RL", "AL", "LM"}
    assert set(areas["grade"]) <= {"a", "b"}
    assert areas["reviewed"].dtype in (bool, pd.BooleanDtype())


def test_rows_keep_their_values_from_version_to_version_and_live(world: tuple[Sandbox, Any]) -> None:
    _, materialize = world
    for table in ("matches", "synapses_nt"):
        frames = [
            materialize.query_table(table, materialization_version=version, merge_reference=False).set_index(
                "id"
            )
            for version in (2, 3)
        ]
        both = frames[0].index.intersection(frames[1].index)
        same = [name for name in frames[0] if "root_id" not in name and "position" not in name]
        assert len(both) > 5
        pd.testing.assert_frame_equal(frames[0].loc[both, same], frames[1].loc[both, same])
        live = materialize.live_live_query(table, datetime.now(UTC), log_warning=False).set_index("id")
        pd.testing.assert_frame_equal(
            live.loc[both, same].astype(object), frames[1].loc[both, same].astype(object), check_dtype=False
        )


def test_views_have_their_declared_columns(world: tuple[Sandbox, Any]) -> None:
    _, materialize = world
    rows = materialize.query_view("valid_synapses")
    synapses = materialize.query_table("synapses_nt", desired_resolution=[1, 1, 1]).set_index("id")
    assert sorted(rows["id"]) == sorted(synapses.index)
    assert np.array_equal(
        np.stack(rows["pre_pt_position"]), np.stack(synapses.loc[rows["id"], "pre_pt_position"])
    )
    assert rows["pre_pt_root_id"].tolist() == synapses.loc[rows["id"], "pre_pt_root_id"].tolist()
    edges = materialize.query_view("edges")
    pairs = synapses[(synapses["pre_pt_root_id"] > 0) & (synapses["post_pt_root_id"] > 0)]
    expected = pairs.groupby(["pre_pt_root_id", "post_pt_root_id"]).size()
    found = edges.set_index(["pre_pt_root_id", "post_pt_root_id"])["n_syn"]
    assert found.to_dict() == expected.to_dict()
    assert set(materialize.get_view_schema("edges")) == {"pre_pt_root_id", "post_pt_root_id", "n_syn", "gaba"}


def test_edits_reach_declared_tables(world: tuple[Sandbox, Any]) -> None:
    sandbox, _ = world
    with Sandbox(sandbox.spec, size="tiny") as own:
        materialize = client_of(own).materialize
        root = int(own.truth.cells["root_id"].iloc[0])
        edit = own.split(root)
        rows = materialize.live_live_query("proofread", datetime.now(UTC), log_warning=False)
        assert root not in set(rows["pt_root_id"])
        assert set(rows["pt_root_id"]) & set(edit.new_roots)
        version = own.materialize()
        frozen = materialize.query_table("proofread", materialization_version=version)
        assert set(frozen["pt_root_id"]) == set(rows["pt_root_id"])
        assert len(materialize.query_view("valid_synapses", materialization_version=version)) > 100


def test_every_schema_can_be_declared(tmp_path: Path) -> None:
    lines = "".join(
        f"  role_{n}: {{name: table_{n}, kind: table, schema: {s}}}\n" for n, s in enumerate(schema_names())
    )
    file = tmp_path / "all_schemas.yaml"
    head = SPEC.split("tables:", maxsplit=1)[0].replace("name: declared", "name: all_schemas")
    file.write_text(f"{head}tables:\n{lines}")
    with Sandbox(file, size="tiny") as sandbox:
        materialize = client_of(sandbox).materialize
        for number, name in enumerate(schema_names()):
            rows = materialize.query_table(f"table_{number}", limit=5, merge_reference=False)
            expected = {column for field in table_schemas()[name] for column in field.columns}
            if name == "derived_spatial_point":
                expected -= {"supervoxel_id", "root_id", "dependent_chunk", "level"}
            assert expected <= set(rows.columns), name
            for field in table_schemas()[name]:
                if field.values and field.name in rows:
                    assert set(rows[field.name].dropna()) <= set(field.values), name


LIVES = """\
schema_version: 1
name: lives
title: A dataset whose tables come and go
server_address: https://cave.example.org
datastack: lives_stack
synapse_table: synapses
cell_ids: {main_table: nuclei}
tables:
  types: {name: new_types, kind: table, since: 20, earlier: [{name: old_types, kind: table, until: 19}]}
  edges: {name: new_edges, kind: view, since: 30}
  areas: {name: areas, kind: table, until: 20, replaced_by: regions}
"""
NUMBERED = """\
versions:
  - {version: 10, timestamp: "2025-01-01T00:00:00Z"}
  - {version: 30, timestamp: "2025-02-01T00:00:00Z"}
"""


def test_a_version_has_the_tables_whose_lifetime_holds_it(tmp_path: Path) -> None:
    file = tmp_path / "lives.yaml"
    file.write_text(LIVES + NUMBERED)
    names = {"new_types", "old_types", "areas", "regions"}
    with Sandbox(file, size="tiny") as sandbox:
        materialize = client_of(sandbox).materialize
        listed = {version: names & set(materialize.get_tables(version=version)) for version in (10, 30)}
        assert listed == {10: {"old_types", "areas"}, 30: {"new_types", "regions"}}
        with pytest.raises(Exception, match=r"No table named .*old_types.* found for version .*30"):
            materialize.query_table("old_types", materialization_version=30)
        assert ["new_edges" in materialize.get_views(version=version) for version in (10, 30)] == [
            False,
            True,
        ]
        assert names <= set(client_of(sandbox).annotation.get_tables())
        made = sandbox.materialize()
        assert names & set(materialize.get_tables(version=made)) == {"new_types", "regions"}


def test_a_spec_without_versions_loses_no_table(tmp_path: Path) -> None:
    file = tmp_path / "lives.yaml"
    file.write_text(LIVES)
    with Sandbox(file, size="tiny") as sandbox:
        names = client_of(sandbox).materialize.get_tables(version=3)
        assert {"new_types", "old_types", "areas", "regions"} <= set(names)
