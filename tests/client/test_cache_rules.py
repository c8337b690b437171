"""Which answers are final, as of then, or never kept."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import requests

from cortexclient.session.cache.asked import Realm, read_request
from cortexclient.session.cache.rules import RULES, Keep, rule_for, settled

HOME = "https://x.org"
REALM = Realm(HOME, "d")
PAST, NOW = "1700000000.000000", f"{time.time():.6f}"
MAT = "/materialize/api/v3/datastack/d"
PCG = "/segmentation/api/v1/table/t"


def ask(method, path, body=None, **headers):
    if isinstance(body, dict):
        body = json.dumps(body)
    return read_request(
        requests.Request(method, f"{HOME}{path}", data=body, headers=headers).prepare(), REALM, HOME
    )


def keep(method, path, body=None):
    asked = ask(method, path, body)
    rule = rule_for(asked)
    return Keep.NEVER if rule is None else rule.asked(asked)


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
        for how, routes in ((Keep.FOREVER, FINAL), (Keep.AS_OF, AS_OF), (Keep.NEVER, NEVER))
        for route in routes
    ],
    ids=lambda value: value.replace(NOW, "now") if isinstance(value, str) else None,
)
def test_what_lasts(how, method, path):
    assert keep(method, path) is how


def test_every_row_is_tried():
    tried = {id(rule_for(ask(method, path))) for method, path in FINAL + AS_OF}
    untried = {rule.what for rule in RULES if id(rule) not in tried}
    assert untried <= {
        "children of {node}",
        "the edits of {node}",
        "edits",
        "the attributes that the level-2 cache has",
    }


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


def given_answer(path, body, answer, method="POST"):
    asked = ask(method, path, body)
    return rule_for(asked).answered(asked, answer)


def test_answers_with_gaps_are_not_final():
    ids = np.array([5, 6], dtype="<u8").tobytes()
    roots = f"{PCG}/roots_binary?timestamp={PAST}"
    assert given_answer(roots, ids, np.array([9, 9], dtype="<u8").tobytes()) is Keep.FOREVER
    assert given_answer(roots, ids, np.array([9, 0], dtype="<u8").tobytes()) is Keep.AS_OF
    assert given_answer(roots, ids, ids[:8]) is Keep.NEVER
    nothing = np.array([0, 6], dtype="<u8").tobytes()
    assert given_answer(roots, nothing, np.array([0, 9], dtype="<u8").tobytes()) is Keep.FOREVER
    times = f"{PCG}/root_timestamps?latest=False"
    assert given_answer(times, {"node_ids": [5, 6]}, b'{"timestamp": [1.0, 2.0]}') is Keep.FOREVER
    assert given_answer(times, {"node_ids": [5, 6]}, b'{"timestamp": [1.0]}') is Keep.NEVER
    assert given_answer(f"{PCG}/node/5/leaves", None, b'{"leaf_ids": []}', "GET") is Keep.NEVER
    assert given_answer(f"{MAT}/version/3/table/t/query", {}, b"") is Keep.NEVER
    assert (
        given_answer("/meshing/api/v1/table/t/manifest/5:0", None, b'{"fragments": []}', "GET") is Keep.NEVER
    )
    assert given_answer("/info/api/v2/x", None, b"<html>login</html>", "GET") is Keep.NEVER


def test_the_same_question_has_the_same_name():
    def name(path, body=None, realm=REALM, **headers):
        return ask("POST", path, body, **headers).key(realm)

    assert name("/a?b=1&a=2") == name("/a?a=2&b=1")
    assert name("/a", '{"x": 1, "y": 2}') == name("/a", '{"y":2,"x":1}')
    assert name("/a", '{"x": 1}') != name("/a", '{"x": 2}')
    assert name("/a", '{"x": [1, 2]}') != name("/a", '{"x": [2, 1]}')
    assert name("/a?middle_auth_token=1234&b=1") == name("/a?b=1")
    assert name("/a", Authorization="Bearer one") == name("/a", Authorization="Bearer two")
    assert name("/a", Accept="application/json") != name("/a")
    assert name("/a") != name("/a", realm=Realm("https://y.org", "d"))
    assert name("/a") != name("/a", realm=Realm(HOME, "e"))
    assert name("/a") != ask("GET", "/a").key(REALM)


def test_a_launched_server_has_a_lasting_name():
    realm = Realm("sandbox://small", "d")

    def name(port):
        request = requests.Request("GET", f"http://127.0.0.1:{port}/info/api").prepare()
        return read_request(request, realm, f"http://127.0.0.1:{port}")

    assert name(1234) == name(4321)
    assert "127.0.0.1" not in name(1234).url
