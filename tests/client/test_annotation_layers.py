"""Tables of points become layers with every point, id and unit in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from cortexclient.services.annotation_layers import (
    COLOR_CYCLE,
    POSTSYNAPTIC,
    annotation_layers,
)

ROOT = 864691135336055529


def synapses() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "id": [1, 2, 3],
            "pre_pt_root_id": [ROOT, ROOT + 2, 9],
            "post_pt_root_id": [ROOT + 2, ROOT, 8],
            "size": [1.0, 2.0, 3.0],
        }
    )
    for number, axis in enumerate("xyz"):
        frame[f"ctr_pt_position_{axis}"] = [100.0 + number, 200.0 + number, 300.0 + number]
    return frame


def test_ids_beside_float_columns_keep_every_digit() -> None:
    # an array over the whole frame would be float64, in which these two ids are one
    frame = synapses()
    assert [layer.segments for layer in annotation_layers(frame)] == [
        [[ROOT, ROOT + 2], [ROOT + 2, ROOT], [9, 8]]
    ]


def test_units_come_from_the_query_unless_they_are_given() -> None:
    frame = synapses()
    assert annotation_layers(frame)[0].resolution == (1, 1, 1)
    frame.attrs["dataframe_resolution"] = [4, 4, 40]
    assert annotation_layers(frame)[0].resolution == (4, 4, 40)
    assert annotation_layers(frame, resolution=(8, 8, 40))[0].resolution == (8, 8, 40)
    assert annotation_layers([[1, 2, 3]], resolution=(4, 4, 40))[0].resolution == (4, 4, 40)
    frame["pt_position"] = [[1, 2, 3]] * 3
    assert annotation_layers(frame["pt_position"])[0].resolution == (4, 4, 40)


@pytest.mark.parametrize(
    ("colors", "expected"),
    [
        ("red", ["red", "red", "red"]),
        ((0.1, 0.2, 0.3), [(0.1, 0.2, 0.3)] * 3),
        (np.array([0.1, 0.2, 0.3]).tolist(), [[0.1, 0.2, 0.3]] * 3),
        (["red", "#00ff00"], ["red", "#00ff00", "red"]),
        ({"b": "red"}, [COLOR_CYCLE[0], "red", COLOR_CYCLE[2]]),
    ],
)
def test_colours_can_be_chosen(colors: Any, expected: list[Any]) -> None:
    layers = annotation_layers({name: [[1, 2, 3]] for name in "abc"}, colors=colors)
    assert [layer.color for layer in layers] == expected


def test_colours_of_sides_and_of_layers_that_do_not_exist() -> None:
    layers = annotation_layers(synapses(), root_ids=[ROOT], colors={POSTSYNAPTIC: "red"})
    assert [layer.color for layer in layers if layer.name == POSTSYNAPTIC] == ["red"]
    with pytest.raises(ValueError, match="'dendrites', which is not shown; the layers are"):
        annotation_layers(synapses(), root_ids=[ROOT], colors={"dendrites": "red"})
    with pytest.raises(ValueError, match="colors is empty"):
        annotation_layers(synapses(), colors=[])


def test_whole_positions_and_plain_axes() -> None:
    whole = pd.DataFrame({"pt_position": [[1, 2, 3], [4, 5, 6]], "pt_root_id": [0, ROOT]})
    layer = annotation_layers(whole)[0]
    assert layer.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert layer.segments == [[], [ROOT]]
    assert annotation_layers(pd.DataFrame({"x": [1], "y": [2], "z": [3]}))[0].points.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("nothing", [[], np.empty((0, 3)), synapses().iloc[:0]])
def test_nothing_gives_an_empty_layer(nothing: object) -> None:
    (layer,) = annotation_layers(nothing)  # type: ignore[arg-type]
    assert layer.points.shape == (0, 3)


def test_what_is_no_point_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 4\)"):
        annotation_layers([[1, 2, 3, 4]])
    with pytest.raises(ValueError, match="no column of positions"):
        annotation_layers(pd.DataFrame({"a": [1]}))


def test_rows_without_a_position_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    frame = synapses()
    frame.loc[1, "ctr_pt_position_y"] = np.nan
    layer = annotation_layers(frame)[0]
    assert layer.points.tolist() == [[100, 101, 102], [300, 301, 302]]
    assert layer.descriptions == ["id 1", "id 3"]
    assert layer.segments == [[ROOT, ROOT + 2], [9, 8]]
    assert "1 of 3 points" in caplog.text
    whole = pd.DataFrame(
        {"pt_position": [None, [4, 5, 6]], "pt_root_id": pd.array([None, ROOT], dtype="Int64")}
    )
    (layer,) = annotation_layers(whole)
    assert (layer.points.tolist(), layer.segments) == ([[4, 5, 6]], [[ROOT]])
    assert annotation_layers([[np.nan, 1, 2]])[0].points.shape == (0, 3)


@pytest.mark.parametrize(
    "missing", [np.array([np.nan] * 3), np.array([pd.NA] * 3, dtype=object), None, pd.NA]
)
def test_every_kind_of_missing_position_is_left_out(
    missing: object, caplog: pytest.LogCaptureFixture
) -> None:
    cells = [np.array([1, 2, 3], dtype=np.int32), missing]
    for data in (pd.DataFrame({"pt_position": cells, "id": [5, 6]}), pd.Series(cells)):
        (layer,) = annotation_layers(data)  # type: ignore[arg-type]
        assert layer.points.tolist() == [[1, 2, 3]]
    assert layer.descriptions == []
    assert caplog.text.count("1 of 2 points of 'annotations' have no position") == 2


def test_ids_that_lost_digits_are_refused() -> None:
    with pytest.raises(TypeError, match="pt_root_id holds the float"):
        annotation_layers(pd.DataFrame({"pt_position": [[1, 2, 3]], "pt_root_id": [float(ROOT)]}))


@pytest.mark.parametrize("size", [(4, 4), (0, 4, 40), (4, 4, np.nan), 4])
def test_resolution_is_three_sizes(size: object) -> None:
    with pytest.raises(ValueError, match="resolution must be three sizes"):
        annotation_layers([[1, 2, 3]], resolution=size)  # type: ignore[arg-type]
