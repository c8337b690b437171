"""A token that comes in by a side door: in an address, with odd letters, out through a pickle."""

from __future__ import annotations

import json
import pickle
import traceback

import pytest

from cortexclient import credentials, errors, load
from cortexclient.registry import is_trusted
from cortexclient.sandbox import Sandbox
from cortexclient.session import Endpoint

SECRET = "5ec4e7" * 5 + "ab"


@pytest.fixture(scope="module")
def guarded():
    with Sandbox(size="tiny", auth=True, tokens={SECRET: ("view",)}) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    "place", ["http://me:{}@127.0.0.1:9", "https://{}@x.org", "https://x.org/?t={}", "https://x.org#{}"]
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(place):
    with pytest.raises(ValueError, match="auth_token=") as caught:
        load("sandbox", server_address=place.format(SECRET))
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


@pytest.mark.parametrize("odd", [f"{SECRET} x", f"{SECRET}\r\nX-Evil: 1", f"{SECRET}é", f"{SECRET}\x00"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_repeated(guarded, odd):
    # the HTTP library would print it in its complaint
    with pytest.raises(ValueError, match="not a token") as caught:
        guarded.load(version=3, auth_token=odd)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("odd", [SECRET.encode(), 5, ["x"]])
def test_a_token_that_is_no_text(guarded, odd):
    with pytest.raises(TypeError, match="a token is text"):
        guarded.load(auth_token=odd)


def test_spaces_around_a_token_do_no_harm(guarded, tmp_path, monkeypatch):
    assert len(guarded.load(version=3, auth_token=f" {SECRET}\n").tables) > 5
    # as a shell writes it into a file
    monkeypatch.setattr(credentials, "secrets_dir", lambda: tmp_path)
    credentials.token_file(guarded.url).write_text(json.dumps({"token": f"{SECRET}\n"}))
    found = credentials.find_token(guarded.url, is_trusted=is_trusted)
    assert found is not None
    assert found.value == SECRET


def test_no_pickle_holds_a_token(guarded):
    client = guarded.load(version=3, auth_token=SECRET)
    assert len(client.tables) > 5
    parts = (client, client.session, client.cave.auth, Endpoint(guarded.url, SECRET))
    assert client.cave.auth.token == SECRET
    for part in parts:
        assert SECRET.encode() not in pickle.dumps(part)


def test_a_login_page_names_the_service(guarded):
    client = guarded.load(version=3, auth_token=SECRET)
    name = client.tables.table_names[0]
    guarded.inject("login-redirect", route="/query$")
    with pytest.raises(errors.AuthenticationError, match="the materialize service at"):
        client.tables[name].query()
