"""Commands that compare a spec with the live server that it describes: check, diff."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cortexclient.cli.options import AsJson, Dataset, Server, Token, environment_token, spec_of
from cortexclient.cli.output import escaped, note, print_table, say_json
from cortexclient.errors import (
    AuthenticationError,
    CortexError,
    MissingDataError,
    ServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from cortexclient.spec.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cortexclient.session import VersionRecord
    from cortexclient.spec import DatasetSpec, SynapsesSpec, TableFacts, TableSpec, VersionSpec

__all__ = ["CheckedPoint", "LiveDatastack", "check", "diff"]


def check(
    name: Dataset,
    server: Server = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Compare a spec with its live server point by point; exit 1 if they differ."""
    spec = spec_of(name)
    points = _points(spec, LiveDatastack(spec, server, token))
    failures = sum(point.state == "fail" for point in points)
    if as_json:
        body = {"dataset": spec.name, "ok": not failures, "points": [asdict(point) for point in points]}
        say_json(body)
        raise typer.Exit(1 if failures else 0)
    marks = {"pass": "[green]ok[/]", "fail": "[red]FAIL[/]", "skip": "[dim]-[/]"}
    print_table(
        ("", "point", "found", "what to change"),
        [(marks[each.state], each.name, escaped(each.found), escaped(each.advice)) for each in points],
    )
    note(f"{spec.name}: {len(points)} points, {failures} to change")
    raise typer.Exit(1 if failures else 0)


def diff(
    name: Dataset,
    live: Annotated[bool, typer.Option("--live", help="Against the live server.")] = True,
    server: Server = None,
    token: Token = None,
) -> None:
    """Show where a spec differs from the live server's own record; exit 1 if it does."""
    del live  # the server is the only thing to compare with so far
    spec = spec_of(name)
    found = list(_differences(spec, LiveDatastack(spec, server, token)))
    if found:
        rows = [
            (escaped(key), f"[red]{escaped(ours)}[/]", f"[green]{escaped(theirs)}[/]")
            for key, ours, theirs in found
        ]
        print_table(("key", "spec", "server"), rows)
    note(f"{len(found)} difference(s)")
    raise typer.Exit(1 if found else 0)


# ------------------------------------------------------------------------------------------------------- the server
class LiveDatastack:
    """What a server reports about a datastack; each thing is requested when it is first needed.

    ``token`` is the one that was given; without it, the one of the environment or the stored one is used.
    """

    def __init__(self, spec: DatasetSpec, server: str | None, token: str | None) -> None:
        from cortexclient.session import Session

        # whether the capabilities are true is to be checked, and what they deny would not be requested
        spec = spec.with_overrides({"capabilities": None})
        token = token or environment_token(server or spec.server_address)
        self.session = Session(spec, server_address=server, auth_token=token)

    @cached_property
    def info(self) -> dict[str, Any]:
        """The record of the info service."""
        return self.session.info()

    @property
    def voxel_resolution(self) -> list[float] | None:
        """Size in nm of the viewer's voxels, if all three axes are numbers."""
        sizes: list[Any] = [self.info.get(f"viewer_resolution_{axis}") for axis in "xyz"]
        known = all(isinstance(size, int | float) for size in sizes)
        return [float(size) for size in sizes] if known else None

    @cached_property
    def versions(self) -> dict[int, VersionRecord]:
        """All versions; none where the server has none for this datastack."""
        try:
            return self.session.versions()
        except MissingDataError:
            return {}

    @property
    def newest(self) -> int | None:
        """The newest version that can be queried."""
        return max((number for number, record in self.versions.items() if record.valid), default=None)

    @property
    def tables(self) -> list[str]:
        """Tables of the newest version."""
        from cortexclient.session import table_infos

        return [] if self.newest is None else list(table_infos(self.session, self.newest))

    @property
    def views(self) -> list[str]:
        """Views of the newest version."""
        from cortexclient.session import view_infos

        return [] if self.newest is None else list(view_infos(self.session, self.newest))

    def columns(self, table: str) -> list[str]:
        """Return the columns of a table or view, as one row of it has them."""
        kind = "view" if table in self.views else "table"
        return [str(column) for column in self.session.query(table, limit=1, kind=kind).columns]

    @cached_property
    def skeleton_versions(self) -> list[int]:
        """The versions of skeletons that the service makes."""
        server = self.session.local_server
        known: list[int] = self.session.http.get_json(
            "skeleton",
            f"{server}/skeletoncache/api/versions",
            parse=lambda found: sorted(int(version) for version in found),
        )
        return known

    def offered(self, *, table: str | None) -> dict[str, bool | None]:
        """Find out which services there are: fields of ``capabilities`` -> True, False, or None where it is unknown.

        One row of ``table``, a small one, is queried at this moment.
        """
        return {
            "live": None if table is None else _is_offered(lambda: self._has_rows_now(table)),
            "versions": _is_offered(lambda: self.newest is not None),
            "l2cache": _is_offered(self._has_level2_attributes),
            "skeletons": _is_offered(lambda: bool(self.skeleton_versions)),
        }

    def _has_rows_now(self, table: str) -> bool:
        now = self.session.at(timestamp=datetime.now(UTC))
        now.query(table, kind="table", limit=1, allow_missing_lookups=True)
        return True

    def _has_level2_attributes(self) -> bool:
        server = self.session.local_server
        mapping = self.session.http.get_json("l2cache", f"{server}/l2cache/api/v1/table_mapping", keys=())
        return self.session.connection.segmentation_table in mapping


