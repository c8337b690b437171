from __future__ import annotations

import copy
import gc
import gzip
import json
import pickle
import sys
import threading
import time
import warnings
import weakref
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from cortexclient.client import DatasetClient
from cortexclient.errors import (
    MissingDataError,
    MissingExtraError,
    NotConfiguredError,
    ProtocolError,
    ServiceTimeoutError,
    ServiceUnavailableError,
    StaleRootError,
)
from cortexclient.sandbox import Sandbox
from cortexclient.services.skeletons import SkeletonsService
from cortexclient.services.skeletons.build import add_properties, add_synapses, make_meshwork
from cortexclient.services.skeletons.source import parse_skeleton
from cortexclient.session import Endpoint, Session
from cortexclient.spec import DatasetSpec
from cortexclient.testing import clear_client_caches
from tests.sandbox.toy import client_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def session(tiny: Sandbox) -> Session:
    return tiny.load().session


@pytest.fixture(scope="module")
def service(session: Session) -> SkeletonsService:
    return SkeletonsService(session)


@pytest.fixture(scope="module")
def at_present(tiny: Sandbox) -> SkeletonsService:
    """Live synapses, as pcg_skel has them; a floating client has those of its version."""
    return SkeletonsService(tiny.load().session.at(timestamp=datetime.now(UTC)))


@pytest.fixture(scope="module")
def roots(tiny: Sandbox) -> list[int]:
    cells = tiny.truth.cells
    found = np.unique(tiny.truth.root_of_cell(cells["cell_id"].to_numpy()))
    counts = [len(tiny.truth.synapses_of(int(root), "post")) for root in found]
    return [int(root) for root in found[np.argsort(counts)[::-1]] if root > 0]


def library_meshwork(sandbox: Sandbox, root: int, **options: Any) -> Any:
    """What pcg_skel makes of the same server, by the unmodified caveclient."""
    from pcg_skel.service import get_meshwork_from_client

    clear_client_caches()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cave = client_of(sandbox)
        neuron = get_meshwork_from_client(root, cave, synapses=True, restore_properties=True, **options)
    clear_client_caches()
    return neuron


def assert_same(ours: Any, theirs: Any) -> None:
    np.testing.assert_array_equal(ours.skeleton.vertices, theirs.skeleton.vertices)
    np.testing.assert_array_equal(ours.skeleton.edges, theirs.skeleton.edges)
    np.testing.assert_array_equal(ours.skeleton.radius, theirs.skeleton.radius)
    np.testing.assert_array_equal(ours.skeleton.mesh_to_skel_map, theirs.skeleton.mesh_to_skel_map)
    np.testing.assert_array_equal(ours.mesh.vertices, theirs.mesh.vertices)
    assert ours.skeleton.root == theirs.skeleton.root
    assert set(ours.anno.table_names) == set(theirs.anno.table_names)
    for name in theirs.anno.table_names:
        one, other = ours.anno[name].df, theirs.anno[name].df
        other = other.loc[:, ~other.columns.duplicated()]
        if "id" in other.columns:
            one, other = (frame.sort_values("id", ignore_index=True) for frame in (one, other))
        assert set(one.columns) == set(other.columns), name
        for column in other.columns:
            assert_same_values(one[column], other[column], f"{name}.{column}")


def assert_same_values(one: pd.Series, other: pd.Series, name: str) -> None:
    assert len(one) == len(other), name
    if len(one) and np.size(one.iloc[0]) == 3:
        np.testing.assert_array_equal(np.stack(one), np.stack(other), err_msg=name)
    elif one.dtype.kind == "f":  # meshparty adds up lengths as float32
        np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-6, err_msg=name)
    else:
        # ids are too large for floats: compare them as whole numbers
        assert [int(value) for value in one] == [int(value) for value in other], name


@pytest.mark.slow
@pytest.mark.parametrize("restore_graph", [False, True])
def test_equal_to_pcg_skel(
    tiny: Sandbox, at_present: SkeletonsService, roots: list[int], restore_graph: bool
) -> None:
    for root in roots[:2]:
        ours = at_present.get_skeleton(root, restore_graph=restore_graph)
        theirs = library_meshwork(tiny, root, restore_graph=restore_graph)
        assert_same(ours, theirs)
        if restore_graph:
            assert ours.mesh.graph_edges.shape == theirs.mesh.graph_edges.shape
            assert {tuple(e) for e in ours.mesh.link_edges} == {tuple(e) for e in theirs.mesh.link_edges}


def test_synapses_are_those_of_the_truth(
    tiny: Sandbox, at_present: SkeletonsService, roots: list[int]
) -> None:
    neuron = at_present.get_skeleton(roots[0])
    synapses = tiny.truth.synapses.set_index("id")
    for side in ("pre", "post"):
        rows = neuron.anno[f"{side}_syn"].df
        expected = set(tiny.truth.synapses_of(roots[0], side))
        own = {i for i in expected if synapses.loc[i, "pre_piece"] == synapses.loc[i, "post_piece"]}
        assert set(rows["id"]) == expected - own
        assert rows["id"].dtype == np.int64
        assert rows[f"{side}_pt_level2_id"].dtype == np.int64
        assert f"{'post' if side == 'pre' else 'pre'}_pt_root_id" not in rows.columns
        index = neuron.anno.lvl2_ids.df["lvl2_id"].to_numpy()
        np.testing.assert_array_equal(index[rows[f"{side}_pt_mesh_ind"]], rows[f"{side}_pt_level2_id"])


def test_a_floating_client_has_the_synapses_of_query_synapses(tiny: Sandbox, roots: list[int]) -> None:
    client = tiny.load()
    late = 0
    for root in roots[:4]:
        neuron = client.get_skeleton(root, restore_properties=False)
        rows = client.query_synapses(root, pre=True, post=True, progress=False)
        if root in rows.attrs["stale_root_ids"]:
            continue
        for side in ("pre", "post"):
            expected = rows["id"][rows[f"{side}_pt_root_id"] == root].tolist()
            assert neuron.anno[f"{side}_syn"].df["id"].tolist() == expected
            late += len(set(tiny.truth.synapses_of(root, side))) > len(expected)
    assert late  # the version lacks synapses that were added since


