"""Requests that the recording does not hold, over the recorded datastack.

What they must be answered was worked out by hand from the published source of the real services and from the tables of
the recording, never from the sandbox.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.replay import Answer, Replay

PCG = "/segmentation/api/v1/table/toy_pcg"
SKELETONS = "/skeletoncache/api/v1/toy"
# a supervoxel, its roots by time, a root that was never edited, one with all its level-2 ids cached, an unknown one
SUPERVOXEL, FIRST_ROOT, NOW_ROOT = 72057594037927937, 360287970189639681, 360287970189639948
WHOLE, CACHED, UNKNOWN = 360287970189639687, 360287970189640103, 360287970189649999
L2_ID, EVERYTHING = 144115188075855878, 2**64 - 1


@pytest.fixture(scope="module")
def real(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    folder = recordings / "real_toy_datastack"
    with Replay(folder, tmp_path_factory.mktemp("unrecorded")) as replay:
        yield replay


def ask(
    real: Replay, path: str, body: Any = None, *, port: int = 8080, method: str = "", **headers: str
) -> Answer:
    """Answer to one request; a body makes it a POST, where nothing else is said."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    if body is not None:
        named.setdefault("Content-Type", "application/json")
    method = method or ("GET" if body is None else "POST")
    url = f"http://127.0.0.1:{port}{path}"
    return real.ask({"method": method, "url": url, "request_headers": named, "request_body": body})


def value(answer: Answer) -> Any:
    assert answer.status == 200, answer.body[:300]
    return json.loads(answer.body)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        # any text means yes, an empty one no; 0 means the roots' layer
        ("roots?stop_layer=0", {"node_ids": [SUPERVOXEL]}, {"root_ids": [NOW_ROOT]}),
        ("roots?stop_layer=-1", {"node_ids": [SUPERVOXEL]}, {"root_ids": [SUPERVOXEL]}),
        ("roots?fail_to_zero=0", {"node_ids": [SUPERVOXEL, 1]}, {"root_ids": [NOW_ROOT, 0]}),
        ("roots", {"node_ids": [str(SUPERVOXEL)]}, {"root_ids": [NOW_ROOT]}),
        # the service's numpy reads a negative number as the unsigned one of the same bits
        ("roots", {"node_ids": [-1]}, {"root_ids": [EVERYTHING]}),
        ("root_timestamps", {"node_ids": [SUPERVOXEL]}, {"timestamp": []}),
        (
            "lineage_graph_multiple",
            {"root_ids": []},
            {"directed": True, "graph": {}, "links": [], "multigraph": False, "nodes": []},
        ),
        ("node/leaves_many", {"node_ids": [L2_ID]}, {str(L2_ID): [72057594037927939, 72057594037927940]}),
        ("node/leaves_many?stop_layer=3", {"node_ids": [L2_ID]}, {str(L2_ID): []}),
        ("node/-1/root", None, {"root_id": EVERYTHING}),
        (f"node/{EVERYTHING}/children", None, {"children_ids": []}),
        (f"node/{UNKNOWN}/root", None, {"root_id": UNKNOWN}),
        (f"node/{WHOLE}/leaves?stop_layer=5", None, {"leaf_ids": [WHOLE]}),
        (f"node/{SUPERVOXEL}/leaves", None, {"leaf_ids": []}),
        ("operation_details", None, {}),
        ("user_operations?user_id=1&end_time=1795223328", None, {"operation_id": {}, "timestamp": {}}),
    ],
)
def test_chunkedgraph(real: Replay, path: str, body: Any, expected: Any) -> None:
    assert value(ask(real, f"{PCG}/{path}", body)) == expected


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("roots?stop_layer=", {"node_ids": [SUPERVOXEL]}),
        ("roots?assert_roots=False&timestamp=0", {"node_ids": [SUPERVOXEL]}),
        ("roots?fail_to_zero=", {"node_ids": [SUPERVOXEL, 1]}),
        ("roots", {"node_ids": SUPERVOXEL}),
        ("roots", {"node_ids": [[SUPERVOXEL], [SUPERVOXEL]]}),
        ("roots", {"node_ids": [2**64]}),
        ("is_latest_roots", {"node_ids": WHOLE}),
        ("lineage_graph_multiple", {"root_ids": [SUPERVOXEL]}),
        ("node/leaves_many", {"node_ids": [WHOLE, WHOLE]}),
        (f"node/{2**64}/children", None),
        (f"node/{WHOLE}/leaves?stop_layer=", None),
        (f"node/{WHOLE}/leaves?bounds=0-128", None),
        (f"node/{WHOLE}/leaves?bounds=0-128_0-64_0-32_0-1", None),
        (f"node/{WHOLE}/lvl2_graph?bounds=0-128_0-64", None),
        (f"operation_details?operation_ids=%5B{NOW_ROOT}%5D", None),
        ("oldest_timestamp?delimiter=", None),
    ],
)
def test_chunkedgraph_failures(real: Replay, path: str, body: Any) -> None:
    answer = ask(real, f"{PCG}/{path}", body)
    assert answer.status == 500
    assert set(json.loads(answer.body)) == {"code", "duration", "message", "timestamp", "traceback"}


