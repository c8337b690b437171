"""Arguments as caveclient and cortical-tools name and order them: taken where they can only mean one thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import cortexclient

if TYPE_CHECKING:
    from collections.abc import Callable

    from cortexclient.client import DatasetClient
    from cortexclient.sandbox import Sandbox

CALLS: dict[str, Callable[..., Any]] = {
    "get_datastack_info": lambda client, *args, **kwargs: client.get_datastack_info(*args, **kwargs),
    "image_source": lambda client, *args, **kwargs: client.image_source(*args, **kwargs),
    "segmentation_source": lambda client, *args, **kwargs: client.segmentation_source(*args, **kwargs),
    "viewer_resolution": lambda client, *args, **kwargs: client.viewer_resolution(*args, **kwargs).tolist(),
    "most_recent_materialization_version": lambda client, *args, **kwargs: (
        client.most_recent_materialization_version(*args, **kwargs)
    ),
}


@pytest.fixture
def root(sandbox: Sandbox) -> int:
    return int(sandbox.truth.root_of_cell([int(sandbox.truth.cells["cell_id"].iloc[0])])[0])


@pytest.mark.parametrize("call", CALLS)
def test_the_name_of_the_datastack_is_ours_or_refused(sandbox_client: DatasetClient, call: str) -> None:
    ask, name = CALLS[call], sandbox_client.datastack_name
    assert ask(sandbox_client, name) == ask(sandbox_client, datastack_name=name) == ask(sandbox_client)
    with pytest.raises(ValueError, match=f"is for datastack {name!r}, not 'fanc'"):
        ask(sandbox_client, "fanc")
    with pytest.raises(TypeError, match="must be"):
        ask(sandbox_client, 7)
    if call != "most_recent_materialization_version":
        assert ask(sandbox_client, False) == ask(sandbox_client, name, False) == ask(sandbox_client)
        with pytest.raises(TypeError, match="use_stored must be True or False, not 3"):
            ask(sandbox_client, use_stored=3)


def test_skeletons_exist_takes_roots_first_and_caveclient_s_order(
    sandbox_client: DatasetClient, root: int
) -> None:
    there = sandbox_client.skeletons_exist([root])
    assert set(there) == {root}  # type: ignore[arg-type]
    assert sandbox_client.skeletons_exist(root) is there[root]  # type: ignore[index]
    assert sandbox_client.skeletons_exist(4, [root]) == there  # type: ignore[arg-type]
    assert sandbox_client.skeletons_exist(datastack_name="sandbox", root_ids=[root]) == there
    with pytest.raises(ValueError, match="not 'fanc'"):
        sandbox_client.skeletons_exist([root], datastack_name="fanc")


def test_cells_take_a_client_and_its_moment(sandbox_client: DatasetClient, sandbox: Sandbox) -> None:
    cells = sandbox.truth.cells["cell_id"].tolist()
    older = sandbox_client.at(version=2)
    at_2, now = older.cell_id_to_root_id(cells), sandbox_client.cell_id_to_root_id(cells)
    assert not at_2.equals(now)
    for other, expected in ((older, at_2), (older.cave, at_2), (sandbox_client.cave, now)):
        pd.testing.assert_frame_equal(sandbox_client.cell_id_to_root_id(cells, other), expected)
        pd.testing.assert_frame_equal(sandbox_client.cell_id_to_root_id(cells, other, version=3), now)
    roots = at_2["root_id"][at_2["root_id"] > 0]
    pd.testing.assert_frame_equal(
        sandbox_client.root_id_to_cell_id(roots, client=older), older.root_id_to_cell_id(roots, version=2)
    )
    with pytest.raises(ValueError, match="client= is for datastack 'minnie65_public'"):
        sandbox_client.root_id_to_cell_id(roots, cortexclient.load("minnie_public"))
    with pytest.raises(TypeError, match="must be a CAVEclient or DatasetClient"):
        sandbox_client.cell_id_to_root_id(cells, client=3)


@pytest.mark.parametrize("how", [{"datastack_name": "minnie65_public"}, {"spec": "minnie_public"}, {}])
def test_a_client_is_loaded_not_built_from_the_name_of_a_datastack(how: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"use cortexclient\.load"):
        cortexclient.DatasetClient(**how)


SCALARS: dict[str, Callable[[Any, np.int64], Any]] = {
    "version": lambda client, root: client.at(version=np.int64(2)).version,
    "assigned version": lambda client, root: setattr(client.at(), "version", np.uint16(2)),
    "timestamp": lambda client, root: client.at(timestamp=np.datetime64("2025-07-02")).timestamp,
    "limit": lambda client, root: client.tables.nucleus_detection().query(
        limit=np.int64(2), offset=np.int32(1)
    ),
    "name": lambda client, root: client.query(
        np.str_("nucleus_detection"), limit=1, split_positions=np.True_
    ),
    "version of a query": lambda client, root: client.cell_id_to_root_id(np.int64(7), version=np.int64(2)),
    "synapses": lambda client, root: client.query_synapses(root, pre=np.True_, batch_size=np.int64(3)),
    "layer": lambda client, root: client.suggest_latest_roots(root, stop_layer=np.int64(2)),
    "skeleton": lambda client, root: client.get_skeleton(
        root, skeleton_version=np.int64(4), synapses=np.False_
    ),
    "skeletons": lambda client, root: client.get_skeletons(
        root, batch_size=np.int64(1), deadline=np.int64(30), progress=False, output="dict"
    ).to_dict(),
    "mesh": lambda client, root: client.mesh.get_mesh(root),
    "state": lambda client, root: client.get_state_json(np.int64(client.upload_state_json({"a": root}))),
    "link": lambda client, root: client.neuroglancer_url(root_ids=root, shorten=np.True_),
    "export": lambda client, root: client.exports.get_table("nucleus_detection", np.int64(3)),
    "patience": lambda client, root: cortexclient.load(
        "sandbox", timeout=np.float64(5), retries=np.int64(1), max_workers=np.int64(2)
    ),
}


@pytest.mark.parametrize("call", SCALARS)
def test_numpy_scalars_are_numbers_like_others(sandbox_client: DatasetClient, root: int, call: str) -> None:
    SCALARS[call](sandbox_client, np.int64(root))