def test_complete_although_the_server_truncates(tiny: Sandbox) -> None:
    session = tiny.load().session.at(version=3)
    valid = tiny.truth.roots_at(session.timestamp)["root_id"]
    root = max(
        np.unique(valid).tolist(), key=lambda r: len(tiny.truth.synapses_of(r, "post", session.timestamp))
    )
    whole = SkeletonsService(session).get_skeleton(root, restore_properties=False)
    with Sandbox(size="tiny", row_limit=20) as capped:
        at_version = SkeletonsService(capped.load().session.at(version=3))
        neuron = at_version.get_skeleton(root, restore_properties=False)
    for side in ("pre_syn", "post_syn"):
        assert neuron.anno[side].df["id"].tolist() == whole.anno[side].df["id"].tolist()
    assert len(whole.anno.post_syn.df) > 40


@pytest.mark.slow
def test_stale_roots(tiny: Sandbox) -> None:
    floating = tiny.load().session
    history = tiny.truth.history
    old = history[history["valid_until"].notna()].iloc[0]
    root = int(old["root_id"])
    with pytest.raises(StaleRootError, match="replaced before"):
        SkeletonsService(floating.at(version=3)).get_skeleton(root)
    new = history[history["valid_until"].isna()].sort_values("valid_from").iloc[-1]
    with pytest.raises(StaleRootError, match="later than"):
        SkeletonsService(
            floating.at(timestamp=new["valid_from"].to_pydatetime() - timedelta(seconds=1))
        ).get_skeleton(int(new["root_id"]))


def test_old_root_at_its_own_time(tiny: Sandbox) -> None:
    history = tiny.truth.history
    old = history[history["valid_until"].notna()].iloc[0]
    root, last = int(old["root_id"]), old["valid_until"] - timedelta(milliseconds=1)
    neuron = tiny.load().get_skeleton(root, fallback="compute", deadline=0, restore_properties=False)
    assert len(neuron.anno.post_syn.df) > 0
    assert set(neuron.anno.post_syn.df["id"]) <= set(tiny.truth.synapses_of(root, "post", last))


