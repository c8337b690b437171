"""JSON Schema of spec files, generated from the models, in the dialect that editors read.

Pydantic writes draft 2020-12; the YAML language server reads draft 07. The two differ in a few words, which are
rewritten here. `tests/registry/test_schema.py` keeps the committed files in step.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cortexclient.spec.dataset import DatasetSpec
from cortexclient.spec.volume import VolumeSpec

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["dataset_schema", "schema_text", "volume_schema"]

DRAFT = "http://json-schema.org/draft-07/schema#"
_REQUIRED_SOMEWHERE = ["title", "server_address", "datastack"]
_EXAMPLES: dict[str, Any] = {
    "name": "minnie_public",
    "title": "MICrONS minnie65, public release",
    "server_address": "https://global.daf-apis.com",
    "datastack": "minnie65_public",
    "voxel_resolution": [4, 4, 40],
    "synapse_table": "synapses_pni_2",
    "viewer_site": "https://spelunker.cave-explorer.org",
    "transform": "minnie65",
    "exports": {"path": "gs://bucket/folder/", "format": "csv-gz"},
    "tables": {"cell_types": {"name": "aibs_metamodel_celltypes_v661", "kind": "table", "since": 661}},
    "versions": [{"version": 1300, "timestamp": "2025-01-13T10:10:01.286229Z", "status": "major"}],
    "access": {"level": "login", "note": "Sign in once, accept the terms of service, make a token."},
    "citation": {"doi": "10.1038/s41586-025-08790-w"},
    "example_ids": {"cell_id": "264824", "root_id": "864691135336055529"},
    "aliases": ["microns_public"],
}


def dataset_schema() -> dict[str, Any]:
    """JSON Schema (draft 07) of the files in ``datasets/``."""
    schema = _draft_07(DatasetSpec)
    schema["title"] = "A dataset of cortexclient"
    schema["required"] = ["name"]
    # what a parent may supply is required only of files without one
    schema["if"] = {"not": {"required": ["extends"]}}
    schema["then"] = {"required": _REQUIRED_SOMEWHERE}
    for name, example in _EXAMPLES.items():
        schema["properties"][name]["examples"] = [example]
    return schema


def volume_schema() -> dict[str, Any]:
    """JSON Schema (draft 07) of the files in ``datasets/volumes/``."""
    schema = _draft_07(VolumeSpec)
    schema["title"] = "A volume that several datasets of cortexclient share"
    return schema


def schema_text(schema: dict[str, Any]) -> str:
    """Write a schema as the committed files hold it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _draft_07(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    for section in [schema, *definitions.values()]:
        if section.get("type") == "object":
            _open_for_editors(section)
        # what follows is for readers of the code
        section["description"] = str(section.get("description", "")).partition("\n\n")[0]
    schema["definitions"] = definitions
    rewritten = _rewritten(schema)
    return {"$schema": DRAFT, **rewritten}


def _open_for_editors(section: dict[str, Any]) -> None:
    """Allow private keys everywhere, and null wherever it clears an inherited value."""
    section["patternProperties"] = {"^x-": {}}
    required = section.get("required", [])
    for name, value in section.get("properties", {}).items():
        value.pop("title", None)
        if name in required or any(option.get("type") == "null" for option in value.get("anyOf", [])):
            continue
        kept = {key: value.pop(key) for key in ("description", "default", "examples") if key in value}
        options = value["anyOf"] if set(value) == {"anyOf"} else [dict(value)]
        value.clear()
        value.update(anyOf=[*options, {"type": "null"}], **kept)


def _rewritten(value: Any) -> Any:
    if isinstance(value, list):
        return [_rewritten(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {
        "items" if key == "prefixItems" else key: _rewritten(item)
        for key, item in value.items()
        if not (key == "default" and item is None)
    }
    if isinstance(result.get("$ref"), str):
        result["$ref"] = result["$ref"].replace("#/$defs/", "#/definitions/")
    if "patternProperties" in result and "properties" not in result:
        result["additionalProperties"] = False  # a map whose keys have a pattern takes no others
    return result
