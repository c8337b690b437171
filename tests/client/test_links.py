"""Neuroglancer links: what is in the state, at which moment, and what is requested for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest

import cortexclient
from cortexclient.errors import CortexError, ServiceError

if TYPE_CHECKING:
    from cortexclient.client import DatasetClient
    from cortexclient.sandbox import Sandbox


def state_of(url: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(unquote(url.partition("#!")[2]))
    return state


def layer_of(state: dict[str, Any], name: str) -> dict[str, Any]:
    (layer,) = [layer for layer in state["layers"] if layer["name"] == name]
    return dict(layer)


def resolution_of(state: dict[str, Any]) -> np.ndarray:
    """Size of the state's voxels in nm."""
    return np.array([state["dimensions"][axis][0] for axis in "xyz"]) * 1e9


def nm(state: dict[str, Any]) -> np.ndarray:
    """Centre of the view in nm."""
    return np.array(state["position"]) * resolution_of(state)


def properties_of(client: DatasetClient, table: Any) -> dict[str, Any]:
    """The segment properties that the state service has after a link was made."""
    source = layer_of(state_of(client.neuroglancer_url(seg_prop=table)), "segmentation")["source"][-1]["url"]
    stored: dict[str, Any] = client.cave.state.get_property_json(int(source.rpartition("/")[2]))
    return stored


def test_link_opens_the_sandbox_s_own_viewer_and_asks_little(
    sandbox: Sandbox, sandbox_client: DatasetClient
) -> None:
    url = sandbox_client.neuroglancer_url()
    assert url.startswith(sandbox.url)
    paths = [record.path for record in sandbox.requests]
    assert len(paths) <= 3, paths
    state = state_of(url)
    assert [layer["type"] for layer in state["layers"]] == ["image", "segmentation"]
    for layer in state["layers"]:
        for source in layer["source"]:
            address = source["url"].partition("://")[2]
            assert urlsplit(address).hostname == "127.0.0.1", source["url"]
            assert "middleauth" not in source["url"]


def test_dimensions_and_default_position(sandbox_client: DatasetClient) -> None:
    state = state_of(sandbox_client.neuroglancer_url())
    np.testing.assert_allclose(resolution_of(state), sandbox_client.viewer_resolution())
    scale = sandbox_client.session.segmentation_info()["scales"][0]
    low = np.array(scale["voxel_offset"]) * scale["resolution"]
    high = low + np.array(scale["size"]) * scale["resolution"]
    assert ((nm(state) > low) & (nm(state) < high)).all()
    # the 3d view shows the entire volume, of a large one a part
    assert state["projectionScale"] == min(50_000, (high - low).max() / resolution_of(state).min())


def test_roots_are_selected_exactly(sandbox_client: DatasetClient) -> None:
    roots = [864691135336055529, "864691135336055530", np.int64(7)]
    state = state_of(sandbox_client.neuroglancer_url(root_ids=roots))  # type: ignore[arg-type]
    segments = layer_of(state, "segmentation")["segments"]
    assert segments == ["864691135336055529", "864691135336055530", "7"]
    one = state_of(sandbox_client.neuroglancer_url(root_ids=864691135336055529))
    assert layer_of(one, "segmentation")["segments"] == ["864691135336055529"]
    with pytest.raises(TypeError, match="float"):
        sandbox_client.neuroglancer_url(root_ids=[1.0])  # type: ignore[list-item]


def test_moment_is_in_the_state(sandbox_client: DatasetClient) -> None:
    assert "timestamp" not in layer_of(state_of(sandbox_client.neuroglancer_url()), "segmentation")
    version = sandbox_client.version
    pinned = sandbox_client.at(version=version)
    stamp = layer_of(state_of(pinned.neuroglancer_url()), "segmentation")["timestamp"]
    assert stamp == round(sandbox_client.version_timestamp(version).timestamp() * 1000)
    moved = sandbox_client.at(timestamp="2026-01-02T03:04:05Z")
    assert layer_of(state_of(moved.neuroglancer_url()), "segmentation")["timestamp"] == 1767323045000


