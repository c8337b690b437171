"""Every recorded refusal of the real services, and every fault of the sandbox, told as one of our errors."""

from __future__ import annotations

import ast
import contextlib
import gzip
import json
import pickle
import re
from pathlib import Path

import pytest
import requests

from cortexclient import errors
from cortexclient.sandbox import Sandbox
from cortexclient.sandbox.faults import KINDS, Fault
from cortexclient.services.datastack import DatastackService
from cortexclient.services.tables import QueriesService, TablesService
from cortexclient.session import Endpoint, Session, view_infos
from cortexclient.session.policy import passing_trouble
from cortexclient.session.refusals import (
    Context,
    Refusal,
    clean_url,
    error_for,
    read_refusal,
    scrub,
)

SERVICES = {
    "segmentation": "chunkedgraph", "skeletoncache": "skeleton", "nglstate": "state", "meshing": "chunkedgraph",
}  # fmt: skip


@contextlib.contextmanager
def troubled(server, fault):
    server.inject(fault)
    try:
        yield
    finally:
        server.clear_faults()


def response_of(exchange: dict) -> requests.Response:
    response = requests.Response()
    response.status_code = exchange["status"]
    response.url = exchange["url"]
    body = exchange["body"] or {"kind": "text", "value": ""}
    value = body.get("value", "")
    response._content = (json.dumps(value) if body["kind"] == "json" else str(value)).encode()
    for name, value in exchange["response_headers"] or []:
        response.headers[name] = value
    return response


@pytest.fixture(scope="module")
def refusals(toy_folder):
    with gzip.open(toy_folder / "exchanges.jsonl.gz", "rt") as lines:
        next(lines)
        found = [json.loads(line) for line in lines]
    return [exchange for exchange in found if exchange["status"] and exchange["status"] >= 400]


def error_of(exchange: dict) -> errors.ServiceError:
    service = re.sub(r"^https?://[^/]+/", "", exchange["url"]).partition("/")[0].partition("?")[0]
    context = Context(
        service=SERVICES.get(service, service), datastack="toy", tokens=("token-viewer", "token-nobody")
    )
    return error_for(read_refusal(response_of(exchange)), context)


def test_all_recorded_refusals(refusals):
    assert len(refusals) > 240
    for exchange in refusals:
        error = error_of(exchange)
        text = json.dumps(exchange["body"])
        assert isinstance(error, errors.ServiceError)
        assert error.service
        assert error.url
        assert "traceback" not in str(error).lower()
        assert "token-viewer" not in str(error)
        assert "SELECT" not in str(error) or exchange["status"] != 500, str(error)
        assert len(str(error)) < 1200
        assert not isinstance(error, errors.ServiceUnavailableError) or "429" in text or "406" in text
        # a user's mistake is never sent again
        assert passing_trouble(response_of(exchange)) == ("429 Too Many" in text), text


EXPECTED = [
    (r"version 77 not found", errors.UnknownVersionError, 404),
    (r"No version found", errors.UnknownVersionError, 404),
    (r"No table named 'nope'", errors.UnknownTableError, None),
    (r"Analysis table 'nope' not found", errors.UnknownTableError, 404),
    (r"No row was found for one\(\)\", \"traceback\"", errors.ServiceError, None),
    (r"nope not in model or models", errors.InvalidQueryError, 500),
    (r"schema_errors", errors.InvalidQueryError, 500),
    (r"Some root_ids passed are not valid", errors.InvalidQueryError, 400),
    (r"need supervoxel lookups", errors.ServiceUnavailableError, 406),
    (r"429 Too Many Requests", errors.ServiceUnavailableError, 429),
    (r"Regex filter is only supported", errors.InvalidQueryError, 500),
    (r"must be less than max bounds", errors.InvalidQueryError, 500),
    (r"Duplicate suffixes", errors.InvalidQueryError, 500),
    (r"Execution failed on sql", errors.InvalidQueryError, 500),
    (r"Some chunk indices are not yet computed", errors.MissingDataError, 500),
    (r"\"missing_permission\"", errors.AuthenticationError, 403),
    (r"\"missing_tos\"", errors.TermsOfServiceError, 403),
    (r"\"no_token\"", errors.AuthenticationError, 401),
    (r"\"invalid_token\"", errors.AuthenticationError, 401),
    (r"\"bad_auth_header\"", errors.AuthenticationError, None),
    (r"\"invalid_table_id\"", errors.UnknownTableError, None),
    (r"405 Method Not Allowed", errors.InvalidQueryError, 405),
    (r"422 Unprocessable Entity", errors.InvalidQueryError, 422),
    (r"409 Conflict", errors.InvalidQueryError, 409),
    (r"Requires admin privilege", errors.AuthenticationError, 403),
    (r"live live query to query a materialized", errors.InvalidQueryError, 400),
    (r"Too many root IDs requested", errors.InvalidQueryError, 400),
]


