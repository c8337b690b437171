"""Building the cortex: the same twice, by two processes at once, in any dataset's frame and under its names."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cortexclient import registry
from cortexclient.sandbox import build
from cortexclient.sandbox.build import build_cortex, cortex_key
from cortexclient.sandbox.cortex.files import in_two_threads
from cortexclient.sandbox.cortex.frame import Frame, FrameError, frame_of
from cortexclient.sandbox.layout import DataFolder, DataFolderError
from cortexclient.sandbox.naming import LABEL_TABLES, served_names
from cortexclient.sandbox.stores.graph.state import IdLayout
from cortexclient.sandbox.truth import Truth, TruthUnavailableError


def test_two_threads_keep_the_order_and_do_not_run_far_ahead() -> None:
    started: list[int] = []

    def square(number: int) -> int:
        started.append(number)
        return number * number

    results = in_two_threads(square, range(100))
    assert next(results) == 0
    assert len(started) < 10
    assert list(results) == [number * number for number in range(1, 100)]


SCRIPT = """
import sys
from pathlib import Path
from cortexclient import registry
from cortexclient.sandbox.build import build_cortex
folder = build_cortex(registry.get_spec("sandbox"), size="tiny", cache=Path(sys.argv[1]))
print(folder.path)
"""


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_two_processes_at_once_build_one_folder_equal_to_any_other(tmp_path: Path) -> None:
    # a build that was killed left this behind
    key = cortex_key(frame_of(registry.get_spec("sandbox"), half_width_um=40.0), size="tiny")
    (tmp_path / f"{key}.dead.part").mkdir()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=240)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(answers) == 1
    made = Path(answers.pop())
    assert {path.name for path in tmp_path.iterdir()} == {made.name, f"{made.name}.lock", "frames.json"}
    again = build_cortex(registry.get_spec("sandbox"), size="tiny", cache=tmp_path / "again")
    assert again.path.name == made.name
    assert digests(made) == digests(again.path)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, *_: object) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("out of paper")

    monkeypatch.setattr("cortexclient.sandbox.cortex.assemble.write_cortex", fail)
    with pytest.raises(RuntimeError, match="out of paper"):
        build_cortex(size="tiny", cache=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of tiny, small, large"):
        build_cortex(size="huge")  # type: ignore[arg-type]


def test_keys_differ_with_everything_that_changes_the_files() -> None:
    frame = Frame()
    keys = {
        cortex_key(frame, size="tiny", seed=1),
        cortex_key(frame, size="small", seed=1),
        cortex_key(frame, size="tiny", seed=2),
        cortex_key(replace(frame, table_resolution=(9.0, 9.0, 45.0)), size="tiny", seed=1),
        cortex_key(replace(frame, offset=(1e5, 0.0, 0.0)), size="tiny", seed=1),
    }
    assert len(keys) == 5
    assert build.DEFAULT_SEED > 0


@pytest.mark.parametrize("name", ["minnie_public", "v1dd"])
def test_depth_comes_back_from_the_dataset_transform(name: str) -> None:
    from standard_transform import minnie_ds, v1dd_ds

    frame = frame_of(registry.get_spec(name))
    points = np.array([[0.0, 10.0, 0.0], [80.0, 300.0, -40.0], [-60.0, 700.0, 90.0]])
    placed = frame.to_nm(points)
    assert (placed > 0).all()
    dataset = minnie_ds if name.startswith("minnie") else v1dd_ds
    depth = dataset.transform("nm").apply_project("y", placed)
    np.testing.assert_allclose(depth, points[:, 1], atol=1e-3)
    np.testing.assert_allclose(frame.to_um(placed), points, atol=1e-6)


def step(**what: object) -> SimpleNamespace:
    return SimpleNamespace(**({"rotation": None, "translation": None, "scaling": None} | what))


def test_declared_steps_are_inverted() -> None:
    turn = SimpleNamespace(axis="z", degrees=5.0, matrix=None)
    steps = (
        step(rotation=turn),
        step(translation=(0.0, -336_500.0, 0.0)),
        step(scaling=(0.001, 0.001, 0.001)),
    )
    spec = SimpleNamespace(
        voxel_resolution=(8.0, 8.0, 33.0), transform=SimpleNamespace(dataset=None, steps=steps), tables={}
    )
    frame = frame_of(spec)
    placed = frame.to_nm(np.array([[0.0, 250.0, 0.0], [90.0, 600.0, -90.0]]))
    angle = np.deg2rad(5.0)
    depth = (np.sin(angle) * placed[:, 0] + np.cos(angle) * placed[:, 1] - 336_500.0) / 1000.0
    np.testing.assert_allclose(depth, [250.0, 600.0], atol=1e-3)
    assert (placed > 0).all()
    assert frame.table_resolution == (8.0, 8.0, 33.0)


ANGLES = [
    ("z", 5.0),
    ("z", -5.0),
    ("z", 30.0),
    ("x", -5.0),
    ("x", 90.0),
    ("y", 179.0),
    ("z", 180.0),
    ("z", 1e-4),
]


@pytest.mark.parametrize("half_width", [40.0, 75.0, 250.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.0, -336_500.0, 0.0), (-5e5, 9e5, 2e6)])
def test_every_transform_finds_a_place(half_width: float, shift: tuple[float, float, float]) -> None:
    for axis, degrees in ANGLES:
        steps = (
            step(rotation=SimpleNamespace(axis=axis, degrees=degrees, matrix=None)),
            step(translation=shift),
            step(scaling=0.001),
        )
        spec = SimpleNamespace(transform=SimpleNamespace(dataset=None, steps=steps), tables={})
        frame = frame_of(spec, half_width_um=half_width)
        sides = (-half_width, half_width)
        points = np.array(list(itertools.product(sides, (5.0, 850.0), sides)))
        placed = frame.to_nm(points)
        assert (placed > 0).all(), (axis, degrees)
        assert (placed < 2e7).all(), (axis, degrees)
        # neurons stand in a row as they were made; where the pia itself has no place, all of them lie deeper or higher
        turned = Rotation.from_euler(axis, degrees, degrees=True).apply(placed) + shift
        away = turned[:, 1] / 1000 - points[:, 1]
        np.testing.assert_allclose(away, away[0], atol=1e-3)
        if (axis, degrees, shift) == ("z", -5.0, (0.0, 0.0, 0.0)):
            np.testing.assert_allclose(away, 0.0, atol=1e-3)


@pytest.mark.parametrize("scaling", [1.0, 1e-5, 1000.0, (1.0, 0.001, 50.0), (-1e-7, 1e-3, 1e-3)])
def test_a_transform_in_another_unit_leaves_neurons_their_size(scaling: float | tuple[float, ...]) -> None:
    steps = (step(translation=(0.0, -336_500.0, 0.0)), step(scaling=scaling))
    frame = frame_of(SimpleNamespace(transform=SimpleNamespace(dataset=None, steps=steps), tables={}))
    corners = np.array(list(itertools.product((-40.0, 40.0), (5.0, 850.0), (-40.0, 40.0))))
    placed = frame.to_nm(corners)
    assert (placed > 0).all()
    extent = np.ptp(placed, axis=0)
    assert (extent > 10_000).all()
    assert (extent < 5_000_000).all()


def test_a_transform_that_flattens_is_refused() -> None:
    steps = (step(scaling=(0.001, 0.0, 0.001)),)
    with pytest.raises(FrameError, match="flattens"):
        frame_of(SimpleNamespace(transform=SimpleNamespace(dataset=None, steps=steps)))
    with pytest.raises(FrameError, match="standard_transform has no dataset 'h01'"):
        frame_of(SimpleNamespace(transform=SimpleNamespace(dataset="h01", steps=())))


def test_ids_round_trip() -> None:
    scheme = IdLayout.for_chunks(np.array([40, 130, 30]))
    assert scheme.n_layers == 10
    random = np.random.default_rng(3)
    for layer in range(1, scheme.n_layers + 1):
        chunk = random.integers(0, 1 << scheme.bits[layer], (50, 3))
        segment = random.integers(1, 1 << 20, 50)
        ids = scheme.encode(layer, chunk, segment)
        assert (ids > 0).all()
        assert (scheme.layers(ids) == layer).all()
        np.testing.assert_array_equal(scheme.chunks(ids), chunk)
        np.testing.assert_array_equal(scheme.segments(ids), segment)


def table(name: str, kind: str = "table", **more: object) -> SimpleNamespace:
    facts = {"declared_fields": (), "schema_name": None, "columns": {}, "unit": None}
    return SimpleNamespace(
        **({"name": name, "kind": kind, "earlier": (), "replaced_by": None} | facts | more)
    )


@pytest.mark.parametrize("name", registry.list_datasets())
def test_every_name_of_a_spec_is_served_once(name: str) -> None:
    spec = registry.get_spec(name)
    names, shapes = served_names(spec)
    served = [*names.values(), *(shape for shape in shapes if shape not in names.values())]
    assert len(set(served)) == len(served)
    assert names.get("synapses") == spec.synapse_table
    declared = {item.name for item in spec.tables.values()}
    if spec.cell_ids:
        assert names["nucleus_detection"] == spec.cell_ids.main_table
        declared |= {*filter(None, [spec.cell_ids.lookup_view]), *spec.cell_ids.alternative_tables}
    assert declared <= set(served)
    # what no spec asks for keeps its own name, which must not mean something else by then
    kept = {"cell_types", "synapse_tags", "cell_info", "synapses"} - set(names)
    assert not kept & set(served)


def test_roles_beyond_the_usual_ones_get_copies() -> None:
    roles = {f"role_{number}": table(f"table_{number}") for number in range(len(LABEL_TABLES) + 2)}
    roles["old"] = table("new_name", earlier=(table("old_name"),))
    roles |= {f"view_{number}": table(f"view_{number}", "view") for number in range(7)}
    cells = SimpleNamespace(
        main_table="nuclei", lookup_view="nuclei", kind="table", alternative_tables=("other_1", "other_2")
    )
    names, shapes = served_names(SimpleNamespace(synapse_table="syn", cell_ids=cells, tables=roles))
    assert len(set(names.values())) == len(names)
    declared = {*(item.name for item in roles.values()), "old_name", "nuclei", "other_1", "other_2"}
    assert declared <= {*names.values(), *shapes}
    assert Counter(shape.base for shape in shapes.values()) == {
        "cell_types": 4,
        "nucleus_alternative_points": 1,
        "cell_info": 2,
    }


def test_earlier_tables_of_a_role_have_its_columns() -> None:
    roles = {
        role: table(role, kind, earlier=(table(f"{role}_2", kind), table(f"{role}_1", kind)))
        for role, kind in (("edges", "view"), ("proofreading", "table"), ("synapse_targets", "table"))
    }
    names, shapes = served_names(SimpleNamespace(synapse_table="syn", tables=roles))
    base = {
        **{public: own for own, public in names.items()},
        **{name: each.base for name, each in shapes.items()},
    }
    assert {base[name] for name in ("edges", "edges_2", "edges_1")} == {"connections_with_nuclei"}
    assert {base[f"proofreading_{number}"] for number in (1, 2)} == {"proofreading_status_and_strategy"}
    assert {base[f"synapse_targets_{number}"] for number in (1, 2)} == {"synapse_tags", "synapse_targets"}
    assert shapes["synapse_targets_1"].reference == "syn"


def test_no_truth_about_recorded_data(tmp_path: Path) -> None:
    with pytest.raises(TruthUnavailableError, match="holds no truth"):
        Truth(DataFolder(tmp_path))


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataFolderError, match="CORTEXCLIENT_CACHE_DIR"):
        build_cortex(size="tiny", cache=tmp_path / "taken" / "sandbox")


def test_a_disk_that_fills_up_is_told_and_nothing_stays_half_built(python, tmp_path: Path) -> None:
    code = f"""
import resource, signal
from cortexclient.sandbox.layout import DataFolderError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a full disk, without the right to mount one
try:
{textwrap.indent(SCRIPT, "    ")}
except DataFolderError as error:
    print(error)
"""
    said = python(code, tmp_path)
    assert "cannot be built" in said
    assert "has room" in said
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
