"""What an earlier tool got wrong about queries and lookups, one test for each: none of it may stand in ours."""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from cortexclient import errors
from cortexclient.client import DatasetClient
from cortexclient.sandbox import Sandbox


@pytest.fixture(scope="module")
def server():
    with Sandbox(size="tiny") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def capped():
    with Sandbox(size="tiny", row_limit=20) as sandbox:
        yield sandbox


@pytest.fixture
def client(server):
    return server.load()


@pytest.fixture(scope="module")
def table(server):
    """Read a table of the served folder with pandas: what is in version 3."""

    @functools.cache
    def read(name: str, version: int = 3) -> pd.DataFrame:
        frame = pd.read_parquet(server.folder.path / "tables" / f"{name}.v{version}.parquet")
        return frame[frame["valid"]].sort_values("id").reset_index(drop=True)

    return read


@pytest.fixture(scope="module")
def neurons(table):
    rows = table("synapses")
    return sorted(rows["pre_pt_root_id"].value_counts().index[:4].tolist())


def synapses(client, roots, **options):
    return client.query_synapses(roots, pre=True, post=True, **{"progress": False, **options})


def test_c4j_lookups_use_the_clients_own_connection_and_moment(server, client, table):
    old, new = table("nucleus_detection", 1), table("nucleus_detection", 3)
    moved = old.merge(new, on="id").query(
        "pt_root_id_x != pt_root_id_y and pt_root_id_x > 0 and pt_root_id_y > 0"
    )
    cells = (moved if len(moved) else old[old["pt_root_id"] > 0])["id"].tolist()[:5]
    client.fix_mat_timestamp(client.version)
    live = [v for v, record in client.session.versions().items() if record.valid]
    for version in live:
        client.version = version
        frame = table("nucleus_detection", version).set_index("id")["pt_root_id"]
        ours = client.cell_id_to_root_id(cells)["root_id"]
        assert [a for a, b in zip(ours, frame[cells], strict=True) if b > 0] == [
            b for b in frame[cells] if b > 0
        ]
    constructions = [entry for entry in server.requests if entry.path.endswith("/info/version")]
    assert len(constructions) <= 1


def test_c5n_reference_rows_are_matched_by_what_they_refer_to(client, table, neurons):
    tags = table("synapse_tags")
    assert (tags["id"] != tags["target_id"]).any()
    frame = synapses(client, neurons, reference_tables="synapse_tags")
    expected = tags.set_index("target_id")["tag"]
    for synapse, tag in zip(frame["id"], frame["tag"], strict=True):
        assert tag == expected[synapse] if synapse in expected.index else pd.isna(tag)
    assert frame["tag"].notna().any()


def test_c5i_a_cut_answer_is_completed(client, capped, neurons):
    whole, cut = synapses(client, neurons), synapses(capped.load(), neurons)
    assert len(whole) > 20
    assert cut["id"].tolist() == whole["id"].tolist()


def test_c5d_a_timestamp_is_never_ignored(client, neurons):
    version = min(v for v, record in client.session.versions().items() if record.valid)
    frame = synapses(client, neurons[:1], timestamp=client.version_timestamp(version))
    assert frame.attrs["materialization_version"] == version
    later = client.version_timestamp() + timedelta(milliseconds=5)
    assert synapses(client, neurons, timestamp=later).attrs["live_query"] is True


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
    from cortexclient.services.synapse_references import Reference, _merge, _told_apart

    rows = pd.DataFrame({"id": [1, 2]}, dtype="int64")
    one = pd.DataFrame({"target_id": [1, 1, 1], "id": [7, 8, 9], "tag": ["a", "b", "c"]}).convert_dtypes()
    two = pd.DataFrame({"target_id": [1, 1], "id": [5, 6], "mark": ["x", "y"]}).convert_dtypes()
    references = [Reference("one", "target_id", "_one"), Reference("two", "target_id", "_two")]
    frames = _told_apart(rows, {"one": one, "two": two}, references)
    result = rows
    for reference in references:
        result, several = _merge(result, frames[reference.name], reference, "first")
        assert several == 1
    assert result["id"].tolist() == [1, 2]
    assert result["tag"].tolist()[0] == "a"
    assert result["mark"].tolist()[0] == "x"
    assert len(_merge(rows, frames["one"], references[0], "all")[0]) == 4
    with pytest.raises(ValueError, match="several rows"):
        _merge(rows, frames["one"], references[0], "raise")
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
    with pytest.raises(ValueError, match="not asked"):
        synapses(client, neurons, suffixes={"synapse_tags": "_t"})


@pytest.mark.parametrize("empty", [[], np.zeros(0, dtype=np.int64), ()])
def test_c5_no_roots(client, neurons, empty):
    frame = synapses(client, empty, reference_tables="synapse_tags")
    assert len(frame) == 0
    assert (
        frame.dtypes.to_dict() == synapses(client, neurons, reference_tables="synapse_tags").dtypes.to_dict()
    )


