"""Under which names, and with which columns, a data folder is served."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cortexclient.sandbox.layout import DataFolder
from cortexclient.sandbox.stores.tables.declared import DeclaredTable, base_of
from cortexclient.sandbox.world import Names

if TYPE_CHECKING:
    from cortexclient.spec import DatasetSpec
    from cortexclient.spec.sections import TableFacts, TableSpec


__all__ = ["LABEL_TABLES", "RenamedExports", "names_for", "own_names", "plain_names", "served_names"]

_CORTEX = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
# tables whose content suits any role that is not known: labels of nuclei
LABEL_TABLES: list[str] = _CORTEX["label_tables"]
# annotation schema of every table of the cortex
_SCHEMAS: dict[str, str] = _CORTEX["schemas"] | dict.fromkeys(LABEL_TABLES, "cell_type_reference")
_VIEWS: list[str] = _CORTEX["views"]
_ALL_VIEWS = ("nucleus_lookup", *_VIEWS)


def names_for(folder: DataFolder, spec: DatasetSpec | None) -> Names:
    """Names for a folder that is served for a spec.

    A synthetic cortex takes every name from the spec, and the columns that it declares. Recorded data keep their own
    table names, which mean what they meant where they were recorded; only the datastack is called as the spec calls it.
    """
    own = own_names(folder)
    if spec is None:
        return own
    named = replace(own, datastack=spec.datastack)
    if not is_cortex(folder):
        return named
    tables, shapes = served_names(spec)
    versions = _version_numbers(folder, spec)
    lifetimes = _lifetimes(spec, [versions.get(row["version"], row["version"]) for row in folder.versions])
    return replace(named, tables=tables, versions=versions, shapes=shapes, lifetimes=lifetimes)


def plain_names(folder: DataFolder, given: Mapping[str, Any]) -> Names:
    """Names for a folder from a mapping, for whoever has no spec.

    Parameters
    ----------
    given : mapping
        Any of ``datastack``, ``aligned_volume``, ``pcg_table`` (names on the wire), ``tables`` (name in the folder ->
        name on the wire, views included) and ``versions`` (number in the folder -> number on the wire).

    Raise ValueError for any other key.
    """
    known = {"datastack", "aligned_volume", "pcg_table", "tables", "versions"}
    if set(given) - known:
        wrong = ", ".join(sorted(map(str, set(given) - known)))
        raise ValueError(f"a sandbox's names have no {wrong}; there are {', '.join(sorted(known))}")
    return replace(own_names(folder), **given)


def served_names(spec: Any) -> tuple[dict[str, str], dict[str, DeclaredTable]]:
    """Tables and views that a spec's sandbox serves.

    Return the name that the spec declares, by name in the cortex (what is not listed keeps its name), and by declared
    name how those are made that the cortex does not have, or has with other columns.
    """
    return _Assignment(spec).result()


class _Assignment:
    """Which table of the cortex stands for which of a spec."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.names: dict[str, str] = {}
        self.shapes: dict[str, DeclaredTable] = {}

    def result(self) -> tuple[dict[str, str], dict[str, DeclaredTable]]:
        facts = getattr(self.spec, "synapses", None)
        if getattr(self.spec, "synapse_table", None):
            self.names["synapses"] = self.spec.synapse_table
            if facts is not None:
                self._shape(self.spec.synapse_table, "synapses", facts)
        self._cells()
        for role, name, kind, table in _roles(self.spec):
            if name in self.shapes:
                continue
            own = next((own for own, public in self.names.items() if public == name), None)
            if own is not None:  # a table that another key names; here its facts
                self._shape(name, own, table)
            elif kind == "table":
                self._table(role, name, table)
            else:
                self._view(role, name, table)
        served = {*self.names.values(), *self.shapes}
        for own in (*_SCHEMAS, *_ALL_VIEWS):  # what no spec asks for must not be mistaken for what one does
            if own not in self.names and own in served:
                self.names[own] = f"cortex_{own}"
        return self.names, self.shapes

    def _cells(self) -> None:
        cells = getattr(self.spec, "cell_ids", None)
        if cells is None:
            return
        if cells.main_table:
            self.names["nucleus_detection"] = cells.main_table
        if cells.lookup_view and cells.lookup_view not in self.names.values():
            # a dataset without a view looks cells up in a plain table of nuclei
            table = getattr(cells, "kind", "view") == "table"
            own = "nucleus_detection" if table and "nucleus_detection" not in self.names else "nucleus_lookup"
            self.names[own] = cells.lookup_view
        others = [name for name in cells.alternative_tables if name not in self.names.values()]
        for number, name in enumerate(others):
            if number == 0:
                self.names["nucleus_alternative_points"] = name
            else:
                self._copy(name, "nucleus_alternative_points")

    def _copy(self, name: str, base: str) -> None:
        """Serve a table or view of the cortex once more."""
        schema = _SCHEMAS.get(base)
        reference = self._target(base) if schema is not None and "reference" in schema else None
        self.shapes[name] = DeclaredTable(name, base, schema=schema, reference=reference)

    def _target(self, own: str) -> str:
        """Name on the wire of the table that a reference table of the cortex refers to."""
        target = "synapses" if own in ("synapse_tags", "synapse_targets") else "nucleus_detection"
        return self.names.get(target, target)

    def _shape(self, name: str, own: str, facts: TableFacts) -> None:
        """Serve a table of the cortex in the unit, and with the columns, that a spec declares."""
        fields = facts.declared_fields or None
        schema = facts.schema_name or _SCHEMAS.get(own)
        if fields is not None and facts.schema_name == _SCHEMAS.get(own) and not facts.columns:
            fields = None
        if fields is None and facts.unit is None:
            return
        self.shapes[name] = DeclaredTable(name, own, fields, schema if own in _SCHEMAS else None, facts.unit)

    def _table(self, role: str, name: str, facts: TableFacts) -> None:
        fields = facts.declared_fields
        # a name that the folder itself uses must not mean another table
        pool = [name] if name in _SCHEMAS else []
        pool += _known(role, name, "table")
        if not fields and set(pool) <= set(LABEL_TABLES):
            pool += LABEL_TABLES
        free = [own for own in pool if own not in self.names]
        if fields:
            free = [own for own in free if self._suits(own, facts)]
        if free:
            self.names[free[0]] = name
            self._shape(name, free[0], facts)
        elif not fields:
            self._copy(name, pool[0])
        else:
            self._made(name, fields, facts)

    def _suits(self, own: str, facts: TableFacts) -> bool:
        """Whether a table of the cortex has what is declared: the schema, no more columns, and the same reference."""
        target = getattr(facts, "references", None)
        same = target is None or target == self._target(own)
        return _SCHEMAS.get(own) == facts.schema_name and not facts.columns and same

    def _made(self, name: str, fields: tuple[Any, ...], facts: TableFacts) -> None:
        """Make a table that the cortex does not have."""
        refers = any(field.type == "reference" for field in fields)
        target = getattr(facts, "references", None) or self.names.get(
            "nucleus_detection", "nucleus_detection"
        )
        own = next((own for own, public in self.names.items() if public == target), None)
        if own is None and target in self.shapes:
            own = self.shapes[target].base
        base = base_of(fields, own)
        of_nuclei = base == "nucleus_detection"
        self.shapes[name] = DeclaredTable(
            name,
            base,
            fields,
            facts.schema_name or "bound_tag",
            facts.unit,
            target if refers else None,
            found_only=of_nuclei
            and (not refers or (target in self.shapes and self.shapes[target].found_only)),
        )

    def _view(self, role: str, name: str, facts: TableFacts) -> None:
        fields = facts.declared_fields
        pool = [name] if name in _ALL_VIEWS else []
        pool += _known(role, name, "view")
        pool = pool or _VIEWS
        free = [own for own in pool if own not in self.names]
        if fields:
            self.shapes[name] = DeclaredTable(
                name, base_of(fields, None, view=True), fields, None, facts.unit
            )
        elif free:
            self.names[free[0]] = name
            self._shape(name, free[0], facts)
        else:
            self._copy(name, pool[0])


