"""Answers of the real minnie65 services, kept in the tests of others: ids decode alike, answers have the same parts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.routes.viewer import example_roots
from cortexclient.sandbox.stores.graph.state import IdLayout
from cortexclient.testing import clear_client_caches

INITIAL = re.compile(r"^~(\d+)/(\d+)-(\d+)\.shard:(\d+):(\d+)$")
SPECULATIVE = re.compile(r"^~(\d+):(\d+):(\d+):(\d+)-(\d+)\.shard:(\d+)$")
DYNAMIC = re.compile(r"^(\d+):(\d+):(\d+)-(\d+)_(\d+)-(\d+)_(\d+)-(\d+)$")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    clear_client_caches()
    with Sandbox(size="tiny") as running:
        yield running
    clear_client_caches()


@pytest.fixture(scope="module")
def cave(sandbox: Sandbox) -> Any:
    from caveclient import CAVEclient

    return CAVEclient(
        sandbox.datastack, server_address=sandbox.url, auth_token=sandbox.token, write_server_cache=False
    )


@pytest.fixture(scope="module")
def minnie(shared_data: Path) -> tuple[IdLayout, dict[str, Any]]:
    folder = shared_data / "minnie65_pcg"
    manifests = json.loads((folder / "mesh_manifests_864691135213153080.json").read_text())
    return IdLayout.from_info(json.loads((folder / "info.json").read_text())), manifests


def recorded(shared_data: Path, name: str) -> dict[str, Any]:
    return json.loads((shared_data / "cave_records" / f"{name}.json").read_text())


def check_manifest(layout: IdLayout, manifest: dict[str, Any]) -> list[str]:
    """Check each fragment's name against its id; returns the kinds of the names."""
    kinds = []
    for name, node in zip(manifest["fragments"], manifest["seg_ids"], strict=True):
        layer = int(layout.layers([node])[0])
        if match := INITIAL.match(name):
            assert int(match[1]) == layer
        elif match := SPECULATIVE.match(name):
            owner, told, chunk = (int(match[number]) for number in (1, 2, 3))
            assert owner == node
            assert told == layer
            assert chunk == int(layout.chunk_ids(np.array([node]))[0])
        else:
            match = DYNAMIC.match(name)
            assert match is not None, name
            assert int(match[1]) == node
        kinds.append("~" if name.startswith("~") else "")
    return kinds


@pytest.mark.parametrize("which", ["valid_manifest", "speculative_manifest"])
def test_real_manifests_decode(minnie: tuple[IdLayout, dict[str, Any]], which: str) -> None:
    layout, manifests = minnie
    assert set(check_manifest(layout, manifests[which])) == {"~", ""}


@pytest.mark.parametrize("verify", [True, False])
def test_manifests_of_the_sandbox_parse_the_same(sandbox: Sandbox, verify: bool) -> None:
    layout = sandbox.world.graph.layout
    for root in example_roots(sandbox.world, 3):
        answer = requests.get(
            f"{sandbox.url}/meshing/api/v1/table/{sandbox.world.names.pcg_table}/manifest/{root}:0",
            params={"verify": verify, "return_seg_ids": 1},
        ).json()
        assert set(answer) == {"fragments", "seg_ids"}
        assert check_manifest(layout, answer)


def test_real_ids_decode(minnie: tuple[IdLayout, dict[str, Any]], shared_data: Path) -> None:
    layout, _ = minnie
    literals = recorded(shared_data, "test_chunkedgraph.literals")
    l2_ids = np.array(literals["TestChunkedgraph.test_minimal_covering_nodes.l2ids"])
    nodes = np.array(literals["TestChunkedgraph.test_minimal_covering_nodes.covering_nodes"])
    assert set(layout.layers(l2_ids)) == {2}
    # each level-2 chunk lies below one of the covering nodes
    covered = np.zeros(len(l2_ids), dtype=bool)
    for node in nodes.tolist():
        layer = int(layout.layers([node])[0])
        above = layout.at_layer(layout.chunks(l2_ids), 2, layer)
        covered |= (above == layout.chunks(np.array([node]))[0]).all(axis=1)
    assert covered.all()