def _is_offered(request: Callable[[], bool]) -> bool | None:
    try:
        return request()
    except (ServiceTimeoutError, ServiceUnavailableError):
        return None
    except ServiceError as error:
        # 401 and 403 are about the token, 5xx about a failure; only these mean that there is nothing
        return False if error.status in {400, 404, 405, 410} else None
    except CortexError:
        return None


# -------------------------------------------------------------------------------------------------------- comparing
def _facts(spec: DatasetSpec, live: LiveDatastack) -> Iterator[tuple[str, Any, Any]]:
    """Yield what both the spec and the info service state: key, value of the spec, value of the server."""
    yield "synapse_table", spec.synapse_table, live.info.get("synapse_table") or None
    site = (live.info.get("viewer_site") or "").rstrip("/") or None
    yield "viewer_site", spec.viewer_site.rstrip("/") if spec.viewer_site else None, site
    size = list(spec.voxel_resolution) if spec.voxel_resolution else None
    yield "voxel_resolution", size, live.voxel_resolution


def _outdated(item: VersionSpec, record: VersionRecord) -> Iterator[tuple[str, Any, Any]]:
    """Yield what the spec and the server state differently about a version."""
    if item.timestamp is not None and item.timestamp != record.timestamp:
        yield "timestamp", _iso(item.timestamp), _iso(record.timestamp)
    if (item.status == "expired") == record.valid:
        yield "status", item.status, "available" if record.valid else "expired"


def _iso(moment: datetime) -> str:
    return f'"{moment.isoformat().replace("+00:00", "Z")}"'


def _differences(spec: DatasetSpec, live: LiveDatastack) -> Iterator[tuple[str, Any, Any]]:
    """Yield key, value of the spec and value of the server; what the spec leaves to the server is no difference."""
    main = spec.cell_ids.main_table if spec.cell_ids else None
    soma = ("cell_ids.main_table", main, live.info.get("soma_table") or None)
    for name, ours, theirs in (*_facts(spec, live), soma):
        if ours is not None and theirs is not None and ours != theirs:
            yield name, ours, theirs
    listed = {item.version: item for item in spec.versions}
    for number, item in listed.items():
        if number in live.versions:
            for key, ours, theirs in _outdated(item, live.versions[number]):
                yield f"versions {number} {key}", ours, theirs
    for number, record in live.versions.items():
        if listed and record.valid and number not in listed:
            yield f"versions {number}", "not listed", f"available since {record.timestamp:%Y-%m-%d}"


@dataclass(frozen=True, slots=True)
class CheckedPoint:
    """One thing that was compared: mostly a dotted path of the spec, what the server reports, and what to change."""

    name: str
    state: Literal["pass", "fail", "skip"]
    found: str = ""
    advice: str = ""