@pytest.mark.parametrize(("text", "kind", "status"), EXPECTED, ids=[entry[0] for entry in EXPECTED])
def test_which_refusal_becomes_which_error(refusals, text, kind, status):
    matching = [exchange for exchange in refusals if re.search(text, json.dumps(exchange["body"]))]
    assert matching
    for exchange in matching:
        error = error_of(exchange)
        assert isinstance(error, kind), (exchange["body"], error)
        if status is not None:
            assert error.status == status


@pytest.fixture(scope="module")
def later_refusals(recordings):
    """Refusals of the deployed services, in trouble and out of it."""
    lines = (recordings / "real_services_2026_11" / "exchanges.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{**e, "url": f"http://127.0.0.1:9080{e['url']}"} for e in found if e["status"] >= 400]


MISTAKE, TROUBLE = errors.InvalidQueryError, errors.ServiceUnavailableError


@pytest.mark.parametrize(
    ("label", "text", "kind", "again", "says"),
    [
        (r"bad|real.syn count", "^.*invalid input syntax", MISTAKE, False, "invalid input syntax"),
        (r"bad", "operator does not exist", MISTAKE, False, "operator does not exist"),
        (r"bad", "invalid regular expression", MISTAKE, False, "parentheses"),
        (r"bad.nul", "unterminated|cannot contain NUL", MISTAKE, False, "Check the column names"),
        (r"fail.timeout600", "statement timeout", TROUBLE, False, "ask for less"),
        (r"fail.backend killed", "server closed", TROUBLE, True, "server closed the connection"),
        (r"bad|real", "InFailedSql|: current transaction is aborted", TROUBLE, True, "try again"),
        (r"real", "cursor already closed", TROUBLE, True, "try again"),
        (r"fail.after duplicate id", "rolled back", TROUBLE, True, "nothing was written"),
        (r"fail.duplicate id", "UniqueViolation", MISTAKE, False, "already"),
        (r"fail.pcg down live", "502 Server Error", TROUBLE, True, "needs the chunkedgraph service"),
        (r"fail.stage unknown", "NoneType", errors.ServiceError, False, "fault of the server"),
        (
            r"auth.editor upload",
            "only be written to by owner",
            errors.AuthenticationError,
            False,
            "token is good",
        ),
    ],
)
def test_whose_mistake_it_is(later_refusals, label, text, kind, again, says):
    matching = [e for e in later_refusals if re.match(label, e["label"]) and re.search(text, message_of(e))]
    assert matching
    for exchange in matching:
        error = error_of(exchange)
        assert type(error) is kind, (exchange["label"], error)
        assert says in str(error)
        assert "SELECT" not in str(error)
        assert error.url.startswith("http://127.0.0.1:9080/")
        assert passing_trouble(response_of(exchange)) is again
        # what the database lost is asked for once more, and no more
        assert passing_trouble(response_of(exchange), attempt=1) is (again and "502" in text)


def message_of(exchange: dict) -> str:
    value = exchange["body"]["value"]
    return str(value.get("message", value) if isinstance(value, dict) else value)


def test_what_the_messages_say(refusals):
    def one(text):
        return str(error_of(next(e for e in refusals if text in json.dumps(e["body"]))))

    assert "https://127.0.0.1:8443/auth/api/v1/tos/1/accept" in one("missing_tos")
    assert "'view'" in one("missing_permission")
    assert "toyds" in one("missing_permission")
    assert "cortexclient login" in one("invalid_token")


def test_secrets_are_blanked():
    token = "abcdef0123456789abcdef0123456789"
    for text in (
        f"Bearer {token}", f"url?middle_auth_token={token}&x=1", f'{{"token": "{token}"}}', f"of {token}",
        f"https://x.org/a?token={token}",
    ):  # fmt: skip
        assert token not in scrub(text, (token,))
    assert token not in scrub(f"Bearer {token}")
    assert clean_url(f"https://user:{token}@x.org/a?token={token}#f") == "https://x.org/a"
    refusal = Refusal(status=500, text=f"failed with Authorization: Bearer {token}", url="https://x.org")
    assert token not in str(error_for(refusal, Context(service="info")))


FAULTS = [
    ("401", errors.AuthenticationError),
    ("403", errors.AuthenticationError),
    ("403-terms", errors.TermsOfServiceError),
    ("404", errors.ServiceError),
    ("406", errors.ServiceUnavailableError),
    ("429", errors.ServiceUnavailableError),
    ("429-retry-after", errors.ServiceUnavailableError),
    ("500", errors.ServiceError),
    ("500-string", errors.ServiceError),
    ("500-html", errors.ServiceError),
    ("502", errors.ServiceUnavailableError),
    ("503", errors.ServiceUnavailableError),
    ("504", errors.ServiceUnavailableError),
    ("login-redirect", errors.AuthenticationError),
    ("reset", errors.ServiceError),
    ("truncated", errors.ProtocolError),
    ("content-type", errors.ProtocolError),
    ("hang", errors.ServiceTimeoutError),
    ("stale-root", errors.ServiceError),
    ("expired-version", errors.ServiceError),
    ("table-missing", errors.UnknownTableError),
    ("aborted-transaction", errors.ServiceUnavailableError),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "expected"), FAULTS)