def test_c5b_no_synapses_and_a_reference_table(client):
    frame = client.query_synapses([17], pre=True, reference_tables="synapse_tags", progress=False)
    assert len(frame) == 0
    assert "tag" in frame.columns


def test_c5c_which_side_must_be_said(client, neurons):
    signature = inspect.signature(client.query_synapses)
    assert signature.parameters["pre"].default is False
    with pytest.raises(ValueError, match="pre=True"):
        client.query_synapses(neurons, progress=False)


def test_c5j_roots_are_asked_once(server, client, neurons):
    assert client.tables.table_names
    before = len(server.requests)
    frame = client.query_synapses([neurons[0]] * 30, pre=True, progress=False)
    assert len([entry for entry in list(server.requests)[before:] if entry.path.endswith("/query")]) == 1
    assert frame["id"].is_unique


def test_c2_the_lookup_ends_for_every_lifetime(monkeypatch):
    from cortexclient.services.cells.lookup import intervals_to_points

    first = np.array([1000, 1000, 5, 7], dtype=np.int64)
    last = np.array([1000, 0, 5, 6], dtype=np.int64)  # lived for no time, or for less than the graph can tell
    times, which = intervals_to_points(first, last)
    assert (np.asarray(times)[which] >= first).all()
    assert (which >= 0).all()


def test_c3c_leaving_out_what_is_not_found(client, table):
    nuclei = table("nucleus_detection")
    roots = [99, *nuclei["pt_root_id"][nuclei["pt_root_id"] > 0].tolist()[:3]]
    frame = client.root_id_to_cell_id(roots, filter_empty=True)
    assert 99 not in frame.index
    assert (frame["cell_id"] > 0).all()
    assert client.cell_id_to_root_id([99], filter_empty=True).empty


def test_c3d_a_main_table_without_alternatives(server, table):
    changed = server.spec.with_overrides({"cell_ids": {"main_table": "nucleus_detection"}})
    from cortexclient.services.cells import CellsService
    from cortexclient.session import Endpoint, Session

    session = Session(changed, endpoint=Endpoint(server.url, server.token))
    nuclei = table("nucleus_detection")
    nuclei = nuclei[nuclei["pt_root_id"] > 0].drop_duplicates("pt_root_id", keep=False)
    frame = CellsService(session).root_id_to_cell_id(nuclei["pt_root_id"])
    assert frame["cell_id"].tolist() == nuclei["id"].tolist()


def test_c3_order_and_duplicates_of_roots_are_kept(client, table):
    nuclei = table("nucleus_detection")
    nuclei = nuclei[nuclei["pt_root_id"] > 0].drop_duplicates("pt_root_id", keep=False)
    b, a = nuclei["pt_root_id"].tolist()[:2]
    frame = client.root_id_to_cell_id([a, b, a])
    assert frame.index.tolist() == [a, b, a]
    cells = frame["cell_id"].tolist()
    assert cells[0] == cells[2] == nuclei["id"].tolist()[1]
    assert cells[1] == nuclei["id"].tolist()[0]


def test_c3f_a_cell_in_two_tables_is_one_cell(client, table):
    alternative = table("nucleus_alternative_points")
    roots = alternative["pt_root_id"][alternative["pt_root_id"] > 0].tolist()
    frame = client.root_id_to_cell_id(roots, status=True)
    for root, target, state in zip(roots, alternative["target_id"], frame["status"], strict=False):
        assert target in frame.loc[[root], "candidates"].iloc[0]
        assert state in {"found", "ambiguous"}


def test_c3g_ambiguous_is_told_from_missing(client, table):
    columns = ["id", "pt_root_id"]
    alternative = table("nucleus_alternative_points").drop(columns="id").rename(columns={"target_id": "id"})
    rows = pd.concat([table("nucleus_detection")[columns], alternative[columns]])
    rows = rows[rows["pt_root_id"] > 0].drop_duplicates()
    cells = rows.groupby("pt_root_id")["id"].agg(lambda ids: sorted(set(ids)))
    frame = client.root_id_to_cell_id([*cells.index.tolist(), 99], status=True)
    for root, expected in cells.items():
        assert frame.loc[root, "candidates"] == expected
        assert frame.loc[root, "status"] == ("found" if len(expected) == 1 else "ambiguous")
    assert frame.loc[99, "status"] == "unknown root"


def test_c3j_each_root_is_asked_once(server, client):
    nodes = pd.read_parquet(server.folder.path / "chunkedgraph" / "nodes.parquet")
    roots = nodes[nodes["is_root"]]["node_id"].tolist()
    client.root_id_to_cell_id(roots)
    before = len(server.requests)
    client.root_id_to_cell_id(roots)
    assert len(server.requests) - before <= 16


