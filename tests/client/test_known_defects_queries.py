"""What an earlier tool got wrong about queries and lookups, and no other file tests."""

from __future__ import annotations

import functools
import logging
import warnings

import pandas as pd
import pytest


@pytest.fixture
def client(tiny):
    return tiny.load()


@pytest.fixture(scope="module")
def table(tiny):
    """Read a table of the served folder with pandas: what is in version 3."""

    @functools.cache
    def read(name: str, version: int = 3) -> pd.DataFrame:
        frame = pd.read_parquet(tiny.folder.path / "tables" / f"{name}.v{version}.parquet")
        return frame[frame["valid"]].sort_values("id").reset_index(drop=True)

    return read


@pytest.fixture(scope="module")
def neurons(table):
    rows = table("synapses")
    return sorted(rows["pre_pt_root_id"].value_counts().index[:4].tolist())


def synapses(client, roots, **options):
    return client.query_synapses(roots, pre=True, post=True, **{"progress": False, **options})


def test_c5n_reference_rows_are_matched_by_what_they_refer_to(client, table, neurons):
    tags = table("synapse_tags")
    assert (tags["id"] != tags["target_id"]).any()
    frame = synapses(client, neurons, reference_tables="synapse_tags")
    expected = tags.set_index("target_id")["tag"]
    for synapse, tag in zip(frame["id"], frame["tag"], strict=True):
        assert tag == expected[synapse] if synapse in expected.index else pd.isna(tag)
    assert frame["tag"].notna().any()


def test_c5e_reference_tables_get_resolution_and_split_too(client, table, neurons):
    alternative = client.query("nucleus_alternative_points", split_positions=True)
    assert "pt_position_ref_x" in alternative.columns
    stored = table("nucleus_alternative_points")
    unit = client.session.table_info("nucleus_alternative_points").voxel_resolution[0]
    assert sorted(alternative["pt_position_ref_x"]) == sorted((stored["pt_position_x"] * unit).astype(int))
    # among the tables about synapses only their own has points: it is asked as a table about itself
    rows = client.query_synapses(
        neurons[:1], pre=True, reference_tables="synapses_sandbox", resolution=[8, 8, 40], progress=False
    )
    assert len(rows) > 3
    for axis in "xz":
        again = rows[f"ctr_pt_position_synapses_sandbox_{axis}"]
        assert again.tolist() == rows[f"ctr_pt_position_{axis}"].tolist()


def test_c5h_several_reference_rows_do_not_multiply_synapses(client, neurons, table):
    import pyarrow as pa

    from cortexclient.services.synapses import Reference, attach
    from cortexclient.session import Reply

    one = pa.table({"id": [7, 8, 9], "target_id": [1, 1, 1], "tag": ["a", "b", "c"]})
    two = pa.table({"id": [5, 6], "target_id": [1, 1], "mark": ["x", "y"]})
    references = [Reference("one", "target_id", "_one"), Reference("two", "target_id", "_two")]

    def attached(duplicates: str) -> tuple[pd.DataFrame, dict[str, object]]:
        rows = pd.DataFrame({"id": [1, 2]}, dtype="int64")
        return attach(rows, references, [Reply(one), Reply(two)], duplicates=duplicates)

    result, notes = attached("first")
    assert notes["several_reference_rows"] == {"one": 1, "two": 1}
    assert result["id"].tolist() == [1, 2]
    assert result["tag"].tolist()[0] == "a"
    assert result["mark"].tolist()[0] == "x"
    every, _ = attached("all")
    assert every["tag"].tolist()[:6] == ["a", "a", "b", "b", "c", "c"]
    assert every["mark"].tolist()[:6] == ["x", "y"] * 3
    assert every["id"].tolist() == [1] * 6 + [2]
    with pytest.raises(ValueError, match=r"several rows for 1 synapses \(the first is 1\)"):
        attached("raise")
    # a synapse may be without a row: points in own voxels are floats then, and ids are not
    axes = {f"pt_position_{axis}": [4, 5, 6] for axis in "xyz"}
    placed = pa.table({"id": [2**60 + 1, 2**60 + 2, 2**60 + 3], "target_id": [1, 5, 6], **axes})
    frame, _ = attach(pd.DataFrame({"id": [1, 2]}), references[:1], [Reply(placed)], duplicates="first")
    assert (frame[list(axes)].dtypes == "float64").all()
    assert frame["pt_position_x"].isna().tolist() == [False, True]
    assert frame["id_one"].tolist() == [2**60 + 1, pd.NA]
    frame = synapses(client, neurons, reference_tables=["synapse_tags", "synapse_targets"])
    assert frame["id"].is_unique


def test_c5g_names_do_not_depend_on_the_order_of_tables(client, neurons):
    one = synapses(client, neurons, reference_tables=["synapse_tags", "synapse_targets"])
    other = synapses(client, neurons, reference_tables=["synapse_targets", "synapse_tags"])
    assert set(one.columns) == set(other.columns)
    assert {"tag_synapse_tags", "tag_synapse_targets"} <= set(one.columns)
    pd.testing.assert_frame_equal(one, other[one.columns])
    named = synapses(
        client, neurons, reference_tables=["synapse_tags", "synapse_targets"], suffixes={"synapse_tags": "_t"}
    )
    assert "tag_t" in named.columns
    with pytest.raises(ValueError, match="not queried"):
        synapses(client, neurons, suffixes={"synapse_tags": "_t"})


def test_c5j_roots_are_asked_once(tiny, client, neurons):
    assert client.tables.table_names
    before = len(tiny.requests)
    frame = client.query_synapses([neurons[0]] * 30, pre=True, progress=False)
    assert len([entry for entry in list(tiny.requests)[before:] if entry.path.endswith("/query")]) == 1
    assert frame["id"].is_unique


def test_c7_no_loggers_or_warnings_of_others_are_touched(client, neurons):
    level, filters = logging.getLogger("urllib3").level, list(warnings.filters)
    synapses(client, neurons)
    client.cave.materialize.query_table("nucleus_detection", log_warning=False)
    assert logging.getLogger("urllib3").level == level
    assert logging.getLogger().level == logging.WARNING
    assert warnings.filters == filters
