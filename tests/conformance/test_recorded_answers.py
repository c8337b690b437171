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
from cortexclient.sandbox.stores.ids import IdLayout
from cortexclient.sandbox.viewer_state import example_roots
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
