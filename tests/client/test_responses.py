"""Responses that are damaged or of another shape: the right answer, or one of our errors that says where."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cortexclient import errors
from cortexclient.sandbox import Sandbox

END = 8


@pytest.fixture(scope="module")
def truncating():
    with Sandbox(size="tiny", row_limit=100) as sandbox:
        yield sandbox


def read(body: bytes) -> pa.Table:
    return pa.ipc.open_stream(body).read_all()


def written(table: pa.Table, batches: int = 1) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, table.num_rows // batches))
    return sink.getvalue()


def client_through(sandbox, monkeypatch, change, *, path="/query", **options):
    """Load a client whose responses from a path are changed on the way; its requests are counted."""
    client = sandbox.load(version=3, retries=0, **options)
    send, client.sent = client.session.http.send, []

    def through(service, method, url, **more):
        response = send(service, method, url, **more)
        client.sent.append(url)
        if path in url:
            response._content = change(response.content)
            response._content_consumed = True
        return response

    monkeypatch.setattr(client.session.http, "send", through)
    return client


def offsets(place: int, value: int):
    """Damage one offset of a text column, whose bytes stay as long as they were."""

    def change(body):
        table = read(body)
        if "cell_type" not in table.column_names:
            return body
        body = written(table)
        column = read(body).column("cell_type").combine_chunks()
        found = np.frombuffer(column.buffers()[1], np.int32)[: len(column) + 1].copy()
        at = body.find(found.tobytes())
        found[place] = value
        return body[:at] + found.tobytes() + body[at + found.nbytes :]

    return change


def cast_ids(kind):
    def change(body):
        table = read(body)
        for number, field in enumerate(table.schema):
            if field.name.endswith("root_id"):
                column = table.column(number)
                column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind, safe=False)
                table = table.set_column(number, field.name, column)
        return written(table)

    return change


BROKEN = {
    "no end mark": lambda body: body[:-END],
    "one of two batches": lambda body: written(read(body), 2)[: -END - 200],
    "schema alone": lambda body: written(read(body).slice(0, 0))[:-END],
    "garbage after the end": lambda body: body + b"garbage",
    "nothing": lambda _: b"",
    "a page": lambda _: b"<html>please log in</html>",
    "a column twice": lambda body: written(read(body).append_column("id", read(body).column("id"))),
    "maps": lambda body: written(
        read(body).append_column(
            "x", pa.array([[("a", 1)]] * len(read(body)), pa.map_(pa.string(), pa.int64()))
        )
    ),
    "offset beyond": offsets(2, 2**30),
    "offset before": offsets(2, -(2**30)),
    "offset of others": offsets(2, 4000),
    "last offset": offsets(-1, 2**20),
    "ids as floats": cast_ids(pa.float64()),
    "unsigned ids beyond": lambda body: written(
        read(body).set_column(0, "id", pa.array([2**64 - 1] * len(read(body)), pa.uint64()))
    ),
    "text positions": lambda body: written(
        read(body)
        .drop_columns("pt_position_x")
        .append_column("pt_position_x", pa.array(["x"] * len(read(body))))
    ),
    "lists": lambda body: written(read(body).append_column("x", pa.array([[1, 2]] * len(read(body))))),
    "a valid that is no truth value": lambda body: written(
        read(body).drop_columns("valid").append_column("valid", pa.array(["t"] * len(read(body))))
    ),
    "two axes of a position": lambda body: written(read(body).drop_columns("pt_position_y")),
    "rows twice": lambda body: written(pa.concat_tables([read(body), read(body).slice(0, 2)])),
}


@pytest.mark.parametrize("way", BROKEN)
def test_what_cannot_be_read_raises_with_its_address(tiny, monkeypatch, way):
    client = client_through(tiny, monkeypatch, BROKEN[way])
    with pytest.raises(errors.ProtocolError) as caught:
        client.tables.cell_types().query()
    assert (caught.value.service, caught.value.status) == ("materialize", 200)
    assert caught.value.url.endswith("/query")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.decimal128(20, 0), pa.uint64(), "dictionary"]
)
def test_ids_are_exact_whatever_holds_them(tiny, monkeypatch, kind):
    expected = tiny.load(version=3).tables.nucleus_detection().query()
    client = client_through(tiny, monkeypatch, cast_ids(kind))
    pd.testing.assert_frame_equal(client.tables.nucleus_detection().query(), expected)
    roots = expected["pt_root_id"][expected["pt_root_id"] > 0].tolist()[:3]
    right = tiny.load(version=3)
    pd.testing.assert_frame_equal(client.connectivity(roots), right.connectivity(roots))
    pd.testing.assert_frame_equal(client.root_id_to_cell_id(roots), right.root_id_to_cell_id(roots))


@pytest.mark.parametrize("batches", [1, 3, 50])
def test_batches_and_other_kinds_of_text_are_read(tiny, monkeypatch, batches):
    expected = tiny.load(version=3).tables.cell_types().query()

    def change(body):
        table = read(body)
        place = table.column_names.index("cell_type")
        text = pa.array(
            table.column("cell_type").to_pylist(), pa.string_view() if batches == 3 else pa.large_string()
        )
        return written(table.set_column(place, "cell_type", text), batches)

    client = client_through(tiny, monkeypatch, change)
    pd.testing.assert_frame_equal(client.tables.cell_types().query(), expected)


def lists_as(value):
    return lambda _: json.dumps(value).encode()


def test_numbers_that_are_all_missing_have_their_type_although_they_come_as_text(tiny, monkeypatch):
    def change(body):
        table = read(body)
        place = table.column_names.index("volume")
        return written(table.set_column(place, "volume", pa.nulls(len(table), pa.string())))

    frame = client_through(tiny, monkeypatch, change).tables.nucleus_detection().query()
    assert frame["volume"].isna().all()
    assert frame["volume"].dtype == np.float64


def test_rows_without_an_id_are_in_order_where_some_are_missing(tiny, monkeypatch):
    """A view may have one column of ids only, which is null in some rows."""

    rows = written(pa.table({"pt_root_id": pa.array([20, 30, None, 10], pa.int64())}))
    frame = client_through(tiny, monkeypatch, lambda _: rows).views.cell_info().query()
    assert frame["pt_root_id"].dropna().tolist() == [10, 20, 30]


@pytest.mark.parametrize("path", ["/tables/metadata", "/views"])
@pytest.mark.parametrize(
    "value",
    [
        5,
        "text",
        None,
        True,
        [[1]],
        [None],
        {"a": 5},
        [{"table_name": ["a"]}],
        {"v": {"voxel_resolution_x": "wide"}},
    ],
    ids=repr,
)
def test_lists_of_another_shape_raise_with_their_address(tiny, monkeypatch, path, value):
    client = client_through(tiny, monkeypatch, lists_as(value), path=path)
    names = client.tables if "tables" in path else client.views
    with pytest.raises(errors.ProtocolError) as caught:
        list(names)
    assert caught.value.service == "materialize"
    assert path in caught.value.url


@pytest.mark.parametrize(("path", "number"), [("/tables/metadata$", 13), ("/views$", 5)])
@pytest.mark.parametrize("fault", ["404", "503"])
def test_trouble_that_passes_is_not_remembered(tiny, path, number, fault):
    client = tiny.load(version=3, retries=0)
    names = client.tables if "tables" in path else client.views
    tiny.inject(fault, route=path, count=1)
    try:
        assert list(names) == []
    except errors.ServiceError:
        assert fault == "503"
    assert len(names) >= number


def counts(value):
    def change(body):
        return written(pa.table({"count": value})) if read(body).column_names == ["count"] else body

    return change


@pytest.mark.parametrize(
    "value",
    [[10**6], [-1], [1.5], [float("nan")], ["12"], [1, 2], [], [None]],
    ids=str,
)
def test_a_wrong_count_raises_after_few_requests(truncating, monkeypatch, value):
    client = client_through(truncating, monkeypatch, counts(value))
    with pytest.raises((errors.ProtocolError, errors.IncompleteResultError)):
        client.tables.synapses_sandbox().query()
    assert len(client.sent) < 500


@pytest.mark.parametrize("options", [{}, {"synapse_table": "synapses_sandbox"}])
@pytest.mark.parametrize("value", ["many", [1, 2]])
def test_connections_of_something_else_than_numbers(sandbox, monkeypatch, options, value):
    def spoil(body):
        table = read(body)
        for number, field in enumerate(table.schema):
            if field.name in {"n_syn", "sum_size", "size"}:
                table = table.set_column(number, field.name, pa.array([value] * len(table)))
        return written(table)

    roots = [root for root in sandbox.load(version=3).query("nucleus_detection")["pt_root_id"] if root][:3]
    client = client_through(sandbox, monkeypatch, spoil)
    with pytest.raises(errors.ProtocolError) as caught:
        client.connectivity(roots, **options)
    assert caught.value.url


@pytest.mark.parametrize("output", ["meshwork", "cell"])
def test_synapses_without_the_columns_of_a_neuron(sandbox, monkeypatch, output):
    def spoil(body):
        table = read(body)
        return written(table.select([name for name in table.column_names if "ctr_pt_position" not in name]))

    root = next(root for root in sandbox.load(version=3).query("nucleus_detection")["pt_root_id"] if root)
    client = client_through(sandbox, monkeypatch, spoil, path="synapses_sandbox/query")
    with pytest.raises(errors.ProtocolError, match="ctr_pt_position"):
        client.get_skeleton(root, output=output)


@pytest.mark.parametrize("value", [[1, 2], True, 1.5])
def test_ids_of_a_view_that_are_none(sandbox, monkeypatch, value):
    def spoil(body):
        table = read(body)
        number = next(n for n, name in enumerate(table.column_names) if name.endswith("_id"))
        return written(table.set_column(number, table.column_names[number], pa.array([value] * len(table))))

    client = client_through(sandbox, monkeypatch, spoil)
    for view in ("connections_with_nuclei", "cell_info"):
        with pytest.raises(errors.ProtocolError) as caught:
            client.query(view)
        assert caught.value.url
