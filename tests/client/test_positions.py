"""Positions by every road: float64 made from the table's own voxels, one set of types, a missing point is NaN."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cortexclient import errors
from cortexclient.sandbox import Sandbox

AXES = "xyz"


@pytest.fixture(scope="module")
def gaps(tiny, tmp_path_factory):
    """A cortex of odd units, in which half the nuclei have no box; its folder, and a server on it."""
    folder = tmp_path_factory.mktemp("gaps") / "data"
    shutil.copytree(tiny.folder.path, folder)
    for file in folder.glob("tables/nucleus_detection.*.parquet"):
        rows = pd.read_parquet(file)
        for column in [name for name in rows.columns if name.startswith("bb_")]:
            rows[column] = rows[column].astype("Int32")
            rows.loc[rows.index[::2], column] = pd.NA
        rows.to_parquet(file)
    with Sandbox("sandbox", data=folder) as sandbox:
        yield sandbox


def stored(folder: Path, table: str) -> pd.DataFrame:
    rows = pd.read_parquet(folder / "tables" / f"{table}.v3.parquet").sort_values("id")
    return rows[rows["valid"].astype(bool)]


def voxels(folder: Path, table: str, point: str) -> np.ndarray:
    rows = stored(folder, table)
    return rows[[f"{point}_{axis}" for axis in AXES]].to_numpy(dtype=float, na_value=np.nan)


def points_of(frame, point: str, *, split: bool) -> np.ndarray:
    """Read one point of a frame of any kind as float64, whatever stands for a missing one."""
    table = frame if isinstance(frame, pd.DataFrame) else frame.to_pandas()
    if split:
        return table[[f"{point}_{axis}" for axis in AXES]].to_numpy(dtype=float, na_value=np.nan)
    return np.array([np.asarray(list(row), dtype=float) for row in table[point]])


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("kind", ["pandas", "arrow", "polars"])
@pytest.mark.parametrize("resolution", [[1, 1, 1], [7, 7, 90], [4, 4, 40], None])
def test_they_are_the_tables_own_voxels_times_its_unit(gaps, monkeypatch, kind, split, resolution):
    client = gaps.load(version=3)
    http, bodies = client.session.http, []
    send = http.send
    monkeypatch.setattr(
        http, "send", lambda *args, **more: bodies.append(more.get("body")) or send(*args, **more)
    )
    frame = client.tables.nucleus_detection().query(
        split_positions=split, return_as=kind, desired_resolution=resolution
    )
    for point in ("pt_position", "bb_start_position"):
        expected = voxels(gaps.folder.path, "nucleus_detection", point)
        if resolution is not None:
            expected = expected * [4, 4, 40] / np.array(resolution)
        assert np.isnan(expected).any() == (point == "bb_start_position")
        found = points_of(frame, point, split=split)
        np.testing.assert_array_equal(found, expected)
    assert {} in bodies
    assert "desired_resolution" not in str(bodies)


@pytest.mark.parametrize("way", ["table", "view", "join", "live", "synapses", "live synapses"])
@pytest.mark.parametrize("resolution", [[1, 1, 1], None])
def test_every_road_has_the_same_types(gaps, way, resolution):
    client = gaps.load(version=3)
    at = client.session.timestamp + timedelta(seconds=5)
    root = int(client.tables.nucleus_detection().query()["pt_root_id"].max())
    options = {"desired_resolution": resolution}
    ask = {
        "table": lambda **more: client.tables.nucleus_detection().query(**options, **more),
        "view": lambda **more: client.views.cell_info().query(**options, **more),
        "join": lambda **more: client.tables.cell_types().query(**options, **more),
        "live": lambda **more: client.tables.nucleus_detection().query(timestamp=at, **options, **more),
        "synapses": lambda **more: client.query_synapses(
            root, pre=True, resolution=resolution, progress=False, **more
        ),
        "live synapses": lambda **more: client.query_synapses(
            root, pre=True, resolution=resolution, timestamp=at, progress=False, **more
        ),
    }[way]
    split, whole = ask(split_positions=True), ask(split_positions=False)
    expected = np.float64 if resolution else np.int64
    names = [name[:-2] for name in split.columns if name.endswith("_position_x")]
    assert names
    for name in names:
        missing = split[f"{name}_x"].isna()
        for axis in AXES:
            column = split[f"{name}_{axis}"]
            assert column.dtype == (np.float64 if missing.any() else expected)
            assert (column.isna() == missing).all()
        assert {cell.dtype for cell in whole[name]} == {split[f"{name}_x"].dtype}
    for name, kind in split.dtypes.items():
        assert str(kind) in {
            "int64",
            "Int64",
            "float64",
            "bool",
            "boolean",
            "string",
            "datetime64[ns, UTC]",
        }, name
    arrow, frame = ask(split_positions=True, return_as="arrow"), ask(split_positions=True, return_as="polars")
    for field in arrow.schema:
        assert str(field.type) in {"int64", "double", "bool", "string", "timestamp[ns, tz=UTC]"}, field
        if field.name[:-2] in names:
            assert field.type == (pa.float64() if resolution else pa.int64())
            assert arrow.column(field.name).null_count == (
                0 if resolution else split[field.name].isna().sum()
            )
    assert (
        frame.to_arrow().cast(arrow.schema).equals(arrow)
        or pc.any(pc.is_nan(arrow[f"{names[-1]}_x"])).as_py()
    )


def test_what_takes_positions_takes_missing_ones(gaps):
    client = gaps.load(version=3)
    nuclei = client.tables.nucleus_detection().query()
    missing = nuclei["bb_start_position"].map(lambda point: np.isnan(point).all())
    assert 0 < missing.sum() < len(nuclei)
    assert (np.isnan(client.depth(nuclei, column="bb_start_position")) == missing).all()
    moved = client.space.transform_nm.apply_dataframe("bb_start_position", nuclei)
    assert (np.isnan(np.stack(moved)).all(axis=1) == missing).all()
    boxes = nuclei[["id", "bb_start_position"]].rename(columns={"bb_start_position": "pt_position"})
    assert "pt_position" not in client.neuroglancer_url(annotations=boxes)


def test_bare_reference_rows(gaps):
    client = gaps.load(version=3)
    rows = stored(gaps.folder.path, "cell_types")
    bare = client.tables.cell_types().query(merge_reference=False)
    assert bare["id"].tolist() == rows["id"].tolist()
    assert bare["target_id"].tolist() == rows["target_id"].tolist()
    assert "pt_root_id" not in bare
    few = rows["id"].tolist()[1:3]
    for frame in (
        client.tables.cell_types(id=few).query(merge_reference=False),
        client.query("cell_types", merge_reference=False, filter_in_dict={"id": few}),
    ):
        assert frame["id"].tolist() == few
    with pytest.raises(errors.InvalidQueryError, match="pt_root_id"):
        client.query("cell_types", merge_reference=False, pt_root_id=5)


def test_caveclients_own_words(gaps):
    client = gaps.load(version=3)
    nuclei = client.tables.nucleus_detection
    pd.testing.assert_frame_equal(
        nuclei().query(["id", "volume"], 1, 3),
        nuclei().query(select_columns=["id", "volume"], offset=1, limit=3),
    )
    at = client.session.timestamp + timedelta(seconds=5)
    live = nuclei().query(timestamp=at, limit=4)
    pd.testing.assert_frame_equal(nuclei.get_all_live(at, None, 4, log_warning=False), live)
    pd.testing.assert_frame_equal(nuclei().live_query(at, limit=4), live)
    with pytest.raises(TypeError, match="limit twice"):
        nuclei().live_query(at, None, 4, limit=4)
    with pytest.raises(TypeError, match="needs a time"):
        nuclei().live_query(None)
    want = {"nucleus_detection": ["pt_position", "pt_root_id"], "cell_types": ["id", "cell_type"]}
    found = client.tables.cell_types().query(want, log_warning=False)
    assert list(found.columns) == ["pt_supervoxel_id", "pt_root_id", "id_ref", "cell_type", "pt_position"]
    for wrong, said in (
        ({"cell_type": ["id"]}, "not queried; queried are"),
        ({"cell_types": ["nope"]}, "no column 'nope'"),
    ):
        with pytest.raises(errors.InvalidQueryError, match=said):
            client.tables.cell_types().query(select_columns=wrong)


@pytest.mark.parametrize(
    ("filters", "advice"),
    [
        ({"bounding_box": [[0, 0, 0], [9, 9, 9]]}, "ctr_pt_position_bbox="),
        ({"filter_spatial": {"ctr_pt_position": [[0, 0, 0], [9, 9, 9]]}}, "filter_spatial_dict="),
        ({"filter_in": {"id": [1]}}, "did you mean filter_in_dict="),
        ({"sizes": {"~": 3}}, "did you mean size"),
        ({"size": {"~": 3}}, "unknown operators"),
    ],
)
def test_unknown_names_come_before_their_values(gaps, filters, advice):
    with pytest.raises(errors.InvalidQueryError, match=advice):
        gaps.load(version=3).query("synapses_sandbox", **filters)
