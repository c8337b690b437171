from __future__ import annotations

import gzip
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from cortexclient.errors import NotConfiguredError, SpecError
from cortexclient.services.annotation_layers import annotation_layers
from cortexclient.services.space import Space
from cortexclient.session import Session
from cortexclient.spec import spec_from_mapping

if TYPE_CHECKING:
    from pathlib import Path


BASE: dict[str, Any] = {
    "name": "brain",
    "title": "A brain",
    "server_address": "http://127.0.0.1:1",
    "datastack": "brain",
    "voxel_resolution": [4, 4, 40],
}


def make_space(transform: Any, **more: Any) -> Space:
    return Space(
        Session(spec_from_mapping({**BASE, **more, **({"transform": transform} if transform else {})}))
    )


def line_starts(folder: Path, name: str) -> np.ndarray:
    state = json.loads(gzip.decompress((folder / "transforms" / name).read_bytes()))
    return np.array(
        [a["pointA"] for layer in state["layers"] for a in layer.get("annotations", [])], dtype=float
    )


@pytest.mark.parametrize(
    ("transform", "name", "voxel", "first", "tolerance"),
    [
        ("minnie65", "minnie_streamline_grid_state.json.gz", [4, 4, 40], 10, 0.005),
        ({"dataset": "v1dd", "version": "2.0"}, "v1dd_streamline_grid_state.json.gz", [9, 9, 45], 10, 0.02),
        ({"dataset": "v1dd", "version": "1.4"}, "v1dd_streamline_grid_state.json.gz", [9, 9, 45], -6, None),
    ],
)
def test_depths_of_real_grids(
    shared_data: Path, transform: Any, name: str, voxel: list[int], first: float, tolerance: float | None
) -> None:
    points = line_starts(shared_data, name)
    space = make_space(transform, voxel_resolution=voxel)
    depth = space.depth(points * voxel)
    if tolerance is None:
        # another version of the same transform gives other depths: the pinned one must be used
        assert abs(depth.min() - first) < 1
    else:
        grid = first + 40 * np.round((depth - first) / 40)
        assert np.abs(depth - grid).max() < tolerance
        assert len(np.unique(grid)) > 10
    np.testing.assert_allclose(space.depth(points, resolution="vx"), depth, atol=1e-6)
    np.testing.assert_allclose(space.depth(points, resolution=voxel), depth, atol=1e-6)