def test_an_empty_layer_of_one_root_is_a_bad_request(real: Replay) -> None:
    answer = ask(real, f"{PCG}/node/{SUPERVOXEL}/root?stop_layer=")
    assert (answer.status, json.loads(answer.body)["code"]) == (400, 400)


def test_version_0_of_the_chunkedgraph_answers_raw_numbers(real: Replay) -> None:
    old = "/segmentation/1.0/toy_pcg"
    assert ask(real, f"{old}/graph/root", [SUPERVOXEL]).body == struct.pack("<Q", NOW_ROOT)
    at_first = ask(real, f"{old}/graph/{SUPERVOXEL}/root?timestamp=1795221776").body
    assert at_first == struct.pack("<Q", FIRST_ROOT)
    kids = ask(real, f"{old}/segment/{L2_ID}/leaves").body
    assert sorted(struct.unpack("<2Q", kids)) == [72057594037927939, 72057594037927940]
    assert value(ask(real, f"{old}/graph/oldest_timestamp"))["iso"] == "2026-11-21 00:52:54.676000+00:00"
    assert value(ask(real, f"{old}/info")) == value(ask(real, "/segmentation/table/toy_pcg/info"))
    assert ask(real, f"{old}/segment/{SUPERVOXEL}/leaves_from_leave").status == 500


@pytest.mark.parametrize(
    ("service", "text"),
    [
        ("/segmentation/api/v1", b"PyChunkedGraph Segmentation v2.21.1"),
        ("/segmentation/1.0", b"PyChunkedGraph Segmentation v2.21.1"),
        ("/meshing/api/v1", b"PyChunkedGraph Meshing v2.21.1"),
        ("/nglstate", b"NeuroglancerJsonServer - v0.7.2"),
    ],
)
def test_services_name_themselves(real: Replay, service: str, text: bytes) -> None:
    assert [ask(real, f"{service}/{end}").body for end in ("", "index")] == [text, text]
    if service != "/nglstate":
        there = ask(real, service)
        assert (there.status, (there.header("location") or "").endswith(f"{service}/")) == (308, True)


def test_an_accepted_remeshing_has_no_body(real: Replay) -> None:
    answer = ask(real, "/meshing/api/v1/table/toy_pcg/remeshing", {"new_lvl2_ids": [L2_ID]})
    assert (answer.status, answer.body) == (202, b"")
    assert (answer.header("content-type") or "").startswith("text/html")


# --- skeletons


@pytest.mark.parametrize("version", [-1, 0, 99])
def test_info_of_a_version_that_is_none(real: Replay, version: int) -> None:
    answer = ask(real, f"{SKELETONS}/precomputed/skeleton/{version}/info", port=8084)
    assert (answer.status, answer.body[:9]) == (500, b"<!doctype")