def test_the_datastack_has_the_same_parts(shared_data: Path, cave: Any) -> None:
    real = recorded(shared_data, "datastack_info_minnie65_public")
    ours = cave.info.get_datastack_info()
    assert set(real) <= set(ours)
    assert set(real["aligned_volume"]) <= set(ours["aligned_volume"])


def test_history_has_the_same_parts(shared_data: Path, cave: Any, sandbox: Sandbox) -> None:
    literals = recorded(shared_data, "test_chunkedgraph.literals")
    graph = sandbox.world.graph
    edited = next(
        int(root)
        for entry in reversed(graph.operations)
        for root in entry["new_roots"]
        if graph.is_latest(np.array([root]))[0]
    )
    log = cave.chunkedgraph.get_change_log(edited, filtered=False)
    assert set(log) == set(literals["TestChunkedgraph.test_change_log.change_log"])
    real = literals["TestChunkedgraph.test_lineage_graph.lineage_graph"]
    lineage = cave.chunkedgraph.get_lineage_graph(edited)
    assert set(lineage) == set(real)
    assert {key for link in lineage["links"] for key in link} == {
        key for link in real["links"] for key in link
    }
    assert {key for node in lineage["nodes"] for key in node} == {
        key for node in real["nodes"] for key in node
    }
    assert set(
        cave.chunkedgraph.get_past_ids([edited], timestamp_past=cave.materialize.get_timestamp())
    ) == set(literals["TestChunkedgraph.test_past_ids.id_map"])


def shape(value: Any) -> Any:
    """What a JSON value is made of: kinds of its parts, not the parts; numbers as keys are all the same."""
    if isinstance(value, dict) and all(key.isdigit() for key in value):
        return ["number", *shape(list(value.values()))]
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        kinds = {json.dumps(shape(part), sort_keys=True) for part in value}
        return sorted(kinds)
    return type(value).__name__