def test_offers_what_the_seed_uses_without_warnings() -> None:
    space = make_space("minnie65")
    df = pd.DataFrame(
        {"pt_position": [[700_000, 500_000, 900_000], [710_000, 510_000, 900_000]], "id": [1, 2]}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depth = space.transform_nm.apply_dataframe("pt_position", df, projection="y")
        straight = space.streamline_nm.radial_points(
            [700_000, 500_000, 900_000], np.vstack(df["pt_position"])
        )
    assert depth == pytest.approx(list(space.depth(df)))
    assert straight.shape == (2, 3)
    assert space.transform_vx.apply([175_000, 125_000, 22_500])[1] == pytest.approx(depth[0])
    assert space.transform_nm is space.transform_nm


def test_depth_takes_every_kind_of_points() -> None:
    space = make_space("minnie65")
    nm = np.array([[700_000, 500_000, 900_000], [710_000, 510_000, 900_000], [1, 2, 3]], dtype=float)
    expected = space.transform_nm.apply(nm)[:, 1]
    split = pd.DataFrame({f"ctr_pt_position_{axis}": nm[:, k] for k, axis in enumerate("xyz")})
    joined = pd.DataFrame({f"pt_position_{axis}_ref": nm[:, k] for k, axis in enumerate("xyz")})
    np.testing.assert_allclose(space.depth(nm), expected)
    np.testing.assert_allclose(space.depth(nm.tolist()), expected)
    np.testing.assert_allclose(space.depth(pd.Series(list(nm))), expected)
    np.testing.assert_allclose(space.depth(split), expected)
    np.testing.assert_allclose(space.depth(joined, column="pt_position_ref"), expected)
    assert float(space.depth(nm[0])) == pytest.approx(expected[0])
    assert space.depth([]).shape == (0,)
    assert space.depth(split.iloc[:0]).shape == (0,)
    assert space.depth(split, along_streamline=True).shape == (3,)


def test_missing_positions_have_no_depth() -> None:
    space = make_space("minnie65")
    nowhere = np.array([pd.NA, pd.NA, pd.NA], dtype=object)
    df = pd.DataFrame({"pt_position": [[700_000, 500_000, 900_000], None, nowhere, np.full(3, np.nan)]})
    assert np.isnan(space.depth(df)).tolist() == [False, True, True, True]
    assert np.isnan(space.depth(df["pt_position"])).tolist() == [False, True, True, True]
    split = pd.DataFrame(np.stack(df["pt_position"].iloc[[0, 2]]), columns=list("xyz")).add_prefix(
        "pt_position_"
    )
    assert np.isnan(space.depth(split.convert_dtypes())).tolist() == [False, True]
    assert np.isnan(space.depth(np.stack(df["pt_position"].iloc[[0, 2]]))).tolist() == [False, True]


def test_resolution_of_the_frame_is_heeded() -> None:
    space = make_space("minnie65")
    df = pd.DataFrame({"pt_position": [[175_000, 125_000, 22_500]]})
    df.attrs["dataframe_resolution"] = [4.0, 4.0, 40.0]
    assert space.depth(df)[0] == pytest.approx(float(space.depth([700_000, 500_000, 900_000])))
    assert space.depth(df["pt_position"])[0] == space.depth(df)[0]
    # as caveclient says of tables that are joined, and as the synapses of a transformed neuron say of themselves
    for attrs, message in (
        ({"dataframe_resolution": "mixed_resolutions"}, "mixed_resolutions"),
        ({"dataframe_resolution": [4, 4]}, "three sizes"),
        ({"unit": "um", "space": "rigid"}, "in the space 'rigid'"),
    ):
        df.attrs = attrs
        for read in (space.depth, annotation_layers):
            with pytest.raises(ValueError, match=message):
                read(df)


@pytest.mark.parametrize("transform", ["minnie65", {"steps": [{"scaling": 0.001}]}])
@pytest.mark.parametrize("resolution", ["um", [4, 4], 4, [4, 4, 0], [4, 4, np.nan], [-4, 4, 40]])
def test_a_resolution_that_is_none_is_not_the_specs_fault(transform: Any, resolution: Any) -> None:
    with pytest.raises(ValueError, match="resolution must be") as caught:
        make_space(transform).depth([[1, 2, 3]], resolution=resolution)
    assert not isinstance(caught.value, SpecError)


def test_two_positions_must_be_told_apart() -> None:
    space = make_space("minnie65")
    df = pd.DataFrame({f"{side}_pt_position": [[1, 2, 3]] for side in ("pre", "post")})
    with pytest.raises(ValueError, match="pre_pt_position"):
        space.depth(df)
    with pytest.raises(ValueError, match="no position column 'nope'"):
        space.depth(df, column="nope")
    assert space.depth(df, column="pre_pt_position").shape == (1,)


def test_declared_steps_do_what_the_library_does() -> None:
    library = make_space({"dataset": "minnie65", "version": "1.4"})
    angle = np.deg2rad(5)
    matrix = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    pia = np.array([183013, 83535, 21480]) * [4, 4, 45] @ np.array(matrix).T
    line = [[0, 0, 0], [30, 400, -20], [80, 800, -90]]
    steps = [{"rotation": {"axis": "z", "degrees": 5}}, {"translation": [0, -pia[1], 0]}, {"scaling": 0.001}]
    by_axis = make_space({"steps": steps, "streamline_points": line})
    by_matrix = make_space({"steps": [{"rotation": {"matrix": matrix}}, *steps[1:]]})
    points = np.random.default_rng(0).uniform(3e5, 9e5, size=(20, 3))
    expected = library.transform_nm.apply(points)
    np.testing.assert_allclose(by_axis.transform_nm.apply(points), expected, atol=1e-9)
    np.testing.assert_allclose(by_matrix.transform_nm.apply(points), expected, atol=1e-9)
    np.testing.assert_allclose(by_matrix.transform_nm.invert(expected), points, rtol=1e-9)
    np.testing.assert_allclose(by_axis.transform_vx.apply(points / [4, 4, 40]), expected, atol=1e-6)
    moved = by_axis.mover("streamline", anchor=points[0])(points)
    np.testing.assert_allclose(moved, by_axis.streamline_nm.radial_points(points[0], points))
    with pytest.raises(NotConfiguredError, match="streamline_points"):
        _ = by_matrix.streamline_nm


def test_streamlines_follow_the_pinned_transform() -> None:
    space = make_space({"dataset": "v1dd", "version": "1.4"})
    assert space.streamline_nm.transform_version == "1.4"
    assert make_space("v1dd").streamline_nm.transform_version == "2.0"
    pinned = make_space({"dataset": "minnie65", "streamline_version": "1.4"})
    assert pinned.streamline_nm.version == "1.4"


def test_movers_take_empty_arrays_and_missing_points() -> None:
    space = make_space("minnie65")
    rigid = space.mover("rigid")
    assert rigid(np.empty((0, 3))).shape == (0, 3)
    assert np.isnan(rigid([[np.nan, 1, 2], [1, 2, 3]])).any(axis=1).tolist() == [True, False]
    with pytest.raises(ValueError, match="rigd"):
        space.mover("rigd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="anchor"):
        space.mover("streamline")


def test_what_is_not_configured_says_so() -> None:
    with pytest.raises(NotConfiguredError, match="transform:"):
        make_space(None)
    with pytest.raises(SpecError, match="minnie65"):
        _ = make_space("fly").transform_nm
    with pytest.raises(SpecError, match=r"9\.9"):
        _ = make_space({"dataset": "minnie65", "version": "9.9"}).transform_nm


def test_layers_come_from_the_spec() -> None:
    layers = [{"name": "L1", "top_um": 0, "bottom_um": 100}]
    space = make_space("minnie65", layers=layers, depth_range_um=[0, 775])
    assert space.layers[0].name == "L1"
    assert space.depth_range_um == (0, 775)
