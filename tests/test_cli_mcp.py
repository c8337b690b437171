"""The tools for assistants, asked by the SDK's own client over stdio, against the tiny cortex."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

pytest.importorskip("mcp")

SPEC = """
name: tiny_lab
title: A tiny cortex
server_address: {url}
datastack: sandbox
synapse_table: synapses_sandbox
cell_ids: {{lookup_view: nucleus_lookup, main_table: nucleus_detection}}
tables:
  cell_types: {{name: cell_types, kind: table}}
"""


async def _ask(file: str, calls: list[tuple[str, dict[str, Any]]]) -> tuple[list[Any], list[dict[str, Any]]]:
    from mcp import Client, StdioServerParameters

    server = StdioServerParameters(
        command=sys.executable, args=["-m", "cortexclient", "mcp", "--dataset", file]
    )
    answers = []
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        for name, arguments in calls:
            result = await client.call_tool(name, arguments)
            answers.append(json.loads(result.content[0].text))
    return tools, answers


@pytest.mark.slow
def test_an_assistant_reads_and_never_writes(tiny, tmp_path):
    import anyio

    file = tmp_path / "tiny_lab.yaml"
    file.write_text(SPEC.format(url=tiny.url))
    client = tiny.load(version=3)
    cells = client.tables.nucleus_detection().query()
    cell = int(cells["id"].iloc[0])
    root = int(cells["pt_root_id"].iloc[0])
    name = str(file)
    synapses = client.query_synapses(root, pre=True, post=True)
    calls = [
        ("list_datasets", {}),
        ("describe_dataset", {"dataset": name}),
        ("describe_table", {"dataset": name, "table": "nucleus_detection"}),
        ("query_table", {"dataset": name, "table": "nucleus_detection", "filters": {"id": [cell]}}),
        ("query_table", {"dataset": name, "table": "nucleus_detection", "limit": 2, "version": 3}),
        (
            "query_table",
            {
                "dataset": name,
                "table": "nucleus_detection",
                "filters": {"pt_root_id": str(root)},
                "version": 3,
            },
        ),
        ("cells_to_roots", {"dataset": name, "cell_ids": [str(cell)], "version": 3}),
        ("roots_to_cells", {"dataset": name, "root_ids": [str(root)]}),
        ("synapses", {"dataset": name, "root_id": str(root), "limit": 3, "version": 3}),
        ("skeleton_summary", {"dataset": name, "root_id": str(root), "version": 3}),
        ("neuroglancer_link", {"dataset": name, "root_ids": [str(root)], "version": 3}),
        ("query_table", {"dataset": name, "table": "nucleus_detektion"}),
        ("partners", {"dataset": name, "root_id": str(root), "version": 3, "limit": 2}),
        ("describe_dataset", {"dataset": "/etc/passwd"}),
        ("synapses", {"dataset": name, "root_id": str(root), "side": "output"}),
        ("query_table", {"dataset": name, "table": "nucleus_detection", "filters": {"pt_root_id": None}}),
    ]
    tools, answers = anyio.run(_ask, name, calls)
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)
    assert [entry["name"] for entry in answers[0]["datasets"]] == [name]
    assert "nucleus_detection" in answers[1]["tables"]
    assert answers[2]["rows"] == len(cells)
    assert answers[2]["columns"]["pt_root_id"] == "int64"
    assert answers[3]["rows"][0]["id"] == cell
    assert answers[3]["rows_left_out"] == 0
    assert len(answers[4]["rows"]) == 2
    assert answers[4]["rows_left_out"] == len(cells) - 2
    assert answers[4]["provenance"]["materialization_version"] == 3
    assert {row["pt_root_id"] for row in answers[5]["rows"]} == {str(root)}
    assert answers[6]["rows"] == [{"cell_id": cell, "root_id": str(root)}]
    assert answers[7]["rows"] == [{"root_id": str(root), "cell_id": cell}]
    assert answers[8]["counts"]["outputs"] == (synapses["pre_pt_root_id"] == root).sum()
    assert answers[8]["rows_left_out"] == len(synapses) - 3
    assert answers[9]["path_length_um"] > 0
    assert str(root) in answers[10]["url"]
    assert "nucleus_detection" in answers[11]["error"]
    strongest = client.partners(root)
    assert [row["partner_root_id"] for row in answers[12]["rows"]] == [
        str(one) for one in strongest["partner_root_id"][:2]
    ]
    assert answers[12]["rows_left_out"] == len(strongest) - 2
    assert "not offered" in answers[13]["error"]
    assert "side must be" in answers[14]["error"]
    assert "pt_root_id is null" in answers[15]["error"]
    assert tiny.token not in json.dumps(answers)
    # where it is from stands in every answer
    for answer in answers[1:]:
        if "error" not in answer:
            assert answer["provenance"]["datastack_name"] == tiny.datastack
            # roots of any age have no version in common
            version = None if answer is answers[7] else 3
            assert answer["provenance"]["materialization_version"] == version
            assert answer["provenance"].get("complete", True) == (not answer.get("rows_left_out"))
    assert answers[0]["datasets"][0]["datastack_name"] == tiny.datastack


def test_a_broken_dataset_hides_no_other(tmp_path):
    import anyio

    from cortexclient.cli.mcp import build_server

    broken = tmp_path / "broken.yaml"
    broken.write_text("name: broken\n")
    server = build_server(["sandbox", str(broken)])
    result = anyio.run(server.call_tool, "list_datasets", {})
    good, bad = json.loads(result.content[0].text)["datasets"]
    assert good["title"] == "A synthetic cortex on this machine"
    assert "CX202" in bad["error"]