@pytest.mark.parametrize(
    "options", [{}, {"synapses": False}, {"fallback": "compute"}, {"output": "swc"}, {"output": "dict"}]
)
def test_a_piece_of_a_neuron_is_no_root(tiny: Sandbox, roots: list[int], options: dict[str, Any]) -> None:
    client = tiny.load(version=3)
    piece = client.get_l2_ids(roots[0])[0]
    with pytest.raises(StaleRootError, match=f"{piece} is not a root"):
        client.get_skeleton(piece, **options)
    for generate in (True, False):
        many = client.get_skeletons([piece, roots[0]], generate=generate, progress=False, **options)
        assert roots[0] in dict(many) or not generate
        assert isinstance(many.failures[piece], StaleRootError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "rigd"}, "rigd"),
        ({"synapse_reference_tables": {"per": "tags"}}, "'pre' and 'post'"),
        ({"synapse_reference_tables": "tags"}, "'pre' and 'post'"),
        ({"synapse_reference_tables": {"pre": "tags"}, "synapses": False}, "none are returned"),
        ({"synapse_reference_tables": {"pre": "tags"}, "output": "swc"}, "none are returned"),
        ({"skeleton_version": 77}, "77 does not exist"),
        ({"output": "cel"}, "output must be"),
        ({"errors": "ignore"}, "errors must be"),
        ({"fallback": "guess"}, "fallback must be"),
        ({"batch_size": 0}, "batch_size"),
        ({"deadline": -1}, "deadline"),
        ({"deadline": None}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
    ],
)
def test_refusals(service: SkeletonsService, roots: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        service.get_skeletons(roots[:1], progress=False, **options).to_dict()


def test_transform_needs_a_space(tiny: Sandbox) -> None:
    spec = DatasetSpec(
        name="plain", title="No space", server_address="https://x.invalid", datastack=tiny.datastack
    )
    bare = SkeletonsService(Session(spec, endpoint=Endpoint(tiny.url, tiny.token)))
    with pytest.raises(NotConfiguredError, match="transform:"):
        bare.get_skeleton(1, transform="rigid")


@pytest.mark.parametrize("kind", ["rigid", "streamline"])
def test_everything_moves_alike(
    tiny: Sandbox, service: SkeletonsService, roots: list[int], kind: str
) -> None:
    space = tiny.load().space
    plain = service.get_skeleton(roots[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = service.get_skeleton(roots[0], transform=kind)

    def expected(points: np.ndarray) -> np.ndarray:
        if kind == "rigid":
            return space.transform_nm.apply(points)
        return space.streamline_nm.radial_points(plain.skeleton.root_position, points)

    np.testing.assert_allclose(moved.skeleton.vertices, expected(plain.skeleton.vertices))
    np.testing.assert_allclose(moved.mesh.vertices, expected(plain.mesh.vertices))
    for side in ("pre_syn", "post_syn"):
        for column in ("ctr_pt_position", "pre_pt_position", "post_pt_position"):
            before, after = (np.stack(n.anno[side].df[column]) for n in (plain, moved))
            np.testing.assert_allclose(after, expected(before), err_msg=f"{side}.{column}")
        np.testing.assert_allclose(moved.anno[side].points, np.stack(moved.anno[side].df["ctr_pt_position"]))


def test_reference_tables(tiny: Sandbox, service: SkeletonsService, roots: list[int]) -> None:
    names = [name for name in tiny.load().tables.table_names if "tag" in name]
    assert names
    options: dict[str, Any] = {"restore_properties": False}
    neuron = service.get_skeleton(roots[0], synapse_reference_tables={"post": names[0]}, **options)
    for alias in (names[:1], names[0]):  # cortical-tools' name, for both sides
        both = service.get_skeleton(roots[0], reference_tables=alias, **options)
        pd.testing.assert_frame_equal(both.anno.post_syn.df, neuron.anno.post_syn.df)
        assert len(both.anno.pre_syn.df.columns) == len(both.anno.post_syn.df.columns)
    with pytest.raises(ValueError, match="are one argument"):
        service.get_skeleton(
            roots[0], reference_tables=names, synapse_reference_tables={"post": names[0]}, **options
        )
    plain = service.get_skeleton(roots[0], restore_properties=False)
    assert len(service.get_skeleton(roots[0], output="dict", reference_tables=[])["vertices"])
    with_tags, without = neuron.anno.post_syn.df, plain.anno.post_syn.df
    assert with_tags["id"].tolist() == without["id"].tolist()
    assert len(with_tags.columns) > len(without.columns)
    assert neuron.anno.pre_syn.df.columns.tolist() == plain.anno.pre_syn.df.columns.tolist()


def test_many_are_read_in_batches(tiny: Sandbox, roots: list[int]) -> None:
    service = SkeletonsService(tiny.load().session)
    wrong = roots[0] + (1 << 20)
    requested = [roots[2], wrong, roots[0], roots[2], roots[1]]
    before = len(tiny.requests)
    batches = service.get_skeletons(requested, batch_size=2, progress=False)
    assert len(tiny.requests) == before  # nothing is requested before the first step
    steps = iter(batches)
    first, neuron = next(steps)
    assert first == roots[2]
    after_one = len(tiny.requests)
    rest = dict(steps)
    assert len(tiny.requests) > after_one  # the second batch was not requested with the first
    assert list(rest) == [roots[0], roots[1]]
    assert set(batches.failures) == {wrong}
    assert isinstance(batches.failures[wrong], StaleRootError)
    assert_same(neuron, service.get_skeleton(roots[2]))
    assert_same(rest[roots[1]], service.get_skeleton(roots[1]))
    with pytest.raises(StaleRootError):
        service.get_skeletons([roots[0], wrong], errors="raise", progress=False).to_dict()
    assert service.get_skeletons([], progress=False).to_dict() == {}


def test_ids_that_stand_for_no_root_fail_alone(service: SkeletonsService, roots: list[int]) -> None:
    # what cell_id_to_root_id says of a cell without a root
    batches = service.get_skeletons([-1, roots[0], 0], restore_properties=False, progress=False)
    assert list(batches.to_dict()) == [roots[0]]
    assert {root: type(error) for root, error in batches.failures.items()} == dict.fromkeys(
        [-1, 0], StaleRootError
    )
    for output in ("meshwork", "dict"):
        with pytest.raises(StaleRootError, match="-1 is not a root"):
            service.get_skeleton(-1, output=output)  # type: ignore[arg-type]


def test_one_neuron_and_one_batch_cost_few_requests(tiny: Sandbox, roots: list[int]) -> None:
    service = SkeletonsService(tiny.load().session)
    service.get_skeleton(roots[0])
    before = len(tiny.requests)
    service.get_skeleton(roots[1])
    requested = [request.path for request in tiny.requests[before:]]
    assert len(requested) <= 9
    assert not any(path.startswith("/precomputed") for path in requested)
    assert sum("skeletoncache" in path for path in requested) == 1
    before = len(tiny.requests)
    found = service.get_skeletons(roots, progress=False).to_dict()
    assert len(found) == len(roots)
    assert len(tiny.requests) - before <= 16


def test_those_that_break_a_service_do_not_take_their_batch_along(roots: list[int]) -> None:
    from cortexclient.errors import UnknownTableError
    from cortexclient.services.skeletons import SkeletonBatches

    requested: list[list[int]] = []
    bad = {7}

    def load(batch: list[int]) -> dict[int, Callable[[], Any]]:
        requested.append(batch)
        if not bad.isdisjoint(batch):
            raise ServiceUnavailableError("it broke", service="l2cache")
        if 50 in batch:
            raise UnknownTableError("no such table", service="materialize")
        return {number: f"neuron {number}".title for number in batch}

    batches = SkeletonBatches(list(range(1, 33)), load, 16, collect=True, progress=False)
    assert [root for root, _ in batches] == [number for number in range(1, 33) if number != 7]
    assert list(batches.failures) == [7]
    assert isinstance(batches.failures[7], ServiceUnavailableError)
    assert len(requested) <= 2 + 2 * 4
    bad.clear()
    bad.update({1, 2, 9, 13, 15, 20, 31})  # some in each half, and in half of each
    assert [root for root, _ in batches] == [number for number in range(1, 33) if number not in bad]
    assert set(batches.failures) == bad
    with pytest.raises(ServiceUnavailableError):
        SkeletonBatches(list(range(1, 33)), load, 16, collect=False, progress=False).to_dict()
    with pytest.raises(UnknownTableError):  # no neuron is to blame for that
        SkeletonBatches([50], load, 16, collect=True, progress=False).to_dict()

    def down(batch: list[int]) -> dict[int, Callable[[], Any]]:
        requested.append(batch)
        raise ServiceUnavailableError("down", service="l2cache")

    requested.clear()
    with pytest.raises(ServiceUnavailableError, match="down"):  # not a try of each of a hundred batches
        SkeletonBatches(list(range(1, 1601)), down, 16, collect=True, progress=False).to_dict()
    assert len(requested) <= 22


def test_the_next_batch_is_prefetched_while_this_one_is_used() -> None:
    from cortexclient.services.skeletons import SkeletonBatches

    requested: list[list[int]] = []
    second = threading.Event()

    def load(batch: list[int]) -> dict[int, Callable[[], Any]]:
        requested.append(batch)
        if 4 in batch:
            second.set()
        if 7 in batch:
            raise NotConfiguredError("later")
        return {number: f"neuron {number}".title for number in batch}

    steps = iter(SkeletonBatches(list(range(1, 10)), load, 3, collect=True, progress=False, workers=4))
    assert next(steps) == (1, "Neuron 1")
    assert requested == [[1, 2, 3]]  # whoever looks at the first one only requests nothing more
    assert next(steps) == (2, "Neuron 2")
    assert second.wait(timeout=30)  # without a step beyond the second one
    assert [root for root, _ in (next(steps) for _ in range(4))] == [3, 4, 5, 6]
    with pytest.raises(NotConfiguredError, match="later"):
        next(steps)
    assert requested == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.slow
def test_memory_is_bounded_by_the_batch(service: SkeletonsService, roots: list[int]) -> None:
    handed_out = []
    for _, neuron in service.get_skeletons(roots[:4], batch_size=2, progress=False):
        handed_out.append(weakref.ref(neuron))
        gc.collect()
        alive = sum(reference() is not None for reference in handed_out)
        assert alive <= 2  # that one, and the one before that the loop variable held
    assert len(handed_out) == 4


def test_other_kinds_of_output(service: SkeletonsService, roots: list[int]) -> None:
    plain = service.get_skeletons(roots[:2], output="dict", progress=False).to_dict()
    text = service.get_skeletons(roots[:2], output="swc", progress=False).to_dict()
    neuron = service.get_skeleton(roots[0])
    np.testing.assert_array_equal(plain[roots[0]]["vertices"], neuron.skeleton.vertices)
    rows = np.array([line.split() for line in text[roots[0]].splitlines()], dtype=float)
    assert len(rows) == len(neuron.skeleton.vertices)
    assert (rows[0, 6], (rows[1:, 6] < rows[1:, 0]).all()) == (-1, True)  # parents come before children
    steps = rows[1:, 2:5] - rows[rows[1:, 6].astype(int) - 1, 2:5]
    assert np.linalg.norm(steps, axis=1).sum() == pytest.approx(
        neuron.skeleton.path_length() / 1000, rel=1e-5
    )


@pytest.mark.parametrize("version", [0, 1, 2, 3, -1])
def test_other_versions_have_the_same_shape(
    service: SkeletonsService, roots: list[int], version: int
) -> None:
    found = service.get_skeleton(roots[0], output="dict", skeleton_version=version)
    newest = service.get_skeleton(roots[0], output="dict")
    for name in ("vertices", "edges", "root", "compartment", "radius"):
        np.testing.assert_array_equal(found[name], newest[name], err_msg=name)
    assert found["compartment"].dtype == newest["compartment"].dtype == np.int64
    if version > 0:
        with pytest.raises(MissingDataError, match="use skeleton_version=4"):
            service.get_skeleton(roots[0], skeleton_version=version)


def test_failures_are_those_of_the_last_iteration(roots: list[int]) -> None:
    with Sandbox(size="tiny") as sandbox:
        neurons = sandbox.load(retries=0).get_skeletons(roots[:2], output="dict", progress=False)
        sandbox.inject("503", route="/bulk/get_cached_skeletons", count=None)
        assert list(neurons) == []
        assert list(neurons.failures) == roots[:2]
        sandbox.clear_faults()
        assert [root for root, _ in neurons] == roots[:2]
        assert neurons.failures == {}


def test_root_ids_are_saved_as_swc(
    tiny: Sandbox, service: SkeletonsService, roots: list[int], tmp_path: Path
) -> None:
    client = tiny.load()
    client.save_swc(roots[0], tmp_path / "one.swc")
    client.save_swc(client.get_skeleton(roots[0], synapses=False), tmp_path / "same.swc")
    assert (tmp_path / "one.swc").read_text() == (tmp_path / "same.swc").read_text()
    client.save_swc(roots[0], tmp_path / "moved.swc", transform="rigid")
    moved = client.get_skeleton(roots[0], transform="rigid", synapses=False, restore_properties=False)
    assert np.loadtxt(tmp_path / "moved.swc")[0, 3] == pytest.approx(
        moved.skeleton.root_position[1], abs=1e-5
    )
    with pytest.raises(ValueError, match="get_skeleton"):
        client.save_swc(moved, tmp_path / "no.swc", transform="rigid")


# -- units -----------------------------------------------------------------------------------------------------------


def assert_same_rows(one: np.ndarray, other: np.ndarray) -> None:
    """The same rows in any order, to the digits of an SWC file."""
    from scipy.spatial import cKDTree

    away, at = cKDTree(other).query(one)
    assert away.max() < 1e-4
    assert sorted(at) == list(range(len(other)))


def swc_rows(path: Path) -> np.ndarray:
    return np.loadtxt(path, ndmin=2)


def test_swc_has_every_piece_of_a_skeleton_that_falls_apart(
    service: SkeletonsService, tmp_path: Path
) -> None:
    skeleton: dict[str, Any] = {
        "vertices": np.array([[0, 0, 0], [900, 0, 0], [5000, 0, 0], [5000, 800, 0], [9000, 0, 0]]),
        "edges": np.array([[1, 0], [2, 3]]),
        "root": 1,
    }
    service.save_swc(skeleton, tmp_path / "pieces.swc")
    rows = swc_rows(tmp_path / "pieces.swc")
    # nm, although all of it is smaller than many a neuron is in um
    np.testing.assert_allclose(rows[:, 2:5], np.array(skeleton["vertices"])[[1, 0, 2, 3, 4]] / 1000)
    assert rows[:, 6].tolist() == [-1, 1, -1, 3, -1]
    service.save_swc(skeleton, tmp_path / "um.swc", unit="um")
    np.testing.assert_allclose(swc_rows(tmp_path / "um.swc")[:, 2:5], 1000 * rows[:, 2:5])
    with pytest.raises(ValueError, match="leave unit= out"):
        service.save_swc({**skeleton, "unit": "nm"}, tmp_path / "no.swc", unit="um")
    with pytest.raises(TypeError, match="cannot read a neuron"):
        service.save_swc((1, 2, 3), tmp_path / "no.swc")
    with pytest.raises(TypeError, match="cannot read a neuron"):
        service.save_swc({"vertex": []}, tmp_path / "no.swc")
    for wrong, message in (
        ({**skeleton, "edges": [[0, 5]]}, "none of its 5"),
        ({**skeleton, "edges": [[0, -1]]}, "none of its 5"),
        ({**skeleton, "radius": [1.0]}, r"radii of shape \(1,\)"),
        ({**skeleton, "compartment": [1, 2]}, "compartments of shape"),
        ("1 0 0 0 0 1 -1\nnan 0 0 0 0 1 1\n", "not a whole number"),
        ("1 0 0 0 0 1 -1\n2 0 0 0 0 1 1.5\n", "not a whole number"),
        ("1 0 0 0 0 1 -1\n2 0 0 0 0 1 5\n", "parent 5 has no line"),
        ("1 0 0 0 0 1 -1\n1 0 0 0 0 1 1\n", "on several lines"),
        ("1 0 0 0 0 1\n", "seven numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            service.save_swc(wrong, tmp_path / "no.swc")
    service.save_swc((np.empty((0, 3)), []), tmp_path / "none.swc")
    assert (tmp_path / "none.swc").read_text() == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.swc", "pieces.swc", "um.swc"]
    # other programs write children first: the root is the line without a parent
    service.save_swc("3 0 7 0 0 1 2\n2 0 8 0 0 1 1\n1 0 9 0 0 5 -1\n", tmp_path / "turned.swc")
    assert swc_rows(tmp_path / "turned.swc")[:, [2, 5, 6]].tolist() == [[9, 5, -1], [8, 1, 1], [7, 1, 2]]


OUTPUTS = ["meshwork", "cell", "navis", "dict", "swc"]


@pytest.mark.parametrize("transform", [None, "rigid", "streamline"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_output_knows_its_unit_and_becomes_the_same_swc(
    service: SkeletonsService, roots: list[int], tmp_path: Path, output: Any, transform: Any
) -> None:
    if output in {"cell", "navis"}:
        package = {"cell": "ossify"}.get(output, output)
        pytest.importorskip(package, reason=f"the extra `{package}` is not installed")
    data = service.get_skeleton(roots[0], output="dict", transform=transform)
    neuron = service.get_skeleton(roots[0], output=output, transform=transform)
    stated = {"cell": lambda: neuron.meta, "dict": lambda: neuron}.get(output, lambda: vars_of(neuron))()
    assert (stated["unit"], stated["space"]) == ("um" if transform else "nm", transform or "volume") or (
        output == "swc" and stated == {"unit": "um", "space": transform or "volume"}
    )
    service.save_swc(neuron, tmp_path / "neuron.swc")
    rows = swc_rows(tmp_path / "neuron.swc")
    assert sorted(rows[:, 0]) == list(range(1, len(data["vertices"]) + 1))
    in_um = data["vertices"] / (1 if transform else 1000)
    # place, radius and compartment of each vertex, whatever the order of the lines
    wanted = np.column_stack([in_um, data["radius"] / 1000, data["compartment"]])
    found = rows[:, [2, 3, 4, 5, 1]]
    assert_same_rows(found, wanted)
    np.testing.assert_allclose(rows[0, 2:5], in_um[data["root"]], atol=1e-5)


def vars_of(neuron: Any) -> dict[str, Any]:
    unit = (
        neuron.unit
        if hasattr(neuron, "unit")
        else {"nanometer": "nm", "micrometer": "um"}[str(neuron.units.units)]
    )
    return {"unit": unit, "space": neuron.space}


def through_a_file(neuron: Any, folder: Path) -> Any:
    from meshparty.meshwork import load_meshwork

    neuron.save_meshwork(str(folder / "neuron.h5"))
    return load_meshwork(str(folder / "neuron.h5"))


COPIES: dict[str, Callable[[Any, Path], Any]] = {
    "itself": lambda neuron, _: neuron,
    "copy": lambda neuron, _: neuron.copy(),
    "deepcopy": lambda neuron, _: copy.deepcopy(neuron),
    "pickle": lambda neuron, _: pickle.loads(pickle.dumps(neuron)),
    "file": through_a_file,
}


@pytest.mark.parametrize("transform", [None, "rigid"])
@pytest.mark.parametrize("way", COPIES)
def test_units_survive_masks_copies_and_pickles(
    service: SkeletonsService, roots: list[int], tmp_path: Path, way: str, transform: Any
) -> None:
    neuron = service.get_skeleton(roots[0], transform=transform, restore_graph=True)
    whole = service.get_skeleton(roots[0], transform=transform, restore_graph=True)
    mask = (neuron.anno.compartment.df.compartment == 2).to_numpy()
    neuron.apply_mask(mask)
    other = COPIES[way](neuron, tmp_path)
    if way != "file":
        assert vars_of(other) == {"unit": "um" if transform else "nm", "space": transform or "volume"}
        assert_same(other, neuron)
        for table in whole.anno.table_names:
            assert other.anno[table].df.dtypes.tolist() == neuron.anno[table].df.dtypes.tolist()
    # the root is masked out, and what is left falls into pieces
    assert other.skeleton.root == -1
    service.save_swc(other, tmp_path / "axon.swc")
    rows = swc_rows(tmp_path / "axon.swc")
    left = neuron.skeleton.vertices / (1 if transform else 1000)
    assert_same_rows(rows[:, 2:5], left)
    assert set(rows[:, 1]) == {2}
    assert (rows[:, 6] == -1).sum() == len(left) - len(neuron.skeleton.edges)
    other.reset_mask()
    if way != "file":
        assert_same(other, whole)
    soma = np.zeros(len(mask), dtype=bool)
    soma[(whole.anno.compartment.df.compartment == 1).to_numpy()] = True
    other.apply_mask(soma)
    assert len(other.skeleton.vertices) == 1
    service.save_swc(other, tmp_path / "soma.swc")
    scale = 1 if transform else 1000
    np.testing.assert_allclose(
        swc_rows(tmp_path / "soma.swc")[0, 2:5], whole.skeleton.root_position / scale, atol=1e-5
    )


@pytest.mark.parametrize("transform", [None, "rigid", "streamline"])
def test_own_points_are_bound_to_the_vertices_they_lie_on(
    service: SkeletonsService, roots: list[int], transform: Any
) -> None:
    neuron = service.get_skeleton(roots[0], transform=transform, restore_graph=True)
    assert np.asarray(neuron.anno.voxel_resolution).tolist() == [[1, 1, 1]]
    points = neuron.mesh.vertices[[3, 40, 200]]
    rows = pd.DataFrame({"pt": list(points)})
    for other in (neuron, pickle.loads(pickle.dumps(neuron))):
        other.add_annotations("edits", rows, point_column="pt", anchored=True)
        np.testing.assert_array_equal(other.mesh.vertices[np.array(other.anno.edits.mesh_index)], points)


def test_synapses_without_a_position_stay_missing_when_the_neuron_is_moved(
    tiny: Sandbox, service: SkeletonsService, roots: list[int]
) -> None:
    neuron = service.get_skeleton(roots[0])
    rows = neuron.anno.pre_syn.data_original.copy()
    nowhere = np.array([pd.NA, pd.NA, pd.NA], dtype=object)
    rows["post_pt_position"] = [nowhere, *rows["post_pt_position"].iloc[1:]]
    neuron.anno.add_annotations(
        "pre_syn", rows, index_column="pre_pt_mesh_ind", point_column="ctr_pt_position", overwrite=True
    )
    moved = neuron.moved(tiny.load().space.mover("rigid"), "um", "rigid").anno.pre_syn.df
    points = np.stack(moved["post_pt_position"])
    assert points.dtype == np.float64
    assert np.isnan(points[0]).all()
    assert np.isfinite(points[1:]).all()
    assert np.isfinite(np.stack(moved["ctr_pt_position"])).all()


# -- an ossify Cell --------------------------------------------------------------------------------------------------


def same_columns(one: pd.DataFrame, other: pd.DataFrame, columns: list[str]) -> None:
    one, other = one.sort_index(), other.sort_index()
    assert one.index.tolist() == other.index.tolist()
    for name in columns:
        np.testing.assert_array_equal(one[name].to_numpy(float), other[name].to_numpy(float), err_msg=name)


def test_cell_is_ossifys_own(tiny: Sandbox, at_present: SkeletonsService, roots: list[int]) -> None:
    ossify = pytest.importorskip("ossify", reason="the extra `ossify` is not installed")
    clear_client_caches()
    cave = client_of(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = ossify.load_cell_from_client(roots[0], cave, synapses=True, restore_graph=True)
    clear_client_caches()
    ours = at_present.get_skeleton(roots[0], output="cell", restore_graph=True)
    assert theirs.skeleton.nodes.equals(ours.skeleton.nodes)
    assert (ours.graph.n_vertices, len(ours.graph.edges)) == (
        theirs.graph.n_vertices,
        len(theirs.graph.edges),
    )
    same_columns(ours.graph.nodes, theirs.graph.nodes, list(theirs.graph.nodes.columns))
    for side in ("pre_syn", "post_syn"):
        rows = theirs.annotations[side].nodes
        same_columns(ours.annotations[side].nodes, rows, [name for name in rows.columns if name != "valid"])


def test_cells_move_like_meshworks(service: SkeletonsService, roots: list[int]) -> None:
    pytest.importorskip("ossify", reason="the extra `ossify` is not installed")
    cell = service.get_skeletons(roots[:2], output="cell", transform="rigid", progress=False).to_dict()[
        roots[0]
    ]
    neuron = service.get_skeleton(roots[0], transform="rigid")
    np.testing.assert_allclose(cell.skeleton.vertices, neuron.skeleton.vertices)
    rows = cell.annotations["pre_syn"].nodes
    points = dict(zip(neuron.anno.pre_syn.df["id"], neuron.anno.pre_syn.df["ctr_pt_position"], strict=True))
    names = [f"ctr_pt_position_{axis}" for axis in "xyz"]
    np.testing.assert_allclose(rows[names].to_numpy(), np.stack([points[number] for number in rows.index]))


def test_without_ossify_the_error_names_the_command(
    service: SkeletonsService, roots: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ossify", None)
    with pytest.raises(MissingExtraError, match=r'pip install "cortexclient\[ossify\]"'):
        service.get_skeleton(roots[0], output="cell")


# -- skeletons that the service does not have --------------------------------------------------------------------------


def test_refused_roots_are_computed_with_fallback(tiny: Sandbox, roots: list[int]) -> None:
    refused = tiny.world.skeletons.refused
    client = tiny.load()
    whole = client.get_skeleton(roots[0])
    refused[roots[0]] = None
    try:
        with pytest.raises(MissingDataError, match="fallback='compute'"):
            client.get_skeleton(roots[0])
        neuron = client.get_skeleton(roots[0], fallback="compute")
        assert "computed" in neuron.skeleton.meta.skeleton_type
        assert "computed" not in str(whole.skeleton.meta)
        assert "compartment" not in neuron.anno.table_names
        assert len(neuron.anno.is_axon.df) == 0
        assert neuron.anno.post_syn.df["id"].tolist() == whole.anno.post_syn.df["id"].tolist()
        assert neuron.skeleton.path_length() == pytest.approx(whole.skeleton.path_length(), rel=0.1)
        # it begins in the cell body, which the service has at its root, and which is one vertex
        assert np.linalg.norm(neuron.skeleton.root_position - whole.skeleton.root_position) < 7500
        away = np.linalg.norm(neuron.skeleton.vertices - neuron.skeleton.root_position, axis=1)
        assert (away < 4000).sum() == 1
        ids = set(neuron.anno.lvl2_ids.df["lvl2_id"])
        assert ids == set(client.get_l2_ids(roots[0]))
        batches = client.get_skeletons(roots[:2], fallback="compute", output="dict", progress=False)
        found = batches.to_dict()
        assert (found[roots[0]]["meta"]["skeleton_type"], batches.failures) == (
            "computed from the level-2 graph",
            {},
        )
    finally:
        refused.clear()


@pytest.mark.slow
def test_a_root_in_one_chunk_is_a_point(roots: list[int]) -> None:
    with Sandbox(size="tiny") as sandbox:
        graph = sandbox.load().cave.chunkedgraph
        edges = np.asarray(graph.level2_chunk_graph(roots[0]))
        ids, degree = np.unique(edges, return_counts=True)
        tip = int(ids[degree == 1][0])
        (edge,) = edges[(edges == tip).any(axis=1)]
        neighbour = int(edge[edge != tip][0])
        edit = sandbox.split(graph.get_children(tip), graph.get_children(neighbour))
        client = sandbox.load()
        counts = {int(root): len(client.get_l2_ids(root)) for root in edit.new_roots}
        alone = min(counts, key=lambda root: counts[root])
        assert counts[alone] == 1
        (only,) = client.get_l2_ids(alone)
        neuron = client.get_skeleton(alone)
        assert (neuron.skeleton.vertices.shape, neuron.skeleton.path_length()) == ((1, 3), 0)
        assert neuron.anno.lvl2_ids.df["lvl2_id"].tolist() == [only]
        whole = client.query_synapses(alone, pre=True, post=True, live=True, progress=False)
        assert len(neuron.anno.pre_syn) + len(neuron.anno.post_syn) == len(whole)
        vertices = client.mesh.get_mesh(alone).vertices
        assert client.mesh.compute_vertex_to_l2_mapping(alone).tolist() == [only] * len(vertices)
        sandbox.world.skeletons.refused[alone] = None
        with pytest.raises(MissingDataError, match="single level-2 id"):
            client.get_skeleton(alone, fallback="compute", deadline=1)


@pytest.mark.slow
def test_missing_skeletons_are_made_or_reported() -> None:
    with Sandbox(size="tiny", cold_skeletons=True, skeleton_delay=0.01) as cold:
        client = cold.load()
        found = np.unique(cold.truth.root_of_cell(cold.truth.cells["cell_id"].to_numpy()))
        older = cold.truth.history["root_id"].tolist()
        roots = list(dict.fromkeys([*found[found > 0].tolist(), *older]))[:14]
        assert len(roots) > client.session.max_workers
        refused = roots[1]
        cold.world.skeletons.refused[refused] = None
        options: dict[str, Any] = {"output": "dict", "progress": False}
        none = client.get_skeletons(roots, generate=False, **options)
        assert none.to_dict() == {}
        assert set(none.failures) == set(roots)
        late = client.get_skeletons(roots, deadline=0, **options)
        assert late.to_dict() == {}
        assert isinstance(late.failures[roots[0]], ServiceTimeoutError)
        assert "refus" in str(late.failures[refused])
        made = client.get_skeletons(roots, deadline=60, **options)
        assert set(made.to_dict()) | set(made.failures) == set(roots)
        # what cannot be made fails immediately, instead of at the deadline
        assert refused in made.failures
        assert not any(isinstance(error, ServiceTimeoutError) for error in made.failures.values())
        assert len(list(made)) >= 6
        paths = [request.path for request in cold.requests]
        assert any(path.endswith("gen_skeletons") for path in paths)


@pytest.mark.slow
def test_what_cannot_be_made_is_reported_before_the_deadline(tiny: Sandbox) -> None:
    client = tiny.load()
    older = sorted(set(tiny.truth.history["root_id"].tolist()))
    absent = [root for root, there in client.skeletons_exist(root_ids=older).items() if not there]
    batches = client.get_skeletons(absent, output="dict", deadline=120, progress=False)
    made = batches.to_dict()
    hopeless = list(batches.failures)  # their level-2 data lack
    assert set(made) | set(hopeless) == set(absent)
    assert len(hopeless) > client.session.max_workers
    assert not any(isinstance(error, ServiceTimeoutError) for error in batches.failures.values())
    options: dict[str, Any] = {"fallback": "compute", "deadline": 0, "progress": False}
    client.get_skeletons(
        hopeless[:1], **options
    ).to_dict()  # packages that are imported may add filters of their own
    shown = list(warnings.filters)
    computed = client.get_skeletons(hopeless, **options).to_dict()
    assert list(computed) == hopeless
    # many are computed concurrently, and what is shown of warnings belongs to the whole process
    assert warnings.filters == shown
    for root in hopeless:
        ids = computed[root].anno.lvl2_ids.df["lvl2_id"].tolist()
        assert sorted(ids) == client.get_l2_ids(root)


@pytest.fixture(scope="module")
def queue(recordings: Path) -> Iterator[Sandbox]:
    """A skeleton service as deployed: it never says that it cannot make a skeleton."""
    with Sandbox(data=recordings / "real_toy_datastack", skeleton_queue=True, skeleton_gateway=30) as sandbox:
        yield sandbox


HOPELESS, FINE = 360287970189639687, 360287970189639948  # level-2 ids of the first one have no attributes
GENERATE = "/bulk/gen_skeletons"


def skeleton_requests(sandbox: Sandbox, since: int) -> list[str]:
    paths = [request.path for request in sandbox.requests[since:]]
    return [path.split("/toy/")[-1].split("/sandbox/")[-1] for path in paths if "skeletoncache" in path]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["meshwork", "dict"])
@pytest.mark.parametrize("many", [False, True])
def test_what_cannot_be_made_is_reported_in_time(queue: Sandbox, output: Any, many: bool) -> None:
    client = toy_client(queue)
    before, began = len(queue.requests), time.monotonic()
    if many:
        batches = client.get_skeletons([HOPELESS, FINE, 5, -1], output=output, deadline=25, progress=False)
        assert list(batches.to_dict()) == [FINE]
        error: Any = batches.failures.pop(HOPELESS)
        assert {root: type(each) for root, each in batches.failures.items()} == dict.fromkeys(
            [5, -1], StaleRootError
        )
    else:
        with pytest.raises(MissingDataError) as caught:
            client.get_skeleton(HOPELESS, output=output, deadline=25)
        error = caught.value
    assert time.monotonic() - began < 15
    assert "level-2 ids have no attributes" in str(error)
    assert (error.service, error.url.endswith("gen_skeletons")) == ("skeleton", True)
    requested = skeleton_requests(queue, before)
    assert not any("async" in path for path in requested)
    assert sum(path.endswith("gen_skeletons") for path in requested) == 1
    # refused for what it lacks, but it can be computed here
    neuron = client.get_skeleton(HOPELESS, output=output, fallback="compute", deadline=0)
    meta = neuron["meta"]["skeleton_type"] if output == "dict" else neuron.skeleton.meta.skeleton_type
    assert "computed" in meta


def toy_client(sandbox: Sandbox, **options: Any) -> DatasetClient:
    spec = DatasetSpec(
        name="toy",
        title="A small recorded datastack",
        server_address="https://toy.invalid",
        datastack="toy",
        synapse_table="synapses_toy",
    )
    return DatasetClient(spec, endpoint=Endpoint(sandbox.url, sandbox.token), **options)


@pytest.mark.slow
def test_what_is_not_made_in_time_says_what_was_waited_for(roots: list[int]) -> None:
    with Sandbox(size="tiny", cold_skeletons=True, skeleton_queue=True, skeleton_delay=4) as slow:
        client = slow.load()
        began = time.monotonic()
        with pytest.raises(ServiceTimeoutError, match=r"queued .* looked for \d+ times .* in 2 s") as caught:
            client.get_skeleton(roots[0], output="dict", deadline=2)
        assert 1.9 < time.monotonic() - began < 3.5
        assert caught.value.service == "skeleton"
        assert "/skeletoncache/" in str(caught.value.url)
        computed = client.get_skeleton(roots[1], output="dict", deadline=0, fallback="compute")
        assert computed["meta"]["skeleton_type"] == "computed from the level-2 graph"
        assert (
            sum(request.path.endswith(GENERATE) for request in slow.requests) == 1
        )  # not with a deadline of 0
        made = client.get_skeleton(roots[0], output="dict")  # the default deadline is longer than that
        assert len(made["vertices"]) > 1


@pytest.mark.slow
@pytest.mark.parametrize("route", [r"/bulk/gen_skeletons", r"/bulk/get_cached_skeletons/"])
@pytest.mark.parametrize("fault", ["hang", "503"])
def test_a_failing_service_gets_one_request_to_generate(roots: list[int], route: str, fault: str) -> None:
    with Sandbox(size="tiny", cold_skeletons=True, skeleton_queue=True) as sandbox:
        client = sandbox.load(timeout=20, retries=1)
        client.get_skeleton(roots[1], output="dict")  # what is known of the dataset
        before, began = len(sandbox.requests), time.monotonic()
        # the first look is not part of the wait
        sandbox.inject(fault, route=route, count=None, after=1 if "cached" in route else 0)
        with pytest.raises((ServiceTimeoutError, ServiceUnavailableError)) as caught:
            client.get_skeleton(roots[0], output="dict", deadline=2)
        assert time.monotonic() - began < 9
        assert caught.value.url is not None
        requested = skeleton_requests(sandbox, before)
        assert sum(path.endswith("gen_skeletons") for path in requested) <= 1  # one that hangs is not noted
        sandbox.clear_faults()
        batches = client.get_skeletons(roots[:3], output="dict", progress=False, deadline=60)
        assert len(batches.to_dict()) == 3


def test_a_service_without_bulk_routes_gets_single_requests(roots: list[int]) -> None:
    with Sandbox(size="tiny", cold_skeletons=True, skeleton_limiter=True) as sandbox:
        client = sandbox.load()
        expected = client.get_skeletons(roots[:2], output="dict", progress=False).to_dict()
        sandbox.inject("404", route="/bulk/", count=None)
        found = client.get_skeletons(roots[:3], output="dict", progress=False)
        for root, data in found:
            np.testing.assert_array_equal(data["vertices"], expected[root]["vertices"])
        assert list(found.failures) == [roots[2]]
        assert "in bulk" in str(found.failures[roots[2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [[0, 1], [1, 9]]}, "edges names vertices"),
        ({"root": 7}, "root names vertices"),
        ({"mesh_to_skel_map": [0, 1, 1, -4]}, "mesh_to_skel_map names vertices"),
        ({"radius": [1.0]}, "radius has the shape"),
        ({"compartment": [1, 2, 3, 4]}, "compartment has the shape"),
        ({"lvl2_ids": [1, 2]}, "2 level-2 ids"),
        ({"lvl2_ids": [11.0, 12.0, 13.0, 14.0]}, "whole numbers"),
        ({"compartment": [1, 2.5, 3]}, "whole numbers"),
        ({"vertices": [[0, 0]]}, "cannot reshape"),
        ({"vertices": []}, "no vertices"),
    ],
)
def test_damaged_skeletons_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        small_skeleton(**change)


def test_a_damaged_skeleton_is_neither_its_batchs_fault_nor_cached(
    tiny: Sandbox, roots: list[int], tmp_path: Path
) -> None:
    whole = tiny.world.skeletons.get(roots[0])
    tiny.world.skeletons._flat[roots[0]] = dict(whole, edges=[[0, len(whole["vertices"])]])
    options: dict[str, Any] = {"output": "dict", "progress": False}
    client = tiny.load(cache=tmp_path)
    try:
        batches = client.get_skeletons(roots[:2], **options)
        assert list(batches.to_dict()) == [roots[1]]
        error: Any = batches.failures[roots[0]]
        assert isinstance(error, ProtocolError)
        assert "/get_cached_skeletons/" in error.url
    finally:
        tiny.world.skeletons._flat[roots[0]] = whole
    for again in (client, tiny.load(cache=tmp_path)):
        found = again.get_skeletons(roots[:2], **options).to_dict()
        np.testing.assert_array_equal(found[roots[0]]["vertices"], np.array(whole["vertices"]))


def test_which_exist(service: SkeletonsService, roots: list[int]) -> None:
    service.get_skeleton(roots[0], synapses=False, restore_properties=False)
    wanted = {roots[0]: True}
    assert service.skeletons_exist(root_ids=roots[0]) is True
    assert service.skeletons_exist(roots[0]) is True
    assert service.skeletons_exist(root_ids=roots[:1]) == wanted
    assert service.skeletons_exist(roots[:1]) == wanted
    assert service.skeletons_exist(np.array(roots[:1]), 4) == wanted
    assert service.skeletons_exist(4, roots[:1]) == wanted
    assert service.skeletons_exist(4, roots[0]) is service.skeletons_exist(roots[0], 4) is True
    with pytest.raises(ValueError, match="given twice"):
        service.skeletons_exist(roots, roots)
    with pytest.raises(ValueError, match="root_ids is missing"):
        service.skeletons_exist(skeleton_version=4)


# -- what services may leave out ---------------------------------------------------------------------------------------


def small_skeleton(**changes: Any) -> dict[str, Any]:
    body = {
        "meta": {},
        "vertices": [[0, 0, 0], [1000, 0, 0], [2000, 0, 0]],
        "edges": [[1, 0], [2, 1]],
        "root": 0,
        "mesh_to_skel_map": [0, 1, 1, 2],
        "lvl2_ids": [11, 12, 13, 14],
        "radius": [1.0, 1.0, 1.0],
        "compartment": [1, 3, 3],
        **changes,
    }
    text = json.dumps({key: value for key, value in body.items() if value is not None})
    return parse_skeleton(gzip.compress(gzip.compress(text.encode())), 1)


def test_missing_level2_attributes_are_nulls() -> None:
    data = small_skeleton()
    neuron = make_meshwork(1, data)
    full = {"area_nm2": 5, "size_nm3": 7, "mean_dt_nm": 1.5, "max_dt_nm": 3}
    add_properties(neuron, data["lvl2_ids"], {"11": full, "12": full, "13": {}, "14": full})
    assert neuron.anno.vol_prop.df["size_nm3"].isna().tolist() == [False, False, True, False]
    assert neuron.anno.segment_properties.df["vol"].tolist() == [21.0] * 4


def test_synapse_off_the_skeleton_goes_to_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    data = small_skeleton()
    neuron = make_meshwork(1, data)
    rows = pd.DataFrame({"id": [1, 2], "pre_pt_root_id": [1, 1], "pre_pt_level2_id": [13, 99]})
    rows["ctr_pt_position"] = [np.array([1000.0, 50, 0]), np.array([1990.0, 0, 0])]
    add_synapses(neuron, data["lvl2_ids"], {"pre": rows})
    assert neuron.anno.pre_syn.df["pre_pt_mesh_ind"].tolist() == [2, 3]
    assert "1 of 2 pre synapses" in caplog.text


def test_graph_with_strangers() -> None:
    with pytest.raises(MissingDataError, match="restore_graph=False"):
        make_meshwork(1, small_skeleton(), edges=np.array([[11, 12], [12, 99]]), points={})
    empty = make_meshwork(1, small_skeleton(), edges=np.empty((0, 2), dtype=np.int64), points={})
    assert len(empty.mesh.vertices) == 4
