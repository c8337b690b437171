"""The command `new`: writes a first spec from what a server reports, and from how tables are usually named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cortexclient.cli.check import LiveDatastack
from cortexclient.cli.options import Token
from cortexclient.cli.output import as_yaml, note, one_line, say
from cortexclient.files import write_text
from cortexclient.spec.table_schemas import table_schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cortexclient.session import Session, VersionRecord
    from cortexclient.spec import Problem

__all__ = ["SpecText", "draft", "new"]

KEPT_DAYS = 5 * 365
_ROLES = {
    "proofreading": ("proofreading_status", "proofread"),
    "cell_types": ("cell_type", "celltype"),
    "coregistration": ("coregistration",),
}


def new(
    name: Annotated[str, typer.Argument(help="Name for the dataset: lower case, digits, underscores.")],
    server: Annotated[str, typer.Option("--server", help="Address of the global CAVE server.")],
    datastack: Annotated[str, typer.Option("--datastack", help="The server's name for the dataset.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write; left out: print it."),
    ] = None,
    token: Token = None,
) -> None:
    """Write a commented YAML file for a new dataset, from what its live server reports."""
    text = draft(name, server=server, datastack=datastack, token=token)
    if out is None:
        say(text, nl=False)
        return
    if out.is_dir():
        out = out / f"{name}.yaml"
    if out.exists():
        raise typer.BadParameter(f"{out} exists already; give another --out or remove it")
    write_text(out, text)
    note(f"wrote {out}; look through it, then: `cortexclient validate {out}`")
    if not (schema := out.parent / "dataset.schema.json").exists():
        note(f"for completion and hover texts in an editor: `cortexclient schema --out {schema}`")


class SpecText:
    """A spec file under construction: keys in the order in which they are added, each with its comment.

    What is added may come from a server, so it is checked: a value that this spec cannot hold becomes a comment.
    """

    def __init__(self, name: str) -> None:
        self._lines = [
            "# yaml-language-server: $schema=./dataset.schema.json",
            "schema_version: 1",
            f"name: {name}",
        ]
        # what every spec has, until the real values come
        self._values = {
            "name": name,
            "title": name,
            "server_address": "https://cave.my.lab",
            "datastack": name,
        }

    def comment(self, text: str) -> None:
        """Add a line of explanation, unless it looks like a secret."""
        lines = [f"# {one_line(line)}" for line in text.splitlines()]
        self._lines += [line for line in lines if not any(each.code == "CX401" for each in _errors(line))]

    def blank(self) -> None:
        """Add an empty line."""
        self._lines.append("")

    def add(self, key: str, value: Any, comment: str | None = None) -> None:
        """Add a key, with an explanation above it; a key without a value is left as a comment to fill in."""
        if key == "sources":  # of what stands in the file
            value = {path: fact for path, fact in value.items() if path.partition(".")[0] in self._values}
        given = value is not None and value not in ("", {}, [])
        refused = _errors(as_yaml({**self._values, key: value})) if given else []
        if refused:
            comment = f"The server's value is not valid in a spec: {refused[0].message}"
        if comment:
            self.comment(comment)
        if given and not refused:
            self._values[key] = value
            self._lines.append(as_yaml({key: value}))
        else:
            self._lines.append(f"# {key}:")

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def _errors(text: str) -> list[Problem]:
    """Return the problems of a spec's text that would keep it from being loaded."""
    from cortexclient.spec import DatasetSpec
    from cortexclient.spec.problems import without_repeats
    from cortexclient.spec.reading import parse_nodes, validate_nodes

    root, problems = parse_nodes(text.encode("utf-8", "replace"), "<draft>")
    if root is not None:
        problems += without_repeats(problems, validate_nodes(root, DatasetSpec)[1])
    return problems


def draft(name: str, *, server: str, datastack: str, token: str | None = None) -> str:
    """Write a commented spec that can be loaded; everything that was guessed is marked.

    Without ``token``, the one of the environment or the one that is stored for the server is used.
    """
    from cortexclient.spec import spec_from_mapping

    spec = spec_from_mapping(
        {"name": name, "title": name, "server_address": server, "datastack": datastack},
        label="<command line>",
    )
    live = LiveDatastack(spec, None, token)
    text = SpecText(name)
    sources: dict[str, Any] = {
        "datastack": {"source": f"{spec.server_address}/info, {datetime.now(UTC):%Y-%m-%d}"}
    }
    text.add("title", one_line(live.info.get("description") or "", 100) or name, "One line for people.")
    text.comment("description: A few sentences for people.")
    text.blank()
    text.add("server_address", spec.server_address)
    text.add("datastack", datastack)
    text.add("viewer_site", live.info.get("viewer_site") or None)
    size = live.voxel_resolution
    known = size and [int(length) if length.is_integer() else length for length in size]
    text.add("voxel_resolution", known, "In nm; this is the viewer's. Compare with the tables' own metadata.")
    if known:
        sources["voxel_resolution"] = {"verified": False, "note": "The viewer's, from the info service."}
    text.blank()
    cells = _write_tables(text, live, sources)
    text.blank()
    text.comment("transform: minnie65   # a dataset of standard_transform, or declared: {steps: [...]}")
    text.comment("exports: {path: gs://bucket/folder/, format: csv-gz}")
    offered = live.offered(table=cells.get("main_table") or next(iter(live.tables), None))
    newest = max(live.skeleton_versions, default=None) if offered["skeletons"] else None
    text.add("skeleton_version", newest, "The newest that the service makes." if newest is not None else None)
    found = {service: there for service, there in offered.items() if there is not None}
    text.add("capabilities", found, "As the services answered.")
    text.blank()
    entries = [_version(number, record) for number, record in sorted(live.versions.items())]
    text.add("versions", entries, "From the server's version metadata.")
    text.add("default_version", "latest")
    text.blank()
    text.comment("access: {level: group, note: One sentence on how to get access.}")
    text.comment("citation: {doi: 10.1234/my-brain}   # or note: Nothing is published yet.")
    text.add("license", {"name": "unverified"}, "An SPDX name such as CC-BY-4.0, once you know.")
    if live.newest is not None:
        text.add("example_ids", _example(live.session, cells, live.newest), "A cell of the newest version.")
    text.blank()
    text.add("sources", sources, "What is not verified shows in the documentation.")
    return str(text)


