"""A first spec for a dataset that has none, from what its server says and from how tables are usually named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortexclient.cli.registry.live import datastack_info
from cortexclient.cli.registry.text import SpecText

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cortexclient.session import Session, VersionRecord

__all__ = ["draft"]

# a version that expires later than this is meant to stay
KEPT_DAYS = 5 * 365
_ROLES = {
    "proofreading": ("proofreading_status", "proofread"),
    "cell_types": ("cell_type", "celltype"),
    "coregistration": ("coregistration",),
}


def draft(name: str, *, server: str, datastack: str, token: str | None = None) -> str:
    """Write a commented spec.

    Parameters
    ----------
    name, server, datastack : str
        What the user knows.
    token : str, optional
        Token for the server; by default the one that is stored for it.

    Returns
    -------
    str
        Valid YAML; everything that was guessed says so.
    """
    from cortexclient.session import Session
    from cortexclient.spec import spec_from_mapping

    spec = spec_from_mapping(
        {"name": name, "title": name, "server_address": server, "datastack": datastack},
        label="<command line>",
    )
    session = Session(spec, auth_token=token)
    info = datastack_info(session)
    versions = session.versions()
    latest = max((number for number, record in versions.items() if record.valid), default=None)
    with session.guard("materialize"):
        tables = list(session.cave.materialize.get_tables(version=latest)) if latest is not None else []
        views = list(session.cave.materialize.get_views(version=latest)) if latest is not None else []
    text = SpecText(name)
    text.add("title", str(info.get("description") or name)[:100], "One line for people.")
    text.comment("description: A few sentences for people.")
    text.blank()
    text.add("server_address", spec.server_address)
    text.add("datastack", datastack)
    text.add("viewer_site", info.get("viewer_site") or None)
    sizes = [info.get(f"viewer_resolution_{axis}") for axis in "xyz"]
    known = None if None in sizes else [_number(size) for size in sizes]
    text.add("voxel_resolution", known, "In nm; this is the viewer's. Compare with the tables' own metadata.")
    text.blank()
    _write_tables(text, info, session, tables, views)
    text.blank()
    text.comment("transform: minnie65   # a dataset of standard_transform, or declared: {steps: [...]}")
    text.comment("skeleton_version: 4")
    text.comment("exports: {path: gs://bucket/folder/, format: csv-gz}")
    text.blank()
    _write_versions(text, versions)
    text.add("default_version", "latest")
    text.blank()
    text.add("access", {"level": "group", "note": "Say in one sentence how to get access."})
    text.add("citation", {"note": "Say what to cite."})
    text.add("license", {"name": "unverified"})
    return str(text)


def _number(size: Any) -> float | int:
    return int(size) if float(size).is_integer() else float(size)


def _write_tables(
    text: SpecText, info: dict[str, Any], session: Session, tables: list[str], views: list[str]
) -> None:
    synapses = info.get("synapse_table")
    guess = _like(tables, "synapses", "synapse")
    text.add("synapse_table", synapses or guess, None if synapses else _guessed(tables, "synapse"))
    main = info.get("soma_table") or _like(
        [t for t in tables if "alternative" not in t], "nucleus_detection", "nucleus", "soma"
    )
    lookup = next((view for view in views if "lookup" in view), None)
    alternative = [table for table in tables if "alternative" in table and _refers_to(session, table, main)]
    found = {"lookup_view": lookup, "main_table": main, "alternative_tables": alternative}
    cell_ids = {key: value for key, value in found.items() if value}
    text.add("cell_ids", cell_ids or None, f"Guessed from names; views: {', '.join(views) or 'none'}.")
    roles: dict[str, Any] = {}
    for role, words in _ROLES.items():
        table = _like(tables, *words)
        if table is not None:
            roles[role] = {"name": table, "kind": "table"}
    edges = _like(views, "connections_with", "valid_connection", "connection")
    if edges is not None:
        roles["edges"] = {"name": edges, "kind": "view"}
    used = {synapses or guess, main, *alternative, *(entry["name"] for entry in roles.values())}
    rest = ", ".join(sorted(set(tables) - used)) or "none"
    text.add("tables", roles or None, f"Guessed from names. Other tables: {rest}.")


def _like(names: Iterable[str], *words: str) -> str | None:
    """Pick the first name that begins with a word, else the first that holds one; earlier words count for more."""
    ordered = sorted(names)
    for word in words:
        for test in (str.startswith, str.__contains__):
            match = next((name for name in ordered if test(name, word)), None)
            if match is not None:
                return match
    return None


def _guessed(tables: list[str], word: str) -> str:
    similar = [table for table in sorted(tables) if word in table]
    return f"The server names none; guessed from: {', '.join(similar) or 'nothing that fits'}."


def _refers_to(session: Session, table: str, main: str | None) -> bool:
    return main is not None and session.table_info(table).reference_table == main


def _write_versions(text: SpecText, versions: dict[int, VersionRecord]) -> None:
    entries = []
    for number, record in sorted(versions.items()):
        entry: dict[str, Any] = {
            "version": number,
            "timestamp": record.timestamp.isoformat().replace("+00:00", "Z"),
        }
        if not record.valid:
            entry["status"] = "expired"
        elif record.expires is None or (record.expires - record.timestamp).days > KEPT_DAYS:
            entry["status"] = "major"
        else:
            entry["status"] = "available"
            entry["expires"] = record.expires.date().isoformat()
        entries.append(entry)
    text.add("versions", entries or None, "From the server's version metadata.")