def test_synapses_become_layers_in_the_right_place(sandbox_client: DatasetClient) -> None:
    nuclei = sandbox_client.tables[sandbox_client.spec.cell_ids.main_table]().query()  # type: ignore[union-attr]
    roots = sandbox_client.cell_id_to_root_id(nuclei["id"])["root_id"]
    root = int(roots[roots > 0].iloc[0])
    synapses = sandbox_client.query_synapses(root, pre=True, post=True, progress=False)
    state = state_of(sandbox_client.neuroglancer_url(root_ids=root, annotations=synapses))
    for name, column in (
        ("presynaptic sites", "pre_pt_root_id"),
        ("postsynaptic sites", "post_pt_root_id"),
    ):
        rows = synapses[synapses[column] == root]
        layer = layer_of(state, name)
        points = np.array([annotation["point"] for annotation in layer["annotations"]]) * resolution_of(state)
        np.testing.assert_allclose(points, rows[[f"ctr_pt_position_{axis}" for axis in "xyz"]].to_numpy())
        assert layer["linkedSegmentationLayer"] == {"segments": "segmentation"}
        linked = [{int(root) for root in annotation["segments"][0]} for annotation in layer["annotations"]]
        # 0 stands for a side that lies outside the segmentation
        expected = [
            set(pair) - {0} for pair in zip(rows["pre_pt_root_id"], rows["post_pt_root_id"], strict=True)
        ]
        assert linked == expected


def test_position_is_in_nm_unless_said_otherwise(sandbox_client: DatasetClient) -> None:
    state = state_of(sandbox_client.neuroglancer_url(position=[4000, 8000, 40000]))
    np.testing.assert_allclose(nm(state), [4000, 8000, 40000])
    voxels = state_of(sandbox_client.neuroglancer_url(position=[10, 20, 30], resolution=(4, 4, 40)))
    np.testing.assert_allclose(nm(voxels), [40, 80, 1200])
    with pytest.raises(ValueError, match="three numbers"):
        sandbox_client.neuroglancer_url(position=[1, 2])


def test_the_view_is_centred_on_what_is_shown_unless_a_position_is_given(
    sandbox_client: DatasetClient,
) -> None:
    points = pd.DataFrame({"x": [9e5, 1e5, 2e5], "y": [8e5, 1e5, 3e5], "z": [7e5, 2e5, np.nan]})
    far = [[5e5, 6e5, 7e5]]
    shown = {"a": points, "b": far}
    middle = np.median([[9e5, 8e5, 7e5], [1e5, 1e5, 2e5], *far], axis=0)
    np.testing.assert_allclose(nm(state_of(sandbox_client.neuroglancer_url(annotations=shown))), middle)
    for url in (
        sandbox_client.neuroglancer_url(annotations=shown, position=[4e5, 4e5, 8e5]),
        sandbox_client.neuroglancer_viewer(annotations=shown, position=[4e5, 4e5, 8e5]).to_url(),
    ):
        np.testing.assert_allclose(nm(state_of(url)), [4e5, 4e5, 8e5])
    stored = sandbox_client.neuroglancer_url(annotations=shown, position=[4e5, 4e5, 8e5], shorten=True)
    np.testing.assert_allclose(nm(sandbox_client.get_state_json(stored)), [4e5, 4e5, 8e5])


def test_walking_through_mere_points_does_not_hide_the_neurons(sandbox_client: DatasetClient) -> None:
    frame = pd.DataFrame({"pt_position": [[1, 2, 3], [4, 5, 6]], "pt_root_id": [0, 9]})
    shown = {"places": [[1, 2, 3]], "none": frame.iloc[:1], "cells": frame, "nothing": []}
    state = state_of(sandbox_client.neuroglancer_url(root_ids=7, annotations=shown))
    swaps = {layer["name"]: layer.get("swapVisbleSegmentsOnMove", True) for layer in state["layers"][2:]}
    assert swaps == {"places": False, "none": False, "cells": True, "nothing": False}


def test_layers_of_a_dict_keep_their_names_and_differ_in_colour(sandbox_client: DatasetClient) -> None:
    shown = {"4P": [[1, 2, 3]], "6P-IT": [[4, 5, 6]], "MC": [[7, 8, 9]]}
    layers = state_of(sandbox_client.neuroglancer_url(annotations=shown))["layers"][2:]
    assert [layer["name"] for layer in layers] == [*shown]
    assert len({layer["annotationColor"] for layer in layers}) == len(shown)
    chosen = {"MC": "orange", "4P": (0, 0, 1.0)}
    layers = state_of(sandbox_client.neuroglancer_url(annotations=shown, colors=chosen))["layers"][2:]
    assert [layers[0]["annotationColor"], layers[2]["annotationColor"]] == ["#0000ff", "#ffa500"]
    with pytest.raises(ValueError, match="colour 'oramge' of the layer '4P' is unknown"):
        sandbox_client.neuroglancer_url(annotations=shown, colors="oramge")
    with pytest.raises(ValueError, match="two layers would be called 'segmentation'"):
        sandbox_client.neuroglancer_url(annotations={"segmentation": [[1, 2, 3]]})


@pytest.mark.parametrize("root", [864691135336055529, np.int64(7), [7, 8]])
def test_a_root_id_in_the_place_of_the_site_is_explained(sandbox_client: DatasetClient, root: Any) -> None:
    with pytest.raises(TypeError, match="root ids go into root_ids="):
        sandbox_client.neuroglancer_url(root)


