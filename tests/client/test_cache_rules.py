"""Which responses are stored for good, for work offline, or never; and only if they can be parsed completely."""

from __future__ import annotations

import gzip
import json
import re
import time

import numpy as np
import pyarrow as pa
import pytest
import requests

from cortexclient.session.cache.rules import Origin, Validity, read_request, rule_for, settled

HOME = "https://x.org"
ORIGIN = Origin(HOME, "d")
PAST, NOW = "1700000000.000000", f"{time.time():.6f}"
MAT = "/materialize/api/v3/datastack/d"
PCG = "/segmentation/api/v1/table/t"


def ask(method, path, body=None, **headers):
    if isinstance(body, dict | list):
        body = json.dumps(body)
    return read_request(
        requests.Request(method, f"{HOME}{path}", data=body, headers=headers).prepare(), ORIGIN, HOME
    )


def keep(method, path, body=None):
    asked = ask(method, path, body)
    rule = rule_for(asked)
    return Validity.NEVER if rule is None else rule.of_request(asked)


FINAL = [
    ("POST", f"{MAT}/version/3/table/t/query?return_pyarrow=True"),
    ("POST", f"{MAT}/version/3/table/t/query?count=True"),
    ("POST", f"{MAT}/version/3/views/v/query"),
    ("POST", f"{MAT}/version/3/query"),
    ("GET", f"{MAT}/version/3/table/t/count"),
    ("GET", f"{MAT}/version/3/table/t/metadata"),
    ("GET", f"{MAT}/version/3/tables/metadata"),
    ("POST", f"{PCG}/roots_binary?timestamp={PAST}"),
    ("POST", f"{PCG}/roots_binary?timestamp={PAST}&stop_layer=2"),
    ("POST", f"{PCG}/is_latest_roots?timestamp={PAST}"),
    ("POST", f"{PCG}/root_timestamps?latest=True&timestamp={PAST}"),
    ("POST", f"{PCG}/root_timestamps?latest=False&timestamp={NOW}"),
    ("POST", f"{PCG}/lineage_graph_multiple?timestamp_past={PAST}&timestamp_future={PAST}"),
    ("GET", f"{PCG}/node/5/leaves?stop_layer=2"),
    ("GET", f"{PCG}/node/5/lvl2_graph"),
    ("POST", "/l2cache/api/v1/table/t/attributes?int64_as_str=False"),
    ("GET", "/skeletoncache/api/v1/d/async/get_skeleton/4/5/flatdict?verbose_level=0"),
    ("POST", "/skeletoncache/api/v1/d/bulk/get_cached_skeletons/4/flatdict"),
    ("GET", "/meshing/api/v1/table/t/manifest/5:0?verify=True"),
]
AS_OF = [
    ("GET", "/info/api/v2/datastack/full/d"),
    ("GET", f"{MAT}/metadata?expired=True"),
    ("GET", f"{MAT}/version/3"),
    ("GET", f"{MAT}/version/3/views"),
    ("GET", f"{MAT}/version/3/views/schemas"),
    ("GET", "/schema/api/v2/type/synapse"),
    ("GET", "/segmentation/table/t/info"),
    ("GET", "/segmentation/api/version"),
    ("GET", "/materialize/api/versions"),
    ("GET", "/skeletoncache/api/versions"),
    ("GET", "/nglstate/api/v1/5"),
]
NEVER = [
    ("POST", f"{MAT}/version/3/table/t/query?random_sample=5"),
    ("POST", f"{MAT}/query"),
    ("POST", f"{PCG}/roots_binary"),
    ("POST", f"{PCG}/roots_binary?timestamp={NOW}"),
    ("POST", f"{PCG}/is_latest_roots"),
    ("POST", f"{PCG}/is_latest_roots?timestamp={NOW}"),
    ("POST", f"{PCG}/root_timestamps?latest=True&timestamp={NOW}"),
    ("POST", f"{PCG}/root_timestamps?latest=True"),
    ("POST", f"{PCG}/lineage_graph_multiple?timestamp_past={PAST}&timestamp_future={NOW}"),
    ("POST", f"{PCG}/merge"),
    ("POST", f"{PCG}/split"),
    ("GET", "/skeletoncache/api/v1/d/async/get_skeleton/-1/5/flatdict"),
    ("GET", "/skeletoncache/api/v1/d/async/get_skeleton/0/5/flatdict"),
    ("POST", "/skeletoncache/api/v1/d/bulk/get_skeleton_token/4"),
    ("POST", "/skeletoncache/api/v1/d/precomputed/skeleton/exists"),
    ("POST", "/annotation/api/v2/aligned_volume/v/table/t/annotations"),
    ("GET", "/annotation/api/v2/aligned_volume/v/table/t/annotations"),
    ("GET", "/auth/api/v1/user/token"),
    ("POST", "/nglstate/api/v1/post"),
    ("DELETE", "/info/api/v2/datastack/full/d"),
    ("GET", "/nobody/has/thought/of/this"),
]


