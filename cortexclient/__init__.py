"""A declarative registry of CAVE connectomics datasets, and one client that does the whole job on each of them.

>>> import cortexclient
>>> client = cortexclient.load("sandbox")          # no request yet
>>> roots = client.cell_id_to_root_id([300583, 301357])

Importing this package does no I/O, configures no logging and loads none of the heavy scientific packages: every
public name is looked up when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortexclient.client import DatasetClient
    from cortexclient.errors import CortexError
    from cortexclient.factory import load
    from cortexclient.registry import get_spec, list_datasets, register
    from cortexclient.services.exports import CloudFileViewExport, TableExportClient
    from cortexclient.services.meshes import MeshClient, VertexAssigner
    from cortexclient.services.vertex_labels import label_vertices
    from cortexclient.spec import DatasetSpec

__version__ = "0.1.0"

# public name -> module that holds it
_HOMES = {
    "CloudFileViewExport": "cortexclient.services.exports",
    "CortexError": "cortexclient.errors",
    "DatasetClient": "cortexclient.client",
    "DatasetSpec": "cortexclient.spec",
    "MeshClient": "cortexclient.services.meshes",
    "TableExportClient": "cortexclient.services.exports",
    "VertexAssigner": "cortexclient.services.meshes",
    "get_spec": "cortexclient.registry",
    "label_vertices": "cortexclient.services.vertex_labels",
    "list_datasets": "cortexclient.registry",
    "load": "cortexclient.factory",
    "register": "cortexclient.registry",
}

__all__ = [
    "CloudFileViewExport",
    "CortexError",
    "DatasetClient",
    "DatasetSpec",
    "MeshClient",
    "TableExportClient",
    "VertexAssigner",
    "__version__",
    "get_spec",
    "label_vertices",
    "list_datasets",
    "load",
    "register",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'cortexclient' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # the next look-up is a plain one
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