def test_c4_order_and_duplicates_of_cells_are_kept(client, table):
    nuclei = table("nucleus_detection")
    b, a = nuclei["id"][nuclei["pt_root_id"] > 0].tolist()[:2]
    frame = client.cell_id_to_root_id([999, a, a, b])
    assert frame.index.tolist() == [999, a, a, b]
    assert frame["root_id"].iloc[0] == -1
    assert frame["root_id"].iloc[1] == frame["root_id"].iloc[2]
    assert len(frame) == 4


def test_c4c_omit_multiple_is_read():
    from cortexclient.services.cells.lookup import Matches

    hits = Matches(np.array([101, 5]))
    hits.add("main", np.array([101, 101]), np.array([12, 11]), rank=0)
    assert hits.answers()[0].tolist() == [-1, -1]
    assert hits.answers(first_of_many=True)[0].tolist() == [11, -1]


def test_c4d_missing_is_minus_one_and_int64(client):
    frame = client.cell_id_to_root_id([1, 2, 3])
    assert frame["root_id"].tolist() == [-1, -1, -1]
    assert frame["root_id"].dtype == np.int64


def test_c4e_the_moment_is_the_clients(client, table):
    cell = int(table("nucleus_detection").query("pt_root_id > 0")["id"].iloc[0])
    for version in [v for v, record in client.session.versions().items() if record.valid]:
        pinned = client.at(version=version)
        expected = table("nucleus_detection", version).set_index("id").loc[cell, "pt_root_id"]
        assert pinned.cell_id_to_root_id(cell)["root_id"].tolist() == [expected]


def test_c1_what_is_not_configured_says_which_key_is_missing(server):
    from cortexclient.services.cells import CellsService
    from cortexclient.session import Endpoint, Session

    session = Session(
        server.spec.with_overrides({"cell_ids": None}), endpoint=Endpoint(server.url, server.token)
    )
    with pytest.raises(errors.NotConfiguredError, match="cell_ids"):
        CellsService(session).cell_id_to_root_id([1])
    with pytest.raises(errors.NotConfiguredError, match="cell_ids"):
        CellsService(session).root_id_to_cell_id([1])


def test_c12_unfixing_returns_to_the_moment_of_load(server):
    live = [v for v, record in server.load().session.versions().items() if record.valid]
    client = server.load(version=live[0])
    client.fix_mat_timestamp(live[-1])
    client.unfix_mat_timestamp()
    assert client.version == live[0]


def test_c13_the_version_given_to_load_holds(server):
    live = [v for v, record in server.load().session.versions().items() if record.valid]
    for version in live:
        assert server.load(version=version).version == version
        assert server.load(version=version).cave.materialize.version == version


def test_c10_setting_the_version_moves_the_graph_too(client):
    version = min(v for v, record in client.session.versions().items() if record.valid)
    client.version = version
    assert client.cave.version == version
    assert client.cave.chunkedgraph.timestamp == client.version_timestamp(version)


def test_c14_naive_times_are_utc(client, neurons):
    aware = client.version_timestamp() + timedelta(milliseconds=5)
    one, other = (synapses(client, neurons, timestamp=when) for when in (aware, aware.replace(tzinfo=None)))
    assert one["id"].tolist() == other["id"].tolist()
    assert one.attrs["timestamp"].endswith("+00:00")


def test_c15_tables_follow_the_client(client):
    tables, views = client.tables, client.views
    for version in [v for v, record in client.session.versions().items() if record.valid]:
        client.version = version
        assert tables.nucleus_detection().query().attrs["materialization_version"] == version
        assert views.nucleus_lookup().query().attrs["materialization_version"] == version


def test_c3i_no_rows_keep_the_columns(client):
    assert "pt_root_id" in client.tables.nucleus_detection(id=[-5]).query().columns


def test_c19_signatures_are_honest(client):
    names = (
        "get_roots is_latest_roots get_latest_roots suggest_latest_roots stage_annotations skeletons_exist"
    )
    for name in [
        *names.split(),
        "upload_staged_annotations",
        "get_datastack_info",
        "image_source",
        "get_l2data",
    ]:
        method = getattr(client, name)
        assert inspect.getdoc(method)
        assert inspect.signature(method) == inspect.signature(getattr(DatasetClient, name).__get__(client))


def test_c7_no_loggers_or_warnings_of_others_are_touched(client, neurons):
    level, filters = logging.getLogger("urllib3").level, list(warnings.filters)
    synapses(client, neurons)
    client.cave.materialize.query_table("nucleus_detection", log_warning=False)
    assert logging.getLogger("urllib3").level == level
    assert logging.getLogger().level == logging.WARNING
    assert warnings.filters == filters


def test_c8_connecting_waits_for_the_first_question(server, tmp_path):
    before = len(server.requests)
    client = server.load()
    assert repr(client)
    assert len(server.requests) == before
    import os
    from pathlib import Path

    assert not (
        Path(os.environ["HOME"]) / ".cloudvolume" / "secrets" / "cave_datastack_to_server_map.json"
    ).exists()
