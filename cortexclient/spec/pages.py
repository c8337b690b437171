"""Pages of documentation that are written from the specs and their models, so that they cannot be out of date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.spec.schema import dataset_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortexclient.spec.dataset import DatasetSpec

__all__ = ["dataset_page", "fields_page"]

_SECTIONS = (
    *(
        "CellIdsSpec",
        "SynapsesSpec",
        "TransformSpec",
        "TransformStep",
        "RotationSpec",
        "TableSpec",
        "VersionSpec",
    ),
    *(
        "ExportsSpec",
        "CapabilitiesSpec",
        "AccessSpec",
        "CitationSpec",
        "LicenseSpec",
        "ExampleIdsSpec",
        "LayerSpec",
    ),
    *("DeprecationSpec", "SourceSpec"),
)


_SERVICES = ("live", "versions", "l2cache", "skeletons", "exports")


def fields_page() -> str:
    """Write the table of all fields of a spec, as Markdown."""
    schema = dataset_schema()
    lines = ["## A dataset", "", *_table(schema, required=["name", *schema["then"]["required"]])]
    for name in _SECTIONS:
        section = schema["definitions"][name]
        used = ", ".join(f"`{key}`" for key in _users(schema, name))
        lines += ["", f"## {used}", "", str(section["description"]).split("\n")[0], ""]
        lines += _table(section, required=section.get("required", []))
    return "\n".join(lines) + "\n"


def _users(schema: dict[str, Any], name: str) -> Iterator[str]:
    """Dotted keys under which a section stands."""
    target = {"$ref": f"#/definitions/{name}"}
    owners = {"": schema, "transform.": schema["definitions"]["TransformSpec"]}
    owners["transform.steps."] = schema["definitions"]["TransformStep"]
    for prefix, owner in owners.items():
        for key, value in owner["properties"].items():
            if str(target) in str(value):
                yield prefix + key + (".<role>" if key == "tables" else ".<path>" if key == "sources" else "")


def _table(section: dict[str, Any], *, required: list[str]) -> list[str]:
    rows = ["| key | value | meaning |", "|---|---|---|"]
    for key, value in section["properties"].items():
        kind = _kind(value) + (", **required**" if key in required else "")
        meaning = str(value.get("description", "")).replace("\n", " ").replace("|", "\\|").replace("``", "`")
        rows.append(f"| `{key}` | {kind} | {meaning} |")
    return rows


def _kind(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        kinds = [_kind(option) for option in value["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in value or value.get("type") == "object":
        return "map"
    if "enum" in value:
        return ", ".join(f"`{item}`" for item in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        return f"list of {_kind(value.get('items', {}))}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return names.get(str(value.get("type")), "anything")


def dataset_page(spec: DatasetSpec) -> str:
    """Write the page of a dataset, as Markdown."""
    lines = [f"# {spec.title}", ""]
    if spec.description:
        lines += [spec.description.strip(), ""]
    lines += [
        "```python",
        f"from cortexclient.datasets.{spec.name} import client",
        "```",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in _facts(spec) if value]
    if spec.tables:
        lines += ["", "## Tables by role", "", "| role | name | kind | versions |", "|---|---|---|---|"]
        for role, table in spec.tables.items():
            lines.append(f"| {role} | `{table.name}` | {table.kind} | {table.lifetime} |")
            lines += [f"| | `{old.name}` | {old.kind} | {old.lifetime} |" for old in table.earlier]
    if spec.versions:
        lines += ["", "## Versions", "", "| version | timestamp (UTC) | status | |", "|---|---|---|---|"]
        for item in spec.versions:
            stamp = item.timestamp.isoformat().replace("+00:00", "") if item.timestamp else "not known"
            lines.append(f"| {item.version} | {stamp} | {item.status} | {item.note or ''} |")
    unverified = [(path, fact) for path, fact in spec.sources.items() if not fact.verified]
    if unverified:
        lines += ["", "## Not verified", ""]
        lines += [f"- `{path}`: {fact.note or fact.source or 'no source'}" for path, fact in unverified]
    lines += ["", "## How to cite", "", "```text", spec.cite(), "```"]
    return "\n".join(lines) + "\n"


def _facts(spec: DatasetSpec) -> Iterator[tuple[str, str]]:
    yield "name", f"`{spec.name}`"
    yield "other names", ", ".join(f"`{alias}`" for alias in spec.aliases)
    yield "species, region", ", ".join(part for part in (spec.species, spec.region) if part)
    yield "server", spec.server_address
    yield "datastack", f"`{spec.datastack}`"
    if spec.voxel_resolution:
        yield "voxel size", " x ".join(f"{size:g}" for size in spec.voxel_resolution) + " nm"
    yield "synapse table", f"`{spec.synapse_table}`" if spec.synapse_table else "what the server says"
    if spec.transform:
        yield "depth", spec.transform.dataset or f"{len(spec.transform.steps)} declared steps"
    yield "exports", f"`{spec.exports.path}`" if spec.exports else ""
    if spec.capabilities:
        yield "not offered", ", ".join(name for name in _SERVICES if spec.denies(name))
    if spec.access:
        yield "access", f"{spec.access.level}. {spec.access.note or ''}"
    yield "documentation", spec.documentation or ""
