"""The finder that turns names of datasets into modules, and what such a module holds."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.forking import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["DatasetFinder", "contents_of", "install"]

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

        Raise `ModuleNotFoundError`, which lists close names, for a module of this package whose name no dataset has.
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


def contents_of(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a dataset's module (PEP 562), whose last part names the dataset."""
    name = module.rpartition(".")[2]
    lock = ForkSafeLock()
    made: dict[str, Any] = {}

    def getattribute(attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {attribute!r}")
        from cortexclient import factory, registry

        spec = registry.get_spec(name)
        if attribute == "spec":
            return spec
        if attribute == "client":
            with lock:
                # a spec that was registered again, or edited, gets a new client; else it is always the same one
                if made.get("spec") != spec:
                    made.update(client=factory.load(spec), spec=spec)
                return made["client"]
        if attribute == spec.class_name_or_default:
            from cortexclient.client import client_class

            return client_class(spec)
        raise AttributeError(
            f"module {module!r} has client, spec and {spec.class_name_or_default}, but no {attribute!r}"
        )

    def directory() -> list[str]:
        from cortexclient import registry

        return ["client", "spec", registry.get_spec(name).class_name_or_default]

    return getattribute, directory
