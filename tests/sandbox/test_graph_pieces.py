"""What hangs on a graph follows any history of edits: attributes, meshes and skeletons of its pieces."""

from __future__ import annotations

from pathlib import Path

import DracoPy
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.stores.graph.edits import EditError, redo

STEP = st.tuples(
    st.sampled_from(["merge", "split", "undo", "redo"]), st.integers(0, 10_000), st.integers(0, 10_000)
)


# of the little graph of blocks
CHUNK, RESOLUTION = 24, np.array([8, 8, 40])


@pytest.fixture(scope="module")
def watershed(block_folder: Path) -> np.ndarray:
    """Supervoxel of each voxel."""
    with np.load(block_folder / "chunkedgraph" / "watershed.npz") as stored:
        volume: np.ndarray = stored["watershed"].astype(np.int64)
    return volume


def edit(sandbox: Sandbox, kind: str, a: int, b: int) -> None:
    """One edit, where it is allowed; nothing is said about when, so edits may fall into one millisecond."""
    graph = sandbox.world.graph
    alive = graph.alive().tolist()
    one, two = alive[a % len(alive)], alive[b % len(alive)]
    try:
        if kind == "merge":
            sandbox.merge(one, two)
        elif kind == "split":
            mates = graph.supervoxels(one)
            sandbox.split(int(mates[a % len(mates)]), int(mates[b % len(mates)]))
        elif kind == "undo":
            sandbox.undo(1 + a % (len(graph.operations) + 1))
        else:
            redo(graph, 1 + a % (len(graph.operations) + 1))
    except EditError:
        pass


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(steps=st.lists(STEP, min_size=2, max_size=8))
def test_pieces_follow_any_history(
    block_folder: Path, watershed: np.ndarray, steps: list[tuple[str, int, int]]
) -> None:
    with Sandbox(data=block_folder) as sandbox:
        for step in steps:
            edit(sandbox, *step)
        graph = sandbox.world.graph
        assume(graph.generation)
        times = [entry["time"] for entry in graph.operations]
        assert len(set(times)) == len(times)
        assert times == sorted(times)
        voxels = dict(zip(*np.unique(watershed[watershed > 0], return_counts=True), strict=True))
        for root in graph.alive().tolist():
            check_attributes(sandbox, root, watershed, voxels)
            check_meshes(sandbox, root)
            check_skeleton(sandbox, root)


def check_attributes(sandbox: Sandbox, root: int, watershed: np.ndarray, voxels: dict[int, int]) -> None:
    """Every piece has a size, that of its voxels, and a place that is one of them."""
    graph = sandbox.world.graph
    ids = graph.l2_ids(root)
    attributes = sandbox.world.l2cache.get(ids)
    for l2_id in ids.tolist():
        own = graph.children(l2_id)
        size = sum(int(voxels[supervoxel]) for supervoxel in own.tolist()) * RESOLUTION.prod()
        assert int(attributes[l2_id]["size_nm3"]) == size
        place = np.floor(np.array(attributes[l2_id]["rep_coord_nm"]) / RESOLUTION).astype(int)
        assert watershed[tuple(place)] in own


def check_meshes(sandbox: Sandbox, root: int) -> None:
    """Each piece has its own fragments, and their vertices lie in its chunk, up to where the next starts."""
    graph = sandbox.world.graph
    owners, names = graph.meshes.fragments(root)
    assert set(owners.tolist()) == set(graph.l2_ids(root).tolist())
    for owner, name in zip(owners.tolist(), names, strict=True):
        stored = sandbox.world.folder.content(f"seg/meshes/{name}")
        body = graph.meshes.made(name) or (stored[0] if stored else b"")
        points = DracoPy.decode(body).points / RESOLUTION
        low = graph.layout.chunks(np.array([owner]))[0] * CHUNK
        grid = 21 / RESOLUTION
        assert (points >= low - 1 - grid).all()
        assert (points <= low + CHUNK + 1 + grid).all()


def check_skeleton(sandbox: Sandbox, root: int) -> None:
    """It is a tree over all pieces, and each of its points is the place of one."""
    graph = sandbox.world.graph
    flat = sandbox.world.skeletons.get(root)
    assert sorted(flat["lvl2_ids"]) == sorted(graph.l2_ids(root).tolist())
    vertices = np.array(flat["vertices"])
    assert len(flat["edges"]) == len(vertices) - 1
    assert set(flat["mesh_to_skel_map"]) == set(range(len(vertices)))
    attributes = sandbox.world.l2cache.get(flat["lvl2_ids"], ["rep_coord_nm"])
    places = np.array([attributes[l2_id]["rep_coord_nm"] for l2_id in flat["lvl2_ids"]])
    distance = np.linalg.norm(vertices[:, None] - places[None], axis=2)
    assert distance.min(axis=1).max() < 0.5