def test_short_links_lead_to_the_same_state(sandbox: Sandbox, sandbox_client: DatasetClient) -> None:
    short = sandbox_client.neuroglancer_url(root_ids=7, position=[1, 2, 3], shorten=True)
    assert short.startswith(sandbox.url)
    address = short.partition("#!")[2]
    assert address.startswith(sandbox.url), "a plain http viewer cannot open middleauth+http"
    state = sandbox_client.get_state_json(int(address.rpartition("/")[2]))
    assert state == state_of(sandbox_client.neuroglancer_url(root_ids=7, position=[1, 2, 3]))


def test_states_too_long_for_an_address_are_stored(sandbox: Sandbox, sandbox_client: DatasetClient) -> None:
    points = np.random.default_rng(3).uniform(0, 1e5, (11_000, 3))
    url = sandbox_client.neuroglancer_url(annotations=points)
    assert len(url) < 1000
    state = sandbox_client.get_state_json(int(url.rpartition("/")[2]))
    assert len(layer_of(state, "annotations")["annotations"]) == 11_000


def test_segment_properties_are_uploaded_and_attached(
    sandbox: Sandbox, sandbox_client: DatasetClient
) -> None:
    table = pd.DataFrame(
        {"pt_root_id": [864691135336055529, 8], "cell_type": ["a", "b"], "depth": [1.5, 2.5]}
    )
    state = state_of(sandbox_client.neuroglancer_url(seg_prop=table))
    source = layer_of(state, "segmentation")["source"][-1]["url"]
    assert source.startswith(f"precomputed://{sandbox.url}/")
    stored = properties_of(sandbox_client, table)
    assert stored["inline"]["ids"] == ["864691135336055529", "8"]
    again = state_of(sandbox_client.neuroglancer_url(seg_prop=stored))
    assert len(layer_of(again, "segmentation")["source"]) == len(layer_of(state, "segmentation")["source"])
    with pytest.raises(ValueError, match="'depth' is that of several"):
        sandbox_client.neuroglancer_url(seg_prop=table.set_axis(["root_id", "depth", "depth"], axis=1))
    with pytest.raises(ValueError, match="pt_root_id or root_id"):
        sandbox_client.neuroglancer_url(seg_prop=pd.DataFrame({"id": [1]}))


def test_segment_properties_keep_what_they_are_given(sandbox_client: DatasetClient) -> None:
    table = pd.DataFrame(
        {
            "root_id": [864691135336055529, 8],
            "partner": [864691135336055531, 2**40],
            "count": pd.array([1, -2], dtype="Int64"),
            "depth": [0.5, 2.25],
            "seen": pd.to_datetime(["2025-01-02", None]),
        },
        index=[5, 5],
    )
    stored = properties_of(sandbox_client, table)
    found = {each["id"]: (each["type"], each["values"]) for each in stored["inline"]["properties"]}
    assert found == {
        # more than 32 bits are a number to no viewer, and would be cut
        "partner": ("string", ["864691135336055531", str(2**40)]),
        "count": ("number", [1, -2]),
        "depth": ("number", [0.5, 2.25]),
        "seen": ("string", ["2025-01-02 00:00:00", ""]),
    }


