"""Every annotation schema: its JSON form, and a table of it made, written and read by the unmodified caveclient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from cortexclient.sandbox import Sandbox
from cortexclient.spec.table_schemas import TableField, schema_names, table_schemas
from tests.sandbox.toy import client_of

POINT = [200, 100, 10]
VALUES: dict[str, Any] = {
    "bool": True,
    "int": 3,
    "float": 0.5,
    "text": "a",
    "id": 2**60 + 1,
    "reference": 1,
    "point": {"position": POINT},
    "bound_point": {"position": POINT},
    "derived_point": {"position": POINT, "dependent_chunk": 2**60 + 1, "level": 2},
    "position": POINT,
}


@pytest.fixture
def cave(sandbox_factory: Callable[..., Sandbox]) -> Any:
    return client_of(sandbox_factory())


def row_of(fields: tuple[TableField, ...]) -> dict[str, Any]:
    """One row as it is posted; who wrote it is left to the service."""
    return {
        field.name: field.values[-1] if field.values else VALUES[field.type]
        for field in fields
        if field.type != "user"
    }


def test_all_are_known_and_well_formed(cave: Any) -> None:
    assert sorted(cave.schema.get_schemas()) == schema_names()
    everything = cave.schema.schema_definition_all()
    assert sorted(everything) == schema_names()
    for name, schema in everything.items():
        assert cave.schema.schema_definition(name) == schema
        declared = schema["definitions"][schema["$ref"].split("/")[-1]]
        fields = {field.name: field for field in table_schemas()[name]}
        assert set(declared["properties"]) == {*fields} | (
            set() if name == "derived_spatial_point" else {"valid"}
        )
        assert sorted(declared["required"]) == sorted(
            name for name, field in fields.items() if not field.nullable
        )


def test_a_table_of_each_can_be_made_written_and_read(
    cave: Any, sandbox_factory: Callable[..., Sandbox]
) -> None:
    target = cave.info.get_datastack_info()["soma_table"]
    for number, name in enumerate(schema_names()):
        table, fields = f"one_of_a_kind_{number}", table_schemas()[name]
        reference = (
            {"reference_table": target, "track_target_id_updates": False}
            if any(field.type == "reference" for field in fields)
            else {}
        )
        cave.annotation.create_table(table, name, "one row", voxel_resolution=[4, 4, 40], **reference)
        row = row_of(fields)
        if reference:
            row["target_id"] = int(cave.materialize.query_table(target, limit=1)["id"].iloc[0])
        (identity,) = cave.annotation.post_annotation(table, [row])
        (found,) = cave.annotation.get_annotation(table, [identity])
        for field in fields:
            if field.type in ("bool", "int", "float", "text", "id", "reference"):
                assert found[field.name] == row[field.name], (name, field.name)
            elif field.type == "user":
                assert found[field.name] == 0
            else:
                at = field.name if field.type == "position" else f"{field.name}_position"
                assert found[at] == POINT, (name, field.name)
        needed = next(field.name for field in fields if not field.nullable)
        lacking = {key: value for key, value in row.items() if key != needed}
        with pytest.raises(requests.HTTPError, match="required field"):
            cave.annotation.post_annotation(table, [lacking])


@pytest.mark.parametrize("name", ["cell_type_local", "fly_nt_synapse", "derived_tag"])
def test_a_new_table_is_frozen_with_its_columns(sandbox_factory: Callable[..., Sandbox], name: str) -> None:
    """Although nobody has asked for its supervoxels: a version begins with looking them up."""
    sandbox = sandbox_factory()
    cave = client_of(sandbox)
    cave.annotation.create_table("fresh", name, "one row", voxel_resolution=[4, 4, 40])
    cave.annotation.post_annotation("fresh", [row_of(table_schemas()[name])])
    version = sandbox.materialize()
    frame = cave.materialize.query_table("fresh", materialization_version=version)
    assert len(frame) == 1
    assert {column for field in table_schemas()[name] for column in field.columns} <= set(frame.columns)