@pytest.fixture(scope="module")
def graph_answers(sandbox: Sandbox, cave: Any) -> dict[str, Any]:
    """Answers of the sandbox to what was asked of minnie65, by the name of the record."""
    graph, names = sandbox.world.graph, sandbox.world.names
    merge = next(entry for entry in reversed(graph.operations) if entry["kind"] == "merge")
    split = next(
        entry for entry in graph.operations if entry["kind"] == "split" and len(entry["new_roots"]) > 1
    )
    root = int(merge["new_roots"][0])
    whole = max(example_roots(sandbox.world, 5), key=lambda one: len(graph.l2_ids(one)))
    table = f"{sandbox.url}/segmentation/api/v1/table/{names.pcg_table}"

    def get(path: str, **params: Any) -> Any:
        answer = requests.get(f"{table}/{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    chunk = graph.layout.chunks(graph.l2_ids(whole))[0] * np.array(graph.info["graph"]["chunk_size"])
    low = chunk + np.array(graph.info["scales"][0]["voxel_offset"])
    size = np.array(graph.info["graph"]["chunk_size"])
    bounds = "_".join(f"{a}-{b}" for a, b in zip(low, low + 2 * size, strict=True))
    delta = get("delta_roots", timestamp_past=0)
    # the two supervoxels that a merge joined, which are still joined
    joined = next(
        entry
        for entry in graph.operations
        if entry["kind"] == "merge" and len(set(graph.roots(entry["added_edges"][0]).tolist())) == 1
    )
    resolution = np.array(graph.info["scales"][0]["resolution"])
    places = [np.array(joined[f"{side}_coords_voxel"][0]) * resolution for side in ("source", "sink")]
    marks = [[[node, *place.tolist()]] for node, place in zip(joined["added_edges"][0], places, strict=True)]
    sides = {"sources": marks[0], "sinks": marks[1]}
    return {
        "test_merge_log.merge_log": get(f"root/{root}/merge_log"),
        "test_delta_roots.old_ids": delta["old_roots"],
        "test_delta_roots.new_ids": delta["new_roots"],
        "test_get_subgraph.nodes_list": get(f"node/{whole}/subgraph", bounds=bounds)["nodes"],
        "test_get_lvl2subgraph.lvl2_graph_list": get(f"node/{whole}/lvl2_graph")["edge_graph"],
        "test_get_lvl2subgraph_bounds.lvl2_graph_list": get(f"node/{whole}/lvl2_graph", bounds=bounds)[
            "edge_graph"
        ],
        "test_operatin_details.operation_details": get(
            "operation_details", operation_ids=f"[{merge['operation_id']}, {split['operation_id']}]"
        ),
        "test_preview_split.response_data": requests.post(f"{table}/graph/split_preview", json=sides).json(),
        "test_minimal_covering_nodes.covering_nodes": cave.chunkedgraph.get_minimal_covering_nodes(
            graph.l2_ids(whole)[: len(graph.l2_ids(whole)) // 2]
        ).tolist(),
    }


@pytest.mark.parametrize(
    "name",
    [
        "test_merge_log.merge_log",
        "test_delta_roots.old_ids",
        "test_delta_roots.new_ids",
        "test_get_subgraph.nodes_list",
        "test_get_lvl2subgraph.lvl2_graph_list",
        "test_get_lvl2subgraph_bounds.lvl2_graph_list",
        "test_operatin_details.operation_details",
        "test_preview_split.response_data",
        "test_minimal_covering_nodes.covering_nodes",
    ],
)
def test_graph_answers_have_the_same_shape(
    shared_data: Path, graph_answers: dict[str, Any], name: str
) -> None:
    real = recorded(shared_data, "test_chunkedgraph.literals")[f"TestChunkedgraph.{name}"]
    ours = graph_answers[name]
    assert ours
    assert shape(ours) == shape(real)


def test_schemas_are_those_of_the_real_service(shared_data: Path, sandbox: Sandbox) -> None:
    real = recorded(shared_data, "test_materialization.literals")["TestMatclient.multischema_meta"]
    assert set(real) == {"cell_type_reference", "nucleus_detection"}
    for name, schema in real.items():
        ours = requests.get(f"{sandbox.url}/schema/api/v2/type/{name}").json()
        own, theirs = (one["definitions"][one["$ref"].rsplit("/", 1)[-1]] for one in (ours, schema))
        assert set(own["properties"]) == set(theirs["properties"]), name
        assert set(own["required"]) == set(theirs["required"]), name
        for field, kind in theirs["properties"].items():
            assert own["properties"][field].get("$ref") == kind.get("$ref"), (name, field)
            # the record is older: what may be missing may by now be null, too
            kinds = [set(np.atleast_1d(one.get("type"))) for one in (own["properties"][field], kind)]
            assert kinds[1] <= kinds[0] <= kinds[1] | {"null"}, (name, field)


def test_tables_and_skeletons_have_the_same_parts(shared_data: Path, cave: Any, sandbox: Sandbox) -> None:
    literals = recorded(shared_data, "test_materialization.literals")
    real = literals["TestMatclient.table_metadata"]
    table = f"{sandbox.datastack}/version/{cave.materialize.version}/table/cell_types"
    ours = requests.get(f"{sandbox.url}/materialize/api/v3/datastack/{table}/metadata").json()
    # the record is older: permissions and notices came later
    assert set(ours) - set(real) == {"read_permission", "write_permission", "last_modified", "notice_text"}
    assert set(real) <= set(ours)
    versions = cave.materialize.get_versions_metadata()
    assert set(literals["TestMatclient.test_matclient.correct_metadata"][0]) <= set(versions[0])
    views = cave.materialize.get_views()
    for view in views.values():
        assert set(view) == set(next(iter(literals["TestMatclient.views_list"].values())))
    skeletons = recorded(shared_data, "test_skeletons.literals")
    info = cave.skeleton.get_precomputed_skeleton_info(4)
    assert set(skeletons["TestSkeletonsClient.test_get_precomputed_skeleton_info.info"]) <= set(info)


def test_what_is_not_served_is_said_once(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cortexclient.sandbox"):
        for _ in range(3):
            answer = requests.get(f"{sandbox.url}/no_such_service/api/v1/thing")
            assert answer.status_code == 404
            assert "does not serve" in answer.json()["message"]
    assert [record for record in caplog.messages if "/no_such_service/" in record] == [
        "the sandbox does not serve GET /no_such_service/api/v1/thing"
    ]
