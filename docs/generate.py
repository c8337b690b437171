"""Write what follows from the code: codes of problems, fields of specs, options of commands, a page per dataset.

Run it after changing a model, a code or a dataset (`python docs/generate.py`); the tests compare what is committed with
what it writes. The site is built with it (docs/conf.py), which is also when the pages of the datasets are made: adding
a dataset touches its YAML file and nothing else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.cli.specs import dataset_page
from cortexclient.registry import get_spec, list_datasets
from cortexclient.spec.problems import codes, explain
from cortexclient.spec.schema import dataset_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortexclient.spec import DatasetSpec

DOCS = Path(__file__).resolve().parent
TOC = "\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


# --------------------------------------------------------------------------------------------------------------- codes
def codes_page() -> str:
    """Write the page of all codes."""
    head = (
        "# Codes of problems in specs\n\nEach problem that `cortexclient validate` reports has a code; "
        "`cortexclient validate --explain CODE` shows the same text.\n\n"
    )
    return head + "\n".join(explain(code).replace("# ", "## ", 1) for code in codes())


# -------------------------------------------------------------------------------------------------------------- fields
def fields_page() -> str:
    """Write the table of all fields of a spec."""
    schema = dataset_schema()
    lines = ["## A dataset", "", *_table(schema, required=["name", *schema["then"]["required"]])]
    for name in _sections(schema, schema):
        section = schema["definitions"][name]
        used = ", ".join(f"`{key}`" for key in _users(schema, name))
        lines += ["", f"## {used}", "", str(section["description"]).split("\n")[0], ""]
        lines += _table(section, required=section.get("required", []))
    return "\n".join(lines) + "\n"


def _sections(schema: dict[str, Any], section: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the sections below one, in the order of its fields."""
    for name in dict.fromkeys(re.findall(r"#/definitions/(\w+)", json.dumps(section["properties"]))):
        below = schema["definitions"][name]
        if below is not section:  # earlier tables of a table
            yield name
            yield from _sections(schema, below)


def _users(schema: dict[str, Any], name: str) -> Iterator[str]:
    """Yield the dotted keys under which a section is used."""
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


# ------------------------------------------------------------------------------------------------------- command line
def options_page() -> str:
    """Write every command with its arguments and options."""
    import typer.main

    from cortexclient.cli import build_app

    lines = []
    for name, command in _commands(typer.main.get_command(build_app()), "cortexclient"):
        arguments = "".join(f" {item.name.upper()}" for item in command.params if _is_argument(item))
        lines += [f"**`{name}{arguments}`** {_one_line(command.help)}", ""]
        options = [item for item in command.params if not _is_argument(item) and not item.hidden]
        lines += [f"- {_names(item)}: {_one_line(item.help)}" for item in options]
        lines += [""] if options else []
    return "\n".join(lines)


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the commands below a group, in the order of its help."""
    for key, below in getattr(command, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from _commands(below, f"{name} {key}")
        else:
            yield f"{name} {key}", below


def _is_argument(item: Any) -> bool:
    return item.param_type_name == "argument"


def _names(item: Any) -> str:
    return ", ".join(f"`{name}`" for name in (*item.opts, *item.secondary_opts))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())


# ------------------------------------------------------------------------------------------------------------ datasets
def datasets_table() -> str:
    """Write the table of built-in datasets, as the README shows it."""
    rows = [datasets_row(get_spec(name)) for name in list_datasets()]
    return "\n".join(["| name | what | server | access |", "|---|---|---|---|", *rows]) + "\n"


def datasets_row(spec: DatasetSpec) -> str:
    """Write the row of one dataset; an address that nobody verified says so."""
    server = spec.host or "this machine"
    unsure = "" if spec.is_verified("server_address") else " (not verified)"
    return f"| `{spec.name}` | {spec.title} | {server}{unsure} | {spec.access.level if spec.access else 'unknown'} |"


def write_between(path: Path, name: str, text: str) -> None:
    """Replace the text between the two marks of a name in a page."""
    begin, end = f"<!-- {name}: written by docs/generate.py -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


def write_all() -> None:
    """Write every page, table and schema that follows from the code."""
    (DOCS / "codes.md").write_text(codes_page(), encoding="utf-8")
    write_between(DOCS / "spec-reference.md", "fields", fields_page())
    write_between(DOCS / "command-line.md", "options", options_page())
    write_between(DOCS.parent / "README.md", "datasets", datasets_table())
    folder = DOCS / "datasets"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    specs = [get_spec(name) for name in list_datasets()]
    for spec in specs:
        (folder / f"{spec.name}.md").write_text(dataset_page(spec), encoding="utf-8")
    lines = "".join(f"- [{spec.name}]({spec.name}.md): {spec.title}\n" for spec in specs)
    (folder / "index.md").write_text(f"# Datasets\n\n{lines}{TOC}", encoding="utf-8")


if __name__ == "__main__":
    write_all()
