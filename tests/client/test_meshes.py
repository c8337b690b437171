from __future__ import annotations

import json
import pickle
import struct
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import requests

from cortexclient.errors import MissingDataError, ProtocolError
from cortexclient.sandbox import Sandbox
from cortexclient.services.mesh_fragments import Fragment, join_fragments
from cortexclient.services.meshes import MeshClient, VertexAssigner
from cortexclient.services.vertex_labels import Decision, label_vertices

if TYPE_CHECKING:
    from cortexclient.session import Session

INFO: dict[str, Any] = {
    "chunks_start_at_voxel_offset": True,
    "graph": {"chunk_size": [100] * 3, "spatial_bit_masks": {"2": 10}, "cv_mip": 0},
    "mesh_metadata": {"uniform_draco_grid_size": 21},
    "scales": [{"resolution": [10, 10, 10], "voxel_offset": [0, 0, 0]}],
}


@pytest.fixture(scope="module")
def session(tiny: Sandbox) -> Session:
    return tiny.load().session


@pytest.fixture(scope="module")
def meshes(session: Session) -> MeshClient:
    return MeshClient(session)


@pytest.fixture(scope="module")
def roots(tiny: Sandbox) -> list[int]:
    found = np.unique(tiny.truth.root_of_cell(tiny.truth.cells["cell_id"].to_numpy()))
    sizes = {int(root): len(tiny.truth.mesh(int(root))[0]) for root in found if root > 0}
    return sorted(sizes, key=lambda root: sizes[root])[:3]


def fragment(name: str, vertices: Any, *, draco: bool = True) -> Fragment:
    points = np.array(vertices, dtype=np.float32)
    faces = np.array([[0, 1, 2]], dtype=np.uint32) if len(points) > 2 else np.empty((0, 3), dtype=np.uint32)
    return Fragment(name, points, faces, draco)


# the face between the first two chunks lies at 1000 nm, which draco moves to 1008
LEFT = [[903, 210, 315], [1008, 210, 315], [1008, 231, 315]]
RIGHT = [[1008, 210, 315], [1008, 231, 315], [1113, 210, 315]]


def test_copies_on_a_face_become_one() -> None:
    vertices, faces = join_fragments([fragment("a", LEFT), fragment("b", RIGHT)], INFO)
    assert vertices.tolist() == [*LEFT, RIGHT[2]]
    assert faces.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert (vertices.dtype, faces.dtype) == (np.float32, np.uint32)
    apart, _ = join_fragments([fragment("a", LEFT), fragment("b", RIGHT)], INFO, merge=False)
    assert len(apart) == 6


def test_copies_off_the_faces_stay() -> None:
    moved = [[[x - 300, y, z] for x, y, z in part] for part in (LEFT, RIGHT)]
    vertices, _ = join_fragments([fragment("a", moved[0]), fragment("b", moved[1])], INFO)
    assert len(vertices) == 6


def test_legacy_fragments_meet_on_the_face_itself() -> None:
    left, right = ([[1000 if x == 1008 else x, y, z] for x, y, z in part] for part in (LEFT, RIGHT))
    vertices, faces = join_fragments(
        [fragment("a", left, draco=False), fragment("b", right, draco=False)], INFO
    )
    assert len(vertices) == 4
    assert faces.tolist() == [[0, 1, 2], [1, 2, 3]]


def test_all_four_copies_on_an_edge_become_one() -> None:
    edge = [1008, 1008, 315]
    parts = [
        fragment(name, [edge, [1008 + dx, 1008, 315], [1008, 1008 + dy, 336]])
        for name, dx, dy in (("a", -210, -210), ("b", 210, -210), ("c", -210, 210), ("d", 210, 210))
    ]
    vertices, _ = join_fragments(parts, INFO)
    assert (vertices == edge).all(axis=1).sum() == 1


def test_two_copies_in_one_fragment_are_not_joined() -> None:
    twice = fragment("a", [*LEFT, LEFT[1]])
    vertices, _ = join_fragments([twice, fragment("b", RIGHT)], INFO)
    assert (vertices == LEFT[1]).all(axis=1).sum() == 3
    assert (vertices == LEFT[2]).all(axis=1).sum() == 1
    alone, _ = join_fragments([twice], INFO)
    assert len(alone) == 4


