"""What the tests of the recorded datastack share."""

from __future__ import annotations

from datetime import UTC, datetime

from caveclient import CAVEclient

from cortexclient.sandbox import Sandbox

__all__ = ["AFTER_EVERYTHING", "client_of", "sql_query"]

AFTER_EVERYTHING = datetime(2026, 11, 21, 0, 53, 22, 862000, tzinfo=UTC)


def client_of(sandbox: Sandbox, token: str | None = None) -> CAVEclient:
    """An unmodified client of a sandbox, with its own token or another one."""
    return CAVEclient(
        sandbox.datastack,
        server_address=sandbox.url,
        auth_token=token or sandbox.token,
        write_server_cache=False,
    )


def sql_query(sandbox: Sandbox, path: str, **arguments: str) -> str:
    """Address of a materialization query, with the arguments that the client sends."""
    base = f"{sandbox.url}/materialize/api/v3/datastack/{sandbox.datastack}/{path}"
    given = {"return_pyarrow": "True", "arrow_format": "True", "direct_sql_pandas": "True", **arguments}
    return base + "?" + "&".join(f"{key}={value}" for key, value in given.items())
