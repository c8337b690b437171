"""JSON Schema of spec files, generated from the models, in the dialect that editors read.

Pydantic writes draft 2020-12; the YAML language server reads draft 07. The two differ in a few words, which are
rewritten here. `tests/registry/test_schema.py` keeps the committed files in step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cortexclient.spec.dataset import DatasetSpec

__all__ = ["dataset_schema", "schema_text"]

DRAFT = "http://json-schema.org/draft-07/schema#"


def dataset_schema() -> dict[str, Any]:
    """JSON Schema (draft 07) of the files in ``datasets/``."""
    import yaml

    schema = DatasetSpec.model_json_schema()
    definitions = schema.pop("$defs")
    examples = yaml.safe_load(Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8"))
    for name, section in {"DatasetSpec": schema, **definitions}.items():
        _open_for_editors(section)
        # what follows is for readers of the code
        section["description"] = str(section.get("description", "")).partition("\n\n")[0]
        for key, value in section["properties"].items():
            value["examples"] = [{**examples["TableFacts"], **examples[name]}[key]]
    schema["definitions"] = definitions
    schema = {"$schema": DRAFT, **_rewritten(schema)}
    schema["title"] = "A dataset of cortexclient"
    schema["required"] = ["name"]
    # what a parent may supply is required only of files without one
    schema["if"] = {"not": {"required": ["extends"]}}
    schema["then"] = {"required": ["title", "server_address", "datastack"]}
    return schema


def schema_text(schema: dict[str, Any]) -> str:
    """Format a schema like the committed file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


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
        # the tuples of a spec hold values of one kind
        "items" if key == "prefixItems" else key: _rewritten(item[0] if key == "prefixItems" else item)
        for key, item in value.items()
        if not (key == "default" and item is None)
    }
    if isinstance(result.get("$ref"), str):
        result["$ref"] = result["$ref"].replace("#/$defs/", "#/definitions/")
    if "properties" not in result:  # a map whose keys are not fixed
        if isinstance(result.get("additionalProperties"), dict):
            result["additionalProperties"] = _or_null(result["additionalProperties"])
        if "patternProperties" in result:
            allowed = {pattern: _or_null(item) for pattern, item in result["patternProperties"].items()}
            result |= {"patternProperties": allowed, "additionalProperties": False}
    return result


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow null, which clears what was inherited under a key."""
    return {"anyOf": [schema, {"type": "null"}]}