def _roles(spec: Any) -> Iterator[tuple[str, str, str, Any]]:
    """(role, name, kind, facts) of every table that plays or played a role."""
    for role, table in dict(getattr(spec, "tables", None) or {}).items():
        for each in (table, *getattr(table, "earlier", ())):
            yield role, each.name, each.kind, each
            if getattr(each, "replaced_by", None):
                yield role, each.replaced_by, each.kind, each


def _known(role: str, name: str, kind: str) -> list[str]:
    """Tables or views of the folder that a role, or else a name, speaks of; tags may stand in for each other."""
    found = []
    for text in (role, name):
        # words in a role that say what its table holds
        for word, table, view in _CORTEX["roles"]:
            content = table if kind == "table" else view
            if word in text and content:
                found.append(content)
                if content == "synapse_targets":
                    found.append("synapse_tags")
    return found


def _version_numbers(folder: DataFolder, spec: DatasetSpec) -> dict[int, int]:
    """Numbers that a spec's own versions have, for those of a folder: the newest becomes the spec's default or newest.

    So a default version, and tables that live from one version to another, mean on the sandbox what they mean in
    production. A spec without versions leaves the folder's numbers as they are.
    """
    declared = {entry.version: entry.status == "expired" for entry in spec.versions}
    if isinstance(spec.default_version, int):
        declared.setdefault(spec.default_version, False)
        declared = {number: gone for number, gone in declared.items() if number <= int(spec.default_version)}
    numbers: dict[int, int] = {}
    below = max(declared, default=0) + 1
    for row in reversed(folder.versions) if declared else ():
        fitting = [
            number for number, gone in declared.items() if number < below and gone != bool(row["valid"])
        ]
        below = max(fitting, default=below - 1)
        if below < 1:
            return {}
        numbers[int(row["version"])] = below
    return numbers


