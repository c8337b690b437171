"""Roots at points and points in roots, against the truth of the tiny cortex."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cortexclient.plotting import connectivity_matrix


def somas(sandbox, time=None) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the somas in nm, and the roots that they have at a time."""
    cells = sandbox.truth.cells
    roots = sandbox.truth.roots_at(time).set_index("piece")["root_id"].loc[cells["piece"]].to_numpy()
    return cells[["soma_x_nm", "soma_y_nm", "soma_z_nm"]].to_numpy(), roots


def test_the_root_at_a_point_is_that_of_the_clients_moment(tiny):
    points, now = somas(tiny)
    outside = [[-5e6, 0, 0], [np.nan, 1, 1], [1e30, 0, 0], [1, -np.inf, 1]]
    found = tiny.load().root_at(np.vstack([points, outside, points[:1]]))
    assert found.tolist() == [*now.tolist(), 0, 0, 0, 0, now[0]]
    assert found.dtype == np.int64
    earliest = tiny.load(version=1)
    points, then = somas(tiny, earliest.version_timestamp())
    assert (then != now).any()
    assert earliest.root_at(points).tolist() == then.tolist()
    assert earliest.root_at(points[0]).tolist() == then[:1].tolist()
    frame = pd.DataFrame({"pt_position": list(points)})
    assert earliest.root_at(frame, column="pt_position").tolist() == then.tolist()
    latest = tiny.load(version=3)
    for unit in ([4, 4, 40], [8, 8, 40], [1, 1, 1]):
        nuclei = latest.tables.nucleus_detection().query(desired_resolution=unit)
        assert (nuclei["pt_root_id"] > 0).any()
        for given in (nuclei, nuclei["pt_position"]):
            assert latest.root_at(given).tolist() == nuclei["pt_root_id"].tolist()
    for kind in ("arrow", "polars"):
        table = latest.tables.nucleus_detection().query(return_as=kind)
        for given in (table, table["pt_position"]):
            assert latest.root_at(given).tolist() == nuclei["pt_root_id"].tolist()
        np.testing.assert_array_equal(latest.depth(table), latest.depth(nuclei))
        one = table.select(["pt_root_id", "id"]).slice(int(nuclei["pt_root_id"].argmax()), 1)
        shown = latest.neuroglancer_viewer(annotations=table, seg_prop=one)
        assert len(shown.to_dict()["layers"][-1]["annotations"]) == len(nuclei)
        edges = latest.query_synapses(nuclei["pt_root_id"].max(), pre=True, progress=False, return_as=kind)
        assert connectivity_matrix(edges).to_numpy().sum() == len(edges)
    for unit in ([4, 4, 40], [8, 8, 40]):  # an Arrow table states it, too
        table = latest.tables.nucleus_detection().query(desired_resolution=unit, return_as="arrow")
        assert latest.root_at(table).tolist() == nuclei["pt_root_id"].tolist()
        np.testing.assert_allclose(latest.depth(table), latest.depth(nuclei), atol=0.05)
    with pytest.raises(ValueError, match="shape"):
        latest.root_at(np.zeros((2, 2, 3)))
    assert tiny.load().root_at(points, timestamp=earliest.version_timestamp()).tolist() == then.tolist()
    cells = tiny.truth.cells
    assert earliest.root_at(points, stop_layer=1).tolist() == cells["soma_supervoxel_id"].tolist()
    assert earliest.root_at(np.zeros((0, 3))).tolist() == []


def test_anchor_points_lie_in_their_roots_before_and_after_edits(tiny):
    client = tiny.load(version=2)
    history = tiny.truth.history
    at = client.version_timestamp()
    valid = history[(history["valid_from"] <= at) & ~(history["valid_until"] <= at)]
    cells = valid[valid["cell_id"] > 0]["root_id"].unique()[:6].tolist()
    orphans = [
        root for root in valid[valid["cell_id"] == 0]["root_id"].unique()[:4].tolist() if root not in cells
    ]
    given = [*cells, *orphans, cells[0], 0]
    frame = client.anchor_points(given)
    assert frame.index.tolist() == given
    assert set(frame["source"][: len(cells)]) <= {"nucleus", "level2"}
    assert "nucleus" in set(frame["source"])
    assert (frame.loc[orphans, "source"] == "level2").all()
    for root in orphans:
        thickness = client.get_l2data(client.get_l2_ids(root), "max_dt_nm")["max_dt_nm"]
        assert thickness[frame.loc[root, "l2_id"]] == thickness.max()
    points = np.stack(frame["pt_position"])
    assert client.root_at(points)[:-1].tolist() == given[:-1]
    assert np.isnan(points[-1]).all()
    assert frame["source"].iloc[-1] is pd.NA
    # what an edit made of a cell still has the point of its nucleus
    now = tiny.load()
    kept = frame[frame["source"] == "nucleus"]
    expected = tiny.truth.cells.set_index("cell_id").loc[kept["cell_id"], "root_id"]
    assert now.root_at(kept, column="pt_position").tolist() == expected.tolist()
