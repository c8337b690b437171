"""Figures hold what was given to them: positions, counts, units, the pia on top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from cortexclient.plotting import (
    COMPARTMENTS,
    PALETTE,
    connectivity_matrix,
    plot_connectivity,
    plot_mesh,
    plot_neuron,
    plot_synapse_depths,
)
from cortexclient.sandbox import Sandbox
from cortexclient.services.skeletons.shapes import shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

plt = pytest.importorskip("matplotlib.pyplot")

LAYERS = [("L1", 0, 100), ("L2/3", 100, 270), ("L4", 270, 400)]
# a soma with an axon down and a dendrite up
VERTICES = np.array([[0, 200, 0], [10, 250, 5], [20, 300, 5], [0, 150, 0], [5, 100, -5]], dtype=float)
EDGES = np.array([[1, 0], [2, 1], [3, 0], [4, 3]])
LABELS = np.array([1, 2, 2, 3, 3])
NEURON = {
    "vertices": VERTICES,
    "edges": EDGES,
    "compartment": LABELS,
    "root": 0,
    "meta": {"root_id": 864691135336055529},
}


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def drawn(axes: Any) -> None:
    """Draw for real: errors of lazy artists show only here."""
    axes.figure.canvas.draw()


def ends_of_lines(axes: Any) -> np.ndarray:
    """Both ends of every line of a neuron's skeleton."""
    return np.concatenate(
        [end for c in axes.collections if hasattr(c, "get_segments") for end in c.get_segments()]
    )


def sites(axes: Any) -> dict[str, Any]:
    """Label of the synapses of each side -> where they are drawn."""
    found = [(str(c.get_label()), c) for c in axes.collections]
    return {label: c.get_offsets() for label, c in found if label.endswith(")")}


def test_neuron_lies_where_its_vertices_are_with_the_pia_on_top() -> None:
    axes = plot_neuron(NEURON, layers=LAYERS)
    drawn(axes)
    lines = {
        tuple(c.get_color()[0]): c.get_segments() for c in axes.collections if hasattr(c, "get_segments")
    }
    assert sum(len(segments) for segments in lines.values()) == len(EDGES)
    assert {tuple(point) for point in ends_of_lines(axes)} == {tuple(point) for point in VERTICES[:, :2]}
    assert len(lines) == 2
    low, high = axes.get_ylim()
    assert low > 300 > 0 > high or low > 300 > high
    assert low > high
    assert "µm" in axes.get_xlabel()
    assert "µm" in axes.get_ylabel()
    assert "864691135336055529" in axes.get_title()
    texts = {text.get_text() for text in axes.texts}
    assert {"L1", "L2/3", "L4"} <= texts


def test_neuron_across_z() -> None:
    found = ends_of_lines(plot_neuron(NEURON, across="z"))
    assert {tuple(point) for point in found} == {tuple(point) for point in VERTICES[:, [2, 1]]}


def test_neuron_shows_its_sites_and_counts_them() -> None:
    pre = pd.DataFrame({"ctr_pt_position": [[20.0, 300.0, 5.0], [15.0, 280.0, 5.0]]})
    post = pd.DataFrame({f"ctr_pt_position_{axis}": [5.0] for axis in "xyz"})
    axes = plot_neuron(NEURON, pre=pre, post=post)
    drawn(axes)
    assert {label: points.tolist() for label, points in sites(axes).items()} == {
        "presynaptic sites (2)": [[20.0, 300.0], [15.0, 280.0]],
        "postsynaptic sites (1)": [[5.0, 5.0]],
    }
    assert not sites(plot_neuron(NEURON, pre=pre, synapses=False))


def test_neuron_of_a_bare_skeleton_and_of_arrays() -> None:
    from meshparty.skeleton import Skeleton

    for neuron in ((VERTICES, EDGES), Skeleton(VERTICES, EDGES, root=0)):
        shape = shape_of(neuron)
        assert shape.compartments is None
        np.testing.assert_array_equal(shape.vertices, VERTICES)
        axes = plot_neuron(neuron)
        drawn(axes)
        (lines,) = [drawing for drawing in axes.collections if hasattr(drawing, "get_segments")]
        ends = {frozenset(map(tuple, segment)) for segment in lines.get_segments()}
        assert ends == {frozenset(map(tuple, VERTICES[edge][:, :2])) for edge in EDGES}
    assert shape_of((VERTICES, EDGES)).soma is None


