"""What a spec says of servers is acted on: denied services, the synapse's point, and the viewer's dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import cortexclient
from cortexclient.errors import NotConfiguredError, StaleRootError
from cortexclient.sandbox import Sandbox
from cortexclient.session import Endpoint, Session
from cortexclient.spec import DatasetSpec

BASE: dict[str, Any] = {
    "name": "denied_lab",
    "title": "A lab whose servers do not offer everything",
    "server_address": "https://cave.example.org",
    "datastack": "lab_v3",
    "voxel_resolution": [4, 4, 40],
    "synapse_table": "synapses_lab",
    "cell_ids": {"lookup_view": "somata_lookup", "main_table": "somata_v2"},
    "transform": {"steps": [{"translation": [0, -300_000, 0]}, {"scaling": 0.001}]},
    "synapses": {"position_prefix": "pre_pt"},
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(DatasetSpec(**BASE), size="tiny") as server:
        yield server


@pytest.fixture(autouse=True)
def behave(sandbox: Sandbox) -> Iterator[None]:
    yield
    sandbox.clear_faults()


def client_of(sandbox: Sandbox, **changes: Any) -> Any:
    """Client of the same server with other words in its spec; nothing is shared with other clients."""
    overrides = {key: value for key, value in changes.items() if key not in {"version", "version_fallback"}}
    options = {key: value for key, value in changes.items() if key not in overrides}
    address = f"sandbox://127.0.0.1:{sandbox.port}"
    return cortexclient.load(DatasetSpec(**BASE), server_address=address, overrides=overrides, **options)


def denying(sandbox: Sandbox, *names: str, **options: Any) -> Any:
    return client_of(sandbox, capabilities=dict.fromkeys(names, False), **options)


@pytest.fixture
def root(sandbox: Sandbox) -> int:
    counts = sandbox.truth.synapses.groupby("pre_cell_id").size()
    cell_id = int(counts[counts.index > 0].idxmax())
    return int(client_of(sandbox).cell_id_to_root_id([cell_id])["root_id"].iloc[0])


def refused(what: str, call: Any, *, advice: str = "") -> None:
    with pytest.raises(NotConfiguredError, match=rf"`capabilities\.{what}: false`") as caught:
        call()
    assert advice in str(caught.value)
    assert f'"{what}": True' in str(caught.value), "how to say otherwise without editing the file"


# -------------------------------------------------------------------------------------------------- live queries
def test_live_queries_are_refused_with_the_nearest_version(sandbox: Sandbox, root: int) -> None:
    client = denying(sandbox, "live")
    newest = max(number for number, record in client.session.versions().items() if record.valid)
    before = len(sandbox.requests)
    refused(
        "live",
        lambda: client.query_synapses(root, pre=True, live=True, progress=False),
        advice=f"client.at(version={newest})",
    )
    moment = client.version_timestamp(newest) + timedelta(hours=1)
    table = client.spec.cell_ids.main_table
    refused("live", lambda: client.at(timestamp=moment).tables[table]().query())
    refused("live", lambda: client.tables[table]().live_query(moment))
    refused("live", lambda: client.query(table, timestamp=moment))
    refused("live", lambda: client.connectivity(root, timestamp=moment))
    asked = [record.path for record in sandbox.requests][before:]
    assert not [path for path in asked if path.endswith("/query")], asked


def test_a_version_s_own_time_is_no_live_query(sandbox: Sandbox, root: int) -> None:
    client = denying(sandbox, "live")
    at = client.version_timestamp()
    frozen = client.query_synapses(root, pre=True, progress=False)
    same = client.query_synapses(root, pre=True, timestamp=at, live=True, progress=False)
    assert sorted(same["id"]) == sorted(frozen["id"])
    assert same.attrs["live_query"] is False


def test_overriding_the_spec_allows_live_queries(sandbox: Sandbox, root: int) -> None:
    client = client_of(sandbox, capabilities={"live": True})
    when = client.now()
    frame = client.query_synapses(
        root, pre=True, live=True, timestamp=when, omit_self_synapse=False, progress=False
    )
    assert frame.attrs["live_query"] is True
    assert sorted(frame["id"]) == sorted(sandbox.truth.synapses_of(root, "pre", when))


def test_floating_skeletons_look_at_versions_where_live_queries_are_denied(
    sandbox: Sandbox, root: int
) -> None:
    client = denying(sandbox, "live")
    before = len(sandbox.requests)
    neuron = client.get_skeleton(root)
    asked = [record.path for record in sandbox.requests][before:]
    assert not [path for path in asked if path.endswith("/datastack/lab_v3/query")], asked
    truth = sandbox.truth.synapses_of(root, "pre", client.version_timestamp())
    selfless = client.query_synapses(root, pre=True, progress=False)
    assert set(selfless["id"]) <= set(truth)
    assert sorted(neuron.anno.pre_syn.df["id"]) == sorted(selfless["id"])


def test_a_root_of_no_version_says_so(sandbox: Sandbox) -> None:
    with Sandbox(DatasetSpec(**BASE), size="tiny") as own:
        client = denying(own, "live")
        cells = own.truth.cells["cell_id"].to_numpy()[:6]
        first, second = client.cell_id_to_root_id(cells)["root_id"].drop_duplicates().to_list()[:2]
        pieces = [client.session.cave.chunkedgraph.get_leaves(root)[0] for root in (first, second)]
        own.merge(*map(int, pieces))
        made = int(client.latest_roots([first])["latest_root_id"].iloc[0])
        assert made != first
        with pytest.raises(StaleRootError, match=r"capabilities\.live: false.*synapses=False"):
            client.get_skeleton(made)
        assert len(client.get_skeleton(made, synapses=False).skeleton.vertices) > 0


def test_an_expired_version_may_still_be_asked_for_by_its_time(sandbox: Sandbox, root: int) -> None:
    versions = client_of(sandbox).session.versions()
    expired = [number for number, record in versions.items() if not record.valid]
    assert expired
    client = denying(sandbox, "live", version=expired[0], version_fallback=True)
    frame = client.tables[client.spec.cell_ids.main_table]().query(allow_missing_lookups=True)
    assert frame.attrs["live_query"] is True


# --------------------------------------------------------------------------------------------------- no versions
def test_without_versions_roots_meshes_and_skeletons_work(sandbox: Sandbox, root: int) -> None:
    sandbox.inject("404", route="^/materialize/", count=None)
    client = denying(sandbox, "versions")
    before = len(sandbox.requests)
    assert client.is_latest_roots([root]).all()
    ids = client.get_l2_ids(root)
    assert len(client.get_l2data(ids)) == len(ids)
    assert len(client.mesh.get_mesh(root).vertices) > 0
    for output in ("dict", "swc"):
        assert client.get_skeleton(root, output=output)
    neuron = client.get_skeleton(root, synapses=False, transform="rigid")
    assert len(neuron.skeleton.vertices) > 0
    assert dict(client.get_skeletons([root], synapses=False, progress=False))[root].seg_id == root
    assert str(root) in client.neuroglancer_url(root_ids=[root])
    assert repr(client)
    table = client.spec.cell_ids.main_table
    refused("versions", lambda: client.get_skeleton(root), advice="synapses=False")
    refused(
        "versions", lambda: client.query_synapses(root, pre=True, progress=False), advice="roots, level-2"
    )
    refused("versions", lambda: client.query(table))
    refused("versions", lambda: client.tables[table])
    refused("versions", lambda: client.views.table_names)
    refused("versions", lambda: client.cell_id_to_root_id([1]))
    refused("versions", lambda: client.root_id_to_cell_id([root]))
    refused("versions", lambda: client.version)
    refused("versions", lambda: client.at(version=3).timestamp)
    refused("versions", client.most_recent_materialization_version)
    refused("versions", lambda: client.at(timestamp=client.now()).query(table))
    asked = [record.path for record in sandbox.requests][before:]
    assert not [path for path in asked if path.startswith("/materialize/api")], asked


# ------------------------------------------------------------------------------------------------------- other services
def test_skeletons_are_computed_where_there_is_no_service(sandbox: Sandbox, root: int) -> None:
    sandbox.inject("404", route="^/skeletoncache/", count=None)
    client = denying(sandbox, "skeletons")
    before = len(sandbox.requests)
    refused("skeletons", lambda: client.get_skeleton(root), advice="fallback='compute'")
    refused("skeletons", lambda: client.get_skeletons([root]))
    refused("skeletons", lambda: client.skeletons_exist(root_ids=[root]))
    made = client.get_skeleton(root, fallback="compute")
    assert len(made.skeleton.vertices) > 1
    assert "computed" in str(made.skeleton.meta.skeleton_type)
    asked = [record.path for record in sandbox.requests][before:]
    assert not [path for path in asked if path.startswith("/skeletoncache/")], asked


def test_without_a_level_2_cache(sandbox: Sandbox, root: int) -> None:
    sandbox.inject("404", route="^/l2cache/", count=None)
    client = denying(sandbox, "l2cache")
    ids = client.get_l2_ids(root)
    refused("l2cache", lambda: client.get_l2data(ids))
    refused("l2cache", lambda: client.get_skeleton(root), advice="restore_properties=False")
    assert len(client.get_skeleton(root, restore_properties=False).anno.pre_syn) > 0


def test_exports_may_be_denied_and_still_be_somewhere_else(sandbox: Sandbox) -> None:
    client = denying(sandbox, "exports")
    refused("exports", lambda: client.exports, advice="set_export_cloudpath")
    assert sandbox.exports_path is not None
    client.set_export_cloudpath(sandbox.exports_path)
    assert client.exports.available_tables


# --------------------------------------------------------------------------------------------- the point of a synapse
def test_the_spec_s_point_is_the_synapse_s_place(sandbox: Sandbox, root: int) -> None:
    client = client_of(sandbox)
    client.fix_mat_timestamp()
    frame = client.query_synapses(root, pre=True, progress=False)
    points = frame[[f"pre_pt_position_{axis}" for axis in "xyz"]].to_numpy(dtype=float)
    centres = frame[[f"ctr_pt_position_{axis}" for axis in "xyz"]].to_numpy(dtype=float)
    assert not np.allclose(points, centres)
    assert frame.attrs["position_column"] == "pre_pt_position"
    np.testing.assert_allclose(client.space.depth(frame), points[:, 1] / 1000 - 300)
    neuron = client.get_skeleton(root)
    table = neuron.anno.pre_syn
    np.testing.assert_allclose(np.sort(np.asarray(table.points), axis=0), np.sort(points, axis=0))
    voxel = np.asarray(client.viewer_resolution())
    # as queried, and as a table that has lost its attrs on the way
    for shown in (frame, table.df):
        url = client.neuroglancer_url(root_ids=[root], annotations={"synapses": shown})
        drawn = [
            layer for layer in json.loads(unquote(url.partition("#!")[2]))["layers"] if "annotations" in layer
        ]
        found = np.array([each["point"] for layer in drawn for each in layer["annotations"]]) * voxel
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(points, axis=0), atol=1e-3)
    from cortexclient.plotting import plot_neuron

    moved = client.get_skeleton(root, transform="rigid")
    (sites,) = [c for c in plot_neuron(moved).collections if c.get_label().startswith("presynaptic")]
    np.testing.assert_allclose(np.sort(sites.get_offsets()[:, 1]), np.sort(points[:, 1] / 1000 - 300))


def test_without_a_word_on_synapses_their_centre_is_their_place(sandbox: Sandbox, root: int) -> None:
    client = client_of(sandbox, synapses=None)
    frame = client.query_synapses(root, pre=True, progress=False)
    assert frame.attrs["position_column"] is None
    np.testing.assert_allclose(
        client.space.depth(frame), frame["ctr_pt_position_y"].to_numpy(dtype=float) / 1000 - 300
    )


# ------------------------------------------------------------------------------------------------ the viewer's dialect
def at_its_own_address(sandbox: Sandbox, **changes: Any) -> Any:
    """Client whose spec names the running server itself, so that no launcher's viewer stands in for the spec's."""
    from cortexclient.client import client_class

    spec = DatasetSpec(**BASE).with_overrides({"server_address": sandbox.url, **changes})
    return client_class(spec)._on(Session(spec, endpoint=Endpoint(sandbox.url, sandbox.token)))


@pytest.mark.parametrize(
    ("target", "stored", "tags"),
    [
        ("spelunker", "https://viewer.example.org/#!", "tag"),
        ("cave-explorer", "https://viewer.example.org/#!", "tag"),
        ("mainline", "https://viewer.example.org/#!", "bool"),
        ("seunglab", "https://viewer.example.org/?json_url=", None),
    ],
)
def test_the_viewer_s_dialect(
    sandbox: Sandbox, root: int, target: str, stored: str, tags: str | None
) -> None:
    client = at_its_own_address(sandbox, viewer_site="https://viewer.example.org/", viewer_target=target)
    assert client.neuroglancer_url(root_ids=[root]).startswith("https://viewer.example.org/")
    assert client.neuroglancer_url(root_ids=[root], shorten=True).startswith(stored)
    if tags is None:
        return
    viewer = client.neuroglancer_viewer()
    viewer.add_annotation_layer(name="tagged", tags=["axon"])
    (layer,) = [layer for layer in viewer.to_dict()["layers"] if layer["name"] == "tagged"]
    kinds = {
        prop.get("type")
        for prop in layer["annotationProperties"]
        if prop.get("tag") or prop["type"] == "bool"
    }
    assert kinds == {"uint8" if tags == "tag" else "bool"}


def test_the_dialect_is_not_that_of_a_viewer_that_stands_in(sandbox: Sandbox, root: int) -> None:
    client = client_of(sandbox, viewer_site="https://viewer.example.org/", viewer_target="seunglab")
    assert client.neuroglancer_url(root_ids=[root], shorten=True).startswith(
        f"{sandbox.viewer_site.rstrip('/')}/#!"
    )
    own = at_its_own_address(sandbox, viewer_site="https://viewer.example.org/", viewer_target="seunglab")
    given = own.neuroglancer_url("https://other.example.org/", root_ids=[root], shorten=True)
    assert given.startswith("https://other.example.org/#!")
