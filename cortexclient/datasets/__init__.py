"""Every known dataset as a module with a ready client.

::

    from cortexclient.datasets.minnie_public import client
    from cortexclient.datasets.minnie_public import MinniePublicClient

The modules exist for every name and alias that the registry knows, those registered in this session included, although
no such file does: a finder at the end of ``sys.meta_path`` makes them. The client is made when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.datasets._finder import install

if TYPE_CHECKING:
    from types import ModuleType

install(__name__)


def __getattr__(name: str) -> ModuleType | list[str]:
    if name == "__all__":
        # what a star imports: the datasets of this moment, not the names that this file happens to use
        from cortexclient.registry import list_datasets

        return list_datasets()
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    from cortexclient.registry import list_datasets

    return [*globals(), *list_datasets()]