@pytest.mark.slow
def test_mesh_is_the_truth_with_joined_faces(tiny: Sandbox, meshes: MeshClient, roots: list[int]) -> None:
    vertices, faces, owners = tiny.truth.mesh(roots[0])
    mesh = meshes.get_mesh(roots[0])
    assert mesh.segid == roots[0]
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.uint32)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], vertices[faces], atol=0.1)
    raw = meshes.get_mesh(roots[0], deduplicate_chunk_boundaries=False)
    np.testing.assert_allclose(raw.vertices, vertices, atol=0.1)
    # what was merged: one of each place where fragments of different chunks meet, none of those inside a chunk
    _, place = np.unique(vertices, axis=0, return_inverse=True)
    copies = pd.DataFrame({"place": place.reshape(-1), "owner": owners, "chunk": owners >> 26})
    shared = copies.groupby("place").agg(
        n=("owner", "size"), owners=("owner", "nunique"), chunks=("chunk", "nunique")
    )
    whole = shared["n"] == shared["owners"]
    certain = (shared["n"] - 1)[whole & (shared["chunks"] > 1)].sum()
    possible = (shared["n"] - 1)[whole].sum()
    assert 1000 < certain <= len(vertices) - len(mesh.vertices) < possible


@pytest.mark.slow
def test_options_reach_their_goal(meshes: MeshClient, roots: list[int], capsys: Any) -> None:
    whole = meshes.get_mesh(roots[0])
    middle = np.floor(np.median(whole.vertices, axis=0) / [192, 192, 240]).astype(int)
    part = meshes.get_mesh(roots[0], bounding_box=[middle - 40, middle + 40])
    assert 0 < len(part.vertices) < len(whole.vertices)
    beyond = meshes.get_mesh(roots[0], bounding_box=[[-9, -9, -9], [10**6] * 3])
    assert len(beyond.vertices) == len(whole.vertices)
    np.testing.assert_array_equal(  # corners within voxels: the box is not made smaller
        meshes.get_mesh(roots[0], bounding_box=[middle - 39.5, middle + 39.5]).vertices, part.vertices
    )
    for far in (middle, [np.inf] * 3):
        with pytest.raises(ValueError, match="begin before it ends"):
            meshes.get_mesh(roots[0], bounding_box=[middle, far])
    fewer = meshes.get_mesh(roots[0], remove_duplicate_vertices=True)
    assert len(np.unique(fewer.vertices, axis=0)) == len(fewer.vertices)
    other = meshes.get_mesh(roots[0], use_byte_offsets=False, deduplicate_chunk_boundaries=False)
    np.testing.assert_array_equal(
        other.vertices, meshes.get_mesh(roots[0], deduplicate_chunk_boundaries=False).vertices
    )
    solid = meshes.get_mesh(roots[0], output="trimesh")
    assert solid.vertices.shape == whole.vertices.shape
    with pytest.raises(ValueError, match="fuse"):
        meshes.get_mesh(roots[0], fuse=True)
    with pytest.raises(ValueError, match="output"):
        meshes.get_mesh(roots[0], output="obj")  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_several_meshes(meshes: MeshClient, roots: list[int]) -> None:
    requested = [roots[1], roots[0], roots[1]]
    found = meshes.get_meshes(requested, progress=False)
    assert list(found) == [roots[1], roots[0]]
    np.testing.assert_array_equal(found[roots[0]].vertices, meshes.get_mesh(roots[0]).vertices)
    assert meshes.get_meshes([], progress=False) == {}


def test_what_has_no_mesh(meshes: MeshClient, roots: list[int]) -> None:
    wrong = roots[0] + (1 << 20)
    with pytest.raises(MissingDataError, match=str(wrong)):
        meshes.get_mesh(wrong)
    with pytest.raises(MissingDataError):
        meshes.get_meshes([roots[0], wrong], progress=False)
    found = meshes.get_meshes([wrong, roots[0]], progress=False, missing="skip")
    assert list(found) == [roots[0]]
    assert isinstance(found.failures[wrong], MissingDataError)
    with pytest.raises(ValueError, match="missing"):
        meshes.get_meshes(roots, missing="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one root id"):
        meshes.get_mesh(roots)  # type: ignore[arg-type]


# -- what comes damaged ------------------------------------------------------------------------------------------------


def legacy(vertices: Any, faces: Any, rest: bytes = b"") -> bytes:
    points, corners = np.array(vertices, dtype="<f4"), np.array(faces, dtype="<u4")
    return struct.pack("<I", len(points)) + points.tobytes() + corners.tobytes() + rest