def test_every_fault_becomes_an_error(toy_server, toy_session, monkeypatch, kind, expected):
    monkeypatch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.01")
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    session = toy_session(retries=1, timeout=0.6 if kind == "hang" else 20, version=2)
    tables = TablesService(session)
    handle = tables.nucleus_toy()
    fault = Fault(kind, route="/query$", count=None, seconds=1)
    with troubled(toy_server, fault), pytest.raises(expected) as caught:
        handle.query()
    assert isinstance(caught.value, errors.CortexError)
    assert toy_server.token not in str(caught.value)
    assert opened == []
    assert len(handle.query()) == 40


HARMLESS = ("refused", "drip", "version-appears", "poisons-worker")


def test_no_fault_is_forgotten():
    assert {kind for kind, _ in FAULTS} | set(HARMLESS) == set(KINDS)


@pytest.mark.parametrize("kind", HARMLESS)
def test_faults_that_are_waited_out(toy_folder, toy_session, kind):
    with Sandbox(data=toy_folder) as server:
        spec = toy_session().spec
        session = Session(spec, endpoint=Endpoint(server.url, server.token), retries=5, timeout=20)
        tables = TablesService(session)
        version = session.version
        server.inject(Fault(kind, route="/query$", count=1, seconds=0.3))
        frame = tables.synapses_toy().query()
        assert len(frame) == 303
        # a version that comes while we work does not change what one client sees
        assert frame.attrs["materialization_version"] == session.version == version


@pytest.mark.parametrize(
    "kind", ["401", "403", "403-terms", "500", "500-string", "500-html", "503", "login-redirect"]
)
def test_faults_met_by_caveclient_itself(toy_server, toy_session, monkeypatch, kind):
    monkeypatch.setenv("CORTEXCLIENT_BACKOFF_MAX", "0.01")
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    session = toy_session(retries=1)
    DatastackService(session).get_datastack_info()
    with troubled(toy_server, Fault(kind, route="/skeletoncache|/nglstate", count=None)):
        with pytest.raises(errors.ServiceError) as caught, session.guard("skeleton"):
            session.cave.skeleton.skeletons_exist(skeleton_version=4, root_ids=[1, 2])
        assert toy_server.token not in str(caught.value)
        with pytest.raises(errors.ServiceError):
            DatastackService(session).upload_state_json({"a": 1})
    assert opened == []