def _lifetimes(spec: DatasetSpec, versions: list[int]) -> dict[str, list[TableSpec]]:
    """Times in which tables and views of a spec exist.

    Where the spec has no versions, the folder's numbers mean something else than its ``since`` and ``until``; a table
    that would be in none of them is in all.
    """
    times: dict[str, list[TableSpec]] = {}
    for table in spec.tables.values():
        for each in table.history():
            times.setdefault(each.name, []).append(each)
    numbered = bool(spec.versions) or isinstance(spec.default_version, int)
    return {
        name: each
        for name, each in times.items()
        if numbered or any(time.exists_at(version) for time in each for version in versions)
    }


def own_names(folder: DataFolder) -> Names:
    """Names that stand in the folder itself."""
    versions = folder.versions
    datastack = folder.info.get("datastack") or (versions[0]["datastack"] if versions else folder.path.name)
    return Names(
        datastack=str(datastack),
        aligned_volume=str(folder.info["aligned_volume"]["name"]),
        pcg_table=folder.pcg_table,
    )


def is_cortex(folder: DataFolder) -> bool:
    """Whether a folder holds a synthetic cortex, whose names are ours to give."""
    return folder.file("truth", "cells.parquet").is_file()


class RenamedExports:
    """The static exports of a folder under the names that a spec uses: a folder of links, for as long as it is served.

    Exports are files that clients read by themselves, so no server can rename them on the way.
    """

    _PARTS = re.compile(r"^(?P<table>.+?)(?P<rest>(?:_merged)?(?:_header)?\.csv(?:\.gz)?)$")

    _FOLDER = re.compile(r"^v(?P<number>\d+)")

    def __init__(self, folder: DataFolder, names: Names) -> None:
        exports = folder.file("exports")
        self.path: str | None = f"file://{exports.resolve()}" if exports.is_dir() else None
        self.close: Callable[[], object] = lambda: None
        if self.path is None or not (names.tables or names.versions):
            return
        links = Path(tempfile.mkdtemp(prefix="cortexclient-exports-"))
        self.close = weakref.finalize(self, _remove, links, os.getpid())
        for file in exports.rglob("*"):
            match = self._PARTS.match(file.name)
            if file.is_file():
                link = links / self._FOLDER.sub(
                    lambda found: f"v{names.public_version(int(found['number']))}",
                    str(file.parent.relative_to(exports)),
                )
                link.mkdir(parents=True, exist_ok=True)
                name = names.public(match["table"]) + match["rest"] if match else file.name
                (link / name).symlink_to(file.resolve())
        self.path = f"file://{links}"


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that ends must leave its parent's links alone
        shutil.rmtree(folder, ignore_errors=True)