@pytest.mark.parametrize(
    ("how", "method", "path"),
    [
        (how, *route)
        for how, routes in ((Validity.FOREVER, FINAL), (Validity.AS_OF, AS_OF), (Validity.NEVER, NEVER))
        for route in routes
    ],
    ids=lambda value: value.replace(NOW, "now") if isinstance(value, str) else None,
)
def test_what_lasts(how, method, path):
    assert keep(method, path) is how


@pytest.mark.parametrize(
    ("text", "past"),
    [
        (PAST, True),
        pytest.param(NOW, False, id="now"),
        pytest.param(f"{time.time() - 60:.6f}", False, id="a minute ago"),
        ("2024-01-01T00:00:00+00:00", True),
        ("2024-01-01T00:00:00", False),
        ("2100-01-01T00:00:00+00:00", False),
        ("yesterday", False),
        ("nan", False),
        (None, False),
    ],
)
def test_the_past_is_settled_after_a_while(text, past):
    assert settled(text) is past


def arrow(**columns):
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


def ids(*values):
    return np.array(values, dtype="<u8").tobytes()


def as_json(value):
    return json.dumps(value).encode()


ROWS = arrow(id=[1, 2, 3], text=["a", "b", "c"])
BAD_OFFSETS = ROWS.replace(np.array([0, 1, 2], "<i4").tobytes(), np.array([0, 2**30, 2], "<i4").tobytes())
SKELETON = gzip.compress(as_json({"vertices": [[0, 0, 0]], "edges": []}))
QUERY = ("POST", f"{MAT}/version/3/table/t/query", {})
ROOTS = ("POST", f"{PCG}/roots_binary?timestamp={PAST}")
TIMES = ("POST", f"{PCG}/root_timestamps?latest=False", {"node_ids": [5, 6]})
LEAVES = ("GET", f"{PCG}/node/5/leaves", None)
ONE = ("GET", "/skeletoncache/api/v1/d/async/get_skeleton/4/5/flatdict", None)
ATTRIBUTES = ("POST", "/l2cache/api/v1/table/t/attributes?attribute_names=size", {"l2_ids": [5, 6]})
INFO = ("GET", "/info/api/v2/datastack/full/d", None)
VIEWS = ("GET", f"{MAT}/version/3/views", None)
TABLES = ("GET", f"{MAT}/version/3/tables/metadata", None)
COUNT = ("GET", f"{MAT}/version/3/table/t/count", None)
FOREVER, AS_FOUND, NOT = Validity.FOREVER, Validity.AS_OF, Validity.NEVER