def test_truth_values_categories_and_texts_become_tags(sandbox_client: DatasetClient) -> None:
    count = 101  # one text more than become tags
    table = pd.DataFrame(
        {
            "root_id": range(1, count + 1),
            "proofread": [True, False, True, *[False] * (count - 3)],
            "has axon": pd.array([None, True, False, *[False] * (count - 3)], dtype="boolean"),
            "cell_type": ["L2 IT", None, "BC", *["BC"] * (count - 3)],
            "layer": pd.Categorical(["L4", "L2", None, *["L2"] * (count - 3)], categories=["L2", "L4", "L6"]),
            "coarse": pd.array(["BC", "", "#EX", *[None] * (count - 3)], dtype="string"),
            "tags": [f"note {number}" for number in range(count)],
            "size": 1.5,
        }
    )
    inline = properties_of(sandbox_client, table)["inline"]
    assert inline["ids"] == [str(number) for number in range(1, count + 1)]
    kinds = [(each["id"], each["type"]) for each in inline["properties"]]
    assert sorted(kinds) == [("size", "number"), ("tags", "string"), ("tags_", "tags")]
    (tags,) = (each for each in inline["properties"] if each["type"] == "tags")
    # by column; texts sorted, categories in their own order; a tag of two columns says of which it is
    assert tags["tags"] == ["proofread", "has_axon", "cell_type:BC", "L2_IT", "L2", "L4", "coarse:BC", "EX"]
    assert tags["values"][:4] == [[0, 3, 5, 6], [1, 4], [0, 2, 7], [2, 4]]
    assert len(tags["values"]) == count
    (alone,) = properties_of(sandbox_client, table[["root_id", "proofread"]])["inline"]["properties"]
    assert (alone["tags"], alone["values"][:3]) == (["proofread"], [[0], [], [0]])
    none = table.iloc[:0].astype({"size": "int64"})
    assert properties_of(sandbox_client, none)["inline"]["ids"] == []


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"root_id": [1.0], "a": ["x"]}, TypeError, "float"),
        ({"root_id": [7, 7], "a": ["x", "y"]}, ValueError, "7 twice"),
        ({"root_id": [7, 0], "a": ["x", "y"]}, ValueError, "0 which is none"),
        ({"root_id": [7, 8], "a": [1.5, np.nan]}, ValueError, "'a' lacks 1 numbers"),
        (
            {"root_id": [7, 8], "a": [1.5, -np.inf]},
            ValueError,
            "'a' holds numbers too large for float32: -inf",
        ),
        ({"root_id": [7, 8], "a": [1.5, 1e300]}, ValueError, "'a' holds numbers too large for float32"),
        ({"root_id": pd.array([7, None], dtype="Int64"), "a": [1, 2]}, ValueError, "missing"),
    ],
)
def test_segment_properties_that_cannot_be_said_are_refused(
    sandbox_client: DatasetClient, table: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sandbox_client.neuroglancer_url(seg_prop=pd.DataFrame(table))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root_ids": [7, -1]}, "root_ids holds -1"),
        ({"root_ids": 0}, "is no segment"),
        ({"position": [1, 2, np.nan]}, "none missing"),
        ({"position": [1, 2, 3], "resolution": (4, 4)}, "three sizes"),
        ({"target_url": "spelunker"}, "address of a Neuroglancer site"),
        ({"shorten": "yes"}, "shorten must be"),
    ],
)
def test_what_no_viewer_can_open_is_refused(
    sandbox_client: DatasetClient, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sandbox_client.neuroglancer_url(**options)


def test_viewer_can_be_added_to_and_another_site_chosen(
    sandbox: Sandbox, sandbox_client: DatasetClient
) -> None:
    viewer = sandbox_client.neuroglancer_viewer(root_ids=[7])
    assert viewer.layer_names == ["imagery", "segmentation"]
    viewer.add_points(np.array([[1, 2, 3]]), name="mine", data_resolution=[1, 1, 1])
    assert [layer["name"] for layer in viewer.to_dict()["layers"]][-1] == "mine"
    elsewhere = sandbox_client.neuroglancer_url("https://viewer.example.org/")
    assert elsewhere.startswith("https://viewer.example.org/")
    assert all(record.status == 200 for record in sandbox.requests)


def test_the_clipboard_has_the_link_and_a_missing_one_is_named(
    sandbox_client: DatasetClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyperclip

    copied: list[str] = []
    monkeypatch.setattr(pyperclip, "copy", copied.append)
    assert [sandbox_client.neuroglancer_url(clipboard=True)] == copied
    monkeypatch.setattr(pyperclip, "copy", pyperclip.init_no_clipboard()[0])
    with pytest.raises(CortexError, match="no clipboard"):
        sandbox_client.neuroglancer_url(clipboard=True)


def test_failing_state_service_is_our_error(sandbox: Sandbox, sandbox_client: DatasetClient) -> None:
    with pytest.raises(ServiceError):
        sandbox_client.get_state_json(999_999_999)


def test_every_built_in_viewer_takes_the_state(sandbox: Sandbox, sandbox_client: DatasetClient) -> None:
    synapses = sandbox_client.query_synapses(
        [int(sandbox.truth.root_of_cell([int(sandbox.truth.cells["cell_id"].iloc[0])])[0])],
        pre=True,
        progress=False,
    )
    written = {cortexclient.get_spec(name).viewer_site for name in cortexclient.list_datasets()}
    # what the info services of the others say: a mainline Neuroglancer and an older one
    sites = {*written, "https://neuroglancer-demo.appspot.com", "https://ngl.cave-explorer.org"} - {None}
    assert len(sites) > len(written) - 1 > 0
    states = []
    for site in sorted(sites):
        url = sandbox_client.neuroglancer_url(target_url=site, annotations=synapses, position=[4e5, 4e5, 8e5])
        assert url.startswith(site)
        states.append(state_of(url))
    names = [{layer["name"] for layer in state["layers"]} for state in states]
    assert all(found == names[0] for found in names)
    assert all(state["dimensions"] == states[0]["dimensions"] for state in states)
    assert all(len(layer_of(state, "segmentation")["source"]) > 0 for state in states)