def test_info_by_version(real: Replay) -> None:
    base = f"{SKELETONS}/precomputed/skeleton"
    kinds = {
        version: [
            one["data_type"]
            for one in value(ask(real, f"{base}/{version}/info", port=8084))["vertex_attributes"]
        ]
        for version in (1, 2, 3, 4)
    }
    assert kinds == {1: [], 2: ["float32"] * 2, 3: ["float32", "uint8"], 4: ["float32", "uint8"]}


def test_the_list_of_refused_roots_has_a_head(real: Replay) -> None:
    path = f"{SKELETONS}/precomputed/skeleton/get_refusal_list"
    assert gzip.decompress(ask(real, path, port=8084).body) == b"DATASTACK_NAME,ROOT_ID\n"
    assert value(ask(real, path)) is True


def test_how_long_making_skeletons_takes(real: Replay) -> None:
    """A minute for each fifteen that are not kept yet; ids of other layers are left out, unknown roots are not."""
    path = f"{SKELETONS}/bulk/gen_skeletons"
    # roots whose level-2 ids are not all cached: nothing comes of asking for them
    lost = [360287970189639682, 360287970189639683, UNKNOWN]
    body = {"root_ids": [*lost, SUPERVOXEL], "skeleton_version": 4}
    assert value(ask(real, path, body, port=8084)) == 60
    body = {"root_ids": [UNKNOWN + 1 + n for n in range(16)], "skeleton_version": 4}
    assert value(ask(real, path, body, port=8084)) == 120
    assert value(ask(real, path, {"root_ids": [SUPERVOXEL], "skeleton_version": 4}, port=8084)) == 0
    # without its limiter the service says yes to whatever it is asked
    assert value(ask(real, path, {"root_ids": []})) is True
    assert ask(real, path, {"root_ids": lost}, port=8084).status == 500
    assert ask(real, f"{path}/{WHOLE}", port=8084).status == 500


def test_formats_that_the_service_does_not_send(real: Replay) -> None:
    base = f"{SKELETONS}/precomputed/skeleton/4"
    unknown = ask(real, f"{base}/{CACHED}/nope", port=8084)
    assert (unknown.status, json.loads(unknown.body)) == (500, {"Error": ""})
    # looked at before the skeleton is made, which would fail too
    assert json.loads(ask(real, f"{base}/{WHOLE}/nope").body) == {"Error": ""}
    # "none" is passed on in the wrong way, whatever was asked
    for root in (CACHED, UNKNOWN):
        answer = ask(real, f"{base}/{root}/none", port=8084)
        assert (answer.status, answer.body[:9]) == (500, b"<!doctype")


def test_skeletons_are_kept_in_the_newest_version(real: Replay) -> None:
    assert ask(real, f"{SKELETONS}/async/get_skeleton/3/{CACHED}/flatdict", port=8084).status == 200
    found = {
        version: value(
            ask(real, f"{SKELETONS}/precomputed/skeleton/query_cache/{version}{CACHED}/0", port=8084)
        )["num_found"]
        for version in ("", "-1/", "0/", "3/", "4/")
    }
    assert found == {"": 0, "-1/": 0, "0/": 0, "3/": 0, "4/": 1}
    twice = f"{SKELETONS}/precomputed/skeleton/query_cache/4/{CACHED},{CACHED}/1"
    answer = value(ask(real, twice, port=8084))
    assert (answer["num_found"], len(answer["files"])) == (2, 1)


def test_bulk_formats_are_packed_whatever_their_name(real: Replay) -> None:
    ask(real, f"{SKELETONS}/async/get_skeleton/4/{CACHED}/flatdict", port=8084)
    bulk = f"{SKELETONS}/bulk/get_skeletons/4"
    packed = {
        form: value(ask(real, f"{bulk}/{form}/False/{CACHED},{SUPERVOXEL},{UNKNOWN}", port=8084))
        for form in ("json", "jsoncompressed", "swc", "swccompressed")
    }
    for answer in packed.values():
        assert (answer[str(SUPERVOXEL)], answer[str(UNKNOWN)]) == ("invalid_layer_rid", "invalid_rid")
    assert packed["json"] == packed["jsoncompressed"]
    assert packed["swc"] == packed["swccompressed"]
    points = json.loads(gzip.decompress(bytes.fromhex(packed["json"][str(CACHED)])))
    lines = bytes.fromhex(packed["swc"][str(CACHED)]).decode().splitlines()
    assert len(lines) == len(points["vertices"])
    assert ask(real, f"{bulk}/arrays/False/{CACHED}", port=8084).status == 500
    assert ask(real, f"{bulk}/flatdict/False/x", port=8084).status == 500


