"""`cortexclient login` and `cortexclient doctor`."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest

from cortexclient.cli import main
from cortexclient.sandbox import Sandbox

GOOD = "0123456789abcdef0123456789abcdef"
VIEWLESS = "fedcba9876543210fedcba9876543210"


@pytest.fixture(scope="module")
def locked(toy_folder):
    """A server that wants a token; one of the two accounts has no rights."""
    with Sandbox(data=toy_folder, auth=True, tokens={GOOD: ("view",), VIEWLESS: ()}) as sandbox:
        yield sandbox


@pytest.fixture
def run(tmp_path, locked, monkeypatch, capsys):
    spec = tmp_path / "toy.yaml"
    spec.write_text(
        f"schema_version: 1\nname: toy\ntitle: Toy\nserver_address: {locked.url}\ndatastack: {locked.datastack}\n"
        "access: {level: login, terms_url: 'https://terms.example.org', note: Ask the owners.}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str, text: str = "", environment: dict[str, str] | None = None) -> SimpleNamespace:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO(text))
            for name, value in (environment or {}).items():
                patch.setenv(name, value)
            status = main([str(spec) if word == "toy" else word for word in words])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    call.home = tmp_path
    return call


def test_a_good_token_is_stored_privately_and_found(run, locked):
    before = run("doctor", "toy")
    assert before.returncode == 1
    made = run("login", "toy", text=f"{GOOD}\n")
    assert made.returncode == 0, made.stderr
    assert "https://terms.example.org" in made.stdout
    assert "/auth/api/v1/user/token" in made.stdout
    assert GOOD not in made.stdout + made.stderr
    host = locked.url.removeprefix("http://")
    path = run.home / ".cloudvolume" / "secrets" / f"{host}-cave-secret.json"
    assert json.loads(path.read_text())["token"] == GOOD
    assert path.stat().st_mode & 0o077 == 0
    after = run("doctor", "toy")
    assert after.returncode == 0, after.stdout
    assert "2 live versions" in after.stdout
    assert GOOD not in after.stdout


def test_a_wrong_token_is_not_stored(run):
    made = run("login", "toy", text="1111111111111111\n")
    assert made.returncode != 0
    assert "does not know this token, so it was not stored" in made.stderr
    assert "cortexclient login" not in made.stderr  # which is what is running
    assert not list(run.home.glob(".cloudvolume/secrets/*"))
    assert "1111111111111111" not in made.stdout + made.stderr


def test_a_missing_token_is_told_from_a_wrong_one(run):
    missing = run("tables", "toy")
    assert missing.returncode == 1
    assert "wants a token, and none is stored for it" in missing.stderr
    assert "`cortexclient login " in missing.stderr
    stored = run("login", "toy", "--no-check", text="1111111111111111\n")
    assert "It was not tried; `cortexclient doctor " in stored.stdout
    assert "Ready" not in stored.stdout
    wrong = run("tables", "toy")
    assert "the token is wrong or has expired (it is looked for in " in wrong.stderr
    assert "-cave-secret.json)" in wrong.stderr
    given = run("tables", "toy", "--token", "2222222222222222")
    assert "the token is wrong or has expired. " in given.stderr


def test_advice_after_login_works(run):
    made = run("login", "toy", text=f"{GOOD}\n")
    command = made.stdout.rpartition("Ready: cortexclient ")[2].split()
    assert run(*command).returncode == 0, command


@pytest.mark.slow
@pytest.mark.parametrize("command", ["tables", "versions", "doctor"])
def test_a_token_can_be_given_to_every_command(run, command):
    assert run(command, "toy", "--json").returncode == 1
    assert run(command, "toy", "--json", "--token", GOOD).returncode == 0
    made = run(command, "toy", "--json", environment={"CORTEXCLIENT_TOKEN": GOOD})
    assert made.returncode == 0, made.stderr
    assert {len(row) for row in json.loads(made.stdout)} == {4 if command == "doctor" else 3}
    assert GOOD not in made.stdout


def test_errors_name_the_dataset(run, tmp_path):
    run("login", "toy", text=f"{GOOD}\n")
    own = (tmp_path / "toy.yaml").read_text().replace("name: toy", "name: my_lab")
    (tmp_path / "my_lab.yaml").write_text(own)
    made = run("query", str(tmp_path / "my_lab.yaml"), "nucleus_tiy")
    assert (
        "my_lab (datastack toy) has no table 'nucleus_tiy' at version 2; did you mean nucleus_toy"
        in made.stderr
    )


def test_the_token_of_the_environment_goes_to_trusted_hosts_only(run, tmp_path):
    (tmp_path / "far.yaml").write_text(
        "schema_version: 1\nname: far\ntitle: Far\nserver_address: https://far.invalid\ndatastack: far\n"
    )
    made = run("tables", str(tmp_path / "far.yaml"), environment={"CORTEXCLIENT_TOKEN": GOOD})
    assert "CORTEXCLIENT_TOKEN is not sent to far.invalid" in made.stderr
    assert GOOD not in made.stderr


def test_a_token_without_rights_is_stored_and_said_so(run):
    made = run("login", "toy", text=f"{VIEWLESS}\n")
    assert made.returncode == 0, made.stderr
    assert "The token is good" in made.stdout
    assert "permission" in made.stdout


def test_a_server_is_an_address(run):
    for address in ("ftp://cave.my.lab", "cave.my.lab"):
        made = run("login", "toy", "--server", address, text=f"{GOOD}\n")
        assert made.returncode == 1
        assert "server_address" in made.stderr


def test_nothing_is_no_token(run):
    made = run("login", "toy", text="\n")
    assert made.returncode != 0
    assert "not a token" in made.stderr


def test_a_wrong_datastack_is_told_with_those_that_there_are(run, tmp_path):
    run("login", "toy", text=f"{GOOD}\n")
    own = (tmp_path / "toy.yaml").read_text().replace("datastack: toy", "datastack: tou")
    (tmp_path / "toy.yaml").write_text(own)
    made = run("tables", "toy")
    assert "has no datastack 'tou'; did you mean toy?" in made.stderr