def _points(spec: DatasetSpec, live: LiveDatastack) -> list[CheckedPoint]:
    """Compare a spec with its server in the order in which a person would look.

    First comes whether the server responds at all; where it does not, the rest is skipped.
    """
    points: list[CheckedPoint] = []
    steps = (_info, _versions, _tables, _roles, _columns, _capabilities, _transform, _exports, _examples)
    for step in steps:
        try:
            points += list(step(spec, live))
        except AuthenticationError as error:
            advice = "make a token, or join the group"
            return [*points, CheckedPoint("authorised", "fail", _first(error), advice)]
        except CortexError as error:
            unknown = step is _info and isinstance(error, MissingDataError)
            name = "datastack" if unknown else step.__name__.strip("_")
            points.append(CheckedPoint(name, "fail", _first(error), "see the message"))
            if step is _info:
                break
    return points


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _same(name: str, ours: Any, theirs: Any) -> CheckedPoint:
    """Compare two values, of which either may be left out."""
    if theirs is None:
        return CheckedPoint(name, "skip", "the server does not say")
    if ours is None:
        return CheckedPoint(name, "skip", f"server: {theirs}")
    if ours == theirs:
        return CheckedPoint(name, "pass", str(ours))
    return CheckedPoint(name, "fail", f"spec: {ours}; server: {theirs}", f"write {name}: {theirs}")


def _judged(name: str, good: bool, found: str, advice: str) -> CheckedPoint:
    """Make a point that passes or fails; the advice is for one that fails."""
    return CheckedPoint(name, "pass" if good else "fail", found, "" if good else advice)


def _info(spec: DatasetSpec, live: LiveDatastack) -> Iterator[CheckedPoint]:
    facts = list(_facts(spec, live))
    yield CheckedPoint("server_address", "pass", live.session.server_address)
    yield CheckedPoint("datastack", "pass", live.session.datastack)
    for fact in facts:
        yield _same(*fact)


def _versions(spec: DatasetSpec, live: LiveDatastack) -> Iterator[CheckedPoint]:
    usable = sorted(number for number, record in live.versions.items() if record.valid)
    found = f"{len(usable)} live: {', '.join(map(str, usable[-5:])) or 'none'}"
    good = bool(usable) or spec.denies("versions")
    yield _judged("versions", good, found, "write capabilities: {versions: false}")
    for item in spec.versions:
        record = live.versions.get(item.version)
        name = f"version {item.version}"
        if record is None and item.status == "expired":
            yield CheckedPoint(name, "skip", "not on the server")
        elif record is None:
            yield CheckedPoint(name, "fail", "not on the server", "write status: expired")
        elif outdated := list(_outdated(item, record)):
            for key, _, theirs in outdated:
                yield CheckedPoint(name, "fail", f"{key} {theirs}", f"write {key}: {theirs}")
        else:
            yield CheckedPoint(name, "pass", item.status)
    if isinstance(spec.default_version, int):
        good = spec.default_version in usable
        yield _judged("default_version", good, str(spec.default_version), "choose another")


def _tables(spec: DatasetSpec, live: LiveDatastack) -> Iterator[CheckedPoint]:
    if live.newest is None:
        yield CheckedPoint("tables and views", "skip", "there are none without a version")
        return
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
    if name in names:
        return CheckedPoint(key, "pass", name)
    advice = did_you_mean(name, names, "look at the server's list")
    return CheckedPoint(key, "fail", f"{name} is not there", advice)


def _roles(spec: DatasetSpec, live: LiveDatastack) -> Iterator[CheckedPoint]:
    for role, table in _tables_of_roles(spec, live):
        if isinstance(table, CortexError):
            yield CheckedPoint(f"tables.{role}", "skip", _first(table))
        elif table.name in (live.views if table.kind == "table" else live.tables):
            other = "view" if table.kind == "table" else "table"
            yield CheckedPoint(f"tables.{role}", "fail", f"{table.name} is a {other}", f"write kind: {other}")
        else:
            yield _present(f"tables.{role}", table.name, live.tables if table.kind == "table" else live.views)


def _tables_of_roles(spec: DatasetSpec, live: LiveDatastack) -> Iterator[tuple[str, TableSpec | CortexError]]:
    """Yield the table of each role at the newest version, or why it has none."""
    for role in spec.tables if live.newest is not None else ():
        try:
            yield role, spec.table_for(role, live.newest)
        except CortexError as error:
            yield role, error


