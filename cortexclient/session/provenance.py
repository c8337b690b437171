"""Where a result is from: what every returned frame has in its ``attrs``."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cortexclient.session.moment import Moment
    from cortexclient.session.session import Session

__all__ = ["provenance_of"]


def provenance_of(session: Session, moment: Moment | None = None) -> dict[str, Any]:
    """Return the dataset, server and moment of a result, and what the dataset's spec said at that time.

    Makes no request. Plain values only, and few: pandas copies them at every step.

    Parameters
    ----------
    session : Session
    moment : Moment, optional
        When the question was asked at; None or a floating one where every row has a time of its own, or none.

    Returns
    -------
    dict
        ``dataset``, ``datastack_name``, ``server_address``, ``materialization_version`` and ``timestamp`` (ISO 8601,
        UTC) are named as caveclient names them; ``spec_hash`` changes with any value of the spec; ``transform`` and
        ``transform_version`` say how positions would become depths.
    """
    version = moment.version if moment is not None else None
    timestamp = moment.timestamp if moment is not None else None
    if timestamp is None and version is not None:
        record = (session.connection.memory.peek("versions") or {}).get(version)
        timestamp = record.timestamp if record else None
    spec = session.spec
    transform = spec.transform
    name = None if transform is None else transform.dataset or "declared"
    pinned = None if transform is None else transform.version
    return {
        "dataset": spec.name,
        "datastack_name": session.datastack,
        "server_address": session.server_address,
        "materialization_version": version,
        "timestamp": None if timestamp is None else timestamp.isoformat(),
        "spec_hash": session.connection.memory.get("spec_hash", lambda: spec.fingerprint),
        "transform": name,
        "transform_version": pinned or (_newest() if name not in {None, "declared"} else None),
    }


@cache
def _newest() -> str:
    # which version that is, only the package knows, and importing it takes half a second
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"newest of standard_transform {version('standard_transform')}"
    except PackageNotFoundError:
        return "newest"
