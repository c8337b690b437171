"""Every frame, of every kind, has the same columns and types whether it has no rows, one or all."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from cortexclient import errors
from cortexclient.services import nullable

KINDS = ("pandas", "arrow", "polars")


@pytest.fixture(scope="module")
def client(tiny):
    return tiny.load(version=3)


@pytest.fixture(scope="module")
def neurons(client) -> list[int]:
    nuclei = client.query("nucleus_detection")
    return sorted(nuclei.loc[nuclei["pt_root_id"] > 0, "pt_root_id"].tolist())


def columns_of(frame: Any) -> dict[str, str]:
    if isinstance(frame, pd.DataFrame):
        return {name: str(kind) for name, kind in frame.dtypes.items()}
    if hasattr(frame.schema, "names") and not hasattr(frame, "lazy"):
        return {field.name: str(field.type) for field in frame.schema}
    return {name: str(kind) for name, kind in frame.schema.items()}


def assert_alike(frames: list[Any], kind: str) -> None:
    expected = {"pandas": "pandas.", "arrow": "pyarrow.", "polars": "polars."}[kind]
    for frame in frames:
        assert type(frame).__module__.startswith(expected)
        assert columns_of(frame) == columns_of(frames[-1])
    for name, dtype in columns_of(frames[-1]).items():
        if name == "id" or name.endswith("_id"):
            assert dtype.lower() == "int64", name


@pytest.mark.slow
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_tables_and_views(client, kind, split):
    options = {"return_as": kind, "split_positions": split}
    seen = 0
    for names in (client.tables, client.views):
        for name in names:
            ids = names[name].query()["id"].tolist() if "id" in names[name].fields else []
            if not ids:
                continue
            seen += 1
            frames = [names[name](id=some).query(**options) for some in ([], ids[:1])]
            assert [len(frame) for frame in frames] == [0, 1]
            assert_alike([*frames, client.query(name, **options)], kind)
    assert seen >= 17


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_synapses(client, neurons, kind, split):
    options = {"pre": True, "post": True, "progress": False, "return_as": kind, "split_positions": split}
    options["reference_tables"] = ["synapse_tags", "synapse_targets"]
    frames = [client.query_synapses(some, **options) for some in ([], neurons[:1], neurons)]
    assert len(frames[0]) == 0
    assert len(frames[2]) > len(frames[1]) > 0
    assert_alike(frames, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["edges", "synapses"])
def test_connections(client, neurons, kind, source):
    table = client.spec.synapse_table if source == "synapses" else None
    frames = [
        client.connectivity(some, synapse_table=table, return_as=kind) for some in ([], neurons[:1], neurons)
    ]
    assert len(frames[0]) == 0
    assert len(frames[2]) > len(frames[1]) > 0
    assert_alike(frames, kind)
    expected = client.connectivity(neurons, synapse_table=table)
    given = frames[2].to_pandas() if kind != "pandas" else frames[2]
    assert given.to_dict("list") == expected.to_dict("list")


def test_an_expired_version_says_so_in_every_frame(tiny):
    rows = pd.read_parquet(tiny.folder.path / "tables" / "nucleus_detection.v1.parquet")
    client = tiny.load(version=1, version_fallback=True)
    assert not client.session.version_record(1).valid
    roots = client.tables.nucleus_detection.query()
    neurons = sorted(roots.loc[roots["pt_root_id"] > 0, "pt_root_id"].tolist())
    assert neurons == sorted(rows.loc[rows["pt_root_id"] > 0, "pt_root_id"].tolist())
    synapses = client.query_synapses(neurons, pre=True, post=True, progress=False)
    edges = client.connectivity(neurons)
    cells = client.cell_id_to_root_id(roots["id"].tolist()[:3])
    usual = tiny.load(version_fallback=True, overrides={"default_version": 1})
    same = usual.cell_id_to_root_id(cells.index)
    pd.testing.assert_frame_equal(same, cells)
    for frame in (roots, synapses, edges, cells, same):
        assert len(frame)
        assert "version 1 has expired" in frame.attrs["version_fallback"]
    assert (
        edges["n_syn"].sum() == ((synapses["pre_pt_root_id"] > 0) & (synapses["post_pt_root_id"] > 0)).sum()
    )
    with pytest.raises(errors.ExpiredVersionError, match="its views with it"):
        _ = client.views.cell_info


def test_types_with_room_for_missing_values_do_not_depend_on_the_values():
    whole = pd.DataFrame({"id": [1, 2], "score": [4.0, 8.0], "valid": [True, False], "tag": ["a", None]})
    broken = whole.assign(score=[4.5, 8.0])
    frames = [nullable(frame) for frame in (whole, broken, whole.iloc[:0], nullable(whole))]
    for frame in frames:
        assert columns_of(frame) == {"id": "Int64", "score": "float64", "valid": "boolean", "tag": "object"}
    pd.testing.assert_frame_equal(frames[0], whole, check_dtype=False)
