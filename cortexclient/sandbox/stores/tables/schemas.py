"""JSON schemas of all annotation tables, in the shape in which the schema service answers them.

Which fields there are is written down in :mod:`cortexclient.spec.table_schemas`; here is how the service puts them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from cortexclient.spec.table_schemas import TableField, table_schemas

_NUMBER = {"type": "integer"}
_POSITION = {"type": "array"}
_VALID = {
    "title": "valid",
    "type": ["boolean", "null"],
    "default": False,
    "description": "is this annotation valid",
}
# kind of point -> its name in the service's schemas, required fields, further fields
_POINTS: dict[str, tuple[str, list[str], list[str]]] = {
    "point": ("SpatialPoint", ["position"], []),
    "bound_point": ("BoundSpatialPoint", ["position"], ["root_id", "supervoxel_id"]),
    "derived_point": (
        "DerivedSpatialPoint",
        ["dependent_chunk", "position"],
        ["dependent_chunk", "level", "root_id", "supervoxel_id"],
    ),
}
# the service numbers the points of a pair
_ORDER = {"pre_pt": 0, "ctr_pt": 1, "post_pt": 2, "glia_pt": 0, "object_pt": 2}
_UNORDERED = {("contact", "ctr_pt")}
_TYPES: dict[str, dict[str, Any]] = {
    "bool": {"type": "boolean"},
    "text": {"type": "string"},
    "float": {"type": "number", "format": "float"},
    "int": {"type": "number", "format": "integer"},
    "user": {"type": "number", "format": "integer"},
}
_DEFAULTS = {"hemisphere": "U", "validation": False}
_INDEXED = {("reference_simple_group_indexed", "group_id"), ("cell_match", "match_id")}
_TEXTS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
# names that differ from the schema's own in more than capitals
_CLASSES: dict[str, str] = _TEXTS["classes"]
# of fields, as recorded from the service
_DESCRIPTIONS: dict[str, str] = _TEXTS["descriptions"]


@cache
def all_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schemas of all annotation tables by name, sorted."""
    return {name: json_schema(name, fields) for name, fields in sorted(table_schemas().items())}


def json_schema(name: str, fields: tuple[TableField, ...]) -> dict[str, Any]:
    """Return the JSON schema of one annotation table, from its fields without ``valid``."""
    title = _CLASSES.get(name) or "".join(part.capitalize() for part in name.split("_"))
    if name == "derived_spatial_point":  # a point that is a table by itself
        definitions = {title: _point_definition("derived_point")}
    else:
        kinds = [kind for kind in _POINTS if any(field.type == kind for field in fields)]
        definitions = {_POINTS[kind][0]: _point_definition(kind) for kind in kinds}
        properties = {field.name: _property(name, field) for field in fields} | {"valid": _VALID}
        definitions[title] = {
            "required": sorted(field.name for field in fields if not field.nullable),
            "properties": dict(sorted(properties.items())),
            "type": "object",
            "additionalProperties": True,
        }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": definitions,
        "$ref": f"#/definitions/{title}",
    }


def _point_definition(kind: str) -> dict[str, Any]:
    _, required, further = _POINTS[kind]
    return {
        "required": required,
        "properties": dict(sorted({"position": _POSITION, **dict.fromkeys(further, _NUMBER)}.items())),
        "type": "object",
        "additionalProperties": False,
    }


def _property(schema: str, field: TableField) -> dict[str, Any]:
    name, kind = field.name, field.type
    if kind in ("id", "reference"):
        return dict(_NUMBER)
    described = {"description": _DESCRIPTIONS.get(f"{schema}.{name}", name.replace("_", " "))}
    if kind in _POINTS:
        ordered = name in _ORDER and (schema, name) not in _UNORDERED
        order = {"order": _ORDER[name]} if ordered else {}
        return {"type": "object", "$ref": f"#/definitions/{_POINTS[kind][0]}", **described, **order}
    if (schema, name) == ("reference_tag_float", "value"):  # misspelt in the service
        described = {"desription": described["description"]}
    found = {"title": name, **_TYPES[kind], **described}
    if field.nullable:
        found["type"] = [found["type"], "null"]
    if name in _DEFAULTS:
        found["default"] = _DEFAULTS[name]
    if (schema.removesuffix("_reference"), name) in _INDEXED:
        found["index"] = True
    if field.values:
        values = [value for value in field.values if value is not None]
        found |= {"enum": values, "enumNames": []}
    return found