def _columns(spec: DatasetSpec, live: LiveDatastack) -> Iterator[CheckedPoint]:
    """Compare the columns that the services need, and those that the spec declares, with the live tables."""
    ids = spec.cell_ids
    if ids is not None:
        names = [name for name in (ids.main_table, *ids.alternative_tables) if name in live.tables]
        if ids.lookup_view in (live.views if ids.kind == "view" else live.tables):
            names.append(ids.lookup_view)
        for name in names:
            yield _has_columns(live, str(name), ["id", "pt_root_id"])
    table = spec.synapse_table
    if table is not None and table in live.tables:
        yield _has_columns(live, table, ["id", "pre_pt_root_id", "post_pt_root_id"])
        if spec.synapses is not None:
            yield from _synapse_columns(spec.synapses, live.columns(table))
            yield from _declared("synapses", spec, table, spec.synapses, live)
    for role, entry in _tables_of_roles(spec, live):
        if not isinstance(entry, CortexError) and entry.name in (*live.tables, *live.views):
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
    key: str, spec: DatasetSpec, name: str, facts: TableFacts, live: LiveDatastack
) -> Iterator[CheckedPoint]:
    """Compare what a spec declares about one table with the table's own metadata and columns."""
    info = live.session.table_info(name, kind="view" if name in live.views else "table")
    if facts.schema_name is not None:
        yield _same(f"{key}.schema", facts.schema_name, info.schema if name in live.tables else None)
    references = getattr(facts, "references", None)
    if references is not None:
        yield _same(f"{key}.references", references, info.reference_table or "none")
    unit = spec.table_unit(name, unverified=True)
    if unit is not None:
        field = "units" if facts.units == "nm" else "voxel_resolution"
        yield _same(f"{key}.{field}", list(unit), list(info.voxel_resolution))
    wanted = [column for each in facts.declared_fields for column in each.columns]
    if wanted:
        yield _has_columns(live, name, wanted, f"all {len(wanted)} declared ones", "it has")


def _has_columns(
    live: LiveDatastack,
    table: str,
    wanted: list[str],
    found: str | None = None,
    advice: str = "name another table; this one has",
) -> CheckedPoint:
    columns = live.columns(table)
    missing = [column for column in wanted if column not in columns]
    found = f"no {', '.join(missing)}" if missing else found or ", ".join(wanted)
    return _judged(f"columns of {table}", not missing, found, f"{advice} {', '.join(columns)}")


def _capabilities(spec: DatasetSpec, live: LiveDatastack) -> Iterator[CheckedPoint]:
    main = spec.cell_ids.main_table if spec.cell_ids is not None else None
    found = live.offered(table=main if main in live.tables else next(iter(live.tables), None))
    for name, there in found.items():
        claim = getattr(spec.capabilities, name) if spec.capabilities is not None else None
        key = f"capabilities.{name}"
        if there is None:
            yield CheckedPoint(key, "skip", "unknown")
        else:
            yield _same(key, None if claim is None else str(claim).lower(), str(there).lower())
    if found["skeletons"] and spec.skeleton_version is not None:
        advice = f"the service makes {', '.join(map(str, live.skeleton_versions))}"
        number = spec.skeleton_version
        yield _judged("skeleton_version", number in live.skeleton_versions, str(number), advice)


def _transform(spec: DatasetSpec, _live: LiveDatastack) -> Iterator[CheckedPoint]:
    transform = spec.transform
    if transform is None or transform.dataset is None:
        return
    import standard_transform

    known = getattr(standard_transform, f"{transform.dataset.removesuffix('65')}_ds", None)
    found = known is not None or hasattr(standard_transform, f"{transform.dataset}_ds")
    yield _judged("transform", found, transform.dataset, "standard_transform has no such dataset")


def _exports(spec: DatasetSpec, live: LiveDatastack) -> Iterator[CheckedPoint]:
    from cortexclient.services.exports import TableExportClient

    path = live.session.endpoint.exports_path or (spec.exports.path if spec.exports else None)
    if path is None or (spec.denies("exports") and spec.exports is None):
        return
    versions = {file.version for file in TableExportClient(path).available_files}
    found = f"{len(versions)} version(s)"
    yield _judged("exports.path", bool(versions), found, f"nothing is found at {path}")


def _examples(spec: DatasetSpec, live: LiveDatastack) -> Iterator[CheckedPoint]:
    ids = spec.example_ids
    if ids is None or ids.root_id is None:
        return
    with live.session.guard("chunkedgraph"):
        when = live.session.versions()[ids.version].timestamp if ids.version else None
        current = bool(live.session.cave.chunkedgraph.is_latest_roots([ids.root_id], timestamp=when)[0])
    advice = "replace it, or add example_ids.version: the version at which it is valid"
    yield _judged("example_ids.root_id", current, str(ids.root_id), advice)
