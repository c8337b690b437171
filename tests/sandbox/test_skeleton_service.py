"""The skeleton service, asked by the unmodified caveclient: making, waiting, refusing, caps and formats."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.routes.viewer import example_roots
from tests.sandbox.toy import client_of


@pytest.fixture
def cold(sandbox_factory: Callable[..., Sandbox]) -> Sandbox:
    """No skeleton is made before it is asked for, and making one takes a moment."""
    return sandbox_factory(cold_skeletons=True, skeleton_delay=0.3)


@pytest.fixture
def roots(cold: Sandbox) -> list[int]:
    return example_roots(cold.world, 3)


@pytest.fixture
def skeletons(cold: Sandbox) -> Any:
    return client_of(cold).skeleton


def wait_for(skeletons: Any, roots: list[int]) -> None:
    deadline = time.monotonic() + 30
    while not all(skeletons.skeletons_exist(root_ids=roots).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_made_when_asked_for(cold: Sandbox, skeletons: Any, roots: list[int]) -> None:
    root = roots[0]
    assert skeletons.skeletons_exist(root_ids=root) is False
    started = time.monotonic()
    first = skeletons.get_skeleton(root, output_format="dict")
    assert time.monotonic() - started >= 0.3
    assert skeletons.skeletons_exist(root_ids=root) is True
    again = skeletons.get_skeleton(root, output_format="dict")
    assert np.array_equal(first["vertices"], again["vertices"])
    assert cold.requests.count("/skeletoncache/api/v1/{datastack}/async") == 2


def test_made_in_the_background(skeletons: Any, roots: list[int]) -> None:
    assert skeletons.fetch_skeletons(roots, output_format="dict") == {}
    assert float(skeletons.generate_bulk_skeletons_async(roots)) > 0
    wait_for(skeletons, roots)
    found = skeletons.fetch_skeletons(roots, output_format="dict")
    assert sorted(int(root) for root in found) == sorted(roots)


def test_missing_ones_are_queued_by_a_fetch(skeletons: Any, roots: list[int]) -> None:
    assert skeletons.fetch_skeletons(roots, output_format="dict", generate_missing_skeletons=True) == {}
    wait_for(skeletons, roots)


def test_bulk(skeletons: Any, roots: list[int]) -> None:
    skeletons.get_skeleton(roots[0])
    found = skeletons.get_bulk_skeletons(roots, output_format="dict", generate_missing_skeletons=True)
    assert [int(root) for root in found] == roots[:1]
    wait_for(skeletons, roots)


def test_the_formats_agree(skeletons: Any, roots: list[int]) -> None:
    flat = skeletons.get_skeleton(roots[0], output_format="dict")
    swc = skeletons.get_skeleton(roots[0], output_format="swc")
    assert len(swc) == len(flat["vertices"])
    assert (swc["parent"] == -1).sum() == 1
    assert (swc["parent"].to_numpy()[1:] < swc["id"].to_numpy()[1:]).all()
    ours, theirs = (
        np.sort(part.round(3), axis=0) for part in (swc[["x", "y", "z"]].to_numpy(), flat["vertices"] / 1000)
    )
    assert np.allclose(ours, theirs, atol=0.002)


def test_the_precomputed_format(cold: Sandbox, skeletons: Any, roots: list[int]) -> None:
    from cloudvolume import Skeleton

    flat = skeletons.get_skeleton(roots[0], output_format="dict")
    base = f"{cold.url}/skeletoncache/api/v1/{cold.datastack}/precomputed/skeleton"
    info = requests.get(f"{base}/4/info").json()
    body = requests.get(f"{base}/4/{roots[0]}/precomputed").content
    found = Skeleton.from_precomputed(body, vertex_attributes=info["vertex_attributes"])
    assert np.allclose(found.vertices, flat["vertices"])
    assert np.array_equal(found.edges, flat["edges"])
    assert np.allclose(found.radius, flat["radius"])


def test_the_refusal_list(cold: Sandbox, skeletons: Any, roots: list[int]) -> None:
    # caveclient 8.2.1 takes the heads of the columns, which the service sends, for a row
    assert skeletons.get_refusal_list()["ROOT_ID"].tolist() == ["ROOT_ID"]
    cold.world.skeletons.refused[roots[0]] = None
    refused = skeletons.get_refusal_list()
    assert refused["ROOT_ID"].tolist() == ["ROOT_ID", str(roots[0])]
    assert refused["DATASTACK_NAME"].tolist() == ["DATASTACK_NAME", cold.datastack]
    with pytest.raises(requests.HTTPError, match="refusal list") as caught:
        skeletons.get_skeleton(roots[0])
    assert caught.value.response.status_code == 400


def test_more_than_is_allowed_at_once(cold: Sandbox) -> None:
    url = f"{cold.url}/skeletoncache/api/v1/{cold.datastack}/bulk/get_cached_skeletons/4/flatdict"
    answer = requests.post(url, json={"root_ids": list(range(501))})
    assert (answer.status_code, answer.json()["Error"][:8]) == (400, "Too many")


def test_stored_skeletons_are_there_from_the_start(sandbox: Sandbox) -> None:
    root = example_roots(sandbox.world, 1)[0]
    assert sandbox.world.skeletons.exists(root)


def test_a_queue_never_answers_what_it_cannot_make(recordings: Path) -> None:
    # the level-2 ids of this root have no attributes, as recorded
    hopeless, fine = 360287970189639687, 360287970189639948
    base = "/skeletoncache/api/v1/toy"
    for options, status in (({}, 500), ({"skeleton_queue": True, "skeleton_gateway": 0.5}, 504)):
        with Sandbox(data=recordings / "real_toy_datastack", **options) as sandbox:
            one = f"{sandbox.url}{base}/async/get_skeleton/4"
            started = time.monotonic()
            answer = requests.get(f"{one}/{hopeless}/flatdict", timeout=30)
            assert answer.status_code == status
            assert status == 500 or time.monotonic() - started >= 0.5
            # what can be made is, and what is no root is refused before it gets into the queue
            assert requests.get(f"{one}/{fine}/flatdict", timeout=30).status_code == 200
            refused = requests.get(f"{one}/5/flatdict", timeout=30)
            assert (refused.status_code, refused.json()["Error"][:18]) == (400, "Invalid root id: 5")
            # in bulk, the failure is as silent, but nobody waits for it
            bulk = f"{sandbox.url}{base}/bulk"
            asked = {"root_ids": [hopeless, fine], "skeleton_version": 4}
            assert requests.post(f"{bulk}/gen_skeletons", json=asked, timeout=30).json() > 0
            found = requests.post(f"{bulk}/get_cached_skeletons/4/flatdict", json=asked, timeout=30)
            assert list(found.json()) == [str(fine)]