def test_a_failed_negotiation_raises_and_does_not_downgrade(toy_server, toy_session):
    session = toy_session(retries=0)
    with (
        troubled(toy_server, Fault("500", route="/materialize/api/versions", count=1)),
        session.guard("materialize"),
        pytest.raises(errors.ServiceError),
    ):
        _ = session.cave.materialize
    assert session.cave.materialize.api_version == 3


@pytest.mark.parametrize("kind", ["500", "500-html", "truncated"])
def test_a_service_that_says_no_version_is_an_error_of_ours(toy_server, toy_session, kind):
    session = toy_session(retries=0)
    with (
        troubled(toy_server, Fault(kind, route="/skeletoncache/api/version$")),
        pytest.raises(errors.ServiceError) as caught,
    ):
        _ = session.cave.skeleton
    assert caught.value.url.endswith("/skeletoncache/api/version")


def test_wrong_names_get_close_ones(toy):
    with pytest.raises(errors.UnknownTableError, match="synapses_toy"):
        QueriesService(toy).query("synapse_toy")


# -- errors about what was never sent ----------------------------------------------------------------------------------

SERVICE_ERRORS = {name for name in errors.__all__ if issubclass(getattr(errors, name), errors.ServiceError)}


def test_every_error_of_a_service_is_made_with_its_address():
    """Whoever raises one anywhere in the package says which service it is about, and where that is."""
    package = Path(errors.__file__).parent
    nameless = [
        f"{path.relative_to(package)}:{call.lineno}"
        for path in package.rglob("*.py")
        if "sandbox" not in path.parts
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", getattr(call.func, "id", "")) in SERVICE_ERRORS
        if not {"service", "url"} <= {word.arg for word in call.keywords}
        or any(word.arg == "url" and getattr(word.value, "value", "") is None for word in call.keywords)
    ]
    assert not nameless


@pytest.mark.parametrize("name", sorted(SERVICE_ERRORS))
def test_an_error_without_a_response_has_the_status_of_its_kind(name):
    kind = getattr(errors, name)
    made = pickle.loads(pickle.dumps(kind("no", service="s", url="u")))
    assert (made.service, made.url, str(made)) == ("s", "u", "no")
    assert made.status == kind.usual_status >= 400
    assert kind("no", service="s", url="u", status=299).status == 299


ROOT = 864691135404040404
REFUSED_HERE = {
    "a filter's value": lambda client: client.query("cell_types", cell_type=float("inf")),
    "an operator": lambda client: client.tables.nucleus_detection(volume={"~": 3}),
    "a box": lambda client: client.query("nucleus_detection", pt_position_bbox=[[1, 1], [2, 2]]),
    "a filter given twice": lambda client: client.query("nucleus_detection", filter_equal_dict={"id": 2}, id=2),
    "a column of a reference table": lambda client: client.query("cell_types", nope=1),
    "no columns": lambda client: client.query("nucleus_detection", select_columns=[]),
    "one axis": lambda client: client.query("nucleus_detection", select_columns=["pt_position_x"]),
    "an unknown column": lambda client: client.query("cell_types", select_columns=["nope"]),
    "an exclusion": lambda client: client.query("nucleus_detection", filter_out_dict={"nope": [1]}),
    "columns of another table": lambda client: client.query("cell_types", select_columns={"nope": ["id"]}),
    "a live view": lambda client: client.at(timestamp="2024-03-01").query("cell_info"),
    "an attribute": lambda client: client.get_l2data([1], ["nope"]),
    "an unknown table": lambda client: client.query("nope"),
    "a table's attribute": lambda client: client.tables.nope,
    "an unknown version": lambda client: client.at(version=999).query("nucleus_detection"),
    "a root without a mesh": lambda client: client.mesh.get_mesh(ROOT),
    "a root without level-2 ids": lambda client: client.get_l2_ids(ROOT),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED_HERE)
