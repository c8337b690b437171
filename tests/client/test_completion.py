"""What a person sees after pressing <TAB>, asked of a real Jupyter kernel with IPython's default settings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from cortexclient.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cortexclient.client import DatasetClient

manager = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipykernel")


@pytest.fixture(scope="module")
def kernel(tiny: Sandbox) -> Iterator[Any]:
    running = manager.KernelManager(transport="ipc" if sys.platform != "win32" else "tcp")
    running.start_kernel()
    client = running.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        options = f"server_address={tiny.url!r}, auth_token={tiny.token!r}"
        execute(client, f"import cortexclient; client = cortexclient.load('sandbox', {options})")
        yield client
    finally:
        client.stop_channels()
        running.shutdown_kernel(now=True)


def execute(client: Any, code: str) -> None:
    reply = client.execute_interactive(code, timeout=120, output_hook=lambda _: None)
    assert reply["content"]["status"] == "ok", reply["content"]


@pytest.fixture(params=[True, False], ids=["jedi", "without jedi"])
def complete(kernel: Any, request: pytest.FixtureRequest) -> Callable[[str], list[str]]:
    execute(kernel, f"get_ipython().Completer.use_jedi = {request.param}")

    def matches(code: str) -> list[str]:
        content = kernel.complete(code, reply=True, timeout=120)["content"]
        start = content["cursor_start"]
        return [code[:start] + match for match in content["matches"]]

    return matches


def test_tables_views_and_keys_complete(complete: Callable[[str], list[str]], tiny: Sandbox) -> None:
    client = tiny.load()
    for names, known in (("tables", list(client.tables)), ("views", list(client.views))):
        assert {f"client.{names}.{name}" for name in known} <= set(complete(f"client.{names}."))
        assert complete(f"client.{names}.{known[0][:6]}") == [
            f"client.{names}.{name}" for name in known if name.startswith(known[0][:6])
        ]
        offered = complete(f'client.{names}["')
        assert {match.rpartition('"')[2].strip("]") or match for match in offered} >= set(known)
        assert len(offered) == len(known)
    assert complete("client.query_syn") == ["client.query_synapses"]


def test_columns_of_a_table_and_methods_of_a_query_complete(kernel: Any, tiny: Sandbox) -> None:
    execute(kernel, "get_ipython().Completer.use_jedi = True")
    fields = tiny.load().tables.cell_types.fields

    def matches(code: str) -> list[str]:
        return list(kernel.complete(code, reply=True, timeout=120)["content"]["matches"])

    assert {f"{name}=" for name in fields} <= set(matches("client.tables.cell_types("))
    assert matches("client.tables.cell_types(cell_t") == ["cell_type="]
    assert "query" in matches("client.tables.cell_types(cell_type='BC').")


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("tabels", "tables"), ("query_synapse", "query_synapses"), ("get_skelton", "get_skeleton")],
)
def test_a_misspelt_attribute_suggests_the_right_one(
    sandbox_client: DatasetClient, misspelt: str, meant: str
) -> None:
    with pytest.raises(
        AttributeError, match=f"'SandboxClient'.*'{misspelt}'; did you mean '{meant}'"
    ) as caught:
        getattr(sandbox_client, misspelt)
    assert caught.value.name == misspelt
    assert not hasattr(sandbox_client, "nothing_like_it")


def test_a_property_that_fails_keeps_its_own_error(sandbox_client: DatasetClient) -> None:
    class Broken(type(sandbox_client)):  # type: ignore[misc]
        @property
        def broken(self) -> int:
            raise AttributeError("of its own")

    with pytest.raises(AttributeError, match="of its own"):
        _ = Broken._on(sandbox_client.session).broken
