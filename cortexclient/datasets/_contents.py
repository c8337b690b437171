"""What a dataset's module holds: `client`, its class, and `spec`, all looked up when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.forking import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["contents_of"]


def contents_of(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a dataset's module (PEP 562).

    Parameters
    ----------
    module : str
        Its full name; the last part names the dataset.
    """
    name = module.rpartition(".")[2]
    lock = ForkSafeLock()
    made: dict[str, Any] = {}

    def client() -> Any:
        from cortexclient import factory, registry

        spec = registry.get_spec(name)
        with lock:
            # a spec that was registered again, or edited, gets a new client; otherwise it is always the same one
            if "client" not in made or made["spec"] != spec:
                made.update(client=factory.load(spec), spec=spec)
            return made["client"]

    def getattribute(attribute: str) -> Any:
        if attribute == "client":
            return client()
        if attribute.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {attribute!r}")
        from cortexclient import registry

        spec = registry.get_spec(name)
        if attribute == "spec":
            return spec
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