@pytest.mark.parametrize(
    ("route", "body", "validity"),
    [
        (QUERY, ROWS, FOREVER),
        (QUERY, ROWS[:-8], NOT),
        (QUERY, ROWS[: len(ROWS) // 2], NOT),
        (QUERY, BAD_OFFSETS, NOT),
        (QUERY, arrow(id=[1], di=[2]).replace(b"di", b"id"), NOT),
        (QUERY, arrow(), NOT),
        (QUERY, b"", NOT),
        (QUERY, b"<html>login</html>", NOT),
        ((*ROOTS, ids(5, 6)), ids(9, 9), FOREVER),
        ((*ROOTS, ids(5, 6)), ids(9, 0), AS_FOUND),
        ((*ROOTS, ids(5, 6)), ids(9), NOT),
        ((*ROOTS, ids(0, 6)), ids(0, 9), FOREVER),
        (TIMES, as_json({"timestamp": [1.0, 2]}), FOREVER),
        (TIMES, as_json({"timestamp": [1.0]}), NOT),
        (TIMES, as_json({"timestamp": [1.0, None]}), NOT),
        (LEAVES, as_json({"leaf_ids": [7]}), FOREVER),
        (LEAVES, as_json({"leaf_ids": []}), NOT),
        (LEAVES, as_json({"leaf_ids": [7.0]}), NOT),
        (LEAVES, b'{"leaf_ids": [7', NOT),
        (ONE, SKELETON, FOREVER),
        (ONE, gzip.compress(SKELETON), FOREVER),
        (ONE, SKELETON[:-9], NOT),
        (ONE, gzip.compress(b"[]"), NOT),
        (ONE, b"a page", NOT),
        (ATTRIBUTES, as_json({"5": {"size": 1}, "6": {"size": 2}}), FOREVER),
        (ATTRIBUTES, as_json({"5": {"size": 1}, "6": {}}), AS_FOUND),
        (ATTRIBUTES, as_json({"5": 1}), NOT),
        (INFO, as_json({"local_server": HOME}), AS_FOUND),
        (INFO, b"<html>login</html>", NOT),
        (INFO, b"[" * 100_000, NOT),
        (VIEWS, b"[]", NOT),
        (TABLES, as_json([{"table_name": "t"}]), FOREVER),
        (TABLES, b"[]", NOT),
        (COUNT, b"12", FOREVER),
        (COUNT, b"-1", NOT),
        (COUNT, b"12.5", NOT),
        (COUNT, b"true", NOT),
    ],
    ids=lambda _: "",
)
def test_only_what_is_complete_is_stored(route, body, validity):
    asked = ask(*route)
    kind = "data.arrow" if route is QUERY else "application/json"
    assert rule_for(asked).validity(asked, 200, body, kind) is validity
    assert rule_for(asked).validity(asked, 206, body, kind) is NOT
    if route is QUERY:
        assert rule_for(asked).validity(asked, 200, body, "text/html") is NOT


@pytest.mark.parametrize(
    ("route", "body", "stored"), [(VIEWS, b"{}", True), (VIEWS, b"<h1>", False), (INFO, b"{}", False)]
)
def test_none_is_stored_where_the_service_itself_says_so(route, body, stored):
    asked = ask(*route)
    assert rule_for(asked).validity(asked, 404, body, "") is (AS_FOUND if stored else NOT)


def test_no_response_of_a_real_service_is_taken_for_damaged(toy_folder):
    lines = gzip.decompress((toy_folder / "exchanges.jsonl.gz").read_bytes()).decode().splitlines()[1:]
    sound, refused = set(), []
    for exchange in map(json.loads, lines):
        body = exchange["body"] if exchange["status"] == 200 else {}
        if body.get("kind") != "json":
            continue
        asked = ask(
            exchange["method"], re.sub("^https?://[^/]+", "", exchange["url"]), exchange["request_body"]
        )
        rule = rule_for(asked)
        if rule is not None and rule.of_request(asked) is not NOT:
            found = rule.validity(asked, 200, as_json(body["value"]), "application/json")
            sound.add(rule.what) if found is not NOT else refused.append(
                (rule.what, exchange["url"][-50:], body["value"])
            )
    assert len(sound) > 12
    assert [
        entry for entry in refused if next(iter(entry[2].values())) != []
    ] == []  # an empty list is not stored


def test_the_same_question_has_the_same_name():
    def name(path, body=None, origin=ORIGIN, **headers):
        return ask("POST", path, body, **headers).identity(origin)

    assert name("/a?b=1&a=2") == name("/a?a=2&b=1")
    assert name("/a", '{"x": 1, "y": 2}') == name("/a", '{"y":2,"x":1}')
    assert name("/a", '{"x": 1}') != name("/a", '{"x": 2}')
    assert name("/a", '{"x": [1, 2]}') != name("/a", '{"x": [2, 1]}')
    assert name("/a?middle_auth_token=1234&b=1") == name("/a?b=1")
    assert name("/a", Authorization="Bearer one") == name("/a", Authorization="Bearer two")
    assert name("/a", Accept="application/json") != name("/a")
    assert name("/a") != name("/a", origin=Origin("https://y.org", "d"))
    assert name("/a") != name("/a", origin=Origin(HOME, "e"))
    assert name("/a") != ask("GET", "/a").identity(ORIGIN)


def test_a_launched_server_has_a_lasting_name():
    origin = Origin("sandbox://small", "d")

    def name(port):
        request = requests.Request("GET", f"http://127.0.0.1:{port}/info/api").prepare()
        return read_request(request, origin, f"http://127.0.0.1:{port}")

    assert name(1234) == name(4321)
    assert "127.0.0.1" not in name(1234).url
