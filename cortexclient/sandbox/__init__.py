"""An embedded CAVE server: a complete datastack on this machine, for testing and learning without a token.

>>> from cortexclient.sandbox import Sandbox
>>> with Sandbox("v1dd", size="tiny") as sandbox:
...     client = sandbox.load()
...     nuclei = client.tables.nucleus_detection_v0().query()

Importing this package loads neither the server nor the scientific packages; they come with the first sandbox.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortexclient.sandbox.faults import Fault
    from cortexclient.sandbox.sandbox import Sandbox
    from cortexclient.sandbox.shared import SandboxAddress, shared_endpoint

__all__ = ["Fault", "Sandbox", "SandboxAddress", "shared_endpoint"]

_HOMES = {
    "SandboxAddress": "cortexclient.sandbox.shared",
    "Fault": "cortexclient.sandbox.faults",
    "Sandbox": "cortexclient.sandbox.sandbox",
    "shared_endpoint": "cortexclient.sandbox.shared",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        from cortexclient.errors import MissingExtraError

        raise MissingExtraError.of("the sandbox needs", error.name or "", "sandbox") from error


_EXTRA = {
    "starlette",
    "uvicorn",
    "httptools",
    "anyio",
    "duckdb",
    "skimage",
    "DracoPy",
    "neuroglancer",
    "matplotlib",
}
