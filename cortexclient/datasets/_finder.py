"""The finder that turns names of datasets into modules."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["DatasetFinder", "install"]

_TEMPLATE = Path(__file__).with_name("_template.py")


class DatasetFinder(MetaPathFinder):
    """Answers for submodules of one package whose names the registry knows.

    It comes after all other finders, so that real modules come first, and returns a real file, so that everything
    that looks at a module's loader (reload, pickle, spawned workers, inspect) works as for any other module.
    """

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - importlib passes them
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return a spec for a dataset's module, None for modules of other packages.

        Raises
        ------
        ModuleNotFoundError
            If it would be a dataset's module, but no dataset has that name; the message lists close ones.
        """
        package, _, name = fullname.rpartition(".")
        if package != self.package or name.startswith("_"):
            return None
        from cortexclient import registry

        if not registry.exists(name):
            from cortexclient.registry.lookup import nothing_found

            raise ModuleNotFoundError(f"no module {fullname}: {nothing_found(name)}", name=fullname)
        return spec_from_file_location(fullname, _TEMPLATE)


def install(package: str) -> None:
    """Put the finder at the end of ``sys.meta_path``, once."""
    if not any(isinstance(finder, DatasetFinder) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.append(DatasetFinder(package))
