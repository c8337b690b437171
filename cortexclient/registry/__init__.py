"""Where datasets are found: files in a few folders, installed packs, and what was registered in this session.

Later layers win: built-in, packs (entry points ``cortexclient.datasets``), the user's folder, the folders of
``CORTEXCLIENT_PATH``, `register`. Asking for one dataset reads that dataset's file and no other.

Importing this module reads nothing and loads neither pydantic nor yaml.
"""

from __future__ import annotations

from cortexclient.credentials import trust, trusted_hosts, untrust
from cortexclient.registry.assembly import SpecWarning
from cortexclient.registry.lookup import exists, unregister
from cortexclient.registry.specs import (
    DatasetInfo,
    get_spec,
    is_trusted,
    list_datasets,
    register,
    resolve,
)

__all__ = [
    "DatasetInfo",
    "SpecWarning",
    "exists",
    "get_spec",
    "is_trusted",
    "list_datasets",
    "register",
    "resolve",
    "trust",
    "trusted_hosts",
    "unregister",
    "untrust",
]
