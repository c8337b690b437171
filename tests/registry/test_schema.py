"""The JSON Schema that editors use says the same as the models."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ValidationError

import cortexclient.spec as spec_models
from cortexclient.registry.lookup import builtin_folder
from cortexclient.registry.validation import validate
from cortexclient.spec import DatasetSpec
from cortexclient.spec.problems import codes
from cortexclient.spec.schema import dataset_schema, schema_text

FOLDER = builtin_folder()
# what only a reader of the whole file, or of other files, can know
BEYOND_A_SCHEMA = {
    *("CX101", "CX102", "CX103", "CX104", "CX105", "CX106", "CX107", "CX108", "CX109", "CX110"),
    "CX205",  # to JSON, 8e17 is a whole number
    *(
        "CX204",
        "CX301",
        "CX302",
        "CX303",
        "CX304",
        "CX305",
        "CX306",
        "CX308",
        "CX309",
        "CX310",
        "CX312",  # a parent may have given the other value
        "CX311",
    ),
    *("CX401", "CX402", "CX403", "CX405", "CX406", "CX502", "CX503", "CX504", "CX505"),
}
MINIMAL = "name: my_brain\ntitle: My brain\nserver_address: https://cave.my.lab\ndatastack: my_brain_v1\n"


def _errors(text: str, schema: dict) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(text))]


def test_the_committed_schema_is_in_step() -> None:
    hint = "run: cortexclient schema -o datasets/dataset.schema.json"
    assert (FOLDER / "dataset.schema.json").read_text(encoding="utf-8") == schema_text(dataset_schema()), hint


@pytest.mark.parametrize("schema", [dataset_schema()], ids=["dataset"])
def test_schemas_are_draft_07_and_nothing_newer(schema: dict) -> None:
    jsonschema.Draft7Validator.check_schema(schema)
    text = json.dumps(schema)
    for newer in ('"$defs"', '"prefixItems"', '"unevaluatedProperties"', '"dependentRequired"', '"$anchor"'):
        assert newer not in text

    # a $ref hides what stands beside it in draft 07
    def walk(node: object) -> None:
        if isinstance(node, dict):
            assert set(node) == {"$ref"} or "$ref" not in node
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(schema)


@pytest.mark.parametrize("schema", [dataset_schema()], ids=["dataset"])
def test_every_key_has_a_hover_text_and_an_example_that_holds(schema: dict) -> None:
    for name, section in {"": schema, **schema["definitions"]}.items():
        for key, value in section["properties"].items():
            assert value.get("description"), (name, key)
            (example,) = value["examples"]
            rules = {**value, "definitions": schema["definitions"]}
            found = [error.message for error in jsonschema.Draft7Validator(rules).iter_errors(example)]
            assert found == [], (name, key)


def test_the_models_take_the_examples_of_the_schema() -> None:
    schema = dataset_schema()
    examples = {key: value["examples"][0] for key, value in schema["properties"].items()}
    assert DatasetSpec.model_validate({**examples, "capabilities": {}}).name == "minnie_public"
    # alone where a key can stand alone, and where it needs company, without a complaint about itself
    for name, section in schema["definitions"].items():
        for key, value in section["properties"].items():
            complaints = _complaints(getattr(spec_models, name), {key: value["examples"][0]})
            assert complaints <= {"missing", "CX304", "CX308"}, (name, key)


def _complaints(model: type[BaseModel], values: dict) -> set[str]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return {item["type"] for item in error.errors()}
    return set()


@pytest.mark.parametrize("code", sorted(set(codes()) - BEYOND_A_SCHEMA))
def test_the_schema_refuses_what_the_models_refuse(code: str) -> None:
    bad, good = codes()[code].bad, codes()[code].good
    assert _errors(MINIMAL + bad, dataset_schema())
    assert not _errors(MINIMAL + good, dataset_schema())


@pytest.mark.parametrize("code", sorted(codes()))
def test_the_schema_accepts_what_the_models_accept(code: str) -> None:
    good = codes()[code].good
    text = good if good.startswith("name:") else MINIMAL + good
    # days may stand unquoted: to editors, as in JSON, they are text
    values = json.loads(json.dumps(yaml.safe_load(text), default=str))
    found = [error.message for error in jsonschema.Draft7Validator(dataset_schema()).iter_errors(values)]
    assert found == []


def test_what_a_parent_supplies_is_not_required() -> None:
    assert not _errors("name: a\nextends: b\nsynapse_table: null\n", dataset_schema())
    assert _errors("name: a\n", dataset_schema())


def test_an_alias_of_two_datasets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(MINIMAL.replace("name: my_brain", "name: one") + "aliases: [brain]\n")
    (tmp_path / "two.yaml").write_text(
        MINIMAL.replace("name: my_brain", "name: two") + "aliases:\n  - one\n  - brain\n"
    )
    problems = [
        problem
        for result in validate([tmp_path])
        for problem in result.problems
        if problem.severity == "error"
    ]
    assert [(p.code, p.line, p.path) for p in problems] == [
        ("CX302", 6, "aliases[0]"),
        ("CX302", 7, "aliases[1]"),
    ]


def test_null_clears_an_inherited_entry_of_a_map() -> None:
    assert not _errors(
        "name: a\nextends: b\ntables: {edges: null}\nsources: {tables: null}\n", dataset_schema()
    )
    assert _errors("name: a\nextends: b\ntables: {Edges: null}\n", dataset_schema())
