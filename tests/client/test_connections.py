"""From whom to whom: sets of neurons, thresholds, types and partners, against pandas on the tiny cortex's files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cortexclient import errors, registry
from cortexclient.sandbox import Sandbox

PAIR = ["pre_pt_root_id", "post_pt_root_id"]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(size="tiny", row_limit=200) as running:
        yield running


@pytest.fixture(scope="module")
def client(sandbox):
    return sandbox.load(version=3)


@pytest.fixture(scope="module")
def table(sandbox, client) -> pd.DataFrame:
    """All synapses of the version, read from the files of the server."""
    (path,) = (sandbox.folder.path / "tables").glob("synapses*.v3.parquet")
    rows = pd.read_parquet(path)
    return rows[rows["valid"]]


@pytest.fixture(scope="module")
def neurons(client) -> list[int]:
    roots = client.tables.nucleus_detection().query()["pt_root_id"]
    return roots[roots > 0].unique().tolist()


def pairs_of(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[(rows[PAIR] > 0).all(axis=1) & (rows[PAIR[0]] != rows[PAIR[1]])]
    grouped = rows.groupby(PAIR)["size"].agg(n_syn="size", sum_size="sum").reset_index()
    return grouped.astype({"n_syn": "int64", "sum_size": "float64"})


def test_synapses_from_these_to_those(client, table, neurons):
    these, those = neurons[:6], neurons[4:]
    expected = table[
        table["pre_pt_root_id"].isin(these)
        & table["post_pt_root_id"].isin(those)
        & (table["pre_pt_root_id"] != table["post_pt_root_id"])
    ]
    assert 0 < len(expected) < len(table[table["pre_pt_root_id"].isin(these)])
    found = client.query_synapses(pre_ids=these, post_ids=those, progress=False)
    assert found["id"].tolist() == sorted(expected["id"])
    one_side = client.query_synapses(post_ids=those, progress=False)
    assert one_side["id"].tolist() == client.query_synapses(those, post=True, progress=False)["id"].tolist()
    pd.testing.assert_frame_equal(
        client.connectivity(pre_ids=these, post_ids=those), pairs_of(expected), check_like=True
    )
    assert len(client.query_synapses(pre_ids=these, post_ids=[], progress=False)) == 0
    for wrong in ({"root_ids": these, "pre_ids": those}, {}, {"pre_ids": these, "post": True}):
        with pytest.raises(ValueError, match="pre_ids"):
            client.query_synapses(**wrong)
    for wrong in ({"within": True}, {"post": False}):
        with pytest.raises(ValueError, match="about root_ids"):
            client.connectivity(pre_ids=these, **wrong)


def test_thresholds(client, table, neurons):
    least = float(table["size"].median())
    mine = table[table["pre_pt_root_id"].isin(neurons) & (table["size"] >= least)]
    mine = mine[mine["pre_pt_root_id"] != mine["post_pt_root_id"]]
    found = client.query_synapses(neurons, pre=True, min_size=least, progress=False)
    assert found["id"].tolist() == sorted(mine["id"])
    strong = client.connectivity(neurons, pre=True, post=False, min_size=least, min_synapses=3)
    expected = pairs_of(mine)
    expected = expected[expected["n_syn"] >= 3].reset_index(drop=True)
    assert len(expected)
    pd.testing.assert_frame_equal(strong, expected)
    for call in (client.connectivity, client.partners):
        with pytest.raises((ValueError, TypeError), match="min_synapses"):
            call(neurons, min_synapses=0)
    several = client.query_synapses(neurons, pre=True, min_size=least, min_synapses=3, progress=False)
    pairs = set(zip(strong["pre_pt_root_id"], strong["post_pt_root_id"], strict=True))
    kept = [pair in pairs for pair in zip(mine["pre_pt_root_id"], mine["post_pt_root_id"], strict=True)]
    assert several["id"].tolist() == sorted(mine.loc[kept, "id"])
    with pytest.raises(errors.NotConfiguredError, match="score_column"):
        client.query_synapses(neurons, pre=True, min_score=1)
    with pytest.raises(ValueError, match="min_size must be a finite number"):
        client.query_synapses(neurons, pre=True, min_size=np.nan)


def types_of(client) -> dict[int, str]:
    rows = client.tables.cell_types().query()
    rows = rows[rows["pt_root_id"] > 0].drop_duplicates(["pt_root_id", "cell_type"])
    rows = rows[~rows["pt_root_id"].duplicated(keep=False)]
    return dict(zip(rows["pt_root_id"], rows["cell_type"], strict=True))


def test_counts_between_types(client, table, neurons):
    types = types_of(client)
    mine = pairs_of(table[table["pre_pt_root_id"].isin(neurons) & table["post_pt_root_id"].isin(neurons)])
    mine["pre_group"], mine["post_group"] = (mine[name].map(types).astype("string") for name in PAIR)
    expected = (
        mine.groupby(["pre_group", "post_group"], dropna=False)
        .agg(n_connections=("n_syn", "size"), n_syn=("n_syn", "sum"), sum_size=("sum_size", "sum"))
        .reset_index()
    )
    found = client.connectivity(neurons, within=True, by="cell_types")
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert found["n_syn"].sum() == mine["n_syn"].sum()
    same = client.connectivity(neurons, within=True, by=dict.fromkeys(neurons, np.nan) | types)
    pd.testing.assert_frame_equal(found, same)
    with pytest.raises(errors.NotConfiguredError, match="no table for the role"):
        client.connectivity(neurons, by="cell_typs")
    with pytest.raises(TypeError, match=r"series\.to_dict"):
        client.connectivity(neurons, by=pd.Series(types))
    with pytest.raises(TypeError, match=r"series\.to_dict"):
        client.partners(neurons, types=pd.Series(types))


def test_only_what_was_proofread(client, neurons):
    status = client.tables.proofreading_status_and_strategy().query()
    every = client.connectivity(neurons)
    sizes = []
    for side, column in (("pre", "status_axon"), ("post", "status_dendrite")):
        good = set(status.loc[status[column].fillna(value=False).astype(bool), "pt_root_id"])
        expected = every[every[f"{side}_pt_root_id"].isin(good)].reset_index(drop=True)
        pd.testing.assert_frame_equal(client.connectivity(neurons, proofread=side), expected)
        sizes.append(len(expected))
    assert 0 < max(sizes) < len(every)


def test_tables_that_come_and_go(sandbox_factory):
    spec = registry.get_spec("sandbox").with_overrides(
        {
            "default_version": 2,
            "tables": {
                "cell_types": {"name": "cell_types", "kind": "table", "since": 3},
                "edges": {"name": "edges", "kind": "view", "since": 3},
            },
        }
    )
    client = sandbox_factory(spec).load()
    roots = client.cell_id_to_root_id(client.query("nucleus_detection")["id"], filter_empty=True)["root_id"]
    assert client.connectivity(roots).attrs["table_name"] == client.session.synapse_table
    assert client.at(version=3).connectivity([1]).attrs["table_name"] == "edges"
    assert client.partners(roots)["type"].isna().all()
    with pytest.raises(errors.UnknownTableError, match="in version 2"):
        client.connectivity(roots, by="cell_types")
    # a query at another moment finds the tables of that moment
    expected = client.at(version=3).query("cell_types", cell_type=["23P", "L4a"])
    for moment in ({"materialization_version": 3}, {"timestamp": client.version_timestamp("3")}):
        pd.testing.assert_frame_equal(
            client.query("cell_types", cell_type=["23P", "L4a"], **moment), expected
        )


def test_partners_are_ranked_with_cells_and_types(client, table, neurons):
    types = types_of(client)
    root = max(neurons, key=lambda root: (table["pre_pt_root_id"] == root).sum())
    frame = client.partners([root, neurons[0]])
    assert frame["root_id"].drop_duplicates().tolist() == list(dict.fromkeys([root, neurons[0]]))
    for side, mine, other in (("output", *PAIR), ("input", *reversed(PAIR))):
        expected = pairs_of(table[table[mine] == root]).set_index(other)
        part = frame[(frame["root_id"] == root) & (frame["side"] == side)].set_index("partner_root_id")
        assert part["n_syn"].to_dict() == expected["n_syn"].to_dict()
        assert part["rank"].tolist() == list(range(1, len(part) + 1))
        order = sorted(
            expected.index, key=lambda one: (-expected["n_syn"][one], -expected["sum_size"][one], one)
        )
        assert part.index.tolist() == order
        assert part["type"].dropna().to_dict() == {one: types[one] for one in part.index if one in types}
    cells = client.root_id_to_cell_id(frame["partner_root_id"])["cell_id"].tolist()
    assert frame["cell_id"].tolist() == cells
    assert 0 not in set(frame["partner_root_id"])
    outputs = client.partners(root, side="outputs", types=None)
    assert set(outputs["side"]) == {"output"}
    assert "type" not in outputs
    assert client.partners([]).dtypes.to_dict() == frame.dtypes.to_dict()
    assert np.issubdtype(frame["n_syn"].dtype, np.int64)
