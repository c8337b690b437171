"""Whose token reaches whom: two servers, token files in a home folder, and specs from a stranger's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import cortexclient
from cortexclient import registry
from cortexclient.errors import SpecError
from cortexclient.registry import SpecWarning
from cortexclient.sandbox import Sandbox

GENERAL = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
OF_ONE = "11111111111111111111111111111111"


@pytest.fixture(scope="module")
def servers(tiny: Sandbox) -> Iterator[tuple[Sandbox, Sandbox]]:
    with Sandbox(size="tiny") as other:
        yield tiny, other


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: tuple[Sandbox, Sandbox]) -> Path:
    """A home folder with a general token, and one for the first server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    secrets = tmp_path / ".cloudvolume" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "cave-secret.json").write_text(json.dumps({"token": GENERAL}))
    host = servers[0].url.removeprefix("http://")
    (secrets / f"{host}-cave-secret.json").write_text(json.dumps({"token": OF_ONE}))
    return tmp_path


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Address of every request that leaves, and all of its headers as text."""
    log: list[tuple[str, str]] = []
    real = requests.adapters.HTTPAdapter.send

    def send(self: Any, request: Any, *args: Any, **options: Any) -> Any:
        log.append((request.url, f"{request.url} {dict(request.headers)} {request.body!r}"))
        return real(self, request, *args, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    return log


def work(client: Any) -> None:
    """Ask every kind of service, CAVE's own sessions included."""
    root = int(
        client.cell_id_to_root_id(client.tables.nucleus_detection().query()["id"][:3])["root_id"].max()
    )
    client.query_synapses(root, pre=True, progress=False)
    client.get_l2data(client.get_l2_ids(root)[:2])
    client.cave.info.get_datastack_info()
    client.cave.materialize.get_tables()


def to(server: Sandbox, sent: list[tuple[str, str]]) -> list[str]:
    return [text for url, text in sent if url.startswith(server.url)]


def spec_for(write: Callable[..., Path], name: str, server: Sandbox) -> None:
    write(
        name,
        f"name: {name}\ntitle: a\nserver_address: {server.url}\ndatastack: {server.datastack}\n"
        "synapse_table: synapses_sandbox\n"
        "cell_ids: {lookup_view: nucleus_lookup, main_table: nucleus_detection}\n",
    )


def test_each_server_sees_its_own_token_and_no_other(
    write: Callable[..., Path], home: Path, servers: tuple[Sandbox, Sandbox], sent: list[tuple[str, str]]
) -> None:
    one, two = servers
    spec_for(write, "one", one)
    spec_for(write, "two", two)
    work(cortexclient.load("one"))
    work(cortexclient.load("two"))
    assert any(OF_ONE in text for text in to(one, sent))
    assert len(to(two, sent)) > 5
    assert not any(GENERAL in text for _, text in sent)
    assert not any(OF_ONE in text for text in to(two, sent))
    assert {url.split("/")[2] for url, _ in sent} == {one.url[7:], two.url[7:]}


def test_a_spec_that_hides_a_built_in_one_draws_no_more(
    write: Callable[..., Path], home: Path, servers: tuple[Sandbox, Sandbox], sent: list[tuple[str, str]]
) -> None:
    _, two = servers
    assert cortexclient.load("minnie_public").session.token == GENERAL
    spec_for(write, "minnie_public", two)
    with pytest.warns(SpecWarning, match="hides the built-in"):
        client = cortexclient.load("minnie_public")
    work(client)
    # nor does a built-in spec whose server is another one for now
    changes = {
        "datastack": two.datastack,
        "synapse_table": "synapses_sandbox",
        "cell_ids": {"lookup_view": "nucleus_lookup", "alternative_tables": None},
    }
    work(cortexclient.load("v1dd", server_address=two.url, overrides=changes))
    assert len(to(two, sent)) > 10
    assert not any(GENERAL in text or OF_ONE in text for _, text in sent)


def test_a_server_that_was_allowed_gets_the_general_token_and_no_others(
    write: Callable[..., Path], home: Path, servers: tuple[Sandbox, Sandbox], sent: list[tuple[str, str]]
) -> None:
    one, two = servers
    spec_for(write, "two", two)
    registry.trust(two.url)
    work(cortexclient.load("two"))
    assert any(GENERAL in text for text in to(two, sent))
    assert not any(OF_ONE in text for _, text in sent)
    registry.untrust(two.url)
    sent.clear()
    work(cortexclient.load("two"))
    assert not any(GENERAL in text for _, text in sent)
    assert to(one, sent) == []


def test_plain_http_is_for_this_machine(
    write: Callable[..., Path], home: Path, sent: list[tuple[str, str]]
) -> None:
    path = write("plain", "name: plain\ntitle: a\nserver_address: http://cave.my.lab\ndatastack: b\n")
    with pytest.raises(SpecError, match=r"plain\.yaml:3:17 CX402 .*use https"):
        cortexclient.load(path)
    for token in (None, GENERAL):
        for address in ("http://cave.my.lab", "http://127.0.0.1.evil.example"):
            client = cortexclient.load("minnie_public", server_address=address, auth_token=token)
            with pytest.raises(SpecError, match="plain http is for servers on this machine only"):
                client.get_datastack_info()
        with pytest.raises(ValueError, match="holds more than an address"):
            cortexclient.load(
                "minnie_public", server_address="http://localhost@evil.example", auth_token=token
            )
    assert sent == []