def test_meshwork_gives_compartments_per_skeleton_vertex() -> None:
    from meshparty import meshwork, skeleton, trimesh_io

    where = np.array([0, 1, 1, 2, 3, 4, 4])
    mesh = trimesh_io.Mesh(vertices=VERTICES[where], faces=[[0, 0, 0]], link_edges=[])
    neuron = meshwork.Meshwork(
        mesh, skeleton=skeleton.Skeleton(VERTICES, EDGES, root=0, mesh_to_skel_map=where), seg_id=12
    )
    table = pd.DataFrame({"compartment": LABELS[where], "mesh_ind": np.arange(len(where))})
    neuron.anno.add_annotations("compartment", table, index_column="mesh_ind")
    shape = shape_of(neuron)
    assert shape.compartments is not None
    np.testing.assert_array_equal(shape.compartments, LABELS)
    assert shape.soma is not None
    np.testing.assert_array_equal(shape.soma, VERTICES[0])
    assert shape.root_id == 12


@pytest.mark.parametrize("neuron", [None, "neuron", [1, 2, 3]])
def test_what_is_no_neuron_is_refused(neuron: Any) -> None:
    with pytest.raises(TypeError, match="cannot read a neuron"):
        plot_neuron(neuron)


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 compartment labels for 5"):
        plot_neuron(NEURON, compartments=np.array([1, 2]))


def test_empty_neuron_draws_empty_axes() -> None:
    axes = plot_neuron((np.empty((0, 3)), np.empty((0, 2), dtype=int)))
    drawn(axes)
    assert not [*axes.collections, *axes.lines, *axes.patches, *axes.texts]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x, along the pia (µm)", "Cortical depth (µm)")
    low, high = axes.get_ylim()
    assert low > high


