"""The commands at work, each against the sandbox."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

import cortexclient
from cortexclient.cli import main
from cortexclient.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

TINY = ["--server", "sandbox://tiny"]


def run(*words: str) -> None:
    assert main([*words, *TINY]) == 0


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command printed, as a table."""

    def read(*words: str) -> pd.DataFrame:
        capsys.readouterr()
        run(*words)
        return pd.read_csv(io.StringIO(capsys.readouterr().out))

    return read


@pytest.fixture(scope="module")
def root() -> str:
    roots = (
        cortexclient.load("sandbox", server_address=TINY[1]).tables.nucleus_detection().query()["pt_root_id"]
    )
    return str(roots[roots > 0].iloc[0])


@pytest.mark.slow
def test_demo_does_the_whole_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "demo.png"
    run("demo", "--out", str(picture))
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    for step in (
        "connect",
        "tables",
        "cells",
        "synapses",
        "skeleton",
        "mesh",
        "export",
        "link",
        "picture",
        "done",
    ):
        assert any(line.startswith(step) for line in lines), f"{step} is missing in\n{captured.out}"
    assert "not available" not in captured.out
    assert "http://127.0.0.1" in captured.out
    assert picture.stat().st_size > 50_000


@pytest.mark.slow
def test_demo_on_a_chosen_neuron(tmp_path: Path, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("demo", "--root-id", root, "--out", str(tmp_path / "demo.png"))
    assert f"neuron {root} is cell" in capsys.readouterr().out


def test_demo_of_a_root_that_does_not_exist_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--root-id", "12345", "--out", str(tmp_path / "demo.png"), *TINY]) == 1
    assert capsys.readouterr().err.count("error: ") == 1
    assert not (tmp_path / "demo.png").exists()


def test_tables_and_versions(printed: Any) -> None:
    listed = printed("tables", "sandbox").set_index("name")
    assert listed.loc[["nucleus_detection", "cell_types", "nucleus_lookup"], "kind"].tolist() == [
        "table",
        "table",
        "view",
    ]
    assert listed.loc["nucleus_detection", "description"]
    versions = printed("versions", "sandbox").set_index("version")
    assert versions["state"].to_dict() == {1: "expired", 2: "available", 3: "current"}
    assert versions.loc[3, "timestamp"].startswith("2025-07-01T10:10:01.203215")


def test_query_filters_and_writes(printed: Any, tmp_path: Path) -> None:
    everything = printed("query", "sandbox", "nucleus_detection")
    ids = everything["id"].head(2).tolist()
    some = printed("query", "sandbox", "nucleus_detection", "--where", f"id={ids[0]},{ids[1]}")
    assert some["id"].tolist() == ids
    out = tmp_path / "nuclei.parquet"
    run("query", "sandbox", "nucleus_detection", "--out", str(out))
    written = pd.read_parquet(out)
    assert written["pt_root_id"].tolist() == everything["pt_root_id"].tolist()
    assert {"pt_position_x", "pt_position_y", "pt_position_z"} <= set(written.columns)


def test_ids_there_and_back(printed: Any, root: str) -> None:
    cell = printed("root-id-to-cell-id", "sandbox", root, root)
    assert cell["cell_id"].nunique() == 1
    assert len(cell) == 2
    back = printed("cell-id-to-root-id", "sandbox", str(cell["cell_id"].iloc[0]))
    assert str(back["root_id"].iloc[0]) == root


def test_synapses_of_both_sides(printed: Any, root: str) -> None:
    both = printed("synapses", "sandbox", root)
    pre = printed("synapses", "sandbox", root, "--pre")
    post = printed("synapses", "sandbox", root, "--post")
    assert len(both) == len(pre) + len(post)
    assert set(pre["pre_pt_root_id"]) <= {int(root)}
    assert set(post["post_pt_root_id"]) <= {int(root)}


def test_roots_newer_than_the_version_are_told_from_old_ones(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sandbox(size="tiny") as sandbox:
        server = ["--server", f"sandbox://127.0.0.1:{sandbox.port}"]
        halves = sandbox.split(int(root)).new_roots.tolist()
        new = halves[0]
        capsys.readouterr()
        assert main(["synapses", "sandbox", str(new), "5", *server]) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert f"no synapses of {new}: newer than what was queried; add --live" in said
        assert "no synapses of 5: not valid roots" in said
        assert main(["synapses", "sandbox", str(new), "--live", *server]) == 0
        found = pd.read_csv(io.StringIO(capsys.readouterr().out))
        assert len(found) > 0
        cells = sandbox.truth.cells["cell_id"].to_numpy()
        cell = int(cells[sandbox.truth.root_of_cell(cells) == int(root)][0])
        assert main(["cell-id-to-root-id", "sandbox", str(cell), "--live", *server]) == 0
        assert pd.read_csv(io.StringIO(capsys.readouterr().out))["root_id"].isin(halves).all()


def test_level2_ids(printed: Any, root: str) -> None:
    ids = printed("l2-ids", "sandbox", root)
    attributes = printed("l2-ids", "sandbox", root, "--attributes")
    assert ids["l2_id"].is_unique
    assert len(attributes) == len(ids)


def test_latest_roots(printed: Any, root: str) -> None:
    found = printed("latest-roots", "sandbox", root)
    assert found["root_id"].tolist() == [int(root)]
    assert found["latest_root_id"].iloc[0] > 0
    # what is no root has its row, too, as often as it was given
    found = printed("latest-roots", "sandbox", "5", root, "5")
    assert found["root_id"].tolist() == [5, int(root), 5]
    assert found["latest_root_id"].tolist()[::2] == [-1, -1]
    assert found["latest_root_id"].iloc[1] > 0


def test_what_was_not_found_is_said(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("synapses", "sandbox", "5", root)
    captured = capsys.readouterr()
    assert "no synapses of 5: not valid roots" in captured.err
    assert len(pd.read_csv(io.StringIO(captured.out))) > 0
    run("synapses", "sandbox", root)
    assert capsys.readouterr().err == ""
    for table, column, told in (
        ("nucleus_detection", "volum", "has no column 'volum'; did you mean volume?"),
        ("nucleus_detection", "foo", "has no column 'foo'; it can be filtered by id, .*pt_position_bbox"),
        ("cell_info", "foo", "view 'cell_info' has no column 'foo'; it can be filtered by id"),
    ):
        assert main(["query", "sandbox", table, "--where", f"{column}=1", *TINY]) == 1
        assert re.search(told, capsys.readouterr().err)


def test_a_time_in_the_future_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    for year, said in (("2099", True), ("2025", False)):
        run("query", "sandbox", "nucleus_detection", "--limit", "1", "--timestamp", f"{year}-08-01")
        assert ("lies in the future" in capsys.readouterr().err) == said


def test_a_link_to_a_sandbox_that_has_ended_says_so(
    tiny: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    run("link", "sandbox")
    assert "cortexclient sandbox serve" in capsys.readouterr().err
    assert main(["link", "sandbox", "--server", f"sandbox://127.0.0.1:{tiny.port}"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(f"{tiny.url}/v/sandbox#!")


def test_skeleton_as_swc_is_a_tree_in_um(tmp_path: Path, root: str) -> None:
    out = tmp_path / "neuron.swc"
    run("skeleton", "sandbox", root, "--out", str(out), "--transform", "rigid")
    rows = [line.split() for line in out.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    numbers = [int(row[0]) for row in rows]
    parents = [int(row[6]) for row in rows]
    assert numbers == list(range(1, len(rows) + 1))
    assert parents.count(-1) == 1
    assert all(parent < number for number, parent in zip(numbers, parents, strict=True))
    depths = [float(row[3]) for row in rows]
    assert -100 < min(depths) < max(depths) < 2000


@pytest.mark.slow
def test_skeleton_as_meshwork_and_mesh(tmp_path: Path, root: str) -> None:
    from meshparty import meshwork

    for space in ("none", "rigid"):
        out = tmp_path / f"{space}.h5"
        run("skeleton", "sandbox", root, "--out", str(out), "--transform", space)
        assert {"pre_syn", "post_syn"} <= set(meshwork.load_meshwork(str(out)).anno.table_names)
    for ending in ("ply", "obj"):
        run("mesh", "sandbox", root, "--out", str(tmp_path / f"neuron.{ending}"))
        assert (tmp_path / f"neuron.{ending}").stat().st_size > 1000


def test_exports(printed: Any) -> None:
    available = printed("exports", "sandbox")
    first = available.iloc[0]
    table = printed("export", "sandbox", str(first["name"]), str(first["version"]))
    assert len(table.columns) > 1


def test_link_and_plot(tmp_path: Path, root: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run("link", "sandbox", root, "--synapses")
    assert capsys.readouterr().out.startswith("http://127.0.0.1")
    for out in ("neuron.png", "neuron.pdf"):
        run("plot", "sandbox", root, "--out", str(tmp_path / out))
        assert (tmp_path / out).stat().st_size > 10_000


@pytest.mark.slow
def test_as_a_program_with_pipes(python: Any, tmp_path: Path) -> None:
    code = "import sys; from cortexclient.cli import main; sys.exit(main())"
    words = ("query", "sandbox", "nucleus_detection", "--limit", "3", *TINY)
    ids = [line.split(",")[0] for line in python(code, *words, cwd=tmp_path).splitlines()[1:]]
    words = ("cell-id-to-root-id", "sandbox", "-", *TINY)
    roots = python(code, *words, cwd=tmp_path, input="\n".join(ids))
    assert [line.split(",")[0] for line in roots.splitlines()[1:]] == ids
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_without_a_cortical_space_is_drawn_along_the_imagery(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "fly.yaml"
    place.write_text("name: fly\ntitle: A fly\nextends: sandbox\ntransform: null\nlayers: []\n")
    run("demo", "--dataset", str(place), "--out", str(tmp_path / "fly.png"))
    said = capsys.readouterr().out
    assert "not available" not in said
    assert re.search(r"vertices, \d\.\d\d mm of neurite$", said, re.MULTILINE)
    assert "pia" not in said
    assert (tmp_path / "fly.png").stat().st_size > 10_000
    root = str(
        cortexclient.load(place, server_address=TINY[1]).query("nucleus_detection")["pt_root_id"].max()
    )
    run("plot", str(place), root, "--out", str(tmp_path / "plot.png"))
    assert main(["plot", str(place), root, "--streamline", *TINY]) == 1
    assert "no cortical space" in capsys.readouterr().err