def test_a_version_1_skeleton_for_neuroglancer_has_no_attributes(real: Replay) -> None:
    body = ask(real, f"{SKELETONS}/precomputed/skeleton/1/{CACHED}", port=8084).body
    vertices, edges = struct.unpack_from("<2I", body)
    assert len(body) == 8 + 12 * vertices + 8 * edges


def test_exists_takes_a_list(real: Replay) -> None:
    path = f"{SKELETONS}/precomputed/skeleton/exists"
    assert ask(real, path, {"root_ids": WHOLE, "skeleton_version": 4}, port=8084).status == 500
    assert ask(real, path, {"root_ids": [WHOLE], "skeleton_version": 99}, port=8084).status == 500
    assert ask(real, f"{path}/{WHOLE}", port=8084).status == 500
    elsewhere = path.replace("/toy/", "/nope/")
    assert value(ask(real, elsewhere, {"root_ids": [CACHED, 1], "skeleton_version": 4}, port=8084)) == {
        str(CACHED): False,
        "1": False,
    }
    wrong = ask(real, path, port=8084)
    assert (wrong.status, list(json.loads(wrong.body))) == (405, ["message"])
    untyped = ask(real, path, {"root_ids": []}, port=8084, Content_Type="text/plain")
    assert (untyped.status, list(json.loads(untyped.body))) == (415, ["message"])


def test_no_such_path(real: Replay) -> None:
    for path in (
        f"{SKELETONS}/nope",
        f"{SKELETONS}/precomputed/skeleton/x/{CACHED}/swc",
        "/nglstate/api/v1/property/1",
    ):
        answer = ask(real, path)
        assert (answer.status, answer.body[:9]) == (404, b"<!doctype"), path


# --- states


def test_states_under_a_number(real: Replay) -> None:
    for kind in ("", "property/"):
        path = f"/nglstate/api/v1/{kind}post/777"
        assert value(ask(real, path, {"a": 1})).endswith(path)
        assert ask(real, path, {"a": 2}).status == 500
    assert value(ask(real, "/nglstate/api/v1/777")) == {"a": 1}
    assert value(ask(real, "/nglstate/777")) == {"a": 1}
    assert ask(real, "/nglstate/api/v1/property/raw/777").body[:1] == b"\x78"
    assert ask(real, "/nglstate/api/v1/property/post").status == 405
    assert ask(real, "/nglstate/api/v1/post").status == 500
    refused = ask(real, "/nglstate/api/v1/post/778", {}, port=8083, Authorization="Bearer token-viewer")
    assert (refused.status, refused.body) == (403, b"Requires superadmin privilege.")


# --- annotations


def test_whether_only_valid_tables_are_listed(real: Replay) -> None:
    path = "/annotation/api/v2/aligned_volume/toy_vol/table?filter_valid="
    assert "tags_toy" in value(ask(real, path + "False"))
    assert "tags_toy" in value(ask(real, path + "on"))
    refused = ask(real, path + "perhaps")
    assert (refused.status, set(json.loads(refused.body))) == (500, {"errors", "message"})


# --- who may ask


def test_a_token_in_the_address_becomes_a_cookie_for_a_browser(real: Replay) -> None:
    path = "/info/api/v2/datastacks?middle_auth_token=token-viewer"
    sent = ask(real, path + "&x=1", port=8082)
    assert (sent.status, (sent.header("location") or "").partition("/info")[2]) == (
        302,
        "/api/v2/datastacks?x=1",
    )
    assert (sent.header("set-cookie") or "").startswith("middle_auth_token=token-viewer;")
    # a program is answered, and the address goes before a cookie
    assert value(ask(real, path, port=8082, X_Requested_With="x", Cookie="middle_auth_token=bad")) == [
        "toy",
        "toytos",
    ]
    assert value(ask(real, path, port=8082, Authorization="Bearer token-nobody")) == []


