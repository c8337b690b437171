"""Commands that compare a spec with the live server that it describes: check, diff."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cortexclient.cli.options import AsJson, Dataset, Server, Token, environment_token, spec_of
from cortexclient.cli.output import error_console, print_table, say
from cortexclient.errors import (
    AuthenticationError,
    CortexError,
    MissingDataError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)

if TYPE_CHECKING:
    from cortexclient.session import Session, VersionRecord
    from cortexclient.spec import DatasetSpec, SynapsesSpec, TableFacts

__all__ = [
    "CheckedPoint",
    "check",
    "check_live",
    "diff",
    "differences",
    "offered",
    "skeleton_versions",
    "versions_of",
]


def check(
    name: Dataset,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Compare a spec with its live server point by point; exit 1 if they differ."""
    from rich.markup import escape

    spec = spec_of(name)
    token = token or environment_token(server or spec.server_address)
    points = check_live(spec, server=server, token=token)
    failures = sum(point.state == "fail" for point in points)
    if as_json:
        body = {"dataset": spec.name, "ok": not failures, "points": [asdict(point) for point in points]}
        say(json.dumps(body, indent=2, ensure_ascii=False))
        raise typer.Exit(1 if failures else 0)
    marks = {"pass": "[green]ok[/]", "fail": "[red]FAIL[/]", "skip": "[dim]-[/]"}
    print_table(
        ("", "point", "found", "what to change"),
        [(marks[each.state], each.name, escape(each.found), escape(each.advice)) for each in points],
    )
    error_console().print(f"{spec.name}: {len(points)} points, {failures} to change")
    raise typer.Exit(1 if failures else 0)


def diff(
    name: Dataset,
    live: Annotated[bool, typer.Option("--live", help="Against the live server.")] = True,
    server: Server = None,
    token: Token = None,
) -> None:
    """Show where a spec differs from the live server's own record; exit 1 if it does."""
    from rich.markup import escape

    del live  # the server is the only thing to compare with so far
    spec = spec_of(name)
    token = token or environment_token(server or spec.server_address)
    found = differences(spec, server=server, token=token)
    rows = [
        (escape(key), f"[red]{escape(ours)}[/]", f"[green]{escape(theirs)}[/]") for key, ours, theirs in found
    ]
    if rows:
        print_table(("key", "spec", "server"), rows)
    error_console().print(f"{len(found)} difference(s)")
    raise typer.Exit(1 if found else 0)


# -------------------------------------------------------------------------------------------------------- comparing
@dataclass(frozen=True, slots=True)
class CheckedPoint:
    """One thing that was compared: mostly a dotted path of the spec, what the server reports, and what to change."""

    name: str
    state: Literal["pass", "fail", "skip"]
    found: str = ""
    advice: str = ""


@dataclass(slots=True)
class _Live:
    """What was read from the server once."""

    session: Session
    tables: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    version: int | None = None

    def columns(self, table: str) -> list[str]:
        """Return the columns of a table or view, as one row of it has them."""
        kind = "view" if table in self.views else "table"
        return [str(column) for column in self.session.query(table, limit=1, kind=kind).columns]


def check_live(
    spec: DatasetSpec, *, server: str | None = None, token: str | None = None
) -> list[CheckedPoint]:
    """Compare a spec with its live server, point by point.

    Returns
    -------
    list of CheckedPoint
        In the order in which a person would look: first whether the server responds at all. Where it does not, the rest
        is skipped.
    """
    from cortexclient.session import Session

    live = _Live(Session(_undenied(spec), server_address=server, auth_token=token))
    points: list[CheckedPoint] = []
    steps = (_info, _versions, _tables, _roles, _columns, _capabilities, _transform, _exports, _examples)
    for step in steps:
        try:
            points += list(step(spec, live))
        except AuthenticationError as error:
            points.append(
                CheckedPoint("authorised", "fail", _first(error), "make a token, or join the group")
            )
            return points
        except CortexError as error:
            unknown = step is _info and isinstance(error, MissingDataError)
            name = "datastack" if unknown else step.__name__.strip("_")
            points.append(CheckedPoint(name, "fail", _first(error), "see the message"))
            if step is _info:
                return points
    return points


def _undenied(spec: DatasetSpec) -> DatasetSpec:
    """Return the spec without its `capabilities`: whether they are true is to be checked."""
    return spec.with_overrides({"capabilities": None})


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _same(name: str, ours: Any, theirs: Any) -> CheckedPoint:
    if ours is None:
        return CheckedPoint(name, "skip", f"server: {theirs}", "")
    if ours == theirs:
        return CheckedPoint(name, "pass", str(ours))
    return CheckedPoint(name, "fail", f"spec: {ours}; server: {theirs}", f"write {name}: {theirs}")


