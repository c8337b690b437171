"""Which table plays a role at a version: tables are renamed, superseded and dropped between materializations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortexclient.errors import NotConfiguredError, UnknownTableError
from cortexclient.spec.sections import TableSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cortexclient.spec.dataset import DatasetSpec

__all__ = ["lives", "table_at"]


def lives(entry: TableSpec) -> Iterator[TableSpec]:
    """All tables that ever played a role, oldest first."""
    yield from sorted(entry.earlier, key=lambda table: table.since or 0)
    yield entry
    if entry.replaced_by is not None and entry.until is not None:
        yield entry.model_copy(
            update={
                "name": entry.replaced_by,
                "since": entry.until + 1,
                "until": None,
                "replaced_by": None,
                "earlier": (),
            }
        )


def table_at(spec: DatasetSpec, role: str, version: int | None) -> TableSpec:
    """See `DatasetSpec.table_for`."""
    entry = spec.tables.get(role)
    if entry is None and role == "synapses" and spec.synapse_table is not None:
        entry = TableSpec(name=spec.synapse_table)
    if entry is None:
        known = ", ".join(spec.tables) or "none"
        raise NotConfiguredError(
            f"the spec of {spec.name} names no table for the role {role!r} (it has: {known}); add `tables.{role}` to it"
        )
    tables = list(lives(entry))
    if version is None:
        # versions only grow, so the newest state of things has what has not ended
        fitting = [table for table in tables if table.until is None]
    else:
        fitting = [table for table in tables if table.exists_at(version)]
    if fitting:
        return fitting[-1]
    history = "; ".join(f"{table.name}: {table.lifetime}" for table in tables)
    when = "any more" if version is None else f"in version {version}"
    raise UnknownTableError(f"{spec.name} has no table for {role!r} {when} ({history}); pin another version")