def test_depth_histogram_counts_every_synapse() -> None:
    rng = np.random.default_rng(7)
    pre, post = rng.uniform(0, 500, 300), rng.uniform(0, 800, (500, 3))
    axes = plot_synapse_depths(pre, post, bin_um=50, layers=LAYERS)
    drawn(axes)
    widths = np.array([bar.get_width() for bar in axes.patches])
    assert -widths[widths < 0].sum() == 300
    assert widths[widths > 0].sum() == 500
    expected, _ = np.histogram(post[:, 1], np.arange(0, 801, 50))
    np.testing.assert_array_equal(widths[len(widths) // 2 :], expected)
    assert axes.get_xlabel() == "Synapses per 50 µm"
    shown = [label.get_text().replace(",", "") for label in axes.get_xticklabels()]
    assert all(text.isdigit() for text in shown), shown
    low, high = axes.get_ylim()
    assert low > high


def test_depth_histogram_of_one_side_or_none() -> None:
    axes = plot_synapse_depths(post=np.array([10.0, 20.0]))
    assert axes.get_xlim()[0] == 0
    axes = plot_synapse_depths(pre=np.array([]), post=np.array([]))
    drawn(axes)
    assert [bar.get_width() for bar in axes.patches] == [0, 0]
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_synapse_depths()
    with pytest.raises(ValueError, match="bin_um"):
        plot_synapse_depths(post=np.array([1.0]), bin_um=0)


def test_matrix_counts_exactly_and_keeps_ids() -> None:
    big = 864691135336055529
    synapses = pd.DataFrame(
        {
            "pre_pt_root_id": [big, big, big + 1, big + 2],
            "post_pt_root_id": [big + 1, big + 1, big, 5],
            "size": [1.5, 2.0, 4.0, 9.0],
        }
    )
    matrix = connectivity_matrix(synapses, [big + 1, big])
    assert matrix.index.tolist() == [big + 1, big]
    assert matrix.to_numpy().tolist() == [[0, 1], [2, 0]]
    assert connectivity_matrix(synapses).to_numpy().sum() == 4
    assert connectivity_matrix(synapses, weight="size").to_numpy().sum() == 16.5
    assert connectivity_matrix(synapses, [big], columns=[5, big + 1]).to_numpy().tolist() == [[0, 2]]
    empty = connectivity_matrix(synapses.iloc[:0], [big])
    assert empty.shape == (1, 1)
    assert empty.to_numpy().dtype == np.int64
    drawn(plot_connectivity(connectivity_matrix(synapses.iloc[:0]), groups={}))
    small = synapses.assign(size=np.array([100, 100, 1, 1], dtype=np.int8))
    assert connectivity_matrix(small, [big, big + 1], weight="size").to_numpy().tolist() == [[0, 200], [1, 0]]
    with pytest.raises(TypeError, match="float"):  # which would be another neuron
        connectivity_matrix(synapses, [float(big)])
    with pytest.raises(TypeError, match="pre_pt_root_id holds the float"):
        connectivity_matrix(synapses.astype({"pre_pt_root_id": float}), [big])
    gaps = synapses.astype({"pre_pt_root_id": "Int64"})
    gaps.loc[0, "pre_pt_root_id"] = pd.NA
    assert connectivity_matrix(gaps).to_numpy().sum() == 3


def test_connectivity_sorts_by_group_and_leaves_pairs_without_synapses_white() -> None:
    ids = [11, 12, 13]
    synapses = pd.DataFrame({"pre_pt_root_id": [11, 13, 13], "post_pt_root_id": [12, 11, 11]})
    axes = plot_connectivity(synapses, ids, groups={11: "b", 12: "a", 13: "b"}, title="three")
    drawn(axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["12", "11", "13"]
    shown = axes.images[0].get_array()
    assert shown.filled(0).tolist() == [[0, 0, 0], [1, 0, 0], [0, 2, 0]]
    assert shown.mask.sum() == 7
    assert {"a", "b"} <= {text.get_text() for text in axes.texts}
    same = plot_connectivity(connectivity_matrix(synapses, ids))
    assert same.images[0].get_array().filled(0).sum() == 3
    with pytest.raises(ValueError, match="matrix already"):
        plot_connectivity(connectivity_matrix(synapses, ids), ids)


def test_mesh_is_drawn_in_um_with_a_colour_per_label() -> None:
    corners = np.array([[0, 0, 0], [1000, 0, 0], [0, 2000, 0], [1000, 2000, 500]])
    faces = np.array([[0, 1, 2], [1, 2, 3]])
    axes = plot_mesh((corners, faces), labels=np.array([7, 7, 7, 0]))
    drawn(axes)
    polygons = [path.vertices[:3] for path in axes.collections[0].get_paths()]
    assert np.max(polygons) == 2.0
    assert axes.get_xlabel() == "x (µm)"
    low, high = axes.get_ylim()
    assert low > high
    drawn(plot_mesh((corners, faces), values=np.arange(4.0), value_label="depth (µm)", view="zy"))
    with pytest.raises(ValueError, match="not both"):
        plot_mesh((corners, faces), labels=np.zeros(4, int), values=np.zeros(4))
    with pytest.raises(ValueError, match="3 labels for 4 vertices"):
        plot_mesh((corners, faces), labels=np.zeros(3, int))


def sheet(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A square sheet of side x side vertices, 10 um wide, all faces wound alike."""
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(side * side)], axis=1) * (10_000 / (side - 1))
    corner = (x[:-1, :-1] * side + y[:-1, :-1]).ravel()
    lower = np.stack([corner, corner + 1, corner + side], axis=1)
    upper = np.stack([corner + 1, corner + side + 1, corner + side], axis=1)
    return vertices, np.concatenate([lower, upper])


def test_large_meshes_are_drawn_coarser_and_without_holes() -> None:
    vertices, faces = sheet(101)
    axes = plot_mesh((vertices, faces), max_faces=2000, labels=np.arange(len(vertices)) + 1)
    paths = axes.collections[0].get_paths()
    assert 1000 < len(paths) <= 2000
    corners = np.array([path.vertices[:3] for path in paths])
    edges = corners[:, 1:] - corners[:, :1]
    areas = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]) / 2
    # every face that is left covers what the faces around it did
    assert 90 < areas.sum() <= 100.001
    few = plot_mesh((vertices, faces[:50]), max_faces=50)
    assert len(few.collections[0].get_paths()) == 50


def test_values_may_be_missing_and_on_a_logarithmic_scale() -> None:
    vertices, faces = sheet(3)
    values = np.array([1.0, 10, 100, 1, 10, 100, 1, 10, np.nan])
    axes = plot_mesh((vertices, faces), values=values, log=True, value_label="volume (µm³)")
    drawn(axes)
    bar = axes.figure.axes[-1]
    assert bar.get_yscale() == "log"
    assert bar.get_ylim() == pytest.approx((1, 100))
    colors = axes.collections[0].get_facecolors()
    assert len(np.unique(colors, axis=0)) > 2
    for log in (True, False):
        drawn(plot_mesh((vertices, faces), values=np.full(9, np.nan), log=log))
    with pytest.raises(ValueError, match="needs positive values; the smallest is 0"):
        plot_mesh((vertices, faces), values=np.arange(9.0), log=True)
    for refused in (lambda: plot_mesh((vertices, faces), view="yz"), lambda: plot_neuron(NEURON, across="y")):
        with pytest.raises(ValueError, match="must be"):
            refused()


def test_names_of_groups_do_not_cover_each_other() -> None:
    ids = list(range(1, 41))
    synapses = pd.DataFrame({"pre_pt_root_id": ids, "post_pt_root_id": ids[::-1]})
    groups = {number: "pyramidal" if number < 35 else f"type {number}" for number in ids}
    axes = plot_connectivity(synapses, ids, groups=groups, labels={1: "my neuron"}, title="many")
    drawn(axes)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 14
    for number, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[number + 1 :])
    assert not any(axes.title.get_window_extent().overlaps(box) for box in boxes)
    assert axes.get_yticklabels()[0].get_text() == "my neuron"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((2, 4)), r"shape \(2, 4\)"),
        (pd.DataFrame({"depth": [1.0]}), "which position"),
        (np.full((2, 3), 400_000.0), "400,000 deep: give client.depth"),
        (np.array([20.0, 400_000.0]), "400,000 deep: give client.depth"),
    ],
)
def test_positions_that_are_no_depths_are_refused(points: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_synapse_depths(points)


def test_bins_are_bounded() -> None:
    with pytest.raises(ValueError, match="give a larger one"):
        plot_synapse_depths([1.0, 900.0], bin_um=0.1)
    for wrong in ((0, np.nan), (900, 100)):
        with pytest.raises(ValueError, match="no range"):
            plot_synapse_depths([1.0], range_um=wrong)


def test_missing_positions_are_left_out() -> None:
    nowhere = np.array([pd.NA, pd.NA, pd.NA], dtype=object)
    frame = pd.DataFrame({"ctr_pt_position": [[5.0, 30.0, 1.0], nowhere, None, [np.nan] * 3]})
    axes = plot_synapse_depths(frame, [10.0, np.nan])
    assert axes.get_legend_handles_labels()[1] == ["presynaptic (1)", "postsynaptic (1)"]
    (points,) = sites(plot_neuron(NEURON, pre=frame)).values()
    assert points.tolist() == [[5.0, 30.0]]


# -- what get_skeleton returns ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tiny: Sandbox) -> Any:
    return tiny.load()


@pytest.fixture(scope="module")
def root(client: Any) -> int:
    return int(client.tables.nucleus_detection().query().pt_root_id.max())


def require_extra(output: str) -> None:
    if output in {"cell", "navis"}:
        package = {"cell": "ossify"}.get(output, output)
        pytest.importorskip(package, reason=f"the extra `{package}` is not installed")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("output", ["meshwork", "cell", "navis", "dict", "swc", "skeleton"])
def test_every_output_is_drawn_in_depth_or_refused(client: Any, root: int, output: str, masked: bool) -> None:
    require_extra(output)
    kind = "meshwork" if output == "skeleton" else output
    for transform in ("rigid", None):
        neuron = client.get_skeleton(root, output=kind, transform=transform)
        if masked and output == "meshwork":
            neuron.apply_mask((neuron.anno.compartment.df.compartment == 2).to_numpy())
        elif masked and output == "cell":
            neuron = neuron.apply_mask("skeleton", neuron.skeleton.get_feature("compartment") == 2)
        elif masked:
            continue
        synapses = (neuron.anno.pre_syn if output == "meshwork" else None) if kind == "meshwork" else None
        neuron = neuron.skeleton if output == "skeleton" else neuron
        if transform is None:
            with pytest.raises(ValueError, match=r"in (nm|um) of the volume: fetch it with get_skeleton"):
                plot_neuron(neuron)
            if synapses is not None:
                with pytest.raises(ValueError, match="cortical depth in um"):
                    plot_synapse_depths(synapses.df)
            continue
        axes = plot_neuron(neuron)
        drawn(axes)
        expected = shape_of(neuron).vertices
        assert {tuple(p) for p in ends_of_lines(axes).round(3)} <= {
            tuple(p) for p in expected[:, :2].round(3)
        }
        labels = [c.get_label() for c in axes.collections]
        assert ("soma" in labels) is not masked
        if output in {"meshwork", "cell", "navis"}:
            both = plot_synapse_depths(neuron, neuron)
            shown = [label.split("(")[1] for label in both.get_legend_handles_labels()[1]]
            assert [text for text in shown if text != "0)"] == [label.split("(")[1] for label in sites(axes)]
            assert sites(axes)
        elif output == "dict":
            with pytest.raises(ValueError, match="has no pre_syn"):
                plot_synapse_depths(neuron)


@pytest.mark.parametrize("output", ["meshwork", "cell", "navis", "dict", "swc", "skeleton"])
def test_every_output_is_drawn_in_the_volume(client: Any, root: int, output: str) -> None:
    require_extra(output)
    kind = "meshwork" if output == "skeleton" else output
    neuron = client.get_skeleton(root, output=kind)
    neuron = neuron.skeleton if output == "skeleton" else neuron
    axes = plot_neuron(neuron, space="volume")
    drawn(axes)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x (µm)", "y (µm)")
    found = ends_of_lines(axes)
    expected = client.get_skeleton(root, output="dict")["vertices"] / 1000
    assert {tuple(p) for p in found.round(3)} == {tuple(p) for p in expected[:, :2].round(3)}
    with pytest.raises(ValueError, match="axes of the imagery, and this neuron is in the space 'rigid'"):
        plot_neuron(client.get_skeleton(root, output=kind, transform="rigid"), space="volume")


def test_synapses_lie_on_the_neuron_in_the_volume(client: Any, root: int) -> None:
    neuron = client.get_skeleton(root)
    drawings = []
    for resolution in ((1, 1, 1), (4, 4, 40), (1000, 1000, 1000)):
        frame = client.query_synapses(root, pre=True, progress=False, resolution=resolution)
        axes = plot_neuron(neuron, pre=frame, space="volume")
        drawings.append(next(iter(sites(axes).values())))
        np.testing.assert_allclose(drawings[-1], drawings[0])
    low, high = axes.get_ylim()
    assert low > high
    with pytest.raises(ValueError, match="leave layers= out"):
        plot_neuron(neuron, space="volume", layers=LAYERS)


@pytest.mark.parametrize("output", ["meshwork", "cell", "navis"])
def test_a_neurons_own_synapses_are_drawn_in_the_volume(client: Any, root: int, output: str) -> None:
    require_extra(output)
    at = np.stack(client.get_skeleton(root).anno.pre_syn.df["ctr_pt_position"])[:, :2] / 1000
    neuron = client.get_skeleton(root, output=output)
    for given in (neuron, neuron.convert_units("um", inplace=False)) if output == "navis" else (neuron,):
        own = next(iter(sites(plot_neuron(given, space="volume")).values()))
        np.testing.assert_allclose(np.sort(own, axis=0), np.sort(at, axis=0), rtol=1e-6)


def test_synapses_of_a_query_are_no_depths(client: Any, root: int) -> None:
    for resolution in ((1, 1, 1), (4, 4, 40), (1000, 1000, 1000)):
        frame = client.query_synapses(root, pre=True, progress=False, resolution=resolution)
        with pytest.raises(ValueError, match=r"give client\.depth\(frame\)"):
            plot_synapse_depths(frame)
        axes = plot_synapse_depths(client.depth(frame))
        assert axes.get_legend_handles_labels()[1] == [f"presynaptic ({len(frame):,})"]


def test_colours_of_compartments_are_told_apart() -> None:
    colors = [kind.color for kind in COMPARTMENTS.values()]
    assert len(set(colors)) == len(colors)
    assert set(colors) <= set(PALETTE.values())


def test_without_matplotlib_the_error_names_the_command(python: Any) -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
sys.modules["matplotlib.pyplot"] = None
from cortexclient.errors import MissingExtraError
from cortexclient.plotting import plot_synapse_depths
try:
    plot_synapse_depths(post=[1.0])
except MissingExtraError as error:
    print(error)
"""
    done = python(code)
    assert 'pip install "cortexclient[plot]"' in done


@pytest.mark.parametrize("ending", ["pdf", "svg"])
def test_figures_are_saved_for_print(tmp_path: Path, ending: str) -> None:
    axes = plot_neuron(NEURON, layers=LAYERS)
    path = tmp_path / f"neuron.{ending}"
    axes.figure.savefig(path)
    start = path.read_bytes()[:200]
    assert start.startswith(b"%PDF-") if ending == "pdf" else b"<?xml" in start
    assert path.stat().st_size > 3000