def _stated(name: str, ours: Any, theirs: Any) -> CheckedPoint:
    """Compare a value that a server may leave out."""
    return (
        CheckedPoint(name, "skip", "the server does not say") if theirs is None else _same(name, ours, theirs)
    )


def _judged(name: str, good: bool, found: str, advice: str) -> CheckedPoint:
    """Make a point that passes or fails; the advice is for one that fails."""
    return CheckedPoint(name, "pass" if good else "fail", found, "" if good else advice)


def _info(spec: DatasetSpec, live: _Live) -> Iterator[CheckedPoint]:
    info = live.session.info()
    yield CheckedPoint("server_address", "pass", live.session.server_address)
    yield CheckedPoint("datastack", "pass", live.session.datastack)
    for name, ours, theirs in _facts(spec, info):
        yield _stated(name, ours, theirs)


def _facts(spec: DatasetSpec, info: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What both the spec and the info service state."""
    yield "synapse_table", spec.synapse_table, info.get("synapse_table") or None
    site = (info.get("viewer_site") or "").rstrip("/") or None
    yield "viewer_site", spec.viewer_site.rstrip("/") if spec.viewer_site else None, site
    sizes = [info.get(f"viewer_resolution_{axis}") for axis in "xyz"]
    known = None if any(size is None for size in sizes) else [float(size or 0) for size in sizes]
    yield "voxel_resolution", list(spec.voxel_resolution) if spec.voxel_resolution else None, known


def _versions(spec: DatasetSpec, live: _Live) -> Iterator[CheckedPoint]:
    theirs = versions_of(live.session)
    usable = [number for number, record in theirs.items() if record.valid]
    live.version = max(usable, default=None)
    found = f"{len(usable)} live: {', '.join(map(str, sorted(usable)[-5:])) or 'none'}"
    good = bool(usable) or spec.denies("versions")
    yield _judged("versions", good, found, "write capabilities: {versions: false}")
    for item in spec.versions:
        record = theirs.get(item.version)
        name = f"version {item.version}"
        if record is None and item.status == "expired":
            yield CheckedPoint(name, "skip", "not on the server")
        elif record is None:
            yield CheckedPoint(name, "fail", "not on the server", "write status: expired")
        elif item.timestamp is not None and item.timestamp != record.timestamp:
            stamp = record.timestamp.isoformat().replace("+00:00", "Z")
            yield CheckedPoint(name, "fail", f"timestamp {stamp}", f'write timestamp: "{stamp}"')
        elif (item.status == "expired") == record.valid:
            status = "available" if record.valid else "expired"
            yield CheckedPoint(name, "fail", f"it is {status}", f"write status: {status}")
        else:
            yield CheckedPoint(name, "pass", item.status)
    if isinstance(spec.default_version, int):
        good = spec.default_version in usable
        yield _judged("default_version", good, str(spec.default_version), "choose another")


def _tables(spec: DatasetSpec, live: _Live) -> Iterator[CheckedPoint]:
    if live.version is None:
        yield CheckedPoint("tables and views", "skip", "there are none without a version")
        return
    with live.session.guard("materialize"):
        live.tables = list(live.session.cave.materialize.get_tables(version=live.version))
        live.views = list(live.session.cave.materialize.get_views(version=live.version))
    yield CheckedPoint("tables and views", "pass", f"{len(live.tables)} tables, {len(live.views)} views")
    if spec.synapse_table is not None:
        yield _present("synapse_table", spec.synapse_table, live.tables + live.views)
    ids = spec.cell_ids
    if ids is None:
        return
    if ids.lookup_view is not None:
        among = live.views if ids.kind == "view" else live.tables
        yield _present("cell_ids.lookup_view", ids.lookup_view, among)
    if ids.main_table is not None:
        yield _present("cell_ids.main_table", ids.main_table, live.tables)
    for table in ids.alternative_tables:
        yield _present("cell_ids.alternative_tables", table, live.tables)


def _present(key: str, name: str, names: list[str]) -> CheckedPoint:
    from cortexclient.spec.problems import close_names

    if name in names:
        return CheckedPoint(key, "pass", name)
    near = close_names(name, names)
    advice = f"perhaps {' or '.join(near)}" if near else "look at the server's list"
    return CheckedPoint(key, "fail", f"{name} is not there", advice)


def _roles(spec: DatasetSpec, live: _Live) -> Iterator[CheckedPoint]:
    for role in spec.tables if live.version is not None else ():
        try:
            table = spec.table_for(role, live.version)
        except CortexError as error:
            yield CheckedPoint(f"tables.{role}", "skip", _first(error))
            continue
        if table.name in (live.views if table.kind == "table" else live.tables):
            other = "view" if table.kind == "table" else "table"
            yield CheckedPoint(f"tables.{role}", "fail", f"{table.name} is a {other}", f"write kind: {other}")
        else:
            yield _present(f"tables.{role}", table.name, live.tables if table.kind == "table" else live.views)


def _columns(spec: DatasetSpec, live: _Live) -> Iterator[CheckedPoint]:
    """Compare the columns that the services need, and those that the spec declares, with the live tables."""
    ids = spec.cell_ids
    if ids is not None:
        names = [name for name in (ids.main_table, *ids.alternative_tables) if name in live.tables]
        names += (
            [ids.lookup_view]
            if ids.lookup_view in (live.views if ids.kind == "view" else live.tables)
            else []
        )
        for name in names:
            yield _has_columns(live, str(name), ["id", "pt_root_id"])
    table = spec.synapse_table
    if table is not None and table in live.tables:
        yield _has_columns(live, table, ["id", "pre_pt_root_id", "post_pt_root_id"])
        if spec.synapses is not None:
            yield from _synapse_columns(spec.synapses, live.columns(table))
            yield from _declared("synapses", spec, table, spec.synapses, live)
    for role in spec.tables if live.version is not None else ():
        try:
            entry = spec.table_for(role, live.version)
        except CortexError:
            continue  # reported above
        if entry.name in (*live.tables, *live.views):
            yield from _declared(f"tables.{role}", spec, entry.name, entry, live)


def _synapse_columns(wanted: SynapsesSpec, columns: list[str]) -> Iterator[CheckedPoint]:
    for key, column in (
        ("position_prefix", f"{wanted.position_prefix}_position"),
        ("size_column", wanted.size_column),
        ("score_column", wanted.score_column),
    ):
        if column is not None:
            advice = f"its columns are {', '.join(columns)}"
            yield _judged(f"synapses.{key}", column in columns, column, advice)


def _declared(
    key: str, spec: DatasetSpec, name: str, facts: TableFacts, live: _Live
) -> Iterator[CheckedPoint]:
    """Compare what a spec declares about one table with the table's own metadata and columns."""
    info = live.session.table_info(name, kind="view" if name in live.views else "table")
    if facts.schema_name is not None:
        yield _stated(f"{key}.schema", facts.schema_name, info.schema if name in live.tables else None)
    references = getattr(facts, "references", None)
    if references is not None:
        yield _same(f"{key}.references", references, info.reference_table)
    unit = spec.table_unit(name, unverified=True)
    if unit is not None:
        field = "units" if facts.units == "nm" else "voxel_resolution"
        yield _same(f"{key}.{field}", list(unit), list(info.voxel_resolution))
    wanted = [column for each in facts.declared_fields for column in each.columns]
    if wanted:
        yield _has_columns(live, name, wanted, f"all {len(wanted)} declared ones", "it has")


def _has_columns(
    live: _Live,
    table: str,
    wanted: list[str],
    found: str | None = None,
    advice: str = "name another table; this one has",
) -> CheckedPoint:
    columns = live.columns(table)
    missing = [column for column in wanted if column not in columns]
    found = f"no {', '.join(missing)}" if missing else found or ", ".join(wanted)
    return _judged(f"columns of {table}", not missing, found, f"{advice} {', '.join(columns)}")


def _capabilities(spec: DatasetSpec, live: _Live) -> Iterator[CheckedPoint]:
    main = spec.cell_ids.main_table if spec.cell_ids is not None else None
    found = offered(live.session, table=main if main in live.tables else next(iter(live.tables), None))
    for name, there in found.items():
        claim = getattr(spec.capabilities, name) if spec.capabilities is not None else None
        key = f"capabilities.{name}"
        if there is None:
            yield CheckedPoint(key, "skip", "unknown")
        else:
            yield _same(key, _yaml(claim), _yaml(there))
    if found["skeletons"] and spec.skeleton_version is not None:
        made = skeleton_versions(live.session)
        advice = f"the service makes {', '.join(map(str, made))}"
        number = spec.skeleton_version
        yield _judged("skeleton_version", number in made, str(number), advice)


def _yaml(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


def _transform(spec: DatasetSpec, _live: _Live) -> Iterator[CheckedPoint]:
    transform = spec.transform
    if transform is None or transform.dataset is None:
        return
    import standard_transform

    known = getattr(standard_transform, f"{transform.dataset.removesuffix('65')}_ds", None)
    found = known is not None or hasattr(standard_transform, f"{transform.dataset}_ds")
    yield _judged("transform", found, transform.dataset, "standard_transform has no such dataset")


def _exports(spec: DatasetSpec, live: _Live) -> Iterator[CheckedPoint]:
    from cortexclient.services.exports import TableExportClient

    path = live.session.endpoint.exports_path or (spec.exports.path if spec.exports else None)
    if path is None or (spec.denies("exports") and spec.exports is None):
        return
    versions = {file.version for file in TableExportClient(path).available_files}
    yield _judged(
        "exports.path", bool(versions), f"{len(versions)} version(s)", f"nothing is found at {path}"
    )


def _examples(spec: DatasetSpec, live: _Live) -> Iterator[CheckedPoint]:
    ids = spec.example_ids
    if ids is None or ids.root_id is None:
        return
    with live.session.guard("chunkedgraph"):
        when = live.session.versions()[ids.version].timestamp if ids.version else None
        current = bool(live.session.cave.chunkedgraph.is_latest_roots([ids.root_id], timestamp=when)[0])
    advice = "replace it, or add example_ids.version: the version at which it is valid"
    yield _judged("example_ids.root_id", current, str(ids.root_id), advice)


def differences(
    spec: DatasetSpec, *, server: str | None = None, token: str | None = None
) -> list[tuple[str, str, str]]:
    """Return where a spec differs from the live server's own record.

    Returns
    -------
    list of (key, value in the spec, value on the server)
        Values that the spec leaves to the server are no differences.
    """
    from cortexclient.session import Session

    session = Session(_undenied(spec), server_address=server, auth_token=token)
    info = session.info()
    found = [
        (name, str(ours), str(theirs))
        for name, ours, theirs in _facts(spec, info)
        if ours is not None and theirs is not None and ours != theirs
    ]
    main = spec.cell_ids.main_table if spec.cell_ids else None
    soma = info.get("soma_table") or None
    if main is not None and soma is not None and main != soma:
        found.append(("cell_ids.main_table", main, soma))
    theirs = versions_of(session)
    for item in spec.versions:
        record = theirs.get(item.version)
        if record is not None and item.timestamp is not None and item.timestamp != record.timestamp:
            found.append((f"versions {item.version} timestamp", str(item.timestamp), str(record.timestamp)))
        if record is not None and (item.status == "expired") == record.valid:
            found.append(
                (f"versions {item.version} status", item.status, "available" if record.valid else "expired")
            )
    listed = {item.version for item in spec.versions}
    found += [
        (f"versions {number}", "not listed", f"available since {record.timestamp:%Y-%m-%d}")
        for number, record in theirs.items()
        if listed and record.valid and number not in listed
    ]
    return found


# ------------------------------------------------------------------------------------------- which services there are
def offered(session: Session, *, table: str | None) -> dict[str, bool | None]:
    """Find out which services are available: fields of ``capabilities`` -> True, False, or None where it is unknown.

    ``session`` must be on a spec that denies nothing, because what is denied would not be requested; one row of
    ``table``, a small one, is queried at this moment.
    """
    return {
        "live": _is_offered(lambda: _live(session, table)),
        "versions": _is_offered(lambda: any(record.valid for record in versions_of(session).values())),
        "l2cache": _is_offered(lambda: _l2cache(session)),
        "skeletons": _is_offered(lambda: bool(skeleton_versions(session))),
    }


def _is_offered(ask: Callable[[], bool | None]) -> bool | None:
    try:
        return ask()
    except (ServiceTimeoutError, ServiceUnavailableError):
        return None
    except ServiceError as error:
        # 401 and 403 are about the token, 5xx about a failure; only these mean that there is nothing
        return False if error.status in {400, 404, 405, 410} else None
    except CortexError:
        return None


def _live(session: Session, table: str | None) -> bool | None:
    if table is None:
        return None
    now = datetime.now(UTC)
    session.at(timestamp=now).query(table, kind="table", limit=1, allow_missing_lookups=True)
    return True


def versions_of(session: Session) -> dict[int, VersionRecord]:
    """Return all versions; none where the server has none for this datastack."""
    try:
        return session.versions()
    except MissingDataError:
        return {}


def _l2cache(session: Session) -> bool:
    mapping: Any = session.http.get_json("l2cache", f"{session.local_server}/l2cache/api/v1/table_mapping")
    return session.connection.segmentation_table in mapping


def skeleton_versions(session: Session) -> list[int]:
    """Return the versions of skeletons that the service makes."""
    known: Any = session.http.get_json("skeleton", f"{session.local_server}/skeletoncache/api/versions")
    return sorted(int(version) for version in known)
