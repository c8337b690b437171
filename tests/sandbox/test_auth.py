"""A sandbox that asks for tokens, as production does."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cortexclient.sandbox import Sandbox
from cortexclient.testing import clear_client_caches
from tests.sandbox.toy import client_of

VIEWER, NOBODY, ADMIN = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def guarded(sandbox_factory: Callable[..., Sandbox]) -> Sandbox:
    return sandbox_factory(
        auth=True, tokens={VIEWER: ("view",), NOBODY: (), ADMIN: ("view", "edit", "admin")}
    )


def test_the_right_token(guarded: Sandbox) -> None:
    client = client_of(guarded, VIEWER)
    table = client.materialize.synapse_table
    assert len(client.materialize.query_table(table, limit=5)) == 5
    root = int(guarded.world.graph.alive()[0])
    assert client.chunkedgraph.is_latest_roots([root])[0]
    assert len(client.skeleton.get_skeleton(root, output_format="dict")["vertices"]) > 1
    assert client.info.get_datastacks() == [guarded.datastack]
    assert guarded.load(auth_token=VIEWER).version


def test_who_has_accepted_the_terms_is_served(sandbox: Sandbox, tmp_path: Path) -> None:
    copy = shutil.copytree(sandbox.folder.path, tmp_path / "copy")
    lab = {"id": 1, "name": "lab", "datastacks": [sandbox.datastack], "terms": {"id": 7, "name": "Be kind"}}
    user = {
        "id": 2,
        "name": "b",
        "email": "b@example.org",
        "tokens": [ADMIN],
        "permissions": {"lab": ["view"]},
    }
    access = {"datasets": [lab], "users": [{**user, "accepted_terms": [7]}]}
    (copy / "access.json").write_text(json.dumps(access))
    clear_client_caches()
    with Sandbox("sandbox", data=copy, auth=True) as guarded:
        assert client_of(guarded, ADMIN).materialize.get_versions()
    clear_client_caches()


def ask(sandbox: Sandbox, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, str]:
    """Response to a path exactly as it is written, with no header but the ones given."""
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode("utf-8", "replace")


def test_strangers_are_given_no_token(guarded: Sandbox) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/sandbox.json"),
        ("POST", "/credentials/x"),
        ("GET", "/auth/api/v1/user/token"),
        ("GET", "/auth/api/v1/authorize?redirect=https://elsewhere.example/"),
        ("GET", "/v/sandbox/"),
        ("GET", "/precomputed/img/info"),
    ):
        for origin in ({}, {"Origin": "https://elsewhere.example"}):
            _, headers, body = ask(guarded, path, method, **origin)
            assert not [token for token in (VIEWER, NOBODY, ADMIN) if token in body + str(headers)], path
    # a page that is open to its owner alone cannot be read by a page from elsewhere
    for path in ("/", "/sandbox.json"):
        assert "access-control-allow-origin" not in ask(guarded, path, Authorization=f"Bearer {ADMIN}")[1]


def test_a_browser_gets_in_with_its_own_token(guarded: Sandbox) -> None:
    status, headers, body = ask(guarded, "/")
    assert (status, headers["location"].split("?")[0]) == (302, f"{guarded.url}/auth/api/v1/authorize")
    status, headers, _ = ask(guarded, f"/?middle_auth_token={VIEWER}")
    assert (status, headers["location"]) == (302, f"{guarded.url}/")
    cookie = headers["set-cookie"].split(";")[0]
    status, _, body = ask(guarded, "/", Cookie=cookie)
    assert status == 200
    assert VIEWER not in body
    given = json.loads(ask(guarded, "/credentials/x", "POST", Cookie=cookie)[2])
    assert given["credentials"]["accessToken"] == VIEWER


def test_a_token_cannot_write_headers(guarded: Sandbox) -> None:
    _, headers, _ = ask(guarded, "/?middle_auth_token=a%0d%0aX-Evil:%201")
    assert headers["x-evil"] is headers["set-cookie"] is None


@pytest.mark.parametrize("auth", [False, True])
def test_another_host_name_is_refused(sandbox_factory: Callable[..., Sandbox], auth: bool) -> None:
    sandbox = sandbox_factory(auth=auth)
    for host in (
        "elsewhere.example",
        f"elsewhere.example:{sandbox.port}",
        "127.0.0.1.elsewhere.example",
        "localhost@x",
    ):
        assert ask(sandbox, "/sandbox.json", Host=host)[0] == 421, host
    for host in ("127.0.0.1", f"localhost:{sandbox.port}", "[::1]:80", "sandbox.localhost"):
        assert ask(sandbox, "/sandbox.json", Host=host)[0] == 200, host