TRIANGLE = [[0, 0, 0], [9, 0, 0], [0, 9, 0]]
DAMAGES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cannot be decoded"),
    "zeros": (bytes(400), "0 vertices"),
    "four zeros": (bytes(4), "0 vertices"),
    "text": (b"<html>Sign in</html>", "cannot be decoded"),
    "draco that ends": (b"DRACO\x02\x02\x01\x01\x00\x00\x03", "cannot be decoded"),
    "no faces": (legacy(TRIANGLE, []), "0 faces"),
    "short face": (legacy(TRIANGLE, [[0, 1, 2]], b"\0" * 8), "cannot be decoded|end within a face"),
    "face beyond": (legacy(TRIANGLE, [[0, 1, 3]]), "names vertex 3 of 3"),
    "not finite": (legacy([*TRIANGLE[:2], [0, np.nan, 0]], [[0, 1, 2]]), "not finite"),
    "too many vertices": (struct.pack("<I", 2**31) + bytes(60), "cannot be decoded"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_fragments_raise(tiny: Sandbox, relay_of: Any, roots: list[int], damage: str) -> None:
    body, message = DAMAGES[damage]
    relay = relay_of(tiny)
    relay.fail(r"/precomputed/seg/meshes/\d+:", lambda _: (200, body), count=1)
    with pytest.raises(ProtocolError, match=message) as caught:
        tiny.load(server_address=relay.url).mesh.get_mesh(roots[0])
    assert "/precomputed/seg/meshes/" in str(caught.value.url)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_one_damaged_mesh_leaves_the_others(tiny: Sandbox, relay_of: Any, roots: list[int]) -> None:
    relay = relay_of(tiny)
    meshes = tiny.load(server_address=relay.url).mesh
    relay.fail(rf"/manifest/{roots[1]}:", lambda _: (200, b"[]"))
    with pytest.raises(ProtocolError):
        meshes.get_meshes(roots[:3], progress=False)
    with pytest.raises(ProtocolError):
        meshes.get_meshes(roots[:3], progress=False, missing="skip")
    found = pickle.loads(pickle.dumps(meshes.get_meshes(roots[:3], progress=False, errors="collect")))
    assert list(found) == [roots[0], roots[2]]
    assert list(found.failures) == [roots[1]]
    assert isinstance(found.failures[roots[1]], ProtocolError)
    with pytest.raises(ValueError, match="errors must be"):
        meshes.get_meshes(roots, errors="ignore")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_damaged_fragment_is_not_cached(
    tiny: Sandbox, meshes: MeshClient, relay_of: Any, roots: list[int], tmp_path: Any
) -> None:
    relay = relay_of(tiny)
    client = tiny.load(server_address=relay.url, cache=tmp_path)
    relay.fail(r"/precomputed/seg/meshes/\d+:", lambda _: (200, DAMAGES["short face"][0]), count=1)
    with pytest.raises(ProtocolError, match=DAMAGES["short face"][1]):
        client.mesh.compute_vertex_to_l2_mapping(roots[0])
    relay.faults = []
    expected = meshes.get_mesh(roots[0])
    for again in (client, tiny.load(server_address=relay.url, cache=tmp_path)):
        found = again.mesh.get_mesh(roots[0])
        np.testing.assert_array_equal(found.vertices, expected.vertices)
        np.testing.assert_array_equal(found.faces, expected.faces)
    fragments = sum("/precomputed/seg/meshes/" in path for _, path, _ in relay.seen)
    again.mesh.get_mesh(roots[0])
    # the second client read the fragments from the cache
    assert sum("/precomputed/seg/meshes/" in path for _, path, _ in relay.seen) == fragments


@pytest.mark.parametrize(
    "names",
    [
        None,
        {"a": 1},
        "name",
        [5],
        [["a"]],
        ["../secret"],
        ["/etc/passwd"],
        ["a/../../b"],
        ["~2/x:0:-5"],
        ["a\nb"],
        ["~2/../x:0:5"],
    ],
)
def test_names_that_are_none_are_refused(tiny: Sandbox, relay_of: Any, roots: list[int], names: Any) -> None:
    relay = relay_of(tiny)
    relay.fail("/manifest/", lambda _: (200, json.dumps({"fragments": names}).encode()))
    client = tiny.load(server_address=relay.url)
    with pytest.raises(ProtocolError, match="no name of one") as caught:
        client.mesh.get_mesh(roots[0])
    assert "/manifest/" in str(caught.value.url)
    assert not any("meshes/" in path and "info" not in path for _, path, _ in relay.seen)


def test_a_manifest_that_names_a_missing_fragment_is_not_kept(
    tiny: Sandbox, relay_of: Any, roots: list[int], tmp_path: Any
) -> None:
    relay = relay_of(tiny)

    def damaged(_: Any) -> tuple[int, bytes]:
        found = requests.get(f"{tiny.url}{relay.seen[-1][1]}", json={"start_layer": 6}, timeout=30).json()
        return 200, json.dumps(
            {"fragments": [found["fragments"][0][:-1] + "%", *found["fragments"][1:]]}
        ).encode()

    relay.fail("/manifest/", damaged)
    with pytest.raises(MissingDataError, match="are not in the bucket"):
        tiny.load(server_address=relay.url, cache=tmp_path).mesh.get_mesh(roots[0])
    relay.faults = []
    mesh = tiny.load(server_address=relay.url, cache=tmp_path).mesh.get_mesh(roots[0])
    assert len(mesh.vertices) == len(tiny.load().mesh.get_mesh(roots[0]).vertices)


def test_a_range_of_another_length_is_damaged(
    tiny: Sandbox, session: Session, relay_of: Any, roots: list[int]
) -> None:
    relay = relay_of(tiny)
    client = tiny.load(server_address=relay.url)
    names = ["~6/shard:3:50"]
    relay.fail("/manifest/", lambda _: (200, json.dumps({"fragments": names}).encode()))
    for body in (b"x" * 49, b"x" * 51):
        relay.faults = [relay.faults[0], ("initial/6/shard|/6/shard", lambda _, body=body: (206, body))]
        with pytest.raises(ProtocolError, match=f"sent {len(body)} bytes of 50"):
            client.mesh.get_mesh(roots[0])


# -- level-2 ids of vertices -------------------------------------------------------------------------------------------


def test_accuracy_on_the_sandbox(tiny: Sandbox, session: Session, roots: list[int]) -> None:
    cache = pd.read_parquet(tiny.folder.path / "l2cache.parquet").set_index("l2_id")
    for root in roots:
        vertices, faces, owners = tiny.truth.mesh(root)
        ids = np.array(tiny.load().get_l2_ids(root))
        points = np.stack(
            [np.full(3, np.nan) if np.size(p) != 3 else p for p in cache["rep_coord_nm"].reindex(ids)]
        )
        labels = label_vertices(vertices, faces, ids, points, info=session.segmentation_info())
        _, place, copies = np.unique(vertices, axis=0, return_inverse=True, return_counts=True)
        interior = copies[place.reshape(-1)] == 1
        assert (labels == owners)[interior].mean() >= 0.995
        assert not set(owners) - set(labels)


def test_mapping_downloads_what_it_is_not_given(tiny: Sandbox, meshes: MeshClient, roots: list[int]) -> None:
    mesh = meshes.get_mesh(roots[0])
    labels, assigner = meshes.compute_vertex_to_l2_mapping(roots[0], return_assigner=True)
    assert labels.dtype == np.int64
    assert labels.shape == (len(mesh.vertices),)
    assert isinstance(assigner, VertexAssigner)
    np.testing.assert_array_equal(assigner.vertices, mesh.vertices)
    np.testing.assert_array_equal(assigner.mesh_label, labels)
    np.testing.assert_array_equal(np.append(assigner.lvl2_ids, 0)[assigner.mesh_label_index], labels)
    assert sum(assigner.counts().values()) == len(labels)
    assert set(np.unique(assigner.decisions)) <= {decision.value for decision in Decision}
    summary = assigner.summary()
    assert summary.index.tolist() == assigner.lvl2_ids.tolist()
    assert summary["vertices"].sum() == (labels > 0).sum()
    assert set(assigner.decision_names) <= set(summary.columns) | {"none"}
    np.testing.assert_array_equal(meshes.mesh_l2_mappings[roots[0]], labels)
    before = len(tiny.requests)
    given = meshes.compute_vertex_to_l2_mapping(
        roots[0],
        vertices=mesh.vertices,
        faces=mesh.faces,
        lvl2_ids=assigner.lvl2_ids.tolist(),
        lvl2_pts=assigner.lvl2_pts,
        n_jobs=1,
    )
    np.testing.assert_array_equal(given, labels)
    assert len(tiny.requests) == before  # all was given, so nothing is requested
    some = assigner.lvl2_ids[::2]
    raw = {"deduplicate_chunk_boundaries": False}
    labels = meshes.compute_vertex_to_l2_mapping(roots[0], lvl2_ids=some, mesh_kwargs=raw)
    assert len(labels) == len(meshes.get_mesh(roots[0], **raw).vertices)
    assert set(labels) <= {0, *some.tolist()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vertices": [[0.0, 0, 0]]}, "together"),
        ({"faces": [[0, 0, 0]]}, "together"),
        ({"lvl2_pts": [[0, 0, 0]]}, "lvl2_ids"),
        ({"vertices": [[0.0, 0, 0]], "faces": [[0, 0, 0]], "mesh_kwargs": {"bypass": True}}, "mesh_kwargs"),
    ],
)
def test_half_given_arrays_are_refused(
    meshes: MeshClient, roots: list[int], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        meshes.compute_vertex_to_l2_mapping(roots[0], **given)


@pytest.mark.slow
def test_fallback_decides_undecided_pieces(tiny: Sandbox, meshes: MeshClient, roots: list[int]) -> None:
    vertices, faces, owners = tiny.truth.mesh(roots[0])
    client = tiny.load()
    ids = np.array(client.get_l2_ids(roots[0]))
    # every id of a chunk is given the point of the first one, so that the pieces of the others stay undecided
    _, first, chunk = np.unique(ids >> 26, return_index=True, return_inverse=True)
    points = client.get_l2data(ids, ["rep_coord_nm"]).to_numpy()[first[chunk.reshape(-1)]]
    compute = partial(
        meshes.compute_vertex_to_l2_mapping,
        roots[0],
        vertices,
        faces,
        ids,
        points,
        max_distance=0,
        hop_limit=0,
        return_assigner=True,
    )
    plain, one = compute()
    looked_up, two = compute(cloudvolume_fallback=True)
    decided = two.decisions == Decision.LOOKUP
    assert one.counts()["lookup"] == 0
    assert decided.sum() > 1000
    assert (looked_up == owners)[decided].mean() > 0.95
    assert (plain[decided] == 0).all()
    assert (looked_up[plain > 0] > 0).all()


@pytest.mark.slow
def test_values_are_carried_to_vertices(tiny: Sandbox, meshes: MeshClient, roots: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neuron = tiny.load().get_skeleton(roots[0])
    labels = meshes.compute_vertex_to_l2_mapping(roots[0])
    rows = neuron.anno.lvl2_ids.df.set_index("lvl2_id")["mesh_ind"]
    known = np.isin(labels, rows.index)
    index = rows.reindex(labels[known]).to_numpy().astype(int)
    place = meshes.mesh_label_to_skeleton(labels, neuron)
    np.testing.assert_array_equal(place[known], neuron.skeleton.mesh_to_skel_map[index])
    assert set(place[~known]) <= {-1}
    compartment = meshes.mesh_label_to_skeleton(labels, neuron, "compartment")
    assert set(compartment[known]) <= {1, 2, 3}
    synapses = meshes.mesh_label_to_skeleton(labels, neuron, "post_syn", missing=0)
    counts = neuron.anno.post_syn.df["post_pt_mesh_ind"].value_counts()
    np.testing.assert_array_equal(synapses[known], counts.reindex(index, fill_value=0))
    size = meshes.mesh_label_to_skeleton(labels, {int(i): 0.5 for i in rows.index[:3]})
    assert np.isnan(size).sum() == (~np.isin(labels, rows.index[:3])).sum()
    # ids in any form, and ids as values, which are never floats
    large = np.array([2**60 + 1, 2**60 + 3], dtype=np.uint64)
    by_text = meshes.mesh_label_to_skeleton([2**60 + 3, 5], {str(number): number for number in large})
    assert (by_text.tolist(), by_text.dtype) == ([2**60 + 3, -1], np.int64)
    with pytest.raises(ValueError, match="several values"):
        meshes.mesh_label_to_skeleton([5], pd.Series([1, 2], index=[5, 5]))
    with pytest.raises(ValueError, match="no annotation 'colour'"):
        meshes.mesh_label_to_skeleton(labels, neuron, "colour")
    bare = tiny.load().get_skeleton(roots[0], synapses=False, restore_properties=False)
    with pytest.raises(ValueError, match="synapses=True"):
        meshes.mesh_label_to_skeleton(labels, bare, "pre_syn")
