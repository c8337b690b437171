"""`cortexclient check` compares what a spec declares about its tables with the live ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cortexclient.cli import main
from cortexclient.sandbox import Sandbox


@pytest.fixture
def points(
    tiny: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], dict[str, dict]]:
    """The points of a check of a spec with these lines, by name."""

    def check(lines: str) -> dict[str, dict]:
        path = tmp_path / "my_brain.yaml"
        head = f"name: my_brain\ntitle: a\nserver_address: {tiny.url}\ndatastack: {tiny.datastack}\n"
        path.write_text(
            f"{head}synapse_table: synapses_sandbox\ncell_ids: {{main_table: nucleus_detection}}\n{lines}"
        )
        main(["check", str(path), "--json", "--token", tiny.token])
        return {point["name"]: point for point in json.loads(capsys.readouterr().out)["points"]}

    return check


def test_true_declarations_pass(points: Callable[[str], dict[str, dict]]) -> None:
    found = points(
        "synapses: {schema: synapse, size_column: size, voxel_resolution: [4, 4, 40]}\n"
        "tables:\n"
        "  cell_types: {name: cell_types, schema: cell_type_reference, references: nucleus_detection}\n"
        "  targets: {name: synapse_targets, schema: reference_tag, references: synapses_sandbox}\n"
        "  edges: {name: connections_with_nuclei, kind: view, columns: {pre_pt_root_id: id, n_syn: int}}\n"
    )
    expected = {
        *(
            "synapses.schema",
            "synapses.voxel_resolution",
            "tables.cell_types.schema",
            "tables.targets.references",
        ),
        *("columns of cell_types", "columns of synapse_targets", "columns of connections_with_nuclei"),
    }
    assert {name for name in expected if found[name]["state"] == "pass"} == expected
    assert not [point for point in found.values() if point["state"] == "fail"]


def test_untrue_declarations_fail_and_say_what_to_write(points: Callable[[str], dict[str, dict]]) -> None:
    found = points(
        "synapses: {schema: fly_nt_synapse, units: nm, position_prefix: pre_pt}\n"
        "tables:\n"
        "  cell_types: {name: cell_types, schema: cell_type_local, references: synapses_sandbox}\n"
        "  edges: {name: connections_with_nuclei, kind: view, columns: {weight: float}}\n"
    )
    failed = {name: point["advice"] for name, point in found.items() if point["state"] == "fail"}
    assert failed["synapses.schema"] == "write synapses.schema: synapse"
    assert failed["synapses.units"].startswith("write synapses.units")
    assert failed["tables.cell_types.schema"] == "write tables.cell_types.schema: cell_type_reference"
    assert failed["tables.cell_types.references"] == "write tables.cell_types.references: nucleus_detection"
    assert "no cleft_score" not in found["columns of synapses_sandbox"]["advice"]
    assert found["columns of connections_with_nuclei"]["found"] == "no weight"
    assert "n_syn" in failed["columns of connections_with_nuclei"]