def test_what_is_refused_on_our_side_names_service_status_and_address(sandbox, what):
    client = sandbox.load(version=3)
    with pytest.raises(errors.ServiceError) as caught:
        REFUSED_HERE[what](client)
    error = caught.value
    assert error.service
    assert sandbox.url.removeprefix("http:") in error.url
    assert error.status in {400, 404}


def test_what_would_explain_a_refusal_does_not_hide_it(sandbox):
    client = sandbox.load(version=3, retries=0)
    table = client.tables.nucleus_detection
    with (
        troubled(sandbox, Fault("503", route="datastack/[^/]+/metadata$", count=None)),
        pytest.raises(errors.InvalidQueryError, match="has no column 'nope'"),
    ):
        table(nope=3).query()


def test_a_list_of_versions_that_fails_hides_no_other_failure(sandbox):
    session = sandbox.load(version=3, retries=0).session
    sandbox.inject(Fault("503", route="datastack/[^/]+/metadata$", count=None))
    with (
        troubled(sandbox, Fault("500", route="/views$", count=None)),
        pytest.raises(errors.ServiceError) as caught,
    ):
        view_infos(session)
    assert (caught.value.status, caught.value.url[-6:]) == (500, "/views")


def test_offline_an_error_names_what_would_have_been_asked(sandbox, tmp_path):
    sandbox.load(version=3, cache=tmp_path).query("nucleus_detection")
    client = sandbox.load(version=3, cache=tmp_path, offline=True)
    for ask in (
        lambda: client.query("cell_types"),
        lambda: client.get_skeleton(ROOT),
        lambda: client.mesh.get_mesh(ROOT),
        client.segmentation_cloudvolume,
        client.image_cloudvolume,
    ):
        with pytest.raises(errors.OfflineError) as caught:
            ask()
        error = caught.value
        assert error.service
        assert error.status == 504
        assert sandbox.url.removeprefix("http:") in error.url


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_the_reason_of_a_gateway_is_no_name_of_a_column(status):
    page = Refusal(status=status, text="Timeout", url="https://s.org/materialize/x/query")
    assert type(error_for(page, Context(service="materialize"))) is errors.ServiceUnavailableError


@pytest.mark.parametrize("value", [None, float("nan"), 0, -4])
def test_a_viewer_resolution_that_is_none(sandbox, value):
    client = sandbox.load(version=3)
    client.session.info()["viewer_resolution_y"] = value
    with pytest.raises(errors.ProtocolError, match="viewer resolution") as caught:
        client.neuroglancer_url()
    assert caught.value.url


@pytest.mark.parametrize("path", ["operation_details", "lineage_graph_multiple"])
def test_edits_with_ids_that_are_none(sandbox, monkeypatch, path):
    client = sandbox.load(version=3)
    roots = [root for root in client.query("nucleus_detection")["pt_root_id"] if root]
    assert len(client.edit_history(roots))

    def negative(value):
        if isinstance(value, dict):
            return {key: negative(one) for key, one in value.items()}
        if isinstance(value, list):
            return [negative(one) for one in value]
        return -1 if type(value) is int and value > 2**53 else value

    def spoil(service, method, url, **options):
        response = send(service, method, url, **options)
        if path in url:
            response._content = json.dumps(negative(response.json())).encode()
        return response

    send = client.session.http.send
    monkeypatch.setattr(client.session.http, "send", spoil)
    with pytest.raises(errors.ProtocolError) as caught:
        client.edit_history(roots)
    assert path in caught.value.url


@pytest.mark.parametrize(
    ("route", "ask"),
    [
        ("/skeletoncache/api/version$", lambda client, root: client.skeletons_exist([root])),
        ("/segmentation/api/version$", lambda client, root: client.latest_valid_timestamp([root])),
    ],
)
def test_a_version_that_was_not_found_is_asked_for_again(sandbox, route, ask):
    client = sandbox.load(version=3, retries=0)
    root = next(root for root in client.query("nucleus_detection")["pt_root_id"] if root)
    with troubled(sandbox, Fault("404", route=route, count=1)), contextlib.suppress(errors.ServiceError):
        ask(client, root)
    assert str(ask(client, root)) == str(ask(sandbox.load(version=3), root))
