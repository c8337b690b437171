"""The unmodified clients on the sandbox: every reading method of caveclient, and what stands on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from cortexclient.sandbox import Sandbox
from cortexclient.testing import clear_client_caches
from tests.conformance.methods import (
    CALLS,
    END,
    PAGE,
    REFUSED,
    START,
    Subject,
    accounted,
    call_all,
    public_methods,
    table,
)


@contextmanager
def fresh_subject() -> Iterator[Subject]:
    clear_client_caches()
    with Sandbox(size="tiny") as sandbox:  # of its own, because an edit is made in it
        yield Subject(sandbox)
    clear_client_caches()


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    with fresh_subject() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def outcomes() -> Iterator[list[Any]]:
    # clients remember what they were told, so the routes of a call are counted on a client that nobody has used yet
    with fresh_subject() as fresh:
        yield call_all(fresh)


def test_every_method_is_accounted_for(subject: Subject) -> None:
    assert sorted(public_methods(subject) - accounted()) == []
    assert sorted(accounted() - public_methods(subject)) == []


def test_what_is_served_is_served(outcomes: list[Any]) -> None:
    assert {
        outcome.name: outcome.error for outcome in outcomes if outcome.name in CALLS and outcome.error
    } == {}


def test_what_is_refused_is_refused_so(outcomes: list[Any]) -> None:
    errors = {outcome.name: outcome.error or "" for outcome in outcomes if outcome.name in REFUSED}
    assert {name: text for name, text in errors.items() if not re.search(REFUSED[name][1], text)} == {}


def test_the_documentation_states_it(outcomes: list[Any]) -> None:
    """Run ``python -m tests.conformance.methods --write`` to bring it up to date."""
    stated = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    assert table(outcomes).splitlines() == stated.strip().splitlines()


def test_cloud_volume(subject: Subject) -> None:
    volume = subject.cave.info.segmentation_cloudvolume(progress=False)
    low, high = subject.bounds[:, 0], subject.bounds[:, 1]
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    supervoxels = np.unique(np.asarray(volume[box]))
    assert set(supervoxels[supervoxels > 0].tolist()) & set(subject.supervoxels.tolist())
    whole = np.asarray(volume.download(box, agglomerate=True))
    assert subject.root in np.unique(whole)
    mesh = volume.mesh.get(subject.root)[subject.root]
    assert len(mesh.vertices) > 1000
    image = subject.cave.info.image_cloudvolume(progress=False)
    corner = [int(value) for value in image.voxel_offset]
    cube = tuple(slice(value, value + 16) for value in corner)
    assert np.asarray(image[cube]).std() > 0


def test_pcg_skel(subject: Subject) -> None:
    import pcg_skel

    neuron = pcg_skel.get_meshwork_from_client(
        subject.root, client=subject.cave, synapses=True, restore_graph=True, restore_properties=True
    )
    rows = subject.cave.materialize.live_live_query(
        subject.synapses, "now", filter_equal_dict={subject.synapses: {"pre_pt_root_id": subject.root}}
    )
    assert set(neuron.anno.pre_syn.df["id"]) == set(rows["id"])
    direct = pcg_skel.pcg_skeleton(subject.root, client=subject.cave)
    assert direct.path_length() > 0
    mesh = pcg_skel.pcg_meshwork(subject.root, client=subject.cave)
    assert len(mesh.mesh.vertices) == len(subject.l2_ids)


def test_nglui(subject: Subject) -> None:
    from nglui.statebuilder import ViewerState

    viewer = ViewerState(client=subject.cave).add_layers_from_client()
    viewer.layers["segmentation"].add_segments([subject.root])
    text = viewer.to_json_string()
    assert str(subject.root) in text
    assert subject.sandbox.url in text


def test_ossify(subject: Subject) -> None:
    ossify = pytest.importorskip("ossify", reason="the extra `ossify` is not installed")
    cell = ossify.load_cell_from_client(subject.root, subject.cave)
    assert cell.skeleton.n_vertices > 10