def _example(session: Session, cells: dict[str, Any], version: int) -> dict[str, Any] | None:
    """Return the ids of a cell that has a root."""
    name = cells.get("lookup_view") or cells.get("main_table")
    if name is None:
        return None
    frame = session.at(version=version).query(name, limit=20)
    if not {"id", "pt_root_id"} <= set(frame.columns):
        return None
    rows = frame[frame["pt_root_id"] > 0]
    if rows.empty:
        return None
    ids = {"cell_id": str(rows["id"].iloc[0]), "root_id": str(rows["pt_root_id"].iloc[0])}
    return {**ids, "version": version}


def _write_tables(text: SpecText, live: LiveDatastack, sources: dict[str, Any]) -> dict[str, Any]:
    """Write the names of the tables, and return the section of cell ids."""
    session, tables, views = live.session, live.tables, live.views
    guessed = {"verified": False, "note": "Guessed from the names of tables and views."}
    synapses = live.info.get("synapse_table")
    guess = _like(tables, "synapses", "synapse")
    similar = ", ".join(table for table in sorted(tables) if "synapse" in table) or "nothing that fits"
    text.add(
        "synapse_table",
        synapses or guess,
        None if synapses else f"The server names none; guessed from: {similar}.",
    )
    text.add("synapses", _synapse_columns(session, synapses or guess, tables), "From that table.")
    others = [table for table in tables if "alternative" not in table]
    main = live.info.get("soma_table") or _like(others, "nucleus_detection", "nucleus", "soma")
    lookup = next((view for view in views if "lookup" in view), None)
    alternative = [
        table
        for table in tables
        if main is not None and table not in others and session.table_info(table).reference_table == main
    ]
    found = {"lookup_view": lookup, "main_table": main, "alternative_tables": alternative}
    cell_ids = {key: value for key, value in found.items() if value}
    text.add("cell_ids", cell_ids, f"Guessed from names; views: {', '.join(views) or 'none'}.")
    roles: dict[str, Any] = {}
    for role, words in _ROLES.items():
        table = _like(tables, *words)
        if table is not None:
            roles[role] = {"name": table, "kind": "table", **_schema(session, table, main)}
    edges = _like(views, "connections_with", "valid_connection", "connection")
    if edges is not None:
        roles["edges"] = {"name": edges, "kind": "view"}
    used = {synapses or guess, main, *alternative, *(entry["name"] for entry in roles.values())}
    rest = ", ".join(sorted(set(tables) - used)) or "none"
    text.add("tables", roles, f"Guessed from names. Other tables: {rest}.")
    guesses = {"synapse_table": guess and not synapses, "cell_ids": cell_ids, "tables": roles}
    sources |= {key: dict(guessed) for key, given in guesses.items() if given}
    return cell_ids


def _synapse_columns(session: Session, table: str | None, tables: list[str]) -> dict[str, Any] | None:
    """Columns of the synapse table by what they mean; None where it cannot be read."""
    if table not in tables:
        return None
    columns = list(session.query(str(table), limit=1).columns)
    points = [name.removesuffix("_position") for name in columns if str(name).endswith("_position")]
    prefix = next((point for point in ("ctr_pt", "pt", "pre_pt") if point in points), None)
    score = next((name for name in columns if str(name).endswith("score")), None)
    found = {
        **_schema(session, str(table), None),
        "position_prefix": prefix,
        "size_column": "size" if "size" in columns else None,
        "score_column": score,
    }
    return {key: value for key, value in found.items() if value is not None}


def _schema(session: Session, table: str, main: str | None) -> dict[str, str]:
    """Return the schema of a table and, if it refers to another one than the nuclei, that one."""
    info = session.table_info(table)
    found = {"schema": info.schema} if info.schema in table_schemas() else {}
    if found and info.reference_table not in {None, main}:
        found["references"] = info.reference_table
    return {key: str(value) for key, value in found.items()}


def _like(names: Iterable[str], *words: str) -> str | None:
    """Return the first name that begins with a word, else the first that contains one; earlier words win."""
    ordered = sorted(names)
    for word in words:
        for test in (str.startswith, str.__contains__):
            match = next((name for name in ordered if test(name, word)), None)
            if match is not None:
                return match
    return None


def _version(number: int, record: VersionRecord) -> dict[str, Any]:
    """Return the entry of a version; one that expires late is meant to stay."""
    entry: dict[str, Any] = {
        "version": number,
        "timestamp": record.timestamp.isoformat().replace("+00:00", "Z"),
    }
    if not record.valid:
        return {**entry, "status": "expired"}
    if record.expires is None or (record.expires - record.timestamp).days > KEPT_DAYS:
        return {**entry, "status": "major"}
    return {**entry, "status": "available", "expires": record.expires.date().isoformat()}