def test_what_a_browser_is_sent_away_for(real: Replay) -> None:
    bad = ask(real, "/info/api/v2/datastacks", port=8082, Cookie="middle_auth_token=bad")
    assert (bad.status, "/authorize?redirect=" in (bad.header("location") or "")) == (302, True)
    terms = ask(
        real,
        "/materialize/api/v3/datastack/toytos/versions",
        port=8082,
        Cookie="middle_auth_token=token-viewer",
    )
    assert (terms.status, "/tos/1/accept?redirect=" in (terms.header("location") or "")) == (302, True)


def test_a_header_with_two_words_after_bearer(real: Replay) -> None:
    assert value(ask(real, "/info/api/v2/datastacks", port=8082, Authorization="Bearer token-viewer x"))


@pytest.mark.parametrize(
    ("path", "method", "port", "right"),
    [
        (f"{PCG}/tabular_change_log_recent", "GET", 8082, "admin_view"),
        (f"{PCG}/user_operations", "GET", 8082, "admin_view"),
        (f"{PCG}/supervoxel_lookup", "POST", 8082, "admin"),
        (f"{PCG}/undo", "POST", 8082, "edit"),
        ("/meshing/api/v1/table/toy_pcg/remeshing", "POST", 8082, "edit"),
        ("/annotation/api/v2/aligned_volume/toy_vol/table", "POST", 8083, "edit"),
        ("/annotation/api/v2/aligned_volume/toy_vol/table/tags_toy/annotations", "DELETE", 8083, "edit"),
        ("/annotation/api/v2/aligned_volume/toy_vol/table/tags_toy/count", "GET", 8083, "view"),
        (f"{PCG}/graph/split_preview", "POST", 8082, "view"),
    ],
)
def test_rights(real: Replay, path: str, method: str, port: int, right: str) -> None:
    refused = ask(real, path, {}, port=port, method=method, Authorization="Bearer token-nobody")
    assert refused.status == 403
    told = json.loads(refused.body)
    assert (told["error"], told["data"]) == (
        "missing_permission",
        {"required_permission": right, "auth_dataset": "toyds"},
    )


def test_superadmins_alone(real: Replay) -> None:
    for table, status in (("toy_pcg", 200), ("nope", 500)):
        path = f"/segmentation/api/v1/table/{table}/change_log"
        viewer = ask(real, path, port=8082, Authorization="Bearer token-viewer")
        assert (viewer.status, viewer.body) == (403, b"Requires superadmin privilege.")
        assert ask(real, path, port=8082, Authorization="Bearer service-token").status == status


def test_nobody_is_asked_for_a_token_where_nothing_is(real: Replay) -> None:
    answer = ask(real, f"{PCG}/nope", port=8082)
    assert (answer.status, answer.body[:9]) == (404, b"<!doctype")


def test_what_the_auth_service_tells_about_others(real: Replay) -> None:
    def told(path: str, who: str = "service-token") -> Answer:
        return ask(real, f"/auth/api/v1/{path}", port=8082, Authorization=f"Bearer {who}")

    assert value(told("username?id=2,3", "token-nobody")) == [
        {"id": 2, "name": "viewer"},
        {"id": 3, "name": "nobody"},
    ]
    assert "email" not in value(told("user/1", "token-viewer"))
    assert value(told("user/2"))["email"] == "viewer@example.org"
    assert (told("user/77").status, told("user/77").body) == (404, b"User doesn't exist")
    assert [one["id"] for one in value(told("user"))["items"]] == [1, 2, 3]
    assert value(told("service/pychunkedgraph/table/toy_pcg/dataset", "token-nobody")) == "toyds"
    assert told("service/datastack/table/nope/dataset").status == 404
    assert [one["tos_name"] for one in value(told("user/missing", "token-viewer"))] == ["Toy terms"]
